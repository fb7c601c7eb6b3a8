//! Durable facts in SQLite: transactions, revision log, audit chain, sealed secrets; the only SQL.
//!
//! Lives here: the `Store`: opening and checking it, snapshots, writes, backup.
//! Does not live here: what the facts mean (`control`), or any clock: the time is an argument.
//! Invariant: what a write acknowledged survives `kill -9` and a power cut; what is corrupt is named, never served.
//!
//! All calls block: an asynchronous caller uses a blocking thread. `error` says what can fail; `object` is the
//! document store, `log` its history, `lease`, `idempotency` and `audit` stand beside it; `writer` commits.

mod audit;
mod connect;
mod error;
mod idempotency;
mod lease;
mod lock;
mod log;
mod mac;
mod mutate;
mod object;
mod reserve;
mod ring;
mod rotate;
pub mod rows;
mod schema;
pub mod secret;
mod tx;
mod verify;
mod watch;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::Connection;

pub use audit::{AuditBody, AuditEntry, AuditRecord, AuditVerdict};
pub use error::{IoCause, StoreError};
pub use idempotency::{Begun, KEPT_MS as IDEMPOTENCY_KEPT_MS};
pub use lease::Fence;
pub use log::{Change, Op};
pub use object::{Expect, MAX_BODY_BYTES, Page, Row, Salvage, Versioned};
pub use ring::MasterKey;
pub use rotate::{Resealing, Retired};
pub use secret::{Sealed, Sealer, Secret, SecretError};
pub use tx::{Now, ReadTx, WriteTx};
pub use verify::{Health, Repair};
pub use watch::Subscription;

use connect::{Readers, open_writer};
use lock::Lock;
use tx::Keys;
use watch::Notify;
use writer::{Writer, run_checkpoint};

/// The first SQLite without the WAL-reset bug, which silently loses committed data.
const LEAST_SQLITE: (i32, &str) = (3_051_003, "3.51.3");
/// A quick check that takes longer is given up at start: control must be back within a second; `verify` goes deeper.
const QUICK_CHECK_LIMIT: Duration = Duration::from_secs(3);

/// The store. One process has it open at a time; all its threads share it.
pub struct Store {
    path: PathBuf,
    epoch: u64,
    keys: Arc<Keys>,
    // In this order: the writer's connection closes before the readers, the lock goes last.
    writer: Writer,
    readers: Readers,
    notify: Arc<Notify>,
    _lock: Lock,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({}, epoch {})", self.path.display(), self.epoch)
    }
}

impl Store {
    /// Opens the store, making or migrating it as needed, and begins a new epoch.
    pub fn open(path: &Path, master: &MasterKey, now: Now) -> Result<Self, StoreError> {
        if rusqlite::version_number() < LEAST_SQLITE.0 {
            let found = rusqlite::version().to_owned();
            return Err(StoreError::OldSqlite {
                found,
                least: LEAST_SQLITE.1,
            });
        }
        let lock = Lock::take(path)?;
        let opened = match Opened::new(path, master, now) {
            Err(StoreError::Full { .. }) if reserve::release(path) => Opened::new(path, master, now)?,
            opened => opened?,
        };
        reserve::keep(path);
        let Opened { tx, rev } = opened;
        let (keys, epoch) = (Arc::clone(&tx.keys), tx.epoch);
        let readers = Readers::open(path, Arc::clone(&keys), epoch)?;
        let notify = Arc::new(Notify::default());
        notify.publish(rev);
        let writer = Writer::new(path.into(), tx, Arc::clone(&notify));
        Ok(Self {
            path: path.into(),
            epoch,
            keys,
            writer,
            readers,
            notify,
            _lock: lock,
        })
    }

    /// One transaction. When this returns `Ok`, it is on disk; on `Err` nothing of it happened, except after
    /// `Full` or `Io`, where it was not acknowledged and must be looked up before it is repeated.
    pub fn write<T, E: From<StoreError>>(
        &self,
        now: Now,
        work: impl FnOnce(&WriteTx) -> Result<T, E>,
    ) -> Result<T, E> {
        self.writer.write(now, work)
    }

    /// Reads from one consistent snapshot. Keep it short: a long one keeps the WAL from being emptied.
    pub fn read<T, E: From<StoreError>>(&self, work: impl FnOnce(&ReadTx) -> Result<T, E>) -> Result<T, E> {
        let lent = self.readers.lend()?;
        work(&lent)
    }

    /// The number of this opening; keepers refuse an older one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last committed revision, without touching the disk.
    pub fn rev(&self) -> u64 {
        self.notify.rev()
    }

    /// Waits until there is a revision after `seen`, at most `limit`; returns the last one.
    pub fn wait_change(&self, seen: u64, limit: Duration) -> u64 {
        self.notify.wait(seen, limit)
    }

    /// Calls a hook with each newly committed revision, on the committing thread: it must only wake somebody.
    pub fn subscribe(&self, hook: impl Fn(u64) + Send + Sync + 'static) -> Subscription {
        self.notify.subscribe(Arc::new(hook))
    }

    /// Gives up the space kept back, so that deleting can be recorded on a full disk. Call it when starting to make
    /// room, not before: it is kept again when there is plenty. True when there was any left.
    pub fn release_reserve(&self) -> bool {
        reserve::release(&self.path)
    }

    /// A seal over texts that leave Stoa and come back, a page token for example: only this store can make it.
    pub fn mark(&self, purpose: &str, texts: &[&str]) -> [u8; 16] {
        self.marked(purpose, texts).tag()
    }

    /// Whether that is the seal over these texts. Takes the same time for each that is not.
    pub fn is_mark(&self, purpose: &str, texts: &[&str], mark: &[u8]) -> bool {
        self.marked(purpose, texts).is(mark)
    }

    fn marked(&self, purpose: &str, texts: &[&str]) -> mac::Fields {
        let begun = self.keys.integrity.seal("mark").text(purpose);
        texts.iter().fold(begun, |fields, text| fields.text(text))
    }

    /// Opens what was sealed for this tenant, name and version.
    pub fn unseal(
        &self,
        tenant: &str,
        name: &str,
        version: u64,
        sealed: &Sealed,
    ) -> Result<Secret, SecretError> {
        self.keys.sealer.open(tenant, name, version, sealed)
    }

    /// A consistent copy, whole or not there at all; writers go on meanwhile. It opens with the same master key,
    /// which is deliberately not in it.
    pub fn backup_to(&self, to: &Path) -> Result<(), StoreError> {
        Self::copy(&self.path, to)
    }

    /// As [`Store::backup_to`], of a store that another process may have open.
    pub fn copy(path: &Path, to: &Path) -> Result<(), StoreError> {
        let fail = |cause| StoreError::sql("opening the store for a backup", cause);
        let conn = connect::open_reader(path)?;
        conn.execute_batch("PRAGMA query_only = OFF").map_err(fail)?;
        schema::copy_into(&conn, to)
    }
}

impl Store {
    /// Gives up what a newer program made of the store, and goes on with the copy it took just before it migrated.
    /// Nothing may have it open. Whatever was written since the migration is gone.
    pub fn undo_migration(path: &Path) -> Result<(), StoreError> {
        let _lock = Lock::take(path)?;
        let known = schema::MIGRATIONS.last().map_or(0, |step| step.number);
        schema::undo(path, known)
    }
}

/// A checked and migrated store with its new epoch.
struct Opened {
    tx: WriteTx,
    rev: u64,
}

impl Opened {
    fn new(path: &Path, master: &MasterKey, now: Now) -> Result<Self, StoreError> {
        if !path.exists() {
            schema::create_private(path)?;
        }
        let mut conn = open_writer(path)?;
        // First of all: whatever a crash left in the WAL is brought home and synced, so that nothing later builds
        // on frames whose sync once failed.
        run_checkpoint(&conn, "TRUNCATE")?;
        schema::migrate(&mut conn, path, schema::MIGRATIONS)?;
        let mut tx = WriteTx::new(
            ReadTx {
                conn,
                keys: Arc::new(Keys::new(master)),
                epoch: 0,
            },
            now,
        );
        check_key(&tx, path)?;
        quick_check(&tx.conn)?;
        let (epoch, rev) = begin_epoch(&tx)?;
        tx.begin_epoch(epoch);
        Ok(Self { tx, rev })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A courtesy to the next start; whatever fails here is in the WAL and is done then.
        let _later = self.writer.checkpoint();
    }
}

/// A key that does not belong to the store would make every row look corrupt: told apart here.
fn check_key(tx: &ReadTx, path: &Path) -> Result<(), StoreError> {
    match tx.meta("key_check") {
        Ok(_) => Ok(()),
        Err(StoreError::Corrupt { .. }) => Err(StoreError::WrongKey {
            path: path.into(),
            key_id: tx.keys.founding_id.clone(),
        }),
        Err(failure) => Err(failure),
    }
}

/// Returns the new epoch and the last revision.
fn begin_epoch(tx: &WriteTx) -> Result<(u64, u64), StoreError> {
    let fail = |cause| StoreError::sql("beginning an epoch", cause);
    tx.conn.execute_batch("BEGIN IMMEDIATE").map_err(fail)?;
    let epoch = tx.meta_number("epoch")? + 1;
    if tx.meta("key_check")?.is_none() {
        if epoch > 1 || tx.rev()? > 0 {
            return Err(tx::corrupt("meta", "key_check", "it is missing"));
        }
        tx.set_meta("key_check", "this key founded the store")?;
    }
    let rev = tx.check_end()?;
    tx.set_meta("epoch", &epoch.to_string())?;
    tx.conn.execute_batch("COMMIT").map_err(fail)?;
    Ok((epoch, rev))
}

fn quick_check(conn: &Connection) -> Result<(), StoreError> {
    let interrupt = conn.get_interrupt_handle();
    let (done, waits) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(QUICK_CHECK_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let result = conn.prepare("PRAGMA quick_check(5)").and_then(|mut check| {
            check
                .query_map([], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()
        });
        drop(done);
        result
    });
    match result {
        Ok(lines) if lines == ["ok"] => Ok(()),
        Ok(lines) => Err(StoreError::Damaged {
            doing: "checking it at start".into(),
            detail: lines.join("; "),
        }),
        Err(cause) if cause.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => Ok(()),
        Err(cause) => Err(StoreError::sql("checking it at start", cause)),
    }
}
