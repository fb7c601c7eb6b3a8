//! Room in the pool for what is about to be made: what those that run need is not given to another one.
//!
//! Lives here: how many bytes and inodes a server needs, and the words of the refusal, of a request and of its operation.
//! Does not live here: what a database may hold (`plan::storage`).
//! Invariant: a request is refused for what one look at the pool shows. What a copy takes is counted by its operation, which
//! looks again.

use model::Bytes;
use model::backup::SEGMENT_BYTES;
use plan::storage::POOL_RESERVE;

use crate::{Control, ControlError};

/// How the pool clones when it can share no blocks.
pub(crate) const COPY: &str = "copy";
/// What a server writes before anybody has: its log, at least.
const OWN: Bytes = Bytes::mi(128);
/// Files of a server that nobody has used: three databases of some 300 each, its own one, its log and what runs it, and as
/// much again for the first tables.
const OWN_INODES: u64 = 2000;
/// Inodes that are kept for those that run: a server that cannot make a file at its checkpoint ends.
const KEPT_INODES: u64 = 1000;

/// What the pool can still give, as of one look.
pub(crate) struct Room {
    bytes: Bytes,
    /// Nothing where the file system has no number of them.
    inodes: Option<u64>,
}

/// What something takes, and which part of that is for those that run.
struct Needed {
    bytes: Bytes,
    bytes_kept: Bytes,
    inodes: u64,
    inodes_kept: u64,
}

impl Needed {
    /// For a server, with so many bytes and inodes of its own.
    fn of(bytes: u64, inodes: u64) -> Self {
        Self {
            bytes: Bytes::new((POOL_RESERVE.get() + OWN.get()).saturating_add(bytes)),
            bytes_kept: POOL_RESERVE,
            inodes: KEPT_INODES.saturating_add(inodes.max(OWN_INODES)),
            inodes_kept: KEPT_INODES,
        }
    }

    /// For one that may take what is kept, with so much log.
    fn of_restore(bytes: u64, inodes: u64, log: u64) -> Self {
        let segments = log / SEGMENT_BYTES;
        Self {
            bytes: Bytes::new(OWN.get().saturating_add(bytes).saturating_add(log)),
            bytes_kept: Bytes::new(0),
            inodes: inodes.max(OWN_INODES).saturating_add(segments),
            inodes_kept: 0,
        }
    }
}

/// What the pool has, for a request; to be asked outside of a transaction. `None` when it cannot be measured: then the
/// operation says so.
pub(crate) fn seen(control: &Control) -> Option<Room> {
    look(control).ok()
}

/// Refuses a request for another server where the pool has no room for its own part.
///
/// # Errors
/// `State` with what there is and what is needed.
pub(super) fn refuse(seen: Option<&Room>, what: &str) -> Result<(), ControlError> {
    seen.map_or(Ok(()), |room| room.refuse_less(what, &Needed::of(0, 0)))
}

/// The same of a request for a restore.
///
/// # Errors
/// As [`refuse`].
pub(crate) fn refuse_restore(seen: Option<&Room>) -> Result<(), ControlError> {
    seen.map_or(Ok(()), |room| {
        room.refuse_less("a restore", &Needed::of_restore(0, 0, 0))
    })
}

/// Refuses when the pool has no room for another server, and for what is in the volume that it begins with where that is
/// copied: its bytes where they are not shared, and its files.
///
/// # Errors
/// `State` with what there is and what is needed; the engine's.
pub(crate) fn need(control: &Control, what: &str, copied: Option<&str>) -> Result<(), ControlError> {
    let (bytes, inodes) = taken(control, copied)?;
    look(control)?.refuse_less(what, &Needed::of(bytes, inodes))
}

/// The same for a restore, which may have to be made just because a database has filled the pool: it may take what is kept for
/// those that run.
///
/// # Errors
/// As [`need`].
pub(crate) fn need_to_restore(
    control: &Control,
    copied: Option<&str>,
    log: Bytes,
) -> Result<(), ControlError> {
    let (bytes, inodes) = taken(control, copied)?;
    look(control)?.refuse_less("a restore", &Needed::of_restore(bytes, inodes, log.get()))
}

/// Refuses when the pool has no inodes for another server.
///
/// # Errors
/// As [`need`].
pub(crate) fn need_inodes(control: &Control, what: &str) -> Result<(), ControlError> {
    look(control)?.refuse_fewer(what, &Needed::of(0, 0))
}

/// Whether there is room for a base of this volume.
///
/// # Errors
/// The engine's.
pub(crate) fn is_for_base(control: &Control, volume: &str) -> Result<bool, ControlError> {
    let (bytes, inodes) = taken(control, Some(volume))?;
    let room = look(control)?;
    Ok(room.refuse_less("a base", &Needed::of(bytes, inodes)).is_ok())
}

fn look(control: &Control) -> Result<Room, ControlError> {
    Ok(Room {
        bytes: control.engine.pool_free()?,
        inodes: control.engine.pool_inodes()?,
    })
}

/// Bytes and inodes that a copy of a volume takes. A clone has its own files even where it shares their bytes, but on a file
/// system that can share them they are made as they are needed.
fn taken(control: &Control, copied: Option<&str>) -> Result<(u64, u64), ControlError> {
    let engine = &*control.engine;
    match copied {
        Some(volume) if engine.capabilities().clone == COPY => {
            let bytes = engine.volume_bytes(volume, Bytes::new(u64::MAX))?.get();
            Ok((bytes, engine.volume_inodes(volume)?))
        }
        Some(_) | None => Ok((0, 0)),
    }
}

impl Room {
    fn refuse_less(&self, what: &str, needed: &Needed) -> Result<(), ControlError> {
        if self.bytes >= needed.bytes {
            return self.refuse_fewer(what, needed);
        }
        let of_these = match needed.bytes_kept.get() {
            0 => String::new(),
            _some => format!(", of which {} are for those that run", needed.bytes_kept),
        };
        let (free, needed) = (self.bytes, needed.bytes);
        Err(ControlError::State {
            message: format!("the storage pool has {free} free, and {what} needs {needed}{of_these}"),
            next_step: "make room on the server's disk, or end branches, whose room is there at once: stoa db ls; end what \
                        failed, if anything did, then try again"
                .to_owned(),
        })
    }

    fn refuse_fewer(&self, what: &str, needed: &Needed) -> Result<(), ControlError> {
        let Some(free) = self.inodes.filter(|free| *free < needed.inodes) else {
            return Ok(());
        };
        let of_these = match needed.inodes_kept {
            0 => String::new(),
            kept => format!(", of which {kept} are for those that run"),
        };
        let needed = needed.inodes;
        Err(ControlError::State {
            message: format!("the storage pool has {free} inodes free, and {what} needs {needed}{of_these}"),
            next_step: "remove files from the server's disk (df -i tells how many it can hold), or end branches, whose room is \
                        there at once: stoa db ls; end what failed, if anything did, then try again"
                .to_owned(),
        })
    }
}
