//! Contexts: which server, which credential, which place. Kept in one file that only its owner can read.
//!
//! Invariant: a token is only ever sent to the address it was obtained for.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};

/// All contexts of a user.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contexts {
    /// The one in use.
    #[serde(default)]
    pub(crate) current: String,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One context.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) api: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) org: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<String>,
}

/// The name of a context when nobody gives one.
pub(crate) const DEFAULT: &str = "default";

impl Contexts {
    /// Reads them; none when there is no file.
    pub(crate) fn load() -> Result<Self, Failure> {
        let path = file()?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => {
                return Err(Failure::local(
                    format!("could not read {}", path.display()),
                    &cause,
                ));
            }
        };
        serde_json::from_str(&text).map_err(|why| {
            Failure::new(
                Code::Failed,
                format!("{} is damaged: {why}", path.display()),
                format!("remove it and sign in again: rm {}", path.display()),
            )
        })
    }

    /// The name of the one in use; it may be that of none.
    pub(crate) fn current(&self) -> &str {
        if self.current.is_empty() {
            DEFAULT
        } else {
            &self.current
        }
    }

    /// Forgets one. Its name stays the one in use: another is never taken by itself, since commands would go elsewhere.
    pub(crate) fn forget(&mut self, name: &str) {
        if self.current() == name {
            name.clone_into(&mut self.current);
        }
        self.contexts.remove(name);
    }

    /// Writes them: a new file that only the owner can read, then renamed over the old one.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let path = file()?;
        save_at(self, &path)
            .map_err(|cause| Failure::local(format!("could not write {}", path.display()), &cause))
    }
}

fn save_at(contexts: &Contexts, path: &Path) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)?;
    file.write_all(serde_json::to_string_pretty(contexts)?.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    fs::File::open(dir)?.sync_all()
}

fn file() -> Result<PathBuf, Failure> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = set("STOA_CONFIG_DIR")
        .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("stoa")))
        .or_else(|| set("HOME").map(|dir| dir.join(".config/stoa")));
    dir.map(|dir| dir.join("contexts.json")).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "there is no home directory for the context file",
            "set STOA_CONFIG_DIR",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/contexts.json");
        let mut contexts = Contexts::default();
        for round in ["one", "two"] {
            contexts.contexts.insert(round.to_owned(), Context::default());
            save_at(&contexts, &path).expect("saved");
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let read: Contexts = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
            assert_eq!(read, contexts);
        }
    }
}
