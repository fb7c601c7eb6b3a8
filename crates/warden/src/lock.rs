//! One warden per data directory.
//!
//! Lives here: the lock file and reading the pid of whoever holds it.
//! Does not live here: anything else in the data directory.
//! Invariant: the lock is the kernel's (`flock`), never the file's existence: a killed warden leaves nothing to clean up.
//! The descriptor closes on exec, so that no child can hold the lock after the warden is gone; an upgrade, which is this same
//! process with another program, passes it on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The held lock; dropping it releases the data directory.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// What takes the lock: one may be told to stop, the other is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// The process that runs Stoa.
    Warden,
    /// A command that needs Stoa to stay away for a moment.
    Command,
}

/// The word of a command in the lock file, after its pid.
const COMMAND: &str = "command";

/// Why the data directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another warden runs on it.
    #[error("{} is already in use by process {}", data_dir.display(), pid.map_or("(unknown)".to_owned(), |p| p.to_string()))]
    Held {
        /// The directory both want.
        data_dir: PathBuf,
        /// Who has it, when it has already written its number.
        pid: Option<u32>,
        /// Which kind of process that is.
        taker: Taker,
    },
    /// The lock file could not be made or locked.
    #[error("could not lock {}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: std::io::Error,
    },
}

impl LockError {
    /// What the user can do.
    pub fn next(&self) -> String {
        match self {
            Self::Held {
                taker: Taker::Command,
                ..
            } => "a command is at work there; try again when it has ended".to_owned(),
            Self::Held { pid: Some(pid), .. } => {
                format!(
                    "talk to the running one (stoa status), stop it (kill {pid}), or give another --data-dir"
                )
            }
            Self::Held { pid: None, .. } => "another start is under way; try again in a moment".to_owned(),
            Self::File { path, .. } => {
                format!("check that {} exists and is writable for root", path.display())
            }
        }
    }
}

impl Lock {
    /// Takes `<data_dir>/lock` or says who has it. The directory is made when absent.
    pub fn take(data_dir: &Path, taker: Taker) -> Result<Lock, LockError> {
        let path = data_dir.join("lock");
        let failed = |cause: std::io::Error| LockError::File {
            path: path.clone(),
            cause,
        };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let mut words = text.split_whitespace();
                return Err(LockError::Held {
                    data_dir: data_dir.to_owned(),
                    pid: words.next().and_then(|pid| pid.parse().ok()),
                    taker: match words.next() {
                        Some(COMMAND) => Taker::Command,
                        Some(_) | None => Taker::Warden,
                    },
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let pid = std::process::id();
        let text = match taker {
            Taker::Warden => format!("{pid}\n"),
            Taker::Command => format!("{pid} {COMMAND}\n"),
        };
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(failed)?;
        Ok(Lock { file })
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<OwnedFd> for Lock {
    /// The lock as it came through an upgrade's `exec`.
    fn from(held: OwnedFd) -> Lock {
        Lock { file: held.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_learns_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        for first_is in [Taker::Warden, Taker::Command] {
            let first = Lock::take(dir.path(), first_is).unwrap();
            match Lock::take(dir.path(), Taker::Warden) {
                Err(LockError::Held { pid, taker, .. }) => {
                    assert_eq!((pid, taker), (Some(std::process::id()), first_is));
                }
                other => panic!("expected a refusal, got {other:?}"),
            }
            drop(first);
        }
        Lock::take(dir.path(), Taker::Warden).unwrap();
    }
}
