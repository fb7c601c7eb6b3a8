//! What becomes of a call that changes something: a test may decide it, call by call.
//!
//! Invariant: whoever decides is told enough to decide the same in another run: instances have random ids, but their
//! ranges of user ids are counted by the store.

use std::sync::Arc;

use model::{InstanceId, Millis};

/// A call of one instance that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What is to be done.
    pub verb: Verb,
    /// To which instance.
    pub id: InstanceId,
    /// Its range of user ids; none when it was never started.
    pub uid_range: Option<u32>,
    /// How many calls of this verb it had before.
    pub before: u32,
}

/// What is to be done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// See that it runs.
    Start,
    /// Ask it to end.
    Stop,
    /// Remove what it had.
    Remove,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is done.
    Happens,
    /// It is refused, and nothing is done.
    Fails,
    /// It is done, but the answer is lost.
    FailsAfterwards,
    /// It is answered, but nothing is done, or it did not last.
    IsForgotten,
    /// It is done that much later than answered.
    IsLate(Millis),
}

/// Whoever decides about calls. May be called from several threads; no lock of the engine is held.
pub type Judge = Arc<dyn Fn(&Call) -> Fate + Send + Sync>;
