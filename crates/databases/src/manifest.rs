//! The manifest of a base: name, size and checksum of each of its files.
//!
//! Lives here: making it of a base that was just taken, and comparing a base, or a clone of one, with it.
//! Does not live here: which base, and what follows from a difference (`control`).
//! Invariants: a base is never started, so none of its files may ever differ; the manifest itself is known by a checksum
//! that is kept elsewhere. Reading takes half of the time at most, and leaves no trace in the page cache: others are served
//! meanwhile.
//!
//! ```text
//! 00000000 8192 base/5/1259      CRC-32 in hexadecimal, bytes, path below the cluster's directory
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::time::Instant;

use engine::Engine;
use rustix::fs::Advice;

use crate::DatabaseError;
use crate::inside::Inside;

/// Its name, beside the cluster's directory.
const NAME: &str = "manifest";
/// What is read at a time.
const PIECE: usize = 1 << 20;
/// Differences that are named; the others are counted.
const NAMED: usize = 5;

/// A file as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    sum: u32,
    bytes: u64,
}

type Files = BTreeMap<String, Entry>;

/// Makes the manifest of the base in a volume, and returns its own checksum.
///
/// # Errors
/// When a file cannot be read or the manifest not be written.
pub fn make(engine: &dyn Engine, volume: &str, is_wanted: &dyn Fn() -> bool) -> Result<u32, DatabaseError> {
    let path = engine.volume_path(volume)?;
    let failed = DatabaseError::file(NAME);
    let made = (|| {
        let files = read_all(&Inside::cluster(&path)?, is_wanted)?;
        let text = written(&files);
        Inside::volume(&path)?.replace(NAME, text.as_bytes())?;
        Ok(crc32fast::hash(text.as_bytes()))
    })();
    made.map_err(failed)
}

/// Compares a base, or a clone of it that was not started, with its manifest, whose checksum is `sum`. Returns what differs,
/// in words; nothing when all is as it must be.
///
/// # Errors
/// When it was given up.
pub fn compare(
    engine: &dyn Engine,
    volume: &str,
    sum: u32,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Option<String>, DatabaseError> {
    let path = engine.volume_path(volume)?;
    let mut text = String::new();
    let read = Inside::volume(&path).and_then(|dir| dir.read(NAME)?.read_to_string(&mut text));
    if let Err(cause) = read {
        return Ok(Some(format!("the manifest itself cannot be read: {cause}")));
    }
    if crc32fast::hash(text.as_bytes()) != sum {
        return Ok(Some("the manifest itself was changed".to_owned()));
    }
    let Some(expected) = parse(&text) else {
        return Ok(Some("the manifest itself is not understood".to_owned()));
    };
    match Inside::cluster(&path).and_then(|dir| read_all(&dir, is_wanted)) {
        Ok(found) => Ok(difference(&expected, &found)),
        Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {
            Err(DatabaseError::file(NAME)(cause))
        }
        Err(cause) => Ok(Some(format!("its files cannot be read: {cause}"))),
    }
}

/// Removes the manifest from a clone, which is about to become something else.
pub(crate) fn remove(volume: &std::path::Path) -> std::io::Result<()> {
    Inside::volume(volume)?.remove(NAME)
}

fn written(files: &Files) -> String {
    let line = |(path, entry): (&String, &Entry)| format!("{:08x} {} {path}\n", entry.sum, entry.bytes);
    files.iter().map(line).collect()
}

fn parse(text: &str) -> Option<Files> {
    let entry = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let sum = u32::from_str_radix(fields.next()?, 16).ok()?;
        let bytes = fields.next()?.parse().ok()?;
        Some((fields.next()?.to_owned(), Entry { sum, bytes }))
    };
    text.lines().map(entry).collect()
}

fn difference(expected: &Files, found: &Files) -> Option<String> {
    let mut all = Vec::new();
    for (path, must) in expected {
        match found.get(path) {
            None => all.push(format!("{path} is missing")),
            Some(is) if is.bytes != must.bytes => {
                all.push(format!("{path} has {} bytes instead of {}", is.bytes, must.bytes));
            }
            Some(is) if is.sum != must.sum => all.push(format!("{path} has another content")),
            Some(_) => {}
        }
    }
    let more = found.keys().filter(|path| !expected.contains_key(*path));
    all.extend(more.map(|path| format!("{path} was not there")));
    if all.is_empty() {
        return None;
    }
    let rest = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let rest = if rest > 0 {
        format!(", and {rest} more")
    } else {
        String::new()
    };
    Some(format!("{}{rest}", all.join(", ")))
}

fn read_all(cluster: &Inside, is_wanted: &dyn Fn() -> bool) -> std::io::Result<Files> {
    let mut files = Files::new();
    walk(cluster, "", is_wanted, &mut files)?;
    Ok(files)
}

fn walk(dir: &Inside, above: &str, is_wanted: &dyn Fn() -> bool, files: &mut Files) -> std::io::Result<()> {
    for (name, is_directory) in dir.list()? {
        let path = format!("{above}{name}");
        if is_directory {
            walk(&dir.below(&name)?, &format!("{path}/"), is_wanted, files)?;
            continue;
        }
        if !is_wanted() {
            return Err(std::io::Error::new(std::io::ErrorKind::Interrupted, "given up"));
        }
        files.insert(path, sum(&dir.read(&name)?)?);
    }
    Ok(())
}

fn sum(mut file: &File) -> std::io::Result<Entry> {
    let mut hasher = crc32fast::Hasher::new();
    let (mut piece, mut bytes) = (vec![0_u8; PIECE], 0_u64);
    loop {
        let begun = Instant::now();
        let count = file.read(&mut piece)?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        bytes += count as u64;
        if count == PIECE {
            std::thread::sleep(begun.elapsed());
        }
    }
    // Advice only: without it the cache of others makes room for what nobody reads again.
    let _advised = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    Ok(Entry {
        sum: hasher.finalize(),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_kind_of_difference_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let base = root.path().join("pgdata/base");
        fs::create_dir_all(&base).expect("made");
        for (file, content) in [("1 odd", "one"), ("2", "two"), ("3", "three"), ("4", "")] {
            fs::write(base.join(file), content).expect("written");
        }
        let read = || read_all(&Inside::cluster(root.path()).expect("opened"), &|| true).expect("read");
        let before = read();
        assert_eq!(parse(&written(&before)), Some(before.clone()));
        assert_eq!(difference(&before, &read()), None);
        fs::write(base.join("1 odd"), "One").expect("written");
        fs::write(base.join("2"), "t").expect("written");
        fs::remove_file(base.join("3")).expect("removed");
        fs::write(base.join("5"), "five").expect("written");
        assert_eq!(
            difference(&before, &read()).expect("different"),
            "base/1 odd has another content, base/2 has 1 bytes instead of 3, base/3 is missing, base/5 was not there"
        );
        let none = Files::new();
        let many: Files = (0..9).map(|n| (n.to_string(), before["base/4"])).collect();
        assert!(
            difference(&many, &none)
                .expect("different")
                .ends_with("4 is missing, and 4 more")
        );
        assert_eq!(parse("x 1 y\n"), None);
    }

    #[test]
    fn what_was_given_up_is_no_difference() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("pgdata")).expect("made");
        fs::write(root.path().join("pgdata/PG_VERSION"), "15").expect("written");
        let dir = Inside::cluster(root.path()).expect("opened");
        let cause = read_all(&dir, &|| false).expect_err("given up");
        assert_eq!(cause.kind(), std::io::ErrorKind::Interrupted);
    }
}
