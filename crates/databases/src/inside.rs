//! Files of a cluster, touched from outside of its instance.
//!
//! Lives here: open, list, write and remove below a volume's cluster, with no way out of it.
//! Invariant: no symbolic link is followed and nothing above the directory is reached, whatever the instance that had
//! the volume put there; the kernel sees to it (`openat2`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

/// A directory of a cluster; every name is taken relative to it.
pub(crate) struct Inside(File);

impl Inside {
    /// The cluster in the volume at this path.
    pub(crate) fn cluster(volume: &Path) -> io::Result<Self> {
        Self(File::open(volume)?).below("pgdata")
    }

    /// The volume at this path, where it holds something else than a cluster.
    pub(crate) fn volume(volume: &Path) -> io::Result<Self> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(File::from(rustix::fs::open(volume, how, Mode::empty())?)))
    }

    /// A directory in it.
    pub(crate) fn below(&self, name: &str) -> io::Result<Self> {
        self.at(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map(Self)
    }

    /// A file to read.
    pub(crate) fn read(&self, name: &str) -> io::Result<File> {
        self.regular(name, OFlags::RDONLY)
    }

    /// A file to read and write.
    pub(crate) fn change(&self, name: &str) -> io::Result<File> {
        self.regular(name, OFlags::RDWR)
    }

    /// A file that was not there, for the owner of the directory.
    pub(crate) fn make(&self, name: &str) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self.at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)?;
        let owner = self.0.metadata()?;
        let ids = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        rustix::fs::fchown(&file, Some(ids.0), Some(ids.1))?;
        Ok(file)
    }

    /// A directory that was not there.
    pub(crate) fn make_directory(&self, name: &str) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?;
        self.below(name)
    }

    /// A directory that was not there, into which everybody may put something.
    pub(crate) fn make_open_directory(&self, name: &str) -> io::Result<Self> {
        let made = self.make_directory(name)?;
        rustix::fs::fchmod(&made.0, Mode::RWXU | Mode::RWXG | Mode::RWXO)?;
        Ok(made)
    }

    /// Gives it, and everything in it, to this user and group.
    pub(crate) fn give(&self, owner: (u32, u32)) -> io::Result<()> {
        for (name, is_directory) in self.list()? {
            if is_directory {
                self.below(&name)?.give(owner)?;
            } else {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                let name = name.as_str();
                rustix::fs::chownat(&self.0, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        self.give_itself(owner)
    }

    /// Gives the directory alone to this user and group.
    pub(crate) fn give_itself(&self, (uid, gid): (u32, u32)) -> io::Result<()> {
        rustix::fs::fchown(&self.0, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        Ok(())
    }

    /// Moves what has a name in another directory here, under a name that is free.
    pub(crate) fn take(&self, from: &Self, name: &str, to: &str) -> io::Result<()> {
        rustix::fs::renameat(&from.0, name, &self.0, to)?;
        Ok(())
    }

    /// Removes a directory and everything in it; one that is not there is fine.
    pub(crate) fn remove_directory(&self, name: &str) -> io::Result<()> {
        self.empty(name)?;
        match rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The directory itself.
    pub(crate) fn as_file(&self) -> &File {
        &self.0
    }

    /// A file with this content, new or instead of the one that is there.
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.remove(name)?;
        let mut file = self.make(name)?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// A file with this content that everybody may read, new or instead of the one that is there: whoever is to read it is not
    /// known yet.
    pub(crate) fn put_open(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.remove(name)?;
        let mut file = self.make(name)?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// A file with this content in the place of the one that is there, in one step.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = format!("{name}.stoa");
        self.put(&new, content)?;
        rustix::fs::renameat(&self.0, new.as_str(), &self.0, name)?;
        self.sync()
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes everything in a directory, which stays. What is no directory has nothing in it.
    pub(crate) fn empty(&self, name: &str) -> io::Result<()> {
        let dir = match self.below(name) {
            Ok(dir) => dir,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(cause),
        };
        for (entry, is_directory) in dir.list()? {
            if is_directory {
                dir.empty(&entry)?;
                rustix::fs::unlinkat(&dir.0, entry.as_str(), AtFlags::REMOVEDIR)?;
            } else {
                dir.remove(&entry)?;
            }
        }
        Ok(())
    }

    /// Names in it, in order, and whether each is a directory.
    pub(crate) fn list(&self) -> io::Result<Vec<(String, bool)>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
            // A name that is no text is none that PostgreSQL makes.
            if let Some(name) = OsStr::from_bytes(name.to_bytes()).to_str() {
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                names.push((name.to_owned(), is_directory));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes what was done to its names durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn regular(&self, name: &str, how: OFlags) -> io::Result<File> {
        // NONBLOCK: opening a FIFO must not wait for its other end.
        let file = self.at(name, how | OFlags::NONBLOCK, Mode::empty())?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other(format!("{name} is no file")))
        }
    }

    fn at(&self, name: &str, how: OFlags, mode: Mode) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let how = how | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(rustix::fs::openat2(
            &self.0, name, how, mode, resolve,
        )?))
    }
}

/// Copies a whole file, sharing blocks where the file system can.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY) => {
            io::copy(&mut &*from, &mut &*to)?;
        }
        Err(e) => return Err(e.into()),
    }
    to.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_leads_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("pgdata/pg_wal")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("kept"), "kept").expect("written");
        symlink(&outside, volume.join("pgdata/pg_replslot")).expect("linked");
        symlink(outside.join("kept"), volume.join("pgdata/backup_label")).expect("linked");
        let cluster = Inside::cluster(&volume).expect("opened");
        cluster.read("backup_label").expect_err("a link");
        cluster.change("pg_replslot/kept").expect_err("through a link");
        cluster.read("../../outside/kept").expect_err("above");
        cluster.empty("pg_replslot").expect_err("a link is no directory");
        cluster.put("backup_label", b"own").expect("the link itself goes");
        assert_eq!(fs::read_to_string(outside.join("kept")).expect("read"), "kept");
        assert_eq!(
            fs::read_to_string(volume.join("pgdata/backup_label")).expect("read"),
            "own"
        );
    }

    #[test]
    fn a_cluster_made_beside_takes_the_place_of_the_former() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("pgdata/base/5")).expect("made");
        fs::write(dir.path().join("pgdata/base/5/1"), "old").expect("written");
        symlink("/nowhere", dir.path().join("pgdata/link")).expect("linked");
        let volume = Inside::volume(dir.path()).expect("opened");
        let work = volume.make_open_directory("work").expect("made");
        let mode = work.as_file().metadata().expect("read").mode();
        assert_eq!(mode & 0o7777, 0o777);
        let made = work.make_directory("upgraded").expect("made");
        made.put("PG_VERSION", b"18").expect("written");
        let owner = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        volume
            .below("pgdata")
            .and_then(|old| old.give(owner))
            .expect("given, the link itself too");
        volume
            .take(&work, "upgraded", "pgdata")
            .expect_err("the former one is still there");
        volume.remove_directory("pgdata").expect("removed");
        volume.remove_directory("pgdata").expect("nothing to do");
        volume.take(&work, "upgraded", "pgdata").expect("moved");
        volume.remove_directory("work").expect("removed");
        assert_eq!(volume.list().expect("listed"), [("pgdata".to_owned(), true)]);
        assert_eq!(
            fs::read_to_string(dir.path().join("pgdata/PG_VERSION")).expect("read"),
            "18"
        );
    }

    #[test]
    fn a_directory_is_emptied_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("pgdata/pg_replslot/a/b")).expect("made");
        fs::write(dir.path().join("pgdata/pg_replslot/a/state"), "1").expect("written");
        let cluster = Inside::cluster(dir.path()).expect("opened");
        cluster.empty("pg_replslot").expect("emptied");
        cluster.empty("absent").expect("nothing to do");
        assert_eq!(
            cluster.list().expect("listed"),
            [("pg_replslot".to_owned(), true)]
        );
        assert!(
            cluster
                .below("pg_replslot")
                .expect("stays")
                .list()
                .expect("listed")
                .is_empty()
        );
    }
}
