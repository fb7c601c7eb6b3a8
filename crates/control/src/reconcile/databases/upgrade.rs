//! Upgrades: a database at a later major version takes the place of the one at the former.
//!
//! ```text
//! rehearse: copy of the one that runs (making-..) -> recovered -> upgraded -> started, looked at -> gone
//! pause:    the row says paused, its server ends
//! upgrade:  clone of the stopped volume (making-..) -> upgraded -> named -> row has an image -> its server answers
//! switch:   names change (one transaction) -> the name leads to the new one
//! after:    the former one runs again under its other name, with a login of its own; statistics
//! ```
//! Invariants: the volume of the former one is only ever cloned; whatever fails or dies before the names change, it runs
//! again as it was. Nobody writes to the new one before the names change, for nobody knows it.

use std::time::{Duration, Instant};

use databases::Psql;
use model::drill::Outcome;
use model::operation::Work;
use model::{
    Credential, Database, DatabaseId, DatabaseState, ImageDigest, Millis, Operation, OperationId, Promoted,
    Reached, Replaced, Shape, Timestamp,
};
use store::rows::{PASSWORD, database_tenant, receivers_of};
use store::{Expect, WriteTx};

use super::branch::making;
use super::promote::{AGAIN, REMEMBERED, took_over, wait_led};
use super::server::{Server, new_login};
use super::{change, load, login_number, name_of_ended, refused, unmake, volume_of, wait};
use crate::databases::promote::kept_name;
use crate::databases::room;
use crate::reconcile::Facts;
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, operations};

/// How much of the log a failure repeats.
const LOG_LINES: usize = 20;
/// What ending a server, starting one and changing names take beside what a rehearsal measures.
const BESIDES: Millis = Millis::new(2000);
/// How long the pooler of the former one may take to end before its server runs again all the same.
const POOLER_ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Puts a copy at another version in the place of a database.
pub(super) fn make(
    job: &Job,
    new: DatabaseId,
    old: DatabaseId,
    keep: Millis,
    most: Millis,
) -> Result<(), ControlError> {
    let control = &*job.control;
    let is_new = !took_over(new, &load(control, old)?);
    if is_new && let Err(cause) = bring(job, (new, old), keep, most) {
        return give_up(job, new, old, &cause);
    }
    if let Err(cause) = finish(job, new, old, is_new) {
        // Its names have changed: it is not given up, but begun again by the next look.
        tracing::error!(operation = %job.operation, %cause, "could not end an upgrade; it is tried again");
        std::thread::sleep(AGAIN);
    }
    Ok(())
}

/// The former one serves again, the operation is settled, and nothing of the new one is left.
fn give_up(job: &Job, new: DatabaseId, old: DatabaseId, cause: &ControlError) -> Result<(), ControlError> {
    let control = &*job.control;
    let failure = operations::failure_of(cause, operations::log_tail(control, job.operation, LOG_LINES));
    tracing::warn!(operation = %job.operation, code = failure.code, message = failure.message, "an operation failed");
    operations::log_line(
        control,
        job.operation,
        &format!("==> failed: {}", failure.message),
    );
    control.write(|tx| {
        unmake(tx, new, &failure.message)?;
        resume(tx, old, job.operation)?;
        let mut found = tx.need::<Operation>(&job.operation.to_string())?;
        if !found.row.state.is_settled() {
            found.row.state = operations::ended(&found.row, control.now_of(tx), &failure);
            tx.update_status(&found.row, Expect::Any)?;
        }
        Ok(())
    })?;
    // Its row may be gone by now, with what there was then: a clone that was under way appears at its end.
    wait::ended(control, new)?;
    control.engine.remove_volume(&making(new))?;
    Ok(control.engine.remove_volume(&volume_of(new))?)
}

/// Lets the server of a database run again that this operation kept from it.
pub(super) fn resume(tx: &WriteTx, id: DatabaseId, operation: OperationId) -> Result<(), ControlError> {
    if let Some(mut found) = tx.get::<Database>(&id.to_string())?
        && found.row.paused == Some(operation)
    {
        found.row.paused = None;
        tx.update_status(&found.row, Expect::Any)?;
    }
    Ok(())
}

/// Whether it is what an upgrade began that is over, however that ended.
pub(super) fn is_forgotten(facts: &Facts, database: &Database) -> bool {
    let is_its =
        |work: &Work| matches!(work, Work::UpgradeDatabase { database: new, .. } if *new == database.id);
    database.state == DatabaseState::Creating
        && database
            .restored
            .as_ref()
            .is_some_and(|from| from.upgraded.is_some())
        && !facts.operations.values().any(|operation| is_its(&operation.work))
}

/// Has what an upgrade began go at once.
pub(super) fn discard(tx: &WriteTx, mut database: Database) -> Result<(), ControlError> {
    database.state = DatabaseState::Destroyed {
        purge_at: Timestamp::from_ms(0),
        volume: volume_of(database.id),
    };
    database.name = name_of_ended(database.id)?;
    tx.update(&database, Expect::Any)?;
    Ok(())
}

/// The image with a version.
pub(super) fn image_of(job: &Job, version: &str) -> Result<ImageDigest, ControlError> {
    let control = &*job.control;
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let found = databases::ensure_image(&*control.engine, Some(version), &lines);
    Ok(found.map_err(refused)?.0)
}

/// A stopped copy that gets another version.
pub(super) struct Upgrading<'a> {
    pub(super) volume: &'a str,
    pub(super) image: ImageDigest,
    pub(super) version: String,
}

impl Upgrading<'_> {
    /// Does it, and says how long that took.
    pub(super) fn make(
        &self,
        job: &Job,
        database: &Database,
        (from_image, from): (&ImageDigest, &str),
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Millis, ControlError> {
        let control = &*job.control;
        let step = format!("upgrading the copy to PostgreSQL {}", self.version);
        operations::step(control, job.operation, &step)?;
        let lines = |line: &str| operations::log_line(control, job.operation, line);
        let places = [job.place("")?, job.place("")?];
        let begun = Instant::now();
        let upgrade = self.of(database, from_image, from);
        databases::upgrade(&*control.engine, places, &upgrade, is_wanted, &lines).map_err(refused)?;
        Ok(spent(begun))
    }

    fn of<'a>(
        &'a self,
        database: &Database,
        from_image: &'a ImageDigest,
        from: &'a str,
    ) -> databases::Upgrade<'a> {
        databases::Upgrade {
            volume: self.volume,
            from_image,
            from,
            image: &self.image,
            to: &self.version,
            resources: database.resources,
        }
    }
}

fn spent(begun: Instant) -> Millis {
    Millis::new(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Everything until the names have changed.
fn bring(
    job: &Job,
    (new, old): (DatabaseId, DatabaseId),
    keep: Millis,
    most: Millis,
) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let (after, before) = (load(control, new)?, load(control, old)?);
    let (Some(from_image), Some(from), Some(to)) = (&before.image, &before.version, &after.version) else {
        return Err(ControlError::State {
            message: format!("the server of {} does not run", before.name),
            next_step: format!("see why: stoa db info {}", before.name),
        });
    };
    let volume = making(new);
    let upgrading = Upgrading {
        volume: &volume,
        image: image_of(job, to)?,
        version: to.clone(),
    };
    if before.paused != Some(job.operation) {
        let expected = rehearse(job, &before, &upgrading, (from_image, from))?;
        if expected > most {
            return Err(ControlError::State {
                message: format!(
                    "{} would not answer for about {} s, more than the {} s that are allowed; nothing was changed",
                    before.name,
                    seconds(expected),
                    seconds(most)
                ),
                next_step: format!(
                    "allow more: stoa db upgrade {} --to {to} --max-pause {}s",
                    before.name,
                    seconds(expected) * 2
                ),
            });
        }
        pause(job, &before, new)?;
    }
    let step = format!("{} does not answer from here on: ending its server", before.name);
    operations::step(control, job.operation, &step)?;
    let paused_at = load(control, new)?
        .restored
        .and_then(|from| from.reached)
        .and_then(|reached| reached.at)
        .unwrap_or_else(Timestamp::now);
    let is_in_time = || Timestamp::now().since(paused_at) <= most;
    let go_on = || match is_in_time() {
        true => job.still_wanted(),
        false => Err(ControlError::State {
            message: format!(
                "{} has not answered for more than the {} s that are allowed; it serves as before again",
                before.name,
                seconds(most)
            ),
            next_step: format!(
                "when the machine has less to do, or with more: stoa db upgrade {} --to {to} --max-pause {}s",
                before.name,
                seconds(most) * 2
            ),
        }),
    };
    wait::ended_while(control, old, &go_on)?;
    go_on()?;
    // What a run before this one left: the former one may have served since.
    change(control, new, |database| database.image = None)?;
    wait::ended(control, new)?;
    engine.remove_volume(&volume_of(new))?;
    engine.remove_volume(&volume)?;
    engine.clone_volume(&volume_of(old), &volume)?;
    go_on()?;
    let is_wanted = || is_in_time() && job.still_wanted().is_ok();
    let made = upgrading.make(job, &before, (from_image, from), &is_wanted);
    // Given up says more than that it was ended.
    go_on()?;
    made?;
    engine.rename_volume(&volume, &volume_of(new))?;
    let step = format!("starting PostgreSQL {to}");
    operations::step(control, job.operation, &step)?;
    change(control, new, |database| {
        database.image = Some(upgrading.image.clone());
    })?;
    let psql = Psql {
        engine,
        instance: wait::running_while(control, new, &go_on)?,
    };
    // As any copy: whether it is full, and whether commits wait for a receiver, is found out anew.
    databases::set_free(psql).map_err(refused)?;
    go_on()?;
    control.write(|tx| switch(control, tx, job, (new, old), keep))
}

fn seconds(millis: Millis) -> u64 {
    millis.as_ms().div_ceil(1000)
}

/// Does it all with a copy of the one that runs, and says for how long that one will not answer.
fn rehearse(
    job: &Job,
    before: &Database,
    upgrading: &Upgrading<'_>,
    (image, version): (&ImageDigest, &str),
) -> Result<Millis, ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let volume = upgrading.volume;
    engine.remove_volume(volume)?;
    let rehearsed = (|| {
        let step = format!("rehearsing with a copy of {}", before.name);
        operations::step(control, job.operation, &step)?;
        let source = Psql {
            engine,
            instance: wait::running(control, before.id)?,
        };
        databases::fit_for_upgrade(source).map_err(refused)?;
        room::need(control, "an upgrade", Some(&volume_of(before.id)))?;
        let begun = Instant::now();
        databases::take(source, &volume_of(before.id), volume).map_err(refused)?;
        let copied = spent(begun);
        job.still_wanted()?;
        let copy = databases::Copy {
            image,
            version,
            volume,
            resources: before.resources,
            shape: &Shape::default(),
        };
        databases::settle(engine, job.place("")?, &copy).map_err(refused)?;
        job.still_wanted()?;
        let is_wanted = || job.still_wanted().is_ok();
        let took = upgrading.make(job, before, (image, version), &is_wanted)?;
        let upgrade = upgrading.of(before, image, version);
        let looked =
            databases::look_at_upgraded(engine, job.place("")?, &upgrade, &is_wanted).map_err(refused)?;
        let (outcome, said) = &looked.soundness;
        if *outcome == Outcome::Failed {
            return Err(ControlError::State {
                message: format!("the upgraded copy is not sound, so that nothing was changed: {said}"),
                next_step: format!(
                    "look at a copy: stoa db branch {} --as try --version {}",
                    before.name, upgrade.to
                ),
            });
        }
        let parts = [copied, took, looked.start, BESIDES];
        let expected = Millis::new(parts.iter().map(|part| part.as_ms()).sum());
        let line = format!(
            "rehearsed: copied in {} ms, upgraded in {} ms, answers after {} ms; {said}; {} will not answer for about {} s",
            copied.as_ms(),
            took.as_ms(),
            looked.start.as_ms(),
            before.name,
            seconds(expected)
        );
        operations::log_line(control, job.operation, &line);
        Ok(expected)
    })();
    engine.remove_volume(volume)?;
    let expected = rehearsed?;
    job.still_wanted()?;
    Ok(expected)
}

/// From here on its server is not wanted until the names have changed or the operation is settled.
fn pause(job: &Job, before: &Database, new: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let psql = Psql {
        engine: &*control.engine,
        instance: wait::running(control, before.id)?,
    };
    let lsn = databases::make_ready_to_end(psql).map_err(refused)?;
    control.write(|tx| {
        let mut new = tx.need::<Database>(&new.to_string())?;
        still_open(tx, job, &new.row)?;
        let mut old = tx.need::<Database>(&before.id.to_string())?;
        old.row.paused = Some(job.operation);
        tx.update_status(&old.row, Expect::Rev(old.rev))?;
        if let Some(from) = &mut new.row.restored {
            from.reached = Some(Reached {
                at: Some(control.now_of(tx)),
                lsn,
            });
        }
        tx.update_status(&new.row, Expect::Rev(new.rev))?;
        Ok(())
    })
}

/// Whether the operation goes on, and what it makes is still to be made.
fn still_open(tx: &WriteTx, job: &Job, new: &Database) -> Result<(), ControlError> {
    let operation = tx.need::<Operation>(&job.operation.to_string())?.row;
    match operation.cancel || operation.state.is_settled() || new.state != DatabaseState::Creating {
        false => Ok(()),
        true => Err(ControlError::State {
            message: "given up".to_owned(),
            next_step: "it serves as before: stoa db ls".to_owned(),
        }),
    }
}

/// From one moment to the next the new one has the name and the logins of the old one.
fn switch(
    control: &Control,
    tx: &WriteTx,
    job: &Job,
    (new, old): (DatabaseId, DatabaseId),
    keep: Millis,
) -> Result<(), ControlError> {
    let mut new = tx.need::<Database>(&new.to_string())?.row;
    still_open(tx, job, &new)?;
    let mut old = tx.need::<Database>(&old.to_string())?.row;
    let now = control.now_of(tx);
    let mut credentials = Vec::new();
    for theirs in &old.credentials {
        let password = crate::databases::password_of(control, old.id, theirs)?;
        let sealed = tx.seal(&database_tenant(new.id), PASSWORD, theirs.version, &password);
        credentials.push(Credential {
            version: theirs.version,
            sealed: sealed.map_err(store::StoreError::from)?.0,
            since: theirs.since,
        });
    }
    let newest = credentials.iter().map(|theirs| theirs.version).max();
    new.credentials = credentials;
    // What somebody has changed since it was asked for.
    (new.level, new.size, new.resources) = (old.level, old.size, old.resources);
    // Clients of its pooler come to the name anew, which leads to the new one.
    new.pooled = std::mem::take(&mut old.pooled);
    // What a rotation makes next must not be one of these.
    while login_number(tx, new.id)? < newest.unwrap_or_default() {}
    let kept = kept_name(tx, &old, now)?;
    let place = std::mem::replace(&mut old.name, kept);
    let was = std::mem::replace(&mut new.name, place.clone());
    let reached = new.restored.as_ref().and_then(|from| from.reached);
    old.replaced = Some(Replaced {
        was: place,
        by: new.id,
        at: now,
        data_until: reached.and_then(|reached| reached.at),
    });
    (old.promoted, old.expires_at) = (None, Some(now.plus(keep)));
    new.promoted = Some(Promoted {
        was,
        instead_of: old.id,
        at: now,
    });
    new.state = DatabaseState::Active;
    // The name is free only after the old one gave it up.
    tx.update(&old, Expect::Any)?;
    tx.update(&new, Expect::Any)?;
    // It was told the name of before, and would ask for the other one.
    for mut found in tx.list::<model::Instance>(&receivers_of(old.id))? {
        if found.row.condition.is_live() {
            found.row.condition = model::Condition::Stopping { since: now };
            tx.update_status(&found.row, Expect::Any)?;
        }
    }
    operations::step_in(tx, job.operation, "leading the name to the new server")
}

/// Everything after the names have changed. Doing it again is fine.
fn finish(job: &Job, new: DatabaseId, old: DatabaseId, is_new: bool) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    wait_led(job, new)?;
    let (after, before) = (load(control, new)?, load(control, old)?);
    let switched_at = after.promoted.as_ref().map(|promoted| promoted.at);
    // Of a run after a crash of ours nobody knows when the name led there: soon after it changed.
    let answered_at = switched_at.filter(|_| !is_new).unwrap_or_else(Timestamp::now);
    // Whoever remembers the address of the former one must not meet it again.
    std::thread::sleep(REMEMBERED);
    // What waits in its pooler would be written to the former one, which takes these logins still.
    if !wait::without_pooler(control, old, POOLER_ENDS_WITHIN)? {
        let line = format!("the pooler of {} did not end in time", before.name);
        operations::log_line(control, job.operation, &line);
    }
    control.write(|tx| resume(tx, old, job.operation))?;
    let step = "starting the one before under its other name";
    operations::step(control, job.operation, step)?;
    let until = before.expires_at.map(|at| at.to_string()).unwrap_or_default();
    let mut told = vec![format!(
        "{} is PostgreSQL {}",
        after.name,
        after.version.as_deref().unwrap_or_default()
    )];
    let reached = after.restored.as_ref().and_then(|from| from.reached);
    if let Some(at) = reached.and_then(|reached| reached.at) {
        told.push(format!(
            "it did not answer for {} ms",
            answered_at.since(at).as_ms()
        ));
    }
    told.push(format!("the one before is kept as {} until {until}", before.name));
    if let Err(cause) = part(control, old) {
        told.push(format!(
            "that one does not run yet and has the logins of this one still ({cause}): stoa db info {0}, then stoa db rotate {0}",
            before.name
        ));
    }
    operations::step(control, job.operation, "making the planner's statistics")?;
    let counted = wait::running(control, new)
        .and_then(|instance| databases::make_statistics(Psql { engine, instance }).map_err(refused));
    if let Err(cause) = counted {
        told.push(format!(
            "its statistics are not complete ({cause}): run ANALYZE in it"
        ));
    }
    told.push(format!(
        "it is unprotected until a drill has passed: stoa db drill {}",
        after.name
    ));
    operations::succeed(control, job.operation, &told.join("; "))
}

/// Gives the former one a login of its own, and ends those it shares with the new one.
fn part(control: &Control, old: DatabaseId) -> Result<(), ControlError> {
    let psql = Psql {
        engine: &*control.engine,
        instance: wait::running(control, old)?,
    };
    let credentials = load(control, old)?.credentials;
    let versions: Vec<u64> = credentials.iter().map(|theirs| theirs.version).collect();
    databases::promote::cut(psql, &versions).map_err(refused)?;
    let number = control.write(|tx| login_number(tx, old))?;
    new_login(control, old, &Server::postgres(psql), number, |database| {
        database.credentials.retain(|own| own.version == number);
    })
}
