//! Moves operations on: the oldest of each app has the app, the others wait their turn.
//!
//! ```text
//! Deploy:   Pending -> [worker: source, databases, build -> release row] -> release jobs -> rollout -> settled
//! Rollback, Restart:                                                                      rollout -> settled
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::operation::Work;
use model::{
    App, AppId, DatabaseId, Failure, Instance, Operation, OperationState, Purpose, Release, ReleaseId,
    ReleaseState, Timestamp, app::Returning, app::Rollout, app::Serving,
};
use store::{Expect, WriteTx};

use super::workers::Workers;
use super::{Facts, apps, databases, deploy, jobs, keys, orphans};
use crate::planted::{self, Defect};
use crate::{Control, ControlError, operations};

/// What only one operation may move at a time; the others wait in the order in which they were accepted.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    App(AppId),
    Database(DatabaseId),
    /// One at a time over the whole server: each reads and replays all that a database has.
    Drill,
}

/// A one-off command and a new count change nothing that a rollout owns: they neither wait nor keep others waiting, so
/// that an hour's `stoa run`, or an app that cannot be scaled because it is broken, never holds up the deploy that mends it.
fn turns_of(work: &Work) -> Vec<Turn> {
    match work {
        Work::Deploy { app, .. } | Work::Rollback { app, .. } | Work::Restart { app } => {
            vec![Turn::App(*app)]
        }
        Work::CreateDatabase { database }
        | Work::RotateDatabase { database }
        | Work::RestartDatabase { database }
        | Work::BranchDatabase { database }
        | Work::ResetDatabase { database }
        | Work::BackupDatabase { database }
        | Work::RestoreDatabase { database }
        | Work::DestroyDatabase { database } => vec![Turn::Database(*database)],
        Work::PromoteDatabase { database, of, .. } | Work::UpgradeDatabase { database, of, .. } => {
            vec![Turn::Database(*database), Turn::Database(*of)]
        }
        // It reads the backup alone: nobody who wants something of the database waits for it.
        Work::DrillDatabase { .. } => vec![Turn::Drill],
        Work::Scale { .. }
        | Work::Run { .. }
        | Work::DeleteApp { .. }
        | Work::VerifyTarget
        | Work::RotateKey { .. }
        | Work::Image { .. } => Vec::new(),
    }
}

pub(super) fn advance(
    control: &Arc<Control>,
    workers: &Workers,
    facts: &mut Facts,
    now: Timestamp,
) -> Result<(), ControlError> {
    if facts.operations.is_empty() {
        return Ok(());
    }
    let mut taken: BTreeSet<Turn> = BTreeSet::new();
    for operation in facts.operations.values() {
        let turns = turns_of(&operation.work);
        let has_turn = !turns.iter().any(|turn| taken.contains(turn)) || planted::is(Defect::ForgetsTurns);
        taken.extend(turns);
        let is_over = operation.cancel || operation.deadline <= now;
        let is_going = facts.app_of(operation).is_some_and(|app| app.deleting);
        if !has_turn && !is_over && !is_going {
            continue;
        }
        if let Err(cause) = one(control, workers, facts, operation, now) {
            tracing::error!(operation = %operation.id, %cause, "could not advance an operation; it is tried again");
        }
    }
    // What was just decided (rollouts begun or ended) counts in this pass already.
    facts.refresh(control)
}

fn one(
    control: &Arc<Control>,
    workers: &Workers,
    facts: &Facts,
    operation: &Operation,
    now: Timestamp,
) -> Result<(), ControlError> {
    let app = facts.app_of(operation);
    let moves = app
        .and_then(|app| app.rollout.as_ref())
        .is_some_and(|rollout| rollout.operation == operation.id);
    let is_late = operation.deadline <= now && !planted::is(Defect::ForgetsDeadline);
    // Its names have changed: the only way is forward.
    let is_switched = databases::is_switched(facts, &operation.work);
    // The end of a movement's time is the planner's to judge: what is ready by then is promoted.
    if !is_switched && (operation.cancel || (is_late && !moves)) {
        return give_up(control, facts, operation, now);
    }
    match &operation.work {
        Work::DeleteApp { .. } => match app {
            // The planner ends what runs; `bury` settles this operation with the app's last row.
            Some(_) => operations::step(control, operation.id, "ending instances"),
            None => operations::succeed(control, operation.id, "deleted"),
        },
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
        | Work::DestroyDatabase { .. } => {
            databases::work(control, workers, operation);
            Ok(())
        }
        Work::Image { .. } => {
            workers.start(control, operation.id, &[], deploy::image);
            Ok(())
        }
        Work::VerifyTarget => {
            workers.start(control, operation.id, &[], databases::verify_target);
            Ok(())
        }
        Work::RotateKey { .. } => {
            workers.start(control, operation.id, &[], keys::rotate);
            Ok(())
        }
        Work::Deploy { .. }
        | Work::Rollback { .. }
        | Work::Restart { .. }
        | Work::Scale { .. }
        | Work::Run { .. } => match app {
            None => vanish(control, operation),
            Some(app) if app.deleting => {
                operations::set_state(control, operation.id, crate::apps::settle_for_deletion)
            }
            Some(_) if moves => Ok(()),
            Some(app) => of_app(control, workers, facts, operation, app, now),
        },
    }
}

fn of_app(
    control: &Arc<Control>,
    workers: &Workers,
    facts: &Facts,
    operation: &Operation,
    app: &App,
    now: Timestamp,
) -> Result<(), ControlError> {
    match &operation.work {
        Work::Deploy { .. } => match operation.release.map(|id| facts.releases.get(&id)) {
            // Made, and not read yet.
            Some(None) => Ok(()),
            None if operation.state == OperationState::Running && planted::is(Defect::ForgetsAfterCrash) => {
                Ok(())
            }
            None => {
                workers.start(control, operation.id, &[], deploy::prepare);
                Ok(())
            }
            Some(Some(release)) => gate(control, facts, operation, app, release, now),
        },
        // Whoever asked while a release was on trial wanted its end, and no more.
        Work::Rollback { to, .. } if app.serving.is_some_and(|serving| serving.release == *to) => {
            let number = facts.serving(app).map_or(0, |release| release.number);
            operations::succeed(control, operation.id, &format!("v{number} serves"))
        }
        Work::Rollback { to, .. } => begin(control, facts, operation, app, *to, now),
        Work::Restart { .. } => match app.serving {
            Some(serving) => begin(control, facts, operation, app, serving.release, now),
            None => vanish(control, operation),
        },
        Work::Scale { .. } => scaled(control, facts, operation, app),
        Work::Run { .. } => jobs::run(control, facts, operation, app, now),
        Work::DeleteApp { .. }
        | Work::CreateDatabase { .. }
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
        | Work::Image { .. } => Ok(()),
    }
}

/// The release jobs, then the rollout.
fn gate(
    control: &Control,
    facts: &Facts,
    operation: &Operation,
    app: &App,
    release: &Release,
    now: Timestamp,
) -> Result<(), ControlError> {
    match jobs::gate(control, facts, operation, app, release, now)? {
        jobs::Gate::Wait => Ok(()),
        jobs::Gate::Open => begin(control, facts, operation, app, release.id, now),
        jobs::Gate::Shut(failure) => {
            let serving = facts.serving(app);
            reject(control, operation, Some(release.id), failure, serving)
        }
    }
}

/// Begins the movement: one transaction makes the app's rollout field the operation's.
fn begin(
    control: &Control,
    facts: &Facts,
    operation: &Operation,
    app: &App,
    release: ReleaseId,
    now: Timestamp,
) -> Result<(), ControlError> {
    if app.rollout.is_some() {
        return Ok(());
    }
    let begun = control.write(|tx| {
        let mut found = tx.need::<App>(&app.id.to_string())?;
        let mine = tx.need::<Operation>(&operation.id.to_string())?.row;
        if found.row.rollout.is_some() || found.row.deleting || mine.cancel || mine.state.is_settled() {
            return Ok(None);
        }
        let to = tx.need::<Release>(&release.to_string())?.row;
        crate::hosts::refuse_taken(tx, &control.settings.domain, &found.row, &to.services)?;
        // A trial takes its time by design: the deadline is for everything else.
        let hold = if found.row.serving.is_some() {
            plan::app::trial_of(&to)
        } else {
            None
        };
        let deadline = hold.map_or(mine.deadline, |hold| mine.deadline.plus(hold));
        let epoch = match found.row.serving {
            Some(serving) if planted::is(Defect::ReusesEpoch) => serving.epoch,
            Some(_) | None => tx.next_number(&format!("epoch:{}", app.id))?,
        };
        found.row.rollout = Some(Rollout {
            operation: operation.id,
            to: Serving { release, epoch },
            started_at: now,
            deadline,
            failed: BTreeSet::new(),
            begun: BTreeMap::new(),
            returning: None,
        });
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        let mut found = tx.need::<Operation>(&operation.id.to_string())?;
        found.row.state = OperationState::Running;
        found.row.deadline = deadline;
        "starting instances".clone_into(&mut found.row.step);
        tx.update_status(&found.row, Expect::Any)?;
        Ok(Some(to.strategy))
    });
    match begun {
        Ok(Some(strategy)) => {
            let line = format!("==> starting instances: {strategy}");
            operations::log_line(control, operation.id, &line);
            Ok(())
        }
        Ok(None) => Ok(()),
        // Another app took a host or path since the release was made.
        Err(cause @ ControlError::State { .. }) => {
            let failure = operations::failure_of(&cause, Vec::new());
            reject(control, operation, Some(release), failure, facts.serving(app))
        }
        Err(cause) => Err(cause),
    }
}

/// The rollout arrived: the release serves, and the operation is done. One transaction.
pub(super) fn promote(control: &Control, app: &App, release: &Release) -> Result<(), ControlError> {
    let environment = control.read(|tx| crate::hosts::environment(tx, app))?;
    let urls = crate::apps::urls(control, &app.name, &environment, release);
    let outcome = match urls.first() {
        Some(url) => format!("v{} serves at {url}", release.number),
        None => format!("v{} runs", release.number),
    };
    if let Some(rollout) = &app.rollout {
        operations::log_line(control, rollout.operation, &format!("==> {outcome}"));
    }
    settle(control, app, |tx, app, operation, now| {
        if let Some(rollout) = app.rollout.take() {
            remember(app, rollout.to.release, &operation.work);
            app.serving = Some(rollout.to);
            let mut release = tx.need::<Release>(&rollout.to.release.to_string())?;
            release.row.state = ReleaseState::Proven;
            tx.update_status(&release.row, Expect::Any)?;
        }
        operation.state = OperationState::Succeeded { at: now };
        "done".clone_into(&mut operation.step);
        operation.outcome = Some(outcome.clone());
        Ok(())
    })
}

/// Where a later rollback goes. Going back forgets what it leaves and what came after its goal.
fn remember(app: &mut App, to: ReleaseId, work: &Work) {
    /// As many as images are kept for, and some.
    const REMEMBERED: usize = 20;
    let Some(from) = app
        .serving
        .map(|serving| serving.release)
        .filter(|from| *from != to)
    else {
        return;
    };
    let before = &mut app.served_before;
    if let Work::Rollback { .. } = work {
        let at = before.iter().position(|known| *known == to);
        before.truncate(at.unwrap_or(before.len()));
    } else {
        before.push(from);
        let surplus = before.len().saturating_sub(REMEMBERED);
        before.drain(..surplus);
    }
}

/// From now on the rollout goes back, and what led to that, if a look did, is remembered with it. It owns the app until
/// nothing but what serves may answer, and its operation has the time for that. One transaction.
pub(super) fn turn_back(
    control: &Control,
    app: &App,
    decision: Option<&plan::app::Decision>,
    failure: &Failure,
    now: Timestamp,
) -> Result<(), ControlError> {
    let turned = control.write(|tx| {
        let mut found = tx.need::<App>(&app.id.to_string())?;
        // Another movement than the one that was looked at: what was concluded is not about it.
        let known = app.rollout.as_ref().map(|known| known.to);
        let Some(rollout) = found.row.rollout.as_mut() else {
            return Ok(None);
        };
        if known != Some(rollout.to) || rollout.returning.is_some() {
            return Ok(None);
        }
        if let Some(decision) = decision {
            apps::progress(rollout, decision);
        }
        rollout.returning = Some(Returning {
            since: now,
            failure: failure.clone(),
        });
        let rollout = rollout.clone();
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        let mut operation = tx.need::<Operation>(&rollout.operation.to_string())?;
        let until = now.plus(apps::policy(control).return_limit);
        if !operation.row.state.is_settled() && operation.row.deadline < until {
            operation.row.deadline = until;
            tx.update_status(&operation.row, Expect::Any)?;
        }
        Ok(Some(rollout.operation))
    })?;
    if let Some(operation) = turned {
        operations::log_line(control, operation, &format!("==> failed: {}", failure.message));
    }
    if planted::is(Defect::SettlesBeforeBack) {
        let app = control.read(|tx| Ok(tx.need::<App>(&app.id.to_string())?.row))?;
        return come_back(control, &app);
    }
    Ok(())
}

/// The rollout is back: the old release serves on, the new one does not, and the operation failed. One transaction.
pub(super) fn come_back(control: &Control, app: &App) -> Result<(), ControlError> {
    settle(control, app, |tx, app, operation, now| {
        let rollout = app.rollout.take();
        if let Some((rollout, failure)) =
            rollout.and_then(|rollout| Some((rollout.to, rollout.returning?.failure)))
        {
            let mut release = tx.need::<Release>(&rollout.release.to_string())?;
            if release.row.state == ReleaseState::Pending {
                release.row.state = ReleaseState::Rejected {
                    why: failure.message.clone(),
                };
                tx.update_status(&release.row, Expect::Any)?;
            }
            // Why it goes back was told when it began to: who asks for an end meanwhile changes nothing about that.
            operation.state = match failure.code == operations::CANCELED {
                true => OperationState::Canceled { at: now },
                false => OperationState::Failed { at: now, failure },
            };
        }
        Ok(())
    })
}

fn settle(
    control: &Control,
    app: &App,
    change: impl FnOnce(&WriteTx, &mut App, &mut Operation, Timestamp) -> Result<(), ControlError>,
) -> Result<(), ControlError> {
    let left = control.write(|tx| {
        let mut found = tx.need::<App>(&app.id.to_string())?;
        let Some(rollout) = found.row.rollout.clone() else {
            return Ok(None);
        };
        if app.rollout.as_ref().map(|known| known.to) != Some(rollout.to) {
            return Ok(None);
        }
        let mut operation = tx.need::<Operation>(&rollout.operation.to_string())?;
        let before = operation.row.state.clone();
        change(tx, &mut found.row, &mut operation.row, control.now_of(tx))?;
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        // What was told once as settled stays so.
        if before.is_settled() {
            operation.row.state = before;
        }
        if planted::is(Defect::SettlesInTwo) {
            return Ok(Some(operation.row));
        }
        tx.update_status(&operation.row, Expect::Any)?;
        Ok(None)
    })?;
    match left {
        Some(operation) => control.write(|tx| Ok(tx.update_status(&operation, Expect::Any).map(drop)?)),
        None => Ok(()),
    }
}

/// Settles an operation whose release is not fit, before any rollout began.
pub(super) fn reject(
    control: &Control,
    operation: &Operation,
    release: Option<ReleaseId>,
    mut failure: Failure,
    serving: Option<&Release>,
) -> Result<(), ControlError> {
    if let Some(serving) = serving {
        failure.message = format!("{}; v{} still serves", failure.message, serving.number);
    }
    operations::log_line(control, operation.id, &format!("==> failed: {}", failure.message));
    control.write(|tx| {
        if let Some(release) = release
            && let Some(mut found) = tx.get::<Release>(&release.to_string())?
            && found.row.state == ReleaseState::Pending
        {
            found.row.state = ReleaseState::Rejected {
                why: failure.message.clone(),
            };
            tx.update_status(&found.row, Expect::Any)?;
        }
        let mut found = tx.need::<Operation>(&operation.id.to_string())?;
        if found.row.state.is_settled() {
            return Ok(());
        }
        if let Work::CreateDatabase { database }
        | Work::BranchDatabase { database }
        | Work::RestoreDatabase { database }
        | Work::UpgradeDatabase { database, .. } = &operation.work
        {
            databases::unmake(tx, *database, &failure.message)?;
        }
        if let Work::DrillDatabase { drill, .. } = &operation.work {
            databases::undo_drill(tx, *drill, &failure.message, control.now_of(tx))?;
        }
        found.row.state = operations::ended(&found.row, control.now_of(tx), &failure);
        tx.update_status(&found.row, Expect::Any)?;
        Ok(())
    })
}

/// Cancelled or out of time: before its movement it settles now, and what serves goes on serving; a movement goes back.
fn give_up(
    control: &Control,
    facts: &Facts,
    operation: &Operation,
    now: Timestamp,
) -> Result<(), ControlError> {
    let why = if operation.cancel {
        "given up on request"
    } else {
        "it took longer than its deadline"
    };
    let app = facts.app_of(operation);
    let mine = app
        .and_then(|app| app.rollout.as_ref())
        .filter(|rollout| rollout.operation == operation.id);
    if mine.is_some_and(|rollout| rollout.returning.is_some()) {
        return Ok(());
    }
    let failure = Failure {
        code: if operation.cancel {
            operations::CANCELED
        } else {
            "deadline"
        }
        .to_owned(),
        message: format!("{why}, at the step: {}", operation.step),
        next_step: "see what runs: stoa ps; then try again".to_owned(),
        log_tail: operations::log_tail(control, operation.id, 20),
    };
    for instance in orphans::live(&facts.instances) {
        if let Purpose::Job { operation: of, .. } = &instance.purpose
            && *of == operation.id
        {
            jobs::stop(control, facts, instance, now)?;
        }
    }
    match app {
        Some(app) if mine.is_some() => turn_back(control, app, None, &failure, now),
        Some(_) | None => {
            let serving = app.and_then(|app| facts.serving(app));
            reject(control, operation, operation.release, failure, serving)
        }
    }
}

fn vanish(control: &Control, operation: &Operation) -> Result<(), ControlError> {
    let failure = Failure {
        code: "not_found".to_owned(),
        message: "what it was to work on is gone".to_owned(),
        next_step: "see what is there: stoa status".to_owned(),
        log_tail: Vec::new(),
    };
    operations::fail(control, operation.id, &failure)
}

/// Done when each service has its number of ready instances.
fn scaled(control: &Control, facts: &Facts, operation: &Operation, app: &App) -> Result<(), ControlError> {
    let Some(release) = facts.serving(app) else {
        return vanish(control, operation);
    };
    for (name, service) in &release.services {
        let wanted = usize::from(*app.scale.get(name).unwrap_or(&service.count));
        let mine = facts
            .of_app(app.id)
            .iter()
            .filter(|instance| match &instance.purpose {
                Purpose::Service { service, .. } => service == name,
                Purpose::Job { .. }
                | Purpose::Database { .. }
                | Purpose::Receiver { .. }
                | Purpose::Pooler { .. } => false,
            });
        let (mut ready, mut live) = (0, 0);
        for instance in mine {
            live += usize::from(instance.condition.is_live());
            ready += usize::from(matches!(instance.condition, model::Condition::Ready { .. }));
        }
        if ready != wanted || live != wanted {
            return operations::set_state(control, operation.id, |operation, _| {
                operation.state = OperationState::Running;
                operation.step = format!("{name}: {ready} of {wanted} ready, {live} there");
            });
        }
    }
    operations::succeed(control, operation.id, "scaled")
}

/// Nothing of a deleted app lives any more: its rows go, in the transaction that settles its last operations.
pub(super) fn bury(control: &Control, app: &App) -> Result<(), ControlError> {
    control.write(|tx| {
        let Some(found) = tx.get::<App>(&app.id.to_string())? else {
            return Ok(());
        };
        let rows = tx.list::<Instance>(&app.id.to_string())?;
        if rows.iter().any(|row| row.row.condition.is_live()) {
            return Ok(());
        }
        let now = control.now_of(tx);
        for mut operation in operations::unsettled_of(control, tx, &found.row)? {
            if let Work::DeleteApp { .. } = operation.work {
                operation.state = OperationState::Succeeded { at: now };
                "done".clone_into(&mut operation.step);
                operation.outcome = Some("deleted".to_owned());
            } else {
                crate::apps::settle_for_deletion(&mut operation, now);
            }
            tx.update_status(&operation, Expect::Any)?;
        }
        crate::apps::forget(tx, &found.row)
    })
}
