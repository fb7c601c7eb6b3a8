//! The master key: which one seals, and going over to another one.
//!
//! Lives here: asking for it. Does not live here: doing it (`reconcile/keys`), the file and the walk (`store`).
//! Invariant: one rotation at a time; nothing of a key but its public name leaves the store.

use model::operation::Work;
use model::{Action, Actor};

use crate::authorize;
use crate::operations::{self, Accepted};
use crate::{Control, ControlError};

const WHAT: &str = "master key";

/// What may be told about the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// The public name of the key that seals.
    pub current: String,
    /// Older keys that still open something, oldest first.
    pub older: Vec<String>,
}

/// The keys there are, by their public names.
///
/// # Errors
/// As the gate's.
pub fn view(control: &Control, actor: &Actor) -> Result<KeyView, ControlError> {
    control.read(|tx| authorize::installation(tx, actor, Action::Administer).map(drop))?;
    let mut older = control.store.key_ids();
    let current = older.pop().unwrap_or_default();
    Ok(KeyView { current, older })
}

/// Asks for another master key: it seals from then on, everything is sealed again with it, and the old one is retired.
///
/// # Errors
/// As the gate's; `State` while one is under way.
pub fn rotate(control: &Control, actor: &Actor) -> Result<Accepted, ControlError> {
    control.mutate(actor, "master_key.rotate", WHAT, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let open = control.open.at(tx)?;
        let is_rotation = |work: &Work| matches!(work, Work::RotateKey { .. });
        if let Some(other) = open.iter().find(|operation| is_rotation(&operation.work)) {
            return Err(ControlError::State {
                message: "the master key is being rotated already".to_owned(),
                next_step: format!("follow it: stoa op follow {}", other.id),
            });
        }
        let from = control.store.key_ids().pop().unwrap_or_default();
        operations::accept(control, tx, actor, None, Work::RotateKey { from })
    })
}
