//! Connections: the one that writes, the few that read.
//!
//! Lives here: opening them with the right settings, the pool of readers.
//! Does not live here: transactions (`writer`, `lib`).
//! Invariant: only the writer's connection ever checkpoints (SQLite's WAL-reset bug, and a failed one must be
//! noticed). One idle reader stays open, so that the WAL's index outlives a reopened writer: else the frames of a
//! commit whose sync failed would be believed on reopening.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;
use crate::tx::{Keys, ReadTx};

/// Reads are short; more readers than this only wait for the same two cores.
const MAX_READERS: usize = 8;
/// A reader that is not free after this long means that something reads for ever.
const READER_WAIT: Duration = Duration::from_secs(10);
/// What the writer waits for a reader when it wants to reset the WAL.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(100);
const STATEMENTS: usize = 64;

pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let fail = |cause| StoreError::sql(format!("opening {} for writing", path.display()), cause);
    conn.busy_timeout(CHECKPOINT_WAIT).map_err(fail)?;
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(fail)?;
    if mode != "wal" {
        let detail = format!("its journal is {mode}, not wal");
        return Err(StoreError::Damaged {
            doing: format!("opening {}", path.display()),
            detail,
        });
    }
    // What is deleted or replaced is overwritten: a value sealed with a retired key must not stay in the file's gaps.
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 0;
         PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(fail)?;
    Ok(conn)
}

/// A connection that can only read.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let fail = |cause| StoreError::sql(format!("opening {} for reading", path.display()), cause);
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0;")
        .map_err(fail)?;
    // Reads something, so that the WAL's index is mapped from now on.
    conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
        .map_err(fail)?;
    Ok(conn)
}

fn open(path: &Path, mode: OpenFlags) -> Result<Connection, StoreError> {
    let fail = |cause| StoreError::sql(format!("opening {}", path.display()), cause);
    let conn = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(fail)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(fail)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)
        .map_err(fail)?;
    // Otherwise a statement that compares a name is planned again for each name.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(fail)?;
    conn.execute_batch("PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0;")
        .map_err(fail)?;
    Ok(conn)
}

/// The readers.
pub(crate) struct Readers {
    path: PathBuf,
    keys: Arc<Keys>,
    epoch: u64,
    /// Never lent: see the invariant above. Behind a mutex only because a connection is not `Sync`.
    _anchor: Mutex<Connection>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<ReadTx>,
    lent: usize,
}

impl Readers {
    pub(crate) fn open(path: &Path, keys: Arc<Keys>, epoch: u64) -> Result<Self, StoreError> {
        Ok(Self {
            path: path.into(),
            keys,
            epoch,
            _anchor: Mutex::new(open_reader(path)?),
            pool: Mutex::default(),
            returned: Condvar::new(),
        })
    }

    /// Lends a reader with a fresh snapshot, waiting a bounded time for one.
    pub(crate) fn lend(&self) -> Result<Lent<'_>, StoreError> {
        let deadline = Instant::now() + READER_WAIT;
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        while pool.idle.is_empty() && pool.lent >= MAX_READERS {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(StoreError::Busy {
                    waited_ms: READER_WAIT.as_millis() as u64,
                });
            };
            pool = self
                .returned
                .wait_timeout(pool, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let idle = pool.idle.pop();
        pool.lent += 1;
        drop(pool);
        let mut lent = Lent {
            readers: self,
            tx: idle,
        };
        if lent.tx.is_none() {
            let conn = open_reader(&self.path)?;
            lent.tx = Some(ReadTx {
                conn,
                keys: Arc::clone(&self.keys),
                epoch: self.epoch,
            });
        }
        let begun = lent
            .conn
            .prepare_cached("BEGIN")
            .and_then(|mut statement| statement.execute([]));
        begun.map_err(|cause| StoreError::sql("beginning to read", cause))?;
        Ok(lent)
    }
}

/// A lent reader; comes back when dropped, unless its transaction could not be ended.
pub(crate) struct Lent<'a> {
    readers: &'a Readers,
    tx: Option<ReadTx>,
}

impl Deref for Lent<'_> {
    type Target = ReadTx;
    fn deref(&self) -> &ReadTx {
        self.tx.as_ref().expect("a reader is there until it is dropped")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let ended = |tx: &ReadTx| tx.conn.is_autocommit() || tx.conn.execute_batch("ROLLBACK").is_ok();
        let usable = self.tx.take().filter(ended);
        let mut pool = self.readers.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.lent -= 1;
        pool.idle.extend(usable);
        drop(pool);
        self.readers.returned.notify_one();
    }
}
