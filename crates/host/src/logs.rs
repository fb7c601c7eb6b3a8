//! Log lines of instances, found by the directories and labels that `instances` gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use engine::{EngineError, LogQuery, LogRecord, Stream};
use model::{InstanceId, Timestamp};
use runtime::logs::{Kind, Query, Reader, Record, Stream as Output};

use crate::error;
use crate::instances::id_of;

/// Records read at a time.
const CHUNK: usize = 4096;

/// Lines that fit the query, in the order of their time.
pub(crate) fn query(root: &Path, query: &LogQuery) -> Result<Vec<LogRecord>, EngineError> {
    let failed = error::host("read the logs");
    if query.key.is_empty()
        || query
            .key
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
    {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (dir, key) in directories(root, &query.key) {
        let mut labels = labels(&dir);
        labels.retain(|label| fits(label, query));
        if labels.is_empty() {
            continue;
        }
        let since = query.since.or(query.after.map(|(at, _, _)| at));
        let plain = query.contains.is_none() && query.after.is_none();
        let wanted = Query {
            labels,
            since_us: since.map_or(0, |at| at.as_ms() * 1000),
            tail: plain.then_some(query.limit),
            ..Query::default()
        };
        let mut reader = Reader::open(&dir, wanted).map_err(&failed)?;
        loop {
            let records = reader.read(CHUNK).map_err(&failed)?;
            if records.is_empty() {
                break;
            }
            found.extend(
                records
                    .iter()
                    .filter_map(|record| translate(&key, record))
                    .filter(|r| matches(r, query)),
            );
        }
    }
    found.sort_by_key(|record| (record.at, record.instance, record.sequence));
    if found.len() > query.limit {
        match query.after {
            Some(_) => found.truncate(query.limit),
            None => drop(found.drain(..found.len() - query.limit)),
        }
    }
    Ok(found)
}

/// Most segments in a directory: each instance and each one-off job leaves at least one, and every read lists them.
const SEGMENTS: usize = 2000;
/// Logs of an app or a database that is gone stay readable on disk for as long after their last line.
const GONE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Deletes the oldest segments of a directory until the rest fits. Called before a new instance writes there. The
/// newest segment of an instance that is there stays, however long it has been silent: it is being written to.
pub(crate) fn prune(dir: &Path, budget: u64, is_there: impl Fn(&str) -> bool) {
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut segments: Vec<(SystemTime, u64, String, u64, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (label, number) = name.to_str()?.strip_suffix(".log")?.rsplit_once('.')?;
            let number: u64 = number.parse().ok()?;
            let meta = entry.metadata().ok()?;
            let known = newest.entry(label.to_owned()).or_default();
            *known = number.max(*known);
            // A line takes a block.
            let bytes = meta.len().max(meta.blocks() * 512);
            Some((
                meta.modified().ok()?,
                bytes,
                label.to_owned(),
                number,
                entry.path(),
            ))
        })
        .collect();
    segments.sort();
    let mut total: u64 = segments.iter().map(|(_, bytes, ..)| bytes).sum();
    let mut count = segments.len();
    for (_, bytes, label, number, path) in segments {
        if total <= budget && count <= SEGMENTS {
            return;
        }
        let is_open = newest.get(&label) == Some(&number)
            && label.rsplit_once('.').is_some_and(|(_, name)| is_there(name));
        if !is_open && fs::remove_file(&path).is_ok() {
            total -= bytes;
            count -= 1;
        }
    }
}

/// Removes the logs of keys that are gone, once nothing was written there for long.
pub(crate) fn collect(root: &Path, keep: &BTreeSet<String>) -> Result<(), EngineError> {
    let failed = error::host("look over the logs");
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(cause)),
    };
    for entry in entries {
        let entry = entry.map_err(&failed)?;
        let is_kept = entry.file_name().to_str().is_none_or(|name| keep.contains(name));
        if !is_kept && silent_for(&entry.path()).is_some_and(|silence| silence > GONE) {
            image::remove_tree(&entry.path()).map_err(error::host("remove old logs"))?;
        }
    }
    Ok(())
}

/// How long nothing was written in a directory of logs and those one level below; `None` when that cannot be told.
fn silent_for(dir: &Path) -> Option<Duration> {
    let mut newest = fs::symlink_metadata(dir).ok()?.modified().ok()?;
    let mut look = vec![(dir.to_owned(), true)];
    while let Some((dir, may_descend)) = look.pop() {
        for entry in fs::read_dir(dir).ok()? {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            newest = newest.max(meta.modified().ok()?);
            if may_descend && meta.is_dir() {
                look.push((entry.path(), false));
            }
        }
    }
    newest.elapsed().ok()
}

/// The directory of a key and those one level below, which are its services.
fn directories(root: &Path, key: &str) -> Vec<(PathBuf, String)> {
    let dir = root.join(key);
    let below = fs::read_dir(&dir).into_iter().flatten().flatten();
    let mut found: Vec<(PathBuf, String)> = below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            (
                entry.path(),
                format!("{key}/{}", entry.file_name().to_string_lossy()),
            )
        })
        .collect();
    found.push((dir, key.to_owned()));
    found.sort();
    found
}

/// Labels of the segments in a directory: `LABEL.INSTANCE.NUMBER.log`.
fn labels(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (label, _) = name.to_str()?.strip_suffix(".log")?.rsplit_once('.')?;
            Some(label.to_owned())
        })
        .collect()
}

fn parts(label: &str) -> Option<(&str, InstanceId)> {
    let (label, name) = label.rsplit_once('.')?;
    Some((label, id_of(name)?))
}

fn fits(label: &str, query: &LogQuery) -> bool {
    parts(label).is_some_and(|(label, instance)| {
        query.label.as_ref().is_none_or(|wanted| wanted == label)
            && query.instance.is_none_or(|wanted| wanted == instance)
    })
}

fn translate(key: &str, record: &Record) -> Option<LogRecord> {
    let (label, instance) = parts(&record.label)?;
    let stream = match &record.kind {
        Kind::Line(Output::Stdout) | Kind::Piece(Output::Stdout) => Stream::Stdout,
        Kind::Line(Output::Stderr) | Kind::Piece(Output::Stderr) => Stream::Stderr,
        Kind::Gap { .. } => Stream::Platform,
    };
    Some(LogRecord {
        at: Timestamp::from_ms(record.time_us / 1000),
        sequence: record.sequence,
        key: key.to_owned(),
        instance,
        label: label.to_owned(),
        stream,
        text: String::from_utf8_lossy(&record.text).into_owned(),
    })
}

fn matches(record: &LogRecord, query: &LogQuery) -> bool {
    query.since.is_none_or(|since| record.at >= since)
        && query
            .after
            .is_none_or(|after| (record.at, record.instance, record.sequence) > after)
        && query
            .contains
            .as_ref()
            .is_none_or(|text| record.text.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(path: &Path, days: u64) {
        let at = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
        let file = fs::File::open(path).expect("there");
        file.set_modified(at).expect("dated");
    }

    fn place(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("stoa-logs-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    #[test]
    fn the_oldest_go_but_never_what_is_being_written() {
        let dir = place("prune");
        for (name, days) in [
            ("v1.quiet.0000000001.log", 9),
            ("v1.quiet.0000000002.log", 8),
            ("v1.dead.0000000001.log", 7),
            ("v2.loud.0000000001.log", 1),
            ("v2.loud.0000000002.log", 0),
        ] {
            fs::write(dir.join(name), [b'x'; 4096]).expect("written");
            old(&dir.join(name), days);
        }
        prune(&dir, 2 * 4096, |name| name == "quiet" || name == "loud");
        let left: BTreeSet<String> = fs::read_dir(&dir)
            .expect("there")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        let expected = ["v1.quiet.0000000002.log", "v2.loud.0000000002.log"];
        assert_eq!(left, expected.map(str::to_owned).into());
        for number in 0..SEGMENTS + 5 {
            fs::write(dir.join(format!("run.ins-{number}.0000000001.log")), "").expect("written");
        }
        prune(&dir, u64::MAX, |name| name == "quiet");
        assert_eq!(fs::read_dir(&dir).expect("there").count(), SEGMENTS);
        assert!(dir.join(expected[0]).exists());
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn logs_of_what_is_gone_go_after_a_while() {
        let root = place("gone");
        for (key, days) in [("app_kept", 90), ("app_gone", 90), ("app_fresh", 90)] {
            let dir = root.join(key).join("web");
            fs::create_dir_all(&dir).expect("a directory");
            fs::write(dir.join("v1.a.0000000001.log"), "x").expect("written");
            let is_fresh = key == "app_fresh";
            for path in [&dir.join("v1.a.0000000001.log"), &dir, &root.join(key)] {
                old(path, if is_fresh && path.is_file() { 1 } else { days });
            }
        }
        collect(&root, &["app_kept".to_owned()].into()).expect("looked over");
        let left: BTreeSet<String> = fs::read_dir(&root)
            .expect("there")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(left, ["app_kept", "app_fresh"].map(str::to_owned).into());
        fs::remove_dir_all(root).expect("removed");
    }
}
