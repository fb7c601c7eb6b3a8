//! Log lines of instances, found by the directories and labels that `instances` gives them.

use std::fs;
use std::path::{Path, PathBuf};

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
        let labels: Vec<String> = labels(&dir)
            .into_iter()
            .filter(|label| fits(label, query))
            .collect();
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

/// Deletes the oldest segments of a directory until the rest fits. Called before a new instance writes there; what a
/// living one still writes is among the newest.
pub(crate) fn prune(dir: &Path, budget: u64) {
    let mut segments: Vec<(std::time::SystemTime, u64, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "log"))
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((meta.modified().ok()?, meta.len(), entry.path()))
        })
        .collect();
    segments.sort();
    let mut total: u64 = segments.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in segments {
        if total <= budget {
            return;
        }
        if fs::remove_file(&path).is_ok() {
            total -= bytes;
        }
    }
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
fn labels(dir: &Path) -> Vec<String> {
    let mut labels: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (label, _) = name.to_str()?.strip_suffix(".log")?.rsplit_once('.')?;
            Some(label.to_owned())
        })
        .collect();
    labels.sort();
    labels.dedup();
    labels
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
