//! What is on the target elsewhere, and asking for a database to be restored from it.
//!
//! Lives here: reading catalogues and holding them against what is there. Does not live here: doing it (`reconcile`).
//! Invariant: what is promised is there by name and size; what is in it shows when it is opened, and is told by name then.

use std::collections::BTreeMap;

use ::backup::{BackupError, Catalogue, Key, Manifest, Names, Target};
use model::operation::Work;
use model::{
    Action, Actor, Base, Bytes, Database, DatabaseId, DatabaseState, Name, Resources, Restored, Timestamp,
};
use plan::backup::{self as planned, Gap, Run, Stretch, WalFile, Window};

use super::{Ready, marks, need, ready};
use crate::authorize::{self, EnvPath};
use crate::databases::{backups, room};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError, rehearsal};

/// A database whose backup is on the target.
#[derive(Debug, Clone)]
pub struct KeptDatabase {
    /// The server that wrote it.
    pub server: String,
    /// That is this one.
    pub is_own: bool,
    /// Its id there.
    pub id: DatabaseId,
    /// Its name there.
    pub name: Name,
    /// Org, project and environment it was in.
    pub place: String,
    /// When its catalogue was written last.
    pub written_at: Timestamp,
    /// What it can be restored to.
    pub windows: Vec<Window>,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// Its bases, oldest first, with whether something can be restored from each.
    pub bases: Vec<(Base, bool)>,
    /// Bytes on the target.
    pub bytes: Bytes,
    /// What is not as the catalogue says.
    pub problems: Vec<String>,
}

/// The backup of one database on the target.
pub(crate) struct Kept {
    pub(crate) server: String,
    pub(crate) catalogue: Catalogue,
    pub(crate) runs: Vec<Run>,
    /// Bases that are there.
    pub(crate) bases: Vec<Base>,
    bytes: u64,
    problems: Vec<String>,
}

/// What a target answered, for whoever asked for something.
pub(crate) fn target_refused(cause: &BackupError) -> ControlError {
    let next_step = match cause {
        BackupError::Unreachable { .. } | BackupError::Refused { .. } => {
            "mend what it says about the target, then try again; see: stoa server backup-target view"
        }
        BackupError::Missing { .. } | BackupError::Damaged { .. } => {
            "see what can be restored without it: stoa db backups --target"
        }
        BackupError::Source { .. } | BackupError::NoRandomness | BackupError::Unfit { .. } => {
            "see the host: stoa doctor"
        }
    };
    ControlError::State {
        message: cause.to_string(),
        next_step: next_step.to_owned(),
    }
}

fn read(target: &Target, key: &Key, server: &str, id: DatabaseId) -> Result<Kept, BackupError> {
    let names = Names::of(server);
    let catalogue: Catalogue = target.document(key, &names.catalogue(id))?;
    let there: BTreeMap<String, u64> = target
        .list(&names.database(id))?
        .into_iter()
        .map(|object| (object.name, object.bytes))
        .collect();
    let wrong = |name: &str, bytes: u64| match there.get(name) {
        Some(found) if *found == bytes => None,
        Some(found) => Some(format!("{name} has {found} bytes and was put there with {bytes}")),
        None => Some(format!("{name} is not there")),
    };
    let mut problems = Vec::new();
    let mut stretches = Vec::new();
    for stretch in &catalogue.stretches {
        let mut files = Vec::new();
        for file in &stretch.files {
            let name = names.file(id, stretch.number, file);
            match wrong(&name, file.bytes) {
                None => files.push(wal_file(file)),
                Some(why) => problems.push(why),
            }
        }
        stretches.push(Stretch {
            number: stretch.number,
            files,
            complete: stretch.complete,
        });
    }
    let mut bases = Vec::new();
    for base in &catalogue.bases {
        let name = names.manifest(id, base.number);
        match target.document::<Manifest>(key, &name) {
            Ok(manifest) => {
                let parts = manifest.parts.iter();
                let mut bad: Vec<String> = parts.filter_map(|part| wrong(&part.name, part.bytes)).collect();
                if bad.is_empty() {
                    bases.push(base.base());
                }
                problems.append(&mut bad);
            }
            Err(cause @ (BackupError::Missing { .. } | BackupError::Damaged { .. })) => {
                problems.push(cause.to_string());
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(Kept {
        server: server.to_owned(),
        runs: planned::runs(&stretches),
        catalogue,
        bases,
        bytes: there.values().sum(),
        problems,
    })
}

/// A segment on the target as the planner knows those here.
pub(crate) fn wal_file(file: &::backup::KeptFile) -> WalFile {
    WalFile {
        segment: file.segment,
        is_open: file.open_at.is_some(),
        // Only whole ones are put there.
        bytes: model::backup::SEGMENT_BYTES,
        written: file.written,
    }
}

/// All that the key opens. A catalogue that does not open is told in the place of its database.
fn all(ready: &Ready) -> Result<(Vec<Kept>, Vec<BackupError>), BackupError> {
    let (mut found, mut bad) = (Vec::new(), Vec::new());
    for mark in marks(&ready.target)?
        .into_iter()
        .filter(|mark| mark.key == ready.row.fingerprint)
    {
        for folder in ready.target.folders(&Names::of(&mark.server).all())? {
            let Ok(id) = folder.parse::<DatabaseId>() else {
                continue;
            };
            match read(&ready.target, &ready.key, &mark.server, id) {
                Ok(kept) => found.push(kept),
                Err(cause @ (BackupError::Missing { .. } | BackupError::Damaged { .. })) => bad.push(cause),
                Err(cause) => return Err(cause),
            }
        }
    }
    Ok((found, bad))
}

/// Everything on the target that its key opens: this server's and others'.
///
/// # Errors
/// As the gate's; `State` without a target, or with what it answered.
pub fn kept(control: &Control, actor: &Actor) -> Result<Vec<KeptDatabase>, ControlError> {
    let row = control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        Ok(need(tx)?.row)
    })?;
    let ready = ready(control, row)?;
    let (found, bad) = all(&ready).map_err(|cause| target_refused(&cause))?;
    if let (true, Some(cause)) = (found.is_empty(), bad.first()) {
        return Err(target_refused(cause));
    }
    for cause in bad {
        tracing::error!(%cause, "the backup of a database elsewhere cannot be read");
    }
    let view = |kept: Kept| KeptDatabase {
        is_own: kept.server == ready.row.server,
        server: kept.server,
        id: kept.catalogue.database,
        name: kept.catalogue.name,
        place: kept.catalogue.place,
        written_at: kept.catalogue.written_at,
        windows: planned::windows(&kept.bases, &kept.runs),
        gaps: planned::gaps(&kept.runs),
        bases: kept
            .bases
            .iter()
            .map(|base| (base.clone(), planned::run_of(base, &kept.runs).is_some()))
            .collect(),
        bytes: Bytes::new(kept.bytes),
        problems: kept.problems,
    };
    let mut databases: Vec<KeptDatabase> = found.into_iter().map(view).collect();
    databases.sort_by_key(|one| (one.is_own, one.server.clone(), one.id));
    Ok(databases)
}

/// The backup of one database, by id or by name, of one server or whichever has it.
pub(crate) fn find(ready: &Ready, server: Option<&str>, database: &str) -> Result<Kept, ControlError> {
    let (found, bad) = all(ready).map_err(|cause| target_refused(&cause))?;
    let is_it = |kept: &Kept| {
        server.is_none_or(|server| kept.server == server)
            && (kept.catalogue.name.as_str() == database || kept.catalogue.database.to_string() == database)
    };
    let mut fitting: Vec<Kept> = found.into_iter().filter(is_it).collect();
    match (fitting.pop(), fitting.len()) {
        (Some(one), 0) => Ok(one),
        (Some(one), _) => {
            let others = fitting
                .iter()
                .map(|kept| kept.catalogue.database)
                .chain([one.catalogue.database]);
            let ids: Vec<String> = others.map(|id| id.to_string()).collect();
            Err(ControlError::invalid(
                "/database",
                format!(
                    "several on the target have that name; say which: {}",
                    ids.join(", ")
                ),
            ))
        }
        (None, _) => match bad.first() {
            // It may be the one that cannot be read.
            Some(cause) => Err(target_refused(cause)),
            None => Err(ControlError::State {
                message: format!("there is no database {database:?} on the target that its key opens"),
                next_step: "see what there is: stoa db backups --target".to_owned(),
            }),
        },
    }
}

/// Asks for a database with what one had whose backup is on the target.
///
/// # Errors
/// As the gate's; `Taken`; `State` without a target or with what it answered; `Invalid` for what lies outside of what is
/// kept.
pub fn restore(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    (server, database): (Option<&str>, &str),
    name: &Name,
    to: model::Target,
) -> Result<Accepted, ControlError> {
    let row = control.read(|tx| {
        authorize::environment(tx, actor, Action::Manage, path)?;
        authorize::installation(tx, actor, Action::Administer)?;
        Ok(need(tx)?.row)
    })?;
    let of = match rehearsal::is_on() {
        // Nobody outside is asked.
        true => Of::unknown(database, name),
        false => {
            let kept = find(&ready(control, row)?, server, database)?;
            if planned::way(&kept.bases, &kept.runs, to).is_none() {
                let windows = planned::windows(&kept.bases, &kept.runs);
                return Err(backups::outside(&kept.catalogue.name, &windows, to, "/to"));
            }
            Of::known(kept)
        }
    };
    let room = room::seen(control);
    control.mutate(actor, "database.restore_from_target", name.as_str(), |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        authorize::installation(tx, actor, Action::Administer)?;
        if tx.find::<Database>(&scope.parent(), name.as_str())?.is_some() {
            return Err(ControlError::Taken {
                kind: "database",
                name: name.to_string(),
            });
        }
        room::refuse_restore(room.as_ref())?;
        let row = Database {
            id: DatabaseId::fresh(),
            environment: scope.environment.id,
            name: name.clone(),
            engine: model::DatabaseEngine::Postgres,
            version: None,
            image: None,
            size: of.size,
            resources: Resources {
                memory: of.memory,
                ..Resources::default()
            },
            created_at: control.now_of(tx),
            credentials: Vec::new(),
            state: DatabaseState::Creating,
            full: None,
            origin: None,
            restored: Some(Restored {
                of: of.id,
                name: of.name.clone(),
                server: Some(of.server.clone()),
                target: to,
                upgraded: None,
                reached: None,
            }),
            paused: None,
            promoted: None,
            replaced: None,
            level: model::Level::Stream,
            pooled: false,
            pooler: None,
            unpooled: None,
            archive: None,
            expires_at: None,
            idle_stop: None,
            asleep: None,
            restarting: None,
        };
        tx.insert(&row)?;
        let work = Work::RestoreDatabase { database: row.id };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// What the new database takes over.
struct Of {
    id: DatabaseId,
    name: Name,
    server: String,
    size: Bytes,
    memory: Bytes,
}

impl Of {
    fn known(kept: Kept) -> Self {
        Self {
            id: kept.catalogue.database,
            name: kept.catalogue.name,
            server: kept.server,
            size: kept.catalogue.size,
            memory: kept.catalogue.memory,
        }
    }

    fn unknown(database: &str, name: &Name) -> Self {
        Self {
            id: database.parse().unwrap_or_else(|_| DatabaseId::fresh()),
            name: database.parse().unwrap_or_else(|_| name.clone()),
            server: String::new(),
            size: crate::databases::SIZE,
            memory: crate::databases::MEMORY,
        }
    }
}
