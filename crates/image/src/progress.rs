//! What long work says while it goes on.
//!
//! Lives here: the one event type.
//! Does not live here: how it is shown (`cli`).
//! Invariant: progress is for people; nothing decides by it.

/// Something that happened in long work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step began.
    Step(String),
    /// Bytes of something that moved so far.
    Bytes {
        /// What moves, such as a short digest.
        what: String,
        /// Moved so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A line a program printed.
    Line(String),
}
