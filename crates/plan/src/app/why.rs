//! Reasons, for people.

use std::fmt;

use model::strategy::Share;
use model::{Exit, Millis, Name};
use serde::{Deserialize, Serialize};

/// Why a decision is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// A new instance did not get ready in time.
    NeverReady {
        /// Its process type.
        service: Name,
        /// How long it had.
        limit: Millis,
    },
    /// A new instance ended by itself.
    Exited {
        /// Its process type.
        service: Name,
        /// How.
        exit: Exit,
    },
    /// A new instance got ready, then failed its check for too long.
    BecameUnready {
        /// Its process type.
        service: Name,
        /// What the check said.
        check: String,
    },
    /// More instances failed than are allowed; what is known about them is gone already.
    TooManyFailures {
        /// How many.
        failed: usize,
    },
    /// The rollout was not done in time.
    DeadlinePassed {
        /// How long it had.
        limit: Millis,
    },
    /// A release that should run is not known any more.
    ReleaseUnknown,
    /// Waits for instances to get ready.
    Waiting {
        /// Their process type.
        service: Name,
        /// Ready ones.
        ready: usize,
        /// Wanted ones.
        wanted: usize,
    },
    /// A place is started again after its last life ended.
    Restarting {
        /// Its process type.
        service: Name,
        /// Which of its copies.
        index: u16,
        /// Lives before it that did not stay well.
        attempt: u32,
        /// The wait before it; zero when it starts now.
        wait: Millis,
    },
    /// Instances that are not needed stay until others can stand in for them.
    HoldingBack {
        /// Their process type.
        service: Name,
        /// How many.
        instances: usize,
    },
    /// No instance is ready: requests go to those that were and still run, rather than to nobody.
    NoneReady {
        /// Their process type.
        service: Name,
        /// How many.
        instances: usize,
    },
    /// Nobody answers: what was there has to be gone before anything new may start.
    Gap {
        /// Instances that are not gone yet; none when it waits for the new ones only.
        ending: usize,
    },
    /// A part of the requests tries the new release.
    Trial {
        /// Which part.
        share: Share,
        /// How long it has to last yet; nothing when it is over and the next step waits for its instances.
        left: Option<Millis>,
    },
    /// The app is to be gone.
    Deleting,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverReady { service, limit } => write!(f, "{service} did not get ready within {limit}"),
            Self::Exited { service, exit } => write!(f, "{service} {}", exit.describe()),
            Self::BecameUnready { service, check } => {
                write!(f, "{service} got ready, then failed its check: {check}")
            }
            Self::TooManyFailures { failed } => write!(f, "{failed} instances failed"),
            Self::DeadlinePassed { limit } => write!(f, "not done within {limit}"),
            Self::ReleaseUnknown => f.write_str("the release is not known any more"),
            Self::Waiting {
                service,
                ready,
                wanted,
            } => {
                write!(f, "{service}: {ready} of {wanted} ready")
            }
            Self::Restarting {
                service,
                index,
                attempt,
                wait,
            } if wait.as_ms() == 0 => {
                write!(f, "{service}.{index} starts again (attempt {attempt})")
            }
            Self::Restarting {
                service,
                index,
                attempt,
                wait,
            } => {
                write!(f, "{service}.{index} starts again in {wait} (attempt {attempt})")
            }
            Self::NoneReady { service, instances } => {
                write!(
                    f,
                    "no instance of {service} is ready; requests go to {instances} that still run"
                )
            }
            Self::HoldingBack { service, instances } => {
                write!(f, "{service}: {instances} stay until others are ready")
            }
            Self::Gap { ending: 0 } => {
                f.write_str("nobody answers until the new release is ready (strategy recreate)")
            }
            Self::Gap { ending } => write!(
                f,
                "nobody answers: {ending} instances have to end before new ones may start (strategy recreate)"
            ),
            Self::Trial {
                share,
                left: Some(left),
            } => write!(f, "{share} of the requests try the new release, for {left} more"),
            Self::Trial { share, left: None } => {
                write!(f, "{share} of the requests try the new release")
            }
            Self::Deleting => f.write_str("the app is to be gone"),
        }
    }
}
