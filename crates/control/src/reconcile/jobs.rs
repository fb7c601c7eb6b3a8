//! Jobs: the gate before a release gets traffic, and one-off commands.

use engine::LogQuery;
use model::operation::Work;
use model::spec::JobTrigger;
use model::{
    App, Condition, Exit, Failure, Instance, InstanceId, Name, Operation, OperationState, Purpose, Release,
    Timestamp,
};
use store::Expect;

use super::{Facts, operations as flow};
use crate::planted::{self, Defect};
use crate::{Control, ControlError, operations};

/// Whether a release may begin its rollout.
pub(super) enum Gate {
    /// Not yet.
    Wait,
    /// Yes.
    Open,
    /// Never.
    Shut(Failure),
}

/// Time between the polite and the hard stop of a job that is given up.
const STOP_GRACE: std::time::Duration = std::time::Duration::from_secs(10);
/// Lines of a failed job that are shown with the failure.
const TAIL: usize = 20;

/// Runs the release jobs one after another, each once.
pub(super) fn gate(
    control: &Control,
    facts: &Facts,
    operation: &Operation,
    app: &App,
    release: &Release,
    now: Timestamp,
) -> Result<Gate, ControlError> {
    for (name, job) in &release.jobs {
        match job.on {
            JobTrigger::Release => {}
        }
        let Some(instance) = instance_of(facts, operation, name) else {
            operations::step(control, operation.id, &format!("running the release job {name}"))?;
            start(control, operation, app, release, name, now)?;
            return Ok(Gate::Wait);
        };
        match &instance.condition {
            Condition::Exited {
                exit: Exit::Code { code: 0 },
                ..
            } => {}
            Condition::Exited { .. } if planted::is(Defect::IgnoresFailedJobs) => {}
            Condition::Exited { exit, .. } => {
                let message = format!(
                    "v{} rejected: its release job {name} {}",
                    release.number,
                    exit.describe()
                );
                return Ok(Gate::Shut(Failure {
                    code: "release_rejected".to_owned(),
                    message,
                    next_step: format!(
                        "mend it and deploy again; all its lines: stoa logs {name} --app {}",
                        app.name
                    ),
                    log_tail: tail(control, app, name, instance.id),
                }));
            }
            Condition::Starting { .. }
            | Condition::Ready { .. }
            | Condition::Unready { .. }
            | Condition::Draining { .. }
            | Condition::Stopping { .. } => {
                if now.since(instance.created_at) > job.timeout {
                    stop(control, facts, instance, now)?;
                    return Ok(Gate::Shut(Failure {
                        code: "release_rejected".to_owned(),
                        message: format!(
                            "v{} rejected: its release job {name} took longer than {}",
                            release.number, job.timeout
                        ),
                        next_step: "make it faster or raise jobs.timeout, then: stoa deploy".to_owned(),
                        log_tail: tail(control, app, name, instance.id),
                    }));
                }
                return Ok(Gate::Wait);
            }
        }
    }
    Ok(Gate::Open)
}

/// Runs a one-off command; the operation's log gets its lines.
pub(super) fn run(
    control: &Control,
    facts: &Facts,
    operation: &Operation,
    app: &App,
    now: Timestamp,
) -> Result<(), ControlError> {
    let Work::Run { .. } = &operation.work else {
        return Ok(());
    };
    let name = "run"
        .parse::<Name>()
        .map_err(|e| ControlError::invalid("/name", e.to_string()))?;
    let Some(instance) = instance_of(facts, operation, &name) else {
        let Some(release) = facts.serving(app) else {
            let failure = Failure {
                code: "state".to_owned(),
                message: "nothing serves whose configuration it could have".to_owned(),
                next_step: "deploy first: stoa deploy".to_owned(),
                log_tail: Vec::new(),
            };
            return operations::fail(control, operation.id, &failure);
        };
        operations::set_state(control, operation.id, |operation, _| {
            operation.state = OperationState::Running;
            "running".clone_into(&mut operation.step);
        })?;
        return start(control, operation, app, release, &name, now);
    };
    match &instance.condition {
        Condition::Exited { exit, .. } => {
            copy_lines(control, operation, app, &name, instance.id);
            if let Exit::Code { code } = exit {
                operations::set_state(control, operation.id, |operation, _| {
                    operation.exit_code = Some(*code);
                })?;
            }
            match exit {
                Exit::Code { code: 0 } => operations::succeed(control, operation.id, "exit code 0"),
                Exit::Code { .. }
                | Exit::Signal { .. }
                | Exit::OutOfMemory
                | Exit::DiskFull
                | Exit::NeverStarted { .. }
                | Exit::Lost => {
                    let failure = Failure {
                        code: "run_failed".to_owned(),
                        message: format!("the command {}", exit.describe()),
                        next_step: "read its lines above".to_owned(),
                        log_tail: tail(control, app, &name, instance.id),
                    };
                    flow::reject(control, operation, None, failure, None)
                }
            }
        }
        Condition::Starting { .. }
        | Condition::Ready { .. }
        | Condition::Unready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. } => {
            copy_lines(control, operation, app, &name, instance.id);
            Ok(())
        }
    }
}

fn instance_of<'a>(facts: &'a Facts, operation: &Operation, name: &Name) -> Option<&'a Instance> {
    facts.instances.values().find(|instance| match &instance.purpose {
        Purpose::Job {
            operation: of, job, ..
        } => *of == operation.id && job == name && !is_forgotten(instance),
        Purpose::Service { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => false,
    })
}

fn is_forgotten(instance: &Instance) -> bool {
    planted::is(Defect::RunsJobsAgain) && !instance.condition.is_live()
}

/// Stores the intent; the start itself is the common one of all instances.
fn start(
    control: &Control,
    operation: &Operation,
    app: &App,
    release: &Release,
    name: &Name,
    now: Timestamp,
) -> Result<(), ControlError> {
    control.write(|tx| {
        let instance = Instance {
            id: InstanceId::fresh(),
            purpose: Purpose::Job {
                app: app.id,
                release: release.id,
                job: name.clone(),
                operation: operation.id,
            },
            attempt: 0,
            created_at: now,
            address: None,
            uid_range: crate::workload::uid_range(tx)?,
            excused: false,
            condition: Condition::Starting { since: now },
        };
        tx.insert(&instance)?;
        Ok(())
    })
}

/// Ends jobs that nobody waits for any more, and repeats the request to those that were asked: the first one may have
/// been lost with a crash of ours.
pub(super) fn sweep(control: &Control, facts: &Facts, now: Timestamp) {
    for instance in super::orphans::live(&facts.instances) {
        let Purpose::Job { operation, .. } = &instance.purpose else {
            continue;
        };
        let is_asked = matches!(instance.condition, Condition::Stopping { .. });
        let is_awaited = facts.operations.contains_key(operation);
        if (is_asked || !is_awaited)
            && let Err(cause) = stop(control, facts, instance, now)
        {
            tracing::warn!(instance = %instance.id, %cause, "could not end a job; it is tried again");
        }
    }
}

/// Asks a job's instance to end. May be said again.
pub(super) fn stop(
    control: &Control,
    facts: &Facts,
    instance: &Instance,
    now: Timestamp,
) -> Result<(), ControlError> {
    if !matches!(instance.condition, Condition::Stopping { .. }) {
        control.write(|tx| {
            let mut found = tx.need::<Instance>(&instance.id.to_string())?;
            if found.row.condition.is_live() {
                found.row.condition = Condition::Stopping { since: now };
                tx.update_status(&found.row, Expect::Any)?;
            }
            Ok(())
        })?;
    }
    facts.told.stop(control, instance.id, STOP_GRACE, now)
}

/// The last lines of an instance.
pub(super) fn tail(control: &Control, app: &App, service: &Name, id: InstanceId) -> Vec<String> {
    let query = LogQuery {
        key: format!("{}/{service}", app.id),
        instance: Some(id),
        limit: TAIL,
        ..LogQuery::default()
    };
    let lines = control.engine.logs(&query).unwrap_or_default();
    lines.into_iter().map(|line| line.text).collect()
}

/// Brings the operation's log up to what the instance has written, as far as a log goes that is read whole each time.
/// The log itself remembers how far that was.
fn copy_lines(control: &Control, operation: &Operation, app: &App, name: &Name, id: InstanceId) {
    let query = LogQuery {
        key: format!("{}/{name}", app.id),
        instance: Some(id),
        // From the oldest one on.
        after: Some((Timestamp::from_ms(0), id, 0)),
        limit: crate::logs::LIMIT,
        ..LogQuery::default()
    };
    let lines = control.engine.logs(&query).unwrap_or_default();
    let known = operations::log_tail(control, operation.id, usize::MAX).len();
    for line in lines.iter().skip(known) {
        operations::log_line(control, operation.id, &line.text);
    }
    if lines.len() == crate::logs::LIMIT && known < lines.len() {
        let text = format!(
            "==> no more than {} lines are copied; the newest: stoa logs {name}",
            lines.len()
        );
        operations::log_line(control, operation.id, &text);
    }
}
