//! Managed databases: their operations, and one living instance for each that should have one.

mod archive;
mod branch;
mod drill;
mod due;
mod fetch;
mod idle;
mod pooler;
mod promote;
mod reading;
mod receipt;
mod restart;
mod restore;
mod rotate;
mod server;
mod upgrade;
mod upload;
mod valkey;
mod verify;
mod wait;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::operation::Work;
use model::{
    Condition, Database, DatabaseEngine, DatabaseId, DatabaseState, Exit, Instance, InstanceId, Operation,
    Purpose, Timestamp,
};
use store::{Expect, WriteTx};

pub(super) use archive::watch as watch_archives;
pub(super) use drill::undo as undo_drill;
pub(super) use due::watch as watch_drills;
pub(super) use idle::{wake, watch as watch_idle};
pub(crate) use pooler::pooler_of;
pub(super) use pooler::{
    is_awaited as is_pooler_awaited, password_of as pooler_password, watch as watch_poolers,
};
pub(super) use promote::is_switched;
pub(super) use receipt::watch as watch_receipts;
pub(super) use server::Server;
pub(super) use upload::watch as watch_uploads;
pub(super) use valkey::watch as watch_valkeys;
pub(super) use verify::verify as verify_target;

use self::server::new_login;
use super::Facts;
use super::workers::{Job, Workers};
use crate::databases::room;
use crate::{Control, ControlError, operations};

/// How long a server may take to end before it is killed: its checkpoint may be large.
const STOP_GRACE: Duration = Duration::from_secs(60);
/// How long a worker waits for an instance of a database.
const RUNS_WITHIN: Duration = Duration::from_secs(120);

/// The name of a database's volume.
pub(crate) fn volume_of(id: DatabaseId) -> String {
    format!("db-{}", id.short(26))
}

/// Keeps one instance alive for each database that has a volume and is wanted.
pub(super) fn advance(control: &Control, facts: &Facts, lingering: &BTreeSet<InstanceId>, now: Timestamp) {
    for database in facts.databases.values() {
        if let Err(cause) = one(control, facts, database, lingering, now) {
            tracing::error!(database = %database.name, %cause, "could not advance the database; it is tried again");
        }
    }
}

fn one(
    control: &Control,
    facts: &Facts,
    database: &Database,
    lingering: &BTreeSet<InstanceId>,
    now: Timestamp,
) -> Result<(), ControlError> {
    // Trouble with its archive is not the server's.
    if let Err(cause) = archive::advance(control, facts, database, lingering, now) {
        tracing::error!(database = %database.name, %cause, "could not advance its archive; it is tried again");
    }
    if let Err(cause) = pooler::advance(control, facts, database, lingering, now) {
        tracing::error!(database = %database.name, %cause, "could not advance its pooler; it is tried again");
    }
    let mut mine: Vec<&Instance> = facts
        .instances
        .values()
        .filter(|i| is_of(i, database.id))
        .collect();
    mine.sort_by_key(|instance| instance.id);
    let live = mine.iter().find(|instance| instance.condition.is_live());
    if let (DatabaseState::Destroyed { purge_at, volume }, None) = (&database.state, live)
        && *purge_at <= now
        && !is_being_destroyed(facts, database.id)
    {
        // Under its old name, if its end was cut short before it got the new one.
        control.engine.remove_volume(&volume_of(database.id))?;
        control.engine.remove_volume(volume)?;
        // What an operation on it left when it was given up in the middle.
        control.engine.remove_volume(&branch::making(database.id))?;
        control.engine.remove_volume(&branch::next(database.id))?;
        let receivers = archive::receivers(facts, database.id);
        let poolers = pooler::poolers(facts, database.id);
        if !archive::is_removed(control, facts, database.id)?
            || poolers.iter().any(|instance| instance.condition.is_live())
        {
            return Ok(());
        }
        valkey::remove_logs(control, database.id)?;
        return control.write(|tx| {
            for ended in mine.iter().chain(&receivers).chain(&poolers) {
                tx.delete::<Instance>(&ended.id.to_string(), Expect::Any)?;
            }
            for drill in crate::databases::drills::of(tx, database.id)? {
                tx.delete::<model::Drill>(&drill.id.to_string(), Expect::Any)?;
            }
            tx.delete::<Database>(&database.id.to_string(), Expect::Any)?;
            Ok(())
        });
    }
    branch::expire(control, database, now)?;
    if upgrade::is_forgotten(facts, database) {
        return control.write(|tx| unmake(tx, database.id, "its operation is over"));
    }
    if let Some(operation) = database.paused
        && !facts.operations.contains_key(&operation)
    {
        // Whatever became of it, and of its worker.
        control.write(|tx| upgrade::resume(tx, database.id, operation))?;
    }
    match (is_wanted(database), live) {
        // Two servers on one data directory destroy it: the former one must be gone from the host.
        (true, None) if mine.iter().any(|instance| lingering.contains(&instance.id)) => Ok(()),
        // One that nobody can tell of runs: it may be the server of this one.
        (true, None) if lingering.iter().any(|id| facts.lost.contains(&id.to_string())) => Ok(()),
        (true, None) => {
            let ended: Vec<Timestamp> = mine.iter().filter_map(|instance| ended_at(instance)).collect();
            let attempt = next_attempt(&mine);
            if let Some(last) = ended.last()
                && now < last.plus(plan::backoff::delay(attempt))
            {
                return Ok(());
            }
            prune(control, &mine)?;
            control.write(|tx| {
                // A worker may have destroyed it since the facts were read.
                if !is_wanted(&tx.need::<Database>(&database.id.to_string())?.row) {
                    return Ok(());
                }
                tx.insert(&Instance {
                    id: InstanceId::fresh(),
                    purpose: Purpose::Database {
                        database: database.id,
                    },
                    attempt,
                    created_at: now,
                    address: None,
                    uid_range: crate::workload::uid_range(tx)?,
                    excused: false,
                    condition: Condition::Starting { since: now },
                })?;
                Ok(())
            })
        }
        (false, Some(instance)) => stop(control, facts, instance, now),
        // To be started again: one that was told to end is not forgotten.
        (true, Some(instance)) if matches!(instance.condition, Condition::Stopping { .. }) => {
            stop(control, facts, instance, now)
        }
        (true, Some(_)) | (false, None) => Ok(()),
    }
}

/// Whether a server should run for it.
pub(super) fn is_wanted(database: &Database) -> bool {
    match &database.state {
        // The worker names the image only after the volume is there.
        DatabaseState::Creating | DatabaseState::Active => {
            let is_stopped = database.asleep.is_some_and(|asleep| asleep.is_stopped);
            database.image.is_some() && database.paused.is_none() && !is_stopped
        }
        DatabaseState::Failed { .. } | DatabaseState::Destroyed { .. } => false,
    }
}

/// Whether the operation that ends it is under way and needs its row.
fn is_being_destroyed(facts: &Facts, id: DatabaseId) -> bool {
    let is_its_end = |work: &Work| matches!(work, Work::DestroyDatabase { database } if *database == id);
    facts
        .operations
        .values()
        .any(|operation| is_its_end(&operation.work))
}

/// Whether its server answers.
pub(super) fn is_ready(facts: &Facts, id: DatabaseId) -> bool {
    let mut mine = facts.instances.values().filter(|instance| is_of(instance, id));
    mine.any(|instance| matches!(instance.condition, Condition::Ready { .. }))
}

/// A creation that was given up: whoever waits for the database must not wait for ever.
pub(super) fn unmake(tx: &WriteTx, id: DatabaseId, why: &str) -> Result<(), ControlError> {
    let Some(mut found) = tx.get::<Database>(&id.to_string())? else {
        return Ok(());
    };
    if found.row.state != DatabaseState::Creating {
        return Ok(());
    }
    if found
        .row
        .restored
        .as_ref()
        .is_some_and(|from| from.upgraded.is_some())
    {
        // Nobody asked for it by its name: what it was to be is what its operation tells.
        return upgrade::discard(tx, found.row);
    }
    found.row.state = DatabaseState::Failed { why: why.to_owned() };
    tx.update_status(&found.row, Expect::Any)?;
    Ok(())
}

fn is_of(instance: &Instance, database: DatabaseId) -> bool {
    match &instance.purpose {
        Purpose::Database { database: of } => *of == database,
        Purpose::Service { .. } | Purpose::Job { .. } | Purpose::Receiver { .. } | Purpose::Pooler { .. } => {
            false
        }
    }
}

fn ended_at(instance: &Instance) -> Option<Timestamp> {
    match &instance.condition {
        Condition::Exited { at, .. } => Some(*at),
        Condition::Starting { .. }
        | Condition::Ready { .. }
        | Condition::Unready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. } => None,
    }
}

/// A server that stayed up for five minutes, or ended as it was asked to, begins a new series.
fn next_attempt(mine: &[&Instance]) -> u32 {
    match mine.last() {
        // It ended because it was told to, or as one does that was.
        Some(last) if last.excused || ended_well(last) => 0,
        Some(last) => match ended_at(last) {
            Some(at) if at.since(last.created_at) < model::Millis::seconds(300) => last.attempt + 1,
            Some(_) | None => 0,
        },
        None => 0,
    }
}

fn ended_well(instance: &Instance) -> bool {
    match &instance.condition {
        Condition::Exited { exit, .. } => *exit == Exit::Code { code: 0 },
        Condition::Starting { .. }
        | Condition::Ready { .. }
        | Condition::Unready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. } => false,
    }
}

/// Keeps the last three lives as history.
fn prune(control: &Control, mine: &[&Instance]) -> Result<(), ControlError> {
    let Some(surplus) = mine.len().checked_sub(2).filter(|surplus| *surplus > 0) else {
        return Ok(());
    };
    control.write(|tx| {
        for old in &mine[..surplus] {
            tx.delete::<Instance>(&old.id.to_string(), Expect::Any)?;
        }
        Ok(())
    })
}

fn stop(control: &Control, facts: &Facts, instance: &Instance, now: Timestamp) -> Result<(), ControlError> {
    if !matches!(instance.condition, Condition::Stopping { .. }) {
        control.write(|tx| {
            let mut found = tx.need::<Instance>(&instance.id.to_string())?;
            found.row.condition = Condition::Stopping { since: now };
            found.row.excused = true;
            tx.update_status(&found.row, Expect::Any)?;
            Ok(())
        })?;
    }
    // Said again until it has ended: a crash of ours may have come between the row and the request.
    facts.told.stop(control, instance.id, STOP_GRACE, now)
}

/// Gives an operation on a database to a worker.
pub(super) fn work(control: &Arc<Control>, workers: &Workers, operation: &Operation) {
    match operation.work.clone() {
        Work::CreateDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                match load(&job.control, database)?.engine {
                    DatabaseEngine::Postgres => create(job, database),
                    DatabaseEngine::Valkey(_) => valkey::make(job, database),
                }
            });
        }
        Work::RotateDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                rotate::make(job, database)
            });
        }
        Work::RestartDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                restart::make(job, database)
            });
        }
        Work::BranchDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                match load(&job.control, database)?.engine {
                    DatabaseEngine::Postgres => branch::make(job, database),
                    DatabaseEngine::Valkey(_) => valkey::make_branch(job, database),
                }
            });
        }
        Work::ResetDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                branch::reset(job, database)
            });
        }
        Work::BackupDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                match load(&job.control, database)?.engine {
                    DatabaseEngine::Postgres => archive::backup(job, database),
                    DatabaseEngine::Valkey(_) => valkey::backup(job, database),
                }
            });
        }
        Work::DrillDatabase { database, drill } => {
            workers.start(control, operation.id, &[], move |job| {
                drill::make(job, database, drill)
            });
        }
        Work::RestoreDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                match load(&job.control, database)?.engine {
                    DatabaseEngine::Postgres => restore::make(job, database),
                    DatabaseEngine::Valkey(_) => valkey::make_restored(job, database),
                }
            });
        }
        Work::PromoteDatabase { database, of, keep } => {
            workers.start(control, operation.id, &[database, of], move |job| {
                promote::make(job, database, of, keep)
            });
        }
        Work::UpgradeDatabase {
            database,
            of,
            keep,
            most,
        } => {
            workers.start(control, operation.id, &[database, of], move |job| {
                upgrade::make(job, database, of, keep, most)
            });
        }
        Work::DestroyDatabase { database } => {
            workers.start(control, operation.id, &[database], move |job| {
                destroy(job, database)
            });
        }
        Work::Deploy { .. }
        | Work::Rollback { .. }
        | Work::Restart { .. }
        | Work::Scale { .. }
        | Work::Run { .. }
        | Work::DeleteApp { .. }
        | Work::VerifyTarget
        | Work::RotateKey { .. }
        | Work::Image { .. } => {}
    }
}

fn load(control: &Control, id: DatabaseId) -> Result<Database, ControlError> {
    control.read(|tx| Ok(tx.need::<Database>(&id.to_string())?.row))
}

fn change(control: &Control, id: DatabaseId, change: impl Fn(&mut Database)) -> Result<(), ControlError> {
    control.write(|tx| {
        let mut found = tx.need::<Database>(&id.to_string())?;
        change(&mut found.row);
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

fn create(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let template = match make(job, id) {
        Ok(template) => template,
        Err(cause) => {
            let why = operations::failure_of(&cause, Vec::new()).message;
            control.write(|tx| unmake(tx, id, &why))?;
            return Err(cause);
        }
    };
    // For the next one, now that this one serves. Without it the next only takes longer.
    let _slot = job.template_lock();
    if let Err(cause) = databases::prepare_spare(&*control.engine, &template) {
        tracing::warn!(%cause, "no volume was prepared for the next database");
    }
    Ok(())
}

/// Returns the template it was made from.
fn make(job: &Job, id: DatabaseId) -> Result<String, ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let database = load(control, id)?;
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let wanted = database.version.as_deref();
    let (image, version) = match databases::find_image(engine, wanted).map_err(refused)? {
        Some(found) => found,
        None => {
            operations::step(control, job.operation, "getting PostgreSQL")?;
            databases::ensure_image(engine, wanted, &lines).map_err(refused)?
        }
    };
    let template = match databases::find_template(engine, &image, &version).map_err(refused)? {
        Some(template) => template,
        None => make_template(job, &database, &image, &version)?,
    };
    job.still_wanted()?;
    let mut number = None;
    if database.image.is_none() {
        room::need(control, "a new database", None)?;
        databases::create_volume(engine, &template, &volume_of(id)).map_err(refused)?;
        // One transaction: each costs a write of the disk, and the server begins after it.
        number = control.write(|tx| {
            let mut found = tx.need::<Database>(&id.to_string())?;
            found.row.image = Some(image.clone());
            found.row.version = Some(version.clone());
            tx.update_status(&found.row, Expect::Rev(found.rev))?;
            operations::step_in(tx, job.operation, STARTING)?;
            Ok(Some(login_number(tx, id)?))
        })?;
        lines(&format!("==> {STARTING}"));
    }
    serve(job, &database, number)?;
    let outcome = format!(
        "{} answers; DATABASE_URL reaches the services that use it at their next release",
        database.name
    );
    operations::succeed(control, job.operation, &outcome)?;
    Ok(template)
}

const STARTING: &str = "starting the server";

fn make_template(
    job: &Job,
    database: &Database,
    image: &model::ImageDigest,
    version: &str,
) -> Result<String, ControlError> {
    let control = &*job.control;
    let network = database.environment.to_string();
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    operations::step(control, job.operation, "making the template")?;
    let places = [job.place(&network)?, job.place(&network)?];
    // Two creations at once must not make two templates.
    let _slot = job.template_lock();
    databases::ensure_template(&*control.engine, image, version, places, &lines).map_err(refused)
}

/// Waits for the server of a database whose volume is there, gives it a login (of that number, or a fresh one), and says
/// that it is active.
fn serve(job: &Job, database: &Database, number: Option<u64>) -> Result<(), ControlError> {
    let control = &*job.control;
    let id = database.id;
    let number = match number {
        Some(number) => number,
        None => {
            operations::step(control, job.operation, STARTING)?;
            control.write(|tx| login_number(tx, id))?
        }
    };
    let instance = wait::running(control, id)?;
    let server = Server::of(control, &load(control, id)?, instance)?;
    new_login(control, id, &server, number, |database| {
        if database.state == DatabaseState::Creating {
            database.state = DatabaseState::Active;
        }
    })?;
    job.still_wanted()
}

/// The number of the next login role of a database.
fn login_number(tx: &WriteTx, id: DatabaseId) -> Result<u64, ControlError> {
    Ok(tx.next_number(&format!("login:{id}"))?)
}

fn fresh_password() -> Result<String, ControlError> {
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes).map_err(|e| ControlError::File {
        what: "no randomness from the system".to_owned(),
        cause: std::io::Error::other(e.to_string()),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Ends the server, then gives the volume the name under which it waits for its end.
fn destroy(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let database = load(control, id)?;
    let volume = format!("destroyed-{}", id.short(26));
    operations::step(control, job.operation, "ending the server")?;
    // A branch can be made again from its parent; its space is wanted back.
    let (grace, kept) = match &database.origin {
        Some(_) => (model::Millis::new(0), None),
        None => (control.settings.volume_grace, Some(&volume)),
    };
    let purge_at = Timestamp::now().plus(grace);
    control.write(|tx| {
        let mut found = tx.need::<Database>(&id.to_string())?;
        if !matches!(found.row.state, DatabaseState::Destroyed { .. }) {
            found.row.state = DatabaseState::Destroyed {
                purge_at,
                volume: volume.clone(),
            };
            // Its name is free again at once; the kept one is found by its id.
            found.row.name = name_of_ended(id)?;
            tx.update(&found.row, Expect::Any)?;
        }
        Ok(())
    })?;
    wait::ended(control, id)?;
    let mine = volume_of(id);
    let kept = match kept {
        None => {
            control.engine.remove_volume(&mine)?;
            "its space is given back".to_owned()
        }
        Some(volume) => {
            if control.engine.volumes()?.iter().any(|known| known.name == mine) {
                control.engine.rename_volume(&mine, volume)?;
            }
            format!("its volume is kept as {volume} until {purge_at}")
        }
    };
    let branches = control.read(|tx| crate::databases::branches_of(tx, &database))?;
    let outcome = match branches.len() {
        0 => format!("{} is gone; {kept}", database.name),
        count => format!(
            "{} is gone; {kept}; its branches are copies and stay ({count}: {})",
            database.name,
            crate::databases::joined(&branches)
        ),
    };
    operations::succeed(control, job.operation, &outcome)
}

fn name_of_ended(id: DatabaseId) -> Result<model::Name, ControlError> {
    format!("d-{}", id.short(26))
        .parse()
        .map_err(|e: model::NameError| ControlError::invalid("/name", e.to_string()))
}

pub(crate) fn refused(cause: databases::DatabaseError) -> ControlError {
    match cause {
        databases::DatabaseError::Engine(cause) => ControlError::Engine(cause),
        missing @ (databases::DatabaseError::Gap { .. } | databases::DatabaseError::Short { .. }) => {
            ControlError::State {
                message: missing.to_string(),
                next_step: "see what can be restored: stoa db backups NAME".to_owned(),
            }
        }
        upgrade @ databases::DatabaseError::Program { program: databases::PG_UPGRADE, .. } => ControlError::State {
            message: upgrade.to_string(),
            next_step: "mend what it names, or take an image with a later release of the version that it is to have; try it out: \
                        stoa db branch NAME --as try --version N"
                .to_owned(),
        },
        script @ databases::DatabaseError::Mask { .. } => ControlError::State {
            message: script.to_string(),
            next_step:
                "mend the script and try again; psql runs it as the owner of the data, as one transaction"
                    .to_owned(),
        },
        other @ (databases::DatabaseError::Program { .. }
        | databases::DatabaseError::NoValkey { .. }
        | databases::DatabaseError::Slow { .. }
        | databases::DatabaseError::Version { .. }
        | databases::DatabaseError::Unfit { .. }
        | databases::DatabaseError::File { .. }) => ControlError::State {
            message: other.to_string(),
            next_step: "read the operation's log, then try again; see the host: stoa doctor".to_owned(),
        },
    }
}
