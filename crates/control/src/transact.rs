//! How use cases touch the store: a snapshot to read, one audited transaction to change.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use model::{Actor, Timestamp};
use store::{AuditEntry, Change, Op, ReadTx, Row, StoreError, Versioned, WriteTx};

use crate::planted::{self, Defect};
use crate::rehearsal;
use crate::{Control, ControlError};

/// All objects of a kind, and the ids of those that cannot be told. What is corrupt counts as the log has it last, so it
/// is its own trouble: it cannot be changed until `stoa doctor --repair`, and nothing else is held up by it.
pub(crate) fn all<R: Row>(tx: &ReadTx) -> Result<(Vec<R>, BTreeSet<String>), ControlError> {
    let (rows, lost) = match tx.list_all::<R>() {
        Ok(rows) => (rows, BTreeSet::new()),
        Err(StoreError::Corrupt { .. } | StoreError::Unreadable { .. }) => {
            let salvage = tx.salvage::<R>()?;
            for failure in &salvage.bad {
                tracing::error!(%failure, "damage in the store; end stoa up, then: stoa doctor --repair");
            }
            (salvage.rows, salvage.lost)
        }
        Err(cause) => return Err(cause.into()),
    };
    Ok((rows.into_iter().map(|found| found.row).collect(), lost))
}

/// An object as far as it can be told, and what is wrong with it.
pub(crate) type Told<R> = (Versioned<R>, Option<String>);

/// The objects under a parent, by name. What is corrupt is there as the log has it last, with what is wrong with it: a list
/// that shows nothing because of one of them helps nobody to mend it.
pub(crate) fn under<R: Row>(tx: &ReadTx, parent: &str) -> Result<Vec<Told<R>>, ControlError> {
    let salvage = match tx.list::<R>(parent) {
        Ok(rows) => return Ok(rows.into_iter().map(|row| (row, None)).collect()),
        Err(StoreError::Corrupt { .. } | StoreError::Unreadable { .. }) => tx.salvage::<R>()?,
        Err(cause) => return Err(cause.into()),
    };
    let damage: BTreeMap<&str, String> = salvage
        .bad
        .iter()
        .filter_map(|failure| match failure {
            StoreError::Corrupt { id, .. } | StoreError::Unreadable { id, .. } => {
                Some((id.as_str(), failure.to_string()))
            }
            _ => None,
        })
        .collect();
    let mut rows: Vec<_> = salvage
        .rows
        .into_iter()
        .filter(|found| found.row.parent() == parent)
        .map(|found| {
            let damage = damage.get(found.row.id().as_ref()).cloned();
            (found, damage)
        })
        .collect();
    rows.sort_by(|(one, _), (other, _)| one.row.name().cmp(&other.row.name()));
    Ok(rows)
}

/// So many of them after that name (empty: from the first), and the name to go on from when there are more. It costs what
/// the page costs, unless something of it is corrupt.
pub(crate) fn page_under<R: Row>(
    tx: &ReadTx,
    parent: &str,
    after: &str,
    limit: usize,
) -> Result<(Vec<Told<R>>, Option<String>), ControlError> {
    match tx.page::<R>(parent, after, limit) {
        Ok(page) => {
            let rows = page.rows.into_iter().map(|row| (row, None)).collect();
            return Ok((rows, page.next));
        }
        Err(StoreError::Corrupt { .. } | StoreError::Unreadable { .. }) => {}
        Err(cause) => return Err(cause.into()),
    }
    let mut rows = under::<R>(tx, parent)?;
    rows.retain(|(found, _)| *found.row.name() > *after);
    let is_last = rows.len() <= limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| !is_last);
    let next = last.map(|(found, _)| found.row.name().to_string());
    Ok((rows, next))
}

/// Brings rows up to a change of the log.
pub(crate) fn put<R: Row, I: Ord>(
    rows: &mut BTreeMap<I, R>,
    change: &Change,
    id: impl Fn(&R) -> I,
) -> Result<(), ControlError> {
    let Some(row) = change.row::<R>().transpose()? else {
        return Ok(());
    };
    match change.op {
        Op::Insert | Op::Update | Op::Status => drop(rows.insert(id(&row), row)),
        Op::Delete => drop(rows.remove(&id(&row))),
    }
    Ok(())
}

/// Nothing, when the object is corrupt.
pub(crate) fn unless_corrupt<T>(found: Result<T, ControlError>) -> Result<Option<T>, ControlError> {
    match found {
        Err(cause) if cause.is_corrupt() => Ok(None),
        other => other.map(Some),
    }
}

impl Control {
    /// Reads from one consistent snapshot.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTx) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        self.store.read(work)
    }

    /// Changes something on behalf of a reconciler. Wakes the reconcilers, but only when an object changed: a look that
    /// finds nothing to do must not be the reason for the next one.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTx) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        if rehearsal::is_on() {
            return self.rehearse(work);
        }
        let written = self.store.write(self.clock.now(), |tx| {
            let before = tx.rev()?;
            let done = work(tx)?;
            Ok::<_, ControlError>((done, tx.rev()? != before))
        });
        self.disk.learn(&written);
        let (done, is_changed) = written?;
        if is_changed {
            self.bell.ring();
        }
        Ok(done)
    }

    /// Changes something on behalf of an actor: the change and its audit record commit together.
    /// A refusal is recorded by itself.
    pub(crate) fn mutate<T>(
        &self,
        actor: &Actor,
        action: &str,
        object: &str,
        work: impl FnOnce(&WriteTx) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let result = self.write(|tx| {
            let done = work(tx)?;
            if rehearsal::is_on() {
                return Ok(done);
            }
            let record = tx.audit_begin(&entry(actor, action, object, "allowed"))?;
            tx.audit_complete(record, "committed")?;
            if let Some((actor, key)) = KEY.with_borrow(Clone::clone) {
                tx.idempotency_commit(&actor, &key)?;
            }
            Ok(done)
        });
        self.audited(actor, action, object, result)
    }

    /// Records a refusal that was found outside a transaction, and passes the result on.
    pub(crate) fn audited<T>(
        &self,
        actor: &Actor,
        action: &str,
        object: &str,
        result: Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        if let Err(refused) = &result {
            self.record_refusal(actor, action, object, refused.code());
        }
        result
    }

    /// Records a refusal by its code.
    pub(crate) fn record_refusal(&self, actor: &Actor, action: &str, object: &str, outcome: &str) {
        let recorded: Result<(), ControlError> = self.store.write(self.clock.now(), |tx| {
            let record = tx.audit_begin(&entry(actor, action, object, "refused"))?;
            tx.audit_complete(record, outcome)?;
            Ok(())
        });
        if let Err(cause) = recorded {
            tracing::error!(action, object, %cause, "a refusal could not be recorded");
        }
    }

    /// The moment of a transaction.
    #[allow(clippy::unused_self, reason = "reads as the clock of this installation")]
    pub(crate) fn now_of(&self, tx: &WriteTx) -> Timestamp {
        Timestamp::from_ms(tx.now().wall_ms)
    }
}

thread_local! {
    /// The idempotency key of the request that this thread is at.
    static KEY: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Does `work` for a request that came with an idempotency key of `actor`: the first thing it changes marks the key in
/// the same transaction, so that the effect and the knowledge of it are never apart.
pub fn with_key<T>(actor: &str, key: &str, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            KEY.set(None);
        }
    }
    KEY.set(Some((actor.to_owned(), key.to_owned())));
    let _reset = Reset;
    work()
}

/// Longest name of an object in a record: callers may send anything, and a refusal must not fill the disk.
const OBJECT_MAX: usize = 200;

fn entry(actor: &Actor, action: &str, object: &str, decision: &str) -> AuditEntry {
    AuditEntry {
        actor: actor.describe(),
        action: action.to_owned(),
        object: object.chars().take(OBJECT_MAX).collect(),
        decision: decision.to_owned(),
        detail: serde_json::Value::Null,
    }
}

/// The caller's idea of what it changes, checked.
pub(crate) trait Current: Sized {
    /// Itself, if the caller has read this generation or did not say.
    fn current(self, expected: Option<u64>) -> Result<Self, ControlError>;
}

impl<R> Current for Versioned<R> {
    fn current(self, expected: Option<u64>) -> Result<Self, ControlError> {
        match expected {
            Some(expected) if expected != self.generation && !planted::is(Defect::IgnoresGeneration) => {
                Err(ControlError::Stale {
                    expected,
                    found: self.generation,
                })
            }
            Some(_) | None => Ok(self),
        }
    }
}
