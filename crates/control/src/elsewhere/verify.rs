//! Asking for everything on the target to be read. Doing it is `reconcile`'s work.

use model::operation::Work;
use model::{Action, Actor};
use store::rows::BACKUP_TARGET;

use super::need;
use crate::operations::{self, Accepted};
use crate::{Control, ControlError, authorize};

/// Asks for it.
///
/// # Errors
/// As the gate's; `NotFound` without a target; `State` while one is under way.
pub fn verify(control: &Control, actor: &Actor) -> Result<Accepted, ControlError> {
    control.mutate(actor, "backup_target.verify", BACKUP_TARGET, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        need(tx)?;
        let open = control.open.at(tx)?;
        if let Some(other) = open.iter().find(|open| open.work == Work::VerifyTarget) {
            return Err(ControlError::State {
                message: "what is on the target is being read already".to_owned(),
                next_step: format!("follow it: stoa op follow {}", other.id),
            });
        }
        operations::accept(control, tx, actor, None, Work::VerifyTarget)
    })
}
