//! Deleting what lies in the trash, in the background.
//!
//! Lives here: deleting a tree of any depth from open directories, and the thread that does it.
//! Does not live here: moving something into the trash (`pool`), which is what makes it gone for everybody.
//! Invariant: nothing outside of the trash is ever named.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::ioctl;

/// Deeper directories are moved up first, so that neither descriptors nor stack grow with the tree.
const DEEPEST: usize = 64;

/// Delete one entry of the trash and all below it.
pub(crate) fn delete(trash: &File, name: &str) -> io::Result<()> {
    // One call where the volume is a btrfs subvolume; refused at once anywhere else.
    if ioctl::destroy_subvolume(trash, name).is_ok() {
        return Ok(());
    }
    let name = CString::new(name)?;
    match unlink(trash.as_fd(), &name) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other.map_err(Into::into),
    }
    let Some(root) = open(trash.as_fd(), &name)? else {
        return Ok(());
    };
    let mut moved = 0u64;
    while !empty(root.as_fd(), root.as_fd(), 0, &mut moved)? {}
    remove_directory(trash.as_fd(), &name).map_err(Into::into)
}

/// Delete everything in a directory; `false` when some of it had to be moved up to the root and waits there.
fn empty(root: BorrowedFd<'_>, dir: BorrowedFd<'_>, depth: usize, moved: &mut u64) -> io::Result<bool> {
    let mut is_done = true;
    // Names first: deleting while listing may skip entries.
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if kind != FileType::Directory {
            match unlink(dir, &name) {
                Ok(()) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if depth >= DEEPEST {
            move_up(root, dir, &name, moved)?;
            is_done = false;
            continue;
        }
        let Some(below) = open(dir, &name)? else { continue };
        is_done &= empty(root, below.as_fd(), depth + 1, moved)?;
        remove_directory(dir, &name)?;
    }
    Ok(is_done)
}

fn move_up(root: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let aside = format!(".deep-{moved}");
        match rustix::fs::renameat_with(dir, name, root, aside, RenameFlags::NOREPLACE) {
            // Left by an earlier attempt that a crash ended.
            Err(Errno::EXIST) => {}
            other => return other.map_err(Into::into),
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    gone(rustix::fs::unlinkat(dir, name, AtFlags::empty()))
}

fn remove_directory(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    gone(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
}

fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The thread that empties the trash.
#[derive(Debug)]
pub(crate) struct Sweeper {
    work: Option<mpsc::Sender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

enum Chore {
    Delete(String),
    Settle(mpsc::Sender<()>),
}

impl Sweeper {
    pub(crate) fn start(trash: File, place: PathBuf) -> io::Result<Self> {
        let (work, chores) = mpsc::channel();
        let thread = std::thread::Builder::new().name("stoa-trash".into()).spawn(move || {
            for chore in chores {
                match chore {
                    Chore::Delete(name) => {
                        if let Err(error) = delete(&trash, &name) {
                            tracing::warn!(%error, place = %place.display(), name, "the trash keeps this until the next start");
                        }
                    }
                    Chore::Settle(done) => {
                        let _gone = done.send(());
                    }
                }
            }
        })?;
        Ok(Self {
            work: Some(work),
            thread: Some(thread),
        })
    }

    pub(crate) fn delete(&self, name: String) {
        if let Some(work) = &self.work {
            // Without a thread it stays in the trash until the next start.
            let _unsent = work.send(Chore::Delete(name));
        }
    }

    /// Wait until everything asked for so far is deleted.
    pub(crate) fn settle(&self) {
        let (done, wait) = mpsc::channel();
        if let Some(work) = &self.work
            && work.send(Chore::Settle(done)).is_ok()
        {
            let _ended = wait.recv();
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.work = None;
        // A panic in there left something in the trash; the next start takes it up.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
