//! What the server of a database says of itself.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the server of a database does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseActivity {
    /// Its sessions, 200 at most: those at work first, the oldest transaction before others. Not those of the platform's own
    /// receivers.
    pub sessions: Vec<DatabaseSession>,
    /// How many there are.
    pub count: u64,
    /// How many there may be: `max_connections`.
    pub max: u64,
}

/// A session of somebody at the server of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseSession {
    /// Its process there, as in `pg_stat_activity`.
    pub pid: i32,
    /// Who signed in.
    pub user: String,
    /// To which database of the server.
    pub database: String,
    /// What the program calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub application: String,
    /// From where; absent for who is inside of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `active`, `idle`, `idle in transaction` or another word of PostgreSQL.
    pub state: String,
    /// What it waits for, in words of PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// The sessions that hold what it waits for.
    pub blocked_by: Vec<i32>,
    /// For how long it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_ms: Option<u64>,
    /// For how long its transaction is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_ms: Option<u64>,
    /// What it does, or did last: on one line, 500 letters at most.
    pub query: String,
}

/// What the server of a database has spent its time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseStatements {
    /// Since when it counts.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The 50 that took most time altogether, those first.
    pub statements: Vec<DatabaseStatement>,
}

/// Statements that differ in their values only, of one user in one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseStatement {
    /// As whom it was run.
    pub user: String,
    /// In which database of the server.
    pub database: String,
    /// How often.
    pub calls: u64,
    /// How long all of them took, in microseconds.
    pub total_us: u64,
    /// How long one takes, in microseconds.
    pub mean_us: u64,
    /// How long the slowest one took, in microseconds.
    pub max_us: u64,
    /// How many rows all of them gave or changed.
    pub rows: u64,
    /// Blocks of 8 kB that the server had in its memory.
    pub blocks_hit: u64,
    /// Blocks that it had to read.
    pub blocks_read: u64,
    /// The statement, `$1` for a value: on one line, 500 letters at most.
    pub query: String,
}

/// How the server of a database is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseSettings {
    /// What is not PostgreSQL's default, by name: those of the server, then those of sessions.
    pub settings: Vec<DatabaseSetting>,
}

/// A setting that is not PostgreSQL's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseSetting {
    /// Its name.
    pub name: String,
    /// Its value as `SHOW` tells it, with the unit; 1000 letters at most.
    pub value: String,
    /// PostgreSQL's default, in the same form; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Where it comes from.
    pub source: DatabaseSettingSource,
    /// Another value is in a file already, and counts from the next start on.
    pub pending_restart: bool,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DatabaseSettingSource {
    /// The platform: from the memory limit.
    Memory {},
    /// The platform: from the budget of the volume.
    Size {},
    /// The platform.
    Platform {},
    /// A file of the server: `ALTER SYSTEM` writes `postgresql.auto.conf`.
    File {
        /// Its name.
        file: String,
    },
    /// For sessions alone: `ALTER ROLE` or `ALTER DATABASE`. It is stronger than those of the server.
    Sessions {
        /// In which database; absent for any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<String>,
        /// Of which role; absent for any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
    },
}
