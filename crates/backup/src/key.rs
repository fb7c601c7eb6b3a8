//! The key of a server's backup, and the text a person keeps of it.
//!
//! Invariant: the text has a check sum, so that one that was copied wrongly is told from another key.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::BackupError;

const HEAD: &str = "stoa-backup-key";
const CHECK_BYTES: usize = 4;
const FINGERPRINT_BYTES: usize = 8;
const MARK_BYTES: usize = 16;

/// 256 random bits. Everything that leaves the machine is sealed with what is derived from them.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has another form.
    #[error("a backup key is written stoa-backup-key:64 hexadecimal digits:8 more")]
    Form,
    /// Its check sum does not fit.
    #[error("the backup key was copied wrongly: its check sum does not fit")]
    Sum,
}

impl Key {
    /// A fresh one.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn fresh() -> Result<Self, BackupError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..]).map_err(|_| BackupError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The text a person keeps. Whoever has it can read the backup.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{HEAD}:{}:{}", hex(&self.0[..]), hex(&self.check())))
    }

    /// Its public name: tells keys apart and nothing of the key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.derive("stoa-backup: key name 1")[..FINGERPRINT_BYTES])
    }

    /// A key for one purpose.
    pub(crate) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut mac =
            <Hmac<Sha256> as Mac>::new_from_slice(&self.0[..]).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// A mark of a content: who has the key tells by it whether a content is the same, and nobody else can.
    pub(crate) fn mark(&self, content: &[u8]) -> String {
        let key = self.derive("stoa-backup: content mark 1");
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key[..]).expect("HMAC takes keys of any length");
        mac.update(content);
        hex(&mac.finalize().into_bytes()[..MARK_BYTES])
    }

    fn check(&self) -> [u8; CHECK_BYTES] {
        let sum = self.derive("stoa-backup: check sum 1");
        [sum[0], sum[1], sum[2], sum[3]]
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text
            .trim()
            .strip_prefix(HEAD)
            .and_then(|rest| rest.strip_prefix(':'));
        let (digits, sum) = rest.and_then(|rest| rest.split_once(':')).ok_or(KeyError::Form)?;
        let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex(digits, 64) || !is_hex(sum, 2 * CHECK_BYTES) {
            return Err(KeyError::Form);
        }
        let mut bytes = Zeroizing::new([0; 32]);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| KeyError::Form)?;
        }
        let key = Self(bytes);
        match hex(&key.check()).eq_ignore_ascii_case(sum) {
            true => Ok(key),
            false => Err(KeyError::Sum),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint())
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_brings_the_key_back_or_is_refused() {
        let key = Key::fresh().expect("a key");
        let text = key.text();
        let again: Key = text.parse().expect("its own text");
        assert_eq!(again.fingerprint(), key.fingerprint());
        assert_ne!(Key::fresh().expect("a key").fingerprint(), key.fingerprint());
        let mut wrong = text.to_string();
        let digit = if wrong.as_bytes()[20] == b'0' { "1" } else { "0" };
        wrong.replace_range(20..21, digit);
        assert_eq!(wrong.parse::<Key>().err(), Some(KeyError::Sum));
        for wrong in [
            "",
            "stoa-backup-key",
            "stoa-backup-key:00:00",
            &text[1..],
            &text[..text.len() - 1],
        ] {
            assert_eq!(wrong.parse::<Key>().err(), Some(KeyError::Form), "{wrong}");
        }
        assert!(!format!("{key:?}").contains(&text[16..80]));
    }

    #[test]
    fn a_mark_tells_contents_apart_under_one_key_only() {
        let (key, other) = (Key::fresh().expect("a key"), Key::fresh().expect("a key"));
        assert_eq!(key.mark(b"rows"), key.mark(b"rows"));
        assert_ne!(key.mark(b"rows"), key.mark(b"other rows"));
        assert_ne!(key.mark(b"rows"), other.mark(b"rows"));
        assert_eq!(key.mark(b"").len(), 2 * MARK_BYTES);
    }

    /// What was sealed by an earlier version opens: neither its text nor its name may change.
    #[test]
    fn a_key_stays_what_it_was() {
        let text = format!("stoa-backup-key:{}:04dea595", "07".repeat(32));
        let key: Key = text.parse().expect("a key");
        assert_eq!(key.fingerprint(), "428ef498cd619056");
        assert_eq!(*key.text(), text);
    }
}
