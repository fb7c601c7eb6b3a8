//! The target elsewhere that backups are also written to.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::databases::{BackupGap, DatabaseBase, RestoreTarget, RestoreWindow};
use crate::page::pages;

/// Where backups of all databases are also written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupTarget {
    /// Where.
    pub place: BackupPlace,
    /// The identity under which this server writes there. Others' objects are never touched.
    pub backup_server: String,
    /// Public name of the key that everything there is sealed with.
    pub key_fingerprint: String,
    /// When somebody proved to have the key elsewhere. Absent: it may be lost with this machine, and the backup with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub key_escrowed_at: Option<Timestamp>,
    /// It is on the disk that the data is on, and lost with it.
    pub same_disk: bool,
    /// Since when it is written to.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Where a backup target is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupPlace {
    /// A directory of the host: another disk, a share.
    #[schema(title = "DirectoryPlace")]
    Directory {
        /// Its path from the root. It must be there.
        #[schema(pattern = "^/", max_length = 4096)]
        path: String,
    },
    /// A bucket of a server that speaks S3.
    #[schema(title = "BucketPlace")]
    S3 {
        /// Its address, for example `https://s3.example.org`.
        #[schema(max_length = 1024)]
        endpoint: String,
        /// The bucket. It must be there.
        #[schema(max_length = 255)]
        bucket: String,
        /// Its region, for example `us-east-1`.
        #[schema(max_length = 64)]
        region: String,
        /// Under which everything lies; may be empty.
        #[serde(default)]
        #[schema(max_length = 512)]
        prefix: String,
        /// Public name of the secret key.
        #[schema(max_length = 256)]
        access_key: String,
    },
}

/// Write backups to a target from now on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutBackupTarget {
    /// Where.
    pub place: BackupPlace,
    /// The secret key of a bucket. It is sealed before it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub secret_key: Option<String>,
    /// The backup key of what is there already: to restore from it on another server. Without it, the server's own goes on,
    /// or one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub backup_key: Option<String>,
}

/// A target that is written to from now on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetBackupTarget {
    /// The target.
    pub target: BackupTarget,
    /// The key, when it was made now. It is never shown again; who loses it and this machine loses the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_key: Option<String>,
}

/// Show that the backup key is kept elsewhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckBackupKey {
    /// The key, as it was shown.
    #[schema(max_length = 256)]
    pub backup_key: String,
}

/// A database whose backup is on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetDatabase {
    /// The server that wrote it.
    pub backup_server: String,
    /// That is this one.
    pub own: bool,
    /// Its id there.
    pub id: String,
    /// Its name there.
    pub name: String,
    /// Org, project and environment it was in.
    pub was_in: String,
    /// When something was put there last.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
    /// What it can be restored to, oldest first.
    pub windows: Vec<RestoreWindow>,
    /// Copies a restore begins from, oldest first.
    pub bases: Vec<DatabaseBase>,
    /// What is missing of its log, oldest first.
    pub gaps: Vec<BackupGap>,
    /// What it holds there.
    pub bytes: u64,
    /// What is not there as its catalogue says, by object.
    pub problems: Vec<String>,
}

/// How far the backup of a database is on the target elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseElsewhere {
    /// The target.
    pub place: String,
    /// Whether somebody proved to have the key elsewhere.
    pub key_escrowed: bool,
    /// Everything that was committed by then is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// When something was put there last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub uploaded_at: Option<Timestamp>,
    /// The newest base that is there as a whole; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub base_at: Option<Timestamp>,
    /// Bytes of closed log that are not there yet.
    pub waiting_bytes: u64,
    /// Since when something is not there that should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub waiting_since: Option<Timestamp>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_error: Option<String>,
    /// It has not been up to date for two minutes.
    pub stale: bool,
    /// Whether a drill proved what is there not long ago; absent for what has nothing to prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<crate::DatabaseProtection>,
}

/// Make a database with what one had whose backup is on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreFromTarget {
    /// Its name or id there.
    #[schema(max_length = 64)]
    pub database: String,
    /// The server that wrote it; without it, whichever has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 32)]
    pub backup_server: Option<String>,
    /// Name of the new database.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
    /// As of when.
    pub to: RestoreTarget,
}

pages! {
    TargetDatabasePage of TargetDatabase, "databases on the target";
}
