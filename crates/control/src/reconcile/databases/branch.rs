//! Branches: a copy of a database, its reset to what the parent has now, and its end when its time is over.
//!
//! ```text
//! copy:  live: taken in backup mode -> first start, settled, shaped
//!        drilled: cloned -> an identifier of its own; shaped at a first start, if it is to be
//!        backup: clone of a base, log replayed, settled -> shaped at a second start, if it is to be
//! make:  copy (making-..) -> named -> row has an image: wanted -> login -> active
//! reset: copy (making-..) -> settled -> next-.. -> row has no image: the server ends -> old volume away, next-.. named
//!        -> row has an image -> the same logins again
//! ```
//! Invariants: only what is complete has a volume's final name or `next-`; after a crash of ours what is not complete is
//! made again. A reset that fails before the copy is complete has changed nothing. Nobody signs in to a copy before it is
//! what it is to be made.

use databases::Psql;
use model::operation::Work;
use model::{
    Action, Actor, BranchSource, Database, DatabaseId, DatabaseState, Drilled, ImageDigest, Lsn, Millis,
    Origin, Restored, Target, Timestamp,
};

use super::{change, load, refused, restore, serve, unmake, upgrade, volume_of, wait};
use crate::databases::{backups, not_drilled, room};
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, authorize, operations};

/// When the end of an expired one could not be asked for or failed, it is tried again after that.
const EXPIRE_AGAIN: Millis = Millis::seconds(600);

/// Its volume while it is being made.
pub(super) fn making(id: DatabaseId) -> String {
    format!("making-{}", volume_of(id))
}

/// The complete copy that a reset is about to put in the place of its volume.
pub(super) fn next(id: DatabaseId) -> String {
    format!("next-{}", volume_of(id))
}

/// Makes a branch whose row says of what.
pub(super) fn make(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let result = branch(job, id);
    if let Err(cause) = &result {
        let why = operations::failure_of(cause, Vec::new()).message;
        control.write(|tx| unmake(tx, id, &why))?;
    }
    result
}

fn branch(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let database = load(control, id)?;
    let origin = origin_of(&database)?;
    if database.image.is_none() {
        // Nothing runs on it before the row has an image, so what is there is left by a crash.
        engine.remove_volume(&volume_of(id))?;
        let copy = copy(job, &database, origin)?;
        engine.rename_volume(&making(id), &volume_of(id))?;
        change(control, id, |database| {
            take_over(database, &copy);
            database.image = Some(copy.image.clone());
        })?;
    }
    serve(job, &database, None)?;
    let database = load(control, id)?;
    let outcome = format!(
        "{} answers with {}; to sign in: stoa db url {}",
        database.name,
        content(origin_of(&database)?),
        database.name
    );
    operations::succeed(control, job.operation, &outcome)
}

/// What a branch has, in words.
fn content(origin: &Origin) -> String {
    let what = match (origin.shape.is_schema_only, &origin.shape.mask) {
        (false, None) => "the data",
        (false, Some(_)) => "the masked data",
        (true, None) => "the tables, without their rows,",
        (true, Some(_)) => "the tables, without their rows but for what the script made,",
    };
    match origin.at {
        Some(at) => format!("{what} of {} as of {at}", origin.name),
        None => format!("{what} of {}", origin.name),
    }
}

/// A settled copy in the volume `making-..`.
struct Settled {
    /// What was committed by then is in it, and nothing after that place.
    at: Timestamp,
    lsn: Lsn,
    image: ImageDigest,
    version: String,
}

fn take_over(database: &mut Database, copy: &Settled) {
    database.version = Some(copy.version.clone());
    if let Some(origin) = &mut database.origin {
        origin.at = Some(copy.at);
        origin.lsn = Some(copy.lsn.to_string());
    }
}

fn copy(job: &Job, database: &Database, origin: &Origin) -> Result<Settled, ControlError> {
    let engine = &*job.control.engine;
    let volume = making(database.id);
    engine.remove_volume(&volume)?;
    let parent = parent_of(&job.control, database, origin)?;
    room::need(&job.control, "a branch", Some(&volume_of(parent.id)))?;
    let settled = match origin.source {
        BranchSource::Live => from_live(job, database, origin, &parent, &volume),
        BranchSource::Drilled => from_drilled(job, database, origin, &parent, &volume),
        BranchSource::Backup { at } => from_backup(job, database, origin, at, &volume),
    };
    let settled = settled.and_then(|settled| at_its_version(job, database, origin, settled, &volume));
    let settled = settled.and_then(|settled| job.still_wanted().map(|()| settled));
    if settled.is_err() {
        drop(engine.remove_volume(&volume));
    }
    settled
}

/// At the version it is to have, when that is another than the parent's.
fn at_its_version(
    job: &Job,
    database: &Database,
    origin: &Origin,
    settled: Settled,
    volume: &str,
) -> Result<Settled, ControlError> {
    let control = &*job.control;
    let Some(version) = origin.shape.version.clone().filter(|to| *to != settled.version) else {
        return Ok(settled);
    };
    job.still_wanted()?;
    let upgrade = upgrade::Upgrading {
        volume,
        image: upgrade::image_of(job, &version)?,
        version,
    };
    let is_wanted = || job.still_wanted().is_ok();
    let took = upgrade.make(job, database, (&settled.image, &settled.version), &is_wanted)?;
    let line = format!("upgraded from {} in {} ms", settled.version, took.as_ms());
    operations::log_line(control, job.operation, &line);
    Ok(Settled {
        image: upgrade.image,
        version: upgrade.version,
        ..settled
    })
}

fn from_live(
    job: &Job,
    database: &Database,
    origin: &Origin,
    parent: &Database,
    volume: &str,
) -> Result<Settled, ControlError> {
    let control = &*job.control;
    let (Some(image), Some(version)) = (parent.image.clone(), parent.version.clone()) else {
        return Err(gone(database, origin));
    };
    operations::step(control, job.operation, &format!("copying {}", origin.name))?;
    let source = Psql {
        engine: &*control.engine,
        instance: wait::running(control, parent.id)?,
    };
    let taken = databases::take(source, &volume_of(parent.id), volume).map_err(refused)?;
    job.still_wanted()?;
    operations::step(control, job.operation, "recovering the copy")?;
    let settled = Settled {
        at: taken.at,
        lsn: taken.lsn,
        image,
        version,
    };
    settle(job, database, origin, &settled, volume)?;
    Ok(settled)
}

fn settle(
    job: &Job,
    database: &Database,
    origin: &Origin,
    settled: &Settled,
    volume: &str,
) -> Result<(), ControlError> {
    let copy = databases::Copy {
        image: &settled.image,
        version: &settled.version,
        volume,
        resources: database.resources,
        shape: &origin.shape,
    };
    let place = job.place(&database.environment.to_string())?;
    databases::settle(&*job.control.engine, place, &copy).map_err(refused)
}

/// What is whole stays as it is; for what is not, it is started once more.
fn shape(
    job: &Job,
    database: &Database,
    origin: &Origin,
    settled: &Settled,
    volume: &str,
) -> Result<(), ControlError> {
    if origin.shape.is_whole() {
        return Ok(());
    }
    operations::step(&job.control, job.operation, "making it what it is to be")?;
    settle(job, database, origin, settled, volume)
}

fn from_drilled(
    job: &Job,
    database: &Database,
    origin: &Origin,
    parent: &Database,
    volume: &str,
) -> Result<Settled, ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let drilled_of = |parent: &Database| {
        parent
            .archive
            .as_ref()
            .and_then(|archive| archive.drilled.clone())
    };
    let mut drilled = drilled_of(parent).ok_or_else(|| not_drilled(parent))?;
    operations::step(
        control,
        job.operation,
        &format!("copying what the drill of {} left", origin.name),
    )?;
    loop {
        let cloned = engine.clone_volume(&backups::drilled_volume(parent.id, drilled.drill), volume);
        let Err(cause) = cloned else { break };
        drop(engine.remove_volume(volume));
        // Another drill may have put its own in the place of it meanwhile.
        match drilled_of(&load(control, parent.id)?) {
            Some(newer) if newer.drill != drilled.drill => drilled = newer,
            Some(_) | None => return Err(cause.into()),
        }
    }
    let Drilled {
        at,
        lsn,
        version,
        image,
        ..
    } = drilled;
    let settled = Settled {
        at,
        lsn,
        image,
        version,
    };
    if origin.shape.is_whole() {
        databases::rename_identity(engine, volume).map_err(refused)?;
    }
    shape(job, database, origin, &settled, volume)?;
    Ok(settled)
}

fn from_backup(
    job: &Job,
    database: &Database,
    origin: &Origin,
    at: Timestamp,
    volume: &str,
) -> Result<Settled, ControlError> {
    let from = Restored {
        of: origin.of,
        name: origin.name.clone(),
        server: None,
        target: Target::Time { at },
        upgraded: None,
        reached: None,
    };
    let brought = restore::bring_back(job, database, &from, volume)?;
    let settled = Settled {
        at,
        lsn: brought.reached.lsn,
        image: brought.image,
        version: brought.version,
    };
    shape(job, database, origin, &settled, volume)?;
    Ok(settled)
}

/// The parent, while it is there to be copied.
pub(super) fn parent_of(
    control: &Control,
    database: &Database,
    origin: &Origin,
) -> Result<Database, ControlError> {
    let found = control.read(|tx| Ok(tx.get::<Database>(&origin.of.to_string())?))?;
    match found.map(|found| found.row) {
        Some(parent) if parent.state == DatabaseState::Active => Ok(parent),
        Some(_) | None => Err(gone(database, origin)),
    }
}

fn gone(database: &Database, origin: &Origin) -> ControlError {
    ControlError::State {
        message: format!(
            "{} is no more or does not answer; {} is a copy of it",
            origin.name, database.name
        ),
        next_step: "see what there is: stoa db ls".to_owned(),
    }
}

pub(super) fn origin_of(database: &Database) -> Result<&Origin, ControlError> {
    database.origin.as_ref().ok_or_else(|| ControlError::State {
        message: format!("{} is no branch", database.name),
        next_step: "see what there is: stoa db ls".to_owned(),
    })
}

/// The data of the parent as it was made at first, taken anew, under the same name, address and logins.
pub(super) fn reset(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let database = load(control, id)?;
    let origin = origin_of(&database)?;
    if database.image.is_some() {
        engine.remove_volume(&next(id))?;
        let copy = copy(job, &database, origin)?;
        engine.rename_volume(&making(id), &next(id))?;
        // From here the only way is forward: the old data is going.
        change(control, id, |database| {
            take_over(database, &copy);
            database.image = None;
        })?;
    }
    operations::step(control, job.operation, "putting the copy in its place")?;
    wait::ended(control, id)?;
    if engine.volumes()?.iter().any(|known| known.name == next(id)) {
        engine.remove_volume(&volume_of(id))?;
        engine.rename_volume(&next(id), &volume_of(id))?;
    }
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let version = load(control, id)?.version;
    let (image, _) = databases::ensure_image(engine, version.as_deref(), &lines).map_err(refused)?;
    change(control, id, |database| database.image = Some(image.clone()))?;
    operations::step(control, job.operation, "starting the server")?;
    let psql = Psql {
        engine,
        instance: wait::running(control, id)?,
    };
    for credential in &database.credentials {
        let password = crate::databases::password_of(control, id, credential)?;
        let password = password.expose_str().unwrap_or_default();
        databases::add_login(psql, credential.version, password).map_err(refused)?;
    }
    let outcome = format!(
        "{} has {} again; its logins are the same",
        database.name,
        content(origin_of(&load(control, id)?)?)
    );
    operations::succeed(control, job.operation, &outcome)
}

/// Asks for the end of one whose time is over. One that a serving release uses stays until it is free.
pub(super) fn expire(control: &Control, database: &Database, now: Timestamp) -> Result<(), ControlError> {
    let is_there = match &database.state {
        DatabaseState::Active | DatabaseState::Failed { .. } => true,
        DatabaseState::Creating | DatabaseState::Destroyed { .. } => false,
    };
    if !is_there || database.expires_at.is_none_or(|at| at > now) {
        return Ok(());
    }
    let is_free = control.read(|tx| {
        let is_used = !crate::databases::users_of(tx, database)?.is_empty();
        Ok(!is_used && crate::databases::promote::refuse_promoted(control, tx, database).is_ok())
    })?;
    if !is_free {
        return Ok(());
    }
    let (actor, name) = (Actor::System, database.name.as_str());
    control.mutate(&actor, "database.expire", name, |tx| {
        let mut found = tx.need::<Database>(&database.id.to_string())?;
        // It may have been called back since it was read, or be about to.
        let is_over = found.row.expires_at.is_some_and(|at| at <= now);
        if !is_over || crate::databases::promote::refuse_promoted(control, tx, &found.row).is_err() {
            return Ok(());
        }
        found.row.expires_at = Some(now.plus(EXPIRE_AGAIN));
        tx.update_status(&found.row, store::Expect::Rev(found.rev))?;
        let scope = authorize::environment_by_id(tx, &actor, Action::Manage, database.environment)?;
        let work = Work::DestroyDatabase {
            database: database.id,
        };
        operations::accept(control, tx, &actor, Some(&scope), work).map(drop)
    })
}
