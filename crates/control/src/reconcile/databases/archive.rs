//! The archives of databases: one receiver for each, watched; bases, on request and when they are due; what may go, goes.
//!
//! ```text
//! a new database: role, rule, slot -> row has an archive -> receiver (advance) -> first base
//! watch:  how far is the receiver? -> noted in the stretch
//!         the server dropped what was not received -> another stretch (a gap, told) -> a base at once
//!         old or much since the newest base -> a base; what no promise needs -> removed
//! base:   copy (making-base-..) -> named -> row -> list of its files (databases::manifest)
//! ```
//! Invariants: two receivers never write into one stretch; a base counts from when the row has it, and leaves the row
//! before its volume goes, so that a crash in between leaves a volume that nobody counts on, which goes later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use databases::Psql;
use model::operation::Work;
use model::{
    Action, Actor, Archive, Base, BranchSource, Commits, Condition, Database, DatabaseEngine, DatabaseId,
    DatabaseState, Instance, InstanceId, Lsn, Operation, Purpose, Timestamp,
};
use plan::backup::{self, Policy, Why};
use plan::storage::POOL_RESERVE;
use store::rows::{RECEIVER_PASSWORD, database_tenant, receivers_of};
use store::secret::Secret;
use store::{Expect, WriteTx};

use super::{change, ended_at, fresh_password, is_ready, next_attempt, prune, refused, stop, volume_of};
use crate::databases::backups::{
    WRITTEN_AFTER, base_volume, bases_of, bring_up, catalogue, drilled_of, stretch_volume, stretches_of,
};
use crate::databases::room;
use crate::reconcile::Facts;
use crate::reconcile::workers::Job;
use crate::transact::all;
use crate::{Control, ControlError, authorize, operations};

/// How soon it is noticed that a database wants an archive, and an end of ours.
const GLANCE: Duration = Duration::from_millis(500);
/// Between two looks at an archive that is well. Receiving goes on without us: only what is told of it is that old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same while it is not.
const LOOK_SOON: Duration = Duration::from_secs(5);
/// After a base was asked for, no other is asked for during that time, whatever became of it.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// A base while it is being taken.
fn making(id: DatabaseId) -> String {
    format!("making-base-{}", id.short(26))
}

/// Whether a database has, or is to have, an archive of its log: a Valkey keeps its own.
pub(super) fn is_archived(database: &Database) -> bool {
    match &database.state {
        // A branch can be made again from its parent.
        DatabaseState::Active => database.origin.is_none() && database.engine == DatabaseEngine::Postgres,
        DatabaseState::Creating | DatabaseState::Failed { .. } | DatabaseState::Destroyed { .. } => false,
    }
}

/// All receivers of a database that have a row, oldest first.
pub(super) fn receivers(facts: &Facts, id: DatabaseId) -> Vec<&Instance> {
    let is_of = |instance: &&Instance| match &instance.purpose {
        Purpose::Receiver { database, .. } => *database == id,
        Purpose::Service { .. } | Purpose::Job { .. } | Purpose::Database { .. } | Purpose::Pooler { .. } => {
            false
        }
    };
    let mut mine: Vec<&Instance> = facts.instances.values().filter(is_of).collect();
    mine.sort_by_key(|instance| instance.id);
    mine
}

/// Keeps one receiver alive for each archive.
pub(super) fn advance(
    control: &Control,
    facts: &Facts,
    database: &Database,
    lingering: &BTreeSet<InstanceId>,
    now: Timestamp,
) -> Result<(), ControlError> {
    let mine = receivers(facts, database.id);
    let live = mine.iter().find(|instance| instance.condition.is_live());
    let wanted = database
        .archive
        .as_ref()
        .filter(|_| is_archived(database))
        .map(|archive| archive.stretch);
    let into = |instance: &Instance| match &instance.purpose {
        Purpose::Receiver { stretch, .. } => Some(*stretch),
        Purpose::Service { .. } | Purpose::Job { .. } | Purpose::Database { .. } | Purpose::Pooler { .. } => {
            None
        }
    };
    // One that was told to end is not forgotten: another one begins with what is true then.
    let is_told = |instance: &Instance| matches!(instance.condition, Condition::Stopping { .. });
    match (wanted, live) {
        (Some(stretch), Some(receiver)) if into(receiver) == Some(stretch) && !is_told(receiver) => Ok(()),
        (Some(_) | None, Some(receiver)) => stop(control, facts, receiver, now),
        (None, None) => Ok(()),
        (Some(stretch), None) => {
            // The former one must be gone from the host: two would tear each other's files.
            if mine.iter().any(|instance| lingering.contains(&instance.id))
                || lingering.iter().any(|id| facts.lost.contains(&id.to_string()))
                || !is_ready(facts, database.id)
            {
                return Ok(());
            }
            let attempt = next_attempt(&mine);
            let ended: Vec<Timestamp> = mine.iter().filter_map(|instance| ended_at(instance)).collect();
            if let Some(last) = ended.last()
                && now < last.plus(plan::backoff::delay(attempt))
            {
                return Ok(());
            }
            prune(control, &mine)?;
            let volume = stretch_volume(database.id, stretch);
            databases::archive::mend(&*control.engine, &volume).map_err(refused)?;
            control.write(|tx| receive(tx, database.id, stretch, attempt, now))
        }
    }
}

fn receive(
    tx: &WriteTx,
    id: DatabaseId,
    stretch: u64,
    attempt: u32,
    now: Timestamp,
) -> Result<(), ControlError> {
    let row = tx.need::<Database>(&id.to_string())?.row;
    let is_wanted = is_archived(&row)
        && row
            .archive
            .as_ref()
            .is_some_and(|archive| archive.stretch == stretch);
    // Changed since the facts were read.
    if !is_wanted {
        return Ok(());
    }
    tx.insert(&Instance {
        id: InstanceId::fresh(),
        purpose: Purpose::Receiver {
            database: id,
            stretch,
        },
        attempt,
        created_at: now,
        address: None,
        uid_range: crate::workload::uid_range(tx)?,
        excused: false,
        condition: Condition::Starting { since: now },
    })?;
    Ok(())
}

/// Removes all there is of the backup of a database that is over; false while a receiver still runs.
pub(super) fn is_removed(control: &Control, facts: &Facts, id: DatabaseId) -> Result<bool, ControlError> {
    if receivers(facts, id)
        .iter()
        .any(|instance| instance.condition.is_live())
    {
        return Ok(false);
    }
    for volume in control.engine.volumes()? {
        let is_of_it = [
            bases_of(id),
            stretches_of(id),
            drilled_of(id),
            super::drill::makings_of(id),
        ]
        .iter()
        .any(|prefix| volume.name.starts_with(prefix));
        if is_of_it || volume.name == making(id) {
            control.engine.remove_volume(&volume.name)?;
        }
    }
    Ok(true)
}

/// What this process knows of an archive between two looks.
#[derive(Default)]
struct Care {
    next: Option<Instant>,
    asked: Option<Instant>,
    /// Seen at the last look, to be found received at the next.
    written: Option<(Timestamp, Lsn)>,
}

/// Looks again and again until `stop` is set.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut cares: BTreeMap<DatabaseId, Care> = BTreeMap::new();
    let mut seen = None;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        let (now, rev) = (Instant::now(), control.store.rev());
        let is_due = cares
            .values()
            .any(|care| care.next.is_some_and(|next| next <= now));
        // A new database, and one that answers again, shows in the store.
        if seen == Some(rev) && !is_due {
            continue;
        }
        seen = Some(rev);
        if let Err(cause) = look(control, &mut cares, stop) {
            tracing::warn!(%cause, "could not see to the archives; it is tried again");
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
    let now = Instant::now();
    for database in databases.iter().filter(|database| is_archived(database)) {
        let care = cares.entry(database.id).or_default();
        if care.next.is_some_and(|next| now < next) || stop.load(Ordering::Relaxed) {
            continue;
        }
        let servers = control.read(|tx| Ok(tx.list::<Instance>(&database.id.to_string())?))?;
        let is_ready = |instance: &&Instance| matches!(instance.condition, Condition::Ready { .. });
        let Some(server) = servers.iter().map(|found| &found.row).find(is_ready) else {
            continue;
        };
        let psql = Psql {
            engine: &*control.engine,
            instance: server.id,
        };
        let looked = match &database.archive {
            None => begin(control, database, psql).map(|()| false),
            Some(archive) => see_to(control, database, archive, psql, care),
        };
        let is_well = looked.unwrap_or_else(|cause| {
            tracing::warn!(database = %database.name, %cause, "could not see to its archive; it is tried again");
            false
        });
        care.next = Some(Instant::now() + if is_well { LOOK_EVERY } else { LOOK_SOON });
    }
    Ok(())
}

/// Gives a database its archive: what its server must know first, then the row.
fn begin(control: &Control, database: &Database, psql: Psql<'_>) -> Result<(), ControlError> {
    let id = database.id;
    let password = fresh_password()?;
    databases::archive::prepare(psql, &volume_of(id), database.size, &password).map_err(refused)?;
    let (stretch, version) = control.write(|tx| {
        let stretch = tx.next_number(&format!("stretch:{id}"))?;
        Ok((stretch, tx.next_number(&format!("receiver:{id}"))?))
    })?;
    control.engine.create_volume(&stretch_volume(id, stretch))?;
    let secret = Secret::new(password.into_bytes());
    control.write(|tx| {
        let sealed = tx.seal(&database_tenant(id), RECEIVER_PASSWORD, version, &secret);
        let sealed = sealed.map_err(store::StoreError::from)?;
        let mut found = tx.need::<Database>(&id.to_string())?;
        if found.row.archive.is_none() {
            found.row.archive = Some(Archive {
                stretch,
                sealed: sealed.0,
                version,
                since: control.now_of(tx),
                bases: Vec::new(),
                drilled: None,
                commits: Commits::Free,
                behind: None,
            });
            tx.update_status(&found.row, Expect::Rev(found.rev))?;
        }
        Ok(())
    })
}

/// Whether it is well: received, and nothing is to be done soon.
fn see_to(
    control: &Control,
    database: &Database,
    archive: &Archive,
    psql: Psql<'_>,
    care: &mut Care,
) -> Result<bool, ControlError> {
    let now = Timestamp::now();
    let seen = databases::archive::look(psql).map_err(refused)?;
    if seen.is_lost || (!seen.is_connected && is_behind(control, database)?) {
        begin_anew(control, database, psql)?;
        (care.asked, care.written) = (None, None);
        return Ok(false);
    }
    // What was written at the last look or is now, whichever was received.
    let committed = Timestamp::from_ms(now.as_ms().saturating_sub(WRITTEN_AFTER.as_ms()));
    let candidates = [Some((committed, seen.written)), care.written];
    let complete = candidates
        .into_iter()
        .flatten()
        .find(|(_, written)| seen.received.is_some_and(|received| received >= *written));
    if let Some((at, lsn)) = complete {
        let volume = stretch_volume(database.id, archive.stretch);
        databases::archive::note_complete(&*control.engine, &volume, at, lsn).map_err(refused)?;
    }
    care.written = Some((committed, seen.written));
    let is_asked = keep_up(control, database, archive, care)?;
    Ok(complete.is_some() && seen.is_connected && !is_asked)
}

/// Whether its receiver asks for log that the server no longer has.
fn is_behind(control: &Control, database: &Database) -> Result<bool, ControlError> {
    let mine = control.read(|tx| Ok(tx.list::<Instance>(&receivers_of(database.id))?))?;
    let Some(newest) = mine.iter().map(|found| &found.row).max_by_key(|row| row.id) else {
        return Ok(false);
    };
    databases::archive::asks_for_what_is_gone(&*control.engine, database, newest.id).map_err(refused)
}

/// The server dropped what was not received: what is received from now on is another stretch.
fn begin_anew(control: &Control, database: &Database, psql: Psql<'_>) -> Result<(), ControlError> {
    let id = database.id;
    let stretch = control.write(|tx| Ok(tx.next_number(&format!("stretch:{id}"))?))?;
    control.engine.create_volume(&stretch_volume(id, stretch))?;
    databases::archive::begin_anew(psql).map_err(refused)?;
    tracing::error!(database = %database.name,
        "its server had to drop log that was not received: it cannot be restored to moments in the gap; see: stoa db backups {}", database.name);
    change(control, id, |database| {
        if let Some(archive) = &mut database.archive {
            archive.stretch = stretch;
        }
    })
}

/// Removes what no promise needs, and asks for a base when one is due. Whether one is on its way.
fn keep_up(
    control: &Control,
    database: &Database,
    archive: &Archive,
    care: &mut Care,
) -> Result<bool, ControlError> {
    let engine = &*control.engine;
    let id = database.id;
    // Before the row and the operations are read: of what is there now, a base that was just taken is in the row by then, or
    // its operation is open, and none looks like a volume that nobody counts on.
    let there = engine.volumes()?;
    let (database, is_restored, is_asked) = control.read(|tx| {
        let database = tx.need::<Database>(&id.to_string())?.row;
        let open = control.open.at(tx)?;
        let mut is_restored = false;
        for operation in &open {
            is_restored |= is_drilled(operation, id);
            if let Work::RestoreDatabase { database: new }
            | Work::BranchDatabase { database: new }
            | Work::ResetDatabase { database: new } = &operation.work
                && let Some(new) = tx.get::<Database>(&new.to_string())?
            {
                let restored = new.row.restored.map(|from| from.of);
                let branched = new
                    .row
                    .origin
                    .filter(|origin| origin.source != BranchSource::Live);
                is_restored |= [restored, branched.map(|origin| origin.of)].contains(&Some(id));
            }
        }
        Ok((
            database,
            is_restored,
            open.iter().any(|operation| takes_base(operation, id)),
        ))
    })?;
    let found = catalogue(control, &database)?;
    let policy = Policy {
        keep: backup::KEEP,
        every: backup::EVERY,
        budget: database.size,
        is_short: engine.pool_free()?.get() < POOL_RESERVE.get() * 2,
    };
    let upkeep = backup::upkeep(
        &found.bases,
        &found.stretches,
        archive.stretch,
        policy,
        Timestamp::now(),
    );
    // A restore under way may be reading just that, and a base being taken is not in the row yet.
    if !is_restored && !is_asked {
        if !upkeep.bases.is_empty() {
            change(control, id, |database| {
                if let Some(archive) = &mut database.archive {
                    archive.bases.retain(|base| !upkeep.bases.contains(&base.number));
                }
            })?;
        }
        let known: Vec<String> = found
            .bases
            .iter()
            .filter(|base| !upkeep.bases.contains(&base.number))
            .map(|base| base_volume(id, base.number))
            .collect();
        for volume in there {
            if volume.name.starts_with(&bases_of(id)) && !known.contains(&volume.name) {
                engine.remove_volume(&volume.name)?;
            }
        }
        for stretch in &upkeep.stretches {
            engine.remove_volume(&stretch_volume(id, *stretch))?;
        }
        for stretch in &found.stretches {
            let mine = upkeep
                .segments
                .iter()
                .filter(|(number, _)| *number == stretch.number);
            let segments: Vec<_> = mine.map(|(_, segment)| *segment).collect();
            if !segments.is_empty() {
                databases::archive::remove(engine, &stretch_volume(id, stretch.number), &segments)
                    .map_err(refused)?;
            }
        }
    }
    let Some(why) = upkeep.wants_base else {
        return Ok(is_asked);
    };
    if is_asked || care.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
        return Ok(is_asked);
    }
    care.asked = Some(Instant::now());
    if !room::is_for_base(control, &volume_of(id))? {
        tracing::warn!(database = %database.name, "a base is due, and the storage pool has no room for it: make room on the server's disk");
        return Ok(false);
    }
    let why = match why {
        Why::None => "there is none",
        Why::Old => "the newest is old",
        Why::Much => "much was written since the newest",
    };
    tracing::info!(database = %database.name, why, "a base is due");
    ask(control, &database)?;
    Ok(true)
}

fn is_drilled(operation: &Operation, id: DatabaseId) -> bool {
    matches!(&operation.work, Work::DrillDatabase { database, .. } if *database == id)
}

pub(super) fn takes_base(operation: &Operation, id: DatabaseId) -> bool {
    matches!(&operation.work, Work::BackupDatabase { database } if *database == id)
}

fn ask(control: &Control, database: &Database) -> Result<(), ControlError> {
    let actor = Actor::System;
    control.mutate(&actor, "database.backup", database.name.as_str(), |tx| {
        // Something may have become of it since it was read.
        if !is_archived(&tx.need::<Database>(&database.id.to_string())?.row) {
            return Ok(());
        }
        let scope = authorize::environment_by_id(tx, &actor, Action::Manage, database.environment)?;
        let work = Work::BackupDatabase {
            database: database.id,
        };
        operations::accept(control, tx, &actor, Some(&scope), work).map(drop)
    })
}

/// The database and the stretch that is received, once its archive has begun.
fn wait_archived(job: &Job, id: DatabaseId) -> Result<(Database, u64), ControlError> {
    let control = &*job.control;
    let until = Instant::now() + super::RUNS_WITHIN;
    loop {
        let (rev, database) =
            control.read(|tx| Ok((tx.rev()?, tx.need::<Database>(&id.to_string())?.row)))?;
        let stretch = database.archive.as_ref().map(|archive| archive.stretch);
        match stretch {
            Some(stretch) if is_archived(&database) => return Ok((database, stretch)),
            None if is_archived(&database) && Instant::now() < until => {}
            Some(_) | None => {
                return Err(ControlError::State {
                    message: format!("{} is gone, or its server does not answer", database.name),
                    next_step: format!("see why: stoa db info {}", database.name),
                });
            }
        }
        job.still_wanted()?;
        control.store.wait_change(rev, Duration::from_secs(1));
    }
}

/// Takes a base of a database that runs.
pub(super) fn backup(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let (database, stretch) = wait_archived(job, id)?;
    let (Some(image), Some(version)) = (database.image.clone(), database.version.clone()) else {
        return Err(authorize::missing("image", "of the database"));
    };
    room::need(control, "a base", Some(&volume_of(id)))?;
    operations::step(control, job.operation, &format!("copying {}", database.name))?;
    let source = Psql {
        engine,
        instance: super::wait::running(control, id)?,
    };
    // What a try that was cut short left.
    engine.remove_volume(&making(id))?;
    let taken = databases::take(source, &volume_of(id), &making(id)).map_err(refused)?;
    let number = control.write(|tx| Ok(tx.next_number(&format!("base:{id}"))?))?;
    engine.rename_volume(&making(id), &base_volume(id, number))?;
    let base = Base {
        number,
        stretch,
        at: taken.from,
        lsn: taken.lsn,
        last: taken.last,
        version,
        image,
        manifest: None,
    };
    let outcome = format!(
        "base {number} of {} is taken: it can be restored to moments from {} on, once its log is received",
        database.name, base.at
    );
    // Nothing can be restored from it without the log up to its own end: noted now, it counts even if all dies before the next
    // look.
    let now = super::load(control, id)?;
    // Another stretch may have begun while it was copied, and what is known now is of that one.
    if now
        .archive
        .as_ref()
        .is_some_and(|archive| archive.stretch == stretch)
    {
        bring_up(control, &now)?;
    }
    change(control, id, |database| {
        if let Some(archive) = &mut database.archive {
            archive.bases.push(base.clone());
        }
    })?;
    describe(job, id, number)?;
    operations::succeed(control, job.operation, &outcome)
}

/// Lists the files of a base, so that a drill can tell whether they are those that were taken. It counts already.
fn describe(job: &Job, id: DatabaseId, number: u64) -> Result<(), ControlError> {
    let control = &*job.control;
    operations::step(control, job.operation, "listing its files")?;
    let is_wanted = || job.still_wanted().is_ok();
    let volume = base_volume(id, number);
    match databases::manifest::make(&*control.engine, &volume, &is_wanted) {
        Ok(sum) => change(control, id, |database| {
            let bases = database.archive.iter_mut().flat_map(|archive| &mut archive.bases);
            for base in bases.filter(|base| base.number == number) {
                base.manifest = Some(sum);
            }
        }),
        Err(cause) => {
            job.still_wanted()?;
            // It can be restored from all the same; drills say that they could not compare it.
            let line = format!("its files could not be listed: {cause}");
            operations::log_line(control, job.operation, &line);
            Ok(())
        }
    }
}
