//! Transactions as the rest of the product sees them: a snapshot to read, a place to write.
//!
//! Lives here: the two types, the time they carry, small helpers over SQLite's rows.
//! Does not live here: when a transaction commits (`writer`), what is stored (`object`, `audit`, ...).
//! Invariant: whatever failed severely inside a write poisons it, even if the caller swallowed the error.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, Params, Row};

use crate::error::StoreError;
use crate::mac::{Integrity, MAC_BYTES, Tag};
use crate::ring::MasterKey;
use crate::secret::{Sealed, Sealer, Secret, SecretError};

/// The time, told by the caller's clock. Two clocks, because the wall clock may jump and leases must not end by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, for people and for rows.
    pub wall_ms: u64,
    /// Milliseconds on a clock that never jumps; only differences within one process count.
    pub mono_ms: u64,
}

impl Now {
    /// One reading for both clocks: for simulated time.
    pub fn at(ms: u64) -> Self {
        Self {
            wall_ms: ms,
            mono_ms: ms,
        }
    }
}

/// The keys a store works with.
pub(crate) struct Keys {
    pub(crate) integrity: Integrity,
    pub(crate) sealer: Sealer,
    pub(crate) founding_id: String,
    /// The file's content, for whoever rotates.
    pub(crate) master: Mutex<MasterKey>,
}

impl Keys {
    pub(crate) fn new(master: &MasterKey) -> Self {
        Self {
            integrity: Integrity::new(master),
            sealer: Sealer::new(master),
            founding_id: master.founding_id().to_owned(),
            master: Mutex::new(master.clone()),
        }
    }
}

/// A consistent snapshot.
pub struct ReadTx {
    pub(crate) conn: Connection,
    pub(crate) keys: Arc<Keys>,
    pub(crate) epoch: u64,
}

/// A write in progress; reads through it see what it wrote.
pub struct WriteTx {
    read: ReadTx,
    pub(crate) now: Now,
    pub(crate) last_rev: Cell<u64>,
    poison: RefCell<Option<StoreError>>,
}

impl Deref for WriteTx {
    type Target = ReadTx;
    fn deref(&self) -> &ReadTx {
        &self.read
    }
}

impl ReadTx {
    /// The number of this opening of the store; grows each time. Keepers refuse an older one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The first row of a query, if any.
    pub(crate) fn first<T, P: Params>(
        &self,
        sql: &str,
        params: P,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
        doing: impl Fn() -> String,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self
            .conn
            .prepare_cached(sql)
            .map_err(|cause| StoreError::sql(doing(), cause))?;
        statement
            .query_row(params, read)
            .optional()
            .map_err(|cause| StoreError::sql(doing(), cause))
    }

    /// All rows of a query.
    pub(crate) fn all<T, P: Params>(
        &self,
        sql: &str,
        params: P,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
        doing: impl Fn() -> String,
    ) -> Result<Vec<T>, StoreError> {
        let fail = |cause| StoreError::sql(doing(), cause);
        let mut statement = self.conn.prepare_cached(sql).map_err(fail)?;
        let rows = statement.query_map(params, read).map_err(fail)?;
        rows.collect::<rusqlite::Result<Vec<T>>>().map_err(fail)
    }

    /// A sealed value of the store itself.
    pub(crate) fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value, mac FROM meta WHERE key = ?1";
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?));
        let Some((value, mac)) = self.first(sql, [key], read, || format!("reading {key}"))? else {
            return Ok(None);
        };
        if !self.keys.integrity.seal("meta").text(key).text(&value).is(&mac) {
            return Err(corrupt("meta", key, "its seal does not fit"));
        }
        Ok(Some(value))
    }

    /// The same, as a number; 0 when it was never set.
    pub(crate) fn meta_number(&self, key: &str) -> Result<u64, StoreError> {
        let Some(value) = self.meta(key)? else {
            return Ok(0);
        };
        value
            .parse()
            .map_err(|_| corrupt("meta", key, "it is not a number"))
    }
}

impl WriteTx {
    pub(crate) fn new(read: ReadTx, now: Now) -> Self {
        Self {
            read,
            now,
            last_rev: Cell::new(0),
            poison: RefCell::new(None),
        }
    }

    /// Makes it ready for the next writer on the same connection.
    pub(crate) fn renew_for(&mut self, now: Now) {
        self.now = now;
        self.last_rev.set(0);
        self.poison.replace(None);
    }

    pub(crate) fn begin_epoch(&mut self, epoch: u64) {
        self.read.epoch = epoch;
    }

    /// The time this write happens at.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Seals a value for exactly this tenant, name and version. Only a write can: so no key can be retired between the
    /// sealing of a value and its commit.
    pub fn seal(
        &self,
        tenant: &str,
        name: &str,
        version: u64,
        plain: &Secret,
    ) -> Result<Sealed, SecretError> {
        self.keys.sealer.seal(tenant, name, version, plain)
    }

    /// What failed severely inside this write.
    pub(crate) fn poison(&self) -> Option<StoreError> {
        self.poison.borrow().clone()
    }

    /// Remembers a severe failure, so that the transaction cannot commit around it.
    pub(crate) fn guard<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|failure| {
            if failure.is_severe() {
                self.poison.borrow_mut().get_or_insert_with(|| failure.clone());
            }
        })
    }

    pub(crate) fn run(
        &self,
        sql: &str,
        params: impl Params,
        doing: impl Fn() -> String,
    ) -> Result<usize, StoreError> {
        let mut statement = self
            .conn
            .prepare_cached(sql)
            .map_err(|cause| StoreError::sql(doing(), cause))?;
        statement
            .execute(params)
            .map_err(|cause| StoreError::sql(doing(), cause))
    }

    pub(crate) fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let mac = self.keys.integrity.seal("meta").text(key).text(value).tag();
        let sql = "INSERT INTO meta (key, value, mac) VALUES (?1, ?2, ?3)
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value, mac = excluded.mac";
        self.run(sql, rusqlite::params![key, value, mac], || {
            format!("writing {key}")
        })
        .map(|_| ())
    }
}

pub(crate) fn corrupt(kind: &str, id: &str, why: &'static str) -> StoreError {
    StoreError::Corrupt {
        kind: kind.into(),
        id: id.into(),
        why,
    }
}

/// A number on its way into SQLite, which knows signed ones only. Ours are counts and milliseconds: they fit.
pub(crate) fn to_db(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number on its way out; a negative one was never written by us.
pub(crate) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A seal on its way out; one of the wrong length fits nothing.
pub(crate) fn tag(row: &Row<'_>, column: usize) -> rusqlite::Result<Tag> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let mut tag = [0; MAC_BYTES];
    if bytes.len() == MAC_BYTES {
        tag.copy_from_slice(bytes);
    }
    Ok(tag)
}
