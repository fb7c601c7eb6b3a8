//! What can go wrong with the store, in its own terms.
//!
//! Lives here: the one error type, how SQLite's codes become it, and the next step for a person.
//! Does not live here: HTTP status (`server`), errors of the master key file and of seals (`secret`).
//! Invariant: an error that means "the disk or the file is at fault" is `is_severe`; after one the writer reopens.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;

/// A failure of the store. Cheap to clone, because one failed commit is told to every writer that shared it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The SQLite linked in loses committed data (its WAL-reset bug).
    #[error("SQLite {found} is too old to keep data safely; {least} is the oldest this program may use")]
    OldSqlite {
        /// The version linked in.
        found: String,
        /// The oldest version without the bug.
        least: &'static str,
    },
    /// Written by a newer Stoa.
    #[error("the store {path} has schema {found}; this program knows up to {known}")]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema this program knows.
        known: u32,
    },
    /// The file is a database, but not one of ours.
    #[error("{path} is a database of another program")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The master key does not belong to this store.
    #[error("the master key {key_id} does not belong to the store {path}")]
    WrongKey {
        /// The store's file.
        path: PathBuf,
        /// The founding key that was offered.
        key_id: String,
    },
    /// Another process has the store open.
    #[error("the store {path} is in use by process {pid}")]
    InUse {
        /// The store's file.
        path: PathBuf,
        /// The process that holds it, as far as it said.
        pid: String,
    },
    /// The file's structure is broken.
    #[error("the store is damaged: {doing}: {detail}")]
    Damaged {
        /// What was being done.
        doing: String,
        /// What SQLite or the checks said.
        detail: String,
    },
    /// One object is not what was written; it is never served.
    #[error("{kind} {id} is corrupt: {why}")]
    Corrupt {
        /// The kind of object, or the table for records that are not objects.
        kind: String,
        /// Which one.
        id: String,
        /// What does not fit.
        why: &'static str,
    },
    /// Intact, but of a shape this program does not know.
    #[error("{kind} {id} cannot be understood by this version")]
    Unreadable {
        /// The kind of object.
        kind: String,
        /// Which one.
        id: String,
        /// The decoding error.
        #[source]
        cause: Arc<serde_json::Error>,
    },
    /// No such object.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// The kind of object.
        kind: String,
        /// Which one.
        id: String,
    },
    /// Another object of this kind has that name under the same parent.
    #[error("there is already a {kind} named {name}")]
    NameTaken {
        /// The kind of object.
        kind: String,
        /// The parent's id, empty for roots.
        parent: String,
        /// The name asked for.
        name: String,
    },
    /// An object with this id exists.
    #[error("{kind} {id} exists already")]
    Exists {
        /// The kind of object.
        kind: String,
        /// Which one.
        id: String,
    },
    /// Someone else changed the object first.
    #[error("{kind} {id} was changed meanwhile: expected {expected}, found {found}")]
    Conflict {
        /// The kind of object.
        kind: String,
        /// Which one.
        id: String,
        /// The generation or revision the caller had read.
        expected: u64,
        /// What is there now.
        found: u64,
    },
    /// The body is larger than the store takes.
    #[error("{kind} {id} is {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// The kind of object.
        kind: String,
        /// Which one.
        id: String,
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The body could not be encoded.
    #[error("{kind} {id} could not be encoded")]
    Encode {
        /// The kind of object.
        kind: String,
        /// Which one.
        id: String,
        /// The encoding error.
        #[source]
        cause: Arc<serde_json::Error>,
    },
    /// The revisions asked for are gone.
    #[error("the changes after revision {asked} are compacted; the oldest that can be asked for is {oldest}")]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The smallest revision `changes_since` still answers.
        oldest: u64,
    },
    /// Somebody else holds the lease.
    #[error("{name} is being worked on by {by}")]
    Held {
        /// The lease.
        name: String,
        /// The holder.
        by: String,
        /// When the lease ends unless renewed (wall clock, for people).
        until_ms: u64,
    },
    /// The lease passed to somebody else, or ended.
    #[error("the lease {name} with fence {fence} is no longer held")]
    LeaseLost {
        /// The lease.
        name: String,
        /// The fence the caller had.
        fence: u64,
    },
    /// The audit chain does not verify.
    #[error("audit record {seq}: {why}")]
    AuditBroken {
        /// The first bad record.
        seq: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A secret or the master key failed.
    #[error(transparent)]
    Secret(#[from] crate::secret::SecretError),
    /// No space left: nothing was acknowledged, reads go on.
    #[error("the disk is full: {doing}")]
    Full {
        /// What was being done.
        doing: String,
    },
    /// The disk or the file system failed: nothing was acknowledged.
    #[error("the disk failed: {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        cause: IoCause,
    },
    /// All readers were busy for too long.
    #[error("the store was busy for {waited_ms} ms")]
    Busy {
        /// How long the caller waited.
        waited_ms: u64,
    },
    /// A write was begun inside a write; it would wait for itself.
    #[error("a write was begun inside a write")]
    Nested,
    /// SQLite refused in a way that has no name of its own: a defect of this program.
    #[error("the store failed: {doing}")]
    Sql {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        cause: Arc<rusqlite::Error>,
    },
}

/// What stood behind an I/O failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IoCause {
    /// Seen by SQLite.
    #[error(transparent)]
    Sqlite(Arc<rusqlite::Error>),
    /// Seen by ourselves.
    #[error(transparent)]
    System(Arc<std::io::Error>),
}

impl StoreError {
    /// What a person can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::OldSqlite { .. } => "install a build of Stoa with its bundled SQLite".into(),
            Self::NewerSchema { path, .. } => format!(
                "start the newer Stoa again, or go back to the copy it kept beside the store: ls {}.before-v*",
                path.display()
            ),
            Self::Foreign { .. } => "give Stoa a data directory of its own: stoa up --data-dir DIR".into(),
            Self::WrongKey { key_id, .. } => {
                format!("put back the master key file this store was made with (offered: key {key_id})")
            }
            Self::InUse { pid, .. } => format!("stop the other Stoa first, or look at it: ps -p {pid}"),
            Self::Damaged { .. } => {
                "restore a copy of the data directory; the damaged file is left as it is".into()
            }
            Self::Corrupt { kind, id, .. } => {
                format!("restore {kind} {id} from the revision log: end stoa up, then stoa doctor --repair")
            }
            Self::Unreadable { .. } => "use the version of Stoa that wrote it, or a newer one".into(),
            Self::NotFound { kind, .. } => format!("list what there is of kind {kind}"),
            Self::NameTaken { kind, name, .. } => {
                format!("choose another name, or use the {kind} {name} there is")
            }
            Self::Exists { kind, id } => format!("read {kind} {id} and update it instead"),
            Self::Conflict { .. } => "read it again, apply the change to what is there now, and retry".into(),
            Self::TooLarge { limit, .. } => {
                format!("keep it below {limit} bytes; large content belongs in a file")
            }
            Self::Encode { .. } | Self::Nested | Self::Sql { .. } => {
                "this is a defect of stoa: please report it with the log".into()
            }
            Self::Compacted { .. } => "list everything again and watch from the revision of that list".into(),
            Self::Held { by, .. } => format!("wait for {by} to finish, or until its lease ends"),
            Self::LeaseLost { .. } => "stop this work; whoever holds the lease now continues it".into(),
            Self::AuditBroken { seq, .. } => {
                format!("keep the file as evidence and compare record {seq} with the last backup")
            }
            Self::Secret(cause) => cause.next(),
            Self::Full { .. } => {
                "free space on the data directory's disk (df -h; stoa image rm, stoa db destroy)".into()
            }
            Self::Io { .. } => {
                "look at the kernel log for this disk: dmesg --level=err; mend its file system, then: stoa up"
                    .into()
            }
            Self::Busy { .. } => "retry; if it lasts, see what reads for so long: stoa doctor".into(),
        }
    }

    /// True when the disk or the file is at fault, so that the open transaction cannot be trusted any more.
    pub(crate) fn is_severe(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::Io { .. } | Self::Damaged { .. } | Self::Sql { .. }
        )
    }

    /// Gives an SQLite error its name.
    pub(crate) fn sql(doing: impl Into<String>, cause: rusqlite::Error) -> Self {
        let doing = doing.into();
        match cause.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { doing },
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => Self::Io {
                doing,
                cause: IoCause::Sqlite(Arc::new(cause)),
            },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged {
                doing,
                detail: cause.to_string(),
            },
            // A header whose version bytes were overwritten: SQLite has no code of its own for it.
            Some(_) if cause.to_string().contains("unsupported file format") => Self::Damaged {
                doing,
                detail: cause.to_string(),
            },
            Some(_) => Self::Sql {
                doing,
                cause: Arc::new(cause),
            },
            // Not SQLite's own code: a column held a value of a type we never write there.
            None => Self::Damaged {
                doing,
                detail: cause.to_string(),
            },
        }
    }

    /// Gives an error of the operating system its name.
    pub(crate) fn io(doing: impl Into<String>, cause: std::io::Error) -> Self {
        let doing = doing.into();
        if matches!(
            cause.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        ) {
            return Self::Full { doing };
        }
        Self::Io {
            doing,
            cause: IoCause::System(Arc::new(cause)),
        }
    }
}
