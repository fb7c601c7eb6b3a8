//! Room in the pool for what is about to be made: what those that run need is not given to another one.

use model::Bytes;
use plan::storage::POOL_RESERVE;

use crate::{Control, ControlError};

/// How the pool clones when it can share no blocks.
pub(super) const COPY: &str = "copy";
/// What a server writes before anybody has: its log, at least.
const OWN: Bytes = Bytes::mi(128);

/// Refuses when the pool has no room for another server, and for the bytes of the volume that it begins with where those are
/// not shared.
///
/// # Errors
/// `State` with what there is and what is needed; the engine's.
pub(super) fn need(control: &Control, what: &str, copied: Option<&str>) -> Result<(), ControlError> {
    let engine = &*control.engine;
    let bytes = match copied {
        Some(volume) if engine.capabilities().clone == COPY => {
            engine.volume_bytes(volume, Bytes::new(u64::MAX))?.get()
        }
        Some(_) | None => 0,
    };
    let needed = Bytes::new((POOL_RESERVE.get() + OWN.get()).saturating_add(bytes));
    let free = engine.pool_free()?;
    if free >= needed {
        return Ok(());
    }
    Err(ControlError::State {
        message: format!(
            "the storage pool has {free} free, and {what} needs {needed}, of which {POOL_RESERVE} are for those that run"
        ),
        next_step: "make room on the server's disk, or end what is not needed: stoa db ls; then try again"
            .to_owned(),
    })
}
