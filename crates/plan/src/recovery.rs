//! How long a restore is expected to take, said before it begins.
//!
//! Lives here: the estimate. Does not live here: what earlier ones took (drills tell).
//! Invariant: it is rather too long than too short: who decides by it must not wait for longer than he was told.

use model::{Bytes, Millis};

/// What one restore of a database took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// From its beginning to the first answer.
    pub took: Millis,
    /// How much log it replayed.
    pub log: Bytes,
}

/// A second: a slow disk, and small transactions all over the data. One process replays; 100 MiB and more were seen.
const REPLAYED: u64 = 64 << 20;
/// What a drill does not do: the server ends, starts again as another one, and gets its logins.
const FURTHER: Millis = Millis::seconds(1);
/// Of a database of which no restore is known.
const UNKNOWN: Millis = Millis::seconds(3);

/// From the beginning of a restore that replays so much log until the new database answers. What was measured counts as
/// it is; log beyond that is counted on top.
#[must_use]
pub fn expected(measured: Option<Measured>, log: Bytes) -> Millis {
    let (before, replayed) = match measured {
        Some(measured) => (sum(measured.took, FURTHER), measured.log),
        None => (UNKNOWN, Bytes::new(0)),
    };
    let more = log.get().saturating_sub(replayed.get());
    sum(before, Millis::new(more.saturating_mul(1000) / REPLAYED))
}

fn sum(one: Millis, other: Millis) -> Millis {
    Millis::new(one.as_ms().saturating_add(other.as_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_counts_and_more_log_takes_longer() {
        let measured = |ms, mi| {
            Some(Measured {
                took: Millis::new(ms),
                log: Bytes::mi(mi),
            })
        };
        for (known, log_mi, ms) in [
            (None, 0, 3000),
            (None, 64, 4000),
            (measured(800, 0), 0, 1800),
            (measured(800, 64), 64, 1800),
            (measured(800, 64), 192, 3800),
            // A newer base needs less log than the drill did.
            (measured(2500, 640), 16, 3500),
        ] {
            assert_eq!(
                expected(known, Bytes::mi(log_mi)),
                Millis::new(ms),
                "{known:?}, {log_mi}"
            );
        }
        assert!(expected(None, Bytes::new(u64::MAX)) > UNKNOWN);
    }
}
