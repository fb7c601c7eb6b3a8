//! Asking for another instance of a database's server; making it is `reconcile`'s work.

use model::operation::Work;
use model::{Action, Actor};

use super::backups::answering;
use super::need_active;
use super::promote::refuse_ending;
use crate::authorize::{self, EnvPath};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError};

/// Asks for another instance of a database's server, from the newest image of its version.
///
/// # Errors
/// As the gate's; `State` for one that does not answer, or ends.
pub fn restart(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.restart", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Configure, path)?;
        let database = scope.database(tx, name)?.row;
        super::valkey::refuse(
            &database,
            "only the server of a PostgreSQL is started anew",
            "see how it is: stoa db info NAME",
        )?;
        refuse_ending(control, tx, &database)?;
        need_active(&database)?;
        if answering(tx, database.id)?.is_none() {
            return Err(ControlError::State {
                message: format!("the server of {name} does not answer"),
                next_step: format!("see why: stoa db info {name}"),
            });
        }
        let work = Work::RestartDatabase {
            database: database.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}
