//! What can happen to a backup, and where its parts lie: done to Stoa's own, or to any other with the same parts.
//!
//! Lives here: the list of faults, doing and undoing them. Does not live here: who must notice (journeys, `xtask bench drill`).
//! Invariant: what is undone is as it was, byte by byte.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{Stoa, holds};

/// What a database has whose backup is damaged: a table and an index that nobody touches, and one that is written to.
pub const COLD: [&str; 6] = [
    "CREATE TABLE cold (id int, note text) WITH (autovacuum_enabled = off)",
    "INSERT INTO cold SELECT n, repeat('x', 100) || n FROM generate_series(1, 20000) n",
    "CREATE INDEX cold_note ON cold (note)",
    "CREATE TABLE warm (id bigserial PRIMARY KEY, note text)",
    "VACUUM (FREEZE, ANALYZE) cold",
    "CHECKPOINT",
];
/// Closed segments that are written behind the base.
pub const SEGMENTS: usize = 3;
/// What is written into each of them.
pub const SEGMENT: [&str; 2] = [
    "INSERT INTO warm (note) SELECT 'n' || n FROM generate_series(1, 500) n",
    "SELECT pg_switch_wal()",
];
/// What is written behind them.
pub const LAST: &str = "INSERT INTO warm (note) VALUES ('last')";
/// Where the files of the table and of its index lie.
pub const FILES: [&str; 2] = [
    "SELECT pg_relation_filepath('cold')",
    "SELECT pg_relation_filepath('cold_note')",
];

/// Where the parts of a backup are.
#[derive(Debug)]
pub struct Places {
    /// The newest base with all that belongs to it.
    pub base: PathBuf,
    /// The files of the cluster in it.
    pub cluster: PathBuf,
    /// The list of these files.
    pub list: PathBuf,
    /// Of [`COLD`], its table.
    pub heap: PathBuf,
    /// And its index.
    pub index: PathBuf,
    /// Closed segments, oldest first; the last [`SEGMENTS`] lie behind the base.
    pub closed: Vec<PathBuf>,
    /// The newest segment.
    pub open: PathBuf,
    /// A base of another cluster.
    pub other: PathBuf,
    /// A directory on the same file system that is no part of the backup.
    pub aside: PathBuf,
}

/// Undoes a fault.
pub type Undo = Box<dyn FnOnce() -> Result<()>>;

/// Something that happens to a backup.
#[derive(Debug)]
pub struct Fault {
    /// For people.
    pub what: &'static str,
    /// Does it, and returns what undoes it.
    pub happen: fn(&Places) -> Result<Undo>,
    /// Checks of a drill that must catch it: all of these, whatever else does.
    pub caught_by: &'static [&'static str],
}

/// Each fault that a backup on this server can have.
pub const FAULTS: [Fault; 14] = [
    Fault {
        what: "a segment in the middle is missing",
        happen: |at| out_of_sight(at, &[at.middle()?]),
        caught_by: &["log"],
    },
    Fault {
        what: "the newest segment never came",
        happen: |at| out_of_sight(at, &[&at.open]),
        caught_by: &["log"],
    },
    Fault {
        what: "nothing came since the base",
        happen: |at| {
            let behind = at.closed.iter().rev().take(SEGMENTS);
            out_of_sight(
                at,
                &behind.chain([&at.open]).map(PathBuf::as_path).collect::<Vec<_>>(),
            )
        },
        caught_by: &["log"],
    },
    Fault {
        what: "a segment of 0 bytes",
        happen: |at| cut(at.middle()?, 0),
        caught_by: &["log"],
    },
    Fault {
        what: "a bit of the log",
        happen: |at| flip(at.middle()?, 8192 * 2 + 100),
        caught_by: &["place", "canary"],
    },
    Fault {
        what: "a bit of a heap page",
        happen: |at| flip(&at.heap, 8192 * 3 + 5000),
        caught_by: &["manifest", "amcheck", "read"],
    },
    Fault {
        what: "a bit of an index page",
        happen: |at| flip(&at.index, 8192 * 3 + 5000),
        caught_by: &["manifest", "amcheck"],
    },
    Fault {
        what: "a page of an index is zero",
        happen: |at| put(&at.index, &[0; 8192], 8192 * 3),
        caught_by: &["manifest", "amcheck"],
    },
    Fault {
        what: "a heap file cut short",
        happen: |at| cut(&at.heap, 8192 * 100),
        caught_by: &["manifest"],
    },
    Fault {
        what: "a heap file is missing",
        happen: |at| out_of_sight(at, &[&at.heap]),
        caught_by: &["manifest", "amcheck", "read"],
    },
    Fault {
        what: "an index file is missing",
        happen: |at| out_of_sight(at, &[&at.index]),
        caught_by: &["manifest", "amcheck"],
    },
    Fault {
        what: "the list of files was changed",
        happen: |at| flip(&at.list, 3),
        caught_by: &["manifest"],
    },
    Fault {
        what: "an empty base",
        happen: |at| out_of_sight(at, &[&at.cluster]),
        caught_by: &["manifest", "start"],
    },
    Fault {
        what: "the base of another cluster",
        happen: |at| swap(&at.base, &at.other),
        caught_by: &["manifest", "place", "canary"],
    },
];

impl Places {
    /// Of a database of Stoa that [`prepare`] made, and the base of another one.
    ///
    /// # Errors
    /// When a part is not there.
    pub fn of(stoa: &Stoa, other: &str) -> Result<Self> {
        let (base, archive) = (newest(stoa, "main", "base-")?, newest(stoa, "main", "wal-")?);
        let cluster = base.join("pgdata");
        let [heap, index] = [as_root(stoa, &[FILES[0]])?, as_root(stoa, &[FILES[1]])?];
        let (mut closed, mut open) = (Vec::new(), None);
        for entry in fs::read_dir(&archive)? {
            let path = entry?.path();
            match path.extension() {
                Some(_) => open = Some(path),
                None if path.file_name().is_some_and(|name| name.len() == 24) => closed.push(path),
                None => {}
            }
        }
        closed.sort();
        ensure!(
            closed.len() >= SEGMENTS,
            "too few segments in {}",
            archive.display()
        );
        let above = base
            .ancestors()
            .find(|place| place.file_name().is_some_and(|name| name == "volumes"))
            .and_then(Path::parent);
        Ok(Self {
            heap: cluster.join(heap),
            index: cluster.join(index),
            list: base.join("manifest"),
            aside: above.context("not in a volume")?.join("aside"),
            other: newest(stoa, other, "base-")?,
            open: open.context("nothing is received")?,
            closed,
            cluster,
            base,
        })
    }

    /// A segment behind the base and before others.
    fn middle(&self) -> Result<&Path> {
        let middle = self.closed.iter().rev().nth(1);
        middle.map(PathBuf::as_path).context("too few segments")
    }
}

fn put(path: &Path, bytes: &[u8], at: u64) -> Result<Undo> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut before = vec![0; bytes.len()];
    file.read_exact_at(&mut before, at)?;
    file.write_all_at(bytes, at)?;
    Ok(Box::new(move || Ok(file.write_all_at(&before, at)?)))
}

fn flip(path: &Path, at: u64) -> Result<Undo> {
    let mut byte = [0_u8];
    fs::File::open(path)?.read_exact_at(&mut byte, at)?;
    put(path, &[byte[0] ^ 1], at)
}

fn cut(path: &Path, bytes: u64) -> Result<Undo> {
    let whole = fs::read(path)?;
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    Ok(Box::new(move || Ok(file.write_all_at(&whole, 0)?)))
}

/// Renamed: who has one of them open writes on into it.
fn out_of_sight(at: &Places, paths: &[&Path]) -> Result<Undo> {
    fs::create_dir_all(&at.aside)?;
    let mut moved = Vec::new();
    for path in paths {
        let aside = at.aside.join(path.file_name().context("no name")?);
        fs::rename(path, &aside)?;
        moved.push((aside, path.to_path_buf()));
    }
    let folder = at.aside.clone();
    Ok(Box::new(move || {
        for (aside, path) in moved {
            fs::rename(aside, path)?;
        }
        Ok(fs::remove_dir(folder)?)
    }))
}

fn swap(one: &Path, other: &Path) -> Result<Undo> {
    fn once(one: &Path, other: &Path) -> Result<()> {
        let aside = one.with_extension("aside");
        fs::rename(one, &aside)?;
        fs::rename(other, one)?;
        Ok(fs::rename(aside, other)?)
    }
    once(one, other)?;
    let (one, other) = (one.to_owned(), other.to_owned());
    Ok(Box::new(move || once(&one, &other)))
}

/// A database `main` with [`COLD`] in it, a base behind that, and log behind the base.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "create", "main"])?.ok()?;
    as_root(stoa, &COLD)?;
    with_base(stoa, "main")?;
    write(stoa)
}

/// Takes a base of a database by its name.
///
/// # Errors
/// When it is not taken.
pub fn with_base(stoa: &Stoa, database: &str) -> Result<()> {
    // The first is taken by itself: of two bases the newest counts.
    holds("a base", || {
        let found = stoa.cli(&["db", "backups", database, "--json"])?.ok()?.json()?;
        Ok(found["bases"].as_array().is_some_and(|bases| !bases.is_empty()))
    })?;
    let taken = stoa.cli(&["db", "backup", database])?.ok()?.says("is taken")?;
    println!("{}{}", taken.stdout, taken.stderr);
    Ok(())
}

/// Log over [`SEGMENTS`].
fn write(stoa: &Stoa) -> Result<()> {
    for _ in 0..SEGMENTS {
        as_root(stoa, &SEGMENT)?;
    }
    as_root(stoa, &[LAST])?;
    let open = as_root(stoa, &["SELECT pg_walfile_name(pg_current_wal_lsn())"])?;
    holds("the segments to be closed", || {
        let archive = newest(stoa, "main", "wal-")?;
        Ok(archive.join(format!("{open}.partial")).exists())
    })
}

/// What statements answer in `main`, as the server's own superuser.
///
/// # Errors
/// When one fails.
pub fn as_root(stoa: &Stoa, statements: &[&str]) -> Result<String> {
    let head = [
        "db",
        "connect",
        "--no-terminal",
        "main",
        "--",
        "-qAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        "SET ROLE NONE",
    ];
    let rest = statements.iter().flat_map(|statement| ["-c", *statement]);
    let words: Vec<&str> = head.into_iter().chain(rest).collect();
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

/// The last drill of `main`.
///
/// # Errors
/// When there is none.
pub fn last(stoa: &Stoa) -> Result<Value> {
    stoa.cli(&["db", "drills", "main", "last", "--json"])?
        .ok()?
        .json()
}

/// The checks of a drill that failed.
#[must_use]
pub fn failed(drill: &Value) -> Vec<&str> {
    let checks = drill["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_failed = checks.iter().filter(|check| check["result"] == "failed");
    is_failed.filter_map(|check| check["check"].as_str()).collect()
}

/// The volumes of a database whose names begin so, in order.
///
/// # Errors
/// When there is no such database.
pub fn volumes(stoa: &Stoa, database: &str, prefix: &str) -> Result<Vec<PathBuf>> {
    let shown = stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()?;
    let id = shown["id"].as_str().context("no id")?;
    let short = id.trim_start_matches("db_").to_ascii_lowercase();
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let entries = places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten();
    let is_its = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with(prefix) && name.contains(&short))
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_its)
        .collect();
    found.sort();
    Ok(found)
}

/// The last of them.
///
/// # Errors
/// When there is none.
pub fn newest(stoa: &Stoa, database: &str, prefix: &str) -> Result<PathBuf> {
    volumes(stoa, database, prefix)?
        .pop()
        .with_context(|| format!("no volume {prefix}"))
}

/// What is on a target below a folder, in order.
///
/// # Errors
/// When it cannot be read.
pub fn objects(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.append(&mut objects(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// An object of a target by the end of its name.
///
/// # Errors
/// When there is none.
pub fn object(place: &Path, name: &str) -> Result<PathBuf> {
    let all = objects(place)?;
    let found = all.into_iter().find(|path| path.ends_with(name));
    found.with_context(|| format!("no {name} on the target"))
}

/// What is on a target was sealed with another key than ours; what that one is called.
///
/// # Errors
/// When there is no mark on it.
pub fn another_key(place: &Path) -> Result<String> {
    const NAME: &str = "0123456789abcdef";
    let path = object(place, "server")?;
    let mut mark: Value = serde_json::from_slice(&fs::read(&path)?)?;
    mark["key"] = json!(NAME);
    fs::write(&path, mark.to_string())?;
    Ok(NAME.to_owned())
}
