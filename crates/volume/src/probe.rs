//! What a file system can do for clones, found out by doing it.
//!
//! Lives here: the three capabilities and their probe.
//! Does not live here: cloning itself (`tree`, `pool`).
//! Invariant: the probe leaves nothing behind in the directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::FsWord;

use crate::ioctl;

const BTRFS_MAGIC: FsWord = 0x9123_683e;
pub(crate) const XFS_MAGIC: FsWord = 0x5846_5342;

/// How clones are made in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Each file shares its blocks with the original until one of them writes (XFS).
    Reflink,
    /// The whole volume is one atomic snapshot (btrfs).
    Snapshot,
    /// Every byte is copied.
    Copy,
}

impl Capability {
    /// One word, as shown in plans and by `stoa doctor`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reflink => "reflink",
            Self::Snapshot => "snapshot",
            Self::Copy => "copy",
        }
    }

    /// What it means for whoever plans a clone.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Reflink => {
                "clones take well under a second whatever their size and share space until written"
            }
            Self::Snapshot => {
                "clones are atomic and take milliseconds; databases write 50 to 85 % slower on btrfs than on ext4"
            }
            Self::Copy => "clones copy every byte: time and space grow with the volume",
        }
    }
}

/// What the file system of this directory can do. Needs to write into it.
pub fn probe(dir: &Path) -> io::Result<Capability> {
    let place = dir.join(format!(
        ".probe-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    // A name nobody else uses: what is there was left by a crash of a process with our pid.
    remove(&place);
    fs::create_dir(&place)?;
    let found = probe_in(&place);
    remove(&place);
    found
}

fn probe_in(place: &Path) -> io::Result<Capability> {
    let here = File::open(place)?;
    if rustix::fs::fstatfs(&here)?.f_type == BTRFS_MAGIC && snapshots(place, &here).is_ok() {
        return Ok(Capability::Snapshot);
    }
    let mut original = File::create(place.join("original"))?;
    original.write_all(&[7; 4096])?;
    let copy = File::create(place.join("copy"))?;
    let original = File::open(place.join("original"))?;
    Ok(match rustix::fs::ioctl_ficlone(&copy, &original) {
        Ok(()) => Capability::Reflink,
        Err(_) => Capability::Copy,
    })
}

fn snapshots(place: &Path, here: &File) -> io::Result<()> {
    ioctl::create_subvolume(here, "one")?;
    let one = File::open(place.join("one"))?;
    ioctl::snapshot(here, std::os::fd::AsFd::as_fd(&one), "two")?;
    ioctl::destroy_subvolume(here, "two")?;
    ioctl::destroy_subvolume(here, "one")
}

fn remove(place: &Path) {
    if let Ok(here) = File::open(place) {
        for name in ["one", "two"] {
            let _absent = ioctl::destroy_subvolume(&here, name);
        }
        let _reported_by_the_next_probe = fs::remove_dir_all(place);
    }
}
