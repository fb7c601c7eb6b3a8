//! How much space a volume takes.
//!
//! Lives here: walking a volume and adding up sizes and extents.
//! Invariant: a file that vanishes meanwhile is not an error; nothing is followed out of the volume.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::ioctl;

/// Space a volume takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of files, directories not counted.
    pub files: u64,
    /// Sum of file sizes as programs see them.
    pub apparent_bytes: u64,
    /// Space on disk, shared or not.
    pub allocated_bytes: u64,
    /// The part of it that clones or originals use too. Removing the volume frees the rest.
    pub shared_bytes: u64,
}

impl Usage {
    /// What removing the volume would free.
    pub fn private_bytes(&self) -> u64 {
        self.allocated_bytes.saturating_sub(self.shared_bytes)
    }
}

const BLOCK_BYTES: u64 = 512;

/// Add up a tree.
pub(crate) fn measure(root: &File) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    walk(root.as_fd(), &mut usage, &mut seen, 0)?;
    Ok(usage)
}

fn walk(dir: BorrowedFd<'_>, usage: &mut Usage, seen: &mut HashSet<u64>, depth: usize) -> io::Result<()> {
    if depth > crate::tree::DEEPEST {
        return Ok(());
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if kind == FileType::Directory {
            usage.allocated_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
            match rustix::fs::openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty()) {
                Ok(below) => walk(below.as_fd(), usage, seen, depth + 1)?,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
            continue;
        }
        if stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
            continue;
        }
        usage.files += 1;
        usage.apparent_bytes += u64::try_from(stat.st_size).unwrap_or(0);
        usage.allocated_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        if kind == FileType::RegularFile
            && let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty())
        {
            usage.shared_bytes += shared(&File::from(file));
        }
    }
    Ok(())
}

/// Nothing where the file system cannot tell.
fn shared(file: &File) -> u64 {
    let (mut at, mut sum) = (0, 0);
    loop {
        let Ok(extents) = ioctl::extents(file, at) else {
            return 0;
        };
        sum += extents
            .iter()
            .filter(|e| e.is_shared)
            .map(|e| e.length)
            .sum::<u64>();
        match extents.last() {
            Some(last) if !last.is_last && last.end > at => at = last.end,
            Some(_) | None => return sum,
        }
    }
}
