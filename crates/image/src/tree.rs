//! Changing a root file system from outside, as if standing in it.
//!
//! Lives here: writing files, directories and links beneath a tree.
//! Does not live here: what a root needs (`debian`, `host_image`).
//! Invariant: no link in the tree leads a write out of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::{Doing, Result};
use crate::store::read_bounded;

/// Files read from a tree are lists and certificates; none is longer.
const FILE_LIMIT: u64 = 4 << 20;

/// A directory that will be somebody's `/`.
pub(crate) struct Tree {
    dir: OwnedFd,
    path: PathBuf,
}

impl Tree {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).doing("open", path)?;
        Ok(Self {
            dir,
            path: path.into(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn beneath(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        disk::open_beneath(
            &self.dir,
            if path.is_empty() { "." } else { path },
            flags,
            ResolveFlags::empty(),
        )
    }

    fn place(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// The directory a path lies in, made if missing, and the path's last name.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !parent.is_empty() {
            self.directory(parent, None)?;
        }
        Ok((
            self.beneath(parent, OFlags::DIRECTORY)
                .doing("open", self.place(parent))?,
            name,
        ))
    }

    /// Makes a directory and those above it; a mode given is set even where it exists.
    pub(crate) fn directory(&self, path: &str, mode: Option<u32>) -> Result<()> {
        let exists = self.beneath(path, OFlags::DIRECTORY);
        let dir = match exists {
            Err(Errno::NOENT) => {
                let (parent, name) = self.parent(path)?;
                rustix::fs::mkdirat(&parent, name, Mode::from(0o755))
                    .doing("create directory", self.place(path))?;
                self.beneath(path, OFlags::DIRECTORY)
            }
            answer => answer,
        }
        .doing("open", self.place(path))?;
        match mode {
            Some(mode) => {
                rustix::fs::fchmod(&dir, Mode::from(mode)).doing("set the mode of", self.place(path))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.beneath(path, OFlags::PATH).is_ok()
    }

    /// A file's content; nothing when there is no such file.
    pub(crate) fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.beneath(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => read_bounded(&mut File::from(file), path, FILE_LIMIT).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(cause).doing("read", self.place(path)),
        }
    }

    /// The names in a directory, sorted; none when there is no such directory.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>> {
        let dir = match self.beneath(path, OFlags::DIRECTORY) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(cause) => return Err(cause).doing("read", self.place(path)),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir).doing("read", self.place(path))? {
            let entry = entry.doing("read", self.place(path))?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Writes a file, replacing whatever had its name.
    pub(crate) fn write(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.remove(path)?;
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&parent, name, flags, Mode::from(mode)).doing("create", self.place(path))?;
        rustix::fs::fchmod(&file, Mode::from(mode)).doing("set the mode of", self.place(path))?;
        File::from(file)
            .write_all(content)
            .doing("write", self.place(path))
    }

    /// Copies a file of the host in, links followed; says whether it was there.
    pub(crate) fn copy_in(&self, from: &Path, path: &str, mode: u32) -> Result<bool> {
        let Ok(file) = File::open(from) else {
            return Ok(false);
        };
        if !file.metadata().doing("read", from)?.is_file() {
            return Ok(false);
        }
        let mut content = Vec::new();
        file.take(FILE_LIMIT)
            .read_to_end(&mut content)
            .doing("read", from)?;
        self.write(path, mode, &content)?;
        Ok(true)
    }

    /// Makes a symbolic link, replacing whatever had its name.
    pub(crate) fn link(&self, path: &str, target: &str) -> Result<()> {
        self.remove(path)?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, &parent, name).doing("create", self.place(path))
    }

    /// Removes a file or a whole directory, if it is there.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = match self.beneath(parent, OFlags::DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(cause) => return Err(cause).doing("open", self.place(parent)),
        };
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                use std::os::fd::AsRawFd;
                // The directory has been reached without following links; its path might not be.
                disk::remove_tree(&PathBuf::from(format!(
                    "/proc/self/fd/{}/{name}",
                    parent.as_raw_fd()
                )))
            }
            Err(cause) => Err(cause).doing("remove", self.place(path)),
        }
    }

    /// Removes everything in a directory but not the directory.
    pub(crate) fn empty(&self, path: &str) -> Result<()> {
        for name in self.names(path)? {
            self.remove(&format!("{path}/{name}"))?;
        }
        Ok(())
    }

    /// Gives a directory or file an owner.
    pub(crate) fn own(&self, path: &str, id: u32) -> Result<()> {
        let found = self
            .beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .doing("open", self.place(path))?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
        rustix::fs::fchown(&found, Some(uid), Some(gid)).doing("change the owner of", self.place(path))
    }
}
