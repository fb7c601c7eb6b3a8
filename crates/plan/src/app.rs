//! The movement of one app in one environment: what to start, route, drain and end now.
//!
//! Lives here: the facts a decision needs, what it may answer, and the order of the reasoning.
//! Does not live here: places and their lives (`census`), holding a release (`keep`), the verdict on a movement and the
//! rolling way (`rollout`), the other ways (`beside`, `recreate`), ending instances (`retire`), doing any of it (`control`).
//! Invariant: progress and verdict are stored before the steps are acted on; every step may be acted on twice.
//!
//! ```text
//!            deleting -> end everything -> Gone
//! no rollout: keep(serving)             ___ Promote: keep(to)
//!    rollout: advance(serving -> to) __/     roll | beside (blue-green, canary) | recreate
//!                                      \___ Return:  keep(serving), until nothing else may answer -> Returned
//! ```

mod beside;
mod bounds;
mod census;
mod foresee;
mod keep;
mod recreate;
mod retire;
mod rollout;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod view;
mod way;
mod why;

use std::collections::{BTreeMap, BTreeSet};

use model::{App, Instance, InstanceId, Millis, Name, Release, ReleaseId, Timestamp};

pub use foresee::{Move, foresee};
pub use way::{has_gap, trial_of};
pub use why::Why;

use model::strategy::Share;
use view::View;
use way::Way;

/// What is known about an app.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The app as stored.
    pub app: &'a App,
    /// Its releases; at least the one that serves and the one a rollout moves to.
    pub releases: &'a BTreeMap<ReleaseId, Release>,
    /// Its instances, ended ones included. A service without a port is `Ready` as soon as its process runs.
    pub instances: &'a [Instance],
    /// Draining instances that every thread of the edge has let go of, with nothing in flight.
    pub idle: &'a BTreeSet<InstanceId>,
    /// Instances that were ended because they were not needed ([`Cause::NotNeeded`]): their end is no failure.
    pub excused: &'a BTreeSet<InstanceId>,
    /// How patient to be.
    pub policy: &'a Policy,
}

/// How patient a movement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// New instances that may fail before the rollout returns.
    pub failures_allowed: usize,
    /// How long an instance may take to finish what it has before it is told to end.
    pub drain_limit: Millis,
    /// How long an instance may stay unready before it is replaced.
    pub unready_limit: Millis,
    /// For how long ready instances of what is given up may stand in for those of what serves.
    pub return_limit: Millis,
}

impl Default for Policy {
    /// The first failure returns: a release that needs luck is not one to serve with. Requests get 30 s to finish, which
    /// is what clients and proxies usually wait. An unready instance gets a minute: a restart helps no sooner when what
    /// it lacks is its database. A return gets a minute, too: most programs start sooner, and whoever waits for the end of
    /// the operation is a person.
    fn default() -> Self {
        Self {
            failures_allowed: 0,
            drain_limit: Millis::seconds(30),
            unready_limit: Millis::seconds(60),
            return_limit: Millis::seconds(60),
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Failed instances of the rollout, to be stored in it before anything else is done.
    pub failed: BTreeSet<InstanceId>,
    /// Steps of a canary that began, and when: to be stored in the rollout, too.
    pub begun: BTreeMap<usize, Timestamp>,
    /// What becomes of the rollout, or of an app that is to be gone. To be stored together with the above; the steps are
    /// already those that follow from it.
    pub verdict: Option<Verdict>,
    /// What the edge should know.
    pub routes: Routes,
    /// What to do, in this order. Starts come first; a route change is published before an instance is drained.
    pub steps: Vec<Step>,
    /// When to look again if no fact changes.
    pub next_look: Option<Timestamp>,
    /// For people.
    pub why: Vec<Why>,
}

/// The end of a movement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `rollout.to` serves now.
    Promote,
    /// From now on it goes back to what served before.
    Return {
        /// The reason, for people and for the release.
        why: Why,
    },
    /// It is back: nothing but what serves may answer any more, as soon as the routes are obeyed. What was given up is
    /// rejected then, not sooner.
    Returned,
    /// Nothing of a deleted app runs any more.
    Gone,
}

/// Which instances the edge may send requests to. Publishing it replaces what was there for the app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// The release whose hosts and paths are in force.
    pub release: Option<ReleaseId>,
    /// Fit instances of each service with a port; a service that is missing has none.
    pub instances: BTreeMap<Name, BTreeSet<InstanceId>>,
    /// A release that gets a part of the requests only.
    pub trial: Option<Trial>,
}

/// The instances of a canary among those that are routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What they get together, of the requests of each service.
    pub share: Share,
    /// Which.
    pub instances: BTreeSet<InstanceId>,
}

/// The weight of an instance when all of its service are equal.
pub const EQUAL: u32 = 100;

impl Routes {
    /// The weight of each instance of a service, relative to its siblings. A canary alone gets everything: when nothing of
    /// what serves is fit, the little that is known to be good is better than nothing.
    #[must_use]
    pub fn weights(&self, service: &Name) -> BTreeMap<InstanceId, u32> {
        let Some(all) = self.instances.get(service) else {
            return BTreeMap::new();
        };
        let is_tried = |id: &InstanceId| {
            let trial = self.trial.as_ref();
            trial.is_some_and(|trial| trial.instances.contains(id))
        };
        let count = |ids: usize| u32::try_from(ids).unwrap_or(u32::MAX);
        let tried = count(all.iter().filter(|id| is_tried(id)).count());
        let others = count(all.len()).saturating_sub(tried);
        let weight = |id: &InstanceId| match &self.trial {
            Some(trial) if tried > 0 && others > 0 => {
                let share = u32::from(trial.share.percent());
                // Each side shares its part equally; multiplied by the other side's number, both are whole.
                if is_tried(id) {
                    share.saturating_mul(others)
                } else {
                    (100 - share).saturating_mul(tried)
                }
            }
            Some(_) | None => EQUAL,
        };
        all.iter().map(|id| (*id, weight(id))).collect()
    }
}

/// One idempotent step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a new instance (its id is the caller's) and see that it runs.
    Start(Start),
    /// See that an instance that is `Starting` really is: its row may be older than a crash of ours.
    Run {
        /// Which.
        instance: InstanceId,
    },
    /// Mark as draining: no new requests.
    Drain {
        /// Which.
        instance: InstanceId,
        /// To be remembered: see [`Facts::excused`].
        cause: Cause,
    },
    /// Mark as stopping and end it politely, then hard. Repeated until it has ended.
    Stop {
        /// Which.
        instance: InstanceId,
        /// To be remembered: see [`Facts::excused`].
        cause: Cause,
    },
    /// Forget an ended instance.
    Remove {
        /// Which.
        instance: InstanceId,
    },
}

/// A place that gets a new life.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// Process type.
    pub service: Name,
    /// Which of its copies.
    pub index: u16,
    /// Its release.
    pub release: ReleaseId,
    /// Number of the rollout it belongs to.
    pub epoch: u64,
    /// Lives before it that did not stay well.
    pub attempt: u32,
}

/// Why an instance is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Surplus, replaced or unowned. It has done nothing wrong.
    NotNeeded,
    /// It did not get ready, or not again.
    Unfit,
    /// It was told already.
    Repeated,
}

/// What the app needs now. Calling it twice on the same facts gives the same answer.
#[must_use]
pub fn decide(facts: &Facts<'_>, now: Timestamp) -> Decision {
    View::new(facts, now).decide()
}

impl View<'_> {
    fn decide(mut self) -> Decision {
        // Progress is kept whatever comes of it: what was stored once is never taken back.
        if let Some(rollout) = &self.facts.app.rollout {
            self.failed.clone_from(&rollout.failed);
            self.begun.clone_from(&rollout.begun);
        }
        if self.facts.app.deleting {
            return self.end_everything();
        }
        let Some(rollout) = &self.facts.app.rollout else {
            self.keep(self.facts.app.serving);
            return self.finish(None);
        };
        if let Some(returning) = &rollout.returning {
            let verdict = self.go_back(returning.since);
            return self.finish(verdict);
        }
        let verdict = self.judge(rollout);
        match &verdict {
            None => match self.way(rollout.to) {
                Way::Rolling => self.roll(rollout.to),
                Way::Beside(steps) => self.beside(rollout, steps),
                Way::Recreate => self.recreate(rollout.to),
            },
            Some(Verdict::Promote) => self.keep(Some(rollout.to)),
            // To be back is not for this look to say: that it goes back has to be stored first.
            Some(Verdict::Return { .. } | Verdict::Returned | Verdict::Gone) => drop(self.go_back(self.now)),
        }
        self.finish(verdict)
    }
}
