//! What there is of a server and of a database, told by objects of their own.
//!
//! Invariant: what a catalogue names was put before it; what it does not name counts for nothing.

use std::io::{self, Read as _};

use model::{Base, Bytes, DatabaseId, ImageDigest, Lsn, Name, Segment, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{BackupError, Key, Object, Target, open, seal};

/// `EIO`: what is asked of a disk that lost it.
const BAD_DISK: i32 = 5;

/// Who writes under a server's identity. In the clear: it is looked at before there is a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The identity.
    pub server: String,
    /// Fingerprint of the key.
    pub key: String,
    /// Since when.
    pub since: Timestamp,
}

/// What there is of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Its id there.
    pub database: DatabaseId,
    /// Its name when this was written.
    pub name: Name,
    /// Org, project and environment it was in, by name.
    pub place: String,
    /// Budget of its volume.
    pub size: Bytes,
    /// Memory limit of its instance.
    pub memory: Bytes,
    /// When this was written.
    pub written_at: Timestamp,
    /// Its log.
    pub stretches: Vec<KeptStretch>,
    /// Bases that are there as a whole, oldest first.
    pub bases: Vec<KeptBase>,
}

/// A stretch of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptStretch {
    /// Its number.
    pub number: u64,
    /// Everything that was committed by then, and lies before that place, is in it.
    pub complete: Option<(Timestamp, Lsn)>,
    /// Its files, in order.
    pub files: Vec<KeptFile>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Which.
    pub segment: Segment,
    /// When something was written to it last.
    pub written: Timestamp,
    /// Size of its object.
    pub bytes: u64,
    /// It was not closed: as far as it was received at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_at: Option<Timestamp>,
}

/// A base whose manifest is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBase {
    /// Its number and where it can be brought to.
    pub number: u64,
    /// The stretch that goes on from it.
    pub stretch: u64,
    /// The earliest moment it can be brought to.
    pub at: Timestamp,
    /// The earliest place it can be brought to.
    pub lsn: Lsn,
    /// The segment in which that place lies.
    pub last: Segment,
    /// Major version of PostgreSQL.
    pub version: String,
    /// The image it ran from there.
    pub image: ImageDigest,
    /// Checksum of the list of its files, which is among them; nothing for one that was taken without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// Sizes of its objects, in sum.
    pub bytes: u64,
}

impl KeptBase {
    /// As the planner knows it.
    #[must_use]
    pub fn base(&self) -> Base {
        Base {
            number: self.number,
            stretch: self.stretch,
            at: self.at,
            lsn: self.lsn,
            last: self.last,
            version: self.version.clone(),
            image: self.image.clone(),
            manifest: self.files,
        }
    }
}

/// All parts of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In order.
    pub parts: Vec<Part>,
}

/// A part of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name of its object.
    pub name: String,
    /// Size of it.
    pub bytes: u64,
}

/// An object that is not what was put there, or a target that does not answer: the one tells of a backup, the other does not.
fn unread(target: &Target, name: &str, cause: &io::Error) -> BackupError {
    match cause.kind() {
        io::ErrorKind::InvalidData => BackupError::Damaged {
            object: name.to_owned(),
            why: cause.to_string(),
        },
        _ if cause.raw_os_error() == Some(BAD_DISK) => BackupError::Damaged {
            object: name.to_owned(),
            why: format!("cannot be read: {cause}"),
        },
        _ => BackupError::Unreachable {
            target: target.to_string(),
            why: format!("{name} could not be read: {cause}"),
        },
    }
}

impl Mark {
    /// The one under a name.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub fn read(target: &Target, name: &str) -> Result<Self, BackupError> {
        let mut text = String::new();
        let read = target.get(name)?.take(1 << 16).read_to_string(&mut text);
        let wrong = |why: String| BackupError::Damaged {
            object: name.to_owned(),
            why,
        };
        read.map_err(|cause| unread(target, name, &cause))?;
        serde_json::from_str(&text).map_err(|_| wrong("is no mark of a server".to_owned()))
    }

    /// Puts it under a name.
    ///
    /// # Errors
    /// When the target refuses.
    pub fn write(&self, target: &Target, name: &str) -> Result<(), BackupError> {
        target.put(name, &serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Target {
    /// A sealed document.
    ///
    /// # Errors
    /// `Missing` when there is none, `Damaged` when it is not what was put there.
    pub fn document<T: DeserializeOwned>(&self, key: &Key, name: &str) -> Result<T, BackupError> {
        serde_json::from_slice(&self.object(key, name)?).map_err(|cause| BackupError::Damaged {
            object: name.to_owned(),
            why: format!("is not understood: {cause}"),
        })
    }

    /// What is in a sealed object. Only catalogues are longer than [`PART_BYTES`](crate::PART_BYTES).
    ///
    /// # Errors
    /// `Missing` when there is none, `Damaged` when it is not what was put there, `Unreachable` when the target stopped
    /// answering in the middle of it.
    pub fn object(&self, key: &Key, name: &str) -> Result<Vec<u8>, BackupError> {
        let mut plain = Vec::new();
        let opened = open(key, name, self.get(name)?).and_then(|mut opened| opened.read_to_end(&mut plain));
        opened.map_err(|cause| unread(self, name, &cause))?;
        Ok(plain)
    }

    /// Puts a sealed document.
    ///
    /// # Errors
    /// When the target refuses.
    pub fn put_document<T: Serialize>(
        &self,
        key: &Key,
        name: &str,
        document: &T,
    ) -> Result<Object, BackupError> {
        let text = serde_json::to_vec(document).map_err(|cause| BackupError::Source {
            what: name.to_owned(),
            why: cause.to_string(),
        })?;
        let sealed = seal(key, name, &mut &text[..])?;
        self.put(name, &sealed)?;
        Ok(Object {
            name: name.to_owned(),
            bytes: sealed.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_of_the_object_is_damage() {
        let folder = tempfile::tempdir().expect("a directory");
        let target = Target::Directory(folder.path().to_owned());
        let key = Key::fresh().expect("a key");
        let read = |name: &str| target.object(&key, name);
        let put = |name: &str, sealed: &[u8]| target.put(name, sealed).expect("put");
        let sealed = seal(&key, "a/whole", &mut &b"text"[..]).expect("sealed");
        put("a/whole", &sealed);
        assert_eq!(read("a/whole").expect("opened"), b"text");
        put("a/moved", &sealed);
        put("a/short", &sealed[..sealed.len() - 1]);
        put("a/empty", b"");
        for name in ["a/moved", "a/short", "a/empty"] {
            let damaged = read(name).expect_err(name);
            assert!(
                matches!(&damaged, BackupError::Damaged { object, .. } if object == name),
                "{damaged}"
            );
        }
        let missing = read("a/missing").expect_err("missing");
        assert!(matches!(&missing, BackupError::Missing { object } if object == "a/missing"));
        // Opened, and then not readable: that is the target's trouble.
        std::fs::create_dir(folder.path().join("a/silent")).expect("made");
        let silent = read("a/silent").expect_err("silent");
        assert!(
            matches!(&silent, BackupError::Unreachable { why, .. } if why.contains("a/silent")),
            "{silent}"
        );
    }
}
