//! What can go wrong with a database, in its own terms.

use engine::EngineError;

/// Why a database is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The engine refused or broke.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A program of PostgreSQL ended badly.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said last.
        output: String,
    },
    /// It did not happen in time.
    #[error("{what} took longer than {limit_s} s")]
    Slow {
        /// What.
        what: &'static str,
        /// The limit.
        limit_s: u64,
    },
    /// The version asked for is not to be had.
    #[error("there is no PostgreSQL {asked} here; there is {known}")]
    Version {
        /// As asked.
        asked: String,
        /// What there is.
        known: &'static str,
    },
    /// The version of Valkey asked for is not to be had.
    #[error("there is no Valkey {asked} here; there is {known}")]
    NoValkey {
        /// As asked.
        asked: String,
        /// What there is.
        known: &'static str,
    },
    /// The cluster is of a kind that this cannot be done with.
    #[error("{why}")]
    Unfit {
        /// What is in the way.
        why: String,
    },
    /// A segment that the replay needs is not in the archive.
    #[error("the segment {segment} of the write-ahead log is not in the archive")]
    Gap {
        /// Which.
        segment: model::Segment,
    },
    /// The log ended before what the restore aimed at.
    #[error("the archived log ends before {target}: {said}")]
    Short {
        /// What was asked for.
        target: String,
        /// What the server said.
        said: String,
    },
    /// A script that masks data failed; nothing of it was done.
    #[error("the mask script failed, and nothing of the copy is left: {said}")]
    Mask {
        /// The error, without values.
        said: String,
    },
    /// A file of the cluster is not what it must be.
    #[error("{file}: {why}")]
    File {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
}

impl DatabaseError {
    /// What the system said about a file.
    pub(crate) fn file(file: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::File {
            file: file.to_owned(),
            why: cause.to_string(),
        }
    }
}
