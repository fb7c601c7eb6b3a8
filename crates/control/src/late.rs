//! How much of the log of each database was not received at the last look of this process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use model::{Bytes, DatabaseId, Timestamp};

/// What was not received of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreceived {
    /// Since when; nothing when all was received.
    pub since: Option<Timestamp>,
    /// How much.
    pub bytes: Bytes,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(crate) struct Late(Mutex<BTreeMap<DatabaseId, Unreceived>>);

impl Late {
    pub(crate) fn note(&self, id: DatabaseId, since: Option<Timestamp>, bytes: Bytes) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, Unreceived { since, bytes });
    }

    pub(crate) fn keep(&self, is_kept: impl Fn(DatabaseId) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| is_kept(*id));
    }

    /// Nothing for one that was not looked at yet.
    pub(crate) fn of(&self, id: DatabaseId) -> Option<Unreceived> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).copied()
    }
}
