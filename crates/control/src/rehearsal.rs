//! Rehearsals: a use case runs whole, with its checks and its transaction, and then nothing of it is kept.
//!
//! Lives here: rolling back what a use case wrote, and telling what that was. Does not live here: any use case; what
//! one does outside the store asks [`is_on`] first.
//! Invariant: a rehearsal that ends well left the store as it was; a refused one is recorded as a refusal, as always.

use std::cell::RefCell;

use model::{Instance, Operation, Token};
use store::rows::SecretVersion;
use store::{Change, Op, Row as _, StoreError, WriteTx};

use crate::{Control, ControlError};

/// Something that would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Would {
    /// Kind of the thing, for example `app`.
    pub kind: String,
    /// Its id; absent for what would only then come to be.
    pub id: Option<String>,
    /// Its name; empty for what has none that may be told.
    pub name: String,
    /// What would happen to it.
    pub change: &'static str,
}

/// More than any use case writes at once: a plan tells what matters.
const TOLD: usize = 1000;

thread_local! {
    /// What the rehearsal on this thread would have changed so far.
    static NOTES: RefCell<Option<Vec<Would>>> = const { RefCell::new(None) };
}

/// Does `work` as a rehearsal: its answer, and what it would have changed.
pub fn rehearsed<T>(work: impl FnOnce() -> T) -> (T, Vec<Would>) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            NOTES.set(None);
        }
    }
    NOTES.set(Some(Vec::new()));
    let reset = Reset;
    let done = work();
    let notes = NOTES.take().unwrap_or_default();
    drop(reset);
    (done, notes)
}

/// Whether this thread only rehearses: then nothing outside the store may be touched either.
pub(crate) fn is_on() -> bool {
    NOTES.with_borrow(Option::is_some)
}

/// Notes what would happen outside the store.
pub(crate) fn note(kind: &str, name: &str, change: &'static str) {
    let would = Would {
        kind: kind.to_owned(),
        id: None,
        name: name.to_owned(),
        change,
    };
    NOTES.with_borrow_mut(|notes| notes.iter_mut().for_each(|notes| notes.push(would.clone())));
}

/// How a rehearsed transaction ends: never as one that commits.
enum End<T> {
    Done(T, Vec<Change>),
    Refused(ControlError),
}

impl<T> From<StoreError> for End<T> {
    fn from(cause: StoreError) -> Self {
        Self::Refused(cause.into())
    }
}

impl Control {
    /// Runs a transaction and gives it up.
    pub(crate) fn rehearse<T>(
        &self,
        work: impl FnOnce(&WriteTx) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let outcome: Result<std::convert::Infallible, End<T>> = self.store.write(self.clock.now(), |tx| {
            let before = tx.rev()?;
            let done = work(tx).map_err(End::Refused)?;
            Err(End::Done(done, tx.changes_since(before, TOLD)?))
        });
        match outcome {
            Ok(never) => match never {},
            Err(End::Refused(cause)) => Err(cause),
            Err(End::Done(done, changes)) => {
                let would: Vec<Would> = changes.iter().map(told).collect();
                NOTES.with_borrow_mut(|notes| {
                    notes
                        .iter_mut()
                        .for_each(|notes| notes.extend(would.iter().cloned()));
                });
                Ok(done)
            }
        }
    }
}

/// A change as the caller may know it. Names of the store are not always those of people: some are hashes.
fn told(change: &Change) -> Would {
    let name = match change.kind.as_str() {
        "org" | "project" | "environment" | "app" | "database" | "user" => change.name.clone(),
        Operation::KIND => text(change, "/work/work"),
        Token::KIND => text(change, "/name"),
        SecretVersion::KIND => text(change, "/key"),
        Instance::KIND => change.id.clone(),
        _other => String::new(),
    };
    Would {
        kind: change.kind.clone(),
        id: (change.op != Op::Insert).then(|| change.id.clone()),
        name,
        change: change.op.as_str(),
    }
}

fn text(change: &Change, pointer: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(&change.body).unwrap_or_default();
    body.pointer(pointer)
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned()
}
