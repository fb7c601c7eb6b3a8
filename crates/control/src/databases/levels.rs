//! What of a database may be changed after it was made: how much of what it acknowledged may be missing after a restore, and
//! whether its address leads to a pooler. Having it so is `reconcile`'s work.

use model::{Action, Actor, Database, Level};

use super::backups::refuse_branch;
use super::{DatabaseView, need_active, view};
use crate::authorize::{self, EnvPath};
use crate::transact::Current;
use crate::{Control, ControlError};

/// How many sessions of its server the clients of a database's pooler share.
#[must_use]
pub fn pooled_sessions(database: &Database) -> u32 {
    ::databases::pooler::sessions(database.resources)
}

/// What is to be another; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    /// Level of its backup.
    pub level: Option<Level>,
    /// Whether its address leads to a pooler.
    pub pooled: Option<bool>,
}

/// Changes a database. The server follows within seconds, without a restart; apps get another address as they start.
///
/// # Errors
/// As the gate's; `State` for the level of a branch, which has no backup, and unless it
/// is active; `Conflict` when it is not as expected.
pub fn update(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    change: Change,
    expected: Option<u64>,
) -> Result<DatabaseView, ControlError> {
    control.mutate(actor, "database.update", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let found = scope.database(tx, name)?.current(expected)?;
        super::valkey::refuse(
            &found.row,
            "it has neither levels of backup nor a pooler",
            "see what can be restored: stoa db backups NAME",
        )?;
        need_active(&found.row)?;
        let mut row = found.row.clone();
        if let Some(level) = change.level {
            refuse_branch(&row)?;
            row.level = level;
        }
        if let Some(pooled) = change.pooled {
            refuse_sleeper(&row, pooled)?;
            row.pooled = pooled;
        }
        if row != found.row {
            tx.update(&row, store::Expect::Generation(found.generation))?;
        }
        Ok(())
    })?;
    view(control, actor, path, name)
}

/// A pooler keeps sessions, and knows its server by an address that a door does not have.
fn refuse_sleeper(database: &Database, pooled: bool) -> Result<(), ControlError> {
    if !pooled || database.idle_stop.is_none() {
        return Ok(());
    }
    let name = &database.name;
    Err(ControlError::State {
        message: format!("{name} sleeps when nobody uses it, and a pooler would keep it awake"),
        next_step: "make a branch that runs all the time: stoa db branch PARENT --as NAME --idle-stop never"
            .to_owned(),
    })
}
