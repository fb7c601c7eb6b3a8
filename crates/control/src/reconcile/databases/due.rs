//! What leads to drills: canaries are written, and drills that are due are asked for.
//!
//! Invariants: one is asked for only when none is open; a server that is full gets no canary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::operation::Work;
use model::{Action, Actor, Database, DrilledCopy, Timestamp};
use plan::drill;

use super::archive::is_archived;
use super::drill::psql;
use crate::databases::{backups, drills};
use crate::transact::all;
use crate::{Control, ControlError, authorize};

/// How soon an end of ours is noticed.
const GLANCE: Duration = Duration::from_millis(500);
/// Between two canaries of a database that is written to.
const CANARY_EVERY: Duration = Duration::from_secs(30);
/// Between two looks at whether a drill is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Writes canaries and asks for drills that are due, until `stop` is set.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut canaries = Instant::now() + CANARY_EVERY;
    let mut looks = Instant::now() + LOOK_EVERY;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        if canaries <= Instant::now() {
            if let Err(cause) = write_canaries(control, stop) {
                tracing::warn!(%cause, "could not write canaries; it is tried again");
            }
            canaries = Instant::now() + CANARY_EVERY;
        }
        if looks <= Instant::now() {
            if let Err(cause) = ask_for_due(control, Timestamp::now()) {
                tracing::warn!(%cause, "could not see which drills are due; it is tried again");
            }
            looks = Instant::now() + LOOK_EVERY;
        }
    }
}

fn write_canaries(control: &Control, stop: &AtomicBool) -> Result<(), ControlError> {
    for database in control.read(|tx| Ok(all::<Database>(tx)?.0))? {
        // One that is full has no room even for this, and one that does not answer gets its canary later.
        if !is_archived(&database) || database.archive.is_none() || database.full.is_some() {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(server) = backups::server_of(control, database.id)?
            && let Err(cause) = databases::canary::write_after_others(psql(control, &server))
        {
            tracing::warn!(database = %database.name, %cause, "it got no canary; it is tried again");
        }
    }
    Ok(())
}

/// Asks for one drill that is due, unless one is under way: they are done one after the other.
fn ask_for_due(control: &Control, now: Timestamp) -> Result<(), ControlError> {
    let (databases, is_busy) = control.read(|tx| {
        let is_drill = |work: &Work| matches!(work, Work::DrillDatabase { .. });
        let is_busy = control.open.at(tx)?.iter().any(|open| is_drill(&open.work));
        Ok((all::<Database>(tx)?.0, is_busy))
    })?;
    if is_busy {
        return Ok(());
    }
    let target = control.read(drills::copy_elsewhere)?;
    for database in databases.iter().filter(|database| is_archived(database)) {
        let drills = control.read(|tx| drills::of(tx, database.id))?;
        let of = |copy: &DrilledCopy| drills::of_copy(&drills, copy);
        let bases = database.archive.iter().flat_map(|archive| &archive.bases);
        let newest = bases
            .max_by_key(|base| base.at)
            .map(|base| (base.at, base.number));
        if drill::is_due(&of(&DrilledCopy::Local), newest, now) {
            tracing::info!(database = %database.name, "a drill is due");
            return ask(control, database, &DrilledCopy::Local);
        }
        let Some(copy) = &target else { continue };
        let (progress, _) = control.uploads.of(database.id);
        if drill::is_target_due(&of(copy), progress.base, now) {
            tracing::info!(database = %database.name, "a drill of the copy on the target is due");
            return ask(control, database, copy);
        }
    }
    Ok(())
}

fn ask(control: &Control, database: &Database, copy: &DrilledCopy) -> Result<(), ControlError> {
    let actor = Actor::System;
    control.mutate(&actor, "database.drill", database.name.as_str(), |tx| {
        let row = tx.need::<Database>(&database.id.to_string())?.row;
        // Something may have become of it since it was read.
        if !is_archived(&row) {
            return Ok(());
        }
        let scope = authorize::environment_by_id(tx, &actor, Action::Manage, row.environment)?;
        drills::drill_in(control, tx, &actor, (&scope, &row), copy).map(drop)
    })
}
