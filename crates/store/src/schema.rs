//! The tables, and the way from an older schema to this one.
//!
//! Lives here: numbered migrations, each in one transaction, with a copy of the file kept before each.
//! Does not live here: what the tables mean (each table's module).
//! Invariant: `user_version` is the number of the last migration, written in its transaction. A published
//! migration is never edited; a change of tables is a new entry.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::StoreError;

/// "stoa" in ASCII: tells our file from any other SQLite file.
const APPLICATION_ID: i32 = 0x73_74_6f_61;
/// Copies kept beside the store; older ones are removed, so that upgrades do not fill the disk over the years.
const KEPT_COPIES: usize = 3;

pub(crate) struct Migration {
    pub(crate) number: u32,
    pub(crate) sql: &'static str,
}

pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    sql: "
CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, mac BLOB NOT NULL) STRICT;

CREATE TABLE object (
  kind TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, name TEXT NOT NULL,
  generation INTEGER NOT NULL, rev INTEGER NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
  mac BLOB NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, id), UNIQUE (kind, parent, name)) STRICT;

CREATE TABLE collection (
  kind TEXT NOT NULL, parent TEXT NOT NULL, members INTEGER NOT NULL, sum BLOB NOT NULL, mac BLOB NOT NULL,
  PRIMARY KEY (kind, parent)) STRICT, WITHOUT ROWID;

CREATE TABLE log (
  rev INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, name TEXT NOT NULL,
  generation INTEGER NOT NULL, op TEXT NOT NULL, created_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  mac BLOB NOT NULL, body TEXT NOT NULL) STRICT;
CREATE INDEX log_object ON log (kind, id, rev, op);

CREATE TABLE lease (
  name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL, epoch INTEGER NOT NULL,
  until_mono_ms INTEGER NOT NULL, until_wall_ms INTEGER NOT NULL, mac BLOB NOT NULL) STRICT;

CREATE TABLE sequence (name TEXT NOT NULL PRIMARY KEY, last INTEGER NOT NULL, mac BLOB NOT NULL) STRICT;

CREATE TABLE idempotency (
  actor TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, begun_ms INTEGER NOT NULL,
  epoch INTEGER NOT NULL, status INTEGER NOT NULL, answer BLOB NOT NULL, mac BLOB NOT NULL,
  PRIMARY KEY (actor, key)) STRICT;
CREATE INDEX idempotency_begun ON idempotency (begun_ms);

CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, completes INTEGER UNIQUE, hash BLOB NOT NULL, record TEXT NOT NULL) STRICT;
",
}];

/// Brings the file to the newest schema, or refuses it.
pub(crate) fn migrate(conn: &mut Connection, path: &Path, steps: &[Migration]) -> Result<(), StoreError> {
    let known = steps.last().map_or(0, |step| step.number);
    let number = |name: &str| {
        conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|cause| StoreError::sql("reading the schema's number", cause))
    };
    let (application, found) = (number("application_id")?, number("user_version")?);
    let found = u32::try_from(found).unwrap_or(u32::MAX);
    let is_ours = application == i64::from(APPLICATION_ID);
    if !is_ours && (application != 0 || found != 0 || has_tables(conn)?) {
        return Err(StoreError::Foreign { path: path.into() });
    }
    if found > known {
        return Err(StoreError::NewerSchema {
            path: path.into(),
            found,
            known,
        });
    }
    for step in steps.iter().filter(|step| step.number > found) {
        if step.number > 1 {
            keep_copy(conn, path, step.number)?;
        }
        apply(conn, step)?;
    }
    Ok(())
}

fn apply(conn: &mut Connection, step: &Migration) -> Result<(), StoreError> {
    let doing = || format!("migrating the store to schema {}", step.number);
    let fail = |cause| StoreError::sql(doing(), cause);
    let tx = conn.transaction().map_err(fail)?;
    tx.execute_batch(step.sql).map_err(fail)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(fail)?;
    tx.pragma_update(None, "user_version", step.number)
        .map_err(fail)?;
    tx.commit().map_err(fail)
}

fn has_tables(conn: &Connection) -> Result<bool, StoreError> {
    conn.query_row("SELECT count(*) > 0 FROM sqlite_master", [], |row| row.get(0))
        .map_err(|cause| StoreError::sql("reading the list of tables", cause))
}

fn keep_copy(conn: &Connection, path: &Path, number: u32) -> Result<(), StoreError> {
    let copy = beside(path, &format!(".before-v{number}"));
    copy_into(conn, &copy)?;
    let number_of = |path: &PathBuf| path.to_str()?.rsplit_once(".before-v")?.1.parse::<u32>().ok();
    let directory = path.parent().unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(());
    };
    let prefix = beside(path, ".before-v");
    let mut copies: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|found| {
            found
                .to_str()
                .zip(prefix.to_str())
                .is_some_and(|(found, prefix)| found.starts_with(prefix))
        })
        .filter(|found| number_of(found).is_some())
        .collect();
    copies.sort_by_key(number_of);
    let surplus = copies.len().saturating_sub(KEPT_COPIES);
    for old in copies.into_iter().take(surplus) {
        std::fs::remove_file(&old)
            .map_err(|cause| StoreError::io(format!("removing {}", old.display()), cause))?;
    }
    Ok(())
}

/// Puts the copy that a newer program made before it migrated in the place of what it made of it.
pub(crate) fn undo(path: &Path, known: u32) -> Result<(), StoreError> {
    let fail = |cause| StoreError::io(format!("putting {} back", path.display()), cause);
    let copy = beside(path, &format!(".before-v{}", known + 1));
    let meta = std::fs::metadata(&copy).map_err(fail)?;
    if meta.len() == 0 {
        return Err(fail(std::io::ErrorKind::InvalidData.into()));
    }
    // First, lest SQLite take the newer program's pages for pages of the copy. A crash in between leaves either the
    // newer store again or its state at its last checkpoint, which was before it migrated.
    for suffix in ["-wal", "-shm"] {
        match std::fs::remove_file(beside(path, suffix)) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(fail(cause)),
            Ok(()) | Err(_) => {}
        }
    }
    sync_directory(path)
        .and_then(|()| std::fs::rename(&copy, path))
        .and_then(|()| sync_directory(path))
        .map_err(fail)
}

/// A consistent copy of the database, whole or not there at all.
///
/// By SQLite, never by reading the file: closing a descriptor of our own on it would drop SQLite's locks.
pub(crate) fn copy_into(conn: &Connection, to: &Path) -> Result<(), StoreError> {
    let doing = || format!("copying the store to {}", to.display());
    let part = beside(to, ".part");
    let attempt = || -> Result<(), StoreError> {
        match std::fs::remove_file(&part) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(doing(), cause));
            }
            Ok(()) | Err(_) => {}
        }
        // Made first, and private: SQLite would create it readable by all.
        create_private(&part)?;
        let name = part
            .to_str()
            .ok_or_else(|| StoreError::io(doing(), std::io::ErrorKind::InvalidInput.into()))?;
        conn.execute("VACUUM INTO ?1", [name])
            .map_err(|cause| StoreError::sql(doing(), cause))?;
        File::open(&part)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&part, to))
            .and_then(|()| sync_directory(to))
            .map_err(|cause| StoreError::io(doing(), cause))
    };
    attempt().inspect_err(|_| {
        let _gone = std::fs::remove_file(&part);
    })
}

/// Creates an empty file that only its owner may read.
pub(crate) fn create_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.sync_all())
        .and_then(|()| sync_directory(path))
        .map_err(|cause| StoreError::io(format!("creating {}", path.display()), cause))
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// The path with something appended to its file name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::open_writer;

    /// What a later version would bring, after the real first one.
    fn later(sql: &'static str, count: u32) -> Vec<Migration> {
        let first = Migration {
            number: 1,
            sql: MIGRATIONS[0].sql,
        };
        std::iter::once(first)
            .chain((2..=count).map(|number| Migration { number, sql }))
            .collect()
    }

    /// A store of version 1 with a row in it, as the first release would leave it.
    fn version_one() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("stoa.db");
        create_private(&path).expect("a file");
        let mut conn = open_writer(&path).expect("a connection");
        migrate(&mut conn, &path, &MIGRATIONS[..1]).expect("version 1");
        conn.execute("INSERT INTO meta VALUES ('kept', 'yes', x'00')", [])
            .expect("a row");
        (dir, path)
    }

    fn kept(path: &Path) -> (i64, String) {
        let conn = Connection::open(path).expect("a connection");
        let version = conn
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .expect("a version");
        (
            version,
            conn.query_row("SELECT value FROM meta", [], |row| row.get(0))
                .expect("the row"),
        )
    }

    #[test]
    fn migrating_keeps_the_rows_and_a_copy_of_before() {
        let (_dir, path) = version_one();
        let mut conn = open_writer(&path).expect("a connection");
        let steps = later("ALTER TABLE meta ADD COLUMN more TEXT NOT NULL DEFAULT ''", 2);
        migrate(&mut conn, &path, &steps).expect("version 2");
        migrate(&mut conn, &path, &steps).expect("nothing to do the second time");
        assert_eq!(kept(&path), (2, "yes".into()));
        assert_eq!(kept(&beside(&path, ".before-v2")), (1, "yes".into()));
        let older = migrate(&mut conn, &path, &steps[..1]);
        assert!(matches!(
            older,
            Err(StoreError::NewerSchema {
                found: 2,
                known: 1,
                ..
            })
        ));
    }

    #[test]
    fn a_migration_can_be_undone_when_the_newer_program_did_not_work() {
        let (_dir, path) = version_one();
        let mut conn = open_writer(&path).expect("a connection");
        let steps = later("ALTER TABLE meta ADD COLUMN more TEXT NOT NULL DEFAULT ''", 2);
        migrate(&mut conn, &path, &steps).expect("version 2");
        conn.execute("UPDATE meta SET value = 'written since'", [])
            .expect("a row");
        // As a killed process leaves it: with pages in the WAL.
        std::mem::forget(conn);
        undo(&path, 1).expect("the copy");
        assert_eq!(kept(&path), (1, "yes".into()));
        assert!(undo(&path, 1).is_err(), "there was one copy");
        assert_eq!(kept(&path), (1, "yes".into()));
    }

    #[test]
    fn a_failed_migration_changes_nothing_and_can_be_repeated() {
        let (_dir, path) = version_one();
        let mut conn = open_writer(&path).expect("a connection");
        let broken = later(
            "CREATE TABLE half (x) STRICT; CREATE TABLE meta (taken TEXT) STRICT",
            2,
        );
        assert!(migrate(&mut conn, &path, &broken).is_err());
        assert_eq!(kept(&path), (1, "yes".into()));
        let steps = later("CREATE TABLE half (x TEXT) STRICT", 2);
        migrate(&mut conn, &path, &steps).expect("version 2");
        assert_eq!(kept(&path), (2, "yes".into()));
    }

    #[test]
    fn only_the_last_copies_are_kept() {
        let (dir, path) = version_one();
        let mut conn = open_writer(&path).expect("a connection");
        migrate(&mut conn, &path, &later("SELECT 1", 12)).expect("version 12");
        let mut copies: Vec<String> = std::fs::read_dir(dir.path())
            .expect("the directory")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains(".before-"))
            .collect();
        copies.sort();
        assert_eq!(
            copies,
            ["stoa.db.before-v10", "stoa.db.before-v11", "stoa.db.before-v12"]
        );
    }
}
