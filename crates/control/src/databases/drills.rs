//! Drills of backups: ask for one, see them, and whether a database counts as protected. Doing it is `reconcile`'s work.

use std::collections::BTreeMap;

use model::operation::Work;
use model::{
    Action, Actor, Condition, Database, DatabaseId, DatabaseState, Drill, DrillId, DrillState, Instance,
    Name, Timestamp,
};
use plan::drill::{self, Protection};
use store::{Expect, ReadTx, WriteTx};

use super::backups::refuse_branch;
use crate::authorize::{self, EnvPath, Scope};
use crate::operations::{self, Accepted};
use crate::transact::all;
use crate::{Control, ControlError};

/// Asks for a drill of a database's backup.
///
/// # Errors
/// As the gate's; `State` for a branch, which has no backup, and while another drill of it is under way.
pub fn drill(control: &Control, actor: &Actor, path: &EnvPath, name: &str) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.drill", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, name)?.row;
        refuse_branch(&database)?;
        drill_in(control, tx, actor, &scope, &database)
    })
}

/// The same inside a transaction.
pub(crate) fn drill_in(
    control: &Control,
    tx: &WriteTx,
    actor: &Actor,
    scope: &Scope,
    database: &Database,
) -> Result<Accepted, ControlError> {
    let before = of(tx, database.id)?;
    if before.iter().any(|drill| drill.state == DrillState::Running) {
        return Err(ControlError::State {
            message: format!("a drill of {} is under way", database.name),
            next_step: format!("see what came of it: stoa db drills {}", database.name),
        });
    }
    let id = DrillId::fresh();
    let work = Work::DrillDatabase {
        database: database.id,
        drill: id,
    };
    let accepted = operations::accept(control, tx, actor, Some(scope), work)?;
    tx.insert(&Drill {
        id,
        database: database.id,
        operation: accepted.operation.id,
        asked_at: control.now_of(tx),
        expected: None,
        base: None,
        reached: None,
        rto: None,
        size: None,
        tables: 0,
        rows: 0,
        checks: Vec::new(),
        state: DrillState::Running,
    })?;
    let surplus = (before.len() + 1).saturating_sub(drill::REMEMBERED);
    // The last that passed says since when it is unprotected, however often it was tried since.
    let passed = before
        .iter()
        .rev()
        .find(|drill| is_passed(drill))
        .map(|drill| drill.id);
    let forgotten = before.iter().filter(|drill| Some(drill.id) != passed);
    for old in forgotten.take(surplus) {
        tx.delete::<Drill>(&old.id.to_string(), Expect::Any)?;
    }
    Ok(accepted)
}

fn is_passed(drill: &Drill) -> bool {
    matches!(drill.state, DrillState::Passed { .. })
}

/// The drills of a database that are remembered, oldest first.
pub(crate) fn of(tx: &ReadTx, id: DatabaseId) -> Result<Vec<Drill>, ControlError> {
    let mut drills: Vec<Drill> = tx
        .list::<Drill>(&id.to_string())?
        .into_iter()
        .map(|found| found.row)
        .collect();
    drills.sort_by_key(|drill| drill.id);
    Ok(drills)
}

/// The drills of a database that are remembered, newest first.
///
/// # Errors
/// As the gate's; `State` for a branch.
pub fn drills(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Vec<Drill>, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let database = scope.database(tx, name)?.row;
        refuse_branch(&database)?;
        let mut drills = of(tx, database.id)?;
        drills.reverse();
        Ok(drills)
    })
}

/// One of them.
///
/// # Errors
/// As the gate's.
pub fn drill_view(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    id: &str,
) -> Result<Drill, ControlError> {
    let all = drills(control, actor, path, name)?;
    all.into_iter()
        .find(|drill| drill.id.to_string() == id)
        .ok_or_else(|| authorize::missing("drill", id))
}

/// Whether the backup of a database was proven; nothing for what has none to prove: a branch, and what is not there (yet).
pub(crate) fn protection(
    tx: &ReadTx,
    database: &Database,
    now: Timestamp,
) -> Result<Option<Protection>, ControlError> {
    if !is_to_be_protected(database) {
        return Ok(None);
    }
    Ok(Some(drill::protection(&of(tx, database.id)?, now)))
}

fn is_to_be_protected(database: &Database) -> bool {
    match &database.state {
        DatabaseState::Active => database.origin.is_none(),
        DatabaseState::Creating | DatabaseState::Failed { .. } | DatabaseState::Destroyed { .. } => false,
    }
}

/// What is told of a database to who watches over the whole installation.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its id: names are unique in an environment only.
    pub id: DatabaseId,
    /// Its name.
    pub name: Name,
    /// Whether its server answers.
    pub is_ready: bool,
    /// Whether its backup was proven; nothing for a branch.
    pub protection: Option<Protection>,
    /// The last drill that passed.
    pub passed: Option<Drill>,
}

/// All databases of the installation, for `/metrics`.
///
/// # Errors
/// When the store cannot be read.
pub fn watched(control: &Control) -> Result<Vec<Watched>, ControlError> {
    let now = Timestamp::now();
    control.read(|tx| {
        let mut drills: BTreeMap<DatabaseId, Vec<Drill>> = BTreeMap::new();
        for drill in all::<Drill>(tx)?.0 {
            drills.entry(drill.database).or_default().push(drill);
        }
        let mut watched = Vec::new();
        for database in all::<Database>(tx)?.0 {
            if database.state != DatabaseState::Active {
                continue;
            }
            let mut mine = drills.remove(&database.id).unwrap_or_default();
            mine.sort_by_key(|drill| drill.id);
            let instances = tx.list::<Instance>(&database.id.to_string())?;
            watched.push(Watched {
                id: database.id,
                is_ready: instances
                    .iter()
                    .any(|found| matches!(found.row.condition, Condition::Ready { .. })),
                protection: is_to_be_protected(&database).then(|| drill::protection(&mine, now)),
                passed: mine.into_iter().rev().find(is_passed),
                name: database.name,
            });
        }
        Ok(watched)
    })
}
