//! What can go wrong with a target, in its own terms.

/// Why something on a target could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It does not answer, or not as it should.
    #[error("{target}: {why}")]
    Unreachable {
        /// Which target.
        target: String,
        /// What happened.
        why: String,
    },
    /// It answered that it will not.
    #[error("{target} refused to {doing}: {why}")]
    Refused {
        /// Which target.
        target: String,
        /// What was asked.
        doing: String,
        /// What it said.
        why: String,
    },
    /// An object is not there.
    #[error("the object {object} is not on the target")]
    Missing {
        /// Which.
        object: String,
    },
    /// An object is not what was put there.
    #[error("the object {object} on the target {why}")]
    Damaged {
        /// Which.
        object: String,
        /// In what way.
        why: String,
    },
    /// What was to be put could not be read here.
    #[error("{what} could not be read: {why}")]
    Source {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The machine gives no randomness.
    #[error("the machine gave no random bytes")]
    NoRandomness,
    /// An address or name that no target can have.
    #[error("{what}")]
    Unfit {
        /// What is wrong with it.
        what: String,
    },
}
