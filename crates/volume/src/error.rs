//! What can go wrong with volumes, in the terms of volumes.
//!
//! Lives here: the one error type of this crate, its next steps, and telling "full" and "read-only" from the rest.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A failed volume operation: what failed, for whom.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The name cannot be a volume's.
    #[error("{0:?} cannot be the name of a volume")]
    BadName(String),
    /// A volume of this name exists; it is complete.
    #[error("volume {name} exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// There is no such volume.
    #[error("there is no volume {name}")]
    Missing {
        /// The name.
        name: String,
    },
    /// The pool has no space left; what was begun has been removed.
    #[error("the storage pool {} is full", .pool.display())]
    StorageFull {
        /// The pool.
        pool: PathBuf,
    },
    /// The pool cannot be written.
    #[error("the storage pool {} is read-only", .pool.display())]
    ReadOnly {
        /// The pool.
        pool: PathBuf,
    },
    /// Another process manages the pool.
    #[error("the storage pool {} is managed by another process", .pool.display())]
    Locked {
        /// The pool.
        pool: PathBuf,
    },
    /// Something still uses the pool.
    #[error("the storage pool {} is in use and cannot be closed", .pool.display())]
    Busy {
        /// The pool.
        pool: PathBuf,
    },
    /// Directories are nested beyond any sensible use.
    #[error("a directory of volume {name} is nested deeper than {limit} levels")]
    TooDeep {
        /// The volume.
        name: String,
        /// How deep is allowed.
        limit: usize,
    },
    /// A program this crate needs is missing or failed.
    #[error("the program {tool} failed: {reason}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What it said.
        reason: String,
    },
    /// The system refused something else.
    #[error("could not {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

impl VolumeError {
    /// What a person can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::BadName(_) => {
                "use letters, digits, dots, dashes and underscores, at most 128, not beginning with a dot"
                    .into()
            }
            Self::Exists { .. } => "choose another name, or remove the volume first".into(),
            Self::Missing { .. } => "see which volumes exist: stoa db ls".into(),
            Self::StorageFull { .. } => {
                "remove databases, branches or snapshots you no longer need, or enlarge the pool".into()
            }
            Self::ReadOnly { pool } => {
                format!(
                    "look for disk errors (dmesg), then remount: mount -o remount,rw {}",
                    pool.display()
                )
            }
            Self::Locked { .. } => "stop the other Stoa of this data directory first: stoa down".into(),
            Self::Busy { .. } => "stop what runs on its volumes first: stoa down".into(),
            Self::TooDeep { .. } => "flatten the directories of this volume".into(),
            Self::Tool { tool, .. } => {
                format!("see that it is installed: apt-get install {}", package_of(tool))
            }
            Self::Io { .. } => "see what this host lacks: stoa doctor".into(),
        }
    }

    /// The shape used at every system call in the pool: "full" and "read-only" keep their own names.
    pub(crate) fn at<E: Into<io::Error>>(
        pool: &Path,
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |cause| {
            let cause = cause.into();
            match Errno::from_io_error(&cause) {
                Some(Errno::NOSPC | Errno::DQUOT) => Self::StorageFull { pool: pool.into() },
                Some(Errno::ROFS) => Self::ReadOnly { pool: pool.into() },
                Some(_) | None => Self::Io {
                    what,
                    path: path.into(),
                    cause,
                },
            }
        }
    }
}

fn package_of(tool: &str) -> &str {
    match tool {
        "mkfs.xfs" | "xfs_growfs" => "xfsprogs",
        other => other,
    }
}
