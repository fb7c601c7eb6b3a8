//! What instances write into their own root file systems, and the end of those that wrote too much.
//!
//! Lives here: measuring, ending, and the note by which such an end is known. Does not live here: what is too much (`plan`).
//! Invariant: the end is asked for whether there is room for the note or not. The note comes first, so that the end has
//! its reason where there is.

use std::fs;
use std::path::Path;
use std::time::Duration;

use engine::EngineError;
use model::{Bytes, Exit, InstanceId};

use crate::instances::{name_of, writable_of};
use crate::{Host, error, instances};

/// Says beside an instance that it is ended for want of room.
const FULL: &str = "full";

/// What an instance has written into its own root file system, counted no further than to where it is more than `enough`.
pub(crate) fn written(host: &Host, id: InstanceId, enough: Bytes) -> Result<Bytes, EngineError> {
    match volume::allocated(&writable_of(host, &name_of(id)), enough.get()) {
        Ok(bytes) => Ok(Bytes::new(bytes)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Bytes::new(0)),
        Err(cause) => Err(error::host("measure the writable layer")(cause)),
    }
}

/// Ends it at once: with time to end politely it would go on writing.
pub(crate) fn end_full(host: &Host, id: InstanceId) -> Result<(), EngineError> {
    end_noted(&writable_of(host, &name_of(id)), || {
        match instances::stop(host, id, Duration::ZERO) {
            Ok(()) | Err(EngineError::NotRunning(_)) => Ok(()),
            Err(cause) => Err(cause),
        }
    })
}

/// On a disk that is full to its last byte even the note finds no room: all the more it must end.
fn end_noted(writable: &Path, stop: impl FnOnce() -> Result<(), EngineError>) -> Result<(), EngineError> {
    if let Err(cause) = fs::write(writable.join(FULL), "") {
        tracing::warn!(path = %writable.display(), %cause,
            "an instance wrote too much and is ended; its end will not say why, as that could not be noted");
    }
    stop()
}

/// How it ended, seen with the note of why we ended it.
pub(crate) fn exit_of(host: &Host, name: &str, exit: &runtime::Exit) -> Exit {
    if writable_of(host, name).join(FULL).exists() {
        return Exit::DiskFull;
    }
    instances::exit_of(exit)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_is_ended_with_a_note_and_without_room_for_one() {
        let dir = tempfile::tempdir().expect("a directory");
        for (place, is_noted) in [(dir.path().to_owned(), true), (dir.path().join("nowhere"), false)] {
            let stopped = Cell::new(false);
            let done = end_noted(&place, || {
                stopped.set(true);
                assert_eq!(place.join(FULL).exists(), is_noted, "the note comes first");
                Ok(())
            });
            assert!(done.is_ok() && stopped.get(), "{place:?}");
        }
    }
}
