//! Fleets of apps over the real reconcilers and a real store, with a simulated engine and edge, in virtual time.
//!
//! Lives here: how many fleets live, how a failing one is shown, and that every planted defect is found.
//! Does not live here: what happens to a fleet (`fleet`, `people`, `nerves`), what must hold (`mirror`, `rules`).
//! Invariant: a seed decides everything, so a failure is replayed by its number.

mod dice;
mod failpoints;
mod fleet;
mod mirror;
mod nerves;
mod people;
mod reach;
mod rules;
mod trace;
mod without;

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use control::planted;

use crate::without::Without;

/// Fleets of the short run, enough for 200 virtual hours.
const SHORT: u64 = 60;
/// Every planted defect must be found within so many fleets.
const MUTANT_SEEDS: u64 = 150;

/// A planted defect is one of the whole process: fleets without one must not meet it.
static PROCESS: RwLock<()> = RwLock::new(());

#[derive(Default)]
struct Sum {
    fleets: u64,
    virtual_ms: u64,
    counts: nerves::Counts,
}

impl Sum {
    fn add(&mut self, lived: &fleet::Lived) {
        let (mine, counts) = (&mut self.counts, &lived.counts);
        self.fleets += 1;
        self.virtual_ms += lived.virtual_ms;
        mine.looks += counts.looks;
        mine.steps += counts.steps;
        mine.crashes += counts.crashes;
        mine.deeds += counts.deeds;
        mine.faults += counts.faults;
        mine.checks += counts.checks;
        mine.reach.add(&counts.reach);
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn tell(&self, begin: Instant) {
        let took = begin.elapsed().as_secs_f64();
        let counts = &self.counts;
        println!(
            "{} seeds, {:.1} virtual hours, {} looks, {} steps, {} crashes of control, {} deeds, {} engine and edge faults, \
             {} checks, 0 broken rules, {:.1} s, {:.0} steps/s",
            self.fleets,
            self.virtual_ms as f64 / 3_600_000.0,
            counts.looks,
            counts.steps,
            counts.crashes,
            counts.deeds,
            counts.faults,
            counts.checks,
            took,
            counts.steps as f64 / took,
        );
        println!("{}", counts.reach.tell());
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} wants a number, not {text:?}")),
    )
}

fn live(seed: u64) -> fleet::Lived {
    let asked = std::env::var("STOA_SIM_WITHOUT").unwrap_or_default();
    let asked = Without::parse(&asked);
    let broken = match fleet::live(seed, &asked) {
        Ok(lived) => return lived,
        Err(broken) => broken,
    };
    let first = broken.why.clone();
    let (without, broken) = without::shorten(seed, asked, broken);
    let without = without.text();
    panic!(
        "seed {seed}: {first}\n\nas little as shows it (without {without}), what happened last:\n{}\n\nseed {seed}: {}\n\
         replay: STOA_SIM_SEED={seed} STOA_SIM_WITHOUT={without} cargo test --workspace --test simulation fleets -- --nocapture",
        broken.tail, broken.why
    )
}

#[test]
fn fleets_come_to_rest_and_break_no_rule() {
    let _shared = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let (begin, mut sum) = (Instant::now(), Sum::default());
    let one = number("STOA_SIM_SEED");
    let seeds = one.map_or(1..=SHORT, |seed| seed..=seed);
    for seed in seeds {
        sum.add(&live(seed));
    }
    sum.tell(begin);
    if one.is_none() {
        assert!(sum.virtual_ms / 3_600_000 >= 200, "too short a run");
        let missed = sum.counts.reach.missed();
        assert!(missed.is_empty(), "never happened: {missed:?}");
    }
}

#[test]
fn a_seed_decides_everything() {
    let _shared = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    for seed in [3, 1007] {
        let (first, second) = (live(seed), live(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.counts.checks, second.counts.checks, "seed {seed}");
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_failure_is_shown_with_little_around_it() {
    let _alone = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    planted::plant(Some(planted::Defect::NeverDrains));
    let shown = (1..=MUTANT_SEEDS).find_map(|seed| {
        let broken = fleet::live(seed, &Without::default()).err()?;
        let long = broken.tail.lines().count();
        let (without, short) = without::shorten(seed, Without::default(), broken);
        let again = fleet::live(seed, &Without::parse(&without.text())).err();
        Some((without, long, short, again))
    });
    planted::plant(None);
    let (without, long, short, again) = shown.expect("found");
    let lines = short.tail.lines().count();
    println!("without {}: {lines} lines of {long}", without.text());
    assert!(!without.text().is_empty(), "nothing could be left out");
    assert_eq!(
        again.map(|again| again.why),
        Some(short.why),
        "it can be replayed"
    );
}

/// The long run: `cargo xtask soak sim`.
#[test]
#[ignore = "takes as long as STOA_SIM_SEEDS and STOA_SIM_HOURS say"]
fn soak() {
    let _shared = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let begin = Instant::now();
    let mut sum = Sum::default();
    let seeds = number("STOA_SIM_SEEDS").unwrap_or(u64::MAX);
    let hours = number("STOA_SIM_HOURS").unwrap_or(u64::MAX);
    let first = number("STOA_SIM_FIRST").unwrap_or(1);
    while sum.fleets < seeds && sum.virtual_ms / 3_600_000 < hours {
        sum.add(&live(first + sum.fleets));
        if sum.fleets.is_multiple_of(100) {
            sum.tell(begin);
        }
    }
    sum.tell(begin);
}

#[cfg(debug_assertions)]
#[test]
fn every_planted_defect_is_found() {
    let _alone = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    let mut survivors = Vec::new();
    for defect in planted::ALL {
        planted::plant(Some(defect));
        let found = (1..=MUTANT_SEEDS).find_map(|seed| {
            let broken = fleet::live(seed, &Without::default()).err()?;
            Some((seed, broken.why))
        });
        planted::plant(None);
        match found {
            Some((seed, why)) => println!("{defect:?}: seed {seed}: {why}"),
            None => survivors.push(defect),
        }
    }
    assert!(
        survivors.is_empty(),
        "not found within {MUTANT_SEEDS} fleets: {survivors:?}"
    );
}
