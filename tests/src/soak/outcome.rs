//! What the trials of `kill` showed.
//!
//! Lives here: counting and telling. Does not live here: finding what is wrong (`compare`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::traffic::Report;

/// After so many wrong trials the rest would only repeat them.
pub(super) const WRONG_MAX: usize = 10;

/// What is wrong, in words.
pub(super) type Found = Vec<(Wrong, String)>;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Warden,
    Edge,
    Control,
    Keeper,
    Builder,
    /// Nobody died: a call on the disk failed.
    Disk,
    /// There was no such process at that moment.
    Nobody,
}

/// What is wrong after a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrong {
    Lost,
    Doubled,
    Orphan,
    Missing,
    Workload,
    Refused,
    Unsettled,
    Traffic,
    /// A file that is not whole, or a store that does not check.
    Torn,
}

/// The middle and the longest of some times, in seconds.
pub(super) fn spread(times: &[Duration]) -> (f64, f64) {
    let mut times = times.to_vec();
    times.sort();
    let of = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
    (of(times.get(times.len() / 2)), of(times.last()))
}

/// What all trials showed.
#[derive(Debug, Default)]
pub struct Outcome {
    pub(super) seed: u64,
    pub(super) trials: u64,
    pub(super) took: Duration,
    pub(super) unknown: u64,
    /// Movements of the app under traffic that did not get where they were to.
    pub(super) went_back: u64,
    /// From each death until everything had settled.
    pub(super) settled: Vec<Duration>,
    pub(super) counts: BTreeMap<(&'static str, Victim), u64>,
    pub(super) wrong: BTreeMap<Wrong, u64>,
    /// Each wrong trial in words.
    pub findings: Vec<String>,
    pub(super) report: Report,
    /// Requests cut together with their own edge, warden or workload, by how it showed.
    pub(super) excused: BTreeMap<(Victim, String), u64>,
}

impl Outcome {
    /// Notes a wrong trial; whether to go on.
    pub(super) fn note(&mut self, head: &str, found: Found) -> bool {
        if found.is_empty() {
            return true;
        }
        for (wrong, _) in &found {
            *self.wrong.entry(*wrong).or_default() += 1;
        }
        let lines: Vec<String> = found
            .into_iter()
            .map(|(wrong, what)| format!("  {wrong:?}: {what}"))
            .collect();
        let text = format!("{head}\n{}", lines.join("\n"));
        println!("seed {}, {text}", self.seed);
        self.findings.push(text);
        self.findings.len() < WRONG_MAX
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, {} trials in {:.0} s; replay: cargo xtask soak kill --seed {} --trials {}",
            self.seed,
            self.trials,
            self.took.as_secs_f64(),
            self.seed,
            self.trials
        )?;
        let victims: BTreeSet<Victim> = self.counts.keys().map(|(_, victim)| *victim).collect();
        write!(f, "{:<22}", "operation x victim")?;
        for victim in &victims {
            write!(f, "{:>9}", format!("{victim:?}"))?;
        }
        writeln!(f)?;
        let operations: BTreeSet<&str> = self.counts.keys().map(|(operation, _)| *operation).collect();
        for operation in operations {
            write!(f, "{operation:<22}")?;
            for victim in &victims {
                let count = self.counts.get(&(operation, *victim)).copied().unwrap_or(0);
                write!(f, "{count:>9}")?;
            }
            writeln!(f)?;
        }
        let of = |wrong| self.wrong.get(&wrong).copied().unwrap_or(0);
        writeln!(
            f,
            "lost {}, doubled {}, orphans {}, missing {}, workloads lost {}, refused {}, unsettled {}, failed requests {}",
            of(Wrong::Lost),
            of(Wrong::Doubled),
            of(Wrong::Orphan),
            of(Wrong::Missing),
            of(Wrong::Workload),
            of(Wrong::Refused),
            of(Wrong::Unsettled),
            of(Wrong::Traffic)
        )?;
        writeln!(
            f,
            "{} questions without an answer, {} movements went back",
            self.unknown, self.went_back
        )?;
        for ((victim, why), count) in &self.excused {
            writeln!(f, "cut together with {victim:?}: {count} times {why}")?;
        }
        write!(f, "{}", self.report)
    }
}
