//! Managed databases.

use std::collections::BTreeMap;

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// One PostgreSQL cluster or one Valkey, in an instance of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Database {
    /// Id, begins with `db_`.
    pub id: String,
    /// Name, unique in its environment.
    pub name: String,
    /// Where it stands: `creating`, `active`, `failed` or `destroyed`.
    pub state: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it answers now.
    pub ready: bool,
    /// The operation that keeps its server from running; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<String>,
    /// Host name on the environment's network.
    pub host: String,
    /// What it is.
    #[serde(default)]
    pub engine: EngineKind,
    /// What a Valkey does about its data; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<ValkeyPlan>,
    /// Major version of its engine, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Budget of its volume.
    pub size_bytes: u64,
    /// What its volume holds now; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Why it may only be read, when there is no room for more: `budget` (its own) or `pool` (everybody's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_full: Option<String>,
    /// Memory limit of its instance.
    pub memory_bytes: u64,
    /// Number of the login role handed out now.
    pub credential_version: u64,
    /// Apps whose serving release uses it.
    pub used_by: Vec<String>,
    /// What it is a branch of; absent when it began empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_of: Option<DatabaseOrigin>,
    /// Names of the databases that were branched from it. They are copies: they stay when it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<String>,
    /// Whose backup it was restored from; absent when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<DatabaseRestored>,
    /// That it took the place of another one; absent when it did not, or is in the place of none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<DatabasePromoted>,
    /// That another one took its place; it is kept until `expires_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<DatabaseReplaced>,
    /// Whether its backup was proven by a drill; absent for a branch and a Valkey, which have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<crate::DatabaseProtection>,
    /// The same of its copy on the target elsewhere; absent without a target, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_protection: Option<crate::DatabaseProtection>,
    /// How much of what it acknowledged may be missing after a restore; absent for a branch and a Valkey, which have no backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_level: Option<DatabaseBackupLevel>,
    /// The pooler that its address leads to; absent when it is to have none and has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler: Option<DatabasePooler>,
    /// What was committed after that moment may be missing in the backup: it should have been received and was not. Absent
    /// while its log is received in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub backup_behind_since: Option<Timestamp>,
    /// Whether what it acknowledged survives a power cut. Branches give that up for speed; of a Valkey with the plan `durable` the
    /// last second may be missing.
    #[serde(default)]
    pub durable: bool,
    /// When it ends by itself, unless a serving release uses it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Its server stops when nobody has used it for so many seconds, and starts when somebody connects; absent when it runs
    /// all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_stop_s: Option<u64>,
    /// Since when its server does not run because nobody uses it: who connects waits for it, a fraction of a second as a
    /// rule. Absent while it is awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub asleep_since: Option<Timestamp>,
    /// Counts every change of its desired state; the value of the `ETag` header.
    pub generation: u64,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the kept volume of a destroyed database is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub purge_at: Option<Timestamp>,
    /// Name of the kept volume of a destroyed database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

/// What a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// PostgreSQL.
    #[default]
    Postgres,
    /// Valkey, which speaks the protocol of Redis.
    Valkey,
}

/// What a Valkey does about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValkeyPlan {
    /// Nothing is on disk: a restart begins empty, and what was not used for long makes room for what is new.
    Cache,
    /// Everything is logged to disk, at most a second late, and can be restored to a second; what finds no room is refused.
    Durable,
}

/// How much of what a database acknowledged may be missing when all of it is lost but its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupLevel {
    /// What was not received yet, a fraction of a second as a rule: commits wait for nobody.
    Stream,
    /// Nothing: a commit waits until it is received.
    Sync,
}

/// The level of a database's backup: what is asked for, and what is true now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseBackupLevel {
    /// What is asked for.
    pub level: BackupLevel,
    /// What is true now. `stream` where `sync` is asked for: commits do not wait (yet, or any more), and may be lost.
    pub effective: BackupLevel,
    /// Since when; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Why it is another one than is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What shares few sessions of a database among many clients. Its address leads to the server itself while it is not `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabasePooler {
    /// Where it stands: `preparing`, `starting`, `ready`, `failed` (it is tried again) or `ending`.
    pub state: String,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Host name on the environment's network.
    pub host: String,
    /// Version of PgBouncer, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How many sessions of the server its clients share.
    pub sessions: u32,
}

/// Change a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateDatabase {
    /// Level of its backup; without it, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_level: Option<BackupLevel>,
    /// Whether its address leads to a pooler; without it, as it is. Services get another address with their next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled: Option<bool>,
}

/// Where the data of a branch came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseOrigin {
    /// Name of the other one at that time.
    pub database: String,
    /// What was committed there by then is in it; absent until the copy is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Place in the other one's write-ahead log up to which it was taken, for example `0/3000060`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// What it is a copy of.
    pub from: BranchSource,
    /// A script changed its data before anybody could sign in.
    pub masked: bool,
    /// It came without rows.
    pub schema_only: bool,
    /// The major version of PostgreSQL it was upgraded to; absent when it has that of the other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Where the data of a restored database came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseRestored {
    /// Name of the other one at that time.
    pub database: String,
    /// The server that wrote its backup to the target elsewhere; absent when it was one of this server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_server: Option<String>,
    /// What was asked for: a time, a place in the log, or `the latest`.
    pub target: String,
    /// The major version that the other one has, when this one is its upgrade; absent when it is a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded_from: Option<String>,
    /// When the last transaction in it was committed; absent while it is under way, or when there was none after the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Place in the other one's write-ahead log up to which it was replayed; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
}

/// That a database took the place of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabasePromoted {
    /// What it was called before.
    pub was: String,
    /// Id of the one in whose place it is.
    pub instead_of: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// That another database took the place of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseReplaced {
    /// What it was called before.
    pub was: String,
    /// Id of the one that is in its place.
    pub by: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Until when the other one has what was committed here; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub data_until: Option<Timestamp>,
}

/// The backup of a database: on this server, and how far it is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseBackups {
    /// Whether its write-ahead log is received as it is written.
    pub receiving: bool,
    /// What it can be restored to, oldest first. More than one when something is missing in between.
    pub windows: Vec<RestoreWindow>,
    /// Copies a restore begins from, oldest first.
    pub bases: Vec<DatabaseBase>,
    /// What is missing of its log, oldest first.
    pub gaps: Vec<BackupGap>,
    /// What the archived log holds.
    pub wal_bytes: u64,
    /// What was written to the log and not received at the last look; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreceived_bytes: Option<u64>,
    /// Since when something that was written is not received; absent when all was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub unreceived_since: Option<Timestamp>,
    /// How far back is kept, as long as there is room for it.
    pub keep_s: u64,
    /// As of when the cluster is that its last passed drill left, for branches `from` `drilled`; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub drilled_at: Option<Timestamp>,
    /// How far it is on the target elsewhere; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<crate::DatabaseElsewhere>,
    /// What of a Valkey can be restored: its log, on this server only; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valkey: Option<ValkeyBackups>,
}

/// The log of a Valkey, on this server: there is no copy of it elsewhere, and no drill proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ValkeyBackups {
    /// The earliest moment it can be restored to, by the whole second; absent before it has a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Logs that were rewritten since and are kept as they were, oldest first.
    pub kept: Vec<ValkeyLog>,
}

/// A log of a Valkey as it was before it was rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ValkeyLog {
    /// Its number.
    pub number: u64,
    /// The earliest moment it reaches.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// The last one.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// What it holds.
    pub bytes: u64,
}

/// A span of time, and of the write-ahead log, that can be restored to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreWindow {
    /// From this moment.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Until that one.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// From this place in the log.
    pub from_lsn: String,
    /// Until that one.
    pub until_lsn: String,
}

/// A copy of a database to begin a restore from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseBase {
    /// Its number.
    pub number: u64,
    /// The earliest moment it can be brought to.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The earliest place in the log it can be brought to.
    pub lsn: String,
    /// Whether the log that goes on from it is there.
    pub usable: bool,
}

/// Something missing of the write-ahead log: what was committed in there cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupGap {
    /// The last segment before it.
    pub after: String,
    /// The first segment after it.
    pub before: String,
    /// Nothing that was committed by then is missing.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Make a database with what another one had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRestore {
    /// Name of the new database, for example `main-before`.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
    /// As of when.
    pub to: RestoreTarget,
}

/// What a restore aims at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RestoreTarget {
    /// Everything there is.
    #[schema(title = "LatestTarget")]
    Latest {},
    /// Everything that was committed by then.
    #[schema(title = "TimeTarget")]
    Time {
        /// When.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
    },
    /// Everything that lies before a place in the write-ahead log.
    #[schema(title = "PlaceTarget")]
    Place {
        /// Where, for example `0/3000060`.
        #[schema(pattern = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$", max_length = 17)]
        lsn: String,
    },
}

/// Put a restored database in the place of the one it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteDatabase {
    /// Name or id of the restored one, for example `main-before`.
    #[schema(max_length = 80)]
    pub name: String,
    /// For how many seconds the other one is kept; without it, seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 31_536_000)]
    pub keep_s: Option<u64>,
}

/// Make a branch of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBranch {
    /// Name of the branch, for example `preview-x`.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
    /// After how many seconds it ends by itself; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 31_536_000)]
    pub ttl_s: Option<u64>,
    /// After how many seconds without anybody its server stops, until somebody connects; 0 lets it run all the time; without
    /// it, five minutes. A Valkey always runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub idle_stop_s: Option<u64>,
    /// What it is a copy of; without it, the database as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<BranchSource>,
    /// SQL that is run on the copy before anybody can sign in to it, as the owner of its data and as one transaction. What it
    /// changed is also gone from older versions of rows, from the statistics and from the log of the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 65_536)]
    pub mask: Option<String>,
    /// Its tables, sequences and large objects are empty.
    #[serde(default)]
    pub schema_only: bool,
    /// A later major version of PostgreSQL that the copy is upgraded to: the rehearsal of an upgrade, to try things out on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,3}$")]
    pub version: Option<String>,
}

/// Put the database at a later major version of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeDatabase {
    /// Which version.
    #[schema(pattern = "^[0-9]{1,3}$")]
    pub version: String,
    /// For how many seconds the one at the former version is kept; without it, seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 31_536_000)]
    pub keep_s: Option<u64>,
    /// For how many seconds the database may not answer; when the rehearsal says that it would take longer, nothing is changed.
    /// Without it, a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub max_pause_s: Option<u64>,
}

/// A major version of PostgreSQL that databases can have here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseEngine {
    /// Which, for example `15`.
    pub version: String,
    /// Digest of the image `postgres:VERSION` with it; absent when it is made of Debian's packages as soon as a database wants
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What a database gets that asks for none.
    pub default: bool,
}

/// What a branch is a copy of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BranchSource {
    /// The database as it runs: what it has now.
    #[schema(title = "LiveSource")]
    Live {},
    /// The cluster that its last passed drill left: what it had then. The database is not touched.
    #[schema(title = "DrilledSource")]
    Drilled {},
    /// Its backup: what it had at a time. The database is not touched.
    #[schema(title = "BackupSource")]
    Backup {
        /// When.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
    },
}

/// Make a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDatabase {
    /// Its name.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
    /// What it is to be; without it, `postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// What a Valkey does about its data; without it, `durable`. A PostgreSQL has none: of one it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<ValkeyPlan>,
    /// Major version of its engine; without it, what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,3}$")]
    pub version: Option<String>,
    /// Budget of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 134_217_728, maximum = 1_099_511_627_776_u64)]
    pub size_bytes: Option<u64>,
    /// Memory limit of its instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 67_108_864, maximum = 1_099_511_627_776_u64)]
    pub memory_bytes: Option<u64>,
    /// Level of its backup; without it, `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_level: Option<BackupLevel>,
    /// Whether its address leads to a pooler; without it, it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled: Option<bool>,
}

/// Files of a database on the disk of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Name, unique on the installation.
    pub name: String,
    /// Name of the database it is or was of.
    pub database: String,
    /// Bytes that its files occupy; blocks that it shares with a branch or its parent count for both.
    pub bytes: u64,
    /// Budget of the database.
    pub size_bytes: u64,
    /// When it is removed, for the volume of a destroyed database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub purge_at: Option<Timestamp>,
}

/// How to sign in to a database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseCredentials {
    /// The variables a service that uses it gets: `DATABASE_URL`, `DATABASE_URL_DIRECT`, `PGHOST` and so on.
    pub variables: BTreeMap<String, String>,
}

pages! {
    DatabasePage of Database, "databases";
    VolumePage of Volume, "volumes";
    DatabaseEnginePage of DatabaseEngine, "versions of PostgreSQL";
}
