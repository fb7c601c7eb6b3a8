//! Instance output on disk: segments that a keeper appends to and anybody may read.
//!
//! Lives here: the format (this file), the writing end ([`Writer`]), the reading end ([`Reader`]).
//! Does not live here: pipes and polling (`bin/keeper`), queries across instances (`telemetry`).
//! Invariant: a segment only grows and is never renamed; a record is one line, so a torn tail costs one record.
//!
//! A segment is `LABEL.NNNNNNNNNN.log`, its number counting up for ever. Its first line is `stoa-log 1 LABEL`, then one
//! record a line: `MICROSECONDS SEQUENCE KIND TEXT`. Kinds: `o` stdout, `e` stderr, `o+` `e+` a piece of a longer line,
//! `g` a gap (`LINES BYTES REASON`). Times never go back within a label.

mod read;
mod write;

pub use read::{Query, Reader};
pub use write::{Settings, Writer};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A longer line is split into pieces of this size.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line of output, without its line break.
    Line(Stream),
    /// A piece of a line that goes on in the next record of this stream.
    Piece(Stream),
    /// Output was dropped here; the text says why.
    Gap {
        /// Lines lost, when known.
        lines: u64,
        /// Bytes lost, when known.
        bytes: u64,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who wrote it.
    pub label: Arc<str>,
    /// When it was read from the program, microseconds since 1970.
    pub time_us: u64,
    /// Counts up from 1 within a life of the instance.
    pub sequence: u64,
    /// What it is.
    pub kind: Kind,
    /// The text.
    pub text: Vec<u8>,
    /// Where to go on reading after it.
    pub after: Position,
}

/// A place between two records of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Segment number.
    pub segment: u64,
    /// Byte offset in it.
    pub offset: u64,
}

/// File name of a segment.
fn segment_path(dir: &Path, label: &str, segment: u64) -> PathBuf {
    dir.join(format!("{label}.{segment:010}.log"))
}

/// Label and number of a segment's file name.
fn parse_name(name: &str) -> Option<(&str, u64)> {
    let (label, number) = name.strip_suffix(".log")?.rsplit_once('.')?;
    Some((label, number.parse().ok()?))
}

fn header(label: &str) -> String {
    format!("stoa-log 1 {label}\n")
}

/// A segment as its directory shows it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Segment {
    label: String,
    number: u64,
    bytes: u64,
    /// When it was last written to.
    written_us: u64,
}

/// Segments in `dir`, by label and number. Absent directory: none.
fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((label, number)) = name.to_str().and_then(parse_name) else {
            continue;
        };
        // Deleted between listing and asking: the ring moved on.
        if let Ok(meta) = entry.metadata() {
            let written = meta.modified().ok();
            let written = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            found.push(Segment {
                label: label.to_owned(),
                number,
                bytes: meta.len(),
                written_us: written.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
            });
        }
    }
    found.sort();
    Ok(found)
}

/// Appends a record's line to `out`.
fn encode(out: &mut Vec<u8>, time_us: u64, sequence: u64, kind: &Kind, text: &[u8]) {
    use std::io::Write;
    let tag = match kind {
        Kind::Line(Stream::Stdout) => "o",
        Kind::Line(Stream::Stderr) => "e",
        Kind::Piece(Stream::Stdout) => "o+",
        Kind::Piece(Stream::Stderr) => "e+",
        Kind::Gap { .. } => "g",
    };
    // Writing to a vector cannot fail.
    let _ = write!(out, "{time_us} {sequence} {tag} ");
    if let Kind::Gap { lines, bytes } = kind {
        let _ = write!(out, "{lines} {bytes} ");
    }
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Reads a record's line (without its line break); `None` for anything else.
fn decode(line: &[u8]) -> Option<(u64, u64, Kind, &[u8])> {
    let (time, rest) = word(line)?;
    let (sequence, rest) = word(rest)?;
    let (tag, rest) = word(rest)?;
    let (kind, text) = match tag {
        b"o" => (Kind::Line(Stream::Stdout), rest),
        b"e" => (Kind::Line(Stream::Stderr), rest),
        b"o+" => (Kind::Piece(Stream::Stdout), rest),
        b"e+" => (Kind::Piece(Stream::Stderr), rest),
        b"g" => {
            let (lines, rest) = word(rest)?;
            let (bytes, rest) = word(rest)?;
            (
                Kind::Gap {
                    lines: number(lines)?,
                    bytes: number(bytes)?,
                },
                rest,
            )
        }
        _ => return None,
    };
    Some((number(time)?, number(sequence)?, kind, text))
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
