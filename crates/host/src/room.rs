//! What instances write into their own root file systems, and the end of those that wrote too much.
//!
//! Lives here: measuring, ending, and the note by which such an end is known. Does not live here: what is too much (`plan`).
//! Invariant: the note is there before the end is asked for, so that the end has its reason.

use std::fs;
use std::time::Duration;

use engine::EngineError;
use model::{Bytes, Exit, InstanceId};

use crate::{Host, error, instances};

/// Says beside an instance that it is ended for want of room.
const FULL: &str = "full";

/// What an instance has written into its own root file system.
pub(crate) fn written(host: &Host, id: InstanceId) -> Result<Bytes, EngineError> {
    let place = host
        .options
        .data_dir
        .join("writable")
        .join(instances::name_of(id));
    match volume::allocated(&place) {
        Ok(bytes) => Ok(Bytes::new(bytes)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Bytes::new(0)),
        Err(cause) => Err(error::host("measure the writable layer")(cause)),
    }
}

/// Ends it at once: with time to end politely it would go on writing. The note comes first, so that its end has its reason.
pub(crate) fn end_full(host: &Host, id: InstanceId) -> Result<(), EngineError> {
    let place = host
        .options
        .data_dir
        .join("writable")
        .join(instances::name_of(id));
    fs::write(place.join(FULL), "").map_err(error::host("note why an instance is ended"))?;
    match instances::stop(host, id, Duration::ZERO) {
        Ok(()) | Err(EngineError::NotRunning(_)) => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// How it ended, seen with the note of why we ended it.
pub(crate) fn exit_of(host: &Host, name: &str, exit: &runtime::Exit) -> Exit {
    let note = host.options.data_dir.join("writable").join(name).join(FULL);
    if note.exists() {
        return Exit::DiskFull;
    }
    instances::exit_of(exit)
}
