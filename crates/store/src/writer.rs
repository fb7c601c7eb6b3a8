//! The one writer, and group commit.
//!
//! Lives here: who may write now, when a transaction commits, what happens when the disk fails.
//! Does not live here: what is written (`object` and its neighbours).
//! Invariant: a write that returned `Ok` is on disk. Writers that wait for each other share one transaction, each
//! under a savepoint of its own, and all of them wait for the one sync; if it fails, none is acknowledged and the
//! connection is thrown away before the next write.
//!
//! ```text
//! lock -> begin (unless a group is open) -> savepoint -> closure -> release | roll back to
//!      -> somebody waits for the lock, group not full?  leave it open, unlock, wait for its end
//!      -> else commit, tell the group, checkpoint when the WAL is long
//! ```

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::connect::open_writer;
use crate::error::StoreError;
use crate::tx::{Keys, Now, ReadTx, WriteTx};
use crate::watch::Notify;

/// Bounds how long the first of a group waits for its acknowledgement.
const MAX_GROUP: u32 = 64;
/// WAL pages (4 KiB) after which they are copied into the database, without waiting for readers.
const CHECKPOINT_PAGES: i64 = 2000;
/// WAL pages after which the writer waits for readers, so that the file stops growing.
const RESET_PAGES: i64 = 16_000;

thread_local! {
    /// The writer whose closure runs on this thread: a write inside it would wait for itself.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

pub(crate) struct Writer {
    path: PathBuf,
    keys: Arc<Keys>,
    epoch: u64,
    notify: Arc<Notify>,
    state: Mutex<State>,
    waiting: AtomicUsize,
}

struct State {
    tx: Option<WriteTx>,
    group: Option<Arc<Group>>,
    members: u32,
    rev: u64,
}

/// The writers that share a transaction.
#[derive(Default)]
struct Group {
    end: Mutex<Option<Result<(), StoreError>>>,
    ended: Condvar,
}

impl Group {
    fn finish(&self, end: Result<(), StoreError>) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.ended.notify_all();
    }

    fn wait(&self) -> Result<(), StoreError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*end {
                Some(end) => return end.clone(),
                None => end = self.ended.wait(end).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Writer {
    /// Continues on the connection that opened the store.
    pub(crate) fn new(path: PathBuf, tx: WriteTx, notify: Arc<Notify>) -> Self {
        let (keys, epoch) = (Arc::clone(&tx.keys), tx.epoch);
        let state = State {
            tx: Some(tx),
            group: None,
            members: 0,
            rev: 0,
        };
        Self {
            path,
            keys,
            epoch,
            notify,
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(crate) fn write<T, E: From<StoreError>>(
        &self,
        now: Now,
        work: impl FnOnce(&WriteTx) -> Result<T, E>,
    ) -> Result<T, E> {
        let me = std::ptr::from_ref(self) as usize;
        if INSIDE.get() == me {
            return Err(StoreError::Nested.into());
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut state = self.lock();
        self.waiting.fetch_sub(1, Ordering::SeqCst);

        let group = self.join(&mut state, now)?;
        let outer = INSIDE.replace(me);
        let result = Self::work(&mut state, work);
        INSIDE.set(outer);

        let (result, failure) = match result {
            Ok((result, failure)) => (Ok(result), failure),
            Err(panic) => (Err(panic), None),
        };
        if let Some(failure) = failure {
            self.fail(&mut state, &group, failure);
        } else if self.waiting.load(Ordering::SeqCst) == 0 || state.members >= MAX_GROUP {
            self.commit(&mut state, &group);
        }
        drop(state);
        let end = group.wait();
        match result {
            // Even a refusal waits: it may rest on facts of another member that were never committed.
            Ok(result) => end.map_err(E::from).and(result),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Copies the WAL into the database and empties it: all that was acknowledged then rests on one file. False when a
    /// reader held on to it for too long, so that it was not emptied.
    pub(crate) fn checkpoint(&self) -> Result<bool, StoreError> {
        let mut state = self.lock();
        self.reopen(&mut state, Now::at(0))?;
        // Those who wait for the lock may find their group ended and begin another.
        if let Some(group) = state.group.clone() {
            self.commit(&mut state, &group);
            self.reopen(&mut state, Now::at(0))?;
        }
        match &state.tx {
            Some(tx) => empty_wal(&tx.conn),
            None => Ok(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic leaves the state half changed: closures run under catch_unwind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reopen(&self, state: &mut State, now: Now) -> Result<(), StoreError> {
        match &mut state.tx {
            Some(tx) => tx.renew_for(now),
            None => {
                let conn = open_writer(&self.path)?;
                // The last one failed, perhaps for want of space. Copied home, the WAL's own blocks are free to be
                // written again without a new one: deleting works on a full disk. If not, the next write says so.
                let _room = run_checkpoint(&conn, "RESTART");
                let read = ReadTx {
                    conn,
                    keys: Arc::clone(&self.keys),
                    epoch: self.epoch,
                };
                state.tx = Some(WriteTx::new(read, now));
            }
        }
        Ok(())
    }

    /// Opens a savepoint in the open transaction, or in a new one.
    fn join(&self, state: &mut State, now: Now) -> Result<Arc<Group>, StoreError> {
        self.reopen(state, now)?;
        if let Some(group) = state.group.clone() {
            return match batch(state.tx.as_ref(), "SAVEPOINT member") {
                Ok(()) => {
                    state.members += 1;
                    Ok(group)
                }
                Err(failure) => {
                    self.fail(state, &group, failure.clone());
                    Err(failure)
                }
            };
        }
        if let Err(failure) = batch(state.tx.as_ref(), "BEGIN IMMEDIATE; SAVEPOINT member") {
            state.tx = None;
            return Err(failure);
        }
        let group = Arc::new(Group::default());
        state.group = Some(Arc::clone(&group));
        (state.members, state.rev) = (1, 0);
        Ok(group)
    }

    /// Runs the closure and ends its savepoint. The second part is a failure of the whole transaction.
    fn work<T, E: From<StoreError>>(
        state: &mut State,
        work: impl FnOnce(&WriteTx) -> Result<T, E>,
    ) -> std::thread::Result<(Result<T, E>, Option<StoreError>)> {
        let tx = state.tx.as_ref().expect("join opened the connection");
        let result = catch_unwind(AssertUnwindSafe(|| work(tx)));
        let rolled_back = tx.conn.is_autocommit();
        let gone = || StoreError::Damaged {
            doing: "writing".into(),
            detail: "SQLite gave up the transaction without saying why".into(),
        };
        let failure = tx.poison().or_else(|| rolled_back.then(gone));
        let failure = failure.or_else(|| {
            let end = match &result {
                Ok(Ok(_)) => "RELEASE member",
                Ok(Err(_)) | Err(_) => "ROLLBACK TO member; RELEASE member",
            };
            batch(Some(tx), end).err()
        });
        if matches!(result, Ok(Ok(_))) {
            state.rev = state.rev.max(tx.last_rev.get());
        }
        match (result, failure) {
            (Ok(result), failure) => Ok((result, failure)),
            (Err(panic), None) => Err(panic),
            // The others of the group must hear of the failure; the panic is told as one.
            (Err(_), Some(failure)) => Ok((Err(failure.clone().into()), Some(failure))),
        }
    }

    fn commit(&self, state: &mut State, group: &Group) {
        if let Err(failure) = batch(state.tx.as_ref(), "COMMIT") {
            self.fail(state, group, failure);
            return;
        }
        state.group = None;
        self.notify.publish(state.rev);
        group.finish(Ok(()));
        // The commits are safe in the WAL. A failed copy is repeated, but not on a connection that saw it fail.
        if state.tx.as_ref().is_some_and(|tx| self.tidy(&tx.conn).is_err()) {
            state.tx = None;
        }
    }

    /// Copies the WAL into the database when it is long.
    fn tidy(&self, conn: &Connection) -> Result<(), StoreError> {
        let mode = match run_checkpoint(conn, "NOOP")? {
            RESET_PAGES.. => "RESTART",
            CHECKPOINT_PAGES.. => "PASSIVE",
            _ => return Ok(()),
        };
        run_checkpoint(conn, mode)?;
        crate::reserve::keep(&self.path);
        Ok(())
    }

    /// Ends a group without acknowledging any of it.
    fn fail(&self, state: &mut State, group: &Group, failure: StoreError) {
        // Closing rolls back what is open.
        state.tx = None;
        state.group = None;
        group.finish(Err(failure));
    }
}

fn batch(tx: Option<&WriteTx>, sql: &str) -> Result<(), StoreError> {
    let conn = &tx.expect("a transaction has a connection").conn;
    for part in sql.split("; ") {
        conn.prepare_cached(part)
            .and_then(|mut statement| statement.execute([]))
            .map_err(|cause| StoreError::sql(format!("committing ({part})"), cause))?;
    }
    Ok(())
}

/// Whether the WAL is empty afterwards.
fn empty_wal(conn: &Connection) -> Result<bool, StoreError> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    conn.prepare_cached("PRAGMA wal_checkpoint(TRUNCATE)")
        .and_then(|mut statement| statement.query_row([], read))
        .map(|(busy, pages)| busy == 0 && pages == 0)
        .map_err(|cause| StoreError::sql("copying the WAL into the store", cause))
}

/// Returns the pages in the WAL. Readers in the way are no failure.
pub(crate) fn run_checkpoint(conn: &Connection, mode: &str) -> Result<i64, StoreError> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    conn.prepare_cached(&sql)
        .and_then(|mut statement| statement.query_row([], |row| row.get(1)))
        .map_err(|cause| StoreError::sql("copying the WAL into the store", cause))
}
