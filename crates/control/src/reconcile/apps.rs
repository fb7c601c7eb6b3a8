//! Moves one app: asks `plan`, stores its answer, then does the dull part.

use std::collections::{BTreeMap, BTreeSet};

use model::app::Rollout;
use model::{App, Condition, Failure, Instance, InstanceId, Purpose, Release, ReleaseId, Timestamp};
use plan::app::{Cause, Decision, Policy, Step, Verdict, Why};
use store::{Expect, WriteTx};

use super::publish::Answer;
use super::{Facts, jobs, operations as flow};
use crate::planted::{self, Defect};
use crate::{Control, ControlError, operations};

/// What the edge and the names should know of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Routed {
    /// The release whose hosts and paths are in force.
    pub(crate) release: Option<ReleaseId>,
    /// Instances that may get requests, and their weight among those of their service.
    pub(crate) weights: BTreeMap<InstanceId, u32>,
    /// Those of them that are on trial: names know no shares, so they do not lead there while anything else answers.
    pub(crate) tried: BTreeSet<InstanceId>,
    /// Whether the app serves, or does as soon as this is obeyed: nothing is routed before.
    pub(crate) serves: bool,
}

/// Decides and acts. Returns what may get requests, or nothing when that is to stay as it was. `announce` publishes that, and says
/// what the edge makes of it.
///
/// # Errors
/// When the decision could not be stored: nothing of it may be acted on then, routes included. A step that fails is
/// logged and decided again at the next look: one instance that cannot be ended must not keep a release from serving.
pub(super) fn advance(
    control: &Control,
    facts: &Facts,
    app: &App,
    now: Timestamp,
    announce: &mut dyn FnMut(&Routed) -> Answer,
) -> Result<Option<Routed>, ControlError> {
    let mine = facts.of_app(app.id);
    let excused = mine
        .iter()
        .filter(|instance| instance.excused)
        .map(|instance| instance.id)
        .collect();
    let judged = since_let_go(mine, facts, now);
    let policy = policy(control);
    let mut decision = plan::app::decide(
        &plan::app::Facts {
            app,
            releases: &facts.releases,
            instances: &judged,
            idle: &facts.idle,
            excused: &excused,
            policy: &policy,
        },
        now,
    );
    let mut routed = Routed {
        release: decision.routes.release,
        weights: decision
            .routes
            .instances
            .keys()
            .flat_map(|service| decision.routes.weights(service))
            .collect(),
        tried: decision
            .routes
            .trial
            .as_ref()
            .map(|trial| trial.instances.clone())
            .unwrap_or_default(),
        serves: app.serving.is_some() || matches!(decision.verdict, Some(Verdict::Promote)),
    };
    if planted::is(Defect::PublishesBeforeReady) {
        let live = mine.iter().filter(|one| one.condition.is_live());
        routed.weights.extend(live.map(|one| (one.id, 1)));
    }
    // One thing at a time is said of what a return waits for: else its step would change with every look.
    match &decision.verdict {
        Some(Verdict::Returned) => {
            if !is_back(control, app, announce(&routed), &policy, now)? {
                decision.verdict = None;
            }
        }
        Some(Verdict::Promote | Verdict::Return { .. } | Verdict::Gone) => {}
        None => say_what_lasts(control, app, &decision)?,
    }
    // Whoever is told that a release serves may ask for it at once. Taken again after a crash, the decision is the same.
    if let Some(Verdict::Promote) = &decision.verdict
        && !planted::is(Defect::PromotesWithoutPublishing)
        && let answer @ (Answer::Refused | Answer::NotAsked) = announce(&routed)
    {
        tracing::warn!(app = %app.name, "its release waits for the edge to take the routes");
        return Ok(wait_for_edge(control, app, answer, now)?.then_some(routed));
    }
    store_progress(control, facts, app, mine, &decision, now)?;
    if let Err(cause) = act(control, mine, facts, &decision.steps, now) {
        tracing::error!(app = %app.name, %cause, source = ?std::error::Error::source(&cause), "could not do what was decided; it is tried again");
    }
    Ok(Some(routed))
}

/// How patient movements are here.
pub(super) fn policy(control: &Control) -> Policy {
    Policy {
        drain_limit: control.settings.drain_bound,
        ..Policy::default()
    }
}

/// The instances as the planner is to see them: the time to finish requests begins when the edge lets go of an instance.
/// Until then it gets new ones, however long an edge refuses its table or control was away.
fn since_let_go(mine: &[Instance], facts: &Facts, now: Timestamp) -> Vec<Instance> {
    let mut judged = mine.to_vec();
    for instance in &mut judged {
        if let Condition::Draining { since } = &mut instance.condition {
            *since = facts.let_go.get(&instance.id).copied().unwrap_or(now).max(*since);
        }
    }
    judged
}

/// A release that is fit serves when the edge takes the routes. That is waited for until the rollout's end, no longer; but
/// if that passed while control was away, the edge is asked once.
/// Says whether it still is: a release that was given up must not be offered to the edge again.
fn wait_for_edge(control: &Control, app: &App, answer: Answer, now: Timestamp) -> Result<bool, ControlError> {
    let Some(rollout) = &app.rollout else {
        return Ok(true);
    };
    if now < rollout.deadline || answer == Answer::NotAsked {
        let step = "waiting for the edge to take the routes";
        crate::operations::step(control, rollout.operation, step)?;
        return Ok(true);
    }
    let failure = Failure {
        code: "deadline".to_owned(),
        message: "its instances are ready, but the edge did not take the routes before the deadline"
            .to_owned(),
        next_step: "the log of stoa up says why the edge refuses; then deploy again".to_owned(),
        log_tail: Vec::new(),
    };
    flow::turn_back(control, app, None, &failure, now)?;
    Ok(false)
}

/// Whether what was given up may not answer any more: the edge obeys routes without it. An edge that takes none for as long
/// as a return may last serves by a table that nobody can change; the operation says so no later.
fn is_back(
    control: &Control,
    app: &App,
    answer: Answer,
    policy: &Policy,
    now: Timestamp,
) -> Result<bool, ControlError> {
    let Some((rollout, returning)) = app
        .rollout
        .as_ref()
        .and_then(|rollout| Some((rollout, rollout.returning.as_ref()?)))
    else {
        return Ok(true);
    };
    match answer {
        Answer::Obeyed => return Ok(true),
        Answer::Refused if returning.since.plus(policy.return_limit) <= now => return Ok(true),
        Answer::Refused | Answer::NotAsked => {}
    }
    let step = "going back: waiting for the edge to take the routes";
    operations::step(control, rollout.operation, step)?;
    Ok(false)
}

/// What must be on disk before anything is acted on.
fn store_progress(
    control: &Control,
    facts: &Facts,
    app: &App,
    mine: &[Instance],
    decision: &Decision,
    now: Timestamp,
) -> Result<(), ControlError> {
    match &decision.verdict {
        Some(Verdict::Promote) => {
            let to = app
                .rollout
                .as_ref()
                .and_then(|rollout| facts.releases.get(&rollout.to.release));
            if let Some(release) = to {
                flow::promote(control, app, release)?;
            }
            Ok(())
        }
        Some(Verdict::Return { why }) => {
            let failure = failure(control, facts, app, mine, why);
            flow::turn_back(control, app, Some(decision), &failure, now)
        }
        Some(Verdict::Returned) => flow::come_back(control, app),
        Some(Verdict::Gone) => flow::bury(control, app),
        None => match &app.rollout {
            Some(rollout) if rollout.returning.is_some() => Ok(()),
            Some(rollout) if rollout.failed != decision.failed || rollout.begun != decision.begun => {
                if rollout.begun != decision.begun
                    && let Some(why) = decision.why.iter().find(|why| matches!(why, Why::Trial { .. }))
                {
                    operations::log_line(control, rollout.operation, &format!("==> {why}"));
                }
                control.write(|tx| note_progress(tx, app, rollout, decision))
            }
            Some(_) | None => Ok(()),
        },
    }
}

/// While it goes back: what that waits for.
fn say_what_lasts(control: &Control, app: &App, decision: &Decision) -> Result<(), ControlError> {
    let Some(rollout) = app.rollout.as_ref().filter(|rollout| rollout.returning.is_some()) else {
        return Ok(());
    };
    let lasting = decision.why.iter().find(|why| match why {
        Why::HoldingBack { .. } | Why::Waiting { .. } | Why::Gap { .. } => true,
        Why::NeverReady { .. }
        | Why::Exited { .. }
        | Why::BecameUnready { .. }
        | Why::TooManyFailures { .. }
        | Why::DeadlinePassed { .. }
        | Why::ReleaseUnknown
        | Why::Restarting { .. }
        | Why::NoneReady { .. }
        | Why::Trial { .. }
        | Why::Deleting => false,
    });
    match lasting {
        Some(why) => operations::step(control, rollout.operation, &format!("going back: {why}")),
        None => Ok(()),
    }
}

fn note_progress(tx: &WriteTx, app: &App, known: &Rollout, decision: &Decision) -> Result<(), ControlError> {
    let mut found = tx.need::<App>(&app.id.to_string())?;
    // Another movement than the one that was looked at: what was concluded is not about it.
    let Some(rollout) = found
        .row
        .rollout
        .as_mut()
        .filter(|rollout| rollout.to == known.to)
    else {
        return Ok(());
    };
    progress(rollout, decision);
    tx.update_status(&found.row, Expect::Rev(found.rev))?;
    Ok(())
}

/// What a rollout is to remember of a look.
pub(super) fn progress(rollout: &mut Rollout, decision: &Decision) {
    rollout.failed.clone_from(&decision.failed);
    if !planted::is(Defect::ForgetsSteps) {
        rollout.begun.clone_from(&decision.begun);
    }
}

/// Why a rollout came back, with the last lines of the instance that was at fault.
fn failure(control: &Control, facts: &Facts, app: &App, mine: &[Instance], why: &Why) -> Failure {
    let Some(rollout) = &app.rollout else {
        return Failure {
            code: "release_rejected".to_owned(),
            message: why.to_string(),
            next_step: String::new(),
            log_tail: Vec::new(),
        };
    };
    let number = |id| {
        facts
            .releases
            .get(&id)
            .map_or(0, |release: &Release| release.number)
    };
    let to = number(rollout.to.release);
    let mut message = match app.serving {
        Some(serving) if serving.release == rollout.to.release => {
            format!("fresh instances of v{to} failed: {why}; the old ones still serve")
        }
        Some(serving) => {
            let (old, starts) = (number(serving.release), plan::app::has_gap(app, &facts.releases));
            let goes_on = if starts { "starts again" } else { "still serves" };
            format!("v{to} rejected: {why}; v{old} {goes_on}")
        }
        None => format!("v{to} rejected: {why}"),
    };
    let at_fault = mine.iter().rev().find_map(|instance| match &instance.purpose {
        Purpose::Service { epoch, service, .. } if *epoch == rollout.to.epoch => {
            let is_bad = rollout.failed.contains(&instance.id)
                || !matches!(instance.condition, Condition::Ready { .. });
            is_bad.then_some((service, instance))
        }
        Purpose::Service { .. }
        | Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => None,
    });
    if let Some(said) = at_fault.and_then(|(_, instance)| check_said(control, instance)) {
        message = format!("{message} (its check said: {said})");
    }
    Failure {
        code: "release_rejected".to_owned(),
        message,
        next_step: format!("see why: stoa logs --app {} --release v{to}", app.name),
        log_tail: at_fault
            .map(|(service, i)| jobs::tail(control, app, service, i.id))
            .unwrap_or_default(),
    }
}

/// What the check of an instance that is not fit said last. While it starts, only the engine knows.
fn check_said(control: &Control, instance: &Instance) -> Option<String> {
    match &instance.condition {
        Condition::Unready { why, .. } => Some(why.clone()),
        Condition::Starting { .. } => {
            let seen = control.engine.observe().ok()?;
            match seen.into_iter().find(|one| one.id == instance.id)?.phase {
                engine::Phase::Running {
                    ready: Some(Err(why)),
                    ..
                } => Some(why),
                engine::Phase::Running { .. } | engine::Phase::Exited { .. } => None,
            }
        }
        Condition::Ready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. }
        | Condition::Exited { .. } => None,
    }
}

/// All rows in one transaction: intent first. Then the engine is told who is to end.
fn act(
    control: &Control,
    mine: &[Instance],
    facts: &Facts,
    steps: &[Step],
    now: Timestamp,
) -> Result<(), ControlError> {
    let row_of = |id: InstanceId| mine.iter().find(|row| row.id == id);
    let is_told =
        |id| row_of(id).is_some_and(|row: &Instance| matches!(row.condition, Condition::Stopping { .. }));
    let changes = |step: &&Step| match step {
        Step::Start(_) | Step::Drain { .. } | Step::Remove { .. } => true,
        Step::Stop { instance, .. } => !is_told(*instance),
        // `start` runs whatever has its intent stored, this pass too.
        Step::Run { .. } => false,
    };
    let tell = || {
        let mut failed = None;
        for step in steps {
            let Step::Stop { instance, .. } = step else {
                continue;
            };
            let grace = row_of(*instance)
                .and_then(|row| stop_grace(facts, row))
                .unwrap_or(model::spec::STOP_GRACE);
            if let Err(cause) = facts.told.stop(control, *instance, grace.as_duration(), now) {
                failed = Some(cause);
            }
        }
        failed.map_or(Ok(()), Err)
    };
    if planted::is(Defect::ActsBeforeIntent) {
        tell()?;
    }
    let changing: Vec<&Step> = steps.iter().filter(changes).collect();
    if !changing.is_empty() {
        control.write(|tx| write_rows(tx, facts, &changing, now))?;
    }
    tell()
}

fn write_rows(tx: &WriteTx, facts: &Facts, steps: &[&Step], now: Timestamp) -> Result<(), ControlError> {
    let starts = steps.iter().filter(|step| matches!(step, Step::Start(_))).count();
    let mut ranges = crate::workload::uid_ranges(tx, starts)?.into_iter();
    for step in steps {
        match step {
            Step::Start(start) => {
                let (Some(release), Some(uid_range)) = (facts.releases.get(&start.release), ranges.next())
                else {
                    continue;
                };
                tx.insert(&Instance {
                    id: InstanceId::fresh(),
                    purpose: Purpose::Service {
                        app: release.app,
                        release: start.release,
                        epoch: start.epoch,
                        service: start.service.clone(),
                        index: start.index,
                    },
                    attempt: start.attempt,
                    created_at: now,
                    address: None,
                    uid_range,
                    excused: false,
                    condition: Condition::Starting { since: now },
                })?;
            }
            Step::Run { .. } => {}
            Step::Drain { instance, cause } => {
                let next = if planted::is(Defect::NeverDrains) {
                    Condition::Stopping { since: now }
                } else {
                    Condition::Draining { since: now }
                };
                mark(tx, *instance, *cause, &next)?;
            }
            Step::Stop { instance, cause } => {
                mark(tx, *instance, *cause, &Condition::Stopping { since: now })?;
            }
            Step::Remove { instance } => {
                tx.delete::<Instance>(&instance.to_string(), Expect::Any)?;
            }
        }
    }
    Ok(())
}

fn stop_grace(facts: &Facts, instance: &Instance) -> Option<model::Millis> {
    match &instance.purpose {
        Purpose::Service { release, service, .. } => {
            Some(facts.releases.get(release)?.services.get(service)?.stop_grace)
        }
        Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => None,
    }
}

fn mark(tx: &WriteTx, id: InstanceId, cause: Cause, condition: &Condition) -> Result<(), ControlError> {
    let mut found = tx.need::<Instance>(&id.to_string())?;
    if found.row.condition.is_live() {
        found.row.condition = condition.clone();
        found.row.excused |= match cause {
            Cause::NotNeeded => true,
            Cause::Unfit | Cause::Repeated => false,
        };
        tx.update_status(&found.row, Expect::Any)?;
    }
    Ok(())
}
