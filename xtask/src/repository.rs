//! The working tree: where it is, and its files.
//!
//! Lives here: walking and reading. Does not live here: what is right or wrong about a file (`check`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Directories nobody wrote by hand.
const SKIPPED: &[&str] = &[
    "target",
    ".git",
    ".stoa",
    "node_modules",
    "__pycache__",
    ".venv",
    "dist",
];

/// A working tree.
pub struct Repository {
    root: PathBuf,
    files: Vec<String>,
}

impl Repository {
    /// The tree this program was built from.
    ///
    /// # Errors
    /// When it cannot be walked.
    pub fn here() -> Result<Self> {
        Self::open(&root())
    }

    /// A tree anywhere.
    ///
    /// # Errors
    /// When it cannot be walked.
    pub fn open(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        walk(root, root, &mut files)?;
        files.sort();
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }

    /// Paths of all files, relative, sorted.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Paths of all Rust sources.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.files().filter(|path| path.ends_with(".rs"))
    }

    /// The text of a file; empty when it is not text.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let bytes = fs::read(self.root.join(path)).with_context(|| format!("could not read {path}"))?;
        Ok(String::from_utf8(bytes).unwrap_or_default())
    }

    /// Whether a file or directory is there.
    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Directories of the workspace's crates with their names in the map: `crates/edge` is `edge`.
    pub fn crates(&self) -> Vec<(String, String)> {
        let manifests = self.files().filter_map(|path| path.strip_suffix("/Cargo.toml"));
        manifests
            .filter_map(|folder| match folder.split('/').collect::<Vec<_>>().as_slice() {
                ["crates", name] => Some((folder.to_owned(), (*name).to_owned())),
                [name @ ("stoa" | "tests" | "xtask" | "fuzz")] => {
                    Some((folder.to_owned(), (*name).to_owned()))
                }
                _ => None,
            })
            .collect()
    }
}

/// Root of the tree this program was built from.
pub fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map(Path::to_owned).unwrap_or(xtask)
}

/// Where builds go, as cargo decides it.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            if !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                walk(root, &path, files)?;
            }
        } else if let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            files.push(relative.to_owned());
        }
    }
    Ok(())
}
