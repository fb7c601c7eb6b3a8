//! Volumes: the files of databases, and what they occupy.

use std::path::Path;

use model::{Action, Actor, Database, DatabaseState, Timestamp};
use store::ReadTx;

use crate::authorize::{self, EnvPath};
use crate::reconcile::volume_of;
use crate::{Control, ControlError};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// The database it is or was of.
    pub database: String,
    /// Bytes that its files occupy.
    pub bytes: u64,
    /// The budget.
    pub size: u64,
    /// When it is removed.
    pub purge_at: Option<Timestamp>,
}

/// The volumes of an environment that are there, by name. What they occupy is not looked at yet.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn list(control: &Control, actor: &Actor, path: &EnvPath) -> Result<Vec<VolumeView>, ControlError> {
    let mut wanted = control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        of_environment(tx, &scope.parent())
    })?;
    let there = control.engine.volumes()?;
    wanted.retain(|volume| there.iter().any(|known| known.name == volume.name));
    wanted.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(wanted)
}

/// One of them.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn view(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<VolumeView, ControlError> {
    let mut all = list(control, actor, path)?.into_iter();
    let found = all.find(|volume| volume.name == name);
    measured(control, found.ok_or_else(|| authorize::missing("volume", name))?)
}

/// A volume with the bytes that its files occupy.
///
/// # Errors
/// The engine's.
pub fn measured(control: &Control, volume: VolumeView) -> Result<VolumeView, ControlError> {
    let bytes = occupied(&control.engine.volume_path(&volume.name)?);
    Ok(VolumeView { bytes, ..volume })
}

fn of_environment(tx: &ReadTx, environment: &str) -> Result<Vec<VolumeView>, ControlError> {
    let all = tx
        .list::<Database>(environment)?
        .into_iter()
        .map(|found| found.row);
    let view = |database: Database| {
        let (name, purge_at) = match &database.state {
            DatabaseState::Destroyed { purge_at, volume } => (volume.clone(), Some(*purge_at)),
            DatabaseState::Creating | DatabaseState::Active | DatabaseState::Failed { .. } => {
                (volume_of(database.id), None)
            }
        };
        VolumeView {
            name,
            database: database.name.to_string(),
            bytes: 0,
            size: database.size.get(),
            purge_at,
        }
    };
    Ok(all.map(view).collect())
}

/// What goes away meanwhile counts for nothing: a database works in it.
fn occupied(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        // Not through symbolic links: an owner of the files could lead them anywhere.
        Ok(facts) if facts.is_dir() => occupied(&entry.path()),
        Ok(facts) => facts.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
