//! Copying a directory tree, sharing blocks where the file system can.
//!
//! Lives here: what of a file survives a clone: content with its holes, owner, mode, extended attributes (access lists
//! among them), times, symbolic and hard links, special files.
//! Does not live here: where the copy goes and when it becomes visible (`pool`).
//! Invariants: no path is followed, each step is taken from an open directory, so a volume that its instance changes
//! meanwhile cannot lead outside; when this returns, every byte and name of the copy is durable but the name of its
//! root.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RawMode, SeekFrom, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::probe::Capability;

/// Deeper nesting is a mistake or an attack; each level holds two descriptors open.
pub(crate) const DEEPEST: usize = 512;

/// Why a tree was not copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    TooDeep,
    Io(io::Error),
}

impl From<io::Error> for CopyError {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

impl From<Errno> for CopyError {
    fn from(cause: Errno) -> Self {
        Self::Io(cause.into())
    }
}

/// How the copy is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// By syncing the whole file system, though that waits for what others wrote too: syncing each of a thousand files
    /// took 3.3 s on ext4 where this took 0.18 s.
    FileSystem,
    /// By syncing the root alone: on XFS a shared extent, its inode and its name are all in one ordered log, and
    /// syncing any directory forces the log up to there. Data needs no sync, for cloning wrote it back first.
    Root,
}

/// Copy the content and attributes of one directory into another, empty one.
pub(crate) fn copy(
    source: &File,
    target: &File,
    capability: Capability,
    sync: Sync,
) -> Result<(), CopyError> {
    let device = rustix::fs::fstat(source)?.st_dev;
    let mut copy = Copy {
        capability,
        sync,
        device,
        target: target.as_fd(),
        links: HashMap::new(),
    };
    copy.directory(source.as_fd(), target.as_fd(), &mut PathBuf::new(), 0)?;
    match sync {
        Sync::FileSystem => rustix::fs::syncfs(target)?,
        Sync::Root => rustix::fs::fsync(target)?,
    }
    Ok(())
}

struct Copy<'a> {
    capability: Capability,
    sync: Sync,
    device: u64,
    target: BorrowedFd<'a>,
    /// Files with several names: where their first one was copied to, relative to the root.
    links: HashMap<u64, PathBuf>,
}

impl Copy<'_> {
    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEEPEST {
            return Err(CopyError::TooDeep);
        }
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            path.push(OsStr::from_bytes(name.to_bytes()));
            match self.entry(source, target, name, path, depth) {
                // It was removed while we walked: the copy is of a moment after that.
                Err(CopyError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            path.pop();
        }
        let stat = rustix::fs::fstat(source)?;
        attributes(source, target)?;
        own(target, &stat)?;
        rustix::fs::futimens(target, &times(&stat))?;
        Ok(())
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(target, name, Mode::RWXU)?;
            let to = open_directory(target, name)?;
            let from = open_directory(source, name)?;
            // A file system mounted inside belongs to somebody else: its place stays, empty.
            if rustix::fs::fstat(&from)?.st_dev == self.device || self.is_snapshot_member(&stat) {
                self.directory(from.as_fd(), to.as_fd(), path, depth + 1)?;
            }
            return Ok(());
        }
        if let Some(first) = self.links.get(&stat.st_ino) {
            rustix::fs::linkat(self.target, first, target, name, AtFlags::empty())?;
            return Ok(());
        }
        self.leaf(source, target, name, &stat)?;
        if stat.st_nlink > 1 {
            self.links.insert(stat.st_ino, path.clone());
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), CopyError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => self.file(source, target, name),
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(to, target, name)?;
                special(source, target, name, stat)
            }
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::mknodat(target, name, kind, mode(stat), stat.st_rdev)?;
                rustix::fs::chmodat(target, name, mode(stat), AtFlags::empty())?;
                special(source, target, name, stat)
            }
            FileType::Directory | FileType::Unknown => Ok(()),
        }
    }

    /// btrfs gives each subvolume a device number of its own.
    fn is_snapshot_member(&self, stat: &Stat) -> bool {
        self.capability == Capability::Snapshot && stat.st_dev != self.device
    }

    fn file(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr) -> Result<(), CopyError> {
        // NONBLOCK: should it have become a FIFO since, opening must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
        let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&from)?;
        let create = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(target, name, create, Mode::RUSR | Mode::WUSR)?;
        self.content(&from, &to, &stat)?;
        own(to.as_fd(), &stat)?;
        attributes(from.as_fd(), to.as_fd())?;
        rustix::fs::futimens(&to, &times(&stat))?;
        Ok(())
    }

    fn content(&self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), CopyError> {
        match self.capability {
            Capability::Reflink | Capability::Snapshot => match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => Ok(()),
                // This one file cannot share (swap files, files without copy-on-write): copy it.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::TXTBSY) => {
                    bytes(from, to, stat)?;
                    match self.sync {
                        Sync::FileSystem => {}
                        Sync::Root => rustix::fs::fsync(to)?,
                    }
                    Ok(())
                }
                Err(e) => Err(e.into()),
            },
            Capability::Copy => bytes(from, to, stat),
        }
    }
}

/// Copy the bytes, leaving holes where there are holes.
fn bytes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), CopyError> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size);
        // Reserved first: a full disk is noticed before anything is written, and the extent is one piece.
        match rustix::fs::fallocate(to, FallocateFlags::KEEP_SIZE, start, end - start) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
        range(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

fn range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), CopyError> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        let copied = rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length)?;
        if copied == 0 {
            // The file was cut meanwhile; the rest of the copy stays a hole.
            break;
        }
    }
    Ok(())
}

/// Owner, then mode: changing the owner clears the set-id bits.
fn own(target: BorrowedFd<'_>, stat: &Stat) -> Result<(), CopyError> {
    rustix::fs::fchown(
        target,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(target, mode(stat))?;
    Ok(())
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode as RawMode)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: i64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

/// Owner, attributes and times of what cannot be opened: links and special files.
fn special(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), CopyError> {
    let (owner, group) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(target, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    let (from, to) = (by_descriptor(source, name)?, by_descriptor(target, name)?);
    let list = match grown(|buffer| rustix::fs::llistxattr(&from, buffer)) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other?,
    };
    for attribute in names(&list) {
        let value = grown(|buffer| rustix::fs::lgetxattr(&from, attribute, buffer))?;
        ignore_unsupported(rustix::fs::lsetxattr(&to, attribute, &value, XattrFlags::empty()))?;
    }
    rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// The path of a directory entry by way of its open directory: the attribute calls know no "at" form.
fn by_descriptor(dir: BorrowedFd<'_>, name: &CStr) -> Result<CString, CopyError> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend(name.to_bytes());
    CString::new(path).map_err(|e| CopyError::Io(e.into()))
}

fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), CopyError> {
    let list = match grown(|buffer| rustix::fs::flistxattr(from, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for attribute in names(&list) {
        let value = grown(|buffer| rustix::fs::fgetxattr(from, attribute, buffer))?;
        ignore_unsupported(rustix::fs::fsetxattr(to, attribute, &value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// Some attributes are the file system's own and cannot be set.
fn ignore_unsupported(result: rustix::io::Result<()>) -> Result<(), CopyError> {
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn names(list: &[u8]) -> impl Iterator<Item = &CStr> {
    list.split_inclusive(|b| *b == 0)
        .filter_map(|n| CStr::from_bytes_with_nul(n).ok())
}

/// Call with a buffer that grows until the answer fits; 64 KiB is the kernel's own limit.
fn grown(mut ask: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match ask(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}
