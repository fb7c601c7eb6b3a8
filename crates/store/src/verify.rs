//! Comparing the tables with the log, and restoring one from the other.
//!
//! Lives here: the whole check, the repair.
//! Does not live here: the checks of each single read (`object`, `log`), the audit's own (`audit`).
//! Invariant: a repair never overwrites what is intact, and never invents: what neither table nor log can prove
//! stays refused and is named.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::StoreError;
use crate::log::{Change, LOG_COLUMNS, Op, read_change};
use crate::mac::{Tag, fold};
use crate::object::{Raw, select};
use crate::tx::{ReadTx, WriteTx, corrupt, number, to_db};

/// Findings named one by one; beyond it, the file is to be restored, not repaired.
const MAX_NAMED: usize = 1000;
const STEP: i64 = 1000;

/// What a whole check found.
#[derive(Debug, Default)]
pub struct Health {
    /// Objects looked at.
    pub objects: u64,
    /// Log entries looked at.
    pub changes: u64,
    /// What is not as it was written, named.
    pub bad: Vec<StoreError>,
}

/// What a repair did.
#[derive(Debug, Default)]
pub struct Repair {
    /// Objects restored from the log, as `(kind, id)`.
    pub restored: Vec<(String, String)>,
    /// What cannot be restored: it stays refused.
    pub lost: Vec<StoreError>,
}

impl ReadTx {
    /// Checks every object, every log entry and every list against each other.
    pub fn verify(&self) -> Result<Health, StoreError> {
        let mut health = Health::default();
        let mut live = self.verify_log(&mut health)?;
        let mut sums: BTreeMap<(String, String), (u64, Tag)> = BTreeMap::new();
        for kind in self.kinds()? {
            for found in self.objects_of(&kind)? {
                health.objects += 1;
                let known = match &found {
                    Ok(raw) => live.remove(&(kind.clone(), raw.id.clone())),
                    Err(_) => None,
                };
                match self.checked(&kind, found) {
                    Ok(raw) if known != Some(raw.rev) => {
                        health.name(corrupt(&kind, &raw.id, "the log knows another last change of it"));
                    }
                    Ok(raw) => {
                        let sum = sums.entry((kind.clone(), raw.parent)).or_default();
                        sum.0 += 1;
                        fold(&mut sum.1, &raw.mac);
                    }
                    Err(failure) => health.name(failure),
                }
            }
        }
        for (kind, id) in live.into_keys() {
            health.name(corrupt(&kind, &id, "it is missing, though the log has it"));
        }
        if health.bad.is_empty() {
            self.verify_lists(&sums, &mut health)?;
        }
        Ok(health)
    }

    /// The end of the log as of now; refuses a log whose end does not fit.
    pub(crate) fn check_end(&self) -> Result<u64, StoreError> {
        let rev = self.rev()?;
        let sql = "SELECT coalesce(max(rev), 0) FROM log";
        let last = self
            .first(sql, [], |row| number(row, 0), || "reading the log's end".into())?
            .unwrap_or(0);
        if rev == last.max(self.meta_number("compacted")?) {
            return Ok(rev);
        }
        Err(StoreError::Damaged {
            doing: "reading the log's end".into(),
            detail: format!("the last revision is {rev}, but the log ends at {last}"),
        })
    }

    fn verify_log(&self, health: &mut Health) -> Result<BTreeMap<(String, String), u64>, StoreError> {
        let compacted = self.meta_number("compacted")?;
        let mut live = BTreeMap::new();
        let (mut at, mut expected) = (0, compacted + 1);
        let sql = format!("{LOG_COLUMNS} WHERE rev > ?1 ORDER BY rev LIMIT ?2");
        loop {
            let found = self.all(&sql, [to_db(at), STEP], read_change, || {
                "verifying the log".into()
            })?;
            if found.is_empty() {
                break;
            }
            for found in found {
                health.changes += 1;
                at = match &found {
                    Ok((change, _)) => change.rev,
                    Err(rev) => *rev,
                };
                if at > compacted {
                    if at != expected {
                        health.name(corrupt("log", &expected.to_string(), "the revision is missing"));
                    }
                    expected = at + 1;
                }
                match self.checked_change(found) {
                    Ok(Change {
                        kind,
                        id,
                        op: Op::Delete,
                        ..
                    }) => {
                        live.remove(&(kind, id));
                    }
                    Ok(Change {
                        kind,
                        id,
                        rev,
                        op: Op::Insert | Op::Update | Op::Status,
                        ..
                    }) => {
                        live.insert((kind, id), rev);
                    }
                    Err(failure) => health.name(failure),
                }
            }
        }
        let rev = self.rev()?;
        if rev != at.max(compacted) {
            health.name(corrupt("log", &rev.to_string(), "the revision is missing"));
        }
        Ok(live)
    }

    fn verify_lists(
        &self,
        sums: &BTreeMap<(String, String), (u64, Tag)>,
        health: &mut Health,
    ) -> Result<(), StoreError> {
        for ((kind, parent), sum) in sums {
            match self.collection(kind, parent) {
                Ok(found) if found == *sum => {}
                Ok(_) => health.name(corrupt(kind, "(list)", "the list does not add up")),
                Err(failure) => health.name(failure),
            }
        }
        for key in self.collections()? {
            if !sums.contains_key(&key) {
                health.name(corrupt(
                    &key.0,
                    "(list)",
                    "the list names objects that are not there",
                ));
            }
        }
        Ok(())
    }

    fn kinds(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT kind FROM object ORDER BY kind";
        self.all(
            sql,
            [],
            |row| row.get(0),
            || "reading which kinds there are".into(),
        )
    }

    fn objects_of(&self, kind: &str) -> Result<Vec<Result<Raw, String>>, StoreError> {
        // NOT INDEXED: the table itself is asked, so that an object an index lost is still seen.
        let sql = select!("NOT INDEXED WHERE kind = ?1");
        self.all(sql, [kind], Raw::read, || format!("verifying {kind}"))
    }

    fn collections(&self) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT kind, parent FROM collection";
        self.all(
            sql,
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
            || "verifying lists".into(),
        )
    }
}

impl Health {
    fn name(&mut self, failure: StoreError) {
        if self.bad.len() < MAX_NAMED {
            self.bad.push(failure);
        }
    }
}

impl WriteTx {
    /// Restores corrupt or missing objects from their last log entry, log entries from intact objects, and the
    /// lists from both. What cannot be restored is named and removed: the caller has kept a copy.
    pub fn repair(&self) -> Result<Repair, StoreError> {
        self.guard(self.repair_inner())
    }

    fn repair_inner(&self) -> Result<Repair, StoreError> {
        let mut repair = Repair::default();
        let last = self.last_changes(&mut repair)?;
        let mut kinds: BTreeSet<String> = self.kinds()?.into_iter().collect();
        kinds.extend(last.keys().map(|(kind, _)| kind.clone()));
        for kind in kinds {
            let mut intact = BTreeSet::new();
            for found in self.objects_of(&kind)? {
                let id = match &found {
                    Ok(raw) => raw.id.clone(),
                    Err(id) => id.clone(),
                };
                let entry = last.get(&(kind.clone(), id.clone()));
                match (self.checked(&kind, found), entry) {
                    (Ok(raw), Some(change)) if change.op != Op::Delete && change.rev == raw.rev => {
                        intact.insert(id);
                    }
                    // Sealed, and newer than anything the log still has: the log's entry is what was lost.
                    (Ok(raw), entry) if entry.is_none_or(|change| change.rev < raw.rev) => {
                        self.restore_change(&kind, &raw)?;
                        intact.insert(id);
                    }
                    (Ok(_), _) | (Err(_), Some(_)) => {}
                    // Nothing can be told of it: while it lies there, every list of its kind is refused, and its name taken.
                    (Err(failure), None) => {
                        let doing = || format!("removing what is left of {kind} {id}");
                        let sql = "DELETE FROM object WHERE kind = ?1 AND id = ?2";
                        self.run(sql, [&kind, &id], doing)?;
                        repair.lost.push(failure);
                    }
                }
            }
            for ((_, id), change) in last
                .range((kind.clone(), String::new())..)
                .take_while(|(key, _)| key.0 == kind)
            {
                if !intact.contains(id) {
                    self.restore_object(change)?;
                    repair.restored.push((kind.clone(), id.clone()));
                }
            }
        }
        self.restore_lists()?;
        Ok(repair)
    }

    /// The last entry about each object, tombstones of absent objects left out.
    fn last_changes(&self, repair: &mut Repair) -> Result<BTreeMap<(String, String), Change>, StoreError> {
        let sql = format!("{LOG_COLUMNS} ORDER BY rev");
        let mut last = BTreeMap::new();
        for found in self.all(&sql, [], read_change, || "reading the log".into())? {
            match self.checked_change(found) {
                Ok(change) => {
                    last.insert((change.kind.clone(), change.id.clone()), change);
                }
                Err(failure) => repair.lost.push(failure),
            }
        }
        last.retain(|_, change| change.op != Op::Delete || self.is_there(&change.kind, &change.id));
        Ok(last)
    }

    fn is_there(&self, kind: &str, id: &str) -> bool {
        let sql = "SELECT 1 FROM object NOT INDEXED WHERE kind = ?1 AND id = ?2";
        matches!(
            self.first(sql, [kind, id], |_| Ok(()), || format!("reading {kind} {id}")),
            Ok(Some(()))
        )
    }

    fn restore_object(&self, change: &Change) -> Result<(), StoreError> {
        let doing = || format!("restoring {} {}", change.kind, change.id);
        let sql = "DELETE FROM object WHERE kind = ?1 AND id = ?2";
        self.run(sql, [&change.kind, &change.id], doing)?;
        if change.op == Op::Delete {
            return Ok(());
        }
        let mut raw = Raw {
            id: change.id.clone(),
            parent: change.parent.clone(),
            name: change.name.clone(),
            generation: change.generation,
            rev: change.rev,
            created_ms: change.created_ms,
            updated_ms: change.at_ms,
            mac: Tag::default(),
            body: change.body.clone(),
        };
        raw.mac = raw.seal(self, &change.kind).tag();
        let sql =
            "INSERT INTO object (kind, id, parent, name, generation, rev, created_ms, updated_ms, mac, body)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.put(sql, &change.kind, &raw)
    }

    fn restore_change(&self, kind: &str, raw: &Raw) -> Result<(), StoreError> {
        let doing = || format!("restoring revision {}", raw.rev);
        self.run("DELETE FROM log WHERE rev = ?1", [to_db(raw.rev)], doing)?;
        self.put_change(&Change {
            rev: raw.rev,
            kind: kind.into(),
            id: raw.id.clone(),
            parent: raw.parent.clone(),
            name: raw.name.clone(),
            generation: raw.generation,
            op: if raw.created_ms == raw.updated_ms {
                Op::Insert
            } else {
                Op::Update
            },
            created_ms: raw.created_ms,
            at_ms: raw.updated_ms,
            body: raw.body.clone(),
        })
    }

    fn restore_lists(&self) -> Result<(), StoreError> {
        let mut sums: BTreeMap<(String, String), (u64, Tag)> = BTreeMap::new();
        for kind in self.kinds()? {
            for found in self.objects_of(&kind)? {
                // A lost object is not counted: the list serves the others, `get` still refuses it by name.
                let Ok(raw) = self.checked(&kind, found) else {
                    continue;
                };
                let sum = sums.entry((kind.clone(), raw.parent)).or_default();
                sum.0 += 1;
                fold(&mut sum.1, &raw.mac);
            }
        }
        for (kind, parent) in self.collections()? {
            if !sums.contains_key(&(kind.clone(), parent.clone())) {
                self.set_collection(&kind, &parent, 0, &Tag::default())?;
            }
        }
        for ((kind, parent), (members, sum)) in sums {
            self.set_collection(&kind, &parent, members, &sum)?;
        }
        Ok(())
    }
}
