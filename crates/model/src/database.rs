//! Managed databases.

use serde::{Deserialize, Serialize};

use crate::backup::{Archive, Level, Restored};
use crate::id::{DatabaseId, EnvironmentId, OperationId};
use crate::name::Name;
use crate::spec::{ImageDigest, Resources};
use crate::time::Timestamp;
use crate::units::{Bytes, Millis};
use crate::valkey::DatabaseEngine;

/// One PostgreSQL cluster or one Valkey, in an instance of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Id; also names its volume.
    pub id: DatabaseId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Name, unique in the environment; services reach it as `NAME.db.internal`.
    pub name: Name,
    /// What it is.
    #[serde(default)]
    pub engine: DatabaseEngine,
    /// Major version of its engine, once known.
    pub version: Option<String>,
    /// The image it runs from, once known.
    pub image: Option<ImageDigest>,
    /// Budget of its volume.
    pub size: Bytes,
    /// Limits of its instance.
    pub resources: Resources,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Login roles that may be in use: the last is handed out, earlier ones end when nobody uses them.
    pub credentials: Vec<Credential>,
    /// Where it stands.
    pub state: DatabaseState,
    /// Why it may only be read: there is no room for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<StorageFull>,
    /// What it is a branch of; `None` when it began empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Whose backup it was restored from; `None` when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// Its server does not run while this operation is under way; `None` when none keeps it from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<OperationId>,
    /// What its server ran from before a restart that is to have it run from another image; `None` once one of them answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarting: Option<Restarting>,
    /// It took the place of another one; `None` when it did not, or is in the place of none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promoted>,
    /// Another one took its place; it is kept until `expires_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
    /// How much of what it acknowledged may be missing after a restore. Of a branch it says nothing.
    #[serde(default)]
    pub level: Level,
    /// Whether its address leads to a pooler, once that is there.
    #[serde(default)]
    pub pooled: bool,
    /// What its pooler needs, once its server knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler: Option<Pooler>,
    /// Why it could not be given a pooler at the last try; `None` when it could, or has no need of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpooled: Option<String>,
    /// Its backup, once it is kept. A branch has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// When it is to end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Its server stops when nobody has used it for so long, and starts when somebody comes; `None` lets it run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_stop: Option<Millis>,
    /// It sleeps, or is about to; `None` while it is awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asleep: Option<Asleep>,
}

/// The image to go back to when no server answers from the one a restart is to bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// What restarts it. Of any other one this says nothing.
    pub by: OperationId,
    /// The image before.
    pub from: ImageDigest,
}

/// That nobody used a database for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asleep {
    /// Since when nobody is let in without being waited for.
    pub since: Timestamp,
    /// When somebody was at its door last. Any other time wakes it: clocks may go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
    /// Its server is not wanted any more. Before that it is seen once more that nobody is inside.
    pub is_stopped: bool,
}

/// Where the data of a branch came from. It is a copy: what becomes of the other one later changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// From which.
    pub of: DatabaseId,
    /// Its name at that time.
    pub name: Name,
    /// What was committed there by then is in it; `None` until it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Place in its write-ahead log up to which it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// What is copied.
    #[serde(default)]
    pub source: BranchSource,
    /// What is made of the copy before anybody can sign in.
    #[serde(default)]
    pub shape: Shape,
}

/// What a branch is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum BranchSource {
    /// The other one as it runs: what it has now.
    #[default]
    Live,
    /// The cluster that its last passed drill left: what it had then.
    Drilled,
    /// Its backup: what it had at a time.
    Backup {
        /// When.
        at: Timestamp,
    },
}

/// What is made of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shape {
    /// Its tables have no rows.
    #[serde(default)]
    pub is_schema_only: bool,
    /// A script of SQL that is run as the owner of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The major version of PostgreSQL it is upgraded to; `None` leaves it at that of the other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Shape {
    /// Whether the data of the copy stays as it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.is_schema_only && self.mask.is_none()
    }
}

/// That a database took the place of another one: its name, and with it those who use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// What it was called before.
    pub was: Name,
    /// In whose place it is.
    pub instead_of: DatabaseId,
    /// Since when.
    pub at: Timestamp,
}

/// That another database took the place of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// What it was called before.
    pub was: Name,
    /// Who is in its place.
    pub by: DatabaseId,
    /// Since when.
    pub at: Timestamp,
    /// Until when the other one has what was committed here; `None` where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_until: Option<Timestamp>,
}

/// A login role over the owner role. The password is sealed in the store under `db:ID`, name, version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Number, from 1; the role is `app_N`.
    pub version: u64,
    /// Sealed password.
    pub sealed: Vec<u8>,
    /// Since when it is handed out.
    pub since: Timestamp,
}

/// What runs between a database and its clients, and how that looks up who may sign in. The password of its own login is
/// sealed in the store under `db:ID`, name, number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pooler {
    /// The image it runs from.
    pub image: ImageDigest,
    /// Which PgBouncer is in that, for example `1.24.1`.
    pub version: String,
    /// Number of the password, from 1.
    pub number: u64,
    /// Sealed password.
    pub sealed: Vec<u8>,
}

/// Why a database may only be read until there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageFull {
    /// Its volume holds what it may hold.
    Budget,
    /// The pool has hardly anything left for anybody.
    Pool,
}

/// Where a database stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DatabaseState {
    /// Asked for.
    Creating,
    /// Wanted and, but for crashes, answering.
    Active,
    /// It could not be made.
    Failed {
        /// Why.
        why: String,
    },
    /// Ended; its volume is kept until then.
    Destroyed {
        /// When the volume goes.
        purge_at: Timestamp,
        /// Name of the kept volume.
        volume: String,
    },
}
