//! One instance's directory and what it says about the instance.
//!
//! Lives here: names, locks, and the state derived from records, locks and processes.
//! Does not live here: changing any of it (`start`, `control`).
//! Invariant: an instance is alive while its keeper holds `keeper.lock`; the kernel drops the lock whatever way the keeper
//! dies. A pid counts only together with its start time and boot.
//!
//! `ROOT/ID/`: `lock` (held while we change it), `keeper.lock`, `keeper.sock`, `record`, `exit`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use keeper::record::{Exit, KEEPER_LOCK, Running, start_time};
use rustix::fs::FlockOperation;

use crate::{Error, Result, Runtime};

const LOCK: &str = "lock";
/// A control group's name and a host name must both take it.
const LONGEST_NAME: usize = 96;

/// An instance as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: State,
    /// What its keeper recorded at the start; absent when it never got there.
    pub record: Option<Running>,
}

/// The state of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A start is under way.
    Starting,
    /// Its program runs.
    Running {
        /// Process 1 as the host counts.
        pid: u32,
        /// Kernel start time of that process, which makes the pid an identity.
        pid_start: u64,
        /// Since when, milliseconds since 1970.
        started_at_ms: u64,
    },
    /// It ended.
    Exited(Exit),
    /// Its keeper was killed, the machine rebooted, or a start was cut off. Nothing can be known; remove it.
    Lost,
}

impl Runtime {
    /// One instance; `None` when there is nothing of that name.
    pub fn get(&self, id: &str) -> Result<Option<Container>> {
        check_name("the id", id)?;
        let dir = self.dir(id);
        if !dir.is_dir() {
            let left = self.hierarchies.group(&self.mark, id).exists();
            return Ok(left.then(|| Container {
                id: id.to_owned(),
                state: State::Lost,
                record: None,
            }));
        }
        let (state, record) = self.state(&dir)?;
        Ok(Some(Container {
            id: id.to_owned(),
            state,
            record,
        }))
    }

    pub(crate) fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    pub(crate) fn state(&self, dir: &Path) -> Result<(State, Option<Running>)> {
        // The lock before the records: a keeper writes its exit record before it lets go.
        let alive = is_locked(&dir.join(KEEPER_LOCK)).map_err(Error::io(dir))?;
        let record = Running::load(dir).map_err(Error::io(dir))?;
        if let Some(exit) = Exit::load(dir).map_err(Error::io(dir))? {
            return Ok((State::Exited(exit), record));
        }
        let state = match &record {
            Some(running) if alive && running.boot_id == self.boot_id => State::Running {
                pid: running.pid,
                pid_start: running.pid_start,
                started_at_ms: running.started_at_ms,
            },
            Some(_) => State::Lost,
            None if alive || is_locked(&dir.join(LOCK)).map_err(Error::io(dir))? => State::Starting,
            None => State::Lost,
        };
        Ok((state, record))
    }
}

/// The keeper of a record, if it still runs: a descriptor that becomes readable when it ends.
pub fn keeper_process(record: &Running) -> Option<rustix::fd::OwnedFd> {
    let pid = i32::try_from(record.keeper_pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    // Opened first, compared second: from here on it cannot become another process.
    (start_time(record.keeper_pid) == Some(record.keeper_start)).then_some(pidfd)
}

/// The right to change an instance's directory; released when dropped.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for it. Makes the directory when asked to; `None` when there is none.
    pub fn take(dir: &Path, make: Make) -> io::Result<Option<Lock>> {
        loop {
            match make {
                Make::Directory => make_private_dir(dir)?,
                Make::Nothing => {}
            }
            let path = dir.join(LOCK);
            let file = match File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
            {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => match make {
                    Make::Directory => continue,
                    Make::Nothing => return Ok(None),
                },
                Err(error) => return Err(error),
            };
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            // Whoever held it may have removed the directory, and another made it anew.
            let same = |meta: fs::Metadata| file.metadata().is_ok_and(|own| own.ino() == meta.ino());
            if fs::metadata(&path).is_ok_and(same) {
                return Ok(Some(Lock { _file: file }));
            }
        }
    }
}

/// Whether taking a lock may make the directory.
#[derive(Clone, Copy)]
pub enum Make {
    /// It may.
    Directory,
    /// It may not.
    Nothing,
}

/// Whether somebody holds the lock of a file.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A directory for root only, with its parents.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Refuses what cannot be a directory, a control group and part of a file name at once.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let good = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(Error::Invalid {
        what: what.to_owned(),
        why: format!(
            "{name:?} must be 1 to {LONGEST_NAME} letters, digits, - or ., beginning with a letter or digit"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for good in ["a", "web-1.2", "0", &"x".repeat(96)] {
            assert!(check_name("id", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-x",
            "_keepers",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(97),
        ] {
            assert!(check_name("id", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lock_excludes_and_shows() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a");
        assert!(Lock::take(&dir, Make::Nothing).unwrap().is_none());
        let lock = Lock::take(&dir, Make::Directory).unwrap().unwrap();
        assert!(is_locked(&dir.join(LOCK)).unwrap());
        drop(lock);
        assert!(!is_locked(&dir.join(LOCK)).unwrap());
    }
}
