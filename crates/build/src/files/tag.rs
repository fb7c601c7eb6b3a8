//! Tags of files, made from their content: image layers carry no times that could tell two releases apart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Larger files have no tag: reading them for one would cost more than it saves.
const FILE_BYTES: u64 = 64 << 20;
/// Tags kept; a site with more files reads some again.
const KEPT: usize = 20_000;

/// Length, time and tag of a file.
type Known = (u64, Option<SystemTime>, String);

/// The tags known so far.
#[derive(Default)]
pub struct Tags {
    known: Mutex<BTreeMap<PathBuf, Known>>,
}

impl Tags {
    /// The tag of an open file; it is read at most once while it keeps length and time.
    pub fn of(
        &self,
        path: &Path,
        length: u64,
        changed: Option<SystemTime>,
        file: &mut File,
    ) -> Option<String> {
        if length > FILE_BYTES {
            return None;
        }
        if let Some((known_length, known_change, tag)) = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            && (*known_length, *known_change) == (length, changed)
        {
            return Some(tag.clone());
        }
        let tag = format!("\"{:032x}\"", hash(file)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(path.to_owned(), (length, changed, tag.clone()));
        Some(tag)
    }
}

/// FNV-1a over 128 bits: no secret is at stake, only that two contents differ.
fn hash(file: &mut File) -> Option<u128> {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let mut hash: u128 = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D;
    let mut chunk = [0; 16 << 10];
    file.seek(SeekFrom::Start(0)).ok()?;
    loop {
        let count = file.read(&mut chunk).ok()?;
        if count == 0 {
            return Some(hash);
        }
        for byte in &chunk[..count] {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
}
