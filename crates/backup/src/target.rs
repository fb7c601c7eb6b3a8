//! Where objects lie: a directory, or a bucket.

use std::fmt;
use std::io::Read;

use crate::bucket::Bucket;
use crate::{BackupError, directory};

/// A place for objects.
#[derive(Debug, Clone)]
pub enum Target {
    /// A directory: another disk, a share, what another program carries away.
    Directory(std::path::PathBuf),
    /// A bucket of a server that speaks S3.
    Bucket(Bucket),
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What a probe writes.
const PROBE: &[u8] = b"written by Stoa to see that it can; may be removed\n";

impl Target {
    /// Puts an object, instead of one of that name. Until it is there as a whole nothing has changed.
    ///
    /// # Errors
    /// When the target does not take it.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<(), BackupError> {
        match self {
            Self::Directory(root) => directory::put(root, name, content),
            Self::Bucket(bucket) => bucket.put(name, content),
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// `Missing` when it is not there.
    pub fn get(&self, name: &str) -> Result<Box<dyn Read>, BackupError> {
        match self {
            Self::Directory(root) => directory::get(root, name),
            Self::Bucket(bucket) => bucket.get(name),
        }
    }

    /// All objects whose names begin so, in order; `prefix` ends with a slash.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>, BackupError> {
        let mut all = match self {
            Self::Directory(root) => directory::list(root, prefix)?,
            Self::Bucket(bucket) => bucket.list(prefix)?,
        };
        all.sort();
        Ok(all)
    }

    /// What comes next in names that begin so, up to the next slash; `prefix` ends with a slash.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>, BackupError> {
        let mut all = match self {
            Self::Directory(root) => directory::folders(root, prefix)?,
            Self::Bucket(bucket) => bucket.folders(prefix)?,
        };
        all.sort();
        Ok(all)
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// When the target refuses.
    pub fn remove(&self, name: &str) -> Result<(), BackupError> {
        match self {
            Self::Directory(root) => directory::remove(root, name),
            Self::Bucket(bucket) => bucket.remove(name),
        }
    }

    /// Does each of these once, to an object that is gone afterwards.
    ///
    /// # Errors
    /// The first that does not work.
    pub fn prove(&self, nonce: &str) -> Result<(), BackupError> {
        let folder = format!("stoa-probe-{nonce}/");
        let name = format!("{folder}object");
        let wrong = |why: &str| BackupError::Unreachable {
            target: self.to_string(),
            why: why.to_owned(),
        };
        self.put(&name, PROBE)?;
        let proved = (|| {
            let mut read = Vec::new();
            let got = self.get(&name)?.take(1 << 16).read_to_end(&mut read);
            got.map_err(|cause| wrong(&cause.to_string()))?;
            if read != PROBE {
                return Err(wrong("it gave back something else than was put there"));
            }
            let listed = self.list(&folder)?;
            if listed
                .iter()
                .all(|object| object.name != name || object.bytes != PROBE.len() as u64)
            {
                return Err(wrong("it does not list what was put there"));
            }
            Ok(())
        })();
        let removed = self.remove(&name);
        proved?;
        removed?;
        match self.list(&folder)?.is_empty() {
            true => Ok(()),
            false => Err(wrong("what was removed there is there all the same")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(root) => root.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}
