//! The log of a Valkey, read and cut from outside of its instance.
//!
//! ```text
//! manifest     after a rewrite                    cut: the older base, and all that was written after it up to a second
//! base 1  b    base 2  b   incr 1  h (former)     base 1  b
//! incr 1  i    base 1  h   incr 2  i              incr 1  i
//!              (former)                           incr 2  i  <- cut before the first `#TS:` that is later
//! ```
//! Lives here: its list of files (the manifest), what they hold, and where a second ends in them.
//! Invariant: what is read was written by a server that runs what its users send: nothing of it is believed beyond its
//! form, no name in it leads out of its directory, and reading it takes a bounded amount of memory.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read as _, Seek};
use std::time::UNIX_EPOCH;

use engine::Engine;
use model::{Bytes, Timestamp};

use super::{DATA, LOG};
use crate::DatabaseError;
use crate::inside::Inside;

const MANIFEST: &str = "appendonly.aof.manifest";
/// A list of some files; ours have three or four.
const MANIFEST_MOST: u64 = 64 << 10;
/// Longer than any line of a log but what is in a value.
const LINE_MOST: usize = 1 << 10;

/// What a log is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// What its base holds.
    pub base: Bytes,
    /// What was written since.
    pub grown: Bytes,
    /// What the last rewrite replaced, while that is still there.
    pub former: Option<Former>,
}

/// A log before its rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// The number of its base.
    pub number: u64,
    /// What its files hold.
    pub bytes: Bytes,
    /// When the rewrite was over.
    pub since: Timestamp,
    /// It was rewritten again before the first was forgotten: what is there is no log any more.
    pub is_torn: bool,
}

/// What a file of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everything there was when it was begun.
    Base,
    /// What was written since.
    Increment,
    /// What a rewrite replaced.
    History,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    name: String,
    number: u64,
    kind: Kind,
}

impl Part {
    /// History does not say what it was: the names do.
    fn is_base(&self) -> bool {
        match self.kind {
            Kind::Base => true,
            Kind::Increment => false,
            Kind::History => self.name.contains(".base."),
        }
    }

    fn is_former(&self) -> bool {
        self.kind == Kind::History
    }
}

/// Looks at the log in a volume; nothing when there is none (yet).
///
/// # Errors
/// When it cannot be read or is not what it must be.
pub fn look(engine: &dyn Engine, volume: &str) -> Result<Option<Log>, DatabaseError> {
    let Some(log) = open(engine, volume)? else {
        return Ok(None);
    };
    let parts = parts(&log)?;
    let (mut base, mut grown, mut former) = (0, 0, 0);
    let (mut since, mut number, mut bases) = (Timestamp::from_ms(0), None, 0);
    for part in &parts {
        let meta = log
            .read(&part.name)
            .and_then(|file| file.metadata())
            .map_err(DatabaseError::file(&part.name))?;
        match part.kind {
            Kind::Base => {
                base += meta.len();
                let age = meta
                    .modified()
                    .ok()
                    .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                let ms = age.and_then(|age| u64::try_from(age.as_millis()).ok());
                since = Timestamp::from_ms(ms.unwrap_or_default());
            }
            Kind::Increment => grown += meta.len(),
            Kind::History => {
                former += meta.len();
                if part.is_base() {
                    number = number.max(Some(part.number));
                    bases += 1;
                }
            }
        }
    }
    Ok(Some(Log {
        base: Bytes::new(base),
        grown: Bytes::new(grown),
        former: number.map(|number| Former {
            number,
            bytes: Bytes::new(former),
            since,
            is_torn: bases > 1,
        }),
    }))
}

/// Whether all that the list of a copied log names is in the copy. It may not be when the log was rewritten meanwhile.
///
/// # Errors
/// When the list cannot be read or is not what it must be.
pub fn verify(engine: &dyn Engine, volume: &str) -> Result<bool, DatabaseError> {
    let Some(log) = open(engine, volume)? else {
        return Ok(false);
    };
    let parts = parts(&log)?;
    Ok(parts.iter().all(|part| log.read(&part.name).is_ok()))
}

/// Takes everything from a stopped copy of a log that was written after a second, given in seconds since 1970.
///
/// # Errors
/// When it cannot be read or changed, or is not what it must be.
pub fn cut(engine: &dyn Engine, volume: &str, second: u64) -> Result<(), DatabaseError> {
    let missing = || DatabaseError::File {
        file: MANIFEST.to_owned(),
        why: "there is no log in the copy".to_owned(),
    };
    let log = open(engine, volume)?.ok_or_else(missing)?;
    cut_in(&log, second)
}

fn cut_in(log: &Inside, second: u64) -> Result<(), DatabaseError> {
    let parts = parts(log)?;
    let formers = parts.iter().filter(|part| part.is_former() && part.is_base());
    let has_former = match formers.count() {
        0 => false,
        1 => true,
        _ => {
            return Err(wrong(
                MANIFEST,
                "it was rewritten twice, and what is between is not known",
            ));
        }
    };
    let base = parts
        .iter()
        .find(|part| part.is_base() && part.is_former() == has_former)
        .ok_or_else(|| wrong(MANIFEST, "it names no base"))?;
    let mut increments: Vec<&Part> = parts.iter().filter(|part| !part.is_base()).collect();
    increments.sort_by_key(|part| part.number);
    let mut kept = vec![base];
    let mut is_over = false;
    for part in increments {
        if is_over {
            continue;
        }
        let file = log.change(&part.name).map_err(DatabaseError::file(&part.name))?;
        let length = file.metadata().map_err(DatabaseError::file(&part.name))?.len();
        let end = end_of(&file, length, second).map_err(DatabaseError::file(&part.name))?;
        is_over = end.is_cut;
        if end.at < length {
            file.set_len(end.at)
                .and_then(|()| file.sync_all())
                .map_err(DatabaseError::file(&part.name))?;
        }
        if end.at > 0 {
            kept.push(part);
        }
    }
    let mut list = String::new();
    for part in &kept {
        let kind = if part.is_base() { 'b' } else { 'i' };
        let _ = writeln!(list, "file {} seq {} type {kind}", part.name, part.number);
    }
    log.replace(MANIFEST, list.as_bytes())
        .map_err(DatabaseError::file(MANIFEST))?;
    for part in parts.iter().filter(|part| !kept.contains(part)) {
        log.remove(&part.name).map_err(DatabaseError::file(&part.name))?;
    }
    Ok(())
}

fn open(engine: &dyn Engine, volume: &str) -> Result<Option<Inside>, DatabaseError> {
    let log = Inside::volume(&engine.volume_path(volume)?)
        .and_then(|root| root.below(DATA))
        .and_then(|data| data.below(LOG));
    match log {
        Ok(log) => Ok(Some(log)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(DatabaseError::file(LOG)(cause)),
    }
}

fn wrong(file: &str, why: &str) -> DatabaseError {
    DatabaseError::File {
        file: file.to_owned(),
        why: why.to_owned(),
    }
}

fn parts(log: &Inside) -> Result<Vec<Part>, DatabaseError> {
    let mut text = String::new();
    log.read(MANIFEST)
        .and_then(|file| file.take(MANIFEST_MOST + 1).read_to_string(&mut text))
        .map_err(DatabaseError::file(MANIFEST))?;
    if text.len() as u64 > MANIFEST_MOST {
        return Err(wrong(MANIFEST, "it is too long"));
    }
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| part(line).ok_or_else(|| wrong(MANIFEST, "a line of it is none")))
        .collect()
}

/// `file NAME seq NUMBER type KIND`; newer servers may say more after that.
fn part(line: &str) -> Option<Part> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["file", name, "seq", number, "type", kind, ..] = words.as_slice() else {
        return None;
    };
    let kind = match *kind {
        "b" => Kind::Base,
        "i" => Kind::Increment,
        "h" => Kind::History,
        _other => return None,
    };
    Some(Part {
        name: (*name).to_owned(),
        number: number.parse().ok()?,
        kind,
    })
}

/// Where what is wanted of a file ends.
#[derive(Debug, PartialEq, Eq)]
struct End {
    at: u64,
    /// What follows is of a later second, here and in all later files.
    is_cut: bool,
}

/// Finds where the commands end that were written up to a second; without a later one that is where the last whole one ends.
fn end_of(file: impl io::Read + Seek, length: u64, second: u64) -> io::Result<End> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut at = 0;
    let mut line = Vec::new();
    loop {
        let open = End { at, is_cut: false };
        if !next_line(&mut reader, &mut line)? {
            return Ok(open);
        }
        let mut end = at + line.len() as u64;
        if let Some(told) = line.strip_prefix(b"#") {
            if stamp(told).is_some_and(|stamp| stamp > second) {
                return Ok(End { at, is_cut: true });
            }
        } else {
            for _ in 0..count(&line, b'*')? {
                if !next_line(&mut reader, &mut line)? {
                    return Ok(open);
                }
                // The value, and the end of its line.
                let value = count(&line, b'$')?.saturating_add(2);
                end = end.saturating_add(line.len() as u64).saturating_add(value);
                if end > length {
                    return Ok(open);
                }
                let value = i64::try_from(value).map_err(|_| none())?;
                reader.seek_relative(value)?;
            }
        }
        at = end;
    }
}

fn none() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no log of commands")
}

/// Reads a line with its end; false when there is no whole one any more.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    reader.take(LINE_MOST as u64).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        return Ok(true);
    }
    if line.len() >= LINE_MOST {
        Err(none())
    } else {
        Ok(false)
    }
}

fn count(line: &[u8], mark: u8) -> io::Result<u64> {
    let digits = line.strip_prefix(&[mark]).ok_or_else(none)?;
    number(digits).ok_or_else(none)
}

fn stamp(told: &[u8]) -> Option<u64> {
    number(told.strip_prefix(b"TS:")?)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use super::*;

    const SET: &str = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9\r\n#TS:99\r\n*\r\n";

    fn end(text: &str, second: u64) -> (u64, bool) {
        let found = end_of(Cursor::new(text), text.len() as u64, second).expect("a log");
        (found.at, found.is_cut)
    }

    #[test]
    fn a_second_ends_before_the_next_stamp_and_never_in_a_value() {
        let text = format!("#TS:10\r\n{SET}#TS:11\r\n{SET}{SET}#TS:13\r\n{SET}");
        let (stamp, set) = (8, SET.len() as u64);
        for (second, at, is_cut) in [
            (9, 0, true),
            (10, stamp + set, true),
            (11, 2 * stamp + 3 * set, true),
            (12, 2 * stamp + 3 * set, true),
            (13, 3 * stamp + 4 * set, false),
        ] {
            assert_eq!(end(&text, second), (at, is_cut), "{second}");
        }
    }

    #[test]
    fn what_is_not_whole_at_the_end_goes() {
        let whole = format!("#TS:10\r\n{SET}");
        for cut in 1..SET.len() {
            let text = format!("{whole}{}", &SET[..cut]);
            assert_eq!(end(&text, 99), (whole.len() as u64, false), "{cut}");
        }
        for text in ["hello\r\n", "*x\r\n", "*1\r\n*1\r\n", "*1\r\n$-1\r\n"] {
            end_of(Cursor::new(text), text.len() as u64, 1).expect_err(text);
        }
    }

    #[test]
    fn a_log_that_was_rewritten_twice_is_cut_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let list = "file a.3.base.rdb seq 3 type b\nfile a.2.base.rdb seq 2 type h\nfile a.1.incr.aof seq 1 type h\n\
                    file a.1.base.rdb seq 1 type h\nfile a.3.incr.aof seq 3 type i\n";
        fs::write(dir.path().join(MANIFEST), list).expect("written");
        let log = Inside::volume(dir.path()).expect("opened");
        let refused = cut_in(&log, 11).expect_err("what is between is not known");
        assert!(refused.to_string().contains("twice"), "{refused}");
        let kept = fs::read_to_string(dir.path().join(MANIFEST));
        assert_eq!(kept.expect("read"), list);
    }

    #[test]
    fn a_cut_begins_with_the_older_base() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        put("a.1.base.rdb", "one");
        put("a.2.base.rdb", "two");
        put("a.1.incr.aof", &format!("#TS:10\r\n{SET}"));
        put("a.2.incr.aof", &format!("{SET}#TS:12\r\n{SET}"));
        put("a.3.incr.aof", &format!("#TS:14\r\n{SET}"));
        put(
            MANIFEST,
            "file a.2.base.rdb seq 2 type b\nfile a.1.incr.aof seq 1 type h\nfile a.1.base.rdb seq 1 type h\n\
             file a.2.incr.aof seq 2 type i\nfile a.3.incr.aof seq 3 type i startoffset 0\n",
        );
        let log = Inside::volume(dir.path()).expect("opened");
        cut_in(&log, 11).expect("cut");
        let read = |name: &str| fs::read_to_string(dir.path().join(name));
        assert_eq!(
            read(MANIFEST).expect("read"),
            "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n"
        );
        assert_eq!(read("a.2.incr.aof").expect("read"), SET);
        read("a.2.base.rdb").expect_err("not of it");
        read("a.3.incr.aof").expect_err("later");
        cut_in(&log, 9).expect("cut again");
        assert_eq!(read(MANIFEST).expect("read"), "file a.1.base.rdb seq 1 type b\n");
    }
}
