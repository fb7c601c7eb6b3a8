//! Durable files and trees that can be removed whatever is in them.
//!
//! Lives here: write-sync-rename-sync, waiting for a tree to reach the disk, removing hostile trees.
//! Does not live here: what the files mean.
//! Invariant: a name that exists names a complete file, after a crash too.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Doing, ImageError, Result};

/// Makes a directory and its parents, readable by root only: layers may hold other people's files.
pub(crate) fn private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing("create directory", path)
}

/// Replaces a file so that a crash leaves the old or the new one. `scratch` is a name on the same file system.
pub(crate) fn write_durably(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(scratch)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .doing("write", scratch)
        .and_then(|()| rename_durably(scratch, path));
    if written.is_err() {
        let _already_renamed = fs::remove_file(scratch);
    }
    written
}

/// Gives something complete its name, for good.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).doing("rename to", to)?;
    sync_directory(to.parent().unwrap_or(Path::new("/")))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .doing("sync", path)
}

/// Makes a whole tree durable: one call for the file system is cheaper than one per file.
pub(crate) fn sync_tree(path: &Path) -> Result<()> {
    let dir = File::open(path).doing("open", path)?;
    rustix::fs::syncfs(&dir).doing("sync", path)
}

/// Opens a path beneath a directory, and nowhere else.
///
/// The kernel gives up with EAGAIN when anything on the machine is renamed while it walks a `..`; asking again is
/// what its manual advises. The bound is far above what a busy machine needs.
pub(crate) fn open_beneath(
    dir: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut answer = Err(Errno::AGAIN);
    for _attempt in 0..10_000 {
        answer = rustix::fs::openat2(
            &dir,
            path.as_ref(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        );
        if !matches!(answer, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    answer
}

/// Removes what a program that ran as root left in a directory of ours, mounts included: they go first, the deepest first,
/// and lazily, for somebody may still be in them.
pub(crate) fn remove_left(path: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<&Path> = mount_points(&table)
        .filter(|point| point.starts_with(path))
        .collect();
    mounts.sort();
    for mount in mounts.into_iter().rev() {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(mount, flags).doing("unmount", mount)?;
    }
    remove_tree(path)
}

/// Field 5 of proc_pid_mountinfo(5). A point with an escaped character is none of ours.
fn mount_points(table: &str) -> impl Iterator<Item = &Path> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
}

/// Removes a file or tree of any depth with constant memory and two descriptors.
///
/// A recursive removal dies on a tree some ten thousand levels deep, which any instance can build. Here a
/// directory that is not empty is first moved to the top, so depth never grows.
pub fn remove_tree(path: &Path) -> Result<()> {
    let top = match rustix::fs::openat(
        CWD,
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path).doing("remove", path),
        Err(cause) => return Err(ImageError::io("open", path, cause)),
    };
    let mut moved: u64 = 0;
    loop {
        let names = directories_after_removing_files(&top).doing("empty", path)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner =
                rustix::fs::openat(&top, &name, flags, Mode::empty()).doing("open a directory in", path)?;
            for deeper in directories_after_removing_files(&inner).doing("empty a directory in", path)? {
                loop {
                    moved += 1;
                    let unused = format!(".removing-{moved}");
                    match rustix::fs::renameat_with(&inner, &deeper, &top, &unused, RenameFlags::NOREPLACE) {
                        Ok(()) => break,
                        Err(Errno::EXIST) => {}
                        Err(cause) => return Err(ImageError::io("move a directory in", path, cause)),
                    }
                }
            }
            rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR).doing("remove a directory in", path)?;
        }
    }
    fs::remove_dir(path).doing("remove", path)
}

/// Unlinks everything but directories, and removes directories that are empty; names the others.
fn directories_after_removing_files(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut left = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => left.push(name.to_owned()),
                Err(cause) => return Err(cause),
            },
            Err(cause) => return Err(cause),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_it_goes_first() {
        let home = tempfile::tempdir().unwrap();
        let left = home.path().join("left");
        for name in ["proc", "proc/deeper"] {
            fs::create_dir(left.join(name))
                .or_else(|_| fs::create_dir_all(left.join(name)))
                .unwrap();
            let status = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "stoa-test"])
                .arg(left.join(name))
                .status()
                .unwrap();
            assert!(status.success());
        }
        assert!(remove_tree(&left).is_err(), "a mount was not in the way");
        remove_left(&left).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn removes_a_tree_too_deep_for_recursion_and_for_paths() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().join("tree");
        fs::create_dir(&top).unwrap();
        let mut here: OwnedFd = File::open(&top).unwrap().into();
        for level in 0..6_000 {
            rustix::fs::mkdirat(&here, "deeper", Mode::from(0o700)).unwrap();
            if level % 1000 == 0 {
                rustix::fs::openat(&here, ".removing-3", OFlags::CREATE, Mode::from(0o600)).unwrap();
            }
            here = rustix::fs::openat(&here, "deeper", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(here);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("kept")).unwrap();
        fs::write(home.path().join("kept/file"), "x").unwrap();
        fs::create_dir(home.path().join("tree")).unwrap();
        std::os::unix::fs::symlink("../kept", home.path().join("tree/link")).unwrap();
        std::os::unix::fs::symlink("kept", home.path().join("top-link")).unwrap();
        remove_tree(&home.path().join("tree")).unwrap();
        remove_tree(&home.path().join("top-link")).unwrap();
        assert!(home.path().join("kept/file").exists());
    }
}
