//! Valkeys: made, branched and restored. Looking after their logs is `keep`'s.
//!
//! ```text
//! make:    volume with the platform's user alone -> row has an image: wanted -> login -> active
//! branch:  live copy of the volume (making-..) -> its users replaced -> named -> row has an image -> login -> active
//! restore: copy of the log that reaches the moment (making-..) -> cut there -> as a branch
//! ```
//! Invariants: only what is complete has a volume's final name; nobody who could sign in to what a copy was taken of can
//! sign in to the copy by that.

mod keep;

use std::time::{Duration, Instant};

use model::{
    Bytes, Database, DatabaseId, DatabaseState, ImageDigest, Lsn, Millis, Reached, Target, Timestamp, Valkey,
    ValkeyPlan,
};
use plan::valkey::{Place, place};
use store::Expect;
use store::rows::{ADMIN_PASSWORD, database_tenant};
use store::secret::Secret;

use super::{branch, change, fresh_password, load, refused, serve, unmake, volume_of};
use crate::databases::room;
use crate::databases::valkey::{log_volume, logs_of, outside};
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, operations};

pub(super) use keep::backup;
pub(in crate::reconcile) use keep::watch;

/// A server may hold back its log for so long while the disk is slow.
const LOGGED_AFTER: Millis = Millis::seconds(3);
/// A copy is taken anew that often when the log was rewritten meanwhile.
const COPY_TRIES: usize = 3;

/// Makes a new one.
pub(super) fn make(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    or_unmake(job, id, fresh)
}

/// Makes a branch whose row says of what.
pub(super) fn make_branch(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    or_unmake(job, id, branch_of)
}

/// Makes one whose row says of which and as of when.
pub(super) fn make_restored(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    or_unmake(job, id, restored)
}

fn or_unmake(
    job: &Job,
    id: DatabaseId,
    make: impl FnOnce(&Job, DatabaseId) -> Result<(), ControlError>,
) -> Result<(), ControlError> {
    let result = make(job, id);
    if let Err(cause) = &result {
        let why = operations::failure_of(cause, Vec::new()).message;
        job.control.write(|tx| unmake(tx, id, &why))?;
    }
    result
}

fn fresh(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let database = load(control, id)?;
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let wanted = database.version.as_deref();
    let found = databases::valkey::find_image(engine, wanted).map_err(refused)?;
    let (image, version) = match found {
        Some(found) => found,
        None => {
            operations::step(control, job.operation, "getting Valkey")?;
            // Two creations at once must not make two images.
            let _slot = job.template_lock();
            databases::valkey::ensure_image(engine, wanted, &lines).map_err(refused)?
        }
    };
    job.still_wanted()?;
    if database.image.is_none() {
        room::need(control, "a new database", None)?;
        // Nothing runs on it before the row has an image, so what is there is left by a crash.
        engine.remove_volume(&volume_of(id))?;
        let password = fresh_password()?;
        databases::valkey::create_volume(engine, &volume_of(id), &password).map_err(refused)?;
        begin(control, id, (&image, &version), password, |_| {})?;
    }
    serve(job, &database, None)?;
    let outcome = format!(
        "{} answers; its address reaches the services that use it at their next release",
        database.name
    );
    operations::succeed(control, job.operation, &outcome)
}

/// Lets the server of a complete volume begin, with what else changes in its row.
fn begin(
    control: &Control,
    id: DatabaseId,
    (image, version): (&ImageDigest, &str),
    password: String,
    change: impl Fn(&mut Database),
) -> Result<(), ControlError> {
    let secret = Secret::new(password.into_bytes());
    control.write(|tx| {
        let sealed = tx.seal(&database_tenant(id), ADMIN_PASSWORD, 1, &secret);
        let sealed = sealed.map_err(store::StoreError::from)?;
        let mut found = tx.need::<Database>(&id.to_string())?;
        let is_branch = found.row.origin.is_some();
        if let Some(valkey) = found.row.engine.valkey_mut() {
            valkey.admin = sealed.0;
            valkey.since = match valkey.plan {
                ValkeyPlan::Durable if !is_branch => Some(Timestamp::now()),
                ValkeyPlan::Durable | ValkeyPlan::Cache => None,
            };
        }
        found.row.image = Some(image.clone());
        found.row.version = Some(version.to_owned());
        change(&mut found.row);
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

fn branch_of(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let database = load(control, id)?;
    let origin = branch::origin_of(&database)?;
    if database.image.is_none() {
        let parent = branch::parent_of(control, &database, origin)?;
        operations::step(control, job.operation, &format!("copying {}", origin.name))?;
        let at = Timestamp::now();
        let volume = volume_of(parent.id);
        copied(job, &database, &parent, &|| Ok(volume.clone()), None, |row| {
            if let Some(origin) = &mut row.origin {
                origin.at = Some(at);
            }
        })?;
    }
    serve(job, &database, None)?;
    let database = load(control, id)?;
    let origin = branch::origin_of(&database)?;
    let at = origin.at.map_or_else(String::new, |at| format!(" as of {at}"));
    let outcome = format!(
        "{0} answers with the data of {1}{at}; to sign in: stoa db url {0}",
        database.name, origin.name
    );
    operations::succeed(control, job.operation, &outcome)
}

fn restored(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let database = load(control, id)?;
    let gone = |name: &str| ControlError::State {
        message: format!("{name} is gone or does not answer, and its log with it"),
        next_step: "see what there is: stoa db ls".to_owned(),
    };
    let Some(from) = database.restored.clone() else {
        return Err(gone(database.name.as_str()));
    };
    if database.image.is_none() {
        let source = control.read(|tx| Ok(tx.get::<Database>(&from.of.to_string())?))?;
        let source = source
            .map(|found| found.row)
            .filter(|source| source.state == DatabaseState::Active)
            .ok_or_else(|| gone(from.name.as_str()))?;
        let at = match from.target {
            Target::Latest | Target::Lsn { .. } => Timestamp::now(),
            Target::Time { at } => {
                wait_logged(job, at)?;
                at
            }
        };
        let place = || match from.target {
            Target::Latest | Target::Lsn { .. } => Ok(volume_of(source.id)),
            Target::Time { at } => place_of(&load(control, source.id)?, at),
        };
        operations::step(
            control,
            job.operation,
            &format!("copying the log of {}", from.name),
        )?;
        // What is of the second itself may have been written after the moment that was asked for.
        let last = match from.target {
            // As it is: a server reads it as it would its own.
            Target::Latest | Target::Lsn { .. } => None,
            Target::Time { at } => Some((at.as_ms() / 1000).saturating_sub(1)),
        };
        copied(job, &database, &source, &place, last, |row| {
            if let Some(restored) = &mut row.restored {
                let whole = Timestamp::from_ms(at.as_ms() / 1000 * 1000);
                restored.reached = Some(Reached {
                    at: Some(whole),
                    lsn: Lsn::new(0),
                });
            }
        })?;
    }
    serve(job, &database, None)?;
    let reached = load(control, id)?.restored.and_then(|restored| restored.reached);
    let whole = match (from.target, reached.and_then(|reached| reached.at)) {
        (Target::Time { .. }, Some(at)) => {
            format!(
                ", with what was written before the whole second {at}, and nothing of that second or later"
            )
        }
        (Target::Time { .. } | Target::Latest | Target::Lsn { .. }, _) => String::new(),
    };
    let outcome = format!(
        "{0} answers with the data of {1} as of {2}{whole}; to sign in: stoa db url {0}",
        database.name, from.name, from.target
    );
    operations::succeed(control, job.operation, &outcome)
}

/// Waits until what was written by then is in the log.
fn wait_logged(job: &Job, at: Timestamp) -> Result<(), ControlError> {
    while Timestamp::now() < at.plus(LOGGED_AFTER) {
        job.still_wanted()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The volume with the log that reaches a moment.
fn place_of(source: &Database, at: Timestamp) -> Result<String, ControlError> {
    let now = Timestamp::now();
    let valkey = source.engine.valkey().cloned().unwrap_or_default();
    match place(&valkey, at, now) {
        Some(Place::Own) => Ok(volume_of(source.id)),
        Some(Place::Kept { number }) => Ok(log_volume(source.id, number)),
        None => Err(outside(source, &valkey, at, now)),
    }
}

/// Makes the volume of a database a copy of the one that `place` names, cut after a second if there is one, with users of its
/// own, and lets its server begin.
fn copied(
    job: &Job,
    database: &Database,
    of: &Database,
    place: &dyn Fn() -> Result<String, ControlError>,
    last: Option<u64>,
    change: impl Fn(&mut Database),
) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let (Some(image), Some(version)) = (&of.image, &of.version) else {
        return Err(ControlError::State {
            message: format!("{} has no server yet", of.name),
            next_step: format!("wait for it: stoa db info {}", of.name),
        });
    };
    let (volume, making) = (volume_of(database.id), branch::making(database.id));
    // Nothing runs on it before the row has an image, so what is there is left by a crash.
    engine.remove_volume(&volume)?;
    let password = fresh_password()?;
    let begun = Instant::now();
    let made = copy_from(control, place, &making, database.restored.is_some()).and_then(|()| {
        let took = begun.elapsed().as_millis();
        operations::log_line(control, job.operation, &format!("copied in {took} ms"));
        if let Some(last) = last {
            operations::step(control, job.operation, "cutting the copy")?;
            databases::valkey::cut(engine, &making, last).map_err(refused)?;
        }
        databases::valkey::take_over(engine, &making, &password).map_err(refused)?;
        job.still_wanted()?;
        Ok(engine.rename_volume(&making, &volume)?)
    });
    if let Err(cause) = made {
        drop(engine.remove_volume(&making));
        return Err(cause);
    }
    begin(control, database.id, (image, version), password, change)
}

/// Copies from where it lies; again when it lay elsewhere afterwards, as what was copied may lack what went there.
fn copy_from(
    control: &Control,
    place: &dyn Fn() -> Result<String, ControlError>,
    to: &str,
    is_restore: bool,
) -> Result<(), ControlError> {
    let mut from = place()?;
    loop {
        if is_restore {
            room::need_to_restore(control, Some(&from), Bytes::new(0))?;
        } else {
            room::need(control, "a branch", Some(&from))?;
        }
        copy_whole(control, &from, to)?;
        let now = place()?;
        if now == from {
            return Ok(());
        }
        from = now;
    }
}

/// Copies the volume of a running server: its log only grows, but for a rewrite, after which the copy is taken anew.
fn copy_whole(control: &Control, from: &str, to: &str) -> Result<(), ControlError> {
    let engine = &*control.engine;
    let mut tries = COPY_TRIES;
    loop {
        tries -= 1;
        engine.remove_volume(to)?;
        let copied = engine.clone_volume(from, to);
        match copied {
            Err(cause) if tries == 0 => return Err(cause.into()),
            Ok(()) if databases::valkey::verify(engine, to).map_err(refused)? => return Ok(()),
            Ok(()) if tries == 0 => {
                engine.remove_volume(to)?;
                return Err(ControlError::State {
                    message: "the log was rewritten while it was copied, again and again".to_owned(),
                    next_step: "try again".to_owned(),
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Removes the kept logs of one that is over.
pub(super) fn remove_logs(control: &Control, id: DatabaseId) -> Result<(), ControlError> {
    for volume in control.engine.volumes()? {
        if volume.name.starts_with(&logs_of(id)) {
            control.engine.remove_volume(&volume.name)?;
        }
    }
    Ok(control.engine.remove_volume(&keep::making(id))?)
}

fn note(control: &Control, id: DatabaseId, note: impl Fn(&mut Valkey)) -> Result<(), ControlError> {
    change(control, id, |row| {
        if let Some(valkey) = row.engine.valkey_mut() {
            note(valkey);
        }
    })
}
