//! The audit log: reading it, checking that nobody altered it, and what is written into it beside changes.
//!
//! Lives here: use cases of the audit. Does not live here: the records of changes (`transact`), the chain (`store`).
//! Invariant: reading and checking leave a record too.

use std::path::PathBuf;

use model::{Action, Actor};
use store::{AuditRecord, AuditVerdict};

use crate::authorize;
use crate::{Control, ControlError, Settings};

/// Most records of one page.
const LIMIT: usize = 500;
const WHAT: &str = "audit log";

/// Where the end of the chain is kept beside the store: who cuts the log in the store has to forge this file too.
#[must_use]
pub fn head_file(settings: &Settings) -> PathBuf {
    settings.data_dir.join("audit/head")
}

/// Records before `before`, newest first.
///
/// # Errors
/// As the gate's.
pub fn list(
    control: &Control,
    actor: &Actor,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditRecord>, ControlError> {
    let found = control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        Ok(tx.audit_list(before, limit.clamp(1, LIMIT))?)
    });
    let found = control.audited(actor, "audit.read", WHAT, found)?;
    control.mutate(actor, "audit.read", WHAT, |_| Ok(()))?;
    Ok(found)
}

/// Walks the whole chain, up to the end that was sealed last.
///
/// # Errors
/// As the gate's; a log that does not fit is no error but a verdict.
pub fn verify(control: &Control, actor: &Actor) -> Result<AuditVerdict, ControlError> {
    let head = head_file(&control.settings);
    let verdict = control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        Ok(tx.audit_verify(Some(&head))?)
    });
    let verdict = control.audited(actor, "audit.verify", WHAT, verdict)?;
    control.mutate(actor, "audit.verify", WHAT, |_| Ok(()))?;
    Ok(verdict)
}

/// Records that a door refused what never became a use case. `outcome` is the refusal's code.
pub fn refused(control: &Control, actor: &Actor, action: &str, object: &str, outcome: &str) {
    control.record_refusal(actor, action, object, outcome);
}

/// Keeps the end of the chain in its file.
///
/// # Errors
/// When the log is shorter than or different from what the file knows: the evidence stays as it is.
pub(crate) fn seal(control: &Control) -> Result<(), ControlError> {
    let path = head_file(&control.settings);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|cause| ControlError::File {
            what: format!("could not create {}", parent.display()),
            cause,
        })?;
    }
    control.read(|tx| Ok(tx.audit_seal_head(&path)?))
}
