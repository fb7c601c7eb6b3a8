//! How much space a volume takes.
//!
//! Lives here: walking a tree and adding up sizes and extents.
//! Does not live here: what is too much (`plan`).
//! Invariants: a file that vanishes meanwhile is not an error; nothing is followed out of the tree; what cannot be looked
//! at to its end for its depth never counts as little.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
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
/// What each name counts at least: its inode takes room, too, and a million of empty files are not nothing. It also bounds
/// how long counting up to a limit may take.
const PAGE_BYTES: u64 = 4096;
/// Deeper nesting is a mistake or an attack. Each level holds one descriptor, and a process has 1024 of them by default.
pub(crate) const DEEPEST: usize = 256;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// How far a walk came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All was looked at.
    All,
    /// As far as was wanted.
    Enough,
    /// Something lies deeper than [`DEEPEST`].
    TooDeep,
}

/// Add up a tree.
pub(crate) fn measure(root: &File) -> io::Result<(Usage, Reach)> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let reach = walk(root.as_fd(), |dir, name, stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        if !is_directory && stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
            return ControlFlow::Continue(());
        }
        usage.allocated_bytes += blocks(stat);
        if is_directory {
            return ControlFlow::Continue(());
        }
        usage.files += 1;
        usage.apparent_bytes += u64::try_from(stat.st_size).unwrap_or(0);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if kind == FileType::RegularFile
            && let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty())
        {
            usage.shared_bytes += shared(&File::from(file));
        }
        ControlFlow::Continue(())
    })?;
    Ok((usage, reach))
}

/// Space on disk that the files below a directory take for what is in them, shared with others or not, and a page for each
/// that has next to nothing in it. Looks at names and sizes only, and no further than to where it is more than `enough`: who
/// makes many files must not decide how long this takes. What nests too deep to be looked at is more than `enough`.
///
/// # Errors
/// When the directory cannot be read. What vanishes meanwhile takes nothing.
pub fn allocated(root: &Path, enough: u64) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut sum = 0_u64;
    let reach = walk(File::open(root)?.as_fd(), |_, _, stat| {
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            sum += blocks(stat).max(PAGE_BYTES);
        } else if stat.st_nlink <= 1 || seen.insert(stat.st_ino) {
            // XFS sets room aside behind the end of a file that grows, and gives it back by itself.
            let end = u64::try_from(stat.st_size).unwrap_or(0);
            sum += blocks(stat).min(end.next_multiple_of(PAGE_BYTES)).max(PAGE_BYTES);
        }
        if sum > enough {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    match reach {
        Reach::All | Reach::Enough => Ok(sum),
        Reach::TooDeep => Ok(sum.max(enough.saturating_add(1))),
    }
}

/// How many inodes what is below a directory takes, directories included. Looks at every name.
///
/// # Errors
/// When the directory cannot be read. What vanishes meanwhile takes none, and what lies deeper than can be looked at is not
/// counted.
pub fn inodes(root: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut count = 0_u64;
    let _reach = walk(File::open(root)?.as_fd(), |_, _, stat| {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink <= 1 || seen.insert(stat.st_ino) {
            count += 1;
        }
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES
}

/// Shows `visit` each name below a directory, and what it is. Holds a list of open directories rather than calling itself:
/// neither the stack nor the descriptors of this process are for those to use up whose files are looked at.
fn walk(
    root: BorrowedFd<'_>,
    mut visit: impl FnMut(BorrowedFd<'_>, &CStr, &Stat) -> ControlFlow<()>,
) -> io::Result<Reach> {
    let mut open = vec![Dir::new(rustix::fs::openat(
        root,
        c".",
        DIRECTORY,
        Mode::empty(),
    )?)?];
    while let Some(dir) = open.last_mut() {
        let entry = match dir.read() {
            Some(Ok(entry)) => entry,
            // The directory itself was removed meanwhile.
            None | Some(Err(Errno::NOENT)) => {
                open.pop();
                continue;
            }
            Some(Err(e)) => return Err(e.into()),
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let here = dir.fd()?;
        let stat = match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        if visit(here, name, &stat).is_break() {
            return Ok(Reach::Enough);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        let below: OwnedFd = match rustix::fs::openat(here, name, DIRECTORY, Mode::empty()) {
            Ok(below) => below,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(e) => return Err(e.into()),
        };
        if open.len() == DEEPEST {
            return Ok(Reach::TooDeep);
        }
        open.push(Dir::new(below)?);
    }
    Ok(Reach::All)
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

    const ALL: u64 = u64::MAX;

    #[test]
    fn what_is_in_the_files_counts_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let empty = allocated(dir.path(), ALL).expect("measured");
        std::fs::write(at("a"), vec![7; 1 << 20]).expect("written");
        std::fs::hard_link(at("a"), at("the-same")).expect("linked");
        std::os::unix::fs::symlink("/usr", at("elsewhere")).expect("linked");
        let sparse = File::create(at("sparse")).expect("made");
        sparse.write_at(b"x", 1 << 30).expect("written");
        sparse.sync_all().expect("synced");
        let taken = allocated(dir.path(), ALL).expect("measured") - empty;
        assert!((1 << 20..2 << 20).contains(&taken), "{taken}");
        allocated(&at("nowhere"), ALL).expect_err("there is none");
    }

    #[test]
    fn empty_files_are_not_nothing_and_counting_ends_where_it_is_enough() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..300 {
            File::create(dir.path().join(n.to_string())).expect("made");
        }
        let taken = allocated(dir.path(), ALL).expect("measured");
        assert_eq!(taken, 300 * PAGE_BYTES);
        let part = allocated(dir.path(), 100 * PAGE_BYTES).expect("measured");
        assert_eq!(part, 101 * PAGE_BYTES);
    }

    /// Nested directories, so many levels.
    fn nest(root: &Path, levels: usize) -> File {
        let mut at = File::open(root).expect("a directory");
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = File::from(rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).expect("opened"));
        }
        at
    }

    #[test]
    fn what_lies_too_deep_never_counts_as_little() {
        const LIMIT: u64 = 1 << 40;
        for (levels, is_beyond) in [(DEEPEST - 1, false), (DEEPEST, true), (DEEPEST * 4, true)] {
            let dir = tempfile::tempdir().expect("a directory");
            let lowest = nest(dir.path(), levels);
            let file = rustix::fs::openat(
                &lowest,
                "f",
                OFlags::CREATE | OFlags::WRONLY,
                Mode::RUSR | Mode::WUSR,
            );
            File::from(file.expect("made"))
                .write_at(&[7; 1 << 20], 0)
                .expect("written");
            let taken = allocated(dir.path(), LIMIT).expect("measured");
            assert_eq!(taken > LIMIT, is_beyond, "{levels} levels: {taken}");
            assert!(taken > 1 << 20, "{levels} levels: {taken}");
            let (_, reach) = measure(&File::open(dir.path()).expect("opened")).expect("measured");
            assert_eq!(reach == Reach::TooDeep, is_beyond, "{levels} levels");
        }
    }
}
