//! Following an operation to its end: its log line by line, then what became of it.
//!
//! Invariant: leaving (Ctrl-C, `--timeout`, `--detach`) never stops the operation, and says how to come back. A server
//! that restarts meanwhile is waited for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use api::{Operation, OperationLine, OperationState};
use client::Next;
use model::Millis;

use crate::args::{OpCommand, Patience};
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::Session;
use crate::terminal;

/// How often Ctrl-C and the deadline are looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a server may be away before we give up: a restart of control takes a second or two.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// Where the lines of an operation's log go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Talk about the work.
    Stderr,
    /// The output of somebody's command: steps to stderr, all else to stdout.
    Stdout,
    /// The same, each line as an object.
    Json,
}

/// Follows the operation unless asked not to. The operation as it settled, or as it was accepted.
pub(crate) fn follow(
    session: &Session,
    operation: &Operation,
    patience: &Patience,
) -> Result<Operation, Failure> {
    follow_with(session, operation, patience, Lines::Stderr)
}

/// The same with a choice of where lines go.
pub(crate) fn follow_with(
    session: &Session,
    operation: &Operation,
    patience: &Patience,
    lines: Lines,
) -> Result<Operation, Failure> {
    if patience.detach {
        say(&format!(
            "accepted; follow it with: stoa op follow {}",
            operation.id
        ));
        return Ok(operation.clone());
    }
    to_the_end(session, &operation.id, patience.timeout, lines)
}

/// Follows the operation with this id.
pub(crate) fn to_the_end(
    session: &Session,
    id: &str,
    timeout: Millis,
    lines: Lines,
) -> Result<Operation, Failure> {
    terminal::catch_interrupt();
    let deadline = Instant::now() + timeout.as_duration();
    let mut seen = Seen::default();
    let mut away_since = None;
    loop {
        match follow_log(session, id, deadline, lines, &mut seen) {
            Ok(()) => {}
            Err(FollowError::Left(failure)) => return Err(failure),
            Err(FollowError::Client(error)) => wait_for_return(error, &mut away_since)?,
        }
        match session.client.operation_wait(id, "1s") {
            Ok(operation) if operation.state.is_settled() => return settled(operation, &seen.lines),
            Ok(_) => away_since = None,
            Err(error) => wait_for_return(error, &mut away_since)?,
        }
        leave_when_asked(id, deadline)?;
    }
}

enum FollowError {
    /// Somebody wants to leave.
    Left(Failure),
    /// The connection.
    Client(client::Error),
}

/// Prints the log from `position` until the server says that it ended.
fn follow_log(
    session: &Session,
    id: &str,
    deadline: Instant,
    lines: Lines,
    seen: &mut Seen,
) -> Result<(), FollowError> {
    let mut events = session
        .client
        .operation_log_follow(id, &seen.position)
        .map_err(FollowError::Client)?;
    loop {
        leave_when_asked(id, deadline).map_err(FollowError::Left)?;
        match events.next(GLANCE).map_err(FollowError::Client)? {
            Next::Nothing => {}
            Next::End => return Ok(()),
            Next::Frame(frame) => {
                if let Some(at) = frame.id {
                    seen.position = at;
                }
                if frame.event.as_deref() == Some("end") {
                    return Ok(());
                }
                if let Ok(line) = serde_json::from_str::<OperationLine>(&frame.data) {
                    seen.show(line, lines).map_err(FollowError::Left)?;
                }
            }
        }
    }
}

/// What was shown of a log.
#[derive(Default)]
struct Seen {
    /// Where to go on.
    position: String,
    /// The last lines, so that a failure does not repeat them.
    lines: VecDeque<String>,
}

/// More than any failure repeats.
const REMEMBERED: usize = 200;

impl Seen {
    fn show(&mut self, told: OperationLine, lines: Lines) -> Result<(), Failure> {
        let line = &told.text;
        // The failure itself comes last, with its next step.
        if line.starts_with("==> failed: ") {
            return Ok(());
        }
        match lines {
            Lines::Stdout if !line.starts_with("==> ") => output::data(&format!("{line}\n"))?,
            Lines::Json if !line.starts_with("==> ") => output::json_line(&told)?,
            Lines::Stdout | Lines::Json | Lines::Stderr => say(line),
        }
        if self.lines.len() == REMEMBERED {
            self.lines.pop_front();
        }
        self.lines.push_back(told.text);
        Ok(())
    }
}

fn leave_when_asked(id: &str, deadline: Instant) -> Result<(), Failure> {
    let back = format!("stoa op follow {id}");
    if terminal::is_interrupted() {
        return Err(Failure::new(
            Code::Interrupted,
            "detached; it goes on without us",
            back,
        ));
    }
    if Instant::now() >= deadline {
        return Err(Failure::new(
            Code::StillRunning,
            "still running; it goes on without us",
            back,
        ));
    }
    Ok(())
}

fn wait_for_return(error: client::Error, away_since: &mut Option<Instant>) -> Result<(), Failure> {
    let since = *away_since.get_or_insert_with(Instant::now);
    if !error.is_passing() || since.elapsed() > AWAY_MAX {
        return Err(error.into());
    }
    std::thread::sleep(GLANCE);
    Ok(())
}

/// The operation if it succeeded; otherwise why not.
fn settled(operation: Operation, shown: &VecDeque<String>) -> Result<Operation, Failure> {
    match operation.state {
        OperationState::Succeeded | OperationState::Pending | OperationState::Running => Ok(operation),
        OperationState::Canceled => Err(with_operation(
            Failure::new(
                Code::Failed,
                "it was given up on request",
                format!("see how far it came: stoa op show {}", operation.id),
            ),
            &operation,
        )),
        OperationState::Failed => {
            let Some(error) = &operation.error else {
                return Err(with_operation(
                    Failure::new(
                        Code::Failed,
                        "it failed without a reason",
                        format!("stoa op show {}", operation.id),
                    ),
                    &operation,
                ));
            };
            let code = if error.code == "release_rejected" {
                Code::Rejected
            } else {
                Code::Failed
            };
            let mut failure = Failure::new(code, error.message.clone(), error.next_step.clone());
            let fresh = error.log_tail.iter().filter(|line| !shown.contains(line));
            failure.ended_with = operation
                .exit_code
                .and_then(|code| u8::try_from(code).ok())
                .filter(|code| *code != 0);
            failure.details = fresh.map(|line| format!("| {line}")).collect();
            Err(with_operation(failure, &operation))
        }
    }
}

fn with_operation(mut failure: Failure, operation: &Operation) -> Failure {
    failure.problem = serde_json::to_value(operation).ok().map(Box::new);
    failure
}

/// `stoa op`.
pub(crate) fn operations(session: &Session, command: &OpCommand) -> Result<u8, Failure> {
    match command {
        OpCommand::Ls { limit } => {
            let operations = session.client.operations(&session.place, *limit)?;
            if session.json {
                output::json(&operations)?;
                return Ok(0);
            }
            let rows: Vec<Vec<String>> = operations
                .iter()
                .map(|o| {
                    vec![
                        o.id.clone(),
                        o.work.clone(),
                        state(o).to_owned(),
                        o.step.clone(),
                        output::ago(o.created_at),
                    ]
                })
                .collect();
            output::data(&output::table(
                &["OPERATION", "WORK", "STATE", "STEP", "BEGUN"],
                &rows,
            ))?;
        }
        OpCommand::Show { operation } => {
            let operation = session.client.operation(operation)?;
            output::json(&operation)?;
        }
        OpCommand::Follow { operation, timeout } => {
            let operation = to_the_end(session, operation, *timeout, Lines::Stderr)?;
            finish(session, &operation)?;
        }
        OpCommand::Cancel { operation } => {
            let operation = session.client.operation_cancel(operation)?;
            say(&format!(
                "asked for; see how it ends: stoa op follow {}",
                operation.id
            ));
            if session.json {
                output::json(&operation)?;
            }
        }
    }
    Ok(0)
}

pub(crate) fn state(operation: &Operation) -> &'static str {
    match operation.state {
        OperationState::Pending => "pending",
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Canceled => "canceled",
    }
}

/// Says how an operation went: the object as JSON, or its outcome in a sentence.
pub(crate) fn finish(session: &Session, operation: &Operation) -> Result<u8, Failure> {
    if session.json {
        output::json(operation)?;
    } else if !operation.state.is_settled() {
        output::data(&format!("{}\n", operation.id))?;
    } else {
        say(operation.outcome.as_deref().unwrap_or("done"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Timestamp;

    fn operation(state: OperationState, error: Option<api::Failure>) -> Operation {
        Operation {
            id: "op_1".to_owned(),
            work: "deploy".to_owned(),
            target: "app_1".to_owned(),
            state,
            step: String::new(),
            cancel_requested: false,
            release: None,
            outcome: None,
            exit_code: None,
            error,
            actor: "host-root".to_owned(),
            created_at: Timestamp::from_ms(0),
            deadline: Timestamp::from_ms(1),
            settled_at: None,
        }
    }

    #[test]
    fn a_rejected_release_shows_reason_log_and_way_on() {
        let error = api::Failure {
            code: "release_rejected".to_owned(),
            message: "v8 rejected: connection refused on :8080. v7 still serves".to_owned(),
            next_step: "stoa logs --release v8".to_owned(),
            log_tail: vec!["shown before".to_owned(), "panic: no database".to_owned()],
        };
        let shown = VecDeque::from(["shown before".to_owned()]);
        let failure = settled(operation(OperationState::Failed, Some(error)), &shown).expect_err("rejected");
        assert_eq!(failure.code, Code::Rejected);
        assert_eq!(
            failure.text(),
            "error: v8 rejected: connection refused on :8080. v7 still serves\n  | panic: no database\nnext: stoa logs --release v8\n"
        );
    }

    #[test]
    fn other_ends_have_their_codes() {
        assert!(settled(operation(OperationState::Succeeded, None), &VecDeque::new()).is_ok());
        for state in [OperationState::Failed, OperationState::Canceled] {
            assert_eq!(
                settled(operation(state, None), &VecDeque::new())
                    .expect_err("an end")
                    .code,
                Code::Failed
            );
        }
        let past = leave_when_asked("op_1", Instant::now()).expect_err("late");
        assert_eq!(
            (past.code, past.next.as_str()),
            (Code::StillRunning, "stoa op follow op_1")
        );
    }
}
