//! Texts that must not be seen, and looking for them everywhere: in files, outputs, command lines and environments, in the
//! forms in which programs write such things.
//!
//! Lives here: the forms, the search. Does not live here: planting, and what may show one (the journey).
//! Invariant: holes of sparse files are passed over, all else is read; each find names its place, its text and its form.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::process;

/// Read at once.
const PIECE: usize = 1 << 20;

/// Where a text was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// A file, `argv of PID`, `environ of PID`, or the name of an output.
    pub place: String,
    /// Which of them, by the name it was planted under.
    pub what: String,
    /// As it is, `base64`, `hex`, ...
    pub form: &'static str,
}

struct Pattern {
    bytes: Vec<u8>,
    what: String,
    form: &'static str,
}

/// What is looked for.
pub struct Canaries {
    patterns: Vec<Pattern>,
    /// Patterns by their first two bytes.
    starts: Vec<Vec<usize>>,
    longest: usize,
}

impl std::fmt::Debug for Canaries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Canaries({} patterns)", self.patterns.len())
    }
}

impl Canaries {
    /// All forms of these texts, by the names they were planted under.
    #[must_use]
    pub fn new(texts: &BTreeMap<String, String>) -> Self {
        let patterns: Vec<Pattern> = texts
            .iter()
            .flat_map(|(what, text)| {
                forms(text)
                    .into_iter()
                    .map(move |(form, bytes)| (what, form, bytes))
            })
            .map(|(what, form, bytes)| Pattern {
                bytes,
                what: what.clone(),
                form,
            })
            .collect();
        let mut starts = vec![Vec::new(); 1 << 16];
        for (at, pattern) in patterns.iter().enumerate() {
            starts[start(&pattern.bytes)].push(at);
        }
        let longest = patterns
            .iter()
            .map(|pattern| pattern.bytes.len())
            .max()
            .unwrap_or(2);
        Self {
            patterns,
            starts,
            longest,
        }
    }

    /// Those in some bytes.
    #[must_use]
    pub fn of(&self, place: &str, bytes: &[u8]) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (at, pair) in bytes.windows(2).enumerate() {
            for index in &self.starts[start(pair)] {
                let pattern = &self.patterns[*index];
                if bytes[at..].starts_with(&pattern.bytes) {
                    seen.push(Seen {
                        place: place.to_owned(),
                        what: pattern.what.clone(),
                        form: pattern.form,
                    });
                }
            }
        }
        seen.sort();
        seen.dedup();
        seen
    }

    /// Those in all regular files below a directory, mounts included, and in names and links; and how many bytes were read.
    ///
    /// # Errors
    /// When a directory that stays cannot be read.
    pub fn below(&self, folder: &Path) -> Result<(Vec<Seen>, u64)> {
        let (mut seen, mut bytes) = (Vec::new(), 0);
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                // What ended meanwhile is gone.
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(cause).with_context(|| folder.display().to_string()),
            };
            for entry in entries.flatten() {
                let path = entry.path();
                let place = path.display().to_string();
                seen.extend(self.of(&format!("name of {place}"), place.as_bytes()));
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_file() => {
                        if let Ok(file) = File::open(&path) {
                            bytes += self.in_file(&place, &file, &mut seen)?;
                        }
                    }
                    Ok(kind) if kind.is_symlink() => {
                        let to = fs::read_link(&path).unwrap_or_default();
                        seen.extend(self.of(&place, to.as_os_str().as_encoded_bytes()));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        seen.sort();
        seen.dedup();
        Ok((seen, bytes))
    }

    fn in_file(&self, place: &str, file: &File, seen: &mut Vec<Seen>) -> Result<u64> {
        let mut piece = vec![0; PIECE];
        let (mut at, mut bytes) = (0, 0);
        while let Some((from, to)) = filled(file, at) {
            at = from;
            while at < to {
                let count = file.read_at(&mut piece, at).with_context(|| place.to_owned())?;
                if count == 0 {
                    break;
                }
                seen.extend(self.of(place, &piece[..count]));
                bytes += count as u64;
                // The next piece begins before the end of this one, so that nothing lies across a border.
                let next = at + count as u64;
                at = if next >= to || count <= self.longest {
                    next
                } else {
                    next - self.longest as u64
                };
            }
            at = at.max(to);
        }
        Ok(bytes)
    }

    /// Those in command lines and environments of processes that `may_know` does not name.
    #[must_use]
    pub fn in_processes(&self, may_know: impl Fn(&process::Process) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        for process in process::all() {
            if may_know(&process) {
                continue;
            }
            for (what, file) in [("argv", "cmdline"), ("environ", "environ")] {
                let bytes = fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
                seen.extend(self.of(&format!("{what} of {} ({})", process.pid, process.line), &bytes));
            }
        }
        seen
    }
}

/// The next part of a file that is no hole.
#[allow(unsafe_code, reason = "the standard library seeks no holes")]
fn filled(file: &File, from: u64) -> Option<(u64, u64)> {
    let seek = |at: u64, whence| {
        let at = libc::off_t::try_from(at).ok()?;
        // SAFETY: lseek takes numbers; the descriptor is open for as long as `file` lives.
        let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
        u64::try_from(found).ok()
    };
    let begin = seek(from, libc::SEEK_DATA)?;
    Some((begin, seek(begin, libc::SEEK_HOLE)?))
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// A text as programs write it.
fn forms(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = text.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let url: String = bytes
        .iter()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(*byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    let mut all = vec![
        ("as it is", bytes.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("HEX", hex.to_ascii_uppercase().into_bytes()),
        ("list of numbers", numbers.join(",").into_bytes()),
        ("list of numbers", numbers.join(", ").into_bytes()),
        ("backwards", reversed),
        ("UTF-16", bytes.iter().flat_map(|byte| [*byte, 0]).collect()),
    ];
    if url != text {
        all.push(("URL-encoded", url.into_bytes()));
    }
    // Inside a longer text it may begin at any of three places; letters that its neighbours have a part in are left out.
    for before in 0..3 {
        let padded = [&vec![0; before][..], bytes].concat();
        let whole = base64(&padded[..padded.len() / 3 * 3]);
        let from = if before == 0 { 0 } else { 4 };
        all.push(("base64", whole.as_bytes()[from..].to_vec()));
        all.push((
            "base64",
            whole.replace('+', "-").replace('/', "_").as_bytes()[from..].to_vec(),
        ));
    }
    all
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three
            .iter()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        for shift in [18, 12, 6, 0] {
            text.push(char::from(LETTERS[number >> shift & 63]));
        }
    }
    text
}
