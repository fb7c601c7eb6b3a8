//! Files that are there whole or not at all.
//!
//! Lives here: write, fsync, rename, fsync the directory; the last good table.
//! Does not live here: what the files mean.
//! Invariant: a reader sees the old file or the new one, also after a power cut.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::table::{Policy, Problem, RouteTable};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Private,
    Public,
}

/// Writes a file whole.
pub(crate) fn write(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()
}

/// Makes a directory for our eyes only, with its parents.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The name of the last good table in the state directory.
const TABLE: &str = "routes.json";

/// Keeps a table for the next start.
pub(crate) fn save_table(state_dir: &Path, table: &RouteTable) -> io::Result<()> {
    let content = serde_json::to_vec(table.table())?;
    write(&state_dir.join(TABLE), &content, Access::Private)
}

/// What the state directory holds.
#[derive(Debug)]
pub(crate) enum LastGood {
    Table(RouteTable),
    None,
    /// A file that is not a table fit to serve; it is set aside, so that it can be looked at.
    Refused(Vec<Problem>),
}

/// Reads the table kept last.
pub(crate) fn load_table(state_dir: &Path, policy: &Policy) -> io::Result<LastGood> {
    let path = state_dir.join(TABLE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(LastGood::None),
        Err(cause) => return Err(cause),
    };
    let mut content = Vec::new();
    file.take(policy.bytes_max as u64 + 1).read_to_end(&mut content)?;
    match RouteTable::parse(&content, policy) {
        Ok(table) => Ok(LastGood::Table(table)),
        Err(problems) => {
            std::fs::rename(&path, state_dir.join("routes.refused.json"))?;
            Ok(LastGood::Refused(problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_kept_and_a_broken_one_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy::default();
        assert!(matches!(load_table(dir.path(), &policy).unwrap(), LastGood::None));
        save_table(dir.path(), &RouteTable::empty()).unwrap();
        assert!(
            matches!(load_table(dir.path(), &policy).unwrap(), LastGood::Table(t) if t == RouteTable::empty())
        );
        std::fs::write(dir.path().join(TABLE), "{half").unwrap();
        assert!(matches!(
            load_table(dir.path(), &policy).unwrap(),
            LastGood::Refused(_)
        ));
        assert!(dir.path().join("routes.refused.json").exists());
        assert!(matches!(load_table(dir.path(), &policy).unwrap(), LastGood::None));
    }
}
