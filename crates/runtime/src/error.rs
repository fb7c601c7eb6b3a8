//! What can go wrong with an instance.
//!
//! Lives here: one enum, in words for the person who started it, each with a next step.
//! Does not live here: HTTP status (`server`).
//! Invariant: the text never holds a secret or an environment value.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on an instance failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the specification, or an argument.
    #[error("{what}: {why}")]
    Invalid {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// It did not start; nothing of it is left.
    #[error("instance {id} did not start ({stage}): {reason}")]
    Start {
        /// Which instance.
        id: String,
        /// The step.
        stage: Stage,
        /// The chain of causes in one line.
        reason: String,
    },
    /// A process in it did not start.
    #[error("{program} did not start in instance {id} ({stage}): {reason}")]
    Exec {
        /// Which instance.
        id: String,
        /// The first argument.
        program: String,
        /// The step.
        stage: Stage,
        /// The chain of causes in one line.
        reason: String,
    },
    /// There is no such instance.
    #[error("there is no instance {id}")]
    NotFound {
        /// Which.
        id: String,
    },
    /// It has ended, so this cannot be done any more.
    #[error("instance {id} has ended")]
    Ended {
        /// Which.
        id: String,
    },
    /// Its keeper was killed: how it goes on, or ended, cannot be known.
    #[error("instance {id} has lost its keeper")]
    Lost {
        /// Which.
        id: String,
    },
    /// Something did not happen within its bound.
    #[error("instance {id}: {what} took longer than {limit_s} s")]
    Late {
        /// Which.
        id: String,
        /// What.
        what: &'static str,
        /// The bound.
        limit_s: u64,
    },
    /// Its keeper speaks another version.
    #[error("the keeper of instance {id} speaks protocol {oldest} to {newest}, this build {ours}")]
    Version {
        /// Which.
        id: String,
        /// Oldest it speaks.
        oldest: u16,
        /// Newest it speaks.
        newest: u16,
        /// Ours.
        ours: u16,
    },
    /// Its keeper refused.
    #[error("the keeper of instance {id} refused: {reason}")]
    Refused {
        /// Which.
        id: String,
        /// Why.
        reason: String,
    },
    /// A newer control owns the instances.
    #[error("another control has taken over (epoch {newest}); this one may change nothing any more")]
    Fenced {
        /// The epoch that it began.
        newest: u64,
    },
    /// Control groups of this machine are unusable.
    #[error("control groups cannot be used: {cause}")]
    Cgroups {
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file or a system call.
    #[error("{what}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Invalid { what, .. } => format!("correct {what} and try again"),
            Self::Start { stage, .. } | Self::Exec { stage, .. } => stage.next().to_owned(),
            Self::NotFound { .. } => "list what there is: stoa ps".to_owned(),
            Self::Ended { id } => format!("see how it ended: stoa logs {id}"),
            Self::Lost { id } => format!("remove {id} and start it anew"),
            Self::Late { id, .. } => {
                format!("look at the machine's load, then remove {id} and start it anew")
            }
            Self::Version { id, .. } => format!("restart {id} to give it a keeper of this version"),
            Self::Refused { .. } => "see the reason".to_owned(),
            Self::Fenced { .. } => "end this process; the newer one is at work: stoa status".to_owned(),
            Self::Cgroups { .. } => {
                "mount the memory, cpu and pids controllers (see: stoa doctor)".to_owned()
            }
            Self::Io { .. } => "check space and permissions of the data directory (stoa doctor)".to_owned(),
        }
    }

    pub(crate) fn io(what: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let what: PathBuf = what.into();
        move |cause| Error::Io {
            what: what.display().to_string(),
            cause,
        }
    }
}

/// The step at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Our own helper processes.
    Helper,
    /// The image's layers or the writable directory.
    Layers,
    /// A volume.
    Volumes,
    /// The network namespace.
    Network,
    /// Control groups and resource limits.
    Limits,
    /// Secrets and synthesised files.
    Files,
    /// Namespaces and mounts.
    Container,
    /// The program itself: missing, not executable, wrong format, no working directory.
    Program,
}

impl Stage {
    pub(crate) fn from_name(name: &str) -> Stage {
        match name {
            "layers" => Stage::Layers,
            "volumes" => Stage::Volumes,
            "network" => Stage::Network,
            "limits" => Stage::Limits,
            "files" => Stage::Files,
            "container" => Stage::Container,
            "program" => Stage::Program,
            // Also what a newer keeper may name.
            _ => Stage::Helper,
        }
    }

    fn next(self) -> &'static str {
        match self {
            Stage::Helper => "try again; if it stays, report it with the log of stoa up",
            Stage::Layers => "check the image: stoa image inspect",
            Stage::Volumes => {
                "check the volume exists and its file system allows idmapped mounts (ext4, xfs, btrfs, tmpfs)"
            }
            Stage::Network => "check the network: stoa doctor",
            Stage::Limits => "raise the limit, or check control groups: stoa doctor",
            Stage::Files => "check names and sizes of secrets and files",
            Stage::Container => "check the kernel: stoa doctor",
            Stage::Program => "check the command against the image's contents",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Helper => "helper",
            Stage::Layers => "layers",
            Stage::Volumes => "volumes",
            Stage::Network => "network",
            Stage::Limits => "limits",
            Stage::Files => "files",
            Stage::Container => "container",
            Stage::Program => "program",
        })
    }
}
