//! The typed documents: every noun of the product is a `Row` of some kind.
//!
//! Lives here: what a row is, reading rows, the checks before one is served.
//! Does not live here: changing rows (`mutate`), the revision log's own queries (`log`), repair (`verify`).
//! Invariant: an object is served only if its seal fits, the log knows it as the latest, and (for lists) none of
//! its collection is missing.

use std::borrow::Cow;
use std::collections::BTreeSet;

use rusqlite::{Row as SqlRow, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

use crate::error::StoreError;
use crate::log::Op;
use crate::mac::{Tag, fold};
use crate::tx::{ReadTx, corrupt, number, tag};

/// Large enough for any manifest; larger content belongs in a file of its own.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// `find` proves an absence by the collection's sum up to this size; beyond, each unknown name would cost a scan.
const PROVEN_ABSENCE_MEMBERS: u64 = 512;
/// The first page of a walk proves its collection whole up to this size, about what a page has; beyond, each page would cost
/// the whole list, and `verify` proves it in the background.
const PROVEN_PAGE_MEMBERS: u64 = 128;

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

/// What can be told of a kind although something of it is corrupt.
#[derive(Debug, Clone)]
pub struct Salvage<R> {
    /// The objects.
    pub rows: Vec<Versioned<R>>,
    /// What is wrong, whether or not the log made up for it.
    pub bad: Vec<StoreError>,
    /// Those that cannot be told at all.
    pub lost: BTreeSet<String>,
}

impl<R> Default for Salvage<R> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            bad: Vec::new(),
            lost: BTreeSet::new(),
        }
    }
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

    pub(crate) fn decode<R: Row>(self) -> Result<Versioned<R>, StoreError> {
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
            None => match self.prove_absence::<R>(parent) {
                Ok(()) => Ok(None),
                // Something of the list is corrupt: the log can still tell that it is not what was asked for.
                Err(failure) => {
                    let salvage = self.salvage::<R>()?;
                    let is_it = |row: &R| row.parent() == parent && row.name() == name;
                    match salvage.lost.is_empty() && !salvage.rows.iter().any(|found| is_it(&found.row)) {
                        true => Ok(None),
                        false => Err(failure),
                    }
                }
            },
        }
    }

    fn prove_absence<R: Row>(&self, parent: &str) -> Result<(), StoreError> {
        if self.collection(R::KIND, parent)?.0 <= PROVEN_ABSENCE_MEMBERS {
            self.whole(R::KIND, parent)?;
        }
        Ok(())
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
        let mut seen = BTreeSet::new();
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

    /// Everything of a kind that can still be told: what is corrupt in the table as the log has it last, which is sealed
    /// as well, so that one corrupt object stops neither the work for others nor for itself.
    pub fn salvage<R: Row>(&self) -> Result<Salvage<R>, StoreError> {
        let doing = || format!("listing {}", R::KIND);
        let sql = select!("NOT INDEXED WHERE kind = ?1");
        let mut salvage = Salvage::default();
        let mut seen = BTreeSet::new();
        for found in self.all(sql, [R::KIND], Raw::read, doing)? {
            let id = match &found {
                Ok(raw) => raw.id.clone(),
                Err(id) => id.clone(),
            };
            let checked = self.checked(R::KIND, found);
            match checked.and_then(|raw| self.latest_is(R::KIND, &raw).map(|()| raw.decode())) {
                Ok(Ok(row)) => salvage.rows.push(row),
                Ok(Err(failure)) | Err(failure) => {
                    match self.logged(&id)? {
                        Some(row) => salvage.rows.push(row),
                        None => drop(salvage.lost.insert(id.clone())),
                    }
                    salvage.bad.push(failure);
                }
            }
            seen.insert(id);
        }
        for id in self.live_ids(R::KIND)? {
            if seen.contains(&id) {
                continue;
            }
            match self.logged(&id)? {
                Some(row) => salvage.rows.push(row),
                None => drop(salvage.lost.insert(id.clone())),
            }
            let missing = "it is missing, though the log has it";
            salvage.bad.push(corrupt(R::KIND, &id, missing));
        }
        Ok(salvage)
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
