//! Holding a release: each of its places has one fit instance, and nothing else runs. And going back to one.
//!
//! Invariants: what is not needed goes at once. In a movement, a return too, as many of its ready instances stay as the floor
//! asks for, while a place of what serves is just getting its first or second life: so a return costs no capacity, and ends:
//! a place that keeps failing holds nothing back, and nor does any after a while. Once a movement is over, what it left or
//! gave up answers no more, whatever becomes of what serves.

use model::app::Serving;
use model::{Name, Release, Timestamp};

use super::census::Life;
use super::view::{Place, View, mutant};
use super::way::Way;
use super::{Cause, Verdict, Why};

impl<'a> View<'a> {
    /// Goes back to what serves, since then. Answers whether it is back: nothing else is meant to work, and what serves is
    /// whole again, or will not be soon.
    pub(super) fn go_back(&mut self, since: Timestamp) -> Option<Verdict> {
        let end = since.plus(self.facts.policy.return_limit);
        let is_late = mutant!(ReturnForEver, false, end <= self.now);
        self.is_given_up = is_late;
        let serving = self.facts.app.serving;
        self.keep_trial();
        self.keep(serving);
        if self.is_short && !is_late {
            self.looks.insert(end);
        }
        let mut active = self.census.lives.iter().filter(|life| life.is_active());
        let is_alone = mutant!(ReturnEarly, true, active.all(|life| Some(life.owner) == serving));
        (is_alone && (is_late || !self.is_short)).then_some(Verdict::Returned)
    }

    /// A canary that stands in for what serves goes on with the share that it has.
    fn keep_trial(&mut self) {
        let Some(rollout) = &self.facts.app.rollout else {
            return;
        };
        let (Way::Beside(steps), last) = (self.way(rollout.to), self.begun.last_key_value()) else {
            return;
        };
        self.trial = last.and_then(|(last, _)| steps.get(*last)).map(|step| step.share);
        // One that has no share yet gets none now.
        self.is_given_up |= self.trial.is_none() && !steps.is_empty();
    }

    pub(super) fn keep(&mut self, serving: Option<Serving>) {
        self.spec = serving.map(|serving| serving.release);
        let release = serving.and_then(|serving| self.release(serving));
        if let (Some(_), None) = (serving, release) {
            // Without the release nothing can be started; what runs of it goes on.
            self.why.push(Why::ReleaseUnknown);
        }
        if let (Some(serving), Some(release)) = (serving, release) {
            self.hold(serving, release);
        }
        let is_kept = |life: &Life<'_>| match release {
            Some(release) => release.services.contains_key(life.service),
            None => serving == Some(life.owner),
        };
        // Those of services that go on were weighed above.
        let strays: Vec<_> = self
            .census
            .lives
            .iter()
            .filter(|life| life.is_active() && !is_kept(life))
            .map(Life::id)
            .collect();
        for stray in strays {
            mutant!(ForgetStrays, (), self.retire(stray, Cause::NotNeeded));
        }
    }

    fn hold(&mut self, serving: Serving, release: &'a Release) {
        for (name, service) in &release.services {
            let count = self.count(name, service);
            let (mut ready, mut hopeful) = (0, 0);
            for index in 0..count {
                let place = self.tend(serving, name, index);
                hopeful += usize::from(place.is_hopeful(self.now));
                match place {
                    Place::Fit { .. } => ready += 1,
                    Place::Coming { .. } => {}
                    Place::Empty { next, earliest } => {
                        mutant!(RestartNothing, (), self.begin(next, earliest));
                    }
                }
            }
            self.note_waiting(name, ready, usize::from(count));
            let missing = self.bounds(serving, count).floor(count).saturating_sub(ready);
            let hold_back = if hopeful > 0 { missing } else { 0 };
            self.is_short |= hold_back > 0;
            let is_own = |life: &Life<'_>| life.owner == serving && life.index < count;
            let strays = self
                .census
                .active(name)
                .into_iter()
                .filter(|life| !is_own(life))
                .collect();
            self.dismiss(name, strays, hold_back, serving);
        }
    }

    /// Whether it is of what serves, or of the movement under way. What was left or given up before answers no more.
    fn is_owned(&self, life: &Life<'_>) -> bool {
        let rollout = self.facts.app.rollout.as_ref().filter(|_| !self.is_given_up);
        let is_owned = self.facts.app.serving == Some(life.owner)
            || rollout.is_some_and(|rollout| rollout.to == life.owner);
        mutant!(ServeGivenUp, true, is_owned)
    }

    /// Ends instances that are not needed, but for so many ready ones, the oldest, that may answer beside those of
    /// `owner`. Answers with those that stay.
    pub(super) fn dismiss(
        &mut self,
        service: &Name,
        strays: Vec<Life<'a>>,
        hold_back: usize,
        owner: Serving,
    ) -> Vec<Life<'a>> {
        let is_of_use =
            |life: &Life<'a>| self.is_fit(life) && self.is_owned(life) && self.may_stand_in(life, owner);
        let (fit, unfit): (Vec<_>, Vec<_>) = strays.into_iter().partition(is_of_use);
        for life in unfit.iter().chain(fit.iter().skip(hold_back)) {
            mutant!(ForgetStrays, (), self.retire(life.id(), Cause::NotNeeded));
        }
        let held: Vec<_> = fit.into_iter().take(hold_back).collect();
        if !held.is_empty() {
            self.why.push(Why::HoldingBack {
                service: service.clone(),
                instances: held.len(),
            });
        }
        held
    }
}
