//! What an archive, or all layers of an image together, may still take while they are unpacked.
//!
//! Lives here: one count for however many layers are unpacked at a time, and the reserve of the disk.
//! Does not live here: bounds on single names (`unpack`), budgets over images (`gc`).
//! Invariant: what was counted is not given back: what goes beyond its quota is refused whole.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Doing, ImageError, Result};
use crate::unpack::Quota;

/// Unpacking leaves this much of a disk free, and of a small one a twentieth: logs, records and databases live there too,
/// and root would eat into what the file system reserves for them.
const RESERVE_BYTES: u64 = 1 << 30;
const RESERVE_PART: u64 = 20;

/// A quota and what is left of it.
pub(crate) struct Allowance<'q> {
    what: &'static str,
    pub(crate) quota: &'q Quota,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl<'q> Allowance<'q> {
    pub(crate) fn new(what: &'static str, quota: &'q Quota) -> Self {
        Self {
            what,
            quota,
            bytes: AtomicU64::new(quota.bytes),
            entries: AtomicU64::new(quota.entries),
        }
    }

    pub(crate) fn take_bytes(&self, count: u64) -> Result<()> {
        self.take(&self.bytes, count, self.quota.bytes, "bytes")
    }

    pub(crate) fn take_entries(&self, count: u64) -> Result<()> {
        self.take(&self.entries, count, self.quota.entries, "entries")
    }

    fn take(&self, left: &AtomicU64, count: u64, limit: u64, unit: &'static str) -> Result<()> {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(count)
        })
        .map(drop)
        .map_err(|_| ImageError::Quota {
            what: self.what.into(),
            limit,
            unit,
        })
    }
}

/// Refuses what would take the disk below its reserve.
pub(crate) fn check_room(dir: impl AsFd, path: &Path, bytes: u64) -> Result<()> {
    let disk = rustix::fs::fstatvfs(dir).doing("look at the disk of", path)?;
    let all = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let reserve = RESERVE_BYTES.min(all / RESERVE_PART);
    // A file system without a size of its own has nothing to reserve.
    if all > 0 && free < reserve.saturating_add(bytes) {
        return Err(ImageError::DiskFull { path: path.into() });
    }
    Ok(())
}
