//! Log lines in the engine's words.

use model::{InstanceId, Timestamp};

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Ours: a gap, a start, an end.
    Platform,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When it was read from the program.
    pub at: Timestamp,
    /// Grows within one instance; with `at` and the instance it orders lines.
    pub sequence: u64,
    /// The log it belongs to, for example `app_.../web`.
    pub key: String,
    /// Which instance wrote it.
    pub instance: InstanceId,
    /// Its label, for example `v3`.
    pub label: String,
    /// Which output.
    pub stream: Stream,
    /// The text, without the line end, lossily UTF-8.
    pub text: String,
}

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Logs whose key is this or lies below it (`app_...` covers `app_.../web`).
    pub key: String,
    /// Only of this instance.
    pub instance: Option<InstanceId>,
    /// Only with this label.
    pub label: Option<String>,
    /// Only lines strictly after this position.
    pub after: Option<(Timestamp, InstanceId, u64)>,
    /// Only lines at or after this moment.
    pub since: Option<Timestamp>,
    /// Only lines that contain this text.
    pub contains: Option<String>,
    /// At most that many: the newest ones, or with `after` the oldest ones.
    pub limit: usize,
}
