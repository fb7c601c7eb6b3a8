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
        need_active(&found.row)?;
        let mut row = found.row.clone();
        if let Some(level) = change.level {
            refuse_branch(&row)?;
            row.level = level;
        }
        if let Some(pooled) = change.pooled {
            row.pooled = pooled;
        }
        if row != found.row {
            tx.update(&row, store::Expect::Generation(found.generation))?;
        }
        Ok(())
    })?;
    view(control, actor, path, name)
}
