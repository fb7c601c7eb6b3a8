//! Small files that are either whole or absent.
//!
//! Lives here: write, fsync, rename, fsync the directory.
//! Does not live here: what the files say (`record`).
//! Invariant: a reader never sees half a file; after [`replace_durably`] returns, a power cut keeps it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces `path` atomically; survives our death, not a power cut. For facts that a reboot voids anyway.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let (temporary, _) = write_beside(path, contents)?;
    fs::rename(temporary, path)
}

/// Replaces `path` atomically and durably.
pub fn replace_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let (temporary, file) = write_beside(path, contents)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(dir)?.sync_all()
}

fn write_beside(path: &Path, contents: &[u8]) -> io::Result<(PathBuf, File)> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(contents)?;
    Ok((temporary, file))
}
