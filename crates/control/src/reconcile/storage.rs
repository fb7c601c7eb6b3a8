//! Room on the disk: what databases and instances take is measured, and whoever takes too much is held up before the disk
//! is full for everybody.
//!
//! ```text
//! sizes, one thread:  who is due -> walk -> remember; an instance beyond its limit is ended, and its exit says why
//! pool, one thread:   what is free -> for each database: decide (plan) by that and its last size
//!                     -> full: row, then the server is told to only read | room again: the server is told, then row
//! telling: a thread for each server, bounded in number and time
//! ```
//! Invariants: the row says `full` for as long as the server may be told to only read, so a crash in between is repaired by
//! the next look; measuring takes a small part of the time, however much there is to measure; nobody who is slow to be
//! measured or told, and no defect met with one of them, keeps the others from being seen to.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::{
    Bytes, Condition, Database, DatabaseId, Instance, InstanceId, Millis, Purpose, Release, Resources,
    StorageFull,
};
use plan::storage::{self, Space};
use store::{Expect, ReadTx};

use super::databases::{Server, is_wanted, volume_of};
use crate::transact::{all, unless_corrupt};
use crate::{Control, ControlError};

/// How soon an end of ours is noticed.
const GLANCE: Duration = Duration::from_millis(500);
/// After a look that failed or met a defect.
const AGAIN: Duration = Duration::from_secs(5);
/// Who has to be measured is looked up no more often than this.
const MEASURE_SOONEST: Duration = Duration::from_secs(1);
/// And no more seldom: there may be new ones.
const MEASURE_LATEST: Duration = Duration::from_secs(5);
/// Servers that are told something at once.
const TOLD_AT_ONCE: usize = 16;

/// Looks again and again until `stop` is set.
pub(super) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let room = Arc::new(Room::default());
    std::thread::scope(|scope| {
        scope.spawn(|| repeat(stop, || measure(control, &room, stop)));
        repeat(stop, || {
            let (wait, orders) = look(control, &room)?;
            for order in orders {
                give(control, &room, order);
            }
            Ok(wait)
        });
    });
}

/// Does it again each time after as long as it says.
fn repeat(stop: &AtomicBool, mut work: impl FnMut() -> Result<Duration, ControlError>) {
    let mut next = Instant::now() + GLANCE;
    while !stop.load(Ordering::Relaxed) {
        let left = next.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left.min(GLANCE));
            continue;
        }
        let wait = carefully("look at what takes room", &mut work);
        next = Instant::now() + wait.unwrap_or(AGAIN);
    }
}

/// Nothing when it failed: that is logged, and is the trouble of whom it was about.
fn carefully<T>(what: &str, work: impl FnOnce() -> Result<T, ControlError>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Some(done),
        Ok(Err(cause)) => {
            tracing::warn!(%cause, source = ?std::error::Error::source(&cause), "could not {what}; it is tried again");
            None
        }
        Err(_) => {
            tracing::error!("a defect kept us from this: {what}; it is tried again");
            None
        }
    }
}

/// What this process knows of who takes room.
#[derive(Default)]
pub(super) struct Room {
    sizes: Mutex<BTreeMap<Subject, Size>>,
    told: Mutex<BTreeMap<DatabaseId, Told>>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Database(DatabaseId),
    Instance(InstanceId),
}

#[derive(Debug, Clone, Copy)]
struct Size {
    /// Nothing before it could be measured once.
    bytes: Option<Bytes>,
    due: Instant,
}

/// What a database's server was told, as far as this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    UnderWay,
    Done(InstanceId, May),
}

/// What a server may let its sessions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    OnlyRead,
    WriteAgain,
}

/// A server is to be told something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    database: DatabaseId,
    server: InstanceId,
    may: May,
}

impl Room {
    fn sizes(&self) -> MutexGuard<'_, BTreeMap<Subject, Size>> {
        // Each change is one insertion.
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<DatabaseId, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures who is due; how long until somebody is again.
pub(super) fn measure(control: &Control, room: &Room, stop: &AtomicBool) -> Result<Duration, ControlError> {
    let (databases, instances) = control.read(|tx| Ok((all::<Database>(tx)?.0, all::<Instance>(tx)?.0)))?;
    let databases = databases.iter().filter(|database| is_wanted(database));
    let databases: BTreeMap<_, _> = databases.map(|one| (Subject::Database(one.id), one)).collect();
    let instances = instances.iter().filter(|one| one.condition.is_live());
    let instances: BTreeMap<_, _> = instances.map(|one| (Subject::Instance(one.id), one)).collect();
    let count = databases.len() + instances.len();
    let begun = Instant::now();
    let mut due: Vec<(Instant, Subject)> = {
        let mut sizes = room.sizes();
        sizes.retain(|subject, _| databases.contains_key(subject) || instances.contains_key(subject));
        let due_at = |subject| sizes.get(subject).map_or(begun, |size: &Size| size.due);
        let all = databases.keys().chain(instances.keys());
        all.map(|subject| (due_at(subject), *subject)).collect()
    };
    due.retain(|(at, _)| *at <= begun);
    // Who waits longest comes first: whoever comes late in one look is early in the next.
    due.sort_unstable();
    for (_, subject) in due {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let before = Instant::now();
        let measured = carefully("measure what takes room", || match subject {
            Subject::Database(_) => databases.get(&subject).map_or(Ok(None), |one| {
                let volume = volume_of(one.id);
                Ok(Some(control.engine.volume_bytes(&volume, one.size)?))
            }),
            Subject::Instance(_) => instances
                .get(&subject)
                .map_or(Ok(None), |one| of_instance(control, one)),
        });
        let took = Millis::new(u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut sizes = room.sizes();
        let last = sizes.get(&subject).and_then(|size| size.bytes);
        let size = Size {
            bytes: measured.flatten().or(last),
            due: Instant::now() + storage::next_measure(took, count).as_duration(),
        };
        sizes.insert(subject, size);
    }
    let next = room.sizes().values().map(|size| size.due).min();
    let wait = next.map_or(MEASURE_LATEST, |next| {
        next.saturating_duration_since(Instant::now())
    });
    Ok(wait.clamp(MEASURE_SOONEST, MEASURE_LATEST))
}

/// Looks at the pool and decides about each database; how long until the next look, and who is to be told what.
pub(super) fn look(control: &Control, room: &Room) -> Result<(Duration, Vec<Order>), ControlError> {
    let (databases, instances) = control.read(|tx| Ok((all::<Database>(tx)?.0, all::<Instance>(tx)?.0)))?;
    let pool_free = carefully("measure the pool", || Ok(control.engine.pool_free()?));
    let mut orders = Vec::new();
    for database in databases.iter().filter(|database| is_wanted(database)) {
        let order = carefully("see to the room of a database", || {
            of_database(control, room, database, &instances, pool_free)
        });
        orders.extend(order.flatten());
    }
    Ok((storage::next_look(pool_free).as_duration(), orders))
}

fn of_database(
    control: &Control,
    room: &Room,
    database: &Database,
    instances: &[Instance],
    pool_free: Option<Bytes>,
) -> Result<Option<Order>, ControlError> {
    let size = room.sizes().get(&Subject::Database(database.id)).copied();
    let space = Space {
        used: size.and_then(|size| size.bytes),
        budget: database.size,
        pool_free,
    };
    let full = storage::database(space, database.full);
    if full.is_some() && database.full != full {
        tracing::warn!(database = %database.name, used = ?space.used, budget = %space.budget,
            "it is full and may only be read; see: stoa db info {}", database.name);
        note(control, database.id, full)?;
    }
    let may = match (full, database.full) {
        (Some(_), _) => May::OnlyRead,
        (None, Some(_)) => May::WriteAgain,
        (None, None) => return Ok(None),
    };
    // One that does not run is told when it does; until then the row goes on saying that it may have to be told.
    let server = instances.iter().find(|one| {
        matches!(&one.purpose, Purpose::Database { database: of } if *of == database.id)
            && matches!(one.condition, Condition::Ready { .. })
    });
    Ok(server.map(|server| Order {
        database: database.id,
        server: server.id,
        may,
    }))
}

fn note(control: &Control, id: DatabaseId, full: Option<StorageFull>) -> Result<(), ControlError> {
    control.write(|tx| {
        let mut found = tx.need::<Database>(&id.to_string())?;
        found.row.full = full;
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

/// Has a server told, beside everything else; later, when many are being told.
fn give(control: &Arc<Control>, room: &Arc<Room>, order: Order) {
    {
        let told = room.told();
        let under_way = told.values().filter(|told| **told == Told::UnderWay).count();
        let is_known = told.get(&order.database) == Some(&Told::Done(order.server, May::OnlyRead));
        if under_way >= TOLD_AT_ONCE || is_known && order.may == May::OnlyRead {
            return;
        }
    }
    let (control, room) = (Arc::clone(control), Arc::clone(room));
    let tell = move || carry_out(&control, &room, order);
    if let Err(cause) = std::thread::Builder::new().name("room".to_owned()).spawn(tell) {
        tracing::warn!(%cause, "a database's server could not be told what it may do; it is tried again");
    }
}

/// Tells a server, unless it is being told or was told this. The row is cleared only afterwards.
pub(super) fn carry_out(control: &Control, room: &Room, order: Order) {
    let before = {
        let mut told = room.told();
        if told.get(&order.database) == Some(&Told::UnderWay) {
            return;
        }
        told.insert(order.database, Told::UnderWay)
    };
    let done = carefully("tell a database's server what it may do", || {
        if before != Some(Told::Done(order.server, order.may)) {
            let id = order.database.to_string();
            let row = control.read(|tx| Ok(tx.need::<Database>(&id)?.row))?;
            let server = Server::of(control, &row, order.server)?;
            let told = match order.may {
                May::OnlyRead => server.only_read(),
                May::WriteAgain => server.write_again(),
            };
            told.map_err(super::databases::refused)?;
        }
        match order.may {
            May::OnlyRead => Ok(()),
            May::WriteAgain => note(control, order.database, None),
        }
    });
    let mut told = room.told();
    match done {
        Some(()) => told.insert(order.database, Told::Done(order.server, order.may)),
        None => told.remove(&order.database),
    };
}

/// What it wrote; it is ended when that is too much.
fn of_instance(control: &Control, instance: &Instance) -> Result<Option<Bytes>, ControlError> {
    let Some(limit) = control.read(|tx| limit(tx, instance))? else {
        return Ok(None);
    };
    let written = control.engine.written(instance.id, limit)?;
    if storage::is_beyond(written, limit) {
        tracing::warn!(instance = %instance.id, %written, %limit, "it wrote too much into its own file system and is ended");
        control.engine.end_full(instance.id)?;
    }
    Ok(Some(written))
}

/// What an instance may write outside of volumes; nothing when its release cannot be told.
fn limit(tx: &ReadTx, instance: &Instance) -> Result<Option<model::Bytes>, ControlError> {
    let release = |id: &model::ReleaseId| -> Result<Option<Release>, ControlError> {
        let found = tx.get::<Release>(&id.to_string()).map_err(ControlError::from);
        Ok(unless_corrupt(found)?.flatten().map(|found| found.row))
    };
    let resources = match &instance.purpose {
        Purpose::Service {
            release: id, service, ..
        } => release(id)?.and_then(|of| of.services.get(service).map(|service| service.resources)),
        // A command of its own is no job of the release.
        Purpose::Job { release: id, job, .. } => release(id)?.map(|of| {
            of.jobs
                .get(job)
                .map_or_else(Resources::default, |job| job.resources)
        }),
        Purpose::Database { .. } | Purpose::Receiver { .. } | Purpose::Pooler { .. } => {
            Some(Resources::default())
        }
    };
    Ok(resources.map(|resources| resources.disk))
}
