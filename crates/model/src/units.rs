//! Sizes, shares of a processor and spans of time, parsed from what people write.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{0:?} is not a size: write a number with Ki, Mi, Gi or Ti, for example \"512Mi\"")]
    Size(String),
    /// Not a span of time.
    #[error("{0:?} is not a duration: write a number with ms, s, m, h or d, for example \"10s\"")]
    Duration(String),
    /// Not a share of a processor.
    #[error("{0} is not a share of processors: write a number from 0.01 to 1024, for example 0.5")]
    Cpu(String),
}

/// A number of bytes. Text form: `512Mi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    /// That many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    /// That many times 1024 x 1024 bytes.
    #[must_use]
    pub const fn mi(mi: u64) -> Self {
        Self(mi << 20)
    }
    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

const SIZE_UNITS: [(&str, u32); 5] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10), ("", 0)];

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError::Size(text.chars().take(40).collect());
        let (digits, shift) = SIZE_UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits, *shift)))
            .ok_or_else(refuse)?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse());
        }
        let count: u64 = digits.parse().map_err(|_| refuse())?;
        count.checked_mul(1 << shift).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = SIZE_UNITS
            .iter()
            .find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift)
            .unwrap_or(&("", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// A share of processors in thousandths: 500 is half of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuMillis(u32);

impl CpuMillis {
    /// That many thousandths of a processor.
    #[must_use]
    pub const fn new(millis: u32) -> Self {
        Self(millis)
    }

    /// From processors as people write them (`0.5`).
    ///
    /// # Errors
    /// When the share is not between 0.01 and 1024.
    pub fn from_processors(share: f64) -> Result<Self, UnitError> {
        if (0.01..=1024.0).contains(&share) {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounded just above"
            )]
            Ok(Self((share * 1000.0).round() as u32))
        } else {
            Err(UnitError::Cpu(share.to_string()))
        }
    }

    /// Thousandths of a processor.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A span of time in milliseconds. Text form: `10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(u64);

impl Millis {
    /// That many milliseconds.
    #[must_use]
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }
    /// That many seconds.
    #[must_use]
    pub const fn seconds(s: u64) -> Self {
        Self(s * 1000)
    }
    /// The number of milliseconds.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0
    }
    /// The same span for the standard library.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
];

impl FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError::Duration(text.chars().take(40).collect());
        let (digits, factor) = TIME_UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))
            .ok_or_else(refuse)?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse());
        }
        let count: u64 = digits.parse().map_err(|_| refuse())?;
        count.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
            .into_iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("1Ki", 1024),
            ("512Mi", 512 << 20),
            ("3Gi", 3 << 30),
        ] {
            let size: Bytes = text.parse().expect(text);
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, text));
        }
        for text in ["", "Mi", "-1Mi", "1.5Gi", "1MB", "1 Mi", "99999999999Ti", "+1"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0ms", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("7d", 604_800_000),
        ] {
            let span: Millis = text.parse().expect(text);
            assert_eq!((span.as_ms(), span.to_string().as_str()), (ms, text));
        }
        for text in ["", "s", "10", "-1s", "1.5h", "1w", "99999999999999999999s"] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
    }

    #[test]
    fn processor_shares() {
        assert_eq!(CpuMillis::from_processors(0.5).expect("half").get(), 500);
        for share in [0.0, -1.0, f64::NAN, f64::INFINITY, 4096.0] {
            assert!(CpuMillis::from_processors(share).is_err(), "{share}");
        }
    }
}
