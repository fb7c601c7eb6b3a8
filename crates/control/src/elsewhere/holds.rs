//! Who reads what is on the target: nothing is removed under a reader.
//!
//! Invariant: of one database either somebody reads or something is removed. Both end with the process, and what they were
//! for begins again with the next.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::DatabaseId;

/// The databases that somebody is at.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<BTreeMap<DatabaseId, Use>>);

#[derive(Debug)]
enum Use {
    /// By so many.
    Read(usize),
    Removed,
}

/// Ends when it is dropped.
pub(crate) struct Held<'a> {
    holds: &'a Holds,
    id: DatabaseId,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatabaseId, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing while something of it is removed.
    pub(crate) fn read(&self, id: DatabaseId) -> Option<Held<'_>> {
        match self.lock().entry(id).or_insert(Use::Read(0)) {
            Use::Read(readers) => *readers += 1,
            Use::Removed => return None,
        }
        Some(Held { holds: self, id })
    }

    /// Nothing while somebody reads it.
    pub(crate) fn remove(&self, id: DatabaseId) -> Option<Held<'_>> {
        match self.lock().entry(id) {
            Entry::Vacant(free) => free.insert(Use::Removed),
            Entry::Occupied(_) => return None,
        };
        Some(Held { holds: self, id })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut all = self.holds.lock();
        match all.get_mut(&self.id) {
            Some(Use::Read(readers)) if *readers > 1 => *readers -= 1,
            Some(Use::Read(_) | Use::Removed) | None => {
                all.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_under_a_reader() {
        let holds = Holds::default();
        let (one, other) = (DatabaseId::fresh(), DatabaseId::fresh());
        let (first, second) = (holds.read(one), holds.read(one));
        assert!(first.is_some() && second.is_some());
        assert!(holds.remove(one).is_none());
        assert!(holds.remove(other).is_some(), "another database's");
        drop(first);
        assert!(holds.remove(one).is_none(), "one still reads");
        drop(second);
        let removed = holds.remove(one);
        assert!(removed.is_some());
        assert!(holds.read(one).is_none() && holds.remove(one).is_none());
        drop(removed);
        assert!(holds.read(one).is_some());
    }
}
