//! Objects as files of a directory.
//!
//! Invariant: a file has its name only when all of it is on the disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::{BackupError, Object};

/// How the name of a file begins that is being written; such a one is never listed.
const NEW: &str = ".new-";

fn failed(root: &Path) -> impl Fn(io::Error) -> BackupError {
    move |cause| BackupError::Unreachable {
        target: root.display().to_string(),
        why: cause.to_string(),
    }
}

/// The folder of an object and the name of its file.
fn parts(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

pub(crate) fn put(root: &Path, name: &str, content: &[u8]) -> Result<(), BackupError> {
    write(root, name, content).map_err(failed(root))
}

fn write(root: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let (folder, file) = parts(name);
    let folder = made(root, folder)?;
    let new = folder.join(format!("{NEW}{file}"));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    if let Err(cause) = written {
        drop(fs::remove_file(&new));
        return Err(cause);
    }
    fs::rename(&new, folder.join(file))?;
    File::open(&folder)?.sync_all()
}

/// Each folder is on the disk before there is something in it. The root must be there: when it is not, what should be
/// mounted there is not either.
fn made(root: &Path, folder: &str) -> io::Result<std::path::PathBuf> {
    let mut at = root.to_path_buf();
    for part in folder.split('/').filter(|part| !part.is_empty()) {
        let below = at.join(part);
        match DirBuilder::new().mode(0o700).create(&below) {
            Ok(()) => File::open(&at)?.sync_all()?,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(cause),
        }
        at = below;
    }
    Ok(at)
}

pub(crate) fn get(root: &Path, name: &str) -> Result<Box<dyn Read>, BackupError> {
    match File::open(root.join(name)) {
        Ok(file) => Ok(Box::new(file)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(BackupError::Missing {
            object: name.to_owned(),
        }),
        Err(cause) => Err(failed(root)(cause)),
    }
}

pub(crate) fn list(root: &Path, prefix: &str) -> Result<Vec<Object>, BackupError> {
    let mut found = Vec::new();
    walk(root, prefix.trim_end_matches('/'), &mut found).map_err(failed(root))?;
    Ok(found)
}

fn walk(root: &Path, folder: &str, found: &mut Vec<Object>) -> io::Result<()> {
    for (name, facts) in entries(&root.join(folder))? {
        let name = format!("{folder}/{name}");
        if facts.is_dir() {
            walk(root, &name, found)?;
        } else if facts.is_file() {
            found.push(Object {
                name,
                bytes: facts.len(),
            });
        }
    }
    Ok(())
}

/// What is in a folder, itself and not what a link leads to. One that is not there has nothing in it.
fn entries(folder: &Path) -> io::Result<Vec<(String, fs::Metadata)>> {
    let all = match fs::read_dir(folder) {
        Ok(all) => all,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause),
    };
    let mut found = Vec::new();
    for entry in all {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        match entry.metadata() {
            Ok(facts) if !name.starts_with('.') => found.push((name, facts)),
            Ok(_) => {}
            // Removed meanwhile.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(found)
}

pub(crate) fn folders(root: &Path, prefix: &str) -> Result<Vec<String>, BackupError> {
    let found = entries(&root.join(prefix)).map_err(failed(root))?;
    let folders = found.into_iter().filter(|(_, facts)| facts.is_dir());
    Ok(folders.map(|(name, _)| name).collect())
}

pub(crate) fn remove(root: &Path, name: &str) -> Result<(), BackupError> {
    match fs::remove_file(root.join(name)) {
        Ok(()) => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(root)(cause)),
    }
    // Folders that are empty now go with it; the first that is not stays.
    let (mut folder, _) = parts(name);
    while !folder.is_empty() && fs::remove_dir(root.join(folder)).is_ok() {
        folder = parts(folder).0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    #[test]
    fn a_directory_holds_objects() {
        let root = tempfile::tempdir().expect("a directory");
        let target = Target::Directory(root.path().to_owned());
        target.prove("1").expect("proved");
        assert_eq!(
            fs::read_dir(root.path()).expect("listed").count(),
            0,
            "the probe left something"
        );
        for (name, text) in [("a/b/one", "1"), ("a/two", "22"), ("a/two", "2"), ("c/x", "")] {
            target.put(name, text.as_bytes()).expect("put");
        }
        fs::write(root.path().join("a/.new-three"), "half").expect("written");
        let names: Vec<_> = target
            .list("a/")
            .expect("listed")
            .into_iter()
            .map(|one| (one.name, one.bytes))
            .collect();
        assert_eq!(names, [("a/b/one".to_owned(), 1), ("a/two".to_owned(), 1)]);
        assert_eq!(target.folders("a/").expect("listed"), ["b"]);
        assert!(target.list("z/").expect("nothing").is_empty());
        target.remove("a/b/one").expect("removed");
        target.remove("a/b/one").expect("again");
        assert!(!root.path().join("a/b").exists() && root.path().join("a/two").exists());
        assert!(matches!(target.get("a/b/one"), Err(BackupError::Missing { .. })));
    }

    #[test]
    fn a_root_that_is_not_there_takes_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let target = Target::Directory(root.path().join("not-mounted"));
        let cause = target.put("a/b", b"x").expect_err("refused");
        assert!(cause.to_string().contains("not-mounted"), "{cause}");
        assert!(!root.path().join("not-mounted").exists());
    }
}
