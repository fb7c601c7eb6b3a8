//! Keys by which a request counts once: taken before it acts, kept with its answer, or given back.

use store::{Begun, WriteTx};

use crate::{Control, ControlError};

/// Not as a reconciler's change: nobody waits for it, and a rehearsal uses no key.
fn write<T>(
    control: &Control,
    work: impl FnOnce(&WriteTx) -> Result<T, ControlError>,
) -> Result<T, ControlError> {
    control.store.write(control.clock.now(), work)
}

/// Takes the key of an actor for the request with that fingerprint, or says what became of it before.
///
/// # Errors
/// When the store cannot be written.
pub fn begin(
    control: &Control,
    actor: &str,
    key: &str,
    fingerprint: &[u8; 32],
) -> Result<Begun, ControlError> {
    write(control, |tx| Ok(tx.idempotency_begin(actor, key, fingerprint)?))
}

/// Keeps the answer with the key.
///
/// # Errors
/// When the store cannot be written.
pub fn finish(
    control: &Control,
    actor: &str,
    key: &str,
    status: u16,
    answer: &[u8],
) -> Result<(), ControlError> {
    write(control, |tx| {
        Ok(tx.idempotency_finish(actor, key, status, answer)?)
    })
}

/// Gives the key back: nothing was done.
///
/// # Errors
/// When the store cannot be written.
pub fn abandon(control: &Control, actor: &str, key: &str) -> Result<(), ControlError> {
    write(control, |tx| Ok(tx.idempotency_abandon(actor, key)?))
}
