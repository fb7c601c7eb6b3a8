//! `cargo xtask soak hostile`.

use anyhow::{Result, ensure};
use journeys::soak::hostile::{self, Options};

use super::{Words, binary};

/// Growth of control's memory that is refused, in percent.
const GROWTH_MAX: f64 = 5.0;

pub fn run(words: &Words<'_>) -> Result<()> {
    let options = Options {
        requests: words.get("requests", 100_000)?,
        seed: words.get("seed", 1)?,
        first: words.get("first", 0)?,
    };
    binary()?;
    let outcome = hostile::run(options)?;
    println!("{outcome}");
    for finding in &outcome.findings {
        println!("  {finding}");
    }
    let growth = outcome.growth_percent();
    ensure!(
        outcome.findings.is_empty() && outcome.panics == 0 && growth < GROWTH_MAX,
        "{} findings, {} panics, {growth:+.1} % of memory",
        outcome.findings.len(),
        outcome.panics
    );
    Ok(())
}
