//! A new set of instances beside the old one: blue-green, and canaries.
//!
//! ```text
//! step 1 ready -> 5% -> held -> step 2 ready -> 50% -> held -> all ready -> Promote: everything
//! \___________________________ canary ______________________/  \_________ blue-green __________/
//! ```
//! Invariants: what serves stays whole until the new release is promoted, so a return is at once and costs nothing; the
//! new release answers no more than the share of the last step that began; a step begins once, and only after the one
//! before it was held for its time.

use std::collections::BTreeSet;

use model::app::{Rollout, Serving};
use model::strategy::{Share, Step};
use model::{InstanceId, Name, Timestamp};

use super::census::Life;
use super::view::{Place, View, mutant};
use super::{Way, Why};

/// Where a canary stands.
struct Stage {
    /// What the new release gets now.
    share: Option<Share>,
    /// Until when.
    until: Option<Timestamp>,
    /// Number of the step that needs its instances now; beyond the last one it is everything.
    aim: usize,
}

/// Instances of a service that a share of its requests needs: at least one, if there is any.
pub(super) fn part(count: u16, share: Share) -> u16 {
    let part = (u32::from(count) * u32::from(share.percent())).div_ceil(100);
    u16::try_from(part).unwrap_or(count)
}

impl<'a> View<'a> {
    fn stage(&self, rollout: &Rollout, steps: &[Step]) -> Stage {
        let begun = rollout.begun.last_key_value();
        let Some((last, (step, since))) =
            begun.and_then(|(last, since)| Some((*last, (steps.get(*last)?, *since))))
        else {
            return Stage {
                share: None,
                until: None,
                aim: 0,
            };
        };
        let until = since.plus(step.hold);
        let is_held = mutant!(ForgetHold, true, until <= self.now);
        Stage {
            share: Some(step.share),
            until: (!is_held).then_some(until),
            aim: if is_held { last + 1 } else { last },
        }
    }

    /// Whether the release had all its trials: nothing but its instances stands between it and all requests.
    pub(super) fn is_tried(&self, rollout: &Rollout) -> bool {
        match self.way(rollout.to) {
            Way::Beside(steps) => mutant!(SkipSteps, true, self.stage(rollout, steps).aim >= steps.len()),
            Way::Rolling | Way::Recreate => true,
        }
    }

    /// The next steps of a movement that has no verdict yet.
    pub(super) fn beside(&mut self, rollout: &Rollout, steps: &[Step]) {
        let to = rollout.to;
        let Some(new) = self.release(to) else { return };
        let stage = self.stage(rollout, steps);
        let serving = self.facts.app.serving;
        self.spec = serving.or(Some(to)).map(|owner| owner.release);
        let running = self.census.lives.iter().map(|life| life.service);
        let old = serving.and_then(|serving| self.release(serving));
        let old = old.into_iter().flat_map(|old| old.services.keys());
        let names: BTreeSet<&'a Name> = new.services.keys().chain(old).chain(running).collect();
        let mut fit = BTreeSet::new();
        let mut is_ready = true;
        for name in names {
            self.stay_whole(name, to);
            let count = new
                .services
                .get(name)
                .map_or(0, |service| self.count(name, service));
            let needed = steps.get(stage.aim).map_or(count, |step| part(count, step.share));
            is_ready &= self.grow(name, to, needed, count, &mut fit);
        }
        if mutant!(RestartStep, true, false) {
            let now = self.now;
            self.begun.values_mut().for_each(|since| *since = now);
        }
        let mut share = stage.share;
        if let Some(step) = steps.get(stage.aim).filter(|_| is_ready && stage.until.is_none()) {
            // From here on the decision is the same however often it is taken: the step has its time.
            self.begun.entry(stage.aim).or_insert(self.now);
            self.looks.insert(self.now.plus(step.hold));
            share = Some(step.share);
        }
        self.looks.extend(stage.until);
        match share {
            None => mutant!(SwitchEarly, (), self.held_back.extend(fit)),
            Some(share) => {
                self.why.push(Why::Trial {
                    share,
                    left: stage.until.map(|until| until.since(self.now)),
                });
                self.trial = mutant!(ForgetShare, None, Some(share));
            }
        }
    }

    /// Places of what serves are kept as if nothing moved; strays stand in for those that are missing.
    fn stay_whole(&mut self, name: &'a Name, to: Serving) {
        let Some(serving) = self.facts.app.serving else {
            let strays = self.others_of(name, |life| life.owner != to);
            self.dismiss(name, strays, 0, to);
            return;
        };
        let before = self
            .release(serving)
            .and_then(|release| release.services.get(name))
            .map_or(0, |service| self.count(name, service));
        let before = mutant!(ShrinkOld, before.min(1), before);
        let mut missing = 0;
        for index in 0..before {
            match self.tend(serving, name, index) {
                Place::Fit { .. } => {}
                Place::Coming { .. } => missing += 1,
                Place::Empty { next, earliest } => {
                    missing += 1;
                    self.begin(next, earliest);
                }
            }
        }
        let is_stray = |life: &Life<'_>| life.owner != to && !(life.owner == serving && life.index < before);
        let strays = self.others_of(name, is_stray);
        self.dismiss(name, strays, missing, serving);
    }

    fn others_of(&self, name: &Name, is_other: impl Fn(&Life<'_>) -> bool) -> Vec<Life<'a>> {
        let active = self.census.active(name).into_iter();
        active
            .filter(|life| is_other(life) && !self.retired.contains_key(&life.id()))
            .collect()
    }

    /// Starts what the step needs of the new release. Answers whether all of that is fit.
    fn grow(
        &mut self,
        name: &Name,
        to: Serving,
        needed: u16,
        count: u16,
        fit: &mut BTreeSet<InstanceId>,
    ) -> bool {
        let mut ready = 0;
        for index in 0..count {
            let is_needed = index < needed;
            match self.tend(to, name, index) {
                Place::Fit { life } => {
                    fit.insert(life);
                    ready += usize::from(is_needed);
                }
                Place::Coming { .. } => {}
                Place::Empty { next, earliest } if is_needed => self.begin(next, earliest),
                Place::Empty { .. } => {}
            }
        }
        // After the service was scaled down in the middle.
        let surplus = self.others_of(name, |life| life.owner == to && life.index >= count);
        self.dismiss(name, surplus, 0, to);
        self.note_waiting(name, ready, usize::from(needed));
        ready >= usize::from(needed)
    }
}
