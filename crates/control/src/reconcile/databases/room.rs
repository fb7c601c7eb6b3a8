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
    let needed = needed(control, copied)?;
    refuse_less(control, what, needed, POOL_RESERVE)
}

/// The same for a restore, which may have to be made just because a database has filled the pool: it may take what is kept for
/// those that run.
///
/// # Errors
/// As [`need`].
pub(super) fn need_to_restore(
    control: &Control,
    copied: Option<&str>,
    log: Bytes,
) -> Result<(), ControlError> {
    let needed = needed(control, copied)?.get() - POOL_RESERVE.get();
    let needed = Bytes::new(needed.saturating_add(log.get()));
    refuse_less(control, "a restore", needed, Bytes::new(0))
}

/// Whether there is room for a base of this volume.
///
/// # Errors
/// The engine's.
pub(super) fn is_for_base(control: &Control, volume: &str) -> Result<bool, ControlError> {
    Ok(control.engine.pool_free()? >= needed(control, Some(volume))?)
}

fn needed(control: &Control, copied: Option<&str>) -> Result<Bytes, ControlError> {
    let engine = &*control.engine;
    let bytes = match copied {
        Some(volume) if engine.capabilities().clone == COPY => {
            engine.volume_bytes(volume, Bytes::new(u64::MAX))?.get()
        }
        Some(_) | None => 0,
    };
    Ok(Bytes::new((POOL_RESERVE.get() + OWN.get()).saturating_add(bytes)))
}

fn refuse_less(control: &Control, what: &str, needed: Bytes, others: Bytes) -> Result<(), ControlError> {
    let free = control.engine.pool_free()?;
    if free >= needed {
        return Ok(());
    }
    let of_these = match others.get() {
        0 => String::new(),
        _some => format!(", of which {others} are for those that run"),
    };
    Err(ControlError::State {
        message: format!("the storage pool has {free} free, and {what} needs {needed}{of_these}"),
        next_step: "make room on the server's disk, or end branches, whose room is there at once: stoa db ls; end what failed, then \
                    try again"
            .to_owned(),
    })
}
