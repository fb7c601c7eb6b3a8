//! Secrets: sealed values inside the store, and the type that does not leak.
//!
//! Lives here: deriving keys, sealing and opening, `Secret`.
//! Does not live here: the file of the master key (`ring`), which secrets there are (`control`), the tags on rows (`mac`).
//! Invariant: a sealed value opens only for the tenant, name and version it was sealed for; a `Secret` prints
//! and serialises as nothing and is wiped when dropped.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::ring::{KeyBytes, MasterKey};

const SEAL_VERSION: u8 = 1;
pub(crate) const KEY_ID_BYTES: usize = 8;
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
    /// The key file holds as many keys as it may.
    #[error("the master key file {path} holds {count} keys; there is no room for another")]
    TooManyKeys {
        /// The key's file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
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
            Self::TooManyKeys { .. } => {
                "mend what keeps old keys: end stoa up, then stoa doctor --repair; then: stoa server rotate-key".into()
            }
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

/// Seals and opens values for tenants: the newest key seals, all open.
///
/// A key that was retired from the file still opens here until the process ends: whoever read a row just before it was
/// sealed again can still open it.
pub struct Sealer(RwLock<Vec<KeyBytes>>);

impl Sealer {
    /// A sealer with every key of the ring.
    pub fn new(master: &MasterKey) -> Self {
        Self(RwLock::new(master.keys().to_vec()))
    }

    /// Seals with another key from now on. It is in the file already, and nobody is in the middle of a write.
    pub(crate) fn add(&self, key: KeyBytes) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    fn newest(&self) -> KeyBytes {
        let ring = self.0.read().unwrap_or_else(PoisonError::into_inner);
        ring.last().expect("a key ring is never empty").clone()
    }

    fn key(&self, id: &[u8]) -> Option<KeyBytes> {
        let ring = self.0.read().unwrap_or_else(PoisonError::into_inner);
        ring.iter().find(|key| key_id(key) == id).cloned()
    }

    /// Seals a value for exactly this tenant, name and version, under the newest key.
    pub fn seal(
        &self,
        tenant: &str,
        name: &str,
        version: u64,
        plain: &Secret,
    ) -> Result<Sealed, SecretError> {
        let key = self.newest();
        let id = key_id(&key);
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| SecretError::NoRandomness)?;
        let bound = place(tenant, name, version, &id);
        let body = tenant_cipher(&key, tenant)
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
        let key = self.key(id).ok_or_else(|| SecretError::UnknownKey {
            name: name.into(),
            version,
            key_id: hex(id),
        })?;
        tenant_cipher(&key, tenant)
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
        sealed.0.get(1..1 + KEY_ID_BYTES) != Some(&key_id(&self.newest())[..])
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner).len();
        write!(f, "Sealer({keys} keys)")
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

pub(crate) fn derive(key: &KeyBytes, purpose: &str, subject: &str) -> KeyBytes {
    let mut hash = <Hmac<Sha256> as Mac>::new_from_slice(&key[..]).expect("HMAC takes keys of any length");
    hash.update(&(purpose.len() as u64).to_be_bytes());
    hash.update(purpose.as_bytes());
    hash.update(subject.as_bytes());
    let mut out = hash.finalize().into_bytes();
    let derived = Zeroizing::new(out.into());
    out.as_mut_slice().zeroize();
    derived
}

pub(crate) fn key_id(key: &KeyBytes) -> [u8; KEY_ID_BYTES] {
    let full = derive(key, "stoa store: key id 1", "");
    let mut id = [0; KEY_ID_BYTES];
    id.copy_from_slice(&full[..KEY_ID_BYTES]);
    id
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
