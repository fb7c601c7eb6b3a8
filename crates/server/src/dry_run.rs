//! `dry_run`: the request is rehearsed, and the answer says what it would have changed.
//!
//! Lives here: the answer. Does not live here: rehearsing (`control::rehearsal`), plans that an endpoint makes itself.
//! Invariant: nothing of the rehearsed answer but its status gets out: it may hold a token that never came to be.

use api::operations::DRY_RUN_MEDIA_TYPE;
use api::{DryRun, DryRunChange};

use crate::answer::Reply;
use crate::refusal::Refusal;

/// What `act` would change, and the status it would be answered with.
pub(crate) fn of(act: impl FnOnce() -> Result<u16, Refusal>) -> Result<Reply, Refusal> {
    let (status, changes) = control::rehearsal::rehearsed(act);
    let changes = changes.into_iter().map(|would| DryRunChange {
        kind: would.kind,
        id: would.id,
        name: would.name,
        change: would.change.to_owned(),
    });
    let told = DryRun {
        status: status?,
        changes: changes.collect(),
    };
    Reply::typed(&told, DRY_RUN_MEDIA_TYPE)
}
