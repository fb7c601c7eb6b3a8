//! A latency histogram with fixed buckets, so that any two can be added.
//!
//! Lives here: recording, merging, quantiles.
//! Does not live here: who measures, where series are kept.
//! Invariant: the bucket limits never change; histograms written by an older process still add up with ours.

use serde::{Deserialize, Serialize};

/// Buckets per doubling: a quantile is at most a fifth above the true value.
const PER_DOUBLING: u32 = 4;

/// The first bucket ends here; finer than this is noise of the machine.
const FIRST_US: u64 = 64;

/// Doublings covered: up to 64 us * 2^21, about 134 s. The last bucket takes the rest.
const DOUBLINGS: u32 = 21;

/// Number of buckets.
pub const BUCKETS: usize = (DOUBLINGS * PER_DOUBLING) as usize + 2;

/// Counts of durations in microseconds, by fixed logarithmic buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: Box::new([0; BUCKETS]),
            total_us: 0,
        }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.total_us = self.total_us.saturating_add(us);
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.total_us = self.total_us.saturating_add(other.total_us);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn total_us(&self) -> u64 {
        self.total_us
    }

    /// The limit below which the share `q` (0 to 1) of the durations lies; `None` when nothing was counted.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        // Rounded up: the median of two values is the first, the maximum is the last.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let rank = ((count as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(n, c)| {
            seen += c;
            (seen >= rank).then(|| limit_us(n))
        })
    }

    /// The used buckets: upper limit in microseconds, and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, c)| **c > 0)
            .map(|(n, c)| (limit_us(n), *c))
    }
}

/// The bucket a duration falls in.
fn bucket(us: u64) -> usize {
    if us < FIRST_US {
        return 0;
    }
    let doubling = us.ilog2() - FIRST_US.ilog2();
    if doubling >= DOUBLINGS {
        return BUCKETS - 1;
    }
    // The two bits below the leading one tell which quarter of the doubling it is.
    let quarter = (us >> (us.ilog2() - PER_DOUBLING.ilog2())) & u64::from(PER_DOUBLING - 1);
    1 + (doubling * PER_DOUBLING) as usize + usize::try_from(quarter).unwrap_or(0)
}

/// The upper limit of a bucket.
fn limit_us(bucket: usize) -> u64 {
    let Some(n) = u32::try_from(bucket).ok().and_then(|b| b.checked_sub(1)) else {
        return FIRST_US;
    };
    if bucket >= BUCKETS - 1 {
        return u64::MAX;
    }
    let base = FIRST_US << (n / PER_DOUBLING);
    base + base / u64::from(PER_DOUBLING) * u64::from(n % PER_DOUBLING + 1)
}

/// On the wire: the used buckets only, most histograms being nearly empty.
#[derive(Serialize, Deserialize)]
struct Wire {
    total_us: u64,
    /// (bucket number, count)
    buckets: Vec<(usize, u64)>,
}

impl Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let used = self
            .counts
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, count)| *count > 0);
        Wire {
            total_us: self.total_us,
            buckets: used.collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Histogram, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let mut histogram = Histogram {
            total_us: wire.total_us,
            ..Histogram::default()
        };
        for (n, count) in wire.buckets {
            let slot = histogram
                .counts
                .get_mut(n)
                .ok_or_else(|| serde::de::Error::custom("no such bucket"))?;
            *slot = count;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_buckets_limit_and_close_to_it() {
        for us in (0..1_000_000)
            .step_by(7)
            .chain([0, 63, 64, 65, 127, 128, 134_000_000, u64::MAX])
        {
            let n = bucket(us);
            assert!(us < limit_us(n) || limit_us(n) == u64::MAX, "{us}");
            assert!(n == 0 || us >= limit_us(n - 1), "{us}");
            assert!(
                us < 64 || limit_us(n) == u64::MAX || limit_us(n) <= us + us / 4 + 1,
                "{us}"
            );
        }
    }

    #[test]
    fn quantiles_survive_merging_and_the_wire() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        assert_eq!(low.quantile_us(0.5), None);
        (0..90).for_each(|_| low.record(100));
        (0..10).for_each(|_| high.record(10_000));
        low.merge(&high);
        assert_eq!((low.count(), low.total_us()), (100, 109_000));
        assert_eq!(low.quantile_us(0.9), Some(112));
        assert_eq!(low.quantile_us(0.91), Some(10_240));
        let wire = serde_json::to_string(&low).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&wire).unwrap(), low);
        assert!(serde_json::from_str::<Histogram>(r#"{"total_us":0,"buckets":[[9999,1]]}"#).is_err());
    }
}
