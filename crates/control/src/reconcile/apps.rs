//! Moves one app: asks `plan`, stores its answer, then does the dull part.

use std::collections::BTreeSet;

use model::{App, Condition, Failure, Instance, InstanceId, Purpose, Release, Timestamp};
use plan::app::{Cause, Decision, Policy, Step, Verdict, Why};
use store::Expect;

use super::{Facts, jobs, operations as flow};
use crate::{Control, ControlError};

/// Decides and acts. Returns the instances that may get requests.
pub(super) fn advance(
    control: &Control,
    facts: &Facts,
    app: &App,
    now: Timestamp,
) -> Result<BTreeSet<InstanceId>, ControlError> {
    let mine: Vec<Instance> = facts
        .instances
        .iter()
        .filter(|instance| match &instance.purpose {
            Purpose::Service { app: of, .. } => *of == app.id,
            Purpose::Job { .. } | Purpose::Database { .. } => false,
        })
        .cloned()
        .collect();
    let excused = mine
        .iter()
        .filter(|instance| instance.excused)
        .map(|instance| instance.id)
        .collect();
    let policy = Policy {
        drain_limit: control.settings.drain_bound,
        ..Policy::default()
    };
    let decision = plan::app::decide(
        &plan::app::Facts {
            app,
            releases: &facts.releases,
            instances: &mine,
            idle: &facts.idle,
            excused: &excused,
            policy: &policy,
        },
        now,
    );
    let routed = decision.routes.instances.values().flatten().copied().collect();
    store_progress(control, facts, app, &mine, &decision)?;
    for step in &decision.steps {
        act(control, &mine, facts, step, now)?;
    }
    Ok(routed)
}

/// What must be on disk before anything is acted on.
fn store_progress(
    control: &Control,
    facts: &Facts,
    app: &App,
    mine: &[Instance],
    decision: &Decision,
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
            flow::come_back(control, app, &failure(control, facts, app, mine, why))
        }
        Some(Verdict::Gone) if app.rollout.is_some() => {
            flow::come_back(control, app, &failure(control, facts, app, mine, &Why::Deleting))
        }
        Some(Verdict::Gone) => Ok(()),
        None => match &app.rollout {
            Some(rollout) if rollout.failed != decision.failed => control.write(|tx| {
                let mut found = tx.need::<App>(&app.id.to_string())?;
                if let Some(rollout) = &mut found.row.rollout {
                    rollout.failed.clone_from(&decision.failed);
                    tx.update_status(&found.row, Expect::Rev(found.rev))?;
                }
                Ok(())
            }),
            Some(_) | None => Ok(()),
        },
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
    let mut message = format!("v{} rejected: {why}", number(rollout.to.release));
    if let Some(serving) = app.serving {
        message = format!("{message}; v{} still serves", number(serving.release));
    }
    let at_fault = mine.iter().rev().find_map(|instance| match &instance.purpose {
        Purpose::Service { epoch, service, .. } if *epoch == rollout.to.epoch => {
            let is_bad = rollout.failed.contains(&instance.id)
                || !matches!(instance.condition, Condition::Ready { .. });
            is_bad.then_some((service, instance))
        }
        Purpose::Service { .. } | Purpose::Job { .. } | Purpose::Database { .. } => None,
    });
    if let Some((_, instance)) = at_fault
        && let Condition::Unready { why, .. } = &instance.condition
    {
        message = format!("{message} (its check said: {why})");
    }
    Failure {
        code: "release_rejected".to_owned(),
        message,
        next_step: format!(
            "see why: stoa logs --app {} --release v{}",
            app.name,
            number(rollout.to.release)
        ),
        log_tail: at_fault
            .map(|(service, i)| jobs::tail(control, app, service, i.id))
            .unwrap_or_default(),
    }
}

fn act(
    control: &Control,
    mine: &[Instance],
    facts: &Facts,
    step: &Step,
    now: Timestamp,
) -> Result<(), ControlError> {
    match step {
        Step::Start(start) => control.write(|tx| {
            let Some(release) = facts.releases.get(&start.release) else {
                return Ok(());
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
                uid_range: crate::workload::uid_range(tx)?,
                excused: false,
                condition: Condition::Starting { since: now },
            })?;
            Ok(())
        }),
        // `start` runs whatever has its intent stored, this pass too.
        Step::Run { .. } => Ok(()),
        Step::Drain { instance, cause } => {
            mark(control, *instance, *cause, &Condition::Draining { since: now })
        }
        Step::Stop { instance, cause } => {
            let row = mine.iter().find(|row| row.id == *instance);
            if !row.is_some_and(|row| matches!(row.condition, Condition::Stopping { .. })) {
                mark(control, *instance, *cause, &Condition::Stopping { since: now })?;
            }
            let grace = row
                .and_then(|row| stop_grace(facts, row))
                .unwrap_or(model::spec::STOP_GRACE);
            match control.engine.stop(*instance, grace.as_duration()) {
                Ok(()) | Err(engine::EngineError::NotRunning(_)) => Ok(()),
                Err(cause) => Err(cause.into()),
            }
        }
        Step::Remove { instance } => control.write(|tx| {
            tx.delete::<Instance>(&instance.to_string(), Expect::Any)?;
            Ok(())
        }),
    }
}

fn stop_grace(facts: &Facts, instance: &Instance) -> Option<model::Millis> {
    match &instance.purpose {
        Purpose::Service { release, service, .. } => {
            Some(facts.releases.get(release)?.services.get(service)?.stop_grace)
        }
        Purpose::Job { .. } | Purpose::Database { .. } => None,
    }
}

fn mark(control: &Control, id: InstanceId, cause: Cause, condition: &Condition) -> Result<(), ControlError> {
    control.write(|tx| {
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
    })
}
