//! Operations: accept, see, wait, cancel; their log.

mod open;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use model::operation::Work;
use model::{Action, Actor, App, AppId, Failure, Millis, Operation, OperationId, OperationState, Timestamp};
use store::{ReadTx, Versioned, WriteTx};

use crate::authorize::{self, EnvPath, Scope};
use crate::{Control, ControlError};

pub use open::Open;

/// What an acknowledged request for long work returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The operation to follow.
    pub operation: Operation,
}

/// A command that somebody runs may take its time: an import, a backfill.
const RUN_DEADLINE: Millis = Millis::seconds(24 * 3600);
/// A day of a busy database's log takes hours to replay, and giving it up helps nobody.
const RESTORE_DEADLINE: Millis = Millis::seconds(12 * 3600);

/// Stores an operation in the caller's transaction.
pub(crate) fn accept(
    control: &Control,
    tx: &WriteTx,
    actor: &Actor,
    scope: Option<&Scope>,
    work: Work,
) -> Result<Accepted, ControlError> {
    let now = control.now_of(tx);
    let limit = match &work {
        Work::Deploy { .. } | Work::Image { .. } | Work::RotateKey { .. } => control.settings.deploy_deadline,
        Work::Run { .. } => RUN_DEADLINE,
        Work::Rollback { .. }
        | Work::Restart { .. }
        | Work::Scale { .. }
        | Work::DeleteApp { .. }
        | Work::CreateDatabase { .. }
        | Work::RotateDatabase { .. }
        | Work::RestartDatabase { .. }
        | Work::PromoteDatabase { .. }
        | Work::DestroyDatabase { .. } => control.settings.operation_deadline,
        // A pool that cannot share blocks copies every byte.
        Work::BackupDatabase { .. } => control.settings.deploy_deadline,
        // A branch may be a restore, and a mask may write every table anew.
        Work::BranchDatabase { .. }
        | Work::ResetDatabase { .. }
        | Work::RestoreDatabase { .. }
        | Work::UpgradeDatabase { .. }
        | Work::DrillDatabase { .. }
        | Work::VerifyTarget => RESTORE_DEADLINE,
    };
    let operation = Operation {
        id: OperationId::fresh(),
        environment: scope.map(|scope| scope.environment.id),
        work,
        actor: actor.describe(),
        created_at: now,
        deadline: now.plus(limit),
        state: OperationState::Pending,
        step: "accepted".to_owned(),
        cancel: false,
        release: None,
        outcome: None,
        exit_code: None,
    };
    tx.insert(&operation)?;
    Ok(Accepted { operation })
}

/// The app an operation works on, if any.
#[must_use]
pub fn app_of(work: &Work) -> Option<AppId> {
    match work {
        Work::Deploy { app, .. }
        | Work::Rollback { app, .. }
        | Work::Restart { app }
        | Work::Scale { app }
        | Work::Run { app, .. }
        | Work::DeleteApp { app } => Some(*app),
        Work::CreateDatabase { .. }
        | Work::RotateDatabase { .. }
        | Work::RestartDatabase { .. }
        | Work::BranchDatabase { .. }
        | Work::ResetDatabase { .. }
        | Work::BackupDatabase { .. }
        | Work::DrillDatabase { .. }
        | Work::RestoreDatabase { .. }
        | Work::PromoteDatabase { .. }
        | Work::UpgradeDatabase { .. }
        | Work::DestroyDatabase { .. }
        | Work::VerifyTarget
        | Work::RotateKey { .. }
        | Work::Image { .. } => None,
    }
}

/// Operations of an environment that are not settled, oldest first.
pub(crate) fn unsettled(
    control: &Control,
    tx: &ReadTx,
    environment: &str,
) -> Result<Vec<Operation>, ControlError> {
    let mut all = control.open.at(tx)?;
    all.retain(|op| op.environment.is_some_and(|of| of.to_string() == environment));
    Ok(all)
}

/// Those of an app.
pub(crate) fn unsettled_of(
    control: &Control,
    tx: &ReadTx,
    app: &App,
) -> Result<Vec<Operation>, ControlError> {
    let mut all = control.open.at(tx)?;
    all.retain(|op| app_of(&op.work) == Some(app.id));
    Ok(all)
}

/// A page of the operations of an environment, newest first: so many before the one that is named (none: from the newest).
///
/// # Errors
/// As the gate's.
pub fn list(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    before: &str,
    limit: usize,
) -> Result<store::Page<Operation>, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        Ok(tx.page_back::<Operation>(&scope.parent(), before, limit)?)
    })
}

/// A page of the operations that the actor may read, of all environments and the installation, newest first; and the last
/// of it when there are more.
///
/// # Errors
/// When the store cannot be read.
pub fn list_all(
    control: &Control,
    actor: &Actor,
    before: &str,
    limit: usize,
) -> Result<(Vec<Operation>, Option<String>), ControlError> {
    control.read(|tx| {
        let mut found: Vec<Operation> = Vec::new();
        let mut take = |parent: &str| -> Result<(), ControlError> {
            // One more than asked for tells whether there is a next page.
            let page = tx.page_back::<Operation>(parent, before, limit.saturating_add(1))?;
            found.extend(page.rows.into_iter().map(|found| found.row));
            Ok(())
        };
        for environment in tx.list_all::<model::Environment>()? {
            let id = environment.row.id;
            if authorize::environment_by_id(tx, actor, Action::Read, id).is_ok() {
                take(&id.to_string())?;
            }
        }
        if authorize::installation(tx, actor, Action::Administer).is_ok() {
            take("")?;
        }
        // Ids grow with time, whatever they belong to.
        found.sort_by_key(|operation| std::cmp::Reverse(operation.id));
        let is_more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|operation| operation.id.to_string());
        Ok((found, last.filter(|_| is_more)))
    })
}

fn load(tx: &ReadTx, actor: &Actor, action: Action, id: &str) -> Result<Versioned<Operation>, ControlError> {
    let found = tx
        .get::<Operation>(id)?
        .ok_or_else(|| authorize::missing("operation", id))?;
    match found.row.environment {
        Some(environment) => {
            authorize::environment_by_id(tx, actor, action, environment).map_err(
                |refused| match refused {
                    ControlError::NotFound { .. } => authorize::missing("operation", id),
                    other => other,
                },
            )?;
        }
        // Work on the installation: to others it is as if it were not there.
        None => authorize::installation(tx, actor, Action::Administer)
            .map_err(|_| authorize::missing("operation", id))?,
    }
    Ok(found)
}

/// One operation; with `wait`, after it settled or that long.
///
/// # Errors
/// As the gate's.
pub fn view(
    control: &Control,
    actor: &Actor,
    id: &str,
    wait: Duration,
) -> Result<Versioned<Operation>, ControlError> {
    let until = Instant::now() + wait;
    loop {
        let (rev, found) = control.read(|tx| Ok((tx.rev()?, load(tx, actor, Action::Read, id)?)))?;
        let left = until.saturating_duration_since(Instant::now());
        if found.row.state.is_settled() || left.is_zero() {
            return Ok(found);
        }
        control.store.wait_change(rev, left);
    }
}

/// Asks for an operation to be given up. What it did is undone as far as it had no effect on traffic.
///
/// # Errors
/// As the gate's; `State` when it has settled.
pub fn cancel(control: &Control, actor: &Actor, id: &str) -> Result<Versioned<Operation>, ControlError> {
    control.mutate(actor, "operation.cancel", id, |tx| {
        let mut found = load(tx, actor, Action::Deploy, id)?;
        if found.row.state.is_settled() {
            return Err(ControlError::State {
                message: "the operation has settled already".to_owned(),
                next_step: format!("see how: stoa api GET /v1/operations/{id}"),
            });
        }
        // They have taken away what they end already; the only way is forward.
        if let Work::DeleteApp { .. } | Work::DestroyDatabase { .. } = found.row.work {
            return Err(ControlError::State {
                message: "what is being deleted cannot be brought back".to_owned(),
                next_step: "wait for its end: stoa status".to_owned(),
            });
        }
        if let Work::PromoteDatabase { database, of, .. } | Work::UpgradeDatabase { database, of, .. } =
            &found.row.work
            && let Some(old) = tx.get::<model::Database>(&of.to_string())?
            && old.row.replaced.is_some_and(|replaced| replaced.by == *database)
        {
            return Err(ControlError::State {
                message: "its names have changed already".to_owned(),
                next_step: "wait for its end; then it can be promoted back".to_owned(),
            });
        }
        found.row.cancel = true;
        tx.update(&found.row, store::Expect::Generation(found.generation))?;
        Ok(tx.need::<Operation>(id)?)
    })
}

/// Where an operation's log is kept.
#[must_use]
pub fn log_path(control: &Control, id: OperationId) -> PathBuf {
    control
        .settings
        .data_dir
        .join("operations")
        .join(format!("{id}.log"))
}

/// Most of an operation's log in bytes: a build that prints more is cut there, with a line that says so.
const LOG_MAX: u64 = 8 << 20;

/// Adds a line to an operation's log. A log that cannot be written never fails the operation.
pub(crate) fn log_line(control: &Control, id: OperationId, line: &str) {
    let path = log_path(control, id);
    if let Some(dir) = path.parent() {
        drop(fs::create_dir_all(dir));
    }
    let Ok(mut file) = OpenOptions::new().create(true).append(true).open(&path) else {
        return;
    };
    let length = file.metadata().map_or(0, |m| m.len());
    if length > LOG_MAX {
        return;
    }
    let text = if length + line.len() as u64 > LOG_MAX {
        "... the rest of this log is cut ..."
    } else {
        line
    };
    drop(file.write_all(format!("{}\n", text.trim_end_matches('\n')).as_bytes()));
}

/// The lines of an operation's log from byte `from`, and the position after them.
///
/// # Errors
/// As the gate's.
pub fn log(
    control: &Control,
    actor: &Actor,
    id: &str,
    from: u64,
) -> Result<(Vec<String>, u64, bool), ControlError> {
    let found = control.read(|tx| load(tx, actor, Action::Read, id))?;
    let bytes = fs::read(log_path(control, found.row.id)).unwrap_or_default();
    let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    // Only whole lines: the writer may be in the middle of one.
    let end = bytes[start..]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(start, |at| start + at + 1);
    let text = String::from_utf8_lossy(&bytes[start..end]);
    Ok((
        text.lines().map(str::to_owned).collect(),
        end as u64,
        found.row.state.is_settled(),
    ))
}

/// The last lines of an operation's log.
pub(crate) fn log_tail(control: &Control, id: OperationId, lines: usize) -> Vec<String> {
    let text = fs::read(log_path(control, id)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Stores how an operation stands, unless it has settled meanwhile.
pub(crate) fn set_state(
    control: &Control,
    id: OperationId,
    change: impl Fn(&mut Operation, Timestamp) + Send + Sync,
) -> Result<(), ControlError> {
    let is_same = control.read(|tx| {
        let row = tx.need::<Operation>(&id.to_string())?.row;
        let mut next = row.clone();
        change(&mut next, Timestamp::from_ms(0));
        Ok(row.state.is_settled() || next == row)
    })?;
    if is_same {
        return Ok(());
    }
    control.write(|tx| {
        let mut found = tx.need::<Operation>(&id.to_string())?;
        if !found.row.state.is_settled() {
            let now = control.now_of(tx);
            let before = found.row.clone();
            change(&mut found.row, now);
            if found.row != before {
                tx.update_status(&found.row, store::Expect::Any)?;
            }
        }
        Ok(())
    })
}

/// Says which step an operation is at.
pub(crate) fn step(control: &Control, id: OperationId, text: &str) -> Result<(), ControlError> {
    if control.read(|tx| Ok(tx.need::<Operation>(&id.to_string())?.row.step == text))? {
        return Ok(());
    }
    log_line(control, id, &format!("==> {text}"));
    set_state(control, id, |operation, _| {
        operation.state = OperationState::Running;
        text.clone_into(&mut operation.step);
    })
}

/// The same in the caller's transaction, without the line in the log.
pub(crate) fn step_in(tx: &WriteTx, id: OperationId, text: &str) -> Result<(), ControlError> {
    let mut found = tx.need::<Operation>(&id.to_string())?;
    if !found.row.state.is_settled() {
        found.row.state = OperationState::Running;
        text.clone_into(&mut found.row.step);
        tx.update_status(&found.row, store::Expect::Any)?;
    }
    Ok(())
}

/// Settles an operation as failed.
pub(crate) fn fail(control: &Control, id: OperationId, failure: &Failure) -> Result<(), ControlError> {
    log_line(control, id, &format!("==> failed: {}", failure.message));
    set_state(control, id, |operation, now| {
        operation.state = ended(operation, now, failure);
    })
}

/// The code of what was given up on request.
pub(crate) const CANCELED: &str = "canceled";

/// How an operation ends that did not get where it should: canceled when somebody asked for that, whatever noticed it first.
/// A movement that goes back has told why when it began to; its end is not decided here.
pub(crate) fn ended(operation: &Operation, at: Timestamp, failure: &Failure) -> OperationState {
    match operation.cancel {
        true => OperationState::Canceled { at },
        false => OperationState::Failed {
            at,
            failure: failure.clone(),
        },
    }
}

/// Settles an operation whose worker failed. When its release was made after all (an answer of the disk that was lost on its
/// way, a second worker that began on older facts), the release is the reconcilers' to move, and the operation goes on.
pub(crate) fn fail_unless_made(
    control: &Control,
    id: OperationId,
    failure: &Failure,
) -> Result<(), ControlError> {
    let is_made = control.read(|tx| Ok(tx.need::<Operation>(&id.to_string())?.row.release.is_some()))?;
    if is_made {
        return Ok(());
    }
    fail(control, id, failure)
}

/// Settles an operation as done.
pub(crate) fn succeed(control: &Control, id: OperationId, outcome: &str) -> Result<(), ControlError> {
    set_state(control, id, |operation, now| {
        operation.state = OperationState::Succeeded { at: now };
        "done".clone_into(&mut operation.step);
        operation.outcome = Some(outcome.to_owned());
    })
}

/// A failure from an error of ours.
pub(crate) fn failure_of(error: &ControlError, log_tail: Vec<String>) -> Failure {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    Failure {
        code: error.code().to_owned(),
        message,
        next_step: error.next(),
        log_tail,
    }
}
