//! Nodes: the machines of the installation. On one machine that is one.

use std::collections::BTreeMap;

use model::{Action, Actor, Instance};

use crate::authorize::Rights;
use crate::{Control, ControlError};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its host name.
    pub name: String,
    /// Version of its kernel.
    pub kernel: String,
    /// Processors.
    pub processors: u32,
    /// What it has and what is left.
    pub capacity: engine::Capacity,
    /// Instances that run on it.
    pub instances: u64,
    /// What it can do.
    pub capabilities: BTreeMap<String, String>,
}

/// All nodes. Whoever may see an app somewhere may see what it runs on.
///
/// # Errors
/// As the gate's; when the machine cannot be read.
pub fn list(control: &Control, actor: &Actor) -> Result<Vec<NodeView>, ControlError> {
    let instances = control.read(|tx| {
        Rights::of(tx, actor)?.demand_somewhere(Action::Read)?;
        Ok(tx.list_all::<Instance>()?)
    })?;
    let live = instances.iter().filter(|found| found.row.condition.is_live());
    let known = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(vec![NodeView {
        name: known("/proc/sys/kernel/hostname"),
        kernel: known("/proc/sys/kernel/osrelease"),
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
        capacity: control.engine.capacity()?,
        instances: live.count() as u64,
        capabilities: capabilities(control),
    }])
}

/// What the engine can do, by name.
#[must_use]
pub fn capabilities(control: &Control) -> BTreeMap<String, String> {
    let engine = control.engine.capabilities();
    [
        ("engine", engine.engine.to_owned()),
        ("volume_clone", engine.clone),
        ("pool", engine.pool),
        ("limits", engine.limits),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
