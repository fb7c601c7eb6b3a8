//! Drills: proof that the backup of a database brings it back.
//!
//! Lives here: what the row of a drill keeps: what was expected, what each check found, how long it took.
//! Does not live here: when one is due and what makes a database protected (`plan`), doing it (`databases`, `control`).

use serde::{Deserialize, Serialize};

use crate::backup::{Lsn, Reached};
use crate::id::{DatabaseId, DrillId, OperationId};
use crate::time::Timestamp;
use crate::units::{Bytes, Millis};

/// One restore of a backup into a throw-away instance, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// Id.
    pub id: DrillId,
    /// Whose backup.
    pub database: DatabaseId,
    /// The operation that does it.
    pub operation: OperationId,
    /// Which copy of it.
    #[serde(default)]
    pub copy: DrilledCopy,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// What the backup must hold; nothing until the server was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// Number of the base it began from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Where the replay got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// From the beginning of the restore to the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<Millis>,
    /// What the restored cluster holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Tables that were read.
    #[serde(default)]
    pub tables: u64,
    /// Rows in them.
    #[serde(default)]
    pub rows: u64,
    /// What was looked at, in order.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// Where it stands.
    pub state: DrillState,
}

/// Which copy of a backup a drill proves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "copy", rename_all = "snake_case")]
pub enum DrilledCopy {
    /// The bases and the log on this server.
    #[default]
    Local,
    /// What is on the target elsewhere.
    Target {
        /// Where that is.
        place: String,
        /// The identity under which this server writes there.
        server: String,
    },
}

/// What the backup must hold, as the server said when the drill began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// When it was asked.
    pub at: Timestamp,
    /// Everything before that place in its log.
    pub lsn: Lsn,
    /// Number of the newest canary; nothing when the server did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<u64>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub kind: CheckKind,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found, in a sentence.
    pub said: String,
    /// How long it took.
    pub took: Millis,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is as it must be.
    Passed,
    /// It is not.
    Failed,
    /// It could not be looked at, for a reason that tells nothing about the backup.
    LeftOut,
}

/// What a drill looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// What the catalogue on the target names is there, opens with the key, and is what was put there.
    Objects,
    /// The archived log goes on from a base up to what was expected, without a hole.
    Log,
    /// The files of the base are those it was taken with.
    Manifest,
    /// A server recovers from it and answers.
    Start,
    /// The replay got to the place that was expected.
    Place,
    /// The row that was written last before the drill is there.
    Canary,
    /// Tables and indexes fit together (`pg_amcheck --heapallindexed`).
    Amcheck,
    /// Every row of every table can be read.
    Read,
    /// Each table has about as many rows as the server has.
    Rows,
}

impl CheckKind {
    /// Its name for people and programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Log => "log",
            Self::Manifest => "manifest",
            Self::Start => "start",
            Self::Place => "place",
            Self::Canary => "canary",
            Self::Amcheck => "amcheck",
            Self::Read => "read",
            Self::Rows => "rows",
        }
    }
}

/// Where a drill stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DrillState {
    /// Under way.
    Running,
    /// The backup brings the database back.
    Passed {
        /// When.
        at: Timestamp,
    },
    /// It does not.
    Failed {
        /// When that was clear.
        at: Timestamp,
    },
    /// It was given up or could not be done: that tells nothing about the backup.
    Undone {
        /// When.
        at: Timestamp,
        /// Why.
        why: String,
    },
}

impl Drill {
    /// What failed first.
    #[must_use]
    pub fn failed_check(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.outcome == Outcome::Failed)
    }
}
