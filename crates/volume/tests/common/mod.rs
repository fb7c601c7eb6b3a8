//! Real file systems on loop devices, one per test, gone at the end whatever happens.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use volume::{Backing, Capability, Options, Pool};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    pub fn capability(self) -> Capability {
        match self {
            Self::Ext4 => Capability::Copy,
            Self::Xfs => Capability::Reflink,
            Self::Btrfs => Capability::Snapshot,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// A mounted file system of its own.
pub struct Disk {
    dir: tempfile::TempDir,
    pub kind: Kind,
}

impl Disk {
    pub fn new(kind: Kind) -> Self {
        Self::sized(
            kind,
            match kind {
                Kind::Ext4 => 96,
                Kind::Xfs => 320,
                Kind::Btrfs => 256,
            },
        )
    }

    pub fn sized(kind: Kind, megabytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let image = image.to_str().unwrap();
        run(&[&format!("mkfs.{}", kind.name()), "-q", image]);
        let disk = Self { dir, kind };
        fs::create_dir(disk.mount()).unwrap();
        disk.attach();
        disk
    }

    pub fn attach(&self) {
        let image = self.dir.path().join("image");
        run(&[
            "mount",
            "-o",
            "loop",
            image.to_str().unwrap(),
            self.mount().to_str().unwrap(),
        ]);
    }

    /// Commands that other tests start at this moment hold copies of our descriptors until they run.
    pub fn detach(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while let Err(e) = rustix::mount::unmount(self.mount(), rustix::mount::UnmountFlags::empty()) {
            if std::thread::panicking() || std::time::Instant::now() > deadline {
                let _first_cause_counts =
                    rustix::mount::unmount(self.mount(), rustix::mount::UnmountFlags::DETACH);
                assert!(std::thread::panicking(), "the disk cannot be unmounted: {e}");
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub fn remount(&self, how: &str) {
        run(&[
            "mount",
            "-o",
            &format!("remount,{how}"),
            self.mount().to_str().unwrap(),
        ]);
    }

    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    pub fn root(&self) -> PathBuf {
        self.mount().join("pool")
    }

    pub fn pool(&self) -> Pool {
        Pool::open(
            &self.root(),
            &Options {
                backing: Backing::Directory,
            },
        )
        .unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Run a program that must succeed.
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that must survive a clone, by relative path.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    walk(root, root, &mut inodes, &mut found);
    found
}

fn walk(root: &Path, at: &Path, inodes: &mut BTreeMap<u64, PathBuf>, found: &mut BTreeMap<PathBuf, String>) {
    let meta = fs::symlink_metadata(at).unwrap();
    let path = at.strip_prefix(root).unwrap().to_path_buf();
    let kind = meta.file_type();
    let content = if kind.is_symlink() {
        format!("{:?}", fs::read_link(at).unwrap())
    } else if kind.is_file() {
        format!(
            "{:x}",
            fs::read(at)
                .unwrap()
                .iter()
                .fold(7u64, |h, b| h.wrapping_mul(31) ^ u64::from(*b))
        )
    } else {
        String::new()
    };
    // The walk is in order of names in both trees, so the first name of a file is the same.
    let first = if meta.is_dir() {
        path.clone()
    } else {
        inodes.entry(meta.ino()).or_insert(path.clone()).clone()
    };
    let links = if meta.is_dir() { 0 } else { meta.nlink() };
    let size = if meta.is_dir() { 0 } else { meta.len() };
    let rdev = if kind.is_char_device() || kind.is_block_device() {
        meta.rdev()
    } else {
        0
    };
    found.insert(
        path,
        format!(
            "mode {:o} owner {}:{} size {size} links {links} same as {first:?} device {rdev} mtime {}.{} content {content} attributes {:?}",
            meta.permissions().mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec(), attributes(at)
        ),
    );
    if meta.is_dir() {
        let mut names: Vec<OsString> = fs::read_dir(at)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            walk(root, &at.join(name), inodes, found);
        }
    }
}

fn attributes(at: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(at, &mut list[..]).unwrap();
    list.truncate(length);
    let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(at, name.as_str(), &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// A volume with one of everything.
pub fn furnish(at: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    let inside = |name: &str| at.join(name);
    fs::create_dir_all(inside("sub/deeper")).unwrap();
    fs::create_dir(inside("empty")).unwrap();
    fs::write(inside("text"), "hello").unwrap();
    fs::write(inside("nothing"), "").unwrap();
    fs::write(inside("large"), pattern(3 << 20)).unwrap();
    fs::write(inside("sub/deeper/leaf"), pattern(10_000)).unwrap();
    fs::write(
        at.join(std::ffi::OsStr::from_bytes(b"not \xff utf8\n")),
        "odd name",
    )
    .unwrap();
    let sparse = File::create(inside("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, &pattern(5000), 20 << 20).unwrap();
    fs::hard_link(inside("text"), inside("sub/same")).unwrap();
    fs::hard_link(inside("text"), inside("zz-same")).unwrap();
    std::os::unix::fs::symlink("text", inside("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", inside("outward")).unwrap();
    std::os::unix::fs::symlink("../../../../../../nowhere", inside("sub/dangling")).unwrap();
    run(&["mkfifo", inside("fifo").to_str().unwrap()]);
    run(&["mknod", inside("null").to_str().unwrap(), "c", "1", "3"]);
    drop(std::os::unix::net::UnixListener::bind(inside("s")).unwrap());
    for (name, key) in [
        ("text", "user.colour"),
        ("sub", "user.shape"),
        ("link", "trusted.link"),
        ("fifo", "trusted.fifo"),
    ] {
        rustix::fs::lsetxattr(
            inside(name),
            key,
            b"value\0with zero",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    std::os::unix::fs::lchown(inside("link"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::chown(inside("sub/deeper/leaf"), Some(1_000_000), Some(1_000_001)).unwrap();
    fs::set_permissions(inside("sub/deeper/leaf"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(inside("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(at, Some(999), Some(998)).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o700)).unwrap();
    run(&[
        "touch",
        "-h",
        "-d",
        "2001-02-03T04:05:06.123456789",
        inside("outward").to_str().unwrap(),
    ]);
    run(&[
        "touch",
        "-d",
        "2002-02-03T04:05:06.123456789",
        inside("large").to_str().unwrap(),
    ]);
    run(&[
        "touch",
        "-d",
        "2003-02-03T04:05:06.123456789",
        inside("sub").to_str().unwrap(),
    ]);
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251) as u8).collect()
}
