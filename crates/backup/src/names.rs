//! What objects are called.
//!
//! ```text
//! stoa-backup-1/SERVER/server                             who writes here, with which key; in the clear
//! stoa-backup-1/SERVER/DATABASE/catalogue                 what there is of a database
//!                              /wal/STRETCH/SEGMENT       a closed segment
//!                              /wal/STRETCH/SEGMENT.TIME  one as far as it was received then
//!                              /base/NUMBER/PART-MARK     a part of a base
//!                              /base/NUMBER/manifest      all of them; written last
//! ```
//! Names that PostgreSQL, people or the host chose are in no name: only ids and numbers.

use model::{DatabaseId, Segment, Timestamp};

use crate::{BackupError, KeptFile, Key, Target};

/// Under which everything lies.
pub const ROOT: &str = "stoa-backup-1/";

/// The names of one server's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    server: String,
}

impl Names {
    /// Of the server with this identity.
    #[must_use]
    pub fn of(server: &str) -> Self {
        Self {
            server: server.to_owned(),
        }
    }

    /// The beginning of all of them.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{ROOT}{}/", self.server)
    }

    /// Who writes here.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{}server", self.all())
    }

    /// The beginning of all that is of a database.
    #[must_use]
    pub fn database(&self, id: DatabaseId) -> String {
        format!("{}{id}/", self.all())
    }

    /// What there is of it.
    #[must_use]
    pub fn catalogue(&self, id: DatabaseId) -> String {
        format!("{}catalogue", self.database(id))
    }

    /// A closed segment.
    #[must_use]
    pub fn segment(&self, id: DatabaseId, stretch: u64, segment: Segment) -> String {
        format!("{}wal/{stretch:06}/{segment}", self.database(id))
    }

    /// A segment as far as it was received at a time.
    #[must_use]
    pub fn open_segment(&self, id: DatabaseId, stretch: u64, segment: Segment, at: Timestamp) -> String {
        format!("{}.{}", self.segment(id, stretch, segment), at.as_ms())
    }

    /// A segment as a catalogue names it.
    #[must_use]
    pub fn file(&self, id: DatabaseId, stretch: u64, file: &KeptFile) -> String {
        match file.open_at {
            Some(at) => self.open_segment(id, stretch, file.segment, at),
            None => self.segment(id, stretch, file.segment),
        }
    }

    /// The beginning of all that is of a base.
    #[must_use]
    pub fn base(&self, id: DatabaseId, number: u64) -> String {
        format!("{}base/{number:06}/", self.database(id))
    }

    /// A part of a base; a mark of what is in it is in its name, so that one that was put need not be put again. Who has not
    /// the key learns nothing by it.
    #[must_use]
    pub fn part(&self, id: DatabaseId, number: u64, part: u64, content: &[u8], key: &Key) -> String {
        format!("{}{part:06}-{}", self.base(id, number), key.mark(content))
    }

    /// All parts of a base.
    #[must_use]
    pub fn manifest(&self, id: DatabaseId, number: u64) -> String {
        format!("{}manifest", self.base(id, number))
    }
}

/// The identities of the servers that write to a target.
///
/// # Errors
/// When it cannot be listed.
pub fn servers(target: &Target) -> Result<Vec<String>, BackupError> {
    target.folders(ROOT)
}
