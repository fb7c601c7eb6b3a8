//! Names resolved beneath one directory.
//!
//! Lives here: opening and making parents, and looking at what has a name.
//! Does not live here: what an archive may make there (`unpack`).
//! Invariant: no symbolic link is followed and no other mount entered, whatever the path.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::disk;

/// A directory tree in which names are resolved beneath its root only.
pub(crate) struct Place {
    pub(crate) root: Rc<OwnedFd>,
    /// The parent used last: members of one directory come together.
    open_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

/// What an existing name is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

impl Place {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            open_parent: None,
        }
    }

    pub(crate) fn beneath(dir: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        disk::open_beneath(
            dir,
            path,
            flags,
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// Opens a directory, making what is missing of it.
    pub(crate) fn directory(&mut self, parts: &[&[u8]]) -> rustix::io::Result<Rc<OwnedFd>> {
        if parts.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = parts.join(&b'/');
        if let Some((open, fd)) = &self.open_parent
            && *open == path
        {
            return Ok(Rc::clone(fd));
        }
        let opened = match Self::beneath(&self.root, as_path(&path), OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.make(parts)?,
            answer => answer?,
        };
        let opened = Rc::new(opened);
        self.open_parent = Some((path, Rc::clone(&opened)));
        Ok(opened)
    }

    fn make(&self, parts: &[&[u8]]) -> rustix::io::Result<OwnedFd> {
        let mut here = rustix::io::dup(&*self.root)?;
        for part in parts {
            here = match Self::beneath(&here, as_path(part), OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&here, *part, Mode::from(0o755))?;
                    Self::beneath(&here, as_path(part), OFlags::DIRECTORY)?
                }
                answer => answer?,
            };
        }
        Ok(here)
    }

    pub(crate) fn found(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Found> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            answer => answer?,
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
            _ => Found::Other,
        })
    }
}

pub(crate) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
