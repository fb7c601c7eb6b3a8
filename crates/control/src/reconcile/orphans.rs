//! What bears our mark and belongs to no row goes, after a while.

use std::collections::{BTreeMap, BTreeSet};

use engine::Observed;
use model::{Condition, Instance, InstanceId, Millis, Purpose, Timestamp};
use store::Expect;

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
        // While something of the store is lost, nobody can tell that a row belongs to nobody.
        let (kept, left): (Vec<&Instance>, Vec<&Instance>) = facts
            .instances
            .values()
            .partition(|row| has_owner(facts, row) || !facts.lost.is_empty());
        let mut owned: BTreeSet<InstanceId> = kept.into_iter().map(|row| row.id).collect();
        owned.append(&mut self.workers.places());
        // Somebody owns what they are about; who, nobody can tell.
        let lost: BTreeSet<InstanceId> = facts.lost.iter().filter_map(|id| id.parse().ok()).collect();
        owned.extend(&lost);
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
        for row in left.into_iter().filter(|row| !there.contains(&row.id)) {
            let id = row.id.to_string();
            let forgotten = control.write(|tx| Ok(tx.delete::<Instance>(&id, Expect::Any).map(drop)?));
            if let Err(cause) = forgotten {
                tracing::warn!(instance = %id, %cause, "could not forget it; it is tried again");
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
        lingering.extend(lost.intersection(&there));
        lingering
    }
}

/// Whether what an instance is for is still known. It is not when a repair of the store had to give it up.
fn has_owner(facts: &Facts, row: &Instance) -> bool {
    match &row.purpose {
        Purpose::Service { app, .. } | Purpose::Job { app, .. } => facts.apps.contains_key(app),
        Purpose::Database { database }
        | Purpose::Receiver { database, .. }
        | Purpose::Pooler { database, .. } => facts.databases.contains_key(database),
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
