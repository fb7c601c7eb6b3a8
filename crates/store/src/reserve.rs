//! A few megabytes kept back, so that the store opens on a full disk.
//!
//! Lives here: keeping the reserve, giving it up.
//! Does not live here: deciding what to delete (`control`).
//! Invariant: the reserve holds no facts; it may vanish at any time.

use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open, statvfs};

use crate::schema::beside;

/// Room for a new epoch, the WAL's index, and the writes that delete what fills the disk.
const RESERVE_BYTES: u64 = 4 << 20;
/// Taken only where it does not itself make the disk full.
const TIMES_FREE: u64 = 16;

/// Gives the reserve back to the disk. True when there was one.
pub(crate) fn release(path: &Path) -> bool {
    std::fs::remove_file(beside(path, ".reserve")).is_ok()
}

/// Keeps a reserve if there is plenty of space. Without one the store works as well: nothing here is an error.
pub(crate) fn keep(path: &Path) {
    let reserve = beside(path, ".reserve");
    let plenty = statvfs(path).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > RESERVE_BYTES * TIMES_FREE);
    if !plenty || reserve.exists() {
        return;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let kept = open(&reserve, flags, Mode::RUSR | Mode::WUSR)
        .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES));
    if kept.is_err() {
        release(path);
    }
}
