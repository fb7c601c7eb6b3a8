//! Whether what changes can be written down: the disk of the data directory may become one that can only be read.
//!
//! Invariant: the last write tells, whoever it was for; what only runs goes on meanwhile.

use std::sync::{Mutex, PoisonError};

use model::Timestamp;
use store::StoreError;

use crate::{Control, ControlError};

/// What the last writes of this process came to.
#[derive(Default)]
pub(crate) struct Disk(Mutex<Option<Trouble>>);

/// That nothing can be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// Why, as the last write said.
    pub why: String,
}

impl Disk {
    /// Learns from a write. What its own work refused says nothing.
    pub(crate) fn learn<T>(&self, written: &Result<T, ControlError>) {
        let why = match written {
            Ok(_) => None,
            Err(ControlError::Store(cause @ (StoreError::Full { .. } | StoreError::Io { .. }))) => {
                Some(cause.to_string())
            }
            Err(_) => return,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = why.map(|why| Trouble {
            since: known
                .as_ref()
                .map_or_else(Timestamp::now, |trouble| trouble.since),
            why,
        });
    }
}

/// Whether and since when nothing can be written down.
#[must_use]
pub fn trouble(control: &Control) -> Option<Trouble> {
    let known = control.disk.0.lock();
    known.unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_tells() {
        let disk = Disk::default();
        let known = || disk.0.lock().expect("not poisoned").clone();
        let full = || {
            Err::<(), _>(ControlError::Store(StoreError::Full {
                doing: "committing".to_owned(),
            }))
        };
        disk.learn(&full());
        let first = known().expect("trouble");
        assert!(first.why.contains("full"), "{first:?}");
        disk.learn(&full());
        assert_eq!(known().map(|trouble| trouble.since), Some(first.since));
        disk.learn(&Err::<(), _>(ControlError::SignIn));
        assert!(known().is_some(), "a refusal says nothing");
        disk.learn(&Ok(()));
        assert_eq!(known(), None);
    }
}
