//! Backup of a database: places in its write-ahead log, bases, and what a restore aims at.
//!
//! Lives here: how places and segments are written, and what the row of a database keeps of its archive.
//! Does not live here: what can be restored and what may go (`plan`), how it is done (`databases`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{DatabaseId, DrillId};
use crate::name::Name;
use crate::spec::ImageDigest;
use crate::time::Timestamp;

/// Bytes of a segment of the write-ahead log: what `initdb` chooses unless told otherwise, and nobody here tells it.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// A segment's number is written in two parts: the files of 4 GiB, and the segment in it.
const SEGMENTS_IN_A_FILE: u64 = (1 << 32) / SEGMENT_BYTES;

/// A place in a write-ahead log, written as PostgreSQL does: `0/3000060`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The place so many bytes after the beginning.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from another place to this one; none when that one is later.
    #[must_use]
    pub const fn after(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }

    /// The number of the segment whose end it may be: what lies before it is in there and in earlier ones.
    #[must_use]
    pub const fn segment_before(self) -> u64 {
        self.0.saturating_sub(1) / SEGMENT_BYTES
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no place in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a place in the write-ahead log is written like 0/3000060")]
pub struct LsnError;

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |text: &str| {
            let fits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(text, 16).ok())
                .flatten()
                .ok_or(LsnError)
        };
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A segment of a write-ahead log, written as PostgreSQL names its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The history it belongs to.
    pub timeline: u32,
    /// Its place in it.
    pub number: u64,
}

impl Segment {
    /// Where it begins.
    #[must_use]
    pub const fn begin(self) -> Lsn {
        Lsn(self.number * SEGMENT_BYTES)
    }

    /// Where it ends.
    #[must_use]
    pub const fn end(self) -> Lsn {
        Lsn((self.number + 1) * SEGMENT_BYTES)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = (self.number / SEGMENTS_IN_A_FILE, self.number % SEGMENTS_IN_A_FILE);
        write!(f, "{:08X}{high:08X}{low:08X}", self.timeline)
    }
}

/// A text that names no segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a segment of the write-ahead log")]
pub struct SegmentError;

impl FromStr for Segment {
    type Err = SegmentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 24 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SegmentError);
        }
        let part = |at: usize| u32::from_str_radix(&text[at..at + 8], 16).map_err(|_| SegmentError);
        let low = u64::from(part(16)?);
        if low >= SEGMENTS_IN_A_FILE {
            return Err(SegmentError);
        }
        Ok(Self {
            timeline: part(0)?,
            number: u64::from(part(8)?) * SEGMENTS_IN_A_FILE + low,
        })
    }
}

impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// How much of what a database acknowledged may be missing when all of it is lost but its archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// What was not received yet: commits wait for nobody.
    #[default]
    Stream,
    /// Nothing: a commit waits until it is received.
    Sync,
}

impl Level {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Sync => "sync",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no level of backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a level of backup is stream or sync")]
pub struct LevelError;

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Stream, Self::Sync]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or(LevelError)
    }
}

/// What the commits of a database wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "commits", rename_all = "snake_case")]
pub enum Commits {
    /// For nobody.
    #[default]
    Free,
    /// Until they are received.
    Held {
        /// Since when.
        since: Timestamp,
    },
    /// They are to wait, and do not: they would have waited for a receiver that does not receive.
    Released {
        /// Since when.
        since: Timestamp,
    },
}

/// Log that should have been received for some time and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// What was committed after that may be missing.
    pub since: Timestamp,
    /// What was written by then ends there.
    pub lsn: Lsn,
}

/// What the row of a database keeps of its archive. The write-ahead log itself lies in volumes, one a stretch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The stretch that is received now: within one nothing is missing, between two may lie a gap.
    pub stretch: u64,
    /// Sealed password of the role that receives; under `db:ID`, name and this version.
    pub sealed: Vec<u8>,
    /// Version of the password.
    pub version: u64,
    /// Since when it is kept.
    pub since: Timestamp,
    /// Copies to begin a restore from, oldest first.
    #[serde(default)]
    pub bases: Vec<Base>,
    /// What branches can be made of without the database; nothing before a drill passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drilled: Option<Drilled>,
    /// What its commits wait for.
    #[serde(default)]
    pub commits: Commits,
    /// What is overdue; nothing while it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
}

/// The cluster that a passed drill left: restored, looked at, without a login of the former one, and stopped cleanly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// The drill; names its volume.
    pub drill: DrillId,
    /// What was committed by then is in it.
    pub at: Timestamp,
    /// Place in the log of the database up to which it was replayed.
    pub lsn: Lsn,
    /// Major version of PostgreSQL.
    pub version: String,
    /// The image it ran from.
    pub image: ImageDigest,
}

/// A copy of a database to begin a restore from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its number; names its volume.
    pub number: u64,
    /// The stretch that goes on from it.
    pub stretch: u64,
    /// The earliest moment it can be brought to.
    pub at: Timestamp,
    /// The earliest place it can be brought to.
    pub lsn: Lsn,
    /// The segment in which that place lies: from here on the archive is needed.
    pub last: Segment,
    /// Major version of PostgreSQL.
    pub version: String,
    /// The image it ran from.
    pub image: ImageDigest,
    /// CRC-32 of the list of its files; nothing until that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<u32>,
}

/// What a restore aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Target {
    /// Everything that is in the archive.
    Latest,
    /// Everything that was committed by then.
    Time {
        /// When.
        at: Timestamp,
    },
    /// Everything up to there.
    Lsn {
        /// Where.
        lsn: Lsn,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the latest"),
            Self::Time { at } => at.fmt(f),
            Self::Lsn { lsn } => lsn.fmt(f),
        }
    }
}

/// Where the data of a restored database came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Whose backup.
    pub of: DatabaseId,
    /// Its name at that time.
    pub name: Name,
    /// The server whose backup on the target elsewhere it is; nothing when it is one of this server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What was asked for.
    pub target: Target,
    /// The major version that the other one has, when it was not restored but upgraded from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded: Option<String>,
    /// Where it got; nothing while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
}

/// What a restore got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// When the last transaction in it was committed; nothing when the log held none after the base.
    pub at: Option<Timestamp>,
    /// The last place in the log of the other one.
    pub lsn: Lsn,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_segments_are_written_as_postgresql_does() {
        for (text, bytes) in [("0/3000060", 0x300_0060), ("1A/F0", 0x1A_0000_00F0), ("0/0", 0)] {
            let lsn: Lsn = text.parse().expect(text);
            assert_eq!((lsn, lsn.to_string().as_str()), (Lsn::new(bytes), text));
        }
        for wrong in ["", "0", "0/", "/1", "0/123456789", "x/1", "-1/1", "0/+1"] {
            assert_eq!(wrong.parse::<Lsn>(), Err(LsnError), "{wrong}");
        }
        let name = "0000000200000001000000FE";
        let segment: Segment = name.parse().expect("a segment");
        assert_eq!(
            (segment.timeline, segment.number, segment.to_string().as_str()),
            (2, 256 + 254, name)
        );
        for wrong in [
            "",
            "00000002000000010000010F",
            "00000002.history",
            "00000002000000010000000x",
        ] {
            assert_eq!(wrong.parse::<Segment>(), Err(SegmentError), "{wrong}");
        }
    }

    #[test]
    fn levels_are_written_as_they_are_read() {
        for level in [Level::Stream, Level::Sync] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for wrong in ["", "archive", "Sync", "sync "] {
            assert_eq!(wrong.parse::<Level>(), Err(LevelError), "{wrong}");
        }
    }

    #[test]
    fn the_end_of_a_segment_is_in_it() {
        let segment = Segment {
            timeline: 1,
            number: 3,
        };
        assert_eq!(segment.end().segment_before(), 3);
        assert_eq!(Lsn::new(segment.end().0 + 1).segment_before(), 4);
        assert_eq!(Lsn::new(segment.begin().0 + 40).segment_before(), 3);
    }
}
