//! What can go wrong in a place where workloads run, in its own terms.

use model::InstanceId;

/// Why an engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The workload could not be started.
    #[error("instance {id} could not be started: {why}")]
    NotStarted {
        /// Which.
        id: InstanceId,
        /// In the words of the host.
        why: String,
    },
    /// A program could not be run in a running workload.
    #[error("{program} could not be run there: {why}")]
    NotExecuted {
        /// The first word of the command.
        program: String,
        /// In the words of the host.
        why: String,
        /// The command or check that leads on.
        next_step: String,
    },
    /// There is no such running workload.
    #[error("instance {0} does not run")]
    NotRunning(InstanceId),
    /// An image is not there or cannot be got.
    #[error("image {image}: {why}")]
    Image {
        /// As written.
        image: String,
        /// Why.
        why: String,
        /// The command or check that leads on.
        next_step: String,
    },
    /// A source archive was refused.
    #[error("the uploaded source was refused: {0}")]
    Source(String),
    /// A build step failed.
    #[error("build step {step} failed: {why}")]
    Step {
        /// Its name.
        step: String,
        /// Exit code, limit or time-out.
        why: String,
    },
    /// A volume is not as it must be.
    #[error("volume {volume}: {why}")]
    Volume {
        /// Which.
        volume: String,
        /// Why.
        why: String,
    },
    /// No room left.
    #[error("no room left on the disk: {0}")]
    Full(String),
    /// The host refused or broke something.
    #[error("{what}: {why}")]
    Host {
        /// What was being done.
        what: String,
        /// What the host said.
        why: String,
    },
    /// This engine cannot do that at all.
    #[error("{0} is not possible on this engine")]
    Unsupported(&'static str),
}

impl EngineError {
    /// What to do next.
    #[must_use]
    pub fn next(&self) -> String {
        match self {
            Self::NotStarted { .. } => "see why: stoa logs, then stoa doctor".to_owned(),
            Self::NotRunning(_) => "see what runs: stoa ps".to_owned(),
            Self::Image { next_step, .. } | Self::NotExecuted { next_step, .. } => next_step.clone(),
            Self::Source(_) => "deploy a plain directory: stoa deploy DIR".to_owned(),
            Self::Step { .. } => "read the build log above, mend the source, then: stoa deploy".to_owned(),
            Self::Volume { .. } => "see the pool: stoa doctor".to_owned(),
            Self::Full(_) => {
                "free room on the data directory's disk, then try again; see: stoa doctor".to_owned()
            }
            Self::Host { .. } => "check the host: stoa doctor".to_owned(),
            Self::Unsupported(_) => "see what this engine can do: stoa api GET /v1/server".to_owned(),
        }
    }
}
