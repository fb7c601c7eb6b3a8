//! The typed documents: every noun of the product is a `Row` of some kind.
//!
//! Lives here: reading, inserting, updating, deleting objects; the checks before one is served.
//! Does not live here: the revision log's own queries (`log`), repair (`verify`).
//! Invariant: an object is served only if its seal fits, the log knows it as the latest, and (for lists) none of
//! its collection is missing. Every change appends to the log in the same transaction.

use std::borrow::Cow;

use rusqlite::{ErrorCode, Row as SqlRow, ffi, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

use crate::error::StoreError;
use crate::log::Op;
use crate::mac::{Tag, fold};
use crate::tx::{ReadTx, WriteTx, corrupt, number, tag, to_db};

/// Large enough for any manifest; larger content belongs in a file of its own.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// `find` proves an absence by the collection's sum up to this size; beyond, each unknown name would cost a scan.
const PROVEN_ABSENCE_MEMBERS: u64 = 512;
/// The first page of a walk proves its collection whole up to this size; beyond, `verify` does it in the background.
const PROVEN_PAGE_MEMBERS: u64 = 5000;

/// A kind of document.
pub trait Row: Serialize + DeserializeOwned {
    /// The kind's name in the store; never changes.
    const KIND: &'static str;
    /// The id, unique within the kind.
    fn id(&self) -> Cow<'_, str>;
    /// The id of what it belongs to; empty for roots.
    fn parent(&self) -> Cow<'_, str>;
    /// The name, unique within kind and parent. Things without a name use their id.
    fn name(&self) -> Cow<'_, str>;
}

/// A row with what the store knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The document.
    pub row: R,
    /// Grows with each change of what is desired.
    pub generation: u64,
    /// The revision of its last change of any sort.
    pub rev: u64,
    /// When it was inserted.
    pub created_ms: u64,
    /// When it was last changed.
    pub updated_ms: u64,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<R> {
    /// The rows, in the order of the walk.
    pub rows: Vec<Versioned<R>>,
    /// The name to continue from; none at the end.
    pub next: Option<String>,
}

/// What a change expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// The desired state is what the caller has read.
    Generation(u64),
    /// Nothing at all changed since the caller has read it.
    Rev(u64),
}

impl From<Option<u64>> for Expect {
    fn from(generation: Option<u64>) -> Self {
        generation.map_or(Self::Any, Self::Generation)
    }
}

/// An object as it lies in the table.
pub(crate) struct Raw {
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) rev: u64,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    pub(crate) mac: Tag,
    pub(crate) body: String,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, parent, name, generation, rev, created_ms, updated_ms, mac, body FROM object ",
            $rest
        )
    };
}
pub(crate) use select;

impl Raw {
    /// Reads a row of `select!`. One that cannot even be read is told by its id, with an `Err` inside.
    pub(crate) fn read(row: &SqlRow<'_>) -> rusqlite::Result<Result<Self, String>> {
        let whole = || -> rusqlite::Result<Self> {
            Ok(Self {
                id: row.get(0)?,
                parent: row.get(1)?,
                name: row.get(2)?,
                generation: number(row, 3)?,
                rev: number(row, 4)?,
                created_ms: number(row, 5)?,
                updated_ms: number(row, 6)?,
                mac: tag(row, 7)?,
                body: row.get(8)?,
            })
        };
        Ok(whole().map_err(|_| {
            row.get::<_, String>(0)
                .unwrap_or_else(|_| "with an unreadable id".into())
        }))
    }

    pub(crate) fn seal(&self, tx: &ReadTx, kind: &str) -> crate::mac::Fields {
        (tx.keys
            .integrity
            .seal("object")
            .text(kind)
            .text(&self.id)
            .text(&self.parent)
            .text(&self.name))
        .number(self.generation)
        .number(self.rev)
        .number(self.created_ms)
        .number(self.updated_ms)
        .text(&self.body)
    }

    fn decode<R: Row>(self) -> Result<Versioned<R>, StoreError> {
        let row = serde_json::from_str(&self.body).map_err(|cause| StoreError::Unreadable {
            kind: R::KIND.into(),
            id: self.id.clone(),
            cause: Arc::new(cause),
        })?;
        Ok(Versioned {
            row,
            generation: self.generation,
            rev: self.rev,
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
        })
    }
}

type Found = Result<Raw, String>;

impl ReadTx {
    /// The object with this id.
    pub fn get<R: Row>(&self, id: &str) -> Result<Option<Versioned<R>>, StoreError> {
        self.verified(R::KIND, id)?.map(Raw::decode).transpose()
    }

    /// The object with this id, or `NotFound`.
    pub fn need<R: Row>(&self, id: &str) -> Result<Versioned<R>, StoreError> {
        self.get(id)?.ok_or_else(|| StoreError::NotFound {
            kind: R::KIND.into(),
            id: id.into(),
        })
    }

    /// The object with this name under this parent.
    pub fn find<R: Row>(&self, parent: &str, name: &str) -> Result<Option<Versioned<R>>, StoreError> {
        let sql = select!("WHERE kind = ?1 AND parent = ?2 AND name = ?3");
        let doing = || format!("finding {} {name}", R::KIND);
        match self.first(sql, [R::KIND, parent, name], Raw::read, doing)? {
            Some(found) => {
                let raw = self.checked(R::KIND, found)?;
                if raw.parent != parent || raw.name != name {
                    return Err(corrupt(
                        R::KIND,
                        &raw.id,
                        "the index by name points to it wrongly",
                    ));
                }
                self.latest_is(R::KIND, &raw)?;
                raw.decode().map(Some)
            }
            None => {
                if self.collection(R::KIND, parent)?.0 <= PROVEN_ABSENCE_MEMBERS {
                    self.whole(R::KIND, parent)?;
                }
                Ok(None)
            }
        }
    }

    /// All objects under a parent, by name. One corrupt object fails the whole list: see `list_intact`.
    pub fn list<R: Row>(&self, parent: &str) -> Result<Vec<Versioned<R>>, StoreError> {
        self.whole(R::KIND, parent)?
            .into_iter()
            .map(Raw::decode)
            .collect()
    }

    /// All objects of a kind, by parent and name. One corrupt object fails the whole list: see `list_all_intact`.
    pub fn list_all<R: Row>(&self) -> Result<Vec<Versioned<R>>, StoreError> {
        self.whole_kind(R::KIND)?.into_iter().map(Raw::decode).collect()
    }

    /// The objects of a kind that are what was written, and what is wrong with the others: so that one corrupt
    /// object does not stop the work for all.
    pub fn list_all_intact<R: Row>(&self) -> Result<(Vec<Versioned<R>>, Vec<StoreError>), StoreError> {
        let doing = || format!("listing {}", R::KIND);
        let found = self.all(
            select!("WHERE kind = ?1 ORDER BY parent, name"),
            [R::KIND],
            Raw::read,
            doing,
        )?;
        let (mut rows, mut bad) = (Vec::new(), Vec::new());
        let mut seen = std::collections::BTreeSet::new();
        for found in found {
            seen.insert(match &found {
                Ok(raw) => raw.id.clone(),
                Err(id) => id.clone(),
            });
            let one = self
                .checked(R::KIND, found)
                .and_then(|raw| self.latest_is(R::KIND, &raw).map(|()| raw));
            match one.and_then(Raw::decode) {
                Ok(row) => rows.push(row),
                Err(failure) => bad.push(failure),
            }
        }
        for id in self.live_ids(R::KIND)? {
            if !seen.contains(&id) {
                bad.push(corrupt(R::KIND, &id, "it is missing, though the log has it"));
            }
        }
        Ok((rows, bad))
    }

    /// Up to `limit` objects under a parent whose names come after `after` (empty: from the first).
    pub fn page<R: Row>(&self, parent: &str, after: &str, limit: usize) -> Result<Page<R>, StoreError> {
        let sql = select!("WHERE kind = ?1 AND parent = ?2 AND name > ?3 ORDER BY name LIMIT ?4");
        if after.is_empty() {
            self.prove_page::<R>(parent)?;
        }
        self.page_of(sql, parent, after, limit)
    }

    /// The same from the last name backwards (`before` empty: from the last): with ids or numbers that grow as
    /// names, the newest first.
    pub fn page_back<R: Row>(&self, parent: &str, before: &str, limit: usize) -> Result<Page<R>, StoreError> {
        if before.is_empty() {
            self.prove_page::<R>(parent)?;
            let sql = select!("WHERE kind = ?1 AND parent = ?2 AND name >= ?3 ORDER BY name DESC LIMIT ?4");
            return self.page_of(sql, parent, before, limit);
        }
        let sql = select!("WHERE kind = ?1 AND parent = ?2 AND name < ?3 ORDER BY name DESC LIMIT ?4");
        self.page_of(sql, parent, before, limit)
    }

    /// How many objects of a kind there are under a parent; for quotas.
    pub fn count<R: Row>(&self, parent: &str) -> Result<u64, StoreError> {
        self.collection(R::KIND, parent).map(|(members, _)| members)
    }

    fn prove_page<R: Row>(&self, parent: &str) -> Result<(), StoreError> {
        if self.collection(R::KIND, parent)?.0 <= PROVEN_PAGE_MEMBERS {
            self.whole(R::KIND, parent)?;
        }
        Ok(())
    }

    fn page_of<R: Row>(
        &self,
        sql: &str,
        parent: &str,
        from: &str,
        limit: usize,
    ) -> Result<Page<R>, StoreError> {
        // One more than asked for tells whether there is a next page.
        let asked = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let doing = || format!("listing {} under {parent}", R::KIND);
        let found = self.all(sql, params![R::KIND, parent, from, asked], Raw::read, doing)?;
        let mut raws = Vec::with_capacity(found.len());
        for found in found {
            let raw = self.checked(R::KIND, found)?;
            self.latest_is(R::KIND, &raw)?;
            raws.push(raw);
        }
        let more = raws.len() > limit;
        raws.truncate(limit);
        let next = raws.last().filter(|_| more).map(|raw| raw.name.clone());
        Ok(Page {
            rows: raws.into_iter().map(Raw::decode).collect::<Result<_, _>>()?,
            next,
        })
    }

    /// The object if it is what was last written. Absent means: the log says so too.
    pub(crate) fn verified(&self, kind: &str, id: &str) -> Result<Option<Raw>, StoreError> {
        let doing = || format!("reading {kind} {id}");
        match self.first(
            select!("WHERE kind = ?1 AND id = ?2"),
            [kind, id],
            Raw::read,
            doing,
        )? {
            Some(found) => {
                let raw = self.checked(kind, found)?;
                if raw.id != id {
                    return Err(corrupt(kind, id, "the index by id points to another object"));
                }
                self.latest_is(kind, &raw)?;
                Ok(Some(raw))
            }
            None => match self.latest(kind, id)? {
                None | Some((_, Op::Delete)) => Ok(None),
                Some((_, Op::Insert | Op::Update | Op::Status)) => {
                    Err(corrupt(kind, id, "it is missing, though the log has it"))
                }
            },
        }
    }

    /// The object if its seal fits.
    pub(crate) fn checked(&self, kind: &str, found: Found) -> Result<Raw, StoreError> {
        let raw = found.map_err(|id| corrupt(kind, &id, "it cannot be read"))?;
        if raw.seal(self, kind).is(&raw.mac) {
            Ok(raw)
        } else {
            Err(corrupt(kind, &raw.id, "its seal does not fit what it says"))
        }
    }

    /// Refuses an object that is older or newer than the log's last entry about it.
    pub(crate) fn latest_is(&self, kind: &str, raw: &Raw) -> Result<(), StoreError> {
        match self.latest(kind, &raw.id)? {
            Some((rev, Op::Insert | Op::Update | Op::Status)) if rev == raw.rev => Ok(()),
            Some((_, Op::Insert | Op::Update | Op::Status | Op::Delete)) | None => {
                Err(corrupt(kind, &raw.id, "the log knows another last change of it"))
            }
        }
    }

    /// All members of a collection, each checked, and none missing.
    fn whole(&self, kind: &str, parent: &str) -> Result<Vec<Raw>, StoreError> {
        let doing = || format!("listing {kind} under {parent}");
        let sql = select!("WHERE kind = ?1 AND parent = ?2 ORDER BY name");
        let found = self.all(sql, [kind, parent], Raw::read, doing)?;
        let (members, sum) = self.collection(kind, parent)?;
        let raws = found
            .into_iter()
            .map(|one| self.checked(kind, one))
            .collect::<Result<Vec<_>, _>>()?;
        self.sums_up(kind, raws, members, sum)
    }

    fn whole_kind(&self, kind: &str) -> Result<Vec<Raw>, StoreError> {
        let doing = || format!("listing {kind}");
        let found = self.all(
            select!("WHERE kind = ?1 ORDER BY parent, name"),
            [kind],
            Raw::read,
            doing,
        )?;
        let (mut members, mut sum) = (0, Tag::default());
        for parent in self.all(
            "SELECT parent FROM collection WHERE kind = ?1",
            [kind],
            |row| row.get::<_, String>(0),
            doing,
        )? {
            let (more, part) = self.collection(kind, &parent)?;
            members += more;
            fold(&mut sum, &part);
        }
        let raws = found
            .into_iter()
            .map(|one| self.checked(kind, one))
            .collect::<Result<Vec<_>, _>>()?;
        self.sums_up(kind, raws, members, sum)
    }

    fn sums_up(&self, kind: &str, raws: Vec<Raw>, members: u64, sum: Tag) -> Result<Vec<Raw>, StoreError> {
        let mut seen = Tag::default();
        for raw in &raws {
            fold(&mut seen, &raw.mac);
        }
        if seen == sum && raws.len() as u64 == members {
            return Ok(raws);
        }
        // Something is missing or of another time: the log names it.
        for raw in &raws {
            self.latest_is(kind, raw)?;
        }
        for id in self.live_ids(kind)? {
            self.verified(kind, &id)?;
        }
        Err(corrupt(
            kind,
            "(list)",
            "the list does not add up, and the log cannot say what is missing",
        ))
    }

    /// How many members a collection has, and the sum of their seals.
    pub(crate) fn collection(&self, kind: &str, parent: &str) -> Result<(u64, Tag), StoreError> {
        let sql = "SELECT members, sum, mac FROM collection WHERE kind = ?1 AND parent = ?2";
        let doing = || format!("reading the list of {kind} under {parent}");
        let read = |row: &SqlRow<'_>| Ok((number(row, 0)?, tag(row, 1)?, tag(row, 2)?));
        let Some((members, sum, mac)) = self.first(sql, [kind, parent], read, doing)? else {
            return Ok((0, Tag::default()));
        };
        let seal = self
            .keys
            .integrity
            .seal("collection")
            .text(kind)
            .text(parent)
            .number(members)
            .bytes(&sum);
        if seal.is(&mac) {
            Ok((members, sum))
        } else {
            Err(corrupt(kind, "(list)", "the list's seal does not fit"))
        }
    }
}

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
