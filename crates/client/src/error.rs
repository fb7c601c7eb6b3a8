//! Why a call failed.

use std::time::Duration;

use api::Problem;

use crate::connect::AddressError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Nobody listens there, or the way is blocked.
    #[error("could not reach Stoa at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to Stoa at {address} broke: {why}")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("Stoa at {address} did not answer within {} s", .after.as_secs())]
    Late {
        /// Where.
        address: String,
        /// After how long.
        after: Duration,
    },
    /// Something answers, but it is not Stoa's API.
    #[error("{address} answered something that is not Stoa's API ({why})")]
    NotStoa {
        /// Where.
        address: String,
        /// What was odd.
        why: String,
    },
    /// The address is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A local file or the system failed us.
    #[error("{what}")]
    Local {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn next(&self) -> String {
        match self {
            Self::Problem(problem) => problem.next_step.clone(),
            Self::Connect { address, .. } if address.starts_with("unix:") => {
                "start it with: stoa up (as root), or check the data directory with --data-dir".to_owned()
            }
            Self::Connect { .. } => {
                "start it with: stoa up; or name another server with --api or STOA_API".to_owned()
            }
            Self::Broken { .. } | Self::Late { .. } => "see whether it runs: stoa status".to_owned(),
            Self::NotStoa { .. } | Self::Address(_) => {
                "check --api and STOA_API; the default is http://127.0.0.1:7070".to_owned()
            }
            Self::Local { .. } => String::new(),
        }
    }

    /// The problem document, when the server sent one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Late { .. }
            | Self::NotStoa { .. }
            | Self::Address(_)
            | Self::Local { .. } => None,
        }
    }

    /// Whether trying again soon may help: the server may just be restarting.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Late { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 502..=504),
            Self::NotStoa { .. } | Self::Address(_) | Self::Local { .. } => false,
        }
    }
}
