//! Replacing a small file whole.
//!
//! Lives here: write aside, sync, rename, sync the directory; and the same without the syncs.
//! Invariant: a reader sees the old content or the new, never a part.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Whether the file must outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Synced before and after the rename.
    ThroughPowerCut,
    /// Only atomic: what it describes (namespaces, links) does not outlive a power cut either.
    ThisBoot,
}

/// Replace `path` with `content`.
pub(crate) fn replace(path: &Path, content: &[u8], keep: Keep) -> io::Result<()> {
    let aside = aside(path);
    let mut file = File::create(&aside)?;
    file.write_all(content)?;
    if keep == Keep::ThroughPowerCut {
        file.sync_all()?;
    }
    fs::rename(&aside, path)?;
    if keep == Keep::ThroughPowerCut
        && let Some(dir) = path.parent()
    {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// The content, or nothing when there is no such file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}
