//! Sealed objects: compressed, then encrypted in chunks.
//!
//! ```text
//! magic (8) | nonce (19) | chunk | chunk | .. | last chunk      chunk: 256 KiB of the compressed text, and 16 of its tag
//! ```
//! XChaCha20-Poly1305 in the STREAM construction: each chunk is bound to its position, the last one says that it is the
//! last, and all of them to the object's name. So nothing can be altered, moved, left out, cut short or put under another
//! name unnoticed; and neither side ever holds more than a chunk of what it opens.

use std::io::{self, Read};

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::generic_array::GenericArray;
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::aead::{KeyInit, Payload};

use crate::BackupError;
use crate::key::Key;

const MAGIC: &[u8; 8] = b"STOABK1\n";
const NONCE_BYTES: usize = 19;
const CHUNK: usize = 256 << 10;
const TAG: usize = 16;
/// What one object holds at most: a segment of the log, or as much of a base. It bounds what a put needs of memory.
pub const PART_BYTES: u64 = 16 << 20;
/// Fast: most of what is sealed is the zeroes of an unfinished segment, or is read once.
const LEVEL: i32 = 1;

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&*key.derive("stoa-backup: object key 1")).into())
}

/// Seals what `plain` gives as the object of that name.
///
/// # Errors
/// When `plain` fails, or the machine gives no randomness.
pub fn seal(key: &Key, name: &str, plain: &mut dyn Read) -> Result<Vec<u8>, BackupError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_| BackupError::NoRandomness)?;
    let mut sealed = MAGIC.to_vec();
    sealed.extend_from_slice(&nonce);
    let failed = |cause: io::Error| BackupError::Source {
        what: name.to_owned(),
        why: cause.to_string(),
    };
    let too_long = |_| failed(io::ErrorKind::FileTooLarge.into());
    let mut stream = EncryptorBE32::from_aead(cipher(key), GenericArray::from_slice(&nonce));
    let mut packed = zstd::stream::read::Encoder::new(plain, LEVEL).map_err(failed)?;
    let mut chunk = full_chunk(&mut packed, CHUNK).map_err(failed)?;
    loop {
        let next = full_chunk(&mut packed, CHUNK).map_err(failed)?;
        let payload = Payload {
            msg: &chunk,
            aad: name.as_bytes(),
        };
        if next.is_empty() {
            sealed.extend(stream.encrypt_last(payload).map_err(too_long)?);
            return Ok(sealed);
        }
        sealed.extend(stream.encrypt_next(payload).map_err(too_long)?);
        chunk = next;
    }
}

/// So many bytes, less only at the end.
fn full_chunk(from: &mut dyn Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::new();
    from.take(bytes as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// What is in a sealed object, as it is read.
pub struct Opened<'r>(zstd::stream::read::Decoder<'static, io::BufReader<Unsealed<'r>>>);

impl Read for Opened<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

/// Opens the object of that name. What does not fit is told as soon as it is come upon: only at the end is it known to be
/// whole.
///
/// # Errors
/// When it is none of ours. Reading fails with `InvalidData` where it was altered.
pub fn open<'r>(key: &Key, name: &str, mut sealed: Box<dyn Read + 'r>) -> io::Result<Opened<'r>> {
    let head = full_chunk(&mut *sealed, MAGIC.len() + NONCE_BYTES)?;
    let nonce = match head.split_at_checked(MAGIC.len()) {
        Some((magic, nonce)) if magic == MAGIC && nonce.len() == NONCE_BYTES => nonce,
        Some(_) | None => return Err(altered()),
    };
    let stream = DecryptorBE32::from_aead(cipher(key), GenericArray::from_slice(nonce));
    let ahead = full_chunk(&mut *sealed, CHUNK + TAG)?;
    let unsealed = Unsealed {
        sealed,
        stream: Some(stream),
        name: name.to_owned(),
        ahead,
        plain: io::Cursor::default(),
    };
    Ok(Opened(zstd::stream::read::Decoder::new(unsealed)?))
}

fn altered() -> io::Error {
    let why = "does not open: it was altered, cut short, or belongs elsewhere";
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The chunks of an object, opened one after the other.
struct Unsealed<'r> {
    sealed: Box<dyn Read + 'r>,
    /// Nothing after the last one.
    stream: Option<DecryptorBE32<XChaCha20Poly1305>>,
    name: String,
    /// The chunk that comes next: whether it is the last shows only behind it.
    ahead: Vec<u8>,
    plain: io::Cursor<Vec<u8>>,
}

impl Read for Unsealed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.plain.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            let Some(mut stream) = self.stream.take() else {
                return Ok(0);
            };
            let next = full_chunk(&mut *self.sealed, CHUNK + TAG)?;
            let payload = Payload {
                msg: &self.ahead,
                aad: self.name.as_bytes(),
            };
            let plain = match next.is_empty() {
                true => stream.decrypt_last(payload).map_err(|_| altered())?,
                false => {
                    let plain = stream.decrypt_next(payload).map_err(|_| altered())?;
                    self.stream = Some(stream);
                    plain
                }
            };
            self.ahead = next;
            self.plain = io::Cursor::new(plain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not compress, so that there are several chunks.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        getrandom::fill(&mut noise).expect("random");
        noise
    }

    fn opened(key: &Key, name: &str, sealed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        open(key, name, Box::new(sealed))?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn what_was_sealed_opens_under_its_name_and_key_only() {
        let key = Key::fresh().expect("a key");
        for plain in [
            Vec::new(),
            b"short".to_vec(),
            vec![0; 3 * CHUNK],
            noise(3 * CHUNK + 7),
        ] {
            let sealed = seal(&key, "a/b", &mut &plain[..]).expect("sealed");
            assert_eq!(opened(&key, "a/b", &sealed).expect("opened"), plain);
            opened(&key, "a/c", &sealed).expect_err("another name");
            opened(&Key::fresh().expect("a key"), "a/b", &sealed).expect_err("another key");
        }
    }

    #[test]
    fn nothing_can_be_changed_cut_moved_or_added() {
        let key = Key::fresh().expect("a key");
        let sealed = seal(&key, "a", &mut &noise(3 * CHUNK)[..]).expect("sealed");
        let head = MAGIC.len() + NONCE_BYTES;
        for at in [0, MAGIC.len(), head, head + CHUNK + TAG + 1, sealed.len() - 1] {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            opened(&key, "a", &wrong).expect_err("a bit is another");
        }
        for cut in [
            0,
            5,
            head,
            head + CHUNK + TAG,
            head + 2 * (CHUNK + TAG),
            sealed.len() - 1,
        ] {
            opened(&key, "a", &sealed[..cut]).expect_err("cut short");
        }
        let mut swapped = sealed.clone();
        let (one, two) = swapped[head..].split_at_mut(CHUNK + TAG);
        one.swap_with_slice(&mut two[..CHUNK + TAG]);
        opened(&key, "a", &swapped).expect_err("chunks changed places");
        let longer = [&sealed[..], b"more"].concat();
        opened(&key, "a", &longer).expect_err("something was added");
    }
}
