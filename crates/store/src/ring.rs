//! The master key: its file outside the store, and the ring of keys in it.
//!
//! Lives here: reading and writing the file, adding a key, retiring old ones, what of the founding key never changes.
//! Does not live here: sealing with the keys (`secret`), sealing what is stored again (`rotate`).
//! Invariant: the file belongs to its owner alone and is whole at any moment: the old one or the new one, never a part.
//!
//! ```text
//! founded: [key 1]  --add-->  [key 1, key 2]  --all sealed again, retire-->  [integrity of key 1, key 2]
//! ```
//! The keys of row seals and of the audit chain follow from the founding key, one way. When it is retired they stay in
//! its place: they open nothing.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::secret::{SecretError, derive, hex, key_id, unhex};

const KEY_LINE: &str = "stoa-master-key-1";
const INTEGRITY_LINE: &str = "stoa-integrity-1";
/// A ring of many rotations that never ended; a larger file is not ours, and none is written.
const KEY_FILE_LIMIT_BYTES: u64 = 8192;

/// Room for any line, so that a text with keys in it never moves while it grows: what it left behind would not be wiped.
const LINE_AT_MOST_BYTES: usize = 256;

pub(crate) type KeyBytes = Zeroizing<[u8; 32]>;

/// What follows from the founding key and outlives it.
#[derive(Clone)]
struct Founding {
    id: String,
    row: KeyBytes,
    chain: KeyBytes,
}

impl Founding {
    fn of(key: &KeyBytes) -> Self {
        Self {
            id: hex(&key_id(key)),
            row: derive(key, "stoa store: row seal 1", ""),
            chain: derive(key, "stoa store: audit chain 1", ""),
        }
    }

    /// A checksum: a flipped digit is found when the file is read, not as a store without an intact row.
    fn check(&self) -> String {
        let both = derive(&self.row, &self.id, &hex(&key_id(&self.chain)));
        hex(&key_id(&both))
    }

    /// The line of the file that holds it.
    fn print(&self) -> Zeroizing<String> {
        let (row, chain) = (
            Zeroizing::new(hex(&self.row[..])),
            Zeroizing::new(hex(&self.chain[..])),
        );
        let (id, check) = (&self.id, self.check());
        Zeroizing::new(format!("{INTEGRITY_LINE} {id} {} {} {check}\n", *row, *chain))
    }

    fn parse(words: &[&str]) -> Option<Self> {
        let [INTEGRITY_LINE, id, row, chain, check] = words else {
            return None;
        };
        let founding = Self {
            id: (*id).to_owned(),
            row: unhex(row)?,
            chain: unhex(chain)?,
        };
        (founding.check() == *check).then_some(founding)
    }
}

/// The key ring: what the founding key left, and the keys; the newest seals, all open.
#[derive(Clone)]
pub struct MasterKey {
    founding: Founding,
    /// Oldest first; never empty.
    keys: Vec<KeyBytes>,
    /// None for a ring that was given: it is never written.
    path: Option<PathBuf>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MasterKey({}, {} in the ring)",
            self.founding.id,
            self.keys.len()
        )
    }
}

impl MasterKey {
    /// Loads the key; makes one only where there is no store yet, since a new key opens no old store.
    pub fn load_or_create(path: &Path, store: &Path) -> Result<Self, SecretError> {
        match std::fs::symlink_metadata(path) {
            Ok(_) => Self::load(path),
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(file_error(path, cause)),
            Err(_) if store.exists() => Err(SecretError::KeyMissing {
                path: path.into(),
                store: store.into(),
            }),
            Err(_) => {
                let mut ring = Self::founded(random_key()?);
                ring.path = Some(path.into());
                ring.write()?;
                Self::load(path)
            }
        }
    }

    /// Loads an existing key file, refusing one that others may read.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .map_err(|cause| file_error(path, cause))?;
        let facts = file.metadata().map_err(|cause| file_error(path, cause))?;
        if facts.mode() & 0o077 != 0 || facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(SecretError::KeyExposed {
                path: path.into(),
                mode: facts.mode() & 0o7777,
                owner: facts.uid(),
            });
        }
        if !facts.is_file() || facts.len() > KEY_FILE_LIMIT_BYTES {
            return Err(SecretError::KeyUnreadable {
                path: path.into(),
                line: 0,
            });
        }
        let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_LIMIT_BYTES as usize));
        file.read_to_string(&mut text)
            .map_err(|cause| file_error(path, cause))?;
        Self::parse(path, &text)
    }

    /// A ring of one given key, without a file: for tests and simulations, where randomness comes in.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::founded(Zeroizing::new(bytes))
    }

    fn founded(key: KeyBytes) -> Self {
        Self {
            founding: Founding::of(&key),
            keys: vec![key],
            path: None,
        }
    }

    /// The public name of the founding key.
    pub fn founding_id(&self) -> &str {
        &self.founding.id
    }

    /// The public names of the keys, oldest first: the last one seals.
    pub fn ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| hex(&key_id(key))).collect()
    }

    /// The public name of the key that seals.
    pub(crate) fn newest(&self) -> Option<String> {
        self.keys.last().map(|key| hex(&key_id(key)))
    }

    /// Adds a key that is to seal from now on, and returns when it is safe in the file. On an error nothing changed.
    /// Refused when the file would become larger than one that is read again.
    pub(crate) fn add(&mut self) -> Result<KeyBytes, SecretError> {
        let key = random_key()?;
        let mut next = self.clone();
        next.keys.push(key.clone());
        if next.print().len() as u64 > KEY_FILE_LIMIT_BYTES {
            return Err(SecretError::TooManyKeys {
                path: next.path.unwrap_or_default(),
                count: self.keys.len(),
            });
        }
        next.write()?;
        *self = next;
        Ok(key)
    }

    /// Takes all but the newest key out of the file. Nothing that is stored may need them any more.
    pub(crate) fn retire(&mut self) -> Result<(), SecretError> {
        let mut next = self.clone();
        next.keys.drain(..next.keys.len() - 1);
        next.write()?;
        *self = next;
        Ok(())
    }

    pub(crate) fn keys(&self) -> &[KeyBytes] {
        &self.keys
    }

    /// The key of row seals.
    pub(crate) fn row_key(&self) -> &KeyBytes {
        &self.founding.row
    }

    /// The key of the audit chain.
    pub(crate) fn chain_key(&self) -> &KeyBytes {
        &self.founding.chain
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SecretError> {
        let bad = |line| SecretError::KeyUnreadable {
            path: path.into(),
            line,
        };
        let mut founding = None;
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            if number == 0 && words[0] == INTEGRITY_LINE {
                founding = Some(Founding::parse(&words).ok_or_else(|| bad(1))?);
                continue;
            }
            let [KEY_LINE, id, key] = words[..] else {
                return Err(bad(number + 1));
            };
            let key = unhex(key).ok_or_else(|| bad(number + 1))?;
            // The id is a checksum of the key: a flipped digit is found here, not as a thousand secrets that do not open.
            if hex(&key_id(&key)) != id {
                return Err(bad(number + 1));
            }
            keys.push(key);
        }
        let first = keys.first().ok_or_else(|| bad(0))?;
        Ok(Self {
            founding: founding.unwrap_or_else(|| Founding::of(first)),
            keys,
            path: Some(path.into()),
        })
    }

    fn write(&self) -> Result<(), SecretError> {
        match &self.path {
            Some(path) => {
                replace_file(path, self.print().as_bytes()).map_err(|cause| file_error(path, cause))
            }
            None => Ok(()),
        }
    }

    /// The content of the file.
    fn print(&self) -> Zeroizing<String> {
        let lines = (self.keys.len() + 2) * LINE_AT_MOST_BYTES;
        let mut text = Zeroizing::new(String::with_capacity(lines));
        if self.keys.first().map(|key| hex(&key_id(key))).as_ref() != Some(&self.founding.id) {
            text.push_str(&self.founding.print());
        }
        for key in &self.keys {
            for part in [
                KEY_LINE,
                " ",
                &hex(&key_id(key)),
                " ",
                &Zeroizing::new(hex(&key[..])),
                "\n",
            ] {
                text.push_str(part);
            }
        }
        text
    }
}

fn random_key() -> Result<KeyBytes, SecretError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut key[..]).map_err(|_| SecretError::NoRandomness)?;
    Ok(key)
}

fn file_error(path: &Path, cause: std::io::Error) -> SecretError {
    SecretError::KeyFile {
        path: path.into(),
        cause: Arc::new(cause),
    }
}

/// Writes a private file whole: either the old content or the new one is there, whatever happens.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = directory.join(name);
    // What a crash left half written is ours to throw away: the data directory has one process.
    match std::fs::remove_file(&fresh) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(cause) = written.and_then(|()| std::fs::rename(&fresh, path)) {
        let _gone = std::fs::remove_file(&fresh);
        return Err(cause);
    }
    File::open(directory)?.sync_all()
}
