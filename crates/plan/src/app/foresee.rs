//! What a movement would do, if every instance got ready and nobody touched anything.
//!
//! Lives here: asking `decide` again and again in a world where each step succeeds. Does not live here: any decision.
//! Invariant: what is foretold is what would be decided; there is no second planner.

use std::collections::{BTreeMap, BTreeSet};

use model::app::{Rollout, Serving};
use model::strategy::Share;
use model::{Condition, Exit, Instance, InstanceId, Millis, Name, Purpose, Strategy, Timestamp};

use super::{Decision, Facts, Start, Step, Verdict, decide};

/// More turns than any movement of a hundred instances in twenty steps takes: a bound, so that a defect is no hang.
const TURNS_MAX: usize = 5_000;

/// One thing that would happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Instances of the new release start.
    Start {
        /// Their process type.
        service: Name,
        /// How many.
        instances: usize,
    },
    /// A part of the requests tries the new release.
    Try {
        /// Which part.
        share: Share,
        /// For how long.
        hold: Millis,
    },
    /// The new release serves.
    Promote,
    /// Instances that are not needed any more finish what they have, and end.
    End {
        /// Their process type.
        service: Name,
        /// How many.
        instances: usize,
    },
    /// From here on nobody answers, until the new release serves.
    Gap,
}

impl Move {
    /// In words, with the names of both releases.
    #[must_use]
    pub fn say(&self, old: Option<&str>, new: &str) -> String {
        let old = old.unwrap_or("nothing");
        match self {
            Self::Start { service, instances } => {
                format!("start {instances} x {service} of {new} and wait until ready")
            }
            Self::Try { share, hold } => format!(
                "give {share} of the requests to {new} for {hold}; a crash or a failing check returns all of them to {old}"
            ),
            Self::Promote => format!("{new} serves: all its instances are ready"),
            Self::End { service, instances } => {
                format!("drain and end {instances} x {service} of {old}: not needed any more")
            }
            Self::Gap => {
                format!(
                    "nobody answers from here until {new} serves: what may not run beside another ends first"
                )
            }
        }
    }
}

/// The moves from what is there to `to`, in order. The ids of instances are the caller's.
#[must_use]
pub fn foresee(
    facts: &Facts<'_>,
    to: Serving,
    now: Timestamp,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Vec<Move> {
    let mut app = facts.app.clone();
    let Some(operation) = facts.releases.get(&to.release).map(|release| release.operation) else {
        return Vec::new();
    };
    let mut rows: BTreeMap<InstanceId, Instance> = BTreeMap::new();
    for row in facts.instances.iter().filter(|row| row.condition.is_live()) {
        rows.insert(row.id, settled(row, now));
    }
    app.rollout = None;
    let instances: Vec<Instance> = rows.values().cloned().collect();
    let present = decide(
        &Facts {
            app: &app,
            instances: &instances,
            ..*facts
        },
        now,
    );
    app.rollout = Some(Rollout {
        operation,
        to,
        started_at: now,
        deadline: Timestamp::from_ms(u64::MAX),
        failed: BTreeSet::new(),
        begun: BTreeMap::new(),
        returning: None,
    });
    let mut future = Future {
        rows,
        moves: Vec::new(),
        had_answers: answers(&present),
    };
    let mut now = now;
    for _ in 0..TURNS_MAX {
        let instances: Vec<Instance> = future.rows.values().cloned().collect();
        let idle = instances.iter().map(|row| row.id).collect();
        let decision = decide(
            &Facts {
                app: &app,
                instances: &instances,
                idle: &idle,
                ..*facts
            },
            now,
        );
        future.note(facts, to, &decision, app.rollout.as_ref());
        match (&decision.verdict, app.rollout.as_mut()) {
            (None, Some(rollout)) => {
                rollout.failed.clone_from(&decision.failed);
                rollout.begun.clone_from(&decision.begun);
            }
            (Some(Verdict::Promote), Some(_)) => {
                app.serving = Some(to);
                app.rollout = None;
            }
            (Some(Verdict::Return { .. } | Verdict::Returned | Verdict::Gone), _) => break,
            (None | Some(Verdict::Promote), None) => {}
        }
        let has_changed = future.carry_out(&app, &decision, now, fresh);
        match decision.next_look {
            _ if has_changed => {}
            Some(at) if app.rollout.is_some() => now = at,
            Some(_) | None => break,
        }
    }
    future.moves
}

/// The world of the foretelling.
struct Future {
    rows: BTreeMap<InstanceId, Instance>,
    moves: Vec<Move>,
    had_answers: bool,
}

impl Future {
    fn note(&mut self, facts: &Facts<'_>, to: Serving, decision: &Decision, rollout: Option<&Rollout>) {
        let (mut starts, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for step in &decision.steps {
            match step {
                Step::Start(start) => *starts.entry(start.service.clone()).or_insert(0) += 1,
                Step::Drain { instance, .. } | Step::Stop { instance, .. } => {
                    let row = self.rows.get(instance).filter(|row| is_working(row));
                    if let Some(Purpose::Service { service, .. }) = row.map(|row| &row.purpose) {
                        *ends.entry(service.clone()).or_insert(0) += 1;
                    }
                }
                Step::Run { .. } | Step::Remove { .. } => {}
            }
        }
        if self.had_answers && !answers(decision) {
            self.moves.push(Move::Gap);
        }
        self.had_answers = answers(decision);
        for (service, instances) in starts {
            self.moves.push(Move::Start { service, instances });
        }
        let strategy = facts.releases.get(&to.release).map(|release| &release.strategy);
        if let (Some(rollout), Some(Strategy::Canary { steps })) = (rollout, strategy) {
            for number in decision
                .begun
                .keys()
                .filter(|number| !rollout.begun.contains_key(number))
            {
                if let Some(step) = steps.each().get(*number) {
                    let (share, hold) = (step.share, step.hold);
                    self.moves.push(Move::Try { share, hold });
                }
            }
        }
        match decision.verdict {
            Some(Verdict::Promote) => self.moves.push(Move::Promote),
            Some(Verdict::Return { .. } | Verdict::Returned | Verdict::Gone) | None => {}
        }
        for (service, instances) in ends {
            self.moves.push(Move::End { service, instances });
        }
    }

    /// Every step succeeds. Answers whether there was one.
    fn carry_out(
        &mut self,
        app: &model::App,
        decision: &Decision,
        now: Timestamp,
        fresh: &mut dyn FnMut() -> InstanceId,
    ) -> bool {
        let mut has_changed = decision.verdict.is_some();
        for step in &decision.steps {
            match step {
                Step::Start(start) => {
                    let row = started(app, start, fresh(), now);
                    self.rows.insert(row.id, row);
                }
                Step::Run { .. } => continue,
                Step::Drain { instance, .. } => {
                    if let Some(row) = self.rows.get_mut(instance) {
                        row.condition = Condition::Draining { since: now };
                    }
                }
                Step::Stop { instance, .. } | Step::Remove { instance } => {
                    self.rows.remove(instance);
                }
            }
            has_changed = true;
        }
        has_changed
    }
}

fn answers(decision: &Decision) -> bool {
    decision.routes.instances.values().any(|ids| !ids.is_empty())
}

fn is_working(row: &Instance) -> bool {
    match row.condition {
        Condition::Starting { .. } | Condition::Ready { .. } | Condition::Unready { .. } => true,
        Condition::Draining { .. } | Condition::Stopping { .. } | Condition::Exited { .. } => false,
    }
}

/// What is on its way up has arrived.
fn settled(row: &Instance, now: Timestamp) -> Instance {
    let condition = match &row.condition {
        Condition::Starting { .. } | Condition::Unready { .. } => Condition::Ready { since: now },
        Condition::Exited { .. } => Condition::Exited {
            at: now,
            exit: Exit::Lost,
        },
        same @ (Condition::Ready { .. } | Condition::Draining { .. } | Condition::Stopping { .. }) => {
            same.clone()
        }
    };
    Instance {
        condition,
        ..row.clone()
    }
}

fn started(app: &model::App, start: &Start, id: InstanceId, now: Timestamp) -> Instance {
    Instance {
        id,
        purpose: Purpose::Service {
            app: app.id,
            release: start.release,
            epoch: start.epoch,
            service: start.service.clone(),
            index: start.index,
        },
        attempt: 0,
        created_at: now,
        address: None,
        uid_range: 0,
        excused: false,
        condition: Condition::Ready { since: now },
    }
}
