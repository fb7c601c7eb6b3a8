//! Publishes names and routes when they changed, and asks the edge who is still busy.
//!
//! Invariants: an instance counts as idle only after the edge obeys a table without it; what is not known (an app whose
//! decision could not be stored, before anything was published) is never published as empty.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use model::{AppId, Condition, InstanceId, Purpose, Timestamp};

use super::Facts;
use super::apps::Routed;
use crate::Control;
use crate::planted::{self, Defect};
use crate::routes::{self, RouteTable};

/// What the edge made of the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It obeys them, or did already.
    Obeyed,
    /// It goes on with those it had.
    Refused,
    /// It was not asked: in the first look of this process the routes of the other apps are not known yet.
    NotAsked,
}

/// What was last published.
#[derive(Default)]
pub(crate) struct Published {
    table: Option<RouteTable>,
    /// A look has come to its end.
    has_looked: bool,
    edge: u64,
    names: Option<Vec<engine::NetworkNames>>,
    /// What the edge took of each app.
    routed: BTreeMap<AppId, Routed>,
    /// Draining instances that the edge has let go of, and since when.
    let_go: BTreeMap<InstanceId, Timestamp>,
}

impl Published {
    fn is_routed(&self, id: InstanceId) -> bool {
        let mut services = self.table.iter().flat_map(|table| &table.services);
        services.any(|service| service.targets.iter().any(|target| target.id == id))
    }

    /// Publishes what is true now. Apps without an answer of this look keep what they had. Says what the edge
    /// made of it, as far as it had to be told.
    pub(super) fn publish(
        &mut self,
        control: &Control,
        facts: &Facts,
        mut routed: BTreeMap<AppId, Routed>,
    ) -> Answer {
        // Not only those that served when the look began: one that does since is announced with the next that does.
        for app in facts.apps.values() {
            if let Entry::Vacant(place) = routed.entry(app.id) {
                match self.routed.get(&app.id) {
                    Some(last) => drop(place.insert(last.clone())),
                    // The edge and the names serve what they had before our start; of anything newer they do not know.
                    None if app.serving.is_some() && self.table.is_none() => {
                        return if self.has_looked {
                            Answer::Refused
                        } else {
                            Answer::NotAsked
                        };
                    }
                    None => {}
                }
            }
        }
        let names = routes::names(facts, &routed);
        if self.names.as_ref() != Some(&names) {
            match control.engine.publish_names(&names) {
                Ok(()) => self.names = Some(names),
                Err(cause) => tracing::warn!(%cause, "the names were not published; they are offered again"),
            }
        }
        let table = routes::table(&control.settings.domain, facts, &routed);
        let edge = control.edge.generation();
        if self.table.as_ref() != Some(&table) || self.edge != edge {
            match control.edge.publish(&table) {
                Ok(()) => {
                    self.table = Some(table);
                    self.edge = edge;
                    control.bell.ring();
                }
                Err(why) => {
                    // The edge serves its last good table; this one is offered again at the next look.
                    tracing::warn!(why, "the edge did not take the routes");
                    return Answer::Refused;
                }
            }
        }
        self.routed = routed;
        Answer::Obeyed
    }

    /// A look ends: from now on what could not be published was refused.
    pub(super) fn end_look(&mut self) {
        self.has_looked = true;
    }

    /// Draining instances that get no new requests any more, and since when: as far as this process told the edge.
    pub(super) fn let_go(
        &mut self,
        control: &Control,
        facts: &Facts,
        now: Timestamp,
    ) -> BTreeMap<InstanceId, Timestamp> {
        // Another edge than the one that was told may obey an older table.
        let is_told = self.table.is_some() && control.edge.generation() == self.edge;
        let draining: BTreeSet<InstanceId> = draining(facts)
            .filter(|id| is_told && !self.is_routed(*id))
            .collect();
        self.let_go.retain(|id, _| draining.contains(id));
        for id in draining {
            self.let_go.entry(id).or_insert(now);
        }
        self.let_go.clone()
    }

    /// Of these, the ones that have nothing left to do.
    pub(super) fn idle(&self, control: &Control) -> BTreeSet<InstanceId> {
        let draining: Vec<InstanceId> = self.let_go.keys().copied().collect();
        if draining.is_empty() {
            return BTreeSet::new();
        }
        if planted::is(Defect::NeverAsksWhoIsBusy) {
            return draining.into_iter().collect();
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

fn draining(facts: &Facts) -> impl Iterator<Item = InstanceId> {
    let draining =
        facts
            .instances
            .values()
            .filter(|instance| match (&instance.purpose, &instance.condition) {
                (Purpose::Service { .. }, Condition::Draining { .. }) => true,
                (
                    Purpose::Service { .. }
                    | Purpose::Job { .. }
                    | Purpose::Database { .. }
                    | Purpose::Receiver { .. }
                    | Purpose::Pooler { .. },
                    _,
                ) => false,
            });
    draining.map(|instance| instance.id)
}
