//! The logs of Valkeys: rewritten when they grew, and kept as they were before that.
//!
//! ```text
//! rewrite (server, in the background): the former log stays beside the new one
//!   -> volume copied (making-aof-..) -> named aof-.. -> row has it, and its own log counts from that moment
//!   -> the server removes the former one -> what is too old or too much goes, the row first
//! ```
//! Invariants: at any moment a log reaches all of the window the row tells; a crash of ours leaves the former log in
//! the volume, and the next look goes on with that; none is rewritten while a former one is still there, or there would be
//! two histories in one list. Only one thread keeps logs. The log of a branch is rewritten and not kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use databases::valkey::{Cli, Former};
use model::{
    Database, DatabaseId, DatabaseState, InstanceId, KeptLog, Millis, Timestamp, Valkey, ValkeyPlan,
};
use plan::valkey::{Size, is_rewrite_due, surplus};

use super::{LOGGED_AFTER, copy_whole, note};
use crate::databases::backups::server_of;
use crate::databases::room;
use crate::databases::valkey::{admin_password, log_volume, logs_of};
use crate::reconcile::databases::{load, refused, volume_of, wait};
use crate::reconcile::workers::Job;
use crate::transact::all;
use crate::{Control, ControlError, operations};

/// How soon an end of ours is noticed.
const GLANCE: Duration = Duration::from_millis(500);
/// Between two looks at all logs: a few files each.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long a rewrite that was asked for may take.
const REWRITTEN_WITHIN: Duration = Duration::from_secs(600);
/// One that came to nothing is begun again after that: each costs memory and a file.
const REWRITE_AGAIN: Duration = Duration::from_secs(600);
/// What is kept is held for so long after its rewrite: what was written until a whole second is in it then.
const HELD: Millis = Millis::new(LOGGED_AFTER.as_ms() + 1000);

/// Held while a rewrite is begun, so that it is begun once.
static REWRITES: Mutex<()> = Mutex::new(());

/// When rewrites were begun that have come to nothing yet.
type Begun = BTreeMap<DatabaseId, Instant>;

/// A kept log while it is being copied.
pub(super) fn making(id: DatabaseId) -> String {
    format!("making-aof-{}", id.short(26))
}

/// Looks again and again until `stop` is set.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut next = Instant::now() + LOOK_EVERY;
    let mut begun = Begun::new();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        if Instant::now() < next {
            continue;
        }
        if let Err(cause) = look(control, &mut begun, stop) {
            tracing::warn!(%cause, "could not see to the logs of valkeys; it is tried again");
        }
        next = Instant::now() + LOOK_EVERY;
    }
}

fn look(control: &Control, begun: &mut Begun, stop: &AtomicBool) -> Result<(), ControlError> {
    let databases = control.read(|tx| Ok(all::<Database>(tx)?.0))?;
    begun.retain(|_, at| at.elapsed() < REWRITE_AGAIN);
    for database in databases.iter().filter(|database| has_log(database)) {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Err(cause) = see_to(control, database, begun) {
            tracing::warn!(database = %database.name, %cause, "could not see to its log; it is tried again");
        }
    }
    Ok(())
}

fn has_log(database: &Database) -> bool {
    let is_durable = |valkey: &Valkey| valkey.plan == ValkeyPlan::Durable;
    database.state == DatabaseState::Active && database.engine.valkey().is_some_and(is_durable)
}

/// Speaks with the server of a database as the platform.
fn with_cli<T>(
    control: &Control,
    database: &Database,
    instance: InstanceId,
    speak: impl FnOnce(Cli<'_>) -> Result<T, databases::DatabaseError>,
) -> Result<T, ControlError> {
    let valkey = database.engine.valkey().cloned().unwrap_or_default();
    let password = admin_password(control, database.id, &valkey)?;
    let cli = Cli {
        engine: &*control.engine,
        instance,
        password: password.expose_str().unwrap_or_default(),
    };
    speak(cli).map_err(refused)
}

fn see_to(control: &Control, database: &Database, begun: &mut Begun) -> Result<(), ControlError> {
    tidy(control, database)?;
    let Some(server) = server_of(control, database.id)? else {
        return Ok(());
    };
    let volume = volume_of(database.id);
    let Some(log) = databases::valkey::look(&*control.engine, &volume).map_err(refused)? else {
        return Ok(());
    };
    let size = Size {
        base: log.base,
        grown: log.grown,
    };
    let now = Timestamp::now();
    match log.former {
        // What was written while it was rewritten must be in the copy.
        Some(former) if now < former.since.plus(HELD) => Ok(()),
        Some(former) => {
            begun.remove(&database.id);
            keep(control, database, former, now)?;
            with_cli(control, database, server.id, |cli| cli.forget_former())
        }
        None if is_rewrite_due(size, database.size) && !begun.contains_key(&database.id) => {
            begun.insert(database.id, Instant::now());
            if !room::is_for_base(control, &volume)? {
                tracing::warn!(database = %database.name, "the pool has no room to rewrite its log; it grows on");
                return Ok(());
            }
            if rewrite(control, database, server.id)? {
                tracing::info!(database = %database.name, grown = %log.grown, "its log is rewritten");
            }
            Ok(())
        }
        None => Ok(()),
    }
}

/// Has the log rewritten, unless it is or a former one is still there. Says whether it was begun.
fn rewrite(control: &Control, database: &Database, server: InstanceId) -> Result<bool, ControlError> {
    let _alone = REWRITES.lock().unwrap_or_else(PoisonError::into_inner);
    let log = databases::valkey::look(&*control.engine, &volume_of(database.id)).map_err(refused)?;
    if log.is_none_or(|log| log.former.is_some()) {
        return Ok(false);
    }
    with_cli(control, database, server, |cli| cli.rewrite())
}

/// Keeps the log as it was before its rewrite, unless that was done.
fn keep(control: &Control, database: &Database, former: Former, now: Timestamp) -> Result<(), ControlError> {
    let engine = &*control.engine;
    let id = database.id;
    let valkey = database.engine.valkey().cloned().unwrap_or_default();
    let is_kept = valkey.kept.iter().any(|log| log.number == former.number);
    let Some(from) = valkey.since.filter(|_| !is_kept) else {
        return Ok(());
    };
    // The rewrite was over by then, and what was written by then is in both. A whole second: that is how a log is cut.
    let until = now.as_ms().saturating_sub(HELD.as_ms()).div_ceil(1000) * 1000;
    let until = Timestamp::from_ms(until);
    if former.is_torn {
        tracing::warn!(database = %database.name, "its log was rewritten twice at once: it can be restored to {until} at the earliest");
        return note(control, id, |valkey| valkey.since = Some(until));
    }
    if !room::is_for_base(control, &volume_of(id))? {
        tracing::warn!(database = %database.name, "the pool has no room to keep its log as it was: it can be restored to {until} at the earliest");
        return note(control, id, |valkey| valkey.since = Some(until));
    }
    copy_whole(control, &volume_of(id), &making(id))?;
    let volume = log_volume(id, former.number);
    engine.remove_volume(&volume)?;
    engine.rename_volume(&making(id), &volume)?;
    note(control, id, |valkey| {
        valkey.kept.push(KeptLog {
            number: former.number,
            from,
            until,
            bytes: former.bytes,
        });
        valkey.since = Some(until);
    })
}

/// Removes what is not kept any longer, and what a crash left.
fn tidy(control: &Control, database: &Database) -> Result<(), ControlError> {
    let id = database.id;
    let kept = database
        .engine
        .valkey()
        .map(|valkey| valkey.kept.clone())
        .unwrap_or_default();
    let gone = surplus(&kept, database.size, Timestamp::now());
    if gone > 0 {
        note(control, id, |valkey| {
            valkey.kept.drain(..gone.min(valkey.kept.len()));
        })?;
    }
    let names: Vec<String> = kept[gone..]
        .iter()
        .map(|log| log_volume(id, log.number))
        .collect();
    for volume in control.engine.volumes()? {
        if volume.name.starts_with(&logs_of(id)) && !names.contains(&volume.name) {
            control.engine.remove_volume(&volume.name)?;
        }
    }
    Ok(())
}

/// Has the log of a database rewritten now, and waits until it is kept as it was.
pub(in crate::reconcile::databases) fn backup(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let before = load(control, id)?;
    operations::step(control, job.operation, "rewriting the log")?;
    let instance = wait::running(control, id)?;
    let mut is_begun = false;
    let since = |database: &Database| database.engine.valkey().and_then(|valkey| valkey.since);
    let deadline = Instant::now() + REWRITTEN_WITHIN;
    loop {
        job.still_wanted()?;
        let rev = control.store.rev();
        let database = load(control, id)?;
        match since(&database).filter(|at| Some(*at) != since(&before)) {
            Some(at) => {
                let outcome = format!(
                    "the log of {} until {at} is kept; it begins anew since",
                    database.name
                );
                return operations::succeed(control, job.operation, &outcome);
            }
            None if Instant::now() >= deadline => {
                return Err(ControlError::State {
                    message: format!("the log of {} was not rewritten in time", database.name),
                    next_step: format!(
                        "see its state: stoa db info {}, and the host: stoa doctor",
                        database.name
                    ),
                });
            }
            None => {
                // One that is being kept comes first. Begun again after a crash, that may be the one that was asked for.
                is_begun = is_begun || rewrite(control, &database, instance)?;
                control.store.wait_change(rev, Duration::from_secs(1));
            }
        }
    }
}
