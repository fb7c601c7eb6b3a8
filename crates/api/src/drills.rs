//! Drills of backups.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// Whether the backup of a database was proven not long ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseProtection {
    /// `protected` or `unprotected`.
    pub state: String,
    /// Why it is unprotected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When the drill that protects it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub drilled_at: Option<Timestamp>,
}

/// A copy of a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupCopy {
    /// The bases and the log on this server.
    #[default]
    Local,
    /// What is on the target elsewhere.
    Target,
}

/// Which backup to prove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDrill {
    /// Which copy of it.
    #[serde(default)]
    pub copy: BackupCopy,
}

/// One restore of a backup into a throw-away instance without a network, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drill {
    /// Id, begins with `dri_`.
    pub id: String,
    /// Which copy it proves.
    #[serde(default)]
    pub copy: BackupCopy,
    /// The target, when that is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Where it stands: `running`, `passed`, `failed`, or `undone` when it was given up or could not be done.
    pub state: String,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The check that failed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_check: Option<String>,
    /// The operation that does it.
    pub operation: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Number of the base it began from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Up to this place in the log everything must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_lsn: Option<String>,
    /// When the server said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expected_at: Option<Timestamp>,
    /// Up to this place it was replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// When the last transaction in it was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub committed_at: Option<Timestamp>,
    /// From the beginning of the restore to the first answer (recovery time).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// What the restored files hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Tables that were read.
    pub tables: u64,
    /// Rows that were read.
    pub rows: u64,
    /// What was looked at, in order.
    pub checks: Vec<DrillCheck>,
}

/// One thing that a drill looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillCheck {
    /// `objects` (of a copy elsewhere), `log`, `manifest`, `start`, `place`, `canary`, `amcheck`, `read` or `rows`.
    pub check: String,
    /// `passed`, `failed`, or `left_out` when it could not be looked at.
    pub result: String,
    /// What was found.
    pub said: String,
    /// How long it took.
    pub took_ms: u64,
}

pages! {
    DrillPage of Drill, "drills";
}
