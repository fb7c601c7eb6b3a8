//! Which releases may answer when.
//!
//! Invariant: history is only added to; an exchange is judged by all that held while it was under way, so a release that
//! was allowed at any moment of it may have answered.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The sets of releases that were allowed, one after the other.
#[derive(Debug)]
pub(super) struct Eligible {
    history: Mutex<Vec<BTreeSet<String>>>,
}

/// A moment in the history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(usize);

impl Eligible {
    pub(super) fn only(release: &str) -> Self {
        Self {
            history: Mutex::new(vec![BTreeSet::from([release.to_owned()])]),
        }
    }

    /// From now on these may answer.
    pub(super) fn set(&self, change: impl FnOnce(&mut BTreeSet<String>)) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = history.last().cloned().unwrap_or_default();
        change(&mut next);
        history.push(next);
    }

    pub(super) fn now(&self) -> Moment {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        Moment(history.len().saturating_sub(1))
    }

    /// Whether a release was allowed at any time since.
    pub(super) fn allowed_since(&self, begin: Moment, release: &str) -> bool {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history
            .iter()
            .skip(begin.0)
            .any(|allowed| allowed.contains(release))
    }

    /// Those allowed now, for messages.
    pub(super) fn text(&self) -> String {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed: Vec<&str> = history.last().into_iter().flatten().map(String::as_str).collect();
        allowed.join(", ")
    }
}
