//! Branches of a database: ask for one, ask for its reset. Making them is `reconcile`'s work.

use model::operation::Work;
use model::{Action, Actor, Database, DatabaseId, DatabaseState, Millis, Name, Origin};
use store::ReadTx;

use super::{LIVES, need_active};
use crate::authorize::{self, EnvPath};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError};

/// Asks for a branch of a database that runs.
///
/// # Errors
/// As the gate's; `Taken`; `State` unless the parent is active; `Invalid` for a time it cannot live.
pub fn branch(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    parent: &str,
    name: &Name,
    lives: Option<Millis>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.branch", name.as_str(), |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let parent = scope.database(tx, parent)?.row;
        if lives.is_some_and(|lives| !LIVES.contains(&lives)) {
            return Err(ControlError::invalid("/ttl_s", "between a minute and a year"));
        }
        need_active(&parent)?;
        if tx.find::<Database>(&scope.parent(), name.as_str())?.is_some() {
            return Err(ControlError::Taken {
                kind: "database",
                name: name.to_string(),
            });
        }
        let now = control.now_of(tx);
        let database = Database {
            id: DatabaseId::fresh(),
            environment: scope.environment.id,
            name: name.clone(),
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
            }),
            restored: None,
            promoted: None,
            replaced: None,
            archive: None,
            expires_at: lives.map(|lives| now.plus(lives)),
        };
        tx.insert(&database)?;
        let work = Work::BranchDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Asks for the data that the parent has now; what the branch has is lost.
///
/// # Errors
/// As the gate's; `State` when it is no branch, does not answer, or its parent is gone.
pub fn reset(control: &Control, actor: &Actor, path: &EnvPath, name: &str) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.reset", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, name)?.row;
        need_active(&database)?;
        let Some(origin) = &database.origin else {
            return Err(ControlError::State {
                message: format!("{name} is no branch: there is nothing to reset it to"),
                next_step: format!("make a branch of it: stoa db branch {name} --as NAME"),
            });
        };
        let parent = tx.get::<Database>(&origin.of.to_string())?.map(|found| found.row);
        if parent.is_none_or(|parent| parent.state != DatabaseState::Active) {
            return Err(ControlError::State {
                message: format!(
                    "{}, of which {name} is a branch, is gone or does not answer",
                    origin.name
                ),
                next_step: "see what there is: stoa db ls".to_owned(),
            });
        }
        let work = Work::ResetDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
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
