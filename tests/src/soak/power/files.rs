//! The files after a cut, before anything of the platform has touched them: none is torn.
//!
//! Lives here: records that must parse, blobs that must be what their names say, files of releases, the database's own
//! check and the platform's. Does not live here: what the API says (`ledger`, `compare`).
//! Invariant: what was found whole after one cut is not read again; it was on the disk then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::super::outcome::{Found, Wrong};
use super::disk::output;
use crate::{Stoa, repository};

/// What nobody promises: what instances write, and what the platform throws away when it starts.
const NOT_OURS: [&str; 5] = [
    "images/layers",
    "images/tmp",
    "writable",
    "volumes",
    "networks/netns",
];

/// Written for this boot only, and not synced for that: may come back empty, never as a part.
const THIS_BOOT: [&str; 1] = ["networks/attachments.json"];

/// Reads a copy of the database with another build of SQLite than ours; prints what it says.
const CHECK: &str = "import sqlite3, sys; \
    print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0])";

/// What was found whole: path, size, time of the last change.
#[derive(Debug, Default)]
pub(super) struct Files {
    whole: BTreeSet<(PathBuf, u64, i64, i64)>,
    /// How many were read, by kind.
    pub(super) read: BTreeMap<&'static str, u64>,
}

impl Files {
    /// Looks at everything that was written since the last cut.
    pub(super) fn look(&mut self, stoa: &Stoa, found: &mut Found) -> Result<()> {
        let data = stoa.data_dir();
        let server = fs::read(repository().join("tests/apps/probe/server.py"))?;
        let mut torn = |what: String| found.push((Wrong::Torn, what));
        for path in below(&data, &|folder| {
            NOT_OURS.iter().any(|name| folder == data.join(name))
        }) {
            let is_record = path.extension().is_some_and(|end| end == "json");
            let is_blob = path.parent() == Some(&data.join("images/blobs/sha256"));
            if !(is_record || is_blob) || !self.is_new(&path) {
                continue;
            }
            if is_record {
                *self.read.entry("records").or_default() += 1;
                let text = fs::read(&path)?;
                let may_be_empty = THIS_BOOT.iter().any(|name| path == data.join(name));
                if text.is_empty() && may_be_empty {
                    continue;
                }
                if let Err(cause) = serde_json::from_slice::<Value>(&text) {
                    torn(format!("{}: {} bytes, {cause}", path.display(), text.len()));
                }
            } else {
                *self.read.entry("blobs").or_default() += 1;
                let text = output("sha256sum", &[path.to_str().context("a path that is no text")?])?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if !text.starts_with(&*name) {
                    torn(format!("blob {name} has the digest {text}"));
                }
            }
        }
        for layer in entries(&data.join("images/layers")) {
            if !layer.is_dir() || !self.is_new(&layer) {
                continue;
            }
            for path in below(&layer, &|_| false) {
                let inside = path.strip_prefix(&layer)?.to_string_lossy().into_owned();
                let is_whole = match path.file_name().and_then(|name| name.to_str()) {
                    // Python's library has a file of that name too.
                    Some("server.py") if !inside.contains("lib/") => fs::read(&path)? == server,
                    Some("built") => !fs::read(&path)?.is_empty(),
                    Some(_) | None => continue,
                };
                *self.read.entry("files of releases").or_default() += 1;
                if !is_whole {
                    torn(format!("{} is not what was sent", path.display()));
                }
            }
        }
        Ok(())
    }

    /// Whether it was not looked at before; it will have been.
    fn is_new(&mut self, path: &Path) -> bool {
        let Ok(about) = fs::symlink_metadata(path) else {
            return false;
        };
        let key = (path.to_owned(), about.size(), about.mtime(), about.mtime_nsec());
        self.whole.insert(key)
    }
}

/// What SQLite itself and `stoa doctor` say of the store while nothing runs.
pub(super) fn store(stoa: &Stoa, found: &mut Found) -> Result<()> {
    let copy = stoa.root().join("copy");
    fs::create_dir_all(&copy)?;
    // The index of the log is made anew from the log.
    for name in ["stoa.db", "stoa.db-wal"] {
        let _absent = fs::remove_file(copy.join(name));
        let file = stoa.data_dir().join("store").join(name);
        if file.exists() {
            fs::copy(file, copy.join(name))?;
        }
    }
    let database = copy.join("stoa.db");
    let said = output(
        "python3",
        &["-c", CHECK, database.to_str().context("a path that is no text")?],
    );
    match said {
        Ok(said) if said.trim() == "ok" => {}
        other => found.push((Wrong::Torn, format!("integrity_check: {other:?}"))),
    }
    let data = stoa.data_dir();
    let answer = stoa.cli(&["doctor", "--data-dir", &data.to_string_lossy(), "--json"])?;
    let report: Value = serde_json::from_str(&answer.stdout)
        .with_context(|| format!("stoa doctor said {}{}", answer.stdout, answer.stderr))?;
    let checks = report["checks"].as_array().into_iter().flatten();
    let store: Vec<&Value> = checks.filter(|check| check["name"] == "store").collect();
    ensure!(store.len() == 1, "stoa doctor looked at no store: {report}");
    for check in store {
        if check["verdict"] != "ok" {
            found.push((Wrong::Torn, format!("stoa doctor: {check}")));
        }
    }
    Ok(())
}

/// All files below a directory; links are not followed.
fn below(folder: &Path, skip: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            let Ok(about) = fs::symlink_metadata(&path) else {
                continue;
            };
            if about.is_dir() {
                if !skip(&path) {
                    folders.push(path);
                }
            } else if about.is_file() {
                found.push(path);
            }
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
