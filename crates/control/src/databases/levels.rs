//! What of a database may be changed after it was made: how much of what it acknowledged may be missing after a restore.
//! Having the server do it is `reconcile`'s work.

use model::{Action, Actor, Level};

use super::backups::refuse_branch;
use super::{DatabaseView, need_active, view};
use crate::authorize::{self, EnvPath};
use crate::transact::Current;
use crate::{Control, ControlError};

/// Chooses the level of a database's backup. The server follows within seconds, without a restart.
///
/// # Errors
/// As the gate's; `State` for a branch, which has no backup, and unless it is active; `Conflict` when it is not as expected.
pub fn update(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    level: Option<Level>,
    expected: Option<u64>,
) -> Result<DatabaseView, ControlError> {
    control.mutate(actor, "database.update", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let found = scope.database(tx, name)?.current(expected)?;
        need_active(&found.row)?;
        refuse_branch(&found.row)?;
        let Some(level) = level.filter(|level| *level != found.row.level) else {
            return Ok(());
        };
        let mut row = found.row;
        row.level = level;
        tx.update(&row, store::Expect::Generation(found.generation))?;
        Ok(())
    })?;
    view(control, actor, path, name)
}
