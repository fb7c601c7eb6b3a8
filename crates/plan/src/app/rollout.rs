//! Moving from what serves to another release, or to fresh instances of the same one.
//!
//! Lives here: the verdict, and the next steps of a rolling movement that has none yet.
//! Does not live here: what follows from a verdict (`keep`), the steps of other strategies (`beside`, `recreate`).
//! Invariants of the rolling way: ready instances never fall below the floor because of us; a new instance gets no traffic before it is fit,
//! and, as long as the old ones can carry it all, not before all new ones of the release are; so a release that does not
//! pass its gate serves nobody.
//!
//! Old instances are ended for one of two reasons only: all new ones are ready, or a new one needs the room.

use std::collections::{BTreeMap, BTreeSet};

use model::app::{Rollout, Serving};
use model::{Condition, Exit, InstanceId, Name, Release, Service, Timestamp};

use super::census::Life;
use super::view::{Place, View, mutant};
use super::{Cause, Start, Verdict, Way, Why};

/// One service on its way.
struct Passage<'a> {
    name: &'a Name,
    to: Serving,
    /// Wanted instances of the new release; none when it does not have the service.
    wanted: Option<u16>,
    /// Wanted instances of what serves.
    before: u16,
}

/// What is there of a service during a rollout.
#[derive(Default)]
struct Standing<'a> {
    new_fit: Vec<InstanceId>,
    new_coming: usize,
    new_empty: Vec<(Start, Timestamp)>,
    /// Instances of what served and strays: worth least first.
    others: Vec<Other<'a>>,
    old_empty: Vec<(Start, Timestamp)>,
}

/// So many lives in a row may end without a record and not weigh on their release: the machine lost its power, or somebody
/// killed a keeper. One that loses them again and again has its part in it.
pub(super) const LOST_EXCUSED: u32 = 3;

struct Other<'a> {
    life: Life<'a>,
    is_fit: bool,
}

impl<'a> View<'a> {
    /// What becomes of the rollout, as far as the facts tell. Failures are noted for good.
    pub(super) fn judge(&mut self, rollout: &Rollout) -> Option<Verdict> {
        let to = rollout.to;
        let Some(release) = self.release(to) else {
            return Some(Verdict::Return {
                why: Why::ReleaseUnknown,
            });
        };
        let fresh = self.new_failures(to, release);
        self.failed.extend(fresh.iter().map(Life::id));
        if self.failed.len() > self.facts.policy.failures_allowed {
            return Some(Verdict::Return {
                why: self.explain(to, fresh.first()),
            });
        }
        let is_late = mutant!(IgnoreDeadline, false, self.now >= rollout.deadline);
        // With both sets whole the switch is the promotion: there is no state between them.
        let has_arrived = match self.way(to) {
            Way::Beside(_) => self.is_tried(rollout),
            Way::Rolling | Way::Recreate => is_late || !self.has_others(to),
        };
        if mutant!(PromoteEarly, true, self.is_all_fit(to, release)) && has_arrived {
            return Some(Verdict::Promote);
        }
        self.looks.insert(rollout.deadline);
        let limit = rollout.deadline.since(rollout.started_at);
        is_late.then_some(Verdict::Return {
            why: Why::DeadlinePassed { limit },
        })
    }

    /// Lives of the new release that failed, by its own doing: ended while their place has no other, or overdue.
    fn new_failures(&self, to: Serving, release: &Release) -> Vec<Life<'a>> {
        let is_place = |life: &Life<'_>| {
            let service = release.services.get(life.service);
            life.owner == to && service.is_some_and(|service| life.index < self.count(life.service, service))
        };
        let has_failed = |life: &Life<'a>| match life.instance.condition {
            Condition::Starting { .. } | Condition::Unready { .. } => self.is_overdue(life),
            Condition::Exited { exit: Exit::Lost, .. }
                if mutant!(BlameLost, false, life.instance.attempt < LOST_EXCUSED) =>
            {
                false
            }
            Condition::Exited { .. } => {
                let place = self.census.place(to, life.service, life.index);
                mutant!(ForgetFailures, false, !place.iter().any(Life::is_active))
            }
            Condition::Ready { .. } | Condition::Draining { .. } | Condition::Stopping { .. } => false,
        };
        let is_new = |life: &&Life<'a>| {
            is_place(life)
                && !self.facts.excused.contains(&life.id())
                && !self.failed.contains(&life.id())
                && has_failed(life)
        };
        self.census.lives.iter().filter(is_new).copied().collect()
    }

    fn explain(&self, to: Serving, fresh: Option<&Life<'a>>) -> Why {
        let known = || {
            self.census
                .lives
                .iter()
                .find(|life| life.owner == to && self.failed.contains(&life.id()))
        };
        let Some(life) = fresh.or_else(known) else {
            return Why::TooManyFailures {
                failed: self.failed.len(),
            };
        };
        let service = life.service.clone();
        match &life.instance.condition {
            Condition::Exited { exit, .. } => Why::Exited {
                service,
                exit: exit.clone(),
            },
            Condition::Unready { why, .. } => Why::BecameUnready {
                service,
                check: why.clone(),
            },
            Condition::Starting { .. }
            | Condition::Ready { .. }
            | Condition::Draining { .. }
            | Condition::Stopping { .. } => Why::NeverReady {
                service,
                limit: self.grace(life),
            },
        }
    }

    fn is_all_fit(&self, to: Serving, release: &Release) -> bool {
        release.services.iter().all(|(name, service)| {
            (0..self.count(name, service)).all(|index| {
                self.census
                    .place(to, name, index)
                    .iter()
                    .any(|life| self.is_fit(life))
            })
        })
    }

    fn has_others(&self, to: Serving) -> bool {
        self.census
            .lives
            .iter()
            .any(|life| life.owner != to && life.is_active())
    }

    /// The next steps of a rolling movement that has no verdict yet.
    pub(super) fn roll(&mut self, to: Serving) {
        let Some(new) = self.release(to) else { return };
        let is_all_fit = mutant!(DrainAtOnce, true, self.is_all_fit(to, new));
        let serving = self.facts.app.serving;
        let is_switched = is_all_fit || !self.has_others(to);
        self.spec = serving
            .filter(|_| !is_switched)
            .or(Some(to))
            .map(|owner| owner.release);
        let old: Option<&BTreeMap<Name, Service>> = serving
            .and_then(|serving| self.release(serving))
            .map(|release| &release.services);
        let count_of = |view: &Self, services: Option<&BTreeMap<Name, Service>>, name: &Name| {
            services
                .and_then(|services| services.get(name))
                .map(|service| view.count(name, service))
        };
        let running: BTreeSet<&'a Name> = self.census.lives.iter().map(|life| life.service).collect();
        let names: BTreeSet<&'a Name> = new.services.keys().chain(running).collect();
        for name in names {
            let wanted = count_of(self, Some(&new.services), name);
            let before = count_of(self, old, name).unwrap_or(0);
            let passage = Passage {
                name,
                to,
                wanted,
                before,
            };
            let standing = self.survey(&passage);
            if is_all_fit {
                self.switch(&standing);
            } else {
                self.make_way(&passage, standing);
            }
        }
    }

    /// Counts what is there, tends every place, and dismisses strays that the floor does not need.
    fn survey(&mut self, passage: &Passage<'a>) -> Standing<'a> {
        let Passage {
            name,
            to,
            wanted,
            before,
        } = *passage;
        let mut standing = Standing::default();
        for index in 0..wanted.unwrap_or(0) {
            match self.tend(to, name, index) {
                Place::Fit { life } => standing.new_fit.push(life),
                Place::Coming { .. } => standing.new_coming += 1,
                Place::Empty { next, earliest } => standing.new_empty.push((next, earliest)),
            }
        }
        let serving = self.facts.app.serving;
        let mut old = BTreeSet::new();
        for index in 0..before {
            let Some(serving) = serving else { break };
            match self.tend(serving, name, index) {
                Place::Fit { life } | Place::Coming { life, .. } => {
                    old.insert(life);
                }
                Place::Empty { next, earliest } => standing.old_empty.push((next, earliest)),
            }
        }
        let is_new = |life: &Life<'_>| life.owner == to && life.index < wanted.unwrap_or(0);
        let (places, strays): (Vec<_>, Vec<_>) = self
            .census
            .active(name)
            .into_iter()
            .filter(|life| !is_new(life) && !self.retired.contains_key(&life.id()))
            .partition(|life| old.contains(&life.id()));
        let old_fit = places.iter().filter(|life| self.is_fit(life)).count();
        let needed = self
            .needed(passage, standing.new_fit.len())
            .saturating_sub(old_fit);
        let held = self.dismiss(name, strays, needed, serving.unwrap_or(to));
        let other = |life: Life<'a>| Other {
            is_fit: self.is_fit(&life),
            life,
        };
        let mut places: Vec<Other<'a>> = places.into_iter().map(other).collect();
        places.sort_by_key(|other| (other.is_fit, std::cmp::Reverse(other.life.index)));
        standing.others = held
            .into_iter()
            .map(|life| Other { life, is_fit: true })
            .chain(places)
            .collect();
        standing
    }

    /// How many instances besides the new ones the floor asks for. A service that the new release does not have goes on
    /// as it is until the switch.
    fn needed(&self, passage: &Passage<'_>, new_fit: usize) -> usize {
        passage.wanted.map_or(usize::from(passage.before), |wanted| {
            self.bounds(passage.to, wanted)
                .floor(wanted)
                .saturating_sub(new_fit)
        })
    }

    /// All new instances are ready: the old ones may go.
    fn switch(&mut self, standing: &Standing<'a>) {
        for other in &standing.others {
            self.retire(other.life.id(), Cause::NotNeeded);
        }
    }

    /// Starts new instances within the ceiling, takes old ones away only for room and never below the floor, and brings
    /// back old ones that the floor misses.
    fn make_way(&mut self, passage: &Passage<'a>, standing: Standing<'a>) {
        let Standing {
            new_fit,
            new_coming,
            new_empty,
            mut others,
            old_empty,
        } = standing;
        let wanted = passage.wanted.unwrap_or(0);
        self.note_waiting(passage.name, new_fit.len(), usize::from(wanted));
        let needed = self.needed(passage, new_fit.len());
        let missing = needed
            .min(usize::from(passage.before))
            .saturating_sub(others.len());
        let mut returning = 0;
        for (next, earliest) in old_empty.into_iter().take(missing) {
            self.begin(next, earliest);
            returning += 1;
        }
        let ceiling = self
            .bounds(passage.to, wanted)
            .ceiling(wanted.max(passage.before));
        let mut live = new_fit.len() + new_coming + others.len() + returning;
        for (next, earliest) in new_empty {
            let is_full = |live: usize| mutant!(NoCeiling, false, live >= ceiling);
            while is_full(live) && self.make_room(&mut others, needed) {
                live -= 1;
            }
            if is_full(live) {
                break;
            }
            self.begin(next, earliest);
            live += 1;
        }
        let old_fit = others.iter().filter(|other| other.is_fit).count();
        if old_fit >= usize::from(wanted.min(passage.before)) {
            self.held_back.extend(new_fit);
        }
    }

    /// Takes away the least worthy of the others if the floor allows it.
    fn make_room(&mut self, others: &mut Vec<Other<'a>>, needed: usize) -> bool {
        let fit = others.iter().filter(|other| other.is_fit).count();
        let may_go = |other: &Other<'_>| {
            let keeps_floor = !other.is_fit || fit > needed;
            mutant!(DrainBelowFloor, true, others.len() > needed && keeps_floor)
        };
        let Some(at) = others.iter().position(may_go) else {
            return false;
        };
        let gone = others.remove(at);
        self.retire(gone.life.id(), Cause::NotNeeded);
        true
    }
}
