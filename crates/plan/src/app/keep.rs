//! Holding a release: each of its places has one fit instance, and nothing else runs.
//!
//! Invariant: what is not needed goes at once, unless it is ready and a place of the release is just getting its first or
//! second life: then as many stay as the floor asks for. So a return from the middle of a rollout costs no capacity, and
//! ends: a place that keeps failing holds nothing back.

use model::app::Serving;
use model::{Name, Release};

use super::census::Life;
use super::view::{Place, View, mutant};
use super::{Cause, Why};

impl<'a> View<'a> {
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

    /// Ends instances that are not needed, but for so many ready ones, the oldest, that may answer beside those of
    /// `owner`. Answers with those that stay.
    pub(super) fn dismiss(
        &mut self,
        service: &Name,
        strays: Vec<Life<'a>>,
        hold_back: usize,
        owner: Serving,
    ) -> Vec<Life<'a>> {
        let is_of_use = |life: &Life<'a>| self.is_fit(life) && self.may_stand_in(life, owner);
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
