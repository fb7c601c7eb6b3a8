//! How much space a volume takes.
//!
//! Lives here: walking a volume and adding up sizes and extents.
//! Invariant: a file that vanishes meanwhile is not an error; nothing is followed out of the volume.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

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
/// The least a file with something in it takes.
const PAGE_BYTES: u64 = 4096;

/// Add up a tree.
pub(crate) fn measure(root: &File) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    walk(root.as_fd(), &mut usage, &mut seen, 0)?;
    Ok(usage)
}

/// Space on disk that the files below a directory take for what is in them, shared with others or not. Looks at names and
/// sizes only.
///
/// # Errors
/// When the directory cannot be read. What vanishes meanwhile takes nothing.
pub fn allocated(root: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    add_up(File::open(root)?.as_fd(), &mut seen, 0)
}

fn add_up(dir: BorrowedFd<'_>, seen: &mut HashSet<u64>, depth: usize) -> io::Result<u64> {
    if depth > crate::tree::DEEPEST {
        return Ok(0);
    }
    let mut sum = 0;
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
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        if is_directory {
            sum += blocks;
        } else if stat.st_nlink <= 1 || seen.insert(stat.st_ino) {
            // XFS sets room aside behind the end of a file that grows, and gives it back by itself.
            let end = u64::try_from(stat.st_size)
                .unwrap_or(0)
                .next_multiple_of(PAGE_BYTES);
            sum += blocks.min(end);
        }
        if is_directory {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECTORY;
            match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Ok(below) => sum += add_up(below.as_fd(), seen, depth + 1)?,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(sum)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_in_the_files_counts_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let empty = allocated(dir.path()).expect("measured");
        std::fs::write(at("a"), vec![7; 1 << 20]).expect("written");
        std::fs::hard_link(at("a"), at("the-same")).expect("linked");
        std::os::unix::fs::symlink("/usr", at("elsewhere")).expect("linked");
        let sparse = File::create(at("sparse")).expect("made");
        sparse.write_at(b"x", 1 << 30).expect("written");
        sparse.sync_all().expect("synced");
        let taken = allocated(dir.path()).expect("measured") - empty;
        assert!((1 << 20..2 << 20).contains(&taken), "{taken}");
        allocated(&at("nowhere")).expect_err("there is none");
    }
}
