//! One look at the facts, and the draft of the decision while it is made.
//!
//! Lives here: what is fit or overdue, tending one place, restarts with backoff.
//! Does not live here: which places there should be (`keep`, `rollout`).

use std::collections::{BTreeMap, BTreeSet};

use model::app::Serving;
use model::strategy::Share;
use model::{Condition, InstanceId, Millis, Name, Release, ReleaseId, Service, Timestamp};

use super::bounds::Bounds;
use super::census::{Census, Life};
use super::{Cause, Facts, Start, Why};
use crate::backoff;

/// A process without a port can only show that it does not end at once. Programs that lack a module, a variable or their
/// database end within this time.
pub(super) const SETTLE: Millis = Millis::seconds(2);

/// Beyond its grace a life that lasted this long was well: the next crash is a first one again.
const STAYED_WELL: Millis = Millis::seconds(300);

/// Variants of the planner that are wrong on purpose: each must be found by the simulation.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    DrainBelowFloor,
    RouteStarting,
    RouteDraining,
    PromoteEarly,
    ForgetFailures,
    ForgetStrays,
    IgnoreDeadline,
    DrainForEver,
    StopOnce,
    RunOnce,
    NoBackoff,
    NoCeiling,
    DrainAtOnce,
    KeepDuplicates,
    IgnoreOverdue,
    RestartNothing,
    StartBeside,
    AnswerEarly,
    MixStrays,
    SwitchEarly,
    ShrinkOld,
    SkipSteps,
    ForgetHold,
    RestartStep,
    ForgetShare,
    NoLastResort,
    UnreadyBesideReady,
    BlameLost,
    ReturnEarly,
    ReturnForEver,
    ServeGivenUp,
}

#[cfg(test)]
thread_local! {
    pub(super) static MUTANT: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// `mutant!(Name, wrong, right)` is `right`, but for tests that look for the mutant.
macro_rules! mutant {
    ($name:ident, $wrong:expr, $right:expr) => {{
        #[cfg(test)]
        let is_wrong = $crate::app::view::MUTANT.get() == Some($crate::app::view::Mutant::$name);
        #[cfg(not(test))]
        let is_wrong = false;
        if is_wrong { $wrong } else { $right }
    }};
}
pub(super) use mutant;

pub(super) struct View<'a> {
    pub(super) facts: Facts<'a>,
    pub(super) now: Timestamp,
    pub(super) census: Census<'a>,
    pub(super) failed: BTreeSet<InstanceId>,
    pub(super) begun: BTreeMap<usize, Timestamp>,
    pub(super) starts: BTreeSet<Start>,
    pub(super) retired: BTreeMap<InstanceId, Cause>,
    /// Fit instances that get no traffic yet.
    pub(super) held_back: BTreeSet<InstanceId>,
    /// The part of the requests that goes to the instances of the rollout.
    pub(super) trial: Option<Share>,
    /// Nothing of the rollout is to stand in for what serves any more.
    pub(super) is_given_up: bool,
    /// What serves lacks instances that are on their way.
    pub(super) is_short: bool,
    pub(super) spec: Option<ReleaseId>,
    pub(super) why: Vec<Why>,
    pub(super) looks: BTreeSet<Timestamp>,
}

/// What a place has.
pub(super) enum Place {
    /// An instance fit for its work.
    Fit { life: InstanceId },
    /// An instance that may become fit.
    Coming { life: InstanceId, attempt: u32 },
    /// Nothing: a new life may begin at this time.
    Empty { next: Start, earliest: Timestamp },
}

impl Place {
    /// Whether it will soon have a ready instance, as far as one can tell: no row of failures speaks against it.
    pub(super) fn is_hopeful(&self, now: Timestamp) -> bool {
        match self {
            Self::Fit { .. } => false,
            Self::Coming { attempt, .. } => *attempt <= 1,
            Self::Empty { next, earliest } => next.attempt <= 1 && *earliest <= now,
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(facts: &Facts<'a>, now: Timestamp) -> Self {
        Self {
            facts: *facts,
            now,
            census: Census::take(facts),
            failed: BTreeSet::new(),
            begun: BTreeMap::new(),
            starts: BTreeSet::new(),
            retired: BTreeMap::new(),
            held_back: BTreeSet::new(),
            trial: None,
            is_given_up: false,
            is_short: false,
            spec: None,
            why: Vec::new(),
            looks: BTreeSet::new(),
        }
    }

    pub(super) fn release(&self, owner: Serving) -> Option<&'a Release> {
        self.facts.releases.get(&owner.release)
    }

    fn service_of(&self, life: &Life<'_>) -> Option<&'a Service> {
        self.release(life.owner)?.services.get(life.service)
    }

    /// How many instances a service should have.
    pub(super) fn count(&self, name: &Name, service: &Service) -> u16 {
        self.facts.app.scale.get(name).copied().unwrap_or(service.count)
    }

    pub(super) fn bounds(&self, owner: Serving, count: u16) -> Bounds {
        Bounds::new(self.surge(owner), count)
    }

    /// Whether requests may be on their way to it. A life of a forgotten release is drained to be safe.
    pub(super) fn has_port(&self, life: &Life<'_>) -> bool {
        self.service_of(life).is_none_or(|service| service.port.is_some())
    }

    pub(super) fn grace(&self, life: &Life<'_>) -> Millis {
        self.service_of(life)
            .map_or_else(|| model::Health::default().grace, |service| service.health.grace)
    }

    pub(super) fn is_fit(&self, life: &Life<'_>) -> bool {
        match life.instance.condition {
            Condition::Ready { since } => self.has_port(life) || self.is_over(since, SETTLE),
            Condition::Starting { .. } => mutant!(RouteStarting, true, false),
            Condition::Unready { .. }
            | Condition::Draining { .. }
            | Condition::Stopping { .. }
            | Condition::Exited { .. } => false,
        }
    }

    /// Whether it had its time to get ready, or ready again, and did not.
    pub(super) fn is_overdue(&self, life: &Life<'_>) -> bool {
        let is_late = match life.instance.condition {
            Condition::Starting { since } => self.is_over(since, self.grace(life)),
            Condition::Unready { since, .. } => self.is_over(since, self.facts.policy.unready_limit),
            Condition::Ready { .. }
            | Condition::Draining { .. }
            | Condition::Stopping { .. }
            | Condition::Exited { .. } => false,
        };
        mutant!(IgnoreOverdue, false, is_late)
    }

    pub(super) fn is_over(&self, since: Timestamp, span: Millis) -> bool {
        since.plus(span) <= self.now
    }

    pub(super) fn retire(&mut self, instance: InstanceId, cause: Cause) {
        self.retired.entry(instance).or_insert(cause);
    }

    /// Sees that a place has one life at most, ends what is overdue, and says what is there.
    pub(super) fn tend(&mut self, owner: Serving, service: &Name, index: u16) -> Place {
        let lives = self.census.place(owner, service, index);
        let mut active: Vec<Life<'a>> = lives.iter().filter(|life| life.is_active()).copied().collect();
        active.sort_by_key(|life| (self.rank(life), life.birth()));
        for twin in active.iter().skip(1) {
            mutant!(KeepDuplicates, (), self.retire(twin.id(), Cause::NotNeeded));
        }
        match active.first() {
            Some(life) if self.is_fit(life) => Place::Fit { life: life.id() },
            Some(life) if !self.is_overdue(life) => Place::Coming {
                life: life.id(),
                attempt: life.instance.attempt,
            },
            Some(life) => {
                self.retire(life.id(), Cause::Unfit);
                self.next_life(owner, service, index, Some(life))
            }
            None => self.next_life(owner, service, index, lives.last()),
        }
    }

    /// The better of two lives of one place stays.
    fn rank(&self, life: &Life<'_>) -> u8 {
        match life.instance.condition {
            Condition::Ready { .. } if self.is_fit(life) => 0,
            Condition::Ready { .. } => 1,
            Condition::Starting { .. } | Condition::Unready { .. } if self.is_overdue(life) => 4,
            Condition::Starting { .. } => 2,
            Condition::Unready { .. } => 3,
            Condition::Draining { .. } | Condition::Stopping { .. } | Condition::Exited { .. } => 5,
        }
    }

    fn next_life(&self, owner: Serving, service: &Name, index: u16, last: Option<&Life<'a>>) -> Place {
        let (attempt, ended) = last.map_or((0, self.now), |last| {
            let ended = last.end().unwrap_or(self.now);
            let was_well = ended.since(last.instance.created_at)
                >= Millis::new(self.grace(last).as_ms() + STAYED_WELL.as_ms());
            let attempt = if was_well {
                0
            } else if self.facts.excused.contains(&last.id()) {
                last.instance.attempt
            } else {
                last.instance.attempt.saturating_add(1)
            };
            (attempt, ended)
        });
        let next = Start {
            service: service.clone(),
            index,
            release: owner.release,
            epoch: owner.epoch,
            attempt,
        };
        let wait = mutant!(NoBackoff, Millis::new(0), backoff::delay(attempt));
        Place::Empty {
            next,
            earliest: ended.plus(wait),
        }
    }

    /// Begins a new life now, or notes when it may begin.
    pub(super) fn begin(&mut self, next: Start, earliest: Timestamp) {
        if self.is_kept_waiting(&next) {
            return;
        }
        if next.attempt > 0 {
            self.why.push(Why::Restarting {
                service: next.service.clone(),
                index: next.index,
                attempt: next.attempt,
                wait: earliest.since(self.now),
            });
        }
        if earliest <= self.now {
            self.starts.insert(next);
        } else {
            self.looks.insert(earliest);
        }
    }

    pub(super) fn note_waiting(&mut self, service: &Name, ready: usize, wanted: usize) {
        if ready < wanted {
            self.why.push(Why::Waiting {
                service: service.clone(),
                ready,
                wanted,
            });
        }
    }
}
