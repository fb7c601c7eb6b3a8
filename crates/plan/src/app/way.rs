//! Which way a movement goes, and which instances bear each other.
//!
//! Lives here: what a release's strategy means for a pair of owners, and for the movement under way.
//! Does not live here: the steps of each way (`rollout`, `beside`, `recreate`).
//! Invariant: what `recreate` asks for holds at any time, during movements and after them; it is a property of the
//! release. Everything else is a property of the movement to a release.

use std::collections::BTreeMap;

use model::app::Serving;
use model::strategy::Step;
use model::{App, Millis, Release, ReleaseId, ReleaseState, Strategy, Surge};

use super::census::Life;
use super::view::{View, mutant};
use super::{Start, Why};

/// How the movement under way goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way<'a> {
    /// A few at a time.
    Rolling,
    /// A new set beside the old one, which stays whole; after these steps all requests switch at once.
    Beside(&'a [Step]),
    /// The old first, then the new.
    Recreate,
}

/// For how long a release is on trial before it gets everything, if it is to be tried beside what serves at all. One that
/// has served needs no trial: a rollback is urgent, and a restart compares nothing.
#[must_use]
pub fn trial_of(release: &Release) -> Option<Millis> {
    match (&release.strategy, &release.state) {
        (Strategy::Canary { steps }, ReleaseState::Pending) => Some(steps.hold()),
        (
            Strategy::Rolling { .. } | Strategy::BlueGreen | Strategy::Canary { .. } | Strategy::Recreate,
            ReleaseState::Pending | ReleaseState::Proven | ReleaseState::Rejected { .. },
        ) => None,
    }
}

/// Whether nobody answers during the movement of an app that is under way: neither the old release nor the new one bears
/// another.
#[must_use]
pub fn has_gap(app: &App, releases: &BTreeMap<ReleaseId, Release>) -> bool {
    let Some(rollout) = &app.rollout else {
        return false;
    };
    let from = app.serving.map(|serving| serving.release);
    let asks = |id: &ReleaseId| {
        releases
            .get(id)
            .is_some_and(|release| release.strategy == Strategy::Recreate)
    };
    [rollout.to.release].iter().chain(from.iter()).any(asks)
}

impl<'a> View<'a> {
    fn strategy(&self, owner: Serving) -> Option<&'a Strategy> {
        self.release(owner).map(|release| &release.strategy)
    }

    /// The way to `to`.
    pub(super) fn way(&self, to: Serving) -> Way<'a> {
        let serving = self.facts.app.serving;
        if serving.is_some_and(|serving| self.excludes(serving, to)) {
            return Way::Recreate;
        }
        let is_new = self
            .release(to)
            .is_some_and(|release| trial_of(release).is_some());
        match self.strategy(to) {
            Some(Strategy::BlueGreen) => Way::Beside(&[]),
            Some(Strategy::Canary { steps }) if is_new && serving.is_some() => Way::Beside(steps.each()),
            Some(Strategy::Recreate) => Way::Recreate,
            Some(Strategy::Rolling { .. } | Strategy::Canary { .. }) | None => Way::Rolling,
        }
    }

    /// The bounds that a release asks for.
    pub(super) fn surge(&self, owner: Serving) -> Option<Surge> {
        match self.strategy(owner)? {
            Strategy::Rolling { surge } => *surge,
            Strategy::BlueGreen | Strategy::Canary { .. } | Strategy::Recreate => None,
        }
    }

    /// Whether instances of the two must not live at the same time.
    pub(super) fn excludes(&self, one: Serving, other: Serving) -> bool {
        let asks = |owner| self.strategy(owner) == Some(&Strategy::Recreate);
        one != other && (asks(one) || asks(other))
    }

    /// Whether an instance may answer beside those of `owner`. The later of the two came by its own strategy.
    pub(super) fn may_stand_in(&self, life: &Life<'_>, owner: Serving) -> bool {
        if life.owner == owner {
            return true;
        }
        let later = if life.owner.epoch > owner.epoch {
            life.owner
        } else {
            owner
        };
        let is_whole = self.strategy(later) == Some(&Strategy::BlueGreen);
        !self.excludes(life.owner, owner) && !mutant!(MixStrays, false, is_whole)
    }

    /// Whether somebody still lives with whom an instance must not. Then it has to wait.
    pub(super) fn is_kept_waiting(&mut self, next: &Start) -> bool {
        let owner = Serving {
            release: next.release,
            epoch: next.epoch,
        };
        let stands_in_the_way =
            |life: &&Life<'_>| life.instance.condition.is_live() && self.excludes(life.owner, owner);
        let ending = self.census.lives.iter().filter(stands_in_the_way).count();
        if ending > 0 && !self.why.iter().any(|why| matches!(why, Why::Gap { .. })) {
            self.why.push(Why::Gap { ending });
        }
        mutant!(StartBeside, false, ending > 0)
    }
}
