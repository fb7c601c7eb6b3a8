//! Looks at whether the log of each database is received, has its commits wait for that where it is asked for, and lets them
//! go when the receiver is away.
//!
//! Lives here: asking, storing and telling, in that order. Does not live here: what to do (`plan::receipt`).
//! Invariants: the row says that commits are let go before the server does it, and that they wait only after the server said
//! so. The looks are apart from the care for archives, which may take long over one of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use databases::{Psql, archive};
use model::{Archive, Commits, Database, DatabaseId, Level, Millis, Timestamp};
use plan::receipt::{Memory, Seen, Step};

use super::archive::is_archived;
use super::{change, refused};
use crate::databases::backups::server_of;
use crate::transact::all;
use crate::{Control, ControlError};

/// How soon a change of the level is noticed, and an end of ours.
const GLANCE: Duration = Duration::from_millis(500);
/// Between two looks at a database whose commits wait, or are to: a fifth of how long they may.
const LOOK_HELD: Duration = Duration::from_secs(2);
/// The same of one whose log is not all received.
const LOOK_SOON: Duration = Duration::from_secs(5);
/// The same of all others: half of what is told as late. A look costs the start of a program in the server's instance.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How far the moment since when a log is late moves before the row says so.
const NOTED_EVERY: Millis = Millis::seconds(60);

#[derive(Default)]
struct Care {
    memory: Memory,
    next: Option<Instant>,
}

/// Looks again and again until `stop` is set.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut cares: BTreeMap<DatabaseId, Care> = BTreeMap::new();
    let mut seen = None;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        let (now, rev) = (Instant::now(), control.store.rev());
        let mut nexts = cares.values().filter_map(|care| care.next);
        if seen == Some(rev) && !nexts.any(|next| next <= now) {
            continue;
        }
        seen = Some(rev);
        if let Err(cause) = look(control, &mut cares, stop) {
            tracing::warn!(%cause, "could not see whether logs are received; it is tried again");
            seen = None;
        }
    }
}

fn look(
    control: &Control,
    cares: &mut BTreeMap<DatabaseId, Care>,
    stop: &AtomicBool,
) -> Result<(), ControlError> {
    let databases = control.read(|tx| Ok(all::<Database>(tx)?.0))?;
    cares.retain(|id, _| databases.iter().any(|database| database.id == *id));
    control
        .late
        .keep(|id| databases.iter().any(|database| database.id == id));
    for database in databases.iter().filter(|database| is_archived(database)) {
        let Some(kept) = &database.archive else { continue };
        let care = cares.entry(database.id).or_insert_with(|| Care {
            memory: Memory::of(kept.behind),
            next: None,
        });
        let is_due = care.next.is_none_or(|next| next <= Instant::now());
        // Each change of the row shows here first; looking again while it is not done is bounded by the next look.
        if !is_due && is_settled(database, kept) || stop.load(Ordering::Relaxed) {
            continue;
        }
        let looked = see_to(control, database, kept, care);
        if let Err(cause) = looked {
            tracing::warn!(database = %database.name, %cause, "could not see whether its log is received; it is tried again");
        }
        let pause = match (database.level, kept.commits) {
            (Level::Stream, Commits::Free) if care.memory.since().is_none() => LOOK_EVERY,
            (Level::Stream, Commits::Free) => LOOK_SOON,
            (Level::Stream | Level::Sync, _) => LOOK_HELD,
        };
        care.next = Some(Instant::now() + pause);
    }
    Ok(())
}

/// Whether the level it has is the one that is looked after.
fn is_settled(database: &Database, archive: &Archive) -> bool {
    match (database.level, archive.commits) {
        (Level::Stream, Commits::Free) | (Level::Sync, Commits::Held { .. } | Commits::Released { .. }) => {
            true
        }
        (Level::Stream, Commits::Held { .. } | Commits::Released { .. }) | (Level::Sync, Commits::Free) => {
            false
        }
    }
}

fn see_to(
    control: &Control,
    database: &Database,
    kept: &Archive,
    care: &mut Care,
) -> Result<(), ControlError> {
    // One that does not answer writes nothing: what was known of it stays.
    let Some(server) = server_of(control, database.id)? else {
        return Ok(());
    };
    let psql = Psql {
        engine: &*control.engine,
        instance: server.id,
    };
    let found = archive::receipt(psql).map_err(refused)?;
    let seen = Seen {
        written: found.written,
        received: found.received,
        is_streaming: found.is_streaming,
        is_held: found.is_held,
        waiting: found.waiting,
    };
    let now = Timestamp::now();
    care.memory.note(&seen, now);
    control
        .late
        .note(database.id, care.memory.since(), care.memory.bytes());
    let behind = care.memory.behind(kept.behind, archive::kept(database.size), now);
    match (behind, kept.behind) {
        // One that stays as far behind moves on all the time: the row follows now and then.
        (Some(is), Some(was)) if is.since.since(was.since) < NOTED_EVERY => {}
        (Some(is), Some(_)) => note_behind(control, database.id, Some(is))?,
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => tell_behind(control, database, behind, care)?,
    }
    match care.memory.decide(database.level, kept.commits, &seen, now) {
        Step::Nothing => Ok(()),
        Step::Hold => archive::hold_commits(psql).map_err(refused),
        Step::Note { to } => {
            tracing::info!(database = %database.name, "its commits wait until they are received");
            note(control, database.id, to)
        }
        Step::Release { to } => {
            if let (Commits::Released { .. }, Commits::Free | Commits::Held { .. }) = (to, kept.commits) {
                tracing::error!(database = %database.name,
                    "its log is not received: its commits no longer wait for that, and may be lost; see: stoa db info {}", database.name);
            }
            if to != kept.commits {
                note(control, database.id, to)?;
            }
            archive::release_commits(psql).map_err(refused)
        }
    }
}

fn tell_behind(
    control: &Control,
    database: &Database,
    behind: Option<model::Behind>,
    care: &Care,
) -> Result<(), ControlError> {
    match behind {
        Some(behind) => {
            tracing::error!(database = %database.name, since = %behind.since, bytes = care.memory.bytes().get(),
                "its log is not received in time; see: stoa db backups {}", database.name);
        }
        None => {
            tracing::info!(database = %database.name, "its log is received again");
        }
    }
    note_behind(control, database.id, behind)
}

fn note_behind(control: &Control, id: DatabaseId, behind: Option<model::Behind>) -> Result<(), ControlError> {
    change(control, id, |row| {
        if let Some(archive) = &mut row.archive {
            archive.behind = behind;
        }
    })
}

fn note(control: &Control, id: DatabaseId, commits: Commits) -> Result<(), ControlError> {
    change(control, id, |row| {
        if let Some(archive) = &mut row.archive {
            archive.commits = commits;
        }
    })
}
