//! Edges replaced, and the whole platform upgraded, again and again under traffic.
//!
//! ```text
//! calm (how slow is it without us) -> [ rest -> one round ] ... -> rest
//! a round: `stoa server upgrade` to the other of two copies: one edge replaces another
//!      or: the same to a binary whose control does not work: its edge replaces ours, ours replaces that one again
//! ```
//! Lives here: the rounds and their verdict. Does not live here: the traffic (`traffic`), killing edges (`kill`).
//! Invariant: edges are counted by what the warden's log says of them, not by what was asked for.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::platform::Platform;
use crate::traffic::{Kind, Load, Report};

/// Between rounds: a slow answer (2.5 s) then spans each of them.
const REST: Duration = Duration::from_secs(2);
/// What the latency during replacements is compared with.
const CALM: Duration = Duration::from_secs(60);
/// What the warden says when another edge serves.
const REPLACED: [&str; 2] = [
    "edge of the new binary works as process",
    "edge started as process",
];
/// How often there is a word on how it goes.
const TOLD_EACH: u64 = 10;
/// Exchanges that take the time of a round trip; the others take as long as they are meant to.
const SHORT: [Kind; 3] = [Kind::KeepAlive, Kind::NewConnection, Kind::Http2];

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Edges that replace another one, at least.
    pub replacements: u64,
    /// Of these, by an upgrade that is kept.
    pub upgrades: u64,
    /// Traffic during all of it.
    pub load: Load,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    replaced: u64,
    upgraded: u64,
    took: Duration,
    before: Report,
    during: Report,
    between: Report,
}

/// Replaces until the counts are reached.
///
/// # Errors
/// When an upgrade does not come to work, a workload notices, or something is left behind.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let platform = Platform::start("soak-edge")?;
    let real = platform.binary()?;
    let mut copies: Vec<PathBuf> = Vec::new();
    for name in ["stoa-a", "stoa-b"] {
        let copy = platform.stoa.root().join(name);
        fs::copy(&real, &copy)?;
        copies.push(copy);
    }
    let broken = platform.broken("__control", "exit 78")?;
    let edges = || {
        let log = platform.stoa.log();
        let told: usize = REPLACED.iter().map(|word| log.matches(word).count()).sum();
        told as u64
    };
    let first = edges();
    let traffic = platform.traffic(options.load)?;
    let mut outcome = Outcome::default();
    thread::sleep(CALM);
    outcome.before.add(traffic.take());
    let mut round = 0;
    while outcome.upgraded < options.upgrades || outcome.replaced < options.replacements {
        thread::sleep(REST);
        outcome.between.add(traffic.take());
        // Kept ones are spread over all rounds.
        let share = options.upgrades * outcome.replaced;
        let is_kept = outcome.upgraded * options.replacements.max(1) <= share;
        if is_kept && outcome.upgraded < options.upgrades {
            let copy = &copies[usize::try_from(outcome.upgraded)? % copies.len()];
            platform.becomes(copy)?;
            outcome.upgraded += 1;
        } else {
            let answer = platform.upgrade(&broken)?;
            ensure!(
                answer.code == 1,
                "a binary without a control was kept: {answer:?}"
            );
            platform.nothing_noticed()?;
        }
        outcome.during.add(traffic.take());
        outcome.replaced = edges().saturating_sub(first);
        round += 1;
        if round % TOLD_EACH == 0 {
            println!(
                "   {} edges replaced, {} upgrades, {} exchanges, {} not as they should be",
                outcome.replaced,
                outcome.upgraded,
                outcome.exchanges(),
                outcome.faults()
            );
        }
    }
    thread::sleep(REST);
    outcome.between.add(traffic.stop());
    outcome.took = begin.elapsed();
    platform.stoa.finish()?;
    Ok(outcome)
}

impl Outcome {
    fn reports(&self) -> [(&'static str, &Report); 3] {
        [
            ("before", &self.before),
            ("during", &self.during),
            ("between", &self.between),
        ]
    }

    /// All exchanges.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.reports().iter().map(|(_, report)| report.exchanges()).sum()
    }

    /// Exchanges that were not as they should be.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.reports().iter().map(|(_, report)| report.faults()).sum()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} edges replaced, of these {} by upgrades that were kept, in {:.0} s",
            self.replaced,
            self.upgraded,
            self.took.as_secs_f64()
        )?;
        for (when, report) in self.reports() {
            writeln!(f, "{when}:\n{report}")?;
            for trouble in &report.troubles {
                writeln!(f, "  {trouble}")?;
            }
        }
        for kind in SHORT {
            let p99_ms = |report: &Report| {
                let tally = report.tallies.get(&kind);
                tally.map_or(0.0, |tally| tally.quantile(0.99).as_secs_f64() * 1000.0)
            };
            let [before, during, between] = [&self.before, &self.during, &self.between].map(p99_ms);
            writeln!(
                f,
                "{}: p99 {before:.1} ms before, {between:.1} ms between replacements, {during:.1} ms during; ratio {:.2} to \
                 before (goal 2), {:.2} to between",
                kind.name(),
                during / before,
                during / between
            )?;
        }
        write!(
            f,
            "{} exchanges, {} not as they should be",
            self.exchanges(),
            self.faults()
        )
    }
}
