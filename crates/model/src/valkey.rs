//! Managed Valkey: what is asked of one, and what the row of such a database keeps beside what every database has.
//!
//! Lives here: the engines of databases, the plans, and the log that a Valkey can be restored from.
//! Does not live here: what can be restored and what may go (`plan`), how it is done (`databases`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::units::Bytes;

/// What a Valkey does about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValkeyPlan {
    /// Nothing is on disk: a restart begins empty, and what was not used for long makes room for what is new.
    Cache,
    /// Everything is logged to disk, at most a second late, and can be restored to a second; what finds no room is refused.
    #[default]
    Durable,
}

impl ValkeyPlan {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Durable => "durable",
        }
    }
}

impl fmt::Display for ValkeyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a plan is `cache` (nothing on disk) or `durable` (logged to disk)")]
pub struct ValkeyPlanError;

impl FromStr for ValkeyPlan {
    type Err = ValkeyPlanError;

    fn from_str(text: &str) -> Result<Self, ValkeyPlanError> {
        match text {
            "cache" => Ok(Self::Cache),
            "durable" => Ok(Self::Durable),
            _other => Err(ValkeyPlanError),
        }
    }
}

/// What a new database is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineWish {
    /// PostgreSQL.
    #[default]
    Postgres,
    /// Valkey.
    Valkey(ValkeyPlan),
}

impl EngineWish {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Valkey(_) => "valkey",
        }
    }
}

/// What a database is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum DatabaseEngine {
    /// PostgreSQL.
    #[default]
    Postgres,
    /// Valkey.
    Valkey(Valkey),
}

impl DatabaseEngine {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Valkey(_) => "valkey",
        }
    }

    /// The same for a copy: without what only the former one has.
    #[must_use]
    pub fn anew(&self) -> Self {
        match self {
            Self::Postgres => Self::Postgres,
            Self::Valkey(valkey) => Self::Valkey(Valkey::new(valkey.plan)),
        }
    }

    /// What only a Valkey has; nothing of a PostgreSQL.
    #[must_use]
    pub fn valkey(&self) -> Option<&Valkey> {
        match self {
            Self::Postgres => None,
            Self::Valkey(valkey) => Some(valkey),
        }
    }

    /// The same, to be changed.
    pub fn valkey_mut(&mut self) -> Option<&mut Valkey> {
        match self {
            Self::Postgres => None,
            Self::Valkey(valkey) => Some(valkey),
        }
    }
}

/// What only a Valkey has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Valkey {
    /// What it does about its data.
    pub plan: ValkeyPlan,
    /// The password of the platform's own user, sealed in the store under `db:ID`; empty before it has one.
    #[serde(default)]
    pub admin: Vec<u8>,
    /// It can be restored from the log in its volume to any moment since; `None` before it has one, and where it keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Logs that were rewritten since, oldest first: each goes on where the one before ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptLog>,
}

impl Valkey {
    /// One of this plan that is still to be made.
    #[must_use]
    pub fn new(plan: ValkeyPlan) -> Self {
        Self {
            plan,
            ..Self::default()
        }
    }
}

/// The log of a Valkey as it was before it was rewritten, in a volume of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLog {
    /// The number of its base: its own in the database.
    pub number: u64,
    /// The earliest moment it can be replayed to.
    pub from: Timestamp,
    /// The last one.
    pub until: Timestamp,
    /// What the files of it hold.
    pub bytes: Bytes,
}
