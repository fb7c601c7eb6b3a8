//! What bears our mark and belongs to no row goes, after a while.

use std::collections::{BTreeMap, BTreeSet};

use engine::Observed;
use model::{Condition, Instance, InstanceId, Millis, Timestamp};

use super::{Facts, Reconciler};
use crate::Control;
use crate::planted::{self, Defect};

/// How long something without an owner stays: longer than any step between intent and effect.
const ORPHAN_GRACE: Millis = Millis::seconds(20);

impl Reconciler {
    /// What should be gone and could not be removed yet.
    pub(super) fn orphans(
        &mut self,
        control: &Control,
        facts: &Facts,
        seen: &[Observed],
        now: Timestamp,
    ) -> BTreeSet<InstanceId> {
        let mut lingering = BTreeSet::new();
        let mut owned: BTreeSet<InstanceId> = facts.instances.keys().copied().collect();
        owned.append(&mut self.workers.places());
        let there: BTreeSet<InstanceId> = seen.iter().map(|one| one.id).collect();
        self.orphans
            .retain(|id, _| there.contains(id) && !owned.contains(id));
        for one in seen {
            if !owned.contains(&one.id) {
                let since = *self.orphans.entry(one.id).or_insert(now);
                if now.since(since) > ORPHAN_GRACE || planted::is(Defect::SweepsAtOnce) {
                    tracing::warn!(instance = %one.id, "removing an instance that nobody owns");
                    let _tried_again = is_removed(control, one.id);
                }
            }
        }
        // An ended instance keeps its row as history, but nothing on the host.
        for instance in facts.instances.values() {
            if let Condition::Exited { .. } = instance.condition
                && there.contains(&instance.id)
                && !is_removed(control, instance.id)
            {
                lingering.insert(instance.id);
            }
        }
        lingering
    }
}

fn is_removed(control: &Control, id: InstanceId) -> bool {
    let removed = control.engine.remove(id);
    if let Err(cause) = &removed {
        tracing::warn!(instance = %id, %cause, "could not remove it; it is tried again");
    }
    removed.is_ok()
}

/// Living instances, for places that must know whether a row still has a process.
pub(super) fn live(instances: &BTreeMap<InstanceId, Instance>) -> impl Iterator<Item = &Instance> {
    instances.values().filter(|instance| instance.condition.is_live())
}
