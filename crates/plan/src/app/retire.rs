//! From the draft to steps: starting, routing, draining, stopping, forgetting.
//!
//! Invariants: what is routed is fit and neither draining nor about to, unless nothing is fit: then it is what serves and
//! still runs, for a failing check may be wrong about it (`docs/decisions/0009-unready-beats-nobody.md`); an instance is told to end only when the edge has
//! let go of it, or its time is up; every step is said again until its effect is seen.

use std::collections::{BTreeMap, BTreeSet};

use model::app::Serving;
use model::{Condition, Instance, InstanceId, Millis, Name, Timestamp};

use super::census::Life;
use super::view::{SETTLE, View, mutant};
use super::{Cause, Decision, Routes, Step, Trial, Verdict, Why};

/// Lives that a place remembers: enough to see a pattern in `stoa ps` and to count attempts.
const HISTORY: usize = 3;
/// Ended jobs are remembered at least this long, so that whoever waits for one can read how it went.
const JOB_MEMORY: Millis = Millis::seconds(3600);

/// Instances by process type.
type Backends = BTreeMap<Name, BTreeSet<InstanceId>>;

impl<'a> View<'a> {
    /// The decision that the draft stands for.
    pub(super) fn finish(mut self, verdict: Option<Verdict>) -> Decision {
        let mut steps: Vec<Step> = std::mem::take(&mut self.starts)
            .into_iter()
            .map(Step::Start)
            .collect();
        let lives = std::mem::take(&mut self.census.lives);
        steps.extend(lives.iter().filter_map(|life| self.step(life)));
        steps.extend(
            self.forget(&lives)
                .into_iter()
                .map(|instance| Step::Remove { instance }),
        );
        let (instances, resorts) = self.backends(&lives);
        self.why.extend(resorts);
        let routes = self.routes(&lives, instances);
        let changes: Vec<Timestamp> = lives.iter().filter_map(|life| self.next_change(life)).collect();
        self.looks.extend(changes);
        Decision {
            failed: self.failed,
            begun: self.begun,
            verdict,
            routes,
            steps,
            next_look: self.looks.into_iter().find(|at| *at > self.now),
            why: self.why,
        }
    }

    /// A deleted app: everything ends, jobs too, and is forgotten.
    pub(super) fn end_everything(mut self) -> Decision {
        let jobs = std::mem::take(&mut self.census.jobs);
        for life in self.census.lives.iter().filter(|life| life.is_active()) {
            self.retired.insert(life.id(), Cause::NotNeeded);
        }
        let is_live = |instance: &&Instance| instance.condition.is_live();
        let of_services = self.census.lives.iter().map(|life| life.instance);
        let all: Vec<&Instance> = of_services.chain(jobs.iter().map(|(_, job)| *job)).collect();
        let left = all.iter().copied().filter(is_live).count();
        let stop = |instance| Step::Stop {
            instance,
            cause: Cause::NotNeeded,
        };
        let ended = all.iter().filter(|instance| !instance.condition.is_live());
        let more = jobs
            .iter()
            .map(|(_, job)| *job)
            .filter(is_live)
            .map(|job| stop(job.id));
        let more: Vec<Step> = more
            .chain(ended.map(|ended| Step::Remove { instance: ended.id }))
            .collect();
        if left > 0 {
            self.why.push(Why::Deleting);
        }
        let mut decision = self.finish((left == 0).then_some(Verdict::Gone));
        decision.steps.retain(|step| !matches!(step, Step::Remove { .. }));
        decision.steps.extend(more);
        decision.routes = Routes::default();
        decision
    }

    fn step(&self, life: &Life<'a>) -> Option<Step> {
        let instance = life.id();
        let retired = self.retired.get(&instance).copied();
        let stop = |cause| Some(Step::Stop { instance, cause });
        match life.instance.condition {
            Condition::Starting { .. } => {
                let run = Some(Step::Run { instance });
                retired.map_or(mutant!(RunOnce, None, run), stop)
            }
            Condition::Ready { .. } | Condition::Unready { .. } if self.has_port(life) => {
                retired.map(|cause| Step::Drain { instance, cause })
            }
            Condition::Ready { .. } | Condition::Unready { .. } => retired.and_then(stop),
            Condition::Draining { since } => {
                let is_late = self.is_over(since, self.facts.policy.drain_limit);
                let is_done = self.facts.idle.contains(&instance) || mutant!(DrainForEver, false, is_late);
                is_done.then_some(Step::Stop {
                    instance,
                    cause: Cause::Repeated,
                })
            }
            Condition::Stopping { .. } => mutant!(StopOnce, None, stop(Cause::Repeated)),
            Condition::Exited { .. } => None,
        }
    }

    fn routes(&self, lives: &[Life<'a>], instances: Backends) -> Routes {
        let to = self.facts.app.rollout.as_ref().map(|rollout| rollout.to);
        let is_tried = |life: &&Life<'_>| {
            let mut routed = instances.values();
            Some(life.owner) == to && routed.any(|ids| ids.contains(&life.id()))
        };
        let trial = self.trial.map(|share| Trial {
            share,
            instances: lives.iter().filter(is_tried).map(Life::id).collect(),
        });
        Routes {
            release: self.spec,
            instances,
            trial: trial.filter(|trial| !trial.instances.is_empty()),
        }
    }

    /// Who gets requests, and where that is the last resort.
    fn backends(&self, lives: &[Life<'a>]) -> (Backends, Vec<Why>) {
        let mut backends = Backends::new();
        for life in lives {
            let is_draining = matches!(life.instance.condition, Condition::Draining { .. });
            let is_wanted = self.is_fit(life) && !self.retired.contains_key(&life.id());
            let is_wanted = mutant!(RouteDraining, is_wanted || is_draining, is_wanted);
            if is_wanted && self.has_port(life) && !self.held_back.contains(&life.id()) {
                backends
                    .entry(life.service.clone())
                    .or_default()
                    .insert(life.id());
            }
        }
        let mut resorts = Backends::new();
        for life in lives.iter().filter(|life| self.is_last_resort(life)) {
            let has_better = mutant!(UnreadyBesideReady, false, backends.contains_key(life.service));
            if !mutant!(NoLastResort, true, has_better) {
                resorts.entry(life.service.clone()).or_default().insert(life.id());
            }
        }
        let whys = resorts.iter().map(|(service, lives)| Why::NoneReady {
            service: service.clone(),
            instances: lives.len(),
        });
        let whys = whys.collect();
        for (service, lives) in resorts {
            backends.entry(service).or_default().extend(lives);
        }
        (backends, whys)
    }

    /// Whether it may get requests when nobody of its service is fit: it serves, was ready, and runs on.
    fn is_last_resort(&self, life: &Life<'a>) -> bool {
        let is_unready = matches!(life.instance.condition, Condition::Unready { .. });
        let serves = self.facts.app.serving == Some(life.owner);
        is_unready && serves && self.has_port(life) && !self.retired.contains_key(&life.id())
    }

    /// When time alone changes what a life means.
    fn next_change(&self, life: &Life<'a>) -> Option<Timestamp> {
        match life.instance.condition {
            Condition::Starting { since } => Some(since.plus(self.grace(life))),
            Condition::Ready { since } => Some(since.plus(SETTLE)),
            Condition::Unready { since, .. } => Some(since.plus(self.facts.policy.unready_limit)),
            Condition::Draining { since } => Some(since.plus(self.facts.policy.drain_limit)),
            Condition::Stopping { .. } | Condition::Exited { .. } => None,
        }
    }

    /// Ended lives beyond what each place remembers. Places of owners that are neither here nor coming share one memory.
    fn forget(&self, lives: &[Life<'a>]) -> Vec<InstanceId> {
        let to = self.facts.app.rollout.as_ref().map(|rollout| rollout.to);
        let current = |owner: Serving| {
            Some(owner).filter(|_| self.facts.app.serving == Some(owner) || to == Some(owner))
        };
        let mut memories: BTreeMap<_, Vec<InstanceId>> = BTreeMap::new();
        for life in lives.iter().filter(|life| !life.instance.condition.is_live()) {
            let owner = current(life.owner).map(|owner| (owner.release, owner.epoch));
            memories
                .entry((life.service, life.index, owner))
                .or_default()
                .push(life.id());
        }
        let mut jobs: BTreeMap<&Name, Vec<InstanceId>> = BTreeMap::new();
        for (name, instance) in &self.census.jobs {
            if let Condition::Exited { at, .. } = instance.condition {
                let memory = jobs.entry(name).or_default();
                if self.is_over(at, JOB_MEMORY) {
                    memory.push(instance.id);
                }
            }
        }
        let beyond = |ids: Vec<InstanceId>| {
            let surplus = ids.len().saturating_sub(HISTORY);
            ids.into_iter().take(surplus)
        };
        memories
            .into_values()
            .chain(jobs.into_values())
            .flat_map(beyond)
            .collect()
    }
}
