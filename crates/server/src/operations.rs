//! Operations: see, wait, cancel, read their log.

use std::time::Duration;

use api::{OperationLine, OperationLog, OperationPage, OperationState};
use control::operations;
use model::operation::Work;

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::refusal::Refusal;
use crate::stream::{Events, Seen, Wake};

/// The longest wait of one request: proxies cut longer ones.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let walk = pages::Walk::of(call)?;
    let page = operations::list(
        call.control(),
        call.actor()?,
        &call.place()?,
        &walk.from,
        walk.limit,
    )?;
    let next_page = walk.next(page.rows.len(), page.next);
    let rows = page.rows.iter().map(|operation| &operation.row);
    Reply::ok(&OperationPage {
        items: filtered(call, rows),
        next_page,
    })
}

pub(crate) fn list_all(call: &Call) -> Result<Reply, Refusal> {
    let walk = pages::Walk::of(call)?;
    let (rows, next) = operations::list_all(call.control(), call.actor()?, &walk.from, walk.limit)?;
    let next_page = walk.next(rows.len(), next);
    Reply::ok(&OperationPage {
        items: filtered(call, rows.iter()),
        next_page,
    })
}

/// Those that the filters let pass.
fn filtered<'o>(call: &Call, rows: impl Iterator<Item = &'o model::Operation>) -> Vec<api::Operation> {
    let is = |name: &str, value: &str| call.query(name).is_none_or(|wanted| wanted == value);
    rows.map(wire)
        .filter(|operation| is("state", state_name(operation.state)) && is("work", &operation.work))
        .collect()
}

fn state_name(state: OperationState) -> &'static str {
    match state {
        OperationState::Pending => "pending",
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Canceled => "canceled",
    }
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let wait = call.duration("wait").unwrap_or_default().min(WAIT_MAX);
    // When too many wait already, the answer comes at once: the caller asks again.
    let permit = call.shared.limits.waits.try_acquire();
    let wait = if permit.is_ok() { wait } else { Duration::ZERO };
    let found = operations::view(call.control(), call.actor()?, call.parameter("operation")?, wait)?;
    Reply::ok(&wire(&found.row))
}

pub(crate) fn cancel(call: &Call) -> Result<Reply, Refusal> {
    let found = operations::cancel(call.control(), call.actor()?, call.parameter("operation")?)?;
    Reply::accepted(&found.row)
}

pub(crate) fn log(call: &Call) -> Result<Reply, Refusal> {
    let id = call.parameter("operation")?.to_owned();
    let mut position = match &call.last_event_id {
        Some(id) => id
            .parse()
            .map_err(|_| Refusal::bad_request("Last-Event-ID must be the id of a frame"))?,
        None => call.number("since").unwrap_or_default(),
    };
    if !call.wants_events {
        let (lines, position, settled) = operations::log(call.control(), call.actor()?, &id, position)?;
        let lines = lines.into_iter().map(|text| OperationLine { text }).collect();
        return Reply::ok(&OperationLog {
            lines,
            position,
            settled,
        });
    }
    let follows = call.is_set("follow");
    let (shared, actor) = (std::sync::Arc::clone(&call.shared), call.actor()?.clone());
    let look = Box::new(move || {
        let mut seen = Seen::default();
        let (lines, next, settled) = operations::log(&shared.control, &actor, &id, position)?;
        let last = lines.len();
        for (index, text) in lines.into_iter().enumerate() {
            // Only the last line's frame moves the place to resume at: lines of one look come again together.
            let at = if index + 1 == last { next } else { position };
            seen.frame(&at.to_string(), "line", &OperationLine { text });
        }
        // What is settled writes no more; a last look after that has everything.
        let is_all = last == 0 && settled;
        position = next;
        if is_all || !follows {
            seen.frame(&position.to_string(), "end", &serde_json::json!({}));
            seen.is_end = true;
        }
        Ok(seen)
    });
    Ok(Reply::Events(Events::open(call, Wake::Often, look)?))
}

/// An operation on the wire.
pub(crate) fn wire(operation: &model::Operation) -> api::Operation {
    let (work, target) = match &operation.work {
        Work::Deploy { app, .. } => ("deploy", app.to_string()),
        Work::Rollback { app, .. } => ("rollback", app.to_string()),
        Work::Restart { app } => ("restart", app.to_string()),
        Work::Scale { app } => ("scale", app.to_string()),
        Work::Run { app, .. } => ("run", app.to_string()),
        Work::DeleteApp { app } => ("delete_app", app.to_string()),
        Work::CreateDatabase { database } => ("create_database", database.to_string()),
        Work::RotateDatabase { database } => ("rotate_database", database.to_string()),
        Work::RestartDatabase { database } => ("restart_database", database.to_string()),
        Work::BranchDatabase { database } => ("branch_database", database.to_string()),
        Work::ResetDatabase { database } => ("reset_database", database.to_string()),
        Work::BackupDatabase { database } => ("backup_database", database.to_string()),
        Work::DrillDatabase { database, .. } => ("drill_database", database.to_string()),
        Work::RestoreDatabase { database } => ("restore_database", database.to_string()),
        Work::PromoteDatabase { database, .. } => ("promote_database", database.to_string()),
        Work::UpgradeDatabase { of, .. } => ("upgrade_database", of.to_string()),
        Work::DestroyDatabase { database } => ("destroy_database", database.to_string()),
        Work::VerifyTarget => ("verify_target", "backup target".to_owned()),
        Work::RotateKey { .. } => ("rotate_key", "master key".to_owned()),
        Work::Image { name, .. } => ("image", name.clone()),
    };
    let (state, settled_at, error) = match &operation.state {
        model::OperationState::Pending => (OperationState::Pending, None, None),
        model::OperationState::Running => (OperationState::Running, None, None),
        model::OperationState::Succeeded { at } => (OperationState::Succeeded, Some(*at), None),
        model::OperationState::Canceled { at } => (OperationState::Canceled, Some(*at), None),
        model::OperationState::Failed { at, failure } => (
            OperationState::Failed,
            Some(*at),
            Some(api::Failure {
                code: failure.code.clone(),
                message: failure.message.clone(),
                next_step: failure.next_step.clone(),
                log_tail: failure.log_tail.clone(),
            }),
        ),
    };
    api::Operation {
        id: operation.id.to_string(),
        work: work.to_owned(),
        target,
        state,
        step: operation.step.clone(),
        cancel_requested: operation.cancel,
        release: operation.release.map(|release| release.to_string()),
        outcome: operation.outcome.clone(),
        exit_code: operation.exit_code,
        error,
        actor: operation.actor.clone(),
        created_at: operation.created_at,
        deadline: operation.deadline,
        settled_at,
    }
}
