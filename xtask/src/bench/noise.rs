//! How quiet the machine was, and rounds that are measured again when it was not.

use std::fs;

use anyhow::{Result, bail};

/// A round during which the hypervisor took more than this share away is not counted.
const STEAL_AT_MOST: f64 = 0.03;
/// So many more rounds than asked for are tried before giving up.
const TRIES_FACTOR: usize = 3;

struct Times {
    steal: u64,
    all: u64,
}

fn times() -> Times {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    Times {
        steal: fields.get(7).copied().unwrap_or(0),
        all: fields.iter().take(8).sum(),
    }
}

/// How often to measure.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// So many samples.
    pub count: usize,
    /// Whether a sample taken on a noisy machine counts: not for figures, but to show that the bench works.
    pub noise_counts: bool,
    /// About so many GB of data, where a bench takes some; its usual amount without it.
    pub gigabytes: Option<u64>,
}

/// Takes quiet samples of something; each is handed over as it was measured.
///
/// # Errors
/// When a sample fails, or the machine is never quiet.
pub fn quiet_rounds<T>(
    rounds: Rounds,
    mut measure: impl FnMut(usize) -> Result<T>,
    mut keep: impl FnMut(T),
) -> Result<()> {
    let Rounds {
        count, noise_counts, ..
    } = rounds;
    let mut kept = 0;
    for round in 0..count * TRIES_FACTOR {
        let before = times();
        let sample = measure(round)?;
        let after = times();
        #[allow(clippy::cast_precision_loss, reason = "ticks of one round are small")]
        let share = (after.steal - before.steal) as f64 / (after.all - before.all).max(1) as f64;
        if share > STEAL_AT_MOST && !noise_counts {
            println!(
                "   round {round}: {:.1} % of the time was stolen, measured again",
                share * 100.0
            );
            continue;
        }
        keep(sample);
        kept += 1;
        println!("   round {kept} of {count}");
        if kept == count {
            return Ok(());
        }
    }
    bail!("only {kept} of {count} rounds were quiet; try again when the host is less busy");
}

/// The machine in a few words.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unnamed processor", |(_, name)| name.trim());
    format!("{cpus} cores ({model}), Linux {}", kernel.trim())
}
