//! Secrets: the master key outside the store, sealed values inside it, and the type that does not leak.
//!
//! Lives here: the key file, deriving keys, sealing and opening, `Secret`.
//! Does not live here: which secrets there are (`control`), the tags on rows (`mac`).
//! Invariant: a sealed value opens only for the tenant, name and version it was sealed for; a `Secret` prints
//! and serialises as nothing and is wiped when dropped.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

const KEY_LINE: &str = "stoa-master-key-1";
/// A ring of 64 rotations; a larger file is not ours.
const KEY_FILE_LIMIT_BYTES: u64 = 8192;
const SEAL_VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;

/// A failure of the master key or of a sealed value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    /// The store is there, its key is not.
    #[error("the master key {path} is missing, and the store {store} cannot be read without it")]
    KeyMissing {
        /// Where the key should be.
        path: PathBuf,
        /// The store that needs it.
        store: PathBuf,
    },
    /// Others may read the key.
    #[error("the master key {path} may be read by others (mode {mode:o}, owner {owner})")]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's user id.
        owner: u32,
    },
    /// The file is not a master key.
    #[error("{path} is not a master key file (line {line})")]
    KeyUnreadable {
        /// The key's file.
        path: PathBuf,
        /// The first bad line; 0 when the file as a whole is unfit.
        line: usize,
    },
    /// The key file could not be read or written.
    #[error("the master key {path} could not be read or written")]
    KeyFile {
        /// The key's file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// The machine gives no randomness.
    #[error("the machine gave no random bytes")]
    NoRandomness,
    /// Sealed by a key that is not in the ring.
    #[error(
        "secret {name} version {version} was sealed by key {key_id}, which is not in the master key file"
    )]
    UnknownKey {
        /// The secret's name.
        name: String,
        /// Its version.
        version: u64,
        /// The key that sealed it.
        key_id: String,
    },
    /// Altered, moved, or sealed for somebody else.
    #[error("secret {name} version {version} does not open: it was altered, or sealed for another place")]
    DoesNotOpen {
        /// The secret's name.
        name: String,
        /// Its version.
        version: u64,
    },
}

impl SecretError {
    /// What a person can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::KeyMissing { path, .. } => {
                format!("put the key back from its own backup: {}", path.display())
            }
            Self::KeyExposed { path, .. } => {
                format!(
                    "chown it to the user Stoa runs as and chmod 600 {}",
                    path.display()
                )
            }
            Self::KeyUnreadable { path, .. } => {
                format!("put the key back from its own backup: {}", path.display())
            }
            Self::KeyFile { path, .. } => format!(
                "check the directory and its permissions: ls -l {}",
                path.display()
            ),
            Self::NoRandomness => "check that getrandom works on this kernel, then start again".into(),
            Self::UnknownKey { key_id, .. } => {
                format!("put back the master key file that has key {key_id}, or set the secret again")
            }
            Self::DoesNotOpen { name, .. } => format!("set {name} again"),
        }
    }
}

/// A value that must not be seen: no `Debug` of its content, no `Serialize`, wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The content. The word in the source is the place to look at in a review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The content as text, if it is text.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Compares without telling by its duration where the first difference is.
    pub fn is(&self, other: &[u8]) -> bool {
        self.0.len() == other.len() && self.0.iter().zip(other).fold(0u8, |seen, (a, b)| seen | (a ^ b)) == 0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A sealed value; safe to store and to serialise (as base64).
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map(Sealed).map_err(serde::de::Error::custom)
    }
}

type KeyBytes = Zeroizing<[u8; 32]>;

/// The key ring: the founding key, and those of later rotations; the newest seals, all open.
pub struct MasterKey(Vec<KeyBytes>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MasterKey({}, {} in the ring)",
            self.founding_id(),
            self.0.len()
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
                let ring = Self(vec![random_key()?]);
                ring.write(path)?;
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

    /// A ring of one given key: for tests and simulations, where randomness comes in.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(vec![Zeroizing::new(bytes)])
    }

    /// Adds a new key that seals from now on, and writes the file anew. Old values still open.
    pub fn rotate(&mut self, path: &Path) -> Result<(), SecretError> {
        self.0.push(random_key()?);
        self.write(path).inspect_err(|_| {
            self.0.pop();
        })
    }

    /// The public name of the founding key.
    pub fn founding_id(&self) -> String {
        hex(&key_id(&self.0[0]))
    }

    /// A key for one purpose that never changes with rotation.
    pub(crate) fn derive_founding(&self, purpose: &str) -> KeyBytes {
        derive(&self.0[0], purpose, "")
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SecretError> {
        let bad = |line| SecretError::KeyUnreadable {
            path: path.into(),
            line,
        };
        let mut ring = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split(' ');
            let (name, id, key, rest) = (words.next(), words.next(), words.next(), words.next());
            let (Some(KEY_LINE), Some(id), Some(key), None) = (name, id, key, rest) else {
                return Err(bad(number + 1));
            };
            let key = unhex(key).ok_or_else(|| bad(number + 1))?;
            // The id is a checksum of the key: a flipped digit is found here, not as a thousand secrets that do not open.
            if hex(&key_id(&key)) != id {
                return Err(bad(number + 1));
            }
            ring.push(key);
        }
        if ring.is_empty() {
            Err(bad(0))
        } else {
            Ok(Self(ring))
        }
    }

    fn write(&self, path: &Path) -> Result<(), SecretError> {
        let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_LIMIT_BYTES as usize));
        for key in &self.0 {
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
        replace_file(path, text.as_bytes()).map_err(|cause| file_error(path, cause))
    }
}

/// Seals and opens values for tenants.
pub struct Sealer(Vec<KeyBytes>);

impl Sealer {
    /// A sealer with every key of the ring.
    pub fn new(master: &MasterKey) -> Self {
        Self(master.0.clone())
    }

    /// Seals a value for exactly this tenant, name and version, under the newest key.
    pub fn seal(
        &self,
        tenant: &str,
        name: &str,
        version: u64,
        plain: &Secret,
    ) -> Result<Sealed, SecretError> {
        let key = self.0.last().expect("a key ring is never empty");
        let id = key_id(key);
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| SecretError::NoRandomness)?;
        let bound = place(tenant, name, version, &id);
        let body = tenant_cipher(key, tenant)
            .encrypt(
                XNonce::from_slice(&nonce),
                Payload {
                    msg: plain.expose(),
                    aad: &bound,
                },
            )
            .map_err(|_| SecretError::DoesNotOpen {
                name: name.into(),
                version,
            })?;
        let mut sealed = Vec::with_capacity(1 + KEY_ID_BYTES + NONCE_BYTES + body.len());
        sealed.push(SEAL_VERSION);
        sealed.extend_from_slice(&id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        Ok(Sealed(sealed))
    }

    /// Opens what was sealed for this tenant, name and version.
    pub fn open(
        &self,
        tenant: &str,
        name: &str,
        version: u64,
        sealed: &Sealed,
    ) -> Result<Secret, SecretError> {
        let closed = || SecretError::DoesNotOpen {
            name: name.into(),
            version,
        };
        let (head, rest) = sealed.0.split_at_checked(1 + KEY_ID_BYTES).ok_or_else(closed)?;
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or_else(closed)?;
        if head[0] != SEAL_VERSION {
            return Err(closed());
        }
        let id = &head[1..];
        let key = self
            .0
            .iter()
            .find(|key| key_id(key) == id)
            .ok_or_else(|| SecretError::UnknownKey {
                name: name.into(),
                version,
                key_id: hex(id),
            })?;
        tenant_cipher(key, tenant)
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: body,
                    aad: &place(tenant, name, version, id),
                },
            )
            .map(Secret::new)
            .map_err(|_| closed())
    }

    /// True when a value was not sealed by the newest key and is to be sealed again.
    pub fn is_stale(&self, sealed: &Sealed) -> bool {
        let newest = self.0.last().map(key_id);
        sealed.0.get(1..1 + KEY_ID_BYTES) != newest.as_ref().map(|id| &id[..])
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} keys)", self.0.len())
    }
}

fn tenant_cipher(key: &KeyBytes, tenant: &str) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&*derive(key, "stoa store: tenant key 1", tenant)).into())
}

/// The place a value is bound to, as associated data: it opens nowhere else.
fn place(tenant: &str, name: &str, version: u64, key_id: &[u8]) -> Vec<u8> {
    let mut bound = Vec::new();
    for part in [tenant.as_bytes(), name.as_bytes(), &version.to_be_bytes(), key_id] {
        bound.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

fn derive(key: &KeyBytes, purpose: &str, subject: &str) -> KeyBytes {
    let mut hash = <Hmac<Sha256> as Mac>::new_from_slice(&key[..]).expect("HMAC takes keys of any length");
    hash.update(&(purpose.len() as u64).to_be_bytes());
    hash.update(purpose.as_bytes());
    hash.update(subject.as_bytes());
    let mut out = hash.finalize().into_bytes();
    let derived = Zeroizing::new(out.into());
    out.as_mut_slice().zeroize();
    derived
}

fn key_id(key: &KeyBytes) -> [u8; KEY_ID_BYTES] {
    let full = derive(key, "stoa store: key id 1", "");
    let mut id = [0; KEY_ID_BYTES];
    id.copy_from_slice(&full[..KEY_ID_BYTES]);
    id
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

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

pub(crate) fn unhex(text: &str) -> Option<KeyBytes> {
    let mut bytes = Zeroizing::new([0; 32]);
    if text.len() != 64
        || !text
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
