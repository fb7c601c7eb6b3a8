//! Publishes names and routes when they changed, and asks the edge who is still busy.
//!
//! Invariant: an instance counts as idle only after the edge obeys a table without it.

use std::collections::BTreeSet;

use model::{AppId, Condition, Instance, InstanceId, Purpose};

use crate::routes::{self, RouteTable};
use crate::{Control, ControlError};

/// What was last published.
#[derive(Default)]
pub(crate) struct Published {
    table: Option<RouteTable>,
    edge: u64,
    names: Option<Vec<engine::NetworkNames>>,
}

impl Published {
    /// Instances of an app that the edge sends requests to.
    pub(crate) fn routed_of(&self, app: AppId) -> BTreeSet<InstanceId> {
        let prefix = format!("{app}/");
        let services = self.table.iter().flat_map(|table| &table.services);
        let mine = services.filter(|service| service.id.starts_with(&prefix));
        mine.flat_map(|service| service.targets.iter().map(|target| target.id))
            .collect()
    }

    fn is_routed(&self, id: InstanceId) -> bool {
        let mut services = self.table.iter().flat_map(|table| &table.services);
        services.any(|service| service.targets.iter().any(|target| target.id == id))
    }

    /// Publishes what is true now.
    pub(crate) fn publish(
        &mut self,
        control: &Control,
        routed: &BTreeSet<InstanceId>,
    ) -> Result<(), ControlError> {
        let (apps, releases, databases, instances) = control.read(|tx| {
            Ok((
                tx.list_all::<model::App>()?
                    .into_iter()
                    .map(|v| v.row)
                    .collect::<Vec<_>>(),
                tx.list_all::<model::Release>()?
                    .into_iter()
                    .map(|v| (v.row.id, v.row))
                    .collect(),
                tx.list_all::<model::Database>()?
                    .into_iter()
                    .map(|v| v.row)
                    .collect::<Vec<_>>(),
                tx.list_all::<Instance>()?
                    .into_iter()
                    .map(|v| v.row)
                    .collect::<Vec<_>>(),
            ))
        })?;
        let names = routes::names(&apps, &databases, &instances);
        if self.names.as_ref() != Some(&names) {
            control.engine.publish_names(&names)?;
            self.names = Some(names);
        }
        let table = routes::table(&control.settings.domain, &apps, &releases, &instances, routed);
        let edge = control.edge.generation();
        if self.table.as_ref() != Some(&table) || self.edge != edge {
            match control.edge.publish(&table) {
                Ok(()) => {
                    self.table = Some(table);
                    self.edge = edge;
                    control.bell.ring();
                }
                // The edge serves its last good table; this one is offered again at the next look.
                Err(why) => tracing::warn!(why, "the edge did not take the routes"),
            }
        }
        Ok(())
    }

    /// Draining instances that have nothing left to do.
    pub(crate) fn idle(&self, control: &Control, instances: &[Instance]) -> BTreeSet<InstanceId> {
        let mut draining: Vec<InstanceId> = Vec::new();
        for instance in instances {
            let Purpose::Service { .. } = instance.purpose else {
                continue;
            };
            match instance.condition {
                Condition::Draining { .. } if self.table.is_some() && !self.is_routed(instance.id) => {
                    draining.push(instance.id);
                }
                Condition::Draining { .. }
                | Condition::Starting { .. }
                | Condition::Ready { .. }
                | Condition::Unready { .. }
                | Condition::Stopping { .. }
                | Condition::Exited { .. } => {}
            }
        }
        if draining.is_empty() {
            return BTreeSet::new();
        }
        match control.edge.busy(&draining) {
            Ok(busy) => draining.into_iter().filter(|id| !busy.contains(id)).collect(),
            Err(why) => {
                tracing::warn!(why, "the edge did not say who is busy");
                BTreeSet::new()
            }
        }
    }
}
