//! The pool file: XFS with reflink on a loop device, for hosts whose file system only copies.
//!
//! Lives here: making, finding again, mounting, growing and unmounting it.
//! Does not live here: whether there is to be one (the caller decides), volumes (`pool`).
//! Invariants: the file's space is reserved when it is made or grown, so a full host disk can refuse but never break
//! the file system inside; a file that is there is complete, for it gets its name last; the loop device lets go by
//! itself when the mount ends, so neither crash nor reboot leaves one behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::probe::XFS_MAGIC;
use crate::{VolumeError, ioctl};

/// How large the pool file is made, and how it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFile {
    /// Its size when it is made, but at most half of what the host has free, for it can grow later; not below
    /// 320 MiB, for XFS wants 300 MB.
    pub size_bytes: u64,
    /// It grows when less than this is free inside.
    pub grow_below_bytes: u64,
    /// By how much.
    pub step_bytes: u64,
    /// What must stay free on the host's file system whatever the pool needs.
    pub keep_free_bytes: u64,
}

const GIB: u64 = 1 << 30;
/// What mkfs.xfs accepts, with a margin.
pub(crate) const SMALLEST: u64 = 320 << 20;
/// Somebody else may take the free loop device before we do.
const ATTEMPTS: usize = 64;
/// How long closing waits for others to let go.
const BUSY_AT_MOST: Duration = Duration::from_secs(3);
const BUSY_AGAIN: Duration = Duration::from_millis(20);

impl Default for PoolFile {
    fn default() -> Self {
        Self {
            size_bytes: 4 * GIB,
            grow_below_bytes: GIB,
            step_bytes: 2 * GIB,
            keep_free_bytes: 4 * GIB,
        }
    }
}

impl PoolFile {
    /// What the file may take of so much free space of its host: whole steps, for it grows by no less.
    pub(crate) fn growable(&self, host_free_bytes: u64) -> u64 {
        let spare = host_free_bytes.saturating_sub(self.keep_free_bytes);
        // A step of nothing leads nowhere.
        spare - spare.checked_rem(self.step_bytes).unwrap_or(spare)
    }
}

/// A mounted pool file.
#[derive(Debug)]
pub(crate) struct Mounted {
    root: PathBuf,
    image: PathBuf,
    pub mount: PathBuf,
}

/// Where the pool file of this pool is, or would be.
pub(crate) fn image_of(root: &Path) -> PathBuf {
    root.join("pool.img")
}

/// Make the pool file if there is none, and mount it if it is not.
pub(crate) fn open(root: &Path, options: &PoolFile) -> Result<Mounted, VolumeError> {
    let (image, mount) = (image_of(root), root.join("mnt"));
    let at = |what, path: &Path| VolumeError::at(root, what, path.to_path_buf());
    if !fs::exists(&image).map_err(at("look for", &image))? {
        let host = rustix::fs::statvfs(root)
            .map_err(io::Error::from)
            .map_err(at("measure", root))?;
        let half = host.f_bavail * host.f_frsize / 2;
        make(root, &image, options.size_bytes.min(half).max(SMALLEST))?;
    }
    fs::create_dir_all(&mount).map_err(at("make", &mount))?;
    let mounted = Mounted {
        root: root.into(),
        image,
        mount,
    };
    if !mounted.is_mounted()? {
        mounted.mount()?;
    }
    Ok(mounted)
}

fn make(root: &Path, image: &Path, size: u64) -> Result<(), VolumeError> {
    let aside = image.with_extension("img.new");
    let at = |what| VolumeError::at(root, what, &aside);
    let made = (|| {
        let file = File::create(&aside).map_err(at("make"))?;
        reserve(&file, 0, size).map_err(at("reserve space for"))?;
        // -K: discarding would give the reserved space back.
        tool(
            "mkfs.xfs",
            &[
                "-q".as_ref(),
                "-K".as_ref(),
                "-m".as_ref(),
                "reflink=1".as_ref(),
                aside.as_ref(),
            ],
        )?;
        file.sync_all().map_err(at("sync"))?;
        fs::rename(&aside, image).map_err(at("name"))?;
        File::open(root)
            .and_then(|d| d.sync_all())
            .map_err(at("sync the directory of"))
    })();
    if made.is_err() {
        // The next attempt makes it anew.
        let _reported_above = fs::remove_file(&aside);
    }
    made
}

/// Reserve space, or at least set the size where the file system cannot reserve.
fn reserve(file: &File, from: u64, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, length) {
        Err(Errno::OPNOTSUPP) => file.set_len(from + length),
        other => other.map_err(Into::into),
    }
}

impl Mounted {
    /// Is our own file mounted there? Anything else in its place is an error, never used.
    fn is_mounted(&self) -> Result<bool, VolumeError> {
        let at = |what, path: &Path| VolumeError::at(&self.root, what, path.to_path_buf());
        let inside = fs::metadata(&self.mount).map_err(at("look at", &self.mount))?;
        let outside = fs::metadata(&self.root).map_err(at("look at", &self.root))?;
        if inside.dev() == outside.dev() {
            return Ok(false);
        }
        let backing = fs::read_to_string(sysfs(inside.dev()).join("loop/backing_file")).unwrap_or_default();
        let ours = fs::canonicalize(&self.image).map_err(at("look at", &self.image))?;
        if Path::new(backing.trim_end()) == ours {
            return Ok(true);
        }
        let cause = io::Error::other("something else is mounted there");
        Err(at("use", &self.mount)(cause))
    }

    fn mount(&self) -> Result<(), VolumeError> {
        let at = |what| VolumeError::at(&self.root, what, &self.image);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.image)
            .map_err(at("open"))?;
        let control = File::open("/dev/loop-control").map_err(at("get a loop device for"))?;
        // Held open until mounted: a loop device nobody holds lets go of its file.
        let (device, path) = attach(&control, &file).map_err(at("get a loop device for"))?;
        // NOATIME: reading must not make clones differ.
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        let mounted = rustix::mount::mount(&path, &self.mount, "xfs", flags, None::<&std::ffi::CStr>);
        drop(device);
        mounted.map_err(io::Error::from).map_err(at("mount"))
    }

    /// Make the file larger by one step, if the host has the space to spare; by how much.
    pub(crate) fn grow(&self, options: &PoolFile) -> Result<Option<u64>, VolumeError> {
        let at = |what| VolumeError::at(&self.root, what, &self.image);
        let host = rustix::fs::statvfs(&self.root)
            .map_err(io::Error::from)
            .map_err(at("measure the disk below"))?;
        if options.growable(host.f_bavail * host.f_frsize) == 0 {
            return Ok(None);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.image)
            .map_err(at("open"))?;
        let size = file.metadata().map_err(at("look at"))?.len();
        reserve(&file, size, options.step_bytes).map_err(at("grow"))?;
        file.sync_all().map_err(at("sync"))?;
        self.fit()?;
        Ok(Some(options.step_bytes))
    }

    /// Have device and file system use the whole file: the second half of growing, repeated at each open.
    pub(crate) fn fit(&self) -> Result<(), VolumeError> {
        let at = |what| VolumeError::at(&self.root, what, &self.image);
        let size = fs::metadata(&self.image).map_err(at("look at"))?.len();
        let device = fs::metadata(&self.mount).map_err(at("look at"))?.dev();
        let sectors = fs::read_to_string(sysfs(device).join("size")).map_err(at("measure the device of"))?;
        let is_whole = sectors
            .trim()
            .parse::<u64>()
            .is_ok_and(|sectors| sectors * 512 == size / 512 * 512);
        if !is_whole {
            let path = fs::canonicalize(sysfs(device)).map_err(at("find the device of"))?;
            let name = path.file_name().unwrap_or_default();
            let device = File::open(Path::new("/dev").join(name)).map_err(at("open the device of"))?;
            ioctl::refresh_loop_size(&device).map_err(at("enlarge the device of"))?;
        }
        // Does nothing when the file system is as large as its device already.
        tool("xfs_growfs", &["-d".as_ref(), self.mount.as_ref()])
    }

    pub(crate) fn close(&self) -> Result<(), VolumeError> {
        let start = Instant::now();
        loop {
            match rustix::mount::unmount(&self.mount, UnmountFlags::empty()) {
                Ok(()) | Err(Errno::INVAL) => return Ok(()),
                // Also while any process forked by us has not reached its exec: it holds copies of our descriptors.
                Err(Errno::BUSY) if start.elapsed() < BUSY_AT_MOST => std::thread::sleep(BUSY_AGAIN),
                Err(Errno::BUSY) => {
                    return Err(VolumeError::Busy {
                        pool: self.root.clone(),
                    });
                }
                Err(e) => return Err(VolumeError::at(&self.root, "unmount", &self.mount)(e)),
            }
        }
    }

    /// Is this still the file system we mounted?
    pub(crate) fn check(&self) -> Result<(), VolumeError> {
        let is_xfs = rustix::fs::statfs(&self.mount).is_ok_and(|s| s.f_type == XFS_MAGIC);
        if is_xfs {
            return Ok(());
        }
        let cause = io::Error::other("it is not mounted any more");
        Err(VolumeError::at(&self.root, "use", &self.mount)(cause))
    }
}

fn attach(control: &File, file: &File) -> io::Result<(File, PathBuf)> {
    for _ in 0..ATTEMPTS {
        let path = PathBuf::from(format!("/dev/loop{}", ioctl::free_loop_device(control)?));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        match ioctl::attach_loop(&device, file) {
            Ok(()) => return Ok((device, path)),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other(
        "every free loop device was taken by somebody else",
    ))
}

fn sysfs(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

fn tool(name: &'static str, arguments: &[&std::ffi::OsStr]) -> Result<(), VolumeError> {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    let reason = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            said.lines()
                .find(|l| !l.trim().is_empty())
                .unwrap_or("it said nothing")
                .to_owned()
        }
        Err(cause) => cause.to_string(),
    };
    Err(VolumeError::Tool { tool: name, reason })
}
