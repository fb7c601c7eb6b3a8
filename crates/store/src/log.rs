//! The revision log: what changed, in order; feeds `watch` and is the second witness of every object.
//!
//! Lives here: appending, reading changes, compaction.
//! Does not live here: waking watchers (`watch`), comparing the log with the tables (`verify`).
//! Invariant: revisions grow by one without gaps after the compacted one. Compaction never removes the last entry
//! of a live object: it proves, and can restore, that object.

use rusqlite::{Row as SqlRow, params};
use std::sync::Arc;

use crate::error::StoreError;
use crate::object::{Raw, Row, Versioned};
use crate::tx::{ReadTx, WriteTx, corrupt, number, tag, to_db};

/// Revisions removed in one compaction step, so that writers wait for milliseconds only.
const COMPACT_STEP: u64 = 2000;
/// The largest answer of one `changes_since`.
const MAX_CHANGES: usize = 10_000;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// It came to be.
    Insert,
    /// What is desired changed.
    Update,
    /// What is observed changed.
    Status,
    /// It is gone; the body is its last one.
    Delete,
}

impl Op {
    /// The word used in the store and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Status => "status",
            Self::Delete => "delete",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Insert, Self::Update, Self::Status, Self::Delete]
            .into_iter()
            .find(|op| op.as_str() == word)
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its revision.
    pub rev: u64,
    /// The kind of object.
    pub kind: String,
    /// The object.
    pub id: String,
    /// What it belongs to.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Its generation after the change.
    pub generation: u64,
    /// What happened.
    pub op: Op,
    /// When the object was inserted.
    pub created_ms: u64,
    /// When this happened.
    pub at_ms: u64,
    /// The object as JSON after the change (before it, for a delete).
    pub body: String,
}

impl Change {
    /// The object of this change, if it is of that kind.
    pub fn row<R: Row>(&self) -> Option<Result<R, StoreError>> {
        (self.kind == R::KIND).then(|| {
            serde_json::from_str(&self.body).map_err(|cause| StoreError::Unreadable {
                kind: self.kind.clone(),
                id: self.id.clone(),
                cause: Arc::new(cause),
            })
        })
    }

    pub(crate) fn seal(&self, tx: &ReadTx) -> crate::mac::Fields {
        (tx.keys
            .integrity
            .seal("log")
            .number(self.rev)
            .text(&self.kind)
            .text(&self.id)
            .text(&self.parent))
        .text(&self.name)
        .number(self.generation)
        .text(self.op.as_str())
        .number(self.created_ms)
        .number(self.at_ms)
        .text(&self.body)
    }
}

pub(crate) const LOG_COLUMNS: &str =
    "SELECT rev, kind, id, parent, name, generation, op, created_ms, at_ms, mac, body FROM log";

/// A log row as read: the entry with its tag, or the revision of one that cannot be read.
pub(crate) type Found = Result<(Change, crate::mac::Tag), u64>;

pub(crate) fn read_change(row: &SqlRow<'_>) -> rusqlite::Result<Found> {
    let rev = number(row, 0)?;
    let whole = || -> rusqlite::Result<Option<(Change, crate::mac::Tag)>> {
        let Some(op) = Op::parse(row.get_ref(6)?.as_str()?) else {
            return Ok(None);
        };
        let change = Change {
            rev,
            kind: row.get(1)?,
            id: row.get(2)?,
            parent: row.get(3)?,
            name: row.get(4)?,
            generation: number(row, 5)?,
            op,
            created_ms: number(row, 7)?,
            at_ms: number(row, 8)?,
            body: row.get(10)?,
        };
        Ok(Some((change, tag(row, 9)?)))
    };
    Ok(whole().ok().flatten().ok_or(rev))
}

impl ReadTx {
    /// The revision of the last committed change.
    pub fn rev(&self) -> Result<u64, StoreError> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'log'";
        Ok(self
            .first(sql, [], |row| number(row, 0), || "reading the revision".into())?
            .unwrap_or(0))
    }

    /// The revision after which all changes are kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn kept_since(&self) -> Result<u64, StoreError> {
        self.meta_number("compacted")
    }

    /// The changes after a revision, oldest first. Ask again from the last one's revision. `Compacted` when they
    /// are no longer (or, after a restore, not yet) there.
    pub fn changes_since(&self, rev: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let (oldest, end) = (self.meta_number("compacted")?, self.rev()?);
        // A revision of the future comes from a store that was set back since: only a new list helps.
        if rev < oldest || rev > end {
            return Err(StoreError::Compacted { asked: rev, oldest });
        }
        let wanted = (end - rev).min(limit.min(MAX_CHANGES) as u64);
        let sql = format!("{LOG_COLUMNS} WHERE rev > ?1 ORDER BY rev LIMIT ?2");
        let doing = || "reading changes".to_owned();
        let mut found = self
            .all(&sql, [to_db(rev), to_db(wanted)], read_change, doing)?
            .into_iter();
        let mut changes = Vec::new();
        for expected in rev + 1..=rev + wanted {
            let change = found.next().map(|found| self.checked_change(found)).transpose()?;
            let fits = change.filter(|change| change.rev == expected);
            let missing = || corrupt("log", &expected.to_string(), "the revision is missing");
            changes.push(fits.ok_or_else(missing)?);
        }
        Ok(changes)
    }

    pub(crate) fn checked_change(&self, found: Found) -> Result<Change, StoreError> {
        let (change, mac) = found.map_err(|rev| corrupt("log", &rev.to_string(), "it cannot be read"))?;
        if change.seal(self).is(&mac) {
            Ok(change)
        } else {
            Err(corrupt(
                "log",
                &change.rev.to_string(),
                "its seal does not fit what it says",
            ))
        }
    }

    /// What the log last says about an object.
    pub(crate) fn latest(&self, kind: &str, id: &str) -> Result<Option<(u64, Op)>, StoreError> {
        let sql = "SELECT rev, op FROM log WHERE kind = ?1 AND id = ?2 ORDER BY rev DESC LIMIT 1";
        let doing = || format!("reading the last change of {kind} {id}");
        let read = |row: &SqlRow<'_>| Ok((number(row, 0)?, Op::parse(row.get_ref(1)?.as_str()?)));
        match self.first(sql, [kind, id], read, doing)? {
            None => Ok(None),
            Some((rev, Some(op))) => Ok(Some((rev, op))),
            Some((rev, None)) => Err(corrupt("log", &rev.to_string(), "it cannot be read")),
        }
    }

    /// An object as its last entry has it, when that entry is what was written and does not bury it.
    pub(crate) fn logged<R: Row>(&self, id: &str) -> Result<Option<Versioned<R>>, StoreError> {
        let sql = format!("{LOG_COLUMNS} WHERE kind = ?1 AND id = ?2 ORDER BY rev DESC LIMIT 1");
        let doing = || format!("reading the last change of {} {id}", R::KIND);
        let Some(found) = self.first(&sql, [R::KIND, id], read_change, doing)? else {
            return Ok(None);
        };
        let Ok(change) = self.checked_change(found) else {
            return Ok(None);
        };
        let row = match change.op {
            Op::Delete => None,
            Op::Insert | Op::Update | Op::Status => change.row::<R>().and_then(Result::ok),
        };
        Ok(row.map(|row| Versioned {
            row,
            generation: change.generation,
            rev: change.rev,
            created_ms: change.created_ms,
            updated_ms: change.at_ms,
        }))
    }

    /// The ids of a kind that the log says exist.
    pub(crate) fn live_ids(&self, kind: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT id, op, max(rev) FROM log WHERE kind = ?1 GROUP BY id HAVING op <> 'delete'";
        self.all(
            sql,
            [kind],
            |row| row.get(0),
            || format!("reading which {kind} the log has"),
        )
    }
}

impl WriteTx {
    pub(crate) fn next_rev(&self) -> Result<u64, StoreError> {
        Ok(self.rev()? + 1)
    }

    /// Appends under the revision the object was sealed with.
    pub(crate) fn append(&self, kind: &str, raw: &Raw, op: Op) -> Result<(), StoreError> {
        self.put_change(&Change {
            rev: raw.rev,
            kind: kind.into(),
            id: raw.id.clone(),
            parent: raw.parent.clone(),
            name: raw.name.clone(),
            generation: raw.generation,
            op,
            created_ms: raw.created_ms,
            at_ms: if op == Op::Delete {
                self.now.wall_ms
            } else {
                raw.updated_ms
            },
            body: raw.body.clone(),
        })?;
        self.last_rev.set(raw.rev);
        Ok(())
    }

    pub(crate) fn put_change(&self, change: &Change) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO log (rev, kind, id, parent, name, generation, op, created_ms, at_ms, mac, body)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let values = params![
            to_db(change.rev),
            change.kind,
            change.id,
            change.parent,
            change.name,
            to_db(change.generation),
            change.op.as_str(),
            to_db(change.created_ms),
            to_db(change.at_ms),
            change.seal(self).tag(),
            change.body,
        ];
        self.run(sql, values, || format!("logging {} {}", change.kind, change.id))
            .map(|_| ())
    }

    /// One bounded step of compaction toward keeping only the last `keep` revisions, and only those not older than
    /// `not_after_ms` are removed. Returns how many revisions may still be removed after this step.
    pub fn compact(&self, keep: u64, not_after_ms: u64) -> Result<u64, StoreError> {
        self.guard(self.compact_inner(keep, not_after_ms))
    }

    fn compact_inner(&self, keep: u64, not_after_ms: u64) -> Result<u64, StoreError> {
        let from = self.meta_number("compacted")?;
        let doing = || "compacting the log".to_owned();
        // Entries are in order of time but for a clock that was set back; the first too young one ends the step.
        let sql = "SELECT min(rev) FROM log WHERE rev > ?1 AND at_ms > ?2";
        let young = self.first(
            sql,
            [to_db(from), to_db(not_after_ms)],
            |row| row.get::<_, Option<i64>>(0),
            doing,
        )?;
        let young = young.flatten().and_then(|rev| u64::try_from(rev).ok());
        let end = self
            .rev()?
            .saturating_sub(keep)
            .min(young.map_or(u64::MAX, |rev| rev - 1));
        if end <= from {
            return Ok(0);
        }
        let cut = end.min(from + COMPACT_STEP);
        // Superseded entries first: a tombstone gone before what it buries would bring the object back to life.
        let superseded = "DELETE FROM log WHERE rev <= ?1 AND EXISTS
            (SELECT 1 FROM log AS later WHERE later.kind = log.kind AND later.id = log.id AND later.rev > log.rev)";
        self.run(superseded, [to_db(cut)], doing)?;
        self.run(
            "DELETE FROM log WHERE rev <= ?1 AND op = 'delete'",
            [to_db(cut)],
            doing,
        )?;
        self.set_meta("compacted", &cut.to_string())?;
        Ok(end - cut)
    }
}
