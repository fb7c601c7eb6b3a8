//! What the clients saw: counts, troubles with their reasons, latencies.
//!
//! Lives here: counting and telling. Does not live here: deciding what is wrong (the clients), what is excused (callers).
//! Invariant: every exchange that began is counted once, as answered or as a trouble.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// Troubles kept with their reason; beyond, they are only counted.
const KEPT: usize = 2000;

/// What kind of exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1 on connections that are kept.
    KeepAlive,
    /// HTTP/1.1 on a connection of its own.
    NewConnection,
    /// One stream of a shared HTTP/2 connection.
    Http2,
    /// One text sent into a WebSocket and echoed.
    WebSocket,
    /// A request body sent piece by piece, echoed whole.
    Upload,
    /// An answer with a length, read slowly.
    Download,
    /// An answer in chunks that come over time.
    Streaming,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::KeepAlive,
        Self::NewConnection,
        Self::Http2,
        Self::WebSocket,
        Self::Upload,
        Self::Download,
        Self::Streaming,
    ];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1.1 keep-alive",
            Self::NewConnection => "HTTP/1.1 new connection",
            Self::Http2 => "HTTP/2",
            Self::WebSocket => "WebSocket echo",
            Self::Upload => "slow upload",
            Self::Download => "slow download",
            Self::Streaming => "chunked streaming",
        }
    }
}

/// What was wrong with an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No answer, or another status than it should be.
    Failed,
    /// An answer that ended before its end, or with other content.
    Truncated,
    /// Something came or happened twice.
    Duplicated,
    /// An answer of a release that may not answer now, or to somebody else's request.
    Misrouted,
}

/// One exchange that was not as it should be.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What was being done.
    pub kind: Kind,
    /// What was wrong.
    pub fault: Fault,
    /// When the exchange began.
    pub begin: Instant,
    /// When it was given up.
    pub end: Instant,
    /// In words.
    pub why: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.end.duration_since(self.begin).as_millis();
        write!(
            f,
            "{} {:?} after {took} ms: {}",
            self.kind.name(),
            self.fault,
            self.why
        )
    }
}

/// What was seen of one kind.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Exchanges that ended as they should.
    pub answered: u64,
    /// Exchanges that did not, by what was wrong.
    pub faults: BTreeMap<Fault, u64>,
    /// Kept connections that the other side ended although they might have lived on.
    pub cuts: u64,
    /// From the time an exchange was due to its end, in microseconds.
    latencies_us: Vec<u32>,
}

impl Tally {
    /// All exchanges.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.answered + self.faults.values().sum::<u64>()
    }

    /// The latency that this share (0 to 1) of the exchanges did not exceed; zero when there were none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank within the list"
        )]
        let rank = (last as f64 * share).round() as usize;
        Duration::from_micros(sorted.get(rank).copied().unwrap_or(0).into())
    }
}

/// What all clients saw since the last time somebody asked.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// By kind of exchange.
    pub tallies: BTreeMap<Kind, Tally>,
    /// Troubles, oldest first; the first few thousand.
    pub troubles: Vec<Trouble>,
    /// Releases that answered.
    pub releases: BTreeSet<String>,
}

impl Report {
    pub(super) fn answered(&mut self, kind: Kind, latency: Duration) {
        let tally = self.tallies.entry(kind).or_default();
        tally.answered += 1;
        let us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        tally.latencies_us.push(us);
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        let tally = self.tallies.entry(trouble.kind).or_default();
        *tally.faults.entry(trouble.fault).or_default() += 1;
        if self.troubles.len() < KEPT {
            self.troubles.push(trouble);
        }
    }

    pub(super) fn cut(&mut self, kind: Kind) {
        self.tallies.entry(kind).or_default().cuts += 1;
    }

    /// Adds what was seen later.
    pub fn add(&mut self, later: Self) {
        for (kind, tally) in later.tallies {
            let mine = self.tallies.entry(kind).or_default();
            mine.answered += tally.answered;
            mine.cuts += tally.cuts;
            mine.latencies_us.extend(tally.latencies_us);
            for (fault, count) in tally.faults {
                *mine.faults.entry(fault).or_default() += count;
            }
        }
        let room = KEPT.saturating_sub(self.troubles.len());
        self.troubles.extend(later.troubles.into_iter().take(room));
        self.releases.extend(later.releases);
    }

    /// All exchanges.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.tallies.values().map(Tally::exchanges).sum()
    }

    /// All exchanges that were not as they should be.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.tallies
            .values()
            .flat_map(|tally| tally.faults.values())
            .sum()
    }

    /// All connections that were ended although they might have lived on.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.tallies.values().map(|tally| tally.cuts).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24} {:>9} {:>7} {:>9} {:>10} {:>9} {:>5} {:>8} {:>8}",
            "kind", "exchanges", "failed", "truncated", "duplicated", "misrouted", "cuts", "p50 ms", "p99 ms"
        )?;
        for (kind, tally) in &self.tallies {
            let of = |fault| tally.faults.get(&fault).copied().unwrap_or(0);
            writeln!(
                f,
                "{:<24} {:>9} {:>7} {:>9} {:>10} {:>9} {:>5} {:>8.1} {:>8.1}",
                kind.name(),
                tally.exchanges(),
                of(Fault::Failed),
                of(Fault::Truncated),
                of(Fault::Duplicated),
                of(Fault::Misrouted),
                tally.cuts,
                tally.quantile(0.5).as_secs_f64() * 1000.0,
                tally.quantile(0.99).as_secs_f64() * 1000.0
            )?;
        }
        write!(
            f,
            "{} exchanges, {} not as they should be, {} cut connections, {} releases seen",
            self.exchanges(),
            self.faults(),
            self.cuts(),
            self.releases.len()
        )
    }
}
