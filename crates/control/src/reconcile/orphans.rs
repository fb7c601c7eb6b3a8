//! What bears our mark and belongs to no row goes, after a while; images that nothing needs go too.

use std::collections::{BTreeMap, BTreeSet};

use engine::Observed;
use model::{Condition, Instance, InstanceId, Millis, Release, Timestamp};

use super::{Facts, Reconciler};
use crate::{Control, ControlError};

/// How long something without an owner stays: longer than any step between intent and effect.
const ORPHAN_GRACE: Millis = Millis::seconds(20);

impl Reconciler {
    pub(super) fn orphans(&mut self, control: &Control, facts: &Facts, seen: &[Observed], now: Timestamp) {
        let mut owned: BTreeSet<InstanceId> = facts.instances.iter().map(|instance| instance.id).collect();
        owned.append(&mut self.workers.places());
        self.orphans
            .retain(|id, _| seen.iter().any(|one| one.id == *id) && !owned.contains(id));
        for one in seen {
            if !owned.contains(&one.id) {
                let since = *self.orphans.entry(one.id).or_insert(now);
                if now.since(since) > ORPHAN_GRACE {
                    tracing::warn!(instance = %one.id, "removing an instance that nobody owns");
                    remove(control, one.id);
                }
            }
        }
        // An ended instance keeps its row as history, but nothing on the host.
        for instance in &facts.instances {
            if let Condition::Exited { .. } = instance.condition
                && seen.iter().any(|one| one.id == instance.id)
            {
                remove(control, instance.id);
            }
        }
    }
}

fn remove(control: &Control, id: InstanceId) {
    if let Err(cause) = control.engine.remove(id) {
        tracing::warn!(instance = %id, %cause, "could not remove it; it is tried again");
    }
}

/// Collects images that no kept release, no instance and no database needs.
pub(super) fn collect_images(control: &Control) -> Result<(), ControlError> {
    let keep = control.read(|tx| {
        let mut keep = BTreeSet::new();
        for app in tx.list_all::<model::App>()? {
            let rows = tx.list::<Release>(&app.row.id.to_string())?;
            let releases: BTreeMap<_, _> = rows.into_iter().map(|found| (found.row.id, found.row)).collect();
            let fates = plan::prune::releases(&app.row, &releases, plan::prune::KEEP);
            keep.append(&mut plan::prune::needed_images(&releases, &fates));
        }
        keep.extend(
            tx.list_all::<model::Database>()?
                .into_iter()
                .filter_map(|found| found.row.image),
        );
        Ok(keep.into_iter().collect::<Vec<_>>())
    })?;
    let freed = control.engine.collect_images(&keep)?;
    if freed > 0 {
        tracing::info!(freed, "collected images that nothing needs");
    }
    Ok(())
}

/// Living instances, for places that must know whether a row still has a process.
pub(super) fn live(instances: &[Instance]) -> impl Iterator<Item = &Instance> {
    instances.iter().filter(|instance| instance.condition.is_live())
}
