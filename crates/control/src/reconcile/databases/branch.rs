//! Branches: a copy of a database that runs, its reset to what the parent has now, and its end when its time is over.
//!
//! ```text
//! make:  copy (making-..) -> first start, settled -> named -> row has an image: wanted -> login -> active
//! reset: copy (making-..) -> settled -> next-.. -> row has no image: the server ends -> old volume away, next-.. named
//!        -> row has an image -> the same logins again
//! ```
//! Invariants: only what is complete has a volume's final name or `next-`; after a crash of ours what is not complete is
//! made again. A reset that fails before the copy is complete has changed nothing.

use databases::{Psql, Taken};
use model::operation::Work;
use model::{Action, Actor, Database, DatabaseId, DatabaseState, ImageDigest, Millis, Origin, Timestamp};

use super::{change, load, refused, serve, unmake, volume_of, wait};
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
    let outcome = format!(
        "{} answers with the data of {}; to sign in: stoa db url {}",
        database.name, origin.name, database.name
    );
    operations::succeed(control, job.operation, &outcome)
}

/// A settled copy in the volume `making-..`.
struct Settled {
    taken: Taken,
    image: ImageDigest,
    version: String,
}

fn take_over(database: &mut Database, copy: &Settled) {
    database.version = Some(copy.version.clone());
    if let Some(origin) = &mut database.origin {
        origin.at = Some(copy.taken.at);
        origin.lsn = Some(copy.taken.lsn.to_string());
    }
}

fn copy(job: &Job, database: &Database, origin: &Origin) -> Result<Settled, ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let volume = making(database.id);
    engine.remove_volume(&volume)?;
    let parent = parent_of(control, database, origin)?;
    let (Some(image), Some(version)) = (parent.image, parent.version) else {
        return Err(gone(database, origin));
    };
    operations::step(control, job.operation, &format!("copying {}", origin.name))?;
    let source = Psql {
        engine,
        instance: wait::running(control, parent.id)?,
    };
    let taken = databases::take(source, &volume_of(parent.id), &volume).map_err(refused)?;
    let settled = job.still_wanted().and_then(|()| {
        operations::step(control, job.operation, "recovering the copy")?;
        let place = job.place(&database.environment.to_string())?;
        databases::settle(engine, &place, &image, &version, &volume, database.resources).map_err(refused)?;
        job.still_wanted()
    });
    if let Err(cause) = settled {
        drop(engine.remove_volume(&volume));
        return Err(cause);
    }
    Ok(Settled {
        taken,
        image,
        version,
    })
}

/// The parent, while it is there to be copied.
fn parent_of(control: &Control, database: &Database, origin: &Origin) -> Result<Database, ControlError> {
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

fn origin_of(database: &Database) -> Result<&Origin, ControlError> {
    database.origin.as_ref().ok_or_else(|| ControlError::State {
        message: format!("{} is no branch", database.name),
        next_step: "see what there is: stoa db ls".to_owned(),
    })
}

/// The data of the parent as of now, under the same name, address and logins.
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
        "{} has the data of {} again; its logins are the same",
        database.name, origin.name
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
