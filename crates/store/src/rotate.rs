//! Another master key: added under load, everything sealed again with it, the old ones retired.
//!
//! Lives here: the order of it, the walk over all that is sealed.
//! Does not live here: the file of the keys (`ring`), when and for whom it is done (`control`).
//! Invariant: a key leaves the file only when nothing that is committed and whole was sealed with it, and nothing ever will
//! be: only a write seals ([`WriteTx::seal`]), writes come one after the other, the newest key is chosen inside one, and
//! keys are retired inside one, if the newest is still the one for which nothing was stale. An entry of the history that is
//! not as it was written opens nothing for anybody and keeps no key.
//!
//! ```text
//! add_key: file (fsync, rename, fsync) -> seals from now on
//! reseal: live rows as changes of their own, history in its place, answers to idempotency keys -- in bounded steps
//! retire_keys: nothing stale in a snapshot -> WAL emptied -> still the newest key? file (fsync, rename, fsync)
//! ```
//! Each step may be the last before a crash: the next walk begins anew and finds less to do.

use std::sync::{MutexGuard, PoisonError};

use model::{BackupTarget, Database, IdentityProvider};
use rusqlite::params;

use crate::Store;
use crate::error::StoreError;
use crate::log::{self, Change, LOG_COLUMNS, read_change};
use crate::object::{Expect, Row};
use crate::ring::MasterKey;
use crate::rows::{Holder, SecretVersion};
use crate::secret::Sealed;
use crate::tx::{Keys, Now, ReadTx, WriteTx, number, to_db};

/// Rows looked at in one transaction: other writers wait for it.
const STEP: i64 = 200;
/// The kinds of rows that hold sealed values, as a list for SQL.
const HOLDERS: &str = "('secret', 'database', 'identity_provider', 'backup_target')";

/// A walk over everything that is sealed.
#[derive(Debug, Default, Clone)]
pub struct Resealing {
    part: Part,
    at: u64,
    /// Rows and history entries looked at so far.
    pub seen: u64,
    /// Those of them that were sealed again.
    pub changed: u64,
    /// What does not open with any key there is; it did not before either.
    pub closed: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Objects,
    Log,
    Answers,
    End,
}

/// What came of retiring the old keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// The newest is the only one.
    Done,
    /// Something is sealed with an old one.
    Needed,
    /// A reader holds on to frames of the WAL that show what was sealed with an old one: ask again.
    WalInUse,
    /// Meanwhile another key seals: what it replaced may still be needed.
    Superseded,
}

/// What became of the sealed values of one row.
#[derive(Default)]
struct Found {
    stale: u64,
    closed: u64,
}

impl Store {
    /// The public names of the keys in the file, oldest first: the last one seals.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.master().ids()
    }

    /// Adds a key that seals from now on; returns its public name. Old values still open.
    pub fn add_key(&self, now: Now) -> Result<String, StoreError> {
        // Inside a write: none is between sealing and committing.
        self.write(now, |tx| {
            let mut master = tx.keys.master();
            let key = master.add()?;
            tx.keys.sealer.add(key);
            Ok(master.ids().pop().unwrap_or_default())
        })
    }

    /// How much a walk has to look at.
    pub fn sealed_count(&self) -> Result<u64, StoreError> {
        self.read(|tx| {
            let sql = format!(
                "SELECT (SELECT count(*) FROM object WHERE kind IN {HOLDERS})
                 + (SELECT count(*) FROM log WHERE kind IN {HOLDERS}) + (SELECT count(*) FROM idempotency)"
            );
            let doing = || "counting what is sealed".to_owned();
            Ok(tx.first(&sql, [], |row| number(row, 0), doing)?.unwrap_or(0))
        })
    }

    /// One bounded step of a walk; true when it came to the end.
    pub fn reseal(&self, now: Now, walk: &mut Resealing) -> Result<bool, StoreError> {
        let mut next = walk.clone();
        let next = self.write(now, |tx| {
            match next.part {
                Part::Objects => tx.reseal_objects(&mut next)?,
                Part::Log => tx.reseal_log(&mut next)?,
                Part::Answers => tx.reseal_answers(&mut next)?,
                Part::End => {}
            }
            Ok::<_, StoreError>(next)
        })?;
        *walk = next;
        Ok(walk.part == Part::End)
    }

    /// How many committed rows, history entries and answers were not sealed with the newest key.
    pub fn stale_count(&self) -> Result<u64, StoreError> {
        self.read(ReadTx::stale_count)
    }

    /// Takes all but the newest key out of the file, when nothing needs them any more.
    pub fn retire_keys(&self, now: Now) -> Result<Retired, StoreError> {
        let newest = self.keys.master().newest();
        if self.stale_count()? > 0 {
            return Ok(Retired::Needed);
        }
        // Otherwise frames of the WAL still show what was sealed with the old key.
        if !self.writer.checkpoint()? {
            return Ok(Retired::WalInUse);
        }
        self.retire_before(now, newest.as_deref())
    }

    /// Inside a write: nothing needs what is older than this key, and no other can be added meanwhile.
    fn retire_before(&self, now: Now, newest: Option<&str>) -> Result<Retired, StoreError> {
        self.write(now, |tx| {
            let mut master = tx.keys.master();
            if master.newest().as_deref() != newest {
                return Ok(Retired::Superseded);
            }
            if master.keys().len() > 1 {
                master.retire()?;
            }
            Ok(Retired::Done)
        })
    }
}

impl Keys {
    fn master(&self) -> MutexGuard<'_, MasterKey> {
        // A failed rotation leaves the ring as it was.
        self.master.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stale(&self, sealed: &[u8]) -> bool {
        !sealed.is_empty() && self.sealer.is_stale(&Sealed(sealed.to_vec()))
    }

    /// Seals what is stale in a body again; the new body when something was.
    fn renew(&self, kind: &str, body: &str, found: &mut Found) -> Option<String> {
        match kind {
            SecretVersion::KIND => self.renew_row::<SecretVersion>(body, found),
            Database::KIND => self.renew_row::<Database>(body, found),
            IdentityProvider::KIND => self.renew_row::<IdentityProvider>(body, found),
            BackupTarget::KIND => self.renew_row::<BackupTarget>(body, found),
            _ => None,
        }
    }

    fn renew_row<R: Holder>(&self, body: &str, found: &mut Found) -> Option<String> {
        let mut row: R = serde_json::from_str(body).ok()?;
        let mut is_new = false;
        for inside in row.inside() {
            if !self.is_stale(inside.sealed) {
                continue;
            }
            let (tenant, name, version) = (&inside.tenant, inside.name, inside.version);
            let old = Sealed(inside.sealed.clone());
            let opened = self.sealer.open(tenant, name, version, &old);
            match opened.and_then(|plain| self.sealer.seal(tenant, name, version, &plain)) {
                Ok(sealed) => {
                    *inside.sealed = sealed.0;
                    found.stale += 1;
                    is_new = true;
                }
                Err(_) => found.closed += 1,
            }
        }
        is_new.then(|| serde_json::to_string(&row).ok()).flatten()
    }
}

impl ReadTx {
    fn stale_count(&self) -> Result<u64, StoreError> {
        let doing = || "looking for what is sealed with an old key".to_owned();
        let mut found = Found::default();
        let mut at = 0_i64;
        loop {
            let sql = format!(
                "SELECT rowid, kind, body FROM object WHERE rowid > ?1 AND kind IN {HOLDERS} ORDER BY rowid LIMIT ?2"
            );
            let read = |row: &rusqlite::Row<'_>| {
                let (kind, body): (String, String) = (row.get(1)?, row.get(2)?);
                Ok((row.get::<_, i64>(0)?, kind, body))
            };
            let rows = self.all(&sql, [at, STEP], read, doing)?;
            let Some(last) = rows.last() else { break };
            at = last.0;
            for (_, kind, body) in &rows {
                let _new = self.keys.renew(kind, body, &mut found);
            }
        }
        let mut at = 0_u64;
        loop {
            let rows = self.holders_after(at)?;
            let Some(last) = rows.last() else { break };
            at = rev_of(last);
            // What is not as it was written is shown to nobody and never sealed again: it must not keep a key for ever.
            for change in rows
                .into_iter()
                .filter_map(|found| self.checked_change(found).ok())
            {
                let _new = self.keys.renew(&change.kind, &change.body, &mut found);
            }
        }
        let answers: Vec<Vec<u8>> =
            self.all("SELECT answer FROM idempotency", [], |row| row.get(0), doing)?;
        let stale = answers.iter().filter(|answer| self.keys.is_stale(answer)).count();
        Ok(found.stale + stale as u64)
    }

    /// The next entries of the history that hold sealed values.
    fn holders_after(&self, rev: u64) -> Result<Vec<log::Found>, StoreError> {
        let sql = format!("{LOG_COLUMNS} WHERE rev > ?1 AND kind IN {HOLDERS} ORDER BY rev LIMIT ?2");
        let doing = || "reading the history of what is sealed".to_owned();
        self.all(&sql, [to_db(rev), STEP], read_change, doing)
    }
}

fn rev_of(found: &log::Found) -> u64 {
    match found {
        Ok((change, _)) => change.rev,
        Err(rev) => *rev,
    }
}

impl WriteTx {
    /// A live row is changed as by anybody: whoever read it before and writes it back is told that it changed.
    fn reseal_objects(&self, walk: &mut Resealing) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT rowid, kind, id, body FROM object WHERE rowid > ?1 AND kind IN {HOLDERS} ORDER BY rowid LIMIT ?2"
        );
        let read = |row: &rusqlite::Row<'_>| {
            let (kind, id): (String, String) = (row.get(1)?, row.get(2)?);
            Ok((number(row, 0)?, kind, id, row.get::<_, String>(3)?))
        };
        let doing = || "sealing rows again".to_owned();
        let rows = self.all(&sql, [to_db(walk.at), STEP], read, doing)?;
        walk.part = if rows.is_empty() { Part::Log } else { Part::Objects };
        walk.at = rows.last().map_or(0, |row| row.0);
        for (_, kind, id, body) in rows {
            walk.seen += 1;
            let mut found = Found::default();
            if let Some(body) = self.keys.renew(&kind, &body, &mut found) {
                let done = match kind.as_str() {
                    SecretVersion::KIND => self.put_back::<SecretVersion>(&kind, &id, &body),
                    IdentityProvider::KIND => self.put_back::<IdentityProvider>(&kind, &id, &body),
                    BackupTarget::KIND => self.put_back::<BackupTarget>(&kind, &id, &body),
                    _ => self.put_back::<Database>(&kind, &id, &body),
                };
                match done {
                    Ok(()) => walk.changed += 1,
                    // It is refused as it is; `stoa doctor --repair` decides about it.
                    Err(StoreError::Corrupt { .. }) => walk.closed += 1,
                    Err(failure) => return Err(failure),
                }
            }
            walk.closed += found.closed;
        }
        Ok(())
    }

    fn put_back<R: Row>(&self, kind: &str, id: &str, body: &str) -> Result<(), StoreError> {
        let row: R = serde_json::from_str(body).map_err(|cause| StoreError::Unreadable {
            kind: kind.into(),
            id: id.into(),
            cause: std::sync::Arc::new(cause),
        })?;
        self.update_status(&row, Expect::Any).map(drop)
    }

    /// History keeps its revisions: only how the values in it are sealed changes.
    fn reseal_log(&self, walk: &mut Resealing) -> Result<(), StoreError> {
        let doing = || "sealing the log again".to_owned();
        let rows = self.holders_after(walk.at)?;
        if rows.is_empty() {
            (walk.part, walk.at) = (Part::Answers, 0);
            return Ok(());
        }
        for found in rows {
            walk.seen += 1;
            walk.at = rev_of(&found);
            // What is not as it was written stays as it is, and named by whoever reads it.
            let Ok(change) = self.checked_change(found) else {
                walk.closed += 1;
                continue;
            };
            let mut found = Found::default();
            if let Some(body) = self.keys.renew(&change.kind, &change.body, &mut found) {
                let renewed = Change { body, ..change };
                let sql = "UPDATE log SET body = ?2, mac = ?3 WHERE rev = ?1";
                let mac = renewed.seal(self).tag();
                self.run(sql, params![to_db(renewed.rev), renewed.body, mac], doing)?;
                walk.changed += 1;
            }
            walk.closed += found.closed;
        }
        Ok(())
    }

    fn reseal_answers(&self, walk: &mut Resealing) -> Result<(), StoreError> {
        let sql =
            "SELECT rowid, actor, key, answer FROM idempotency WHERE rowid > ?1 ORDER BY rowid LIMIT ?2";
        let read = |row: &rusqlite::Row<'_>| {
            let (actor, key): (String, String) = (row.get(1)?, row.get(2)?);
            Ok((number(row, 0)?, actor, key, row.get::<_, Vec<u8>>(3)?))
        };
        let doing = || "sealing answers again".to_owned();
        let rows = self.all(sql, [to_db(walk.at), STEP], read, doing)?;
        if rows.is_empty() {
            (walk.part, walk.at) = (Part::End, 0);
        }
        for (at, actor, key, answer) in rows {
            (walk.at, walk.seen) = (at, walk.seen + 1);
            if !self.keys.is_stale(&answer) {
                continue;
            }
            if self.reseal_answer(&actor, &key)? {
                walk.changed += 1;
            } else {
                walk.closed += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds that the SQL names are those that `renew` knows.
    #[test]
    fn every_holder_is_in_the_list() {
        let kinds = [
            SecretVersion::KIND,
            Database::KIND,
            IdentityProvider::KIND,
            BackupTarget::KIND,
        ];
        for kind in kinds {
            assert!(HOLDERS.contains(&format!("'{kind}'")), "{kind}");
        }
    }

    #[test]
    fn a_key_that_was_newest_when_it_was_looked_at_retires_none_once_another_seals() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, file) = (dir.path().join("stoa.db"), dir.path().join("master.key"));
        let key = MasterKey::load_or_create(&file, &path).expect("a key");
        let store = Store::open(&path, &key, Now::at(1)).expect("a store");
        let second = store.add_key(Now::at(2)).expect("added");
        // Another rotation begins between the look and the end of the first.
        store.add_key(Now::at(3)).expect("added");
        let late = store.retire_before(Now::at(4), Some(&second)).expect("asked");
        assert_eq!((late, store.key_ids().len()), (Retired::Superseded, 3));
        let newest = store.key_ids().pop();
        let done = store.retire_before(Now::at(5), newest.as_deref()).expect("asked");
        assert_eq!((done, store.key_ids().len()), (Retired::Done, 1));
    }
}
