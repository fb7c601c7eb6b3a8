//! Digests over inputs, so that the same step is found again.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::error::BuildError;

/// A digest under way. Every part carries its length, so that two lists never look the same.
pub(crate) struct Digest(Sha256);

impl Digest {
    pub(crate) fn new(purpose: &str) -> Self {
        let mut digest = Self(Sha256::new());
        digest.text(purpose);
        digest
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn list<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        let texts: Vec<&str> = texts.into_iter().collect();
        self.0.update((texts.len() as u64).to_le_bytes());
        texts.into_iter().for_each(|text| self.text(text));
    }

    /// A file, link or directory with all it holds: names, kinds, permissions to run, content.
    pub(crate) fn tree(&mut self, path: &Path) -> Result<(), BuildError> {
        let failed = || BuildError::disk(path);
        let facts = path.symlink_metadata().map_err(failed())?;
        if facts.is_symlink() {
            self.text("link");
            self.bytes(fs::read_link(path).map_err(failed())?.as_os_str().as_bytes());
        } else if facts.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(path)
                .map_err(failed())?
                .collect::<Result<_, _>>()
                .map_err(failed())?;
            entries.sort_by_key(fs::DirEntry::file_name);
            self.text("directory");
            self.0.update((entries.len() as u64).to_le_bytes());
            for entry in entries {
                self.bytes(entry.file_name().as_bytes());
                self.tree(&entry.path())?;
            }
        } else {
            let is_program = facts.permissions().mode() & 0o111 != 0;
            self.text(if is_program { "program" } else { "file" });
            self.0.update(facts.len().to_le_bytes());
            let mut file = fs::File::open(path).map_err(failed())?;
            let mut chunk = vec![0; 64 << 10];
            loop {
                match file.read(&mut chunk).map_err(failed())? {
                    0 => break,
                    count => self.0.update(&chunk[..count]),
                }
            }
        }
        Ok(())
    }

    pub(crate) fn hex(self) -> String {
        self.0
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &Path) -> String {
        let mut digest = Digest::new("test");
        digest.tree(path).expect("readable");
        digest.hex()
    }

    #[test]
    fn what_shapes_a_result_changes_the_digest_and_nothing_else_does() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().join("a");
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("one"), "1").expect("a file");
        let first = of(&dir);
        let copy = place.path().join("b");
        fs::create_dir(&copy).expect("a directory");
        fs::write(copy.join("one"), "1").expect("a file");
        assert_eq!(of(&copy), first, "neither time nor place matters");
        let mut seen = vec![first];
        let mut changed = |what: &str| {
            let digest = of(&dir);
            assert!(!seen.contains(&digest), "{what}");
            seen.push(digest);
        };
        fs::write(dir.join("one"), "2").expect("a file");
        changed("content");
        fs::set_permissions(dir.join("one"), fs::Permissions::from_mode(0o755)).expect("a mode");
        changed("permission to run");
        fs::rename(dir.join("one"), dir.join("two")).expect("renamed");
        changed("name");
        std::os::unix::fs::symlink("two", dir.join("link")).expect("a link");
        changed("a link");
        fs::create_dir(dir.join("empty")).expect("a directory");
        changed("an empty directory");
    }

    #[test]
    fn lists_are_not_mistaken_for_each_other() {
        let of = |texts: &[&str]| {
            let mut digest = Digest::new("test");
            digest.list(texts.iter().copied());
            digest.hex()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&[]), of(&[""]));
    }
}
