//! Changing documents: insert, update, delete.
//!
//! Lives here: compare-and-set, names taken, the sums of collections.
//! Does not live here: reading (`object`), when a change is durable (`writer`).
//! Invariant: a change replaces the object, its collection's sum and the log's end in one transaction, or nothing.

use std::sync::Arc;

use rusqlite::{ErrorCode, ffi, params};

use crate::error::StoreError;
use crate::log::Op;
use crate::mac::{Tag, fold};
use crate::object::{Expect, MAX_BODY_BYTES, Raw, Row, Versioned};
use crate::tx::{WriteTx, corrupt, to_db};

impl WriteTx {
    /// Inserts a new object.
    pub fn insert<R: Row>(&self, row: &R) -> Result<Versioned<()>, StoreError> {
        self.guard(self.insert_inner(row))
    }

    /// Replaces an object; its generation grows by one. Returns the new generation.
    pub fn update<R: Row>(&self, row: &R, expect: impl Into<Expect>) -> Result<u64, StoreError> {
        self.guard(self.replace(row, expect.into(), Op::Update))
            .map(|raw| raw.generation)
    }

    /// Replaces an object whose observed state changed; its generation stays. Returns the new revision.
    pub fn update_status<R: Row>(&self, row: &R, expect: impl Into<Expect>) -> Result<u64, StoreError> {
        self.guard(self.replace(row, expect.into(), Op::Status))
            .map(|raw| raw.rev)
    }

    /// Deletes an object and returns what it was.
    pub fn delete<R: Row>(&self, id: &str, expect: impl Into<Expect>) -> Result<Versioned<R>, StoreError> {
        let gone = self.guard(self.delete_inner(R::KIND, id, expect.into()))?;
        gone.decode()
    }

    fn insert_inner<R: Row>(&self, row: &R) -> Result<Versioned<()>, StoreError> {
        if self.verified(R::KIND, &row.id())?.is_some() {
            return Err(StoreError::Exists {
                kind: R::KIND.into(),
                id: row.id().into(),
            });
        }
        let now_ms = self.now.wall_ms;
        let raw = self.prepare(row, 1, now_ms)?;
        let sql =
            "INSERT INTO object (kind, id, parent, name, generation, rev, created_ms, updated_ms, mac, body)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.put(sql, R::KIND, &raw)?;
        self.resum(R::KIND, &raw.parent, None, Some(&raw.mac))?;
        self.append(R::KIND, &raw, Op::Insert)?;
        Ok(Versioned {
            row: (),
            generation: 1,
            rev: raw.rev,
            created_ms: now_ms,
            updated_ms: now_ms,
        })
    }

    fn replace<R: Row>(&self, row: &R, expect: Expect, op: Op) -> Result<Raw, StoreError> {
        let old = self.expected(R::KIND, &row.id(), expect)?;
        let grown = match op {
            Op::Update => old.generation + 1,
            Op::Insert | Op::Status | Op::Delete => old.generation,
        };
        let raw = self.prepare(row, grown, old.created_ms)?;
        let sql = "UPDATE object SET parent = ?3, name = ?4, generation = ?5, rev = ?6, created_ms = ?7,
                   updated_ms = ?8, mac = ?9, body = ?10 WHERE kind = ?1 AND id = ?2";
        self.put(sql, R::KIND, &raw)?;
        if old.parent == raw.parent {
            self.resum(R::KIND, &raw.parent, Some(&old.mac), Some(&raw.mac))?;
        } else {
            self.resum(R::KIND, &old.parent, Some(&old.mac), None)?;
            self.resum(R::KIND, &raw.parent, None, Some(&raw.mac))?;
        }
        self.append(R::KIND, &raw, op)?;
        Ok(raw)
    }

    fn delete_inner(&self, kind: &str, id: &str, expect: Expect) -> Result<Raw, StoreError> {
        let mut raw = self.expected(kind, id, expect)?;
        let doing = || format!("deleting {kind} {id}");
        self.run(
            "DELETE FROM object WHERE kind = ?1 AND id = ?2",
            [kind, id],
            doing,
        )?;
        self.resum(kind, &raw.parent, Some(&raw.mac), None)?;
        raw.rev = self.next_rev()?;
        self.append(kind, &raw, Op::Delete)?;
        Ok(raw)
    }

    fn expected(&self, kind: &str, id: &str, expect: Expect) -> Result<Raw, StoreError> {
        let raw = self.verified(kind, id)?.ok_or_else(|| StoreError::NotFound {
            kind: kind.into(),
            id: id.into(),
        })?;
        let (expected, found) = match expect {
            Expect::Any => return Ok(raw),
            Expect::Generation(generation) => (generation, raw.generation),
            Expect::Rev(rev) => (rev, raw.rev),
        };
        if expected == found {
            Ok(raw)
        } else {
            Err(StoreError::Conflict {
                kind: kind.into(),
                id: id.into(),
                expected,
                found,
            })
        }
    }

    fn prepare<R: Row>(&self, row: &R, generation: u64, created_ms: u64) -> Result<Raw, StoreError> {
        let (kind, id) = (R::KIND.to_owned(), row.id().into_owned());
        let body = match serde_json::to_string(row) {
            Ok(body) => body,
            Err(cause) => {
                return Err(StoreError::Encode {
                    kind,
                    id,
                    cause: Arc::new(cause),
                });
            }
        };
        if body.len() > MAX_BODY_BYTES {
            return Err(StoreError::TooLarge {
                kind,
                id,
                bytes: body.len(),
                limit: MAX_BODY_BYTES,
            });
        }
        let mut raw = Raw {
            id,
            parent: row.parent().into_owned(),
            name: row.name().into_owned(),
            generation,
            rev: self.next_rev()?,
            created_ms,
            updated_ms: self.now.wall_ms,
            mac: Tag::default(),
            body,
        };
        raw.mac = raw.seal(self, R::KIND).tag();
        Ok(raw)
    }

    /// Runs before the log is appended to, so that a taken name leaves nothing behind.
    pub(crate) fn put(&self, sql: &str, kind: &str, raw: &Raw) -> Result<(), StoreError> {
        let doing = || format!("writing {kind} {}", raw.id);
        let mut statement = self
            .conn
            .prepare_cached(sql)
            .map_err(|cause| StoreError::sql(doing(), cause))?;
        let done = statement.execute(params![
            kind,
            raw.id,
            raw.parent,
            raw.name,
            to_db(raw.generation),
            to_db(raw.rev),
            to_db(raw.created_ms),
            to_db(raw.updated_ms),
            raw.mac,
            raw.body,
        ]);
        match done {
            Ok(1) => Ok(()),
            Ok(_) => Err(corrupt(kind, &raw.id, "the table and its index disagree")),
            Err(cause) if is_taken(&cause) => Err(StoreError::NameTaken {
                kind: kind.into(),
                parent: raw.parent.clone(),
                name: raw.name.clone(),
            }),
            Err(cause) => Err(StoreError::sql(doing(), cause)),
        }
    }

    fn resum(
        &self,
        kind: &str,
        parent: &str,
        gone: Option<&Tag>,
        come: Option<&Tag>,
    ) -> Result<(), StoreError> {
        let (mut members, mut sum) = self.collection(kind, parent)?;
        for tag in [gone, come].into_iter().flatten() {
            fold(&mut sum, tag);
        }
        members = match (gone, come) {
            (None, Some(_)) => members + 1,
            (Some(_), None) => members.saturating_sub(1),
            (Some(_), Some(_)) | (None, None) => members,
        };
        self.set_collection(kind, parent, members, &sum)
    }

    pub(crate) fn set_collection(
        &self,
        kind: &str,
        parent: &str,
        members: u64,
        sum: &Tag,
    ) -> Result<(), StoreError> {
        let doing = || format!("writing the list of {kind} under {parent}");
        if members == 0 {
            let sql = "DELETE FROM collection WHERE kind = ?1 AND parent = ?2";
            return self.run(sql, [kind, parent], doing).map(|_| ());
        }
        let seal = self
            .keys
            .integrity
            .seal("collection")
            .text(kind)
            .text(parent)
            .number(members)
            .bytes(sum)
            .tag();
        let sql = "INSERT INTO collection (kind, parent, members, sum, mac) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT (kind, parent) DO UPDATE
                   SET members = excluded.members, sum = excluded.sum, mac = excluded.mac";
        self.run(sql, params![kind, parent, to_db(members), sum, seal], doing)
            .map(|_| ())
    }
}

fn is_taken(cause: &rusqlite::Error) -> bool {
    cause.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::ConstraintViolation && error.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE
    })
}
