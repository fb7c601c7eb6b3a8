//! Idempotency keys: a repeated request gets the first one's answer instead of a second effect.
//!
//! Lives here: remembering requests and their answers for a day.
//! Does not live here: what a fingerprint covers (`server`).
//! Invariant: `idempotency_commit` runs in the same transaction as the effect. So a key that was begun in an
//! earlier epoch and never committed had no effect, and may begin again. Answers are sealed: they may show a token.
//!
//! ```text
//! begin -> open --commit (with the effect)--> done --finish (with the answer)--> answered
//! ```

use rusqlite::{Row as SqlRow, params};

use crate::error::StoreError;
use crate::secret::{Sealed, Secret};
use crate::tx::{ReadTx, WriteTx, corrupt, number, to_db};

/// How long an answer is kept.
pub const KEPT_MS: u64 = 24 * 3600 * 1000;
/// Expired keys removed by each new one: the table stays as long as a day's traffic.
const EXPIRE_STEP: u64 = 20;

/// What is known about an idempotency key.
#[derive(Debug)]
pub enum Begun {
    /// Never seen: do it.
    Fresh,
    /// Done already: give this answer again.
    Replay {
        /// The HTTP status of the first answer.
        status: u16,
        /// The body of the first answer.
        answer: Secret,
    },
    /// The key was used for a different request.
    Mismatch,
    /// The first request is being worked on.
    InProgress,
    /// The first request had its effect, but its answer is not known: it is about to be, or was lost in a crash.
    Done,
}

/// Not answered, without effect so far.
const OPEN: u64 = 0;
/// Not answered, but it had its effect. No HTTP status is below 100.
const DONE: u64 = 1;

struct Entry {
    fingerprint: Vec<u8>,
    begun_ms: u64,
    epoch: u64,
    status: u64,
    answer: Vec<u8>,
}

impl Entry {
    fn seal(&self, tx: &ReadTx, actor: &str, key: &str) -> crate::mac::Fields {
        (tx.keys
            .integrity
            .seal("idempotency")
            .text(actor)
            .text(key)
            .bytes(&self.fingerprint))
        .number(self.begun_ms)
        .number(self.epoch)
        .number(self.status)
        .bytes(&self.answer)
    }

    fn is_open(&self) -> bool {
        self.status == OPEN
    }
}

impl WriteTx {
    /// Asks about a key, and claims it when it is fresh.
    pub fn idempotency_begin(&self, actor: &str, key: &str, fingerprint: &[u8]) -> Result<Begun, StoreError> {
        self.guard(self.begin_inner(actor, key, fingerprint))
    }

    /// Notes that the request has its effect. Belongs into the transaction of the effect itself.
    pub fn idempotency_commit(&self, actor: &str, key: &str) -> Result<(), StoreError> {
        match self.guard(self.entry(actor, key))? {
            Some(mut entry) if entry.is_open() => {
                entry.status = DONE;
                self.guard(self.set_entry(actor, key, &entry))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Keeps the answer.
    pub fn idempotency_finish(
        &self,
        actor: &str,
        key: &str,
        status: u16,
        answer: &[u8],
    ) -> Result<(), StoreError> {
        let missing = || StoreError::NotFound {
            kind: "idempotency key".into(),
            id: key.into(),
        };
        let mut entry = self.guard(self.entry(actor, key))?.ok_or_else(missing)?;
        let sealed =
            self.keys
                .sealer
                .seal(&place(actor), key, entry.begun_ms, &Secret::new(answer.to_vec()))?;
        entry.status = u64::from(status);
        entry.answer = sealed.0;
        self.guard(self.set_entry(actor, key, &entry))
    }

    /// Seals a kept answer with the newest key; false when it does not open.
    pub(crate) fn reseal_answer(&self, actor: &str, key: &str) -> Result<bool, StoreError> {
        let entry = match self.entry(actor, key) {
            Ok(entry) => entry,
            Err(StoreError::Corrupt { .. }) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        let Some(mut entry) = entry else { return Ok(true) };
        let (tenant, sealer) = (place(actor), &self.keys.sealer);
        let old = Sealed(std::mem::take(&mut entry.answer));
        let Ok(plain) = sealer.open(&tenant, key, entry.begun_ms, &old) else {
            return Ok(false);
        };
        entry.answer = sealer.seal(&tenant, key, entry.begun_ms, &plain)?.0;
        self.set_entry(actor, key, &entry)?;
        Ok(true)
    }

    /// Forgets a key whose request failed without effect, so that the caller may retry with it.
    pub fn idempotency_abandon(&self, actor: &str, key: &str) -> Result<(), StoreError> {
        if self
            .guard(self.entry(actor, key))?
            .is_some_and(|entry| entry.is_open())
        {
            self.guard(self.forget(actor, key))?;
        }
        Ok(())
    }

    fn begin_inner(&self, actor: &str, key: &str, fingerprint: &[u8]) -> Result<Begun, StoreError> {
        let horizon = self.now.wall_ms.saturating_sub(KEPT_MS);
        let sql = "DELETE FROM idempotency WHERE rowid IN
                   (SELECT rowid FROM idempotency WHERE begun_ms < ?1 ORDER BY begun_ms LIMIT ?2)";
        let doing = || "forgetting old idempotency keys".to_owned();
        self.run(sql, [to_db(horizon), to_db(EXPIRE_STEP)], doing)?;
        let fresh = Entry {
            fingerprint: fingerprint.to_vec(),
            begun_ms: self.now.wall_ms,
            epoch: self.epoch,
            status: OPEN,
            answer: Vec::new(),
        };
        match self.entry(actor, key)? {
            Some(entry) if entry.begun_ms < horizon || (entry.is_open() && entry.epoch < self.epoch) => {
                self.forget(actor, key)?;
                self.set_entry(actor, key, &fresh)?;
                Ok(Begun::Fresh)
            }
            None => self.set_entry(actor, key, &fresh).map(|()| Begun::Fresh),
            Some(entry) if entry.fingerprint != fingerprint => Ok(Begun::Mismatch),
            Some(entry) if entry.is_open() => Ok(Begun::InProgress),
            Some(entry) if entry.status == DONE => Ok(Begun::Done),
            Some(entry) => {
                let answer =
                    self.keys
                        .sealer
                        .open(&place(actor), key, entry.begun_ms, &Sealed(entry.answer))?;
                let status = u16::try_from(entry.status)
                    .map_err(|_| corrupt("idempotency key", key, "its status is none"))?;
                Ok(Begun::Replay { status, answer })
            }
        }
    }

    fn entry(&self, actor: &str, key: &str) -> Result<Option<Entry>, StoreError> {
        let sql = "SELECT fingerprint, begun_ms, epoch, status, answer, mac FROM idempotency
                   WHERE actor = ?1 AND key = ?2";
        let read = |row: &SqlRow<'_>| {
            let entry = Entry {
                fingerprint: row.get(0)?,
                begun_ms: number(row, 1)?,
                epoch: number(row, 2)?,
                status: number(row, 3)?,
                answer: row.get(4)?,
            };
            Ok((entry, row.get::<_, Vec<u8>>(5)?))
        };
        let doing = || format!("reading the idempotency key {key}");
        let Some((entry, mac)) = self.first(sql, [actor, key], read, doing)? else {
            return Ok(None);
        };
        if entry.seal(self, actor, key).is(&mac) {
            Ok(Some(entry))
        } else {
            Err(corrupt(
                "idempotency key",
                key,
                "its seal does not fit what it says",
            ))
        }
    }

    fn set_entry(&self, actor: &str, key: &str, entry: &Entry) -> Result<(), StoreError> {
        let sql = "INSERT INTO idempotency (actor, key, fingerprint, begun_ms, epoch, status, answer, mac)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                   ON CONFLICT (actor, key) DO UPDATE
                   SET status = excluded.status, answer = excluded.answer, mac = excluded.mac";
        let values = params![
            actor,
            key,
            entry.fingerprint,
            to_db(entry.begun_ms),
            to_db(entry.epoch),
            to_db(entry.status),
            entry.answer,
            entry.seal(self, actor, key).tag(),
        ];
        self.run(sql, values, || format!("writing the idempotency key {key}"))
            .map(|_| ())
    }

    fn forget(&self, actor: &str, key: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM idempotency WHERE actor = ?1 AND key = ?2";
        self.run(sql, [actor, key], || {
            format!("forgetting the idempotency key {key}")
        })
        .map(|_| ())
    }
}

/// Answers are sealed apart from tenants' secrets: no tenant's id begins like this.
fn place(actor: &str) -> String {
    format!("idempotency:{actor}")
}
