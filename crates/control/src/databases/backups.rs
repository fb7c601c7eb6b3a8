//! Backup of databases: see what can be restored, ask for a base, ask for a restore. Doing it is `reconcile`'s work.
//!
//! Invariants: a restore makes another database and leaves the one it is of alone; what lies outside of what is kept is
//! refused before anything is made, with what is kept.

use std::time::{Duration, Instant};

use databases::Psql;
use model::operation::Work;
use model::{
    Action, Actor, Base, Bytes, Condition, Database, DatabaseEngine, DatabaseId, DatabaseState, DrillId,
    Instance, Lsn, Millis, Name, Restored, Target, Timestamp,
};
use plan::backup::{self, Gap, Run, Stretch, WalFile, Window};
use plan::drill::Protection;
use store::ReadTx;
use store::secret::{Sealed, Secret};

use super::{need_active, room};
use crate::authorize::{self, EnvPath};
use crate::elsewhere::Progress;
use crate::late::Unreceived;
use crate::operations::{self, Accepted};
use crate::{Control, ControlError, rehearsal};

/// How long what was written until now may take to be received.
const RECEIVED_WITHIN: Duration = Duration::from_secs(5);
/// What was committed without waiting for the disk is there after that time: three rounds of PostgreSQL's WAL writer, and
/// some.
pub(crate) const WRITTEN_AFTER: Millis = Millis::seconds(1);

/// What there is of the backup of a database.
#[derive(Debug, Clone)]
pub struct Backups {
    /// Its bases with whether something can be restored from each, oldest first.
    pub bases: Vec<(Base, bool)>,
    /// What can be restored to, oldest first.
    pub windows: Vec<Window>,
    /// What is missing, oldest first.
    pub gaps: Vec<Gap>,
    /// Bytes of archived log.
    pub wal: Bytes,
    /// What of its log was not received at the last look, if there was one.
    pub unreceived: Option<Unreceived>,
    /// Whether its log is received now.
    pub is_receiving: bool,
    /// How far back is kept.
    pub keep: Millis,
    /// As of when the cluster is that its last passed drill left.
    pub drilled_at: Option<Timestamp>,
    /// How far it is on the target elsewhere, if there is one.
    pub elsewhere: Option<Elsewhere>,
    /// What of a Valkey can be restored: that has a log instead of all the above.
    pub valkey: Option<KeptOfValkey>,
}

/// What can be restored of a Valkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOfValkey {
    /// The earliest moment and the last one; nothing before it has a log.
    pub window: Option<(Timestamp, Timestamp)>,
    /// The logs that are kept beside its own, oldest first.
    pub kept: Vec<model::KeptLog>,
}

/// How far the backup of a database is on the target elsewhere.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The target.
    pub place: model::TargetPlace,
    /// Whether somebody proved to have the key elsewhere.
    pub is_escrowed: bool,
    /// How far it is.
    pub progress: Progress,
    /// It has not been up to date for long.
    pub is_stale: bool,
    /// Whether a drill proved what is there; nothing for what has nothing to prove.
    pub protection: Option<Protection>,
}

/// The name of the volume of a stretch of a database's log.
pub(crate) fn stretch_volume(id: DatabaseId, stretch: u64) -> String {
    format!("{}{stretch:06}", stretches_of(id))
}

/// How the names of those begin.
pub(crate) fn stretches_of(id: DatabaseId) -> String {
    format!("wal-{}-", id.short(26))
}

/// The name of the volume of a base.
pub(crate) fn base_volume(id: DatabaseId, number: u64) -> String {
    format!("{}{number:06}", bases_of(id))
}

/// How the names of those begin.
pub(crate) fn bases_of(id: DatabaseId) -> String {
    format!("base-{}-", id.short(26))
}

/// The name of the volume that a passed drill left.
pub(crate) fn drilled_volume(id: DatabaseId, drill: DrillId) -> String {
    format!("{}{}", drilled_of(id), drill.short(26))
}

/// How the names of those begin.
pub(crate) fn drilled_of(id: DatabaseId) -> String {
    format!("drilled-{}-", id.short(26))
}

/// What can be restored, as the files of the archive and the row tell.
pub(crate) struct Catalogue {
    pub(crate) bases: Vec<Base>,
    pub(crate) stretches: Vec<Stretch>,
    pub(crate) runs: Vec<Run>,
}

/// Reads the archive of a database.
pub(crate) fn catalogue(control: &Control, database: &Database) -> Result<Catalogue, ControlError> {
    let engine = &*control.engine;
    let prefix = stretches_of(database.id);
    let mut stretches = Vec::new();
    for volume in engine.volumes()? {
        let number = volume
            .name
            .strip_prefix(&prefix)
            .and_then(|number| number.parse().ok());
        let Some(number) = number else { continue };
        let found = ::databases::archive::files(engine, &volume.name).map_err(crate::reconcile::refused)?;
        let file = |found: ::databases::archive::Found| WalFile {
            segment: found.segment,
            is_open: found.is_open,
            bytes: found.bytes,
            written: found.written,
        };
        stretches.push(Stretch {
            number,
            files: found.files.into_iter().map(file).collect(),
            complete: found.complete,
        });
    }
    let runs = backup::runs(&stretches);
    let bases = database.archive.as_ref().map(|archive| archive.bases.clone());
    Ok(Catalogue {
        bases: bases.unwrap_or_default(),
        stretches,
        runs,
    })
}

/// The server of a database, if it answers.
pub(crate) fn server_of(control: &Control, id: DatabaseId) -> Result<Option<Instance>, ControlError> {
    control.read(|tx| answering(tx, id))
}

/// The same as a transaction sees it.
pub(crate) fn answering(tx: &ReadTx, id: DatabaseId) -> Result<Option<Instance>, ControlError> {
    let instances = tx.list::<Instance>(&id.to_string())?;
    let ready = |instance: &Instance| matches!(instance.condition, Condition::Ready { .. });
    Ok(instances.into_iter().map(|found| found.row).find(ready))
}

/// The backup of a database.
///
/// # Errors
/// As the gate's; `State` for a branch, which has none; when the archive cannot be read.
pub fn backups(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Backups, ControlError> {
    let (database, proof) = control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let database = scope.database(tx, name)?.row;
        let proof = super::drills::proof(tx, &database, Timestamp::now())?;
        Ok((database, proof))
    })?;
    refuse_branch(&database)?;
    let valkey = match database.engine.valkey() {
        None => None,
        Some(valkey) => {
            super::valkey::refuse_cache(&database, valkey)?;
            let from = plan::valkey::earliest(valkey);
            Some(KeptOfValkey {
                window: from.map(|from| (from, Timestamp::now())),
                kept: valkey.kept.clone(),
            })
        }
    };
    let is_receiving = freshen(control, &database)?;
    let found = catalogue(control, &database)?;
    let of_use = |base: &Base| backup::run_of(base, &found.runs).is_some();
    let files = found.stretches.iter().flat_map(|stretch| &stretch.files);
    Ok(Backups {
        bases: found
            .bases
            .iter()
            .map(|base| (base.clone(), of_use(base)))
            .collect(),
        windows: backup::windows(&found.bases, &found.runs),
        gaps: backup::gaps(&found.runs),
        wal: Bytes::new(files.map(|file| file.bytes).sum()),
        unreceived: control.late.of(database.id),
        is_receiving,
        keep: backup::KEEP,
        drilled_at: database
            .archive
            .as_ref()
            .and_then(|archive| archive.drilled.as_ref())
            .map(|drilled| drilled.at),
        elsewhere: crate::elsewhere::row(control)?
            .map(|target| {
                let (progress, is_stale) = control.uploads.of(database.id);
                Elsewhere {
                    place: target.place,
                    is_escrowed: target.escrowed_at.is_some(),
                    progress,
                    is_stale,
                    protection: proof.target,
                }
            })
            .filter(|_| valkey.is_none()),
        valkey,
    })
}

/// Asks the server how far its archive is, and notes it. Whether it is received now; one that does not answer has its
/// backup all the same.
pub(crate) fn freshen(control: &Control, database: &Database) -> Result<bool, ControlError> {
    let Some(server) = server_of(control, database.id)?.filter(|_| database.archive.is_some()) else {
        return Ok(false);
    };
    let psql = Psql {
        engine: &*control.engine,
        instance: server.id,
    };
    let now = Timestamp::now();
    let Ok(seen) = ::databases::archive::look(psql) else {
        return Ok(false);
    };
    if is_received(seen.received, seen.written) {
        let committed = Timestamp::from_ms(now.as_ms().saturating_sub(WRITTEN_AFTER.as_ms()));
        note(control, database, committed, seen.written);
    }
    Ok(seen.is_connected && !seen.is_lost)
}

fn is_received(received: Option<Lsn>, written: Lsn) -> bool {
    received.is_some_and(|received| received >= written)
}

/// Notes until when the archive is complete. Without the note only less is known.
fn note(control: &Control, database: &Database, at: Timestamp, lsn: Lsn) {
    let Some(archive) = &database.archive else { return };
    let volume = stretch_volume(database.id, archive.stretch);
    if let Err(cause) = ::databases::archive::note_complete(&*control.engine, &volume, at, lsn) {
        tracing::warn!(database = %database.name, %cause, "could not note how far its archive is");
    }
}

/// Sees that everything committed by now is in the archive, as far as its server answers and is received in time.
pub(crate) fn bring_up(control: &Control, database: &Database) -> Result<(), ControlError> {
    if database.archive.is_none() {
        return Ok(());
    }
    let Some(server) = server_of(control, database.id)? else {
        return Ok(());
    };
    let psql = Psql {
        engine: &*control.engine,
        instance: server.id,
    };
    let now = Timestamp::now();
    let Ok(first) = ::databases::archive::mark(psql) else {
        return Ok(());
    };
    let until = Instant::now() + RECEIVED_WITHIN;
    let mut seen = first;
    while !is_received(seen.received, first.written) {
        if seen.is_lost || Instant::now() >= until {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
        let Ok(next) = ::databases::archive::look(psql) else {
            return Ok(());
        };
        seen = next;
    }
    note(control, database, now, first.written);
    Ok(())
}

/// Asks for a base.
///
/// # Errors
/// As the gate's; `State` unless it is active and has a backup, and without room in the storage pool.
pub fn backup(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Accepted, ControlError> {
    let room = room::seen(control);
    control.mutate(actor, "database.backup", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, name)?.row;
        need_active(&database)?;
        refuse_branch(&database)?;
        match &database.engine {
            DatabaseEngine::Postgres => room::refuse(room.as_ref(), "a base")?,
            // Its log is rewritten in its own volume.
            DatabaseEngine::Valkey(valkey) => super::valkey::refuse_cache(&database, valkey)?,
        }
        let work = Work::BackupDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Refuses what needs a backup where there is none and will be none. That of a new database begins by itself soon.
pub(crate) fn refuse_branch(database: &Database) -> Result<(), ControlError> {
    match &database.origin {
        Some(origin) if database.archive.is_none() => Err(ControlError::State {
            message: format!("{} is a branch: a branch has no backup", database.name),
            next_step: format!(
                "see that of what it is a branch of: stoa db backups {}",
                origin.name
            ),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Asks for another database with what this one had at some time.
///
/// # Errors
/// As the gate's; `Taken`; `State` without a backup, and without room in the storage pool; `Invalid` for a target outside of what is kept.
pub fn restore(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    source: &str,
    name: &Name,
    target: Target,
) -> Result<Accepted, ControlError> {
    let read = |tx: &store::ReadTx| -> Result<Database, ControlError> {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, source)?.row;
        refuse_branch(&database)?;
        Ok(database)
    };
    let before = control.read(read)?;
    match &before.engine {
        // Outside of the transaction: it asks the server and looks at every file.
        DatabaseEngine::Postgres => need_in_window(control, &before, target, "/to")?,
        DatabaseEngine::Valkey(valkey) => {
            need_active(&before)?;
            super::valkey::need_reached(&before, valkey, target, Timestamp::now())?;
        }
    }
    let room = room::seen(control);
    control.mutate(actor, "database.restore", name.as_str(), |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let of = read(tx)?;
        if tx.find::<Database>(&scope.parent(), name.as_str())?.is_some() {
            return Err(ControlError::Taken {
                kind: "database",
                name: name.to_string(),
            });
        }
        room::refuse_restore(room.as_ref())?;
        let database = Database {
            id: DatabaseId::fresh(),
            environment: scope.environment.id,
            name: name.clone(),
            engine: of.engine.anew(),
            version: of.version,
            image: None,
            size: of.size,
            resources: of.resources,
            created_at: control.now_of(tx),
            credentials: Vec::new(),
            state: DatabaseState::Creating,
            full: None,
            origin: None,
            restored: Some(Restored {
                of: of.id,
                name: of.name,
                server: None,
                target,
                upgraded: None,
                reached: None,
            }),
            paused: None,
            promoted: None,
            replaced: None,
            level: of.level,
            pooled: of.pooled,
            pooler: None,
            unpooled: None,
            archive: None,
            expires_at: None,
            idle_stop: None,
            asleep: None,
            restarting: None,
        };
        tx.insert(&database)?;
        let work = Work::RestoreDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Refuses what lies outside of what is kept, as of now; `given` is where it was asked for.
pub(crate) fn need_in_window(
    control: &Control,
    database: &Database,
    target: Target,
    given: &str,
) -> Result<(), ControlError> {
    if !rehearsal::is_on() {
        bring_up(control, database)?;
    }
    let found = catalogue(control, database)?;
    // Where the latest lies is seen when it is done.
    if target == Target::Latest || backup::way(&found.bases, &found.runs, target).is_some() {
        return Ok(());
    }
    let windows = backup::windows(&found.bases, &found.runs);
    Err(outside(&database.name, &windows, target, given))
}

/// Says what can be restored where something cannot.
pub(crate) fn outside(name: &Name, windows: &[Window], target: Target, given: &str) -> ControlError {
    let by_place = matches!(target, Target::Lsn { .. });
    let kept: Vec<String> = windows
        .iter()
        .map(|window| match by_place {
            true => format!("from {} until {}", window.from_lsn, window.until_lsn),
            false => format!("from {} until {}", window.from, window.until),
        })
        .collect();
    let message = match kept.is_empty() {
        true => format!(
            "nothing can be restored of {name} yet: there is no base with its log; see: stoa db backups {name}"
        ),
        false => format!(
            "{target} lies outside of what {name} can be restored to: {}",
            kept.join(", and ")
        ),
    };
    let at = match target {
        Target::Latest => "/name".to_owned(),
        Target::Time { .. } => format!("{given}/at"),
        Target::Lsn { .. } => format!("{given}/lsn"),
    };
    ControlError::invalid(&at, message)
}

/// The password of the receiver of a database.
pub(crate) fn receiver_password(
    control: &Control,
    id: DatabaseId,
    archive: &model::Archive,
) -> Result<Secret, ControlError> {
    let (tenant, sealed) = (store::rows::database_tenant(id), Sealed(archive.sealed.clone()));
    let opened = control
        .store
        .unseal(&tenant, store::rows::RECEIVER_PASSWORD, archive.version, &sealed);
    Ok(opened.map_err(store::StoreError::from)?)
}
