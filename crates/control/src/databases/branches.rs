//! Branches of a database: ask for one, ask for its reset. Making them is `reconcile`'s work.

use model::operation::Work;
use model::{
    Action, Actor, BranchSource, Database, DatabaseId, DatabaseState, Millis, Name, Origin, Shape, Target,
};
use store::ReadTx;

use super::backups::{self, refuse_branch};
use super::upgrade::need_later;
use super::{LIVES, need_active, need_to_be_had, room};
use crate::authorize::{self, EnvPath};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError};

/// The longest mask script: one that is longer builds something, and belongs into a migration.
const MASK_MOST: usize = 64 << 10;

/// What a branch is to be.
#[derive(Debug, Clone)]
pub struct BranchWish {
    /// Its name.
    pub name: Name,
    /// What it is a copy of.
    pub source: BranchSource,
    /// What is made of the copy.
    pub shape: Shape,
    /// After which time it ends by itself.
    pub lives: Option<Millis>,
    /// After which time without anybody its server stops, until somebody comes; zero lets it run. A Valkey always runs.
    pub idle_stop: Millis,
}

/// After which time a branch stops unless asked otherwise: who works with it does not notice, and who left it alone for
/// lunch does not pay for it.
pub const IDLE_STOP: Millis = Millis::seconds(300);

/// Asks for a branch of a database.
///
/// # Errors
/// As the gate's; `Taken`; `State` unless the parent is active and has what the branch is to be a copy of, and without room in
/// the storage pool; `Invalid` for a time it cannot live, and a script that is none.
pub fn branch(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    parent: &str,
    wish: &BranchWish,
) -> Result<Accepted, ControlError> {
    let read = |tx: &ReadTx| -> Result<Database, ControlError> {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let parent = scope.database(tx, parent)?.row;
        check(wish)?;
        need_active(&parent)?;
        has_source(&parent, wish.source)?;
        if let Some(valkey) = parent.engine.valkey() {
            super::valkey::refuse_cache(&parent, valkey)?;
        }
        if wish.shape != Shape::default() {
            super::valkey::refuse(
                &parent,
                "its branches are whole, with its own version",
                "leave out the mask, the schema and the version: stoa db branch NAME --as COPY",
            )?;
        }
        if let Some(version) = &wish.shape.version {
            need_later(&parent, version)?;
        }
        Ok(parent)
    };
    if let Some(version) = &wish.shape.version {
        need_to_be_had(control, version)?;
    }
    if let BranchSource::Backup { at } = wish.source {
        let parent = control.read(read)?;
        // Outside of the transaction: it asks the server and looks at every file.
        backups::need_in_window(control, &parent, Target::Time { at }, "/from")?;
    }
    let room = room::seen(control);
    control.mutate(actor, "database.branch", wish.name.as_str(), |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let parent = read(tx)?;
        if tx
            .find::<Database>(&scope.parent(), wish.name.as_str())?
            .is_some()
        {
            return Err(ControlError::Taken {
                kind: "database",
                name: wish.name.to_string(),
            });
        }
        room::refuse(room.as_ref(), "a branch")?;
        let now = control.now_of(tx);
        // A Valkey of nobody costs next to nothing but the memory that holds its data.
        let may_sleep = parent.engine.valkey().is_none() && wish.idle_stop > Millis::new(0);
        let database = Database {
            id: DatabaseId::fresh(),
            environment: scope.environment.id,
            name: wish.name.clone(),
            engine: parent.engine.anew(),
            version: parent.version,
            image: None,
            size: parent.size,
            resources: parent.resources,
            created_at: now,
            credentials: Vec::new(),
            state: DatabaseState::Creating,
            full: None,
            origin: Some(Origin {
                of: parent.id,
                name: parent.name,
                at: None,
                lsn: None,
                source: wish.source,
                shape: wish.shape.clone(),
            }),
            restored: None,
            paused: None,
            promoted: None,
            replaced: None,
            level: model::Level::Stream,
            pooled: false,
            pooler: None,
            unpooled: None,
            archive: None,
            expires_at: wish.lives.map(|lives| now.plus(lives)),
            idle_stop: may_sleep.then_some(wish.idle_stop),
            asleep: None,
            restarting: None,
        };
        tx.insert(&database)?;
        let work = Work::BranchDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

fn check(wish: &BranchWish) -> Result<(), ControlError> {
    if wish.lives.is_some_and(|lives| !LIVES.contains(&lives)) {
        return Err(ControlError::invalid("/ttl_s", "between a minute and a year"));
    }
    if wish.idle_stop > *LIVES.end() {
        return Err(ControlError::invalid("/idle_stop_s", "a year at most"));
    }
    let Some(mask) = &wish.shape.mask else {
        return Ok(());
    };
    let why = if mask.trim().is_empty() {
        "the script is empty: without one, leave it out".to_owned()
    } else if mask.len() > MASK_MOST {
        format!("the script has more than {} KiB", MASK_MOST >> 10)
    } else if mask.contains('\0') {
        "the script is no text: it has a zero byte".to_owned()
    } else {
        return Ok(());
    };
    Err(ControlError::invalid("/mask", why))
}

/// A branch has neither drills nor a backup to make another one of.
fn has_source(parent: &Database, source: BranchSource) -> Result<(), ControlError> {
    match source {
        BranchSource::Live => Ok(()),
        BranchSource::Backup { .. } => {
            super::valkey::refuse(
                parent,
                "what it had at a time is restored, not branched",
                "restore it: stoa db restore NAME --as COPY --at TIME",
            )?;
            refuse_branch(parent)
        }
        BranchSource::Drilled => {
            super::valkey::refuse(
                parent,
                "it has no drills to branch from",
                "branch what it has now: stoa db branch NAME --as COPY",
            )?;
            refuse_branch(parent)?;
            let archive = parent.archive.as_ref();
            match archive.and_then(|archive| archive.drilled.as_ref()) {
                Some(_) => Ok(()),
                None => Err(not_drilled(parent)),
            }
        }
    }
}

/// Asks for the data it was made of, taken anew: what the parent has now, what its last drill left, or its backup of the same
/// time; what the branch has is lost.
///
/// # Errors
/// As the gate's; `State` when it is no branch, does not answer, or its parent is gone, and without room in the storage pool.
pub fn reset(control: &Control, actor: &Actor, path: &EnvPath, name: &str) -> Result<Accepted, ControlError> {
    let room = room::seen(control);
    control.mutate(actor, "database.reset", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, name)?.row;
        super::valkey::refuse(
            &database,
            "it cannot be reset",
            "end it and branch again: stoa db destroy NAME --confirm NAME",
        )?;
        need_active(&database)?;
        let Some(origin) = &database.origin else {
            return Err(ControlError::State {
                message: format!("{name} is no branch: there is nothing to reset it to"),
                next_step: format!("make a branch of it: stoa db branch {name} --as NAME"),
            });
        };
        let parent = tx.get::<Database>(&origin.of.to_string())?.map(|found| found.row);
        let Some(parent) = parent.filter(|parent| parent.state == DatabaseState::Active) else {
            return Err(ControlError::State {
                message: format!(
                    "{}, of which {name} is a branch, is gone or does not answer",
                    origin.name
                ),
                next_step: "see what there is: stoa db ls".to_owned(),
            });
        };
        has_source(&parent, origin.source)?;
        room::refuse(room.as_ref(), "a branch")?;
        let work = Work::ResetDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// That there is nothing to branch from without the database.
pub(crate) fn not_drilled(parent: &Database) -> ControlError {
    let name = &parent.name;
    ControlError::State {
        message: format!("no drill of {name} has left anything to branch from yet"),
        next_step: format!("do one: stoa db drill {name}; or branch what it has now: --from live"),
    }
}

/// Names of the databases that were branched from it and are still there.
pub(crate) fn branches_of(tx: &ReadTx, parent: &Database) -> Result<Vec<Name>, ControlError> {
    let all = tx.list::<Database>(&parent.environment.to_string())?.into_iter();
    let is_branch = |row: &Database| match &row.state {
        DatabaseState::Creating | DatabaseState::Active | DatabaseState::Failed { .. } => {
            row.origin.as_ref().is_some_and(|origin| origin.of == parent.id)
        }
        DatabaseState::Destroyed { .. } => false,
    };
    Ok(all
        .map(|found| found.row)
        .filter(is_branch)
        .map(|row| row.name)
        .collect())
}

/// Names as a sentence has them.
pub(crate) fn joined(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}
