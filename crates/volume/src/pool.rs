//! The storage pool: the face of this crate.
//!
//! Lives here: what a caller may ask, and the order that makes each answer durable: make aside, sync, rename, sync the
//! directory; remove by renaming into the trash.
//! Does not live here: copying a tree (`tree`), deleting one (`remove`), the pool file (`backing`).
//! Invariants: `volumes/` holds only complete, durable volumes; whatever lies in `making/` or `trash/` at `open` is
//! left by a crash and is removed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::backing::{self, Mounted, PoolFile};
use crate::probe::{self, Capability, XFS_MAGIC};
use crate::remove::Sweeper;
use crate::tree::{self, CopyError, Sync};
use crate::usage::{self, Reach, Usage};
use crate::{VolumeError, ioctl, name};

/// How a pool is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// What it stands on, if it is new. A pool that has a pool file is always opened on it.
    pub backing: Backing,
}

/// What a pool stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Backing {
    /// The file system of its directory, whatever that can do.
    #[default]
    Directory,
    /// A file with XFS in it, made if absent.
    File(PoolFile),
}

/// Space of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub total_bytes: u64,
    /// What is free now.
    pub free_bytes: u64,
    /// What the pool file may still take from the host, its reserve kept: it grows in whole steps only.
    pub growable_bytes: u64,
    /// How many more files can be made: the least of the pool's file system and of that of its directory. `None` where neither
    /// has a number of inodes, as on btrfs. XFS makes them as they are needed, and tells how many there could be.
    pub free_inodes: Option<u64>,
}

/// What `maintain` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// There is enough free, or the pool does not stand on a file.
    NotNeeded,
    /// The pool file grew by this much.
    By(u64),
    /// It would have to grow, but the host has no space to spare.
    HostFull,
}

/// A storage pool. Share it by reference; every call may come from any thread.
#[derive(Debug)]
pub struct Pool {
    root: PathBuf,
    capability: Capability,
    sync: Sync,
    volumes: File,
    making: File,
    trash: File,
    places: Places,
    counter: AtomicU64,
    sweeper: Option<Sweeper>,
    file: Option<(Mounted, PoolFile)>,
    lock: Lock,
}

#[derive(Debug)]
struct Places {
    base: PathBuf,
    volumes: PathBuf,
    making: PathBuf,
    trash: PathBuf,
}

impl Pool {
    /// Open the pool in this directory, made if absent, and remove what a crash left half made.
    pub fn open(root: &Path, options: &Options) -> Result<Self, VolumeError> {
        let at = |what| VolumeError::at(root, what, root);
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(at("make"))?;
        let root = &fs::canonicalize(root).map_err(at("find"))?;
        let lock = lock(root)?;
        let file = match &options.backing {
            Backing::File(file) => Some(*file),
            Backing::Directory if backing::image_of(root).exists() => Some(PoolFile::default()),
            Backing::Directory => None,
        };
        let file = match file {
            Some(options) => Some((backing::open(root, &options)?, options)),
            None => None,
        };
        let base = file.as_ref().map_or(root, |(mounted, _)| &mounted.mount).clone();
        let pool = Self::on(root, base, file, lock)?;
        if let Some((mounted, _)) = &pool.file {
            mounted.fit()?;
        }
        pool.sweep()?;
        Ok(pool)
    }

    fn on(
        root: &Path,
        base: PathBuf,
        file: Option<(Mounted, PoolFile)>,
        lock: Lock,
    ) -> Result<Self, VolumeError> {
        let places = Places {
            volumes: base.join("volumes"),
            making: base.join("making"),
            trash: base.join("trash"),
            base,
        };
        let open = |place: &Path| -> Result<File, VolumeError> {
            let at = |what| VolumeError::at(root, what, place);
            // 0711: instances pass through to their own volume by name; nobody but us lists.
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(place)
                .map_err(at("make"))?;
            File::open(place).map_err(at("open"))
        };
        let (volumes, making, trash) = (
            open(&places.volumes)?,
            open(&places.making)?,
            open(&places.trash)?,
        );
        let at = |what| VolumeError::at(root, what, &places.base);
        File::open(&places.base)
            .and_then(|base| base.sync_all())
            .map_err(at("sync"))?;
        let capability = probe::probe(&places.making).map_err(at("find out what can be done in"))?;
        let kind = rustix::fs::fstatfs(&volumes)
            .map_err(io::Error::from)
            .map_err(at("look at"))?
            .f_type;
        let sync = match capability {
            Capability::Reflink if kind == XFS_MAGIC => Sync::Root,
            Capability::Reflink | Capability::Snapshot | Capability::Copy => Sync::FileSystem,
        };
        let for_sweeper = trash.try_clone().map_err(at("open the trash of"))?;
        let sweeper = Sweeper::start(for_sweeper, places.trash.clone()).map_err(at("start a thread for"))?;
        Ok(Self {
            root: root.into(),
            capability,
            sync,
            volumes,
            making,
            trash,
            places,
            counter: AtomicU64::new(0),
            sweeper: Some(sweeper),
            file,
            lock,
        })
    }

    /// How this pool makes clones.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// What clones cost here and what else is to be known, for people.
    pub fn explain(&self) -> String {
        let clones = self.capability.explain();
        match &self.file {
            Some(_) => format!(
                "{}: {clones}; the pool is a file on a loop device, which costs databases about 30 % of their speed: \
                 a partition or logical volume with XFS avoids that",
                self.capability.as_str()
            ),
            None => format!("{}: {clones}", self.capability.as_str()),
        }
    }

    /// Make an empty volume; where it is.
    pub fn create(&self, name: &str) -> Result<PathBuf, VolumeError> {
        let name = name::check(name)?;
        self.refuse_existing(name)?;
        let aside = self.unique(name);
        let made = self.make_empty(&aside).and_then(|made| {
            made.sync_all().map_err(self.at("sync", &self.places.making))?;
            self.publish(&aside, name)
        });
        self.unwind(&aside, made)
    }

    /// Make a volume that is like another at this moment; where it is. With `snapshot` that moment is one instant for
    /// the whole volume; else each file has its own, and whoever writes meanwhile must be able to live with that.
    pub fn clone(&self, source: &str, name: &str) -> Result<PathBuf, VolumeError> {
        let (source, name) = (name::check(source)?, name::check(name)?);
        let from = self.open_volume(source)?;
        self.refuse_existing(name)?;
        let aside = self.unique(name);
        let made = self
            .copy(source, &from, &aside)
            .and_then(|()| self.publish(&aside, name));
        self.unwind(&aside, made)
    }

    /// Remove a volume; nothing to do when there is none. It is gone at once; its space comes back in the background,
    /// and what still has files of it open keeps them.
    pub fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let name = name::check(name)?;
        let gone = self.unique(name);
        match rustix::fs::renameat(&self.volumes, name, &self.trash, &gone) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(self.at("remove", self.path_of(name))(e)),
        }
        self.sync_names()?;
        self.delete_in_background(gone);
        Ok(())
    }

    /// Give a volume another name.
    pub fn rename(&self, from: &str, to: &str) -> Result<PathBuf, VolumeError> {
        let (from, to) = (name::check(from)?, name::check(to)?);
        match rustix::fs::renameat_with(&self.volumes, from, &self.volumes, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(VolumeError::Missing { name: from.into() }),
            Err(Errno::EXIST) => return Err(VolumeError::Exists { name: to.into() }),
            Err(e) => return Err(self.at("rename", self.path_of(from))(e)),
        }
        self.sync_names()?;
        Ok(self.path_of(to))
    }

    /// Names of all volumes, in order.
    pub fn list(&self) -> Result<Vec<String>, VolumeError> {
        let mut names = self.entries(&self.places.volumes)?;
        names.retain(|n| name::check(n).is_ok());
        names.sort();
        Ok(names)
    }

    /// Where a volume is.
    pub fn path(&self, name: &str) -> Result<PathBuf, VolumeError> {
        let name = name::check(name)?;
        self.open_volume(name)?;
        Ok(self.path_of(name))
    }

    /// Is there such a volume?
    pub fn contains(&self, name: &str) -> Result<bool, VolumeError> {
        match self.open_volume(name::check(name)?) {
            Ok(_) => Ok(true),
            Err(VolumeError::Missing { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// How much space a volume takes. Looks at every file.
    pub fn usage(&self, name: &str) -> Result<Usage, VolumeError> {
        let name = name::check(name)?;
        match usage::measure(&self.open_volume(name)?).map_err(self.at("measure", self.path_of(name)))? {
            (usage, Reach::All | Reach::Enough) => Ok(usage),
            (_, Reach::TooDeep) => Err(VolumeError::TooDeep {
                name: name.into(),
                limit: usage::DEEPEST,
            }),
        }
    }

    /// How much space the pool has.
    pub fn capacity(&self) -> Result<Capacity, VolumeError> {
        let here = rustix::fs::fstatvfs(&self.volumes).map_err(self.at("measure", &self.places.base))?;
        let (growable_bytes, below) = match &self.file {
            Some((_, options)) => {
                let host = rustix::fs::statvfs(&self.root).map_err(self.at("measure", &self.root))?;
                (options.growable(host.f_bavail * host.f_frsize), inodes(&host))
            }
            None => (0, None),
        };
        let free_inodes = [inodes(&here), below].into_iter().flatten().min();
        Ok(Capacity {
            free_inodes,
            total_bytes: here.f_blocks * here.f_frsize,
            free_bytes: here.f_bavail * here.f_frsize,
            growable_bytes,
        })
    }

    /// Let the pool file grow by a step if little is left in it. Call it periodically and after `StorageFull`.
    pub fn maintain(&self) -> Result<Grown, VolumeError> {
        let Some((mounted, options)) = &self.file else {
            return Ok(Grown::NotNeeded);
        };
        if self.capacity()?.free_bytes >= options.grow_below_bytes {
            return Ok(Grown::NotNeeded);
        }
        mounted.check()?;
        Ok(mounted.grow(options)?.map_or(Grown::HostFull, Grown::By))
    }

    /// What it can still give: what is free in it and what it may grow by. Lets it grow first where little is left, and
    /// promises nothing of what it could not do then.
    pub fn available(&self) -> Result<u64, VolumeError> {
        let is_growing = match self.maintain() {
            Ok(Grown::NotNeeded | Grown::By(_)) => true,
            Ok(Grown::HostFull) => false,
            Err(error) => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "the pool could not grow");
                false
            }
        };
        let capacity = self.capacity()?;
        let more = if is_growing { capacity.growable_bytes } else { 0 };
        Ok(capacity.free_bytes + more)
    }

    /// Wait until everything removed so far has given its space back.
    pub fn settle(&self) {
        if let Some(sweeper) = &self.sweeper {
            sweeper.settle();
        }
    }

    /// Close the pool and, if it stands on a file, unmount that. Without this call the mount stays for the next `open`,
    /// so that instances go on working while nobody manages the pool.
    pub fn close(self) -> Result<(), VolumeError> {
        let Self {
            volumes,
            making,
            trash,
            sweeper,
            file,
            lock,
            ..
        } = self;
        drop(sweeper);
        drop((volumes, making, trash));
        let closed = file.map_or(Ok(()), |(mounted, _)| mounted.close());
        drop(lock);
        closed
    }

    fn make_empty(&self, aside: &str) -> Result<File, VolumeError> {
        let place = self.places.making.join(aside);
        match self.capability {
            Capability::Snapshot => {
                ioctl::create_subvolume(&self.making, aside).map_err(self.at("make", &place))?;
            }
            Capability::Reflink | Capability::Copy => {
                fs::create_dir(&place).map_err(self.at("make", &place))?;
            }
        }
        File::open(&place).map_err(self.at("open", &place))
    }

    fn copy(&self, source: &str, from: &File, aside: &str) -> Result<(), VolumeError> {
        if self.capability == Capability::Snapshot
            && ioctl::snapshot(&self.making, from.as_fd(), aside).is_ok()
        {
            return Ok(());
        }
        // Also for a plain directory among subvolumes, put there by hand.
        let to = self.make_empty(aside)?;
        tree::copy(from, &to, self.capability, self.sync).map_err(|e| match e {
            CopyError::TooDeep => VolumeError::TooDeep {
                name: source.into(),
                limit: tree::DEEPEST,
            },
            CopyError::Io(cause) => self.at("clone", self.path_of(source))(cause),
        })
    }

    /// Give what was made aside its name. A volume that is visible is complete.
    fn publish(&self, aside: &str, name: &str) -> Result<PathBuf, VolumeError> {
        match rustix::fs::renameat_with(&self.making, aside, &self.volumes, name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(VolumeError::Exists { name: name.into() }),
            Err(e) => return Err(self.at("name", self.path_of(name))(e)),
        }
        self.sync_names()?;
        Ok(self.path_of(name))
    }

    /// After a failure: what was begun goes at once, so that a full pool is no fuller than before.
    fn unwind(&self, aside: &str, made: Result<PathBuf, VolumeError>) -> Result<PathBuf, VolumeError> {
        if made.is_err()
            && let Err(error) = crate::remove::delete(&self.making, aside)
        {
            tracing::warn!(%error, aside, "what was begun stays until the next start");
        }
        made
    }

    /// Everything a crash left: half made volumes and unfinished deletions.
    fn sweep(&self) -> Result<(), VolumeError> {
        for name in self.entries(&self.places.making)? {
            let gone = self.unique("half-made");
            rustix::fs::renameat(&self.making, &name, &self.trash, &gone)
                .map_err(self.at("sweep", &self.places.making))?;
        }
        for name in self.entries(&self.places.trash)? {
            self.delete_in_background(name);
        }
        Ok(())
    }

    fn delete_in_background(&self, name: String) {
        if let Some(sweeper) = &self.sweeper {
            sweeper.delete(name);
        }
    }

    fn refuse_existing(&self, name: &str) -> Result<(), VolumeError> {
        if self.contains(name)? {
            Err(VolumeError::Exists { name: name.into() })
        } else {
            Ok(())
        }
    }

    fn open_volume(&self, name: &str) -> Result<File, VolumeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.volumes, name, flags, Mode::empty()) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Err(VolumeError::Missing { name: name.into() })
            }
            Err(e) => Err(self.at("open", self.path_of(name))(e)),
        }
    }

    fn sync_names(&self) -> Result<(), VolumeError> {
        self.volumes
            .sync_all()
            .map_err(self.at("sync", &self.places.volumes))
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.places.volumes.join(name)
    }

    /// A name nothing else has: the trash may hold something of an earlier process, hence the loop at most over those.
    fn unique(&self, name: &str) -> String {
        loop {
            let number = self.counter.fetch_add(1, Ordering::Relaxed);
            let candidate = format!("{name}.{}.{number}", std::process::id());
            let is_taken = [&self.places.making, &self.places.trash]
                .iter()
                .any(|p| p.join(&candidate).exists());
            if !is_taken {
                return candidate;
            }
        }
    }

    fn entries(&self, place: &Path) -> Result<Vec<String>, VolumeError> {
        let read = || -> io::Result<Vec<String>> {
            fs::read_dir(place)?
                .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        read().map_err(self.at("list", place))
    }

    fn at<E: Into<io::Error>>(
        &self,
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> VolumeError {
        VolumeError::at(&self.root, what, path)
    }
}

/// How many files can still be made there; nothing where the file system has no number of them.
fn inodes(disk: &rustix::fs::StatVfs) -> Option<u64> {
    (disk.f_files > 0).then_some(disk.f_favail)
}

/// Held while the pool is open.
#[derive(Debug)]
struct Lock(File);

fn lock(root: &Path) -> Result<Lock, VolumeError> {
    let path = root.join("lock");
    // Read-only: a file open for writing would forbid an operator's read-only remount.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(opened.map_err(VolumeError::at(root, "make", &path))?);
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(_) => Err(VolumeError::Locked { pool: root.into() }),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a process being forked at this moment holds a copy until its exec.
        let _closed_anyway = self.0.unlock();
    }
}
