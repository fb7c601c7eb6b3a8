//! How far the backup of each database is on the target elsewhere, as this process saw it last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use model::{Bytes, DatabaseId, Millis, Timestamp};

use super::holds::Holds;
use crate::Control;

/// With an upload every half minute, what is not there after that time shows that something is wrong.
const STALE_AFTER: Millis = Millis::seconds(120);

/// How far one database is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Everything that was committed by then is there.
    pub until: Option<Timestamp>,
    /// When something was put there last.
    pub uploaded_at: Option<Timestamp>,
    /// The newest base that is there as a whole: when it was taken, and its number.
    pub base: Option<(Timestamp, u64)>,
    /// Bytes of closed log that are not there yet.
    pub waiting: Bytes,
    /// Since when something is not there that should be.
    pub waiting_since: Option<Timestamp>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// When it was last seen that all that should be there is.
    seen_well: Option<Instant>,
}

impl Progress {
    /// Notes that everything is there.
    pub(crate) fn is_well(&mut self) {
        self.seen_well = Some(Instant::now());
        self.error = None;
    }
}

/// What is known of all of them, since this process began.
#[derive(Debug)]
pub struct Uploads {
    begun: Instant,
    all: Mutex<BTreeMap<DatabaseId, Progress>>,
    /// Those whose log somebody waits for.
    awaited: Mutex<BTreeSet<DatabaseId>>,
    /// Who reads what is there.
    pub(crate) holds: Holds,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            all: Mutex::default(),
            awaited: Mutex::default(),
            holds: Holds::default(),
        }
    }
}

impl Uploads {
    pub(crate) fn note(&self, id: DatabaseId, change: impl FnOnce(&mut Progress)) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(id).or_default());
    }

    pub(crate) fn keep(&self, is_kept: impl Fn(DatabaseId) -> bool) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| is_kept(*id));
    }

    /// How far one is, and whether that is too far behind.
    pub(crate) fn of(&self, id: DatabaseId) -> (Progress, bool) {
        let found = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.get(&id).cloned().unwrap_or_default();
        let well = found.seen_well.unwrap_or(self.begun);
        let is_stale = well.elapsed() > STALE_AFTER.as_duration();
        (found, is_stale)
    }

    /// Asks for what is received now to be put there at the next look, and not each half minute only.
    pub(crate) fn hurry(&self, id: DatabaseId) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.insert(id);
    }

    /// Whether somebody asked for that since it was asked last.
    pub(crate) fn take_hurry(&self, id: DatabaseId) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.remove(&id)
    }

    fn ids(&self) -> Vec<DatabaseId> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().copied().collect()
    }
}

/// How far each database is that was looked at, and whether that is too far behind. Who may see it is the door's to ask.
#[must_use]
pub fn progress(control: &Control) -> Vec<(DatabaseId, Progress, bool)> {
    let all = control.uploads.ids().into_iter();
    all.map(|id| {
        let (progress, is_stale) = control.uploads.of(id);
        (id, progress, is_stale)
    })
    .collect()
}
