//! Drills of backups: ask for one, see them, and whether a database counts as protected. Doing it is `reconcile`'s work.

use std::collections::BTreeMap;

use model::operation::Work;
use model::{
    Action, Actor, BackupTarget, Commits, Condition, Database, DatabaseEngine, DatabaseId, DatabaseState,
    Drill, DrillId, DrillState, DrilledCopy, Instance, Level, Name, Timestamp,
};
use plan::drill::{self, Protection};
use store::rows::BACKUP_TARGET;
use store::{Expect, ReadTx, WriteTx};

use super::backups::refuse_branch;
use crate::authorize::{self, EnvPath, Scope};
use crate::elsewhere::copy_on;
use crate::late::Unreceived;
use crate::operations::{self, Accepted};
use crate::transact::all;
use crate::{Control, ControlError};

/// Which copy of a backup to drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one on this server.
    Local,
    /// The one on the target elsewhere.
    Target,
}

/// Asks for a drill of a database's backup.
///
/// # Errors
/// As the gate's; `State` for a branch, which has no backup, and while another drill of it is under way; `NotFound` for a
/// target where there is none.
pub fn drill(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    which: Which,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.drill", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, name)?.row;
        refuse_valkey(&database)?;
        refuse_branch(&database)?;
        let copy = match which {
            Which::Local => DrilledCopy::Local,
            Which::Target => copy_elsewhere(tx)?.ok_or_else(crate::elsewhere::none)?,
        };
        drill_in(control, tx, actor, (&scope, &database), &copy)
    })
}

fn refuse_valkey(database: &Database) -> Result<(), ControlError> {
    super::valkey::refuse(
        database,
        "it has no drills",
        "try a restore of it yourself: stoa db restore NAME --as NAME-before --at TIME",
    )
}

/// The copy on the target there is now.
pub(crate) fn copy_elsewhere(tx: &ReadTx) -> Result<Option<DrilledCopy>, ControlError> {
    let target = tx.get::<BackupTarget>(BACKUP_TARGET)?;
    Ok(target.map(|target| copy_on(&target.row)))
}

/// The same inside a transaction.
pub(crate) fn drill_in(
    control: &Control,
    tx: &WriteTx,
    actor: &Actor,
    (scope, database): (&Scope, &Database),
    copy: &DrilledCopy,
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
        copy: copy.clone(),
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
    // Each copy has its own: the one that is drilled more often does not push out the other's.
    let (before, others): (Vec<Drill>, Vec<Drill>) =
        before.into_iter().partition(|drill| drill.copy == *copy);
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
    // Those of a target that is there no more prove nothing.
    let now = copy_elsewhere(tx)?;
    let is_old = |drill: &&Drill| drill.copy != DrilledCopy::Local && Some(&drill.copy) != now.as_ref();
    for old in others.iter().filter(is_old) {
        tx.delete::<Drill>(&old.id.to_string(), Expect::Any)?;
    }
    Ok(accepted)
}

fn is_passed(drill: &Drill) -> bool {
    matches!(drill.state, DrillState::Passed { .. })
}

fn last_passed(drills: &[Drill], copy: Option<&DrilledCopy>) -> Option<Drill> {
    let is_it = |drill: &&Drill| is_passed(drill) && Some(&drill.copy) == copy;
    drills.iter().rev().find(is_it).cloned()
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
        refuse_valkey(&database)?;
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

/// Whether the backup of a database was proven, copy by copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The one on this server; nothing for what has none to prove: a branch, and what is not there (yet).
    pub local: Option<Protection>,
    /// The one on the target elsewhere; nothing without a target, too.
    pub target: Option<Protection>,
}

pub(crate) fn proof(tx: &ReadTx, database: &Database, now: Timestamp) -> Result<Proof, ControlError> {
    if !is_to_be_protected(database) {
        return Ok(Proof::default());
    }
    let drills = of(tx, database.id)?;
    Ok(proof_of(&drills, copy_elsewhere(tx)?.as_ref(), now))
}

fn proof_of(drills: &[Drill], elsewhere: Option<&DrilledCopy>, now: Timestamp) -> Proof {
    let of = |copy: &DrilledCopy| drill::protection(&of_copy(drills, copy), now);
    Proof {
        local: Some(of(&DrilledCopy::Local)),
        target: elsewhere.map(of),
    }
}

/// Those of one copy, in the same order.
pub(crate) fn of_copy(drills: &[Drill], copy: &DrilledCopy) -> Vec<Drill> {
    drills
        .iter()
        .filter(|drill| drill.copy == *copy)
        .cloned()
        .collect()
}

fn is_to_be_protected(database: &Database) -> bool {
    match &database.state {
        // A Valkey has neither an archive nor drills: nothing of it is proven, and nothing says that it is.
        DatabaseState::Active => database.origin.is_none() && database.engine == DatabaseEngine::Postgres,
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
    /// Whether its backup was proven.
    pub proof: Proof,
    /// The last drill that passed.
    pub passed: Option<Drill>,
    /// The last one of the copy elsewhere that passed.
    pub passed_target: Option<Drill>,
    /// Level of its backup, and what its commits wait for; nothing for a branch.
    pub commits: Option<(Level, Commits)>,
    /// Whether what is not received of its log is overdue; nothing for a branch.
    pub is_behind: Option<bool>,
    /// What of its log was not received at the last look, if there was one.
    pub unreceived: Option<Unreceived>,
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
        let elsewhere = copy_elsewhere(tx)?;
        let mut watched = Vec::new();
        for database in all::<Database>(tx)?.0 {
            if database.state != DatabaseState::Active {
                continue;
            }
            let mut mine = drills.remove(&database.id).unwrap_or_default();
            mine.sort_by_key(|drill| drill.id);
            let kept = database.archive.as_ref();
            let instances = tx.list::<Instance>(&database.id.to_string())?;
            watched.push(Watched {
                id: database.id,
                is_ready: instances
                    .iter()
                    .any(|found| matches!(found.row.condition, Condition::Ready { .. })),
                proof: match is_to_be_protected(&database) {
                    true => proof_of(&mine, elsewhere.as_ref(), now),
                    false => Proof::default(),
                },
                passed: last_passed(&mine, Some(&DrilledCopy::Local)),
                passed_target: last_passed(&mine, elsewhere.as_ref()),
                commits: kept.map(|archive| (database.level, archive.commits)),
                is_behind: kept.map(|archive| archive.behind.is_some()),
                unreceived: control.late.of(database.id),
                name: database.name,
            });
        }
        Ok(watched)
    })
}
