//! Room on the disk: what databases and instances take is measured, and whoever takes too much is held up before the disk
//! is full for everybody.
//!
//! ```text
//! measure a volume -> decide (plan) -> full: row, then the server only reads | room again: the server writes, then row
//! measure an instance's own files -> beyond its limit: it is ended, and its exit says why
//! ```
//! Invariants: the row says `full` for as long as the server may be told to only read, so a crash in between is repaired by
//! the next look; measuring takes a small part of the time, however much there is to measure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use databases::Psql;
use model::{
    Condition, Database, DatabaseId, Instance, InstanceId, Purpose, Release, Resources, StorageFull,
};
use plan::storage::{self, Space};
use store::{Expect, ReadTx};

use super::databases::{is_wanted, volume_of};
use crate::transact::{all, unless_corrupt};
use crate::{Control, ControlError};

/// Between two looks. What can be written in that time is how far beyond its budget somebody may get.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Measuring takes at most this part of the time of a processor.
const SHARE: u32 = 50;
/// How soon an end of ours is noticed.
const GLANCE: Duration = Duration::from_millis(500);

/// Looks again and again until `stop` is set.
pub(super) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut told = Told::default();
    let mut next = Instant::now() + LOOK_EVERY;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        if Instant::now() < next {
            continue;
        }
        let begun = Instant::now();
        if let Err(cause) = look(control, &mut told) {
            tracing::warn!(%cause, "could not see what takes room; it is tried again");
        }
        next = Instant::now() + LOOK_EVERY.max(begun.elapsed() * SHARE);
    }
}

/// Which server of a database was told what, as far as this process knows.
#[derive(Default)]
pub(super) struct Told(BTreeMap<DatabaseId, (InstanceId, bool)>);

/// Measures everything once and acts on it.
pub(super) fn look(control: &Control, told: &mut Told) -> Result<(), ControlError> {
    let pool_free = control.engine.pool_free()?;
    let (databases, instances) = control.read(|tx| Ok((all::<Database>(tx)?.0, all::<Instance>(tx)?.0)))?;
    for database in databases.iter().filter(|database| is_wanted(database)) {
        if let Err(cause) = of_database(control, told, database, &instances, pool_free) {
            tracing::warn!(database = %database.name, %cause, "could not see to its room; it is tried again");
        }
    }
    for instance in instances.iter().filter(|one| one.condition.is_live()) {
        if let Err(cause) = of_instance(control, instance) {
            tracing::warn!(instance = %instance.id, %cause, "could not see what it wrote; it is tried again");
        }
    }
    Ok(())
}

fn of_database(
    control: &Control,
    told: &mut Told,
    database: &Database,
    instances: &[Instance],
    pool_free: model::Bytes,
) -> Result<(), ControlError> {
    let space = Space {
        used: control.engine.volume_bytes(&volume_of(database.id))?,
        budget: database.size,
        pool_free,
    };
    let full = storage::database(space, database.full);
    let server = instances.iter().find(|one| {
        matches!(&one.purpose, Purpose::Database { database: of } if *of == database.id)
            && matches!(one.condition, Condition::Ready { .. })
    });
    if full.is_some() {
        if database.full != full {
            tracing::warn!(database = %database.name, used = %space.used, budget = %space.budget,
                "it is full and may only be read; see: stoa db info {}", database.name);
            note(control, database.id, full)?;
        }
        return tell(control, told, database.id, server, true);
    }
    if database.full.is_some() {
        tell(control, told, database.id, server, false)?;
        // Not before the server knows: the row is what says that it may still have to be told.
        if server.is_some() {
            note(control, database.id, None)?;
        }
    }
    Ok(())
}

fn note(control: &Control, id: DatabaseId, full: Option<StorageFull>) -> Result<(), ControlError> {
    control.write(|tx| {
        let mut found = tx.need::<Database>(&id.to_string())?;
        found.row.full = full;
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

/// Tells the server, unless this very one was told. One that does not run is told when it does.
fn tell(
    control: &Control,
    told: &mut Told,
    id: DatabaseId,
    server: Option<&Instance>,
    only_read: bool,
) -> Result<(), ControlError> {
    let Some(server) = server else { return Ok(()) };
    if told.0.get(&id) == Some(&(server.id, only_read)) {
        return Ok(());
    }
    let psql = Psql {
        engine: &*control.engine,
        instance: server.id,
    };
    let done = match only_read {
        true => databases::only_read(psql),
        false => databases::write_again(psql),
    };
    done.map_err(super::databases::refused)?;
    told.0.insert(id, (server.id, only_read));
    Ok(())
}

fn of_instance(control: &Control, instance: &Instance) -> Result<(), ControlError> {
    let Some(limit) = control.read(|tx| limit(tx, instance))? else {
        return Ok(());
    };
    let written = control.engine.written(instance.id)?;
    if storage::is_beyond(written, limit) {
        tracing::warn!(instance = %instance.id, %written, %limit, "it wrote too much into its own file system and is ended");
        control.engine.end_full(instance.id)?;
    }
    Ok(())
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
        Purpose::Database { .. } => Some(Resources::default()),
    };
    Ok(resources.map(|resources| resources.disk))
}
