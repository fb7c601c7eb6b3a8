//! The store on real files: what it promises, and what is done to it.

// STYLE allows `unwrap` in tests; the lint knows only functions marked as tests, not their helpers.
#![allow(clippy::unwrap_used)]

mod attack;
mod audit;
mod crash;
mod disk;
mod idempotency;
mod leases;
mod objects;
mod rotation;
mod secrets;
mod speed;
mod watch;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use store::{MasterKey, Now, Row, Store, StoreError, WriteTx};

/// A document for tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct App {
    id: String,
    project: String,
    name: String,
    image: String,
}

impl Row for App {
    const KIND: &'static str = "app";
    fn id(&self) -> std::borrow::Cow<'_, str> {
        (&self.id).into()
    }
    fn parent(&self) -> std::borrow::Cow<'_, str> {
        (&self.project).into()
    }
    fn name(&self) -> std::borrow::Cow<'_, str> {
        (&self.name).into()
    }
}

/// Another kind, to see that kinds keep apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    id: String,
    text: String,
}

impl Row for Note {
    const KIND: &'static str = "note";
    fn id(&self) -> std::borrow::Cow<'_, str> {
        (&self.id).into()
    }
    fn parent(&self) -> std::borrow::Cow<'_, str> {
        ("").into()
    }
    fn name(&self) -> std::borrow::Cow<'_, str> {
        (&self.id).into()
    }
}

pub(crate) fn app(id: &str, project: &str, name: &str) -> App {
    App {
        id: id.into(),
        project: project.into(),
        name: name.into(),
        image: "one".into(),
    }
}

/// A directory with a store in it.
pub(crate) struct Place {
    path: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self {
            path: dir.path().into(),
            _dir: Some(dir),
        }
    }

    /// A directory that somebody else removes.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, _dir: None }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.file("stoa.db")
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(&self.db(), &key(), at(1)).expect("the store opens")
    }

    /// What an attacker or a bad disk does, past the store.
    pub(crate) fn tamper(&self, sql: &str) {
        let conn = rusqlite::Connection::open(self.db()).expect("a plain connection");
        conn.execute_batch(sql).expect("the tampering works");
    }
}

pub(crate) fn key() -> MasterKey {
    MasterKey::from_bytes([7; 32])
}

pub(crate) fn at(ms: u64) -> Now {
    Now::at(ms)
}

/// One write that must succeed.
pub(crate) fn write<T>(store: &Store, ms: u64, work: impl FnOnce(&WriteTx) -> Result<T, StoreError>) -> T {
    store.write(at(ms), work).expect("the write succeeds")
}

/// One write whose error is wanted.
pub(crate) fn refused<T>(
    store: &Store,
    ms: u64,
    work: impl FnOnce(&WriteTx) -> Result<T, StoreError>,
) -> StoreError {
    match store.write(at(ms), work) {
        Ok(_) => panic!("the write should be refused"),
        Err(failure) => {
            assert!(!failure.next().is_empty());
            failure
        }
    }
}

pub(crate) fn get(store: &Store, id: &str) -> Result<Option<App>, StoreError> {
    store.read(|tx| Ok(tx.get::<App>(id)?.map(|found| found.row)))
}

/// Seeded, so that a failure can be repeated from the printed seed.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
