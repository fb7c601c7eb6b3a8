//! `cargo xtask soak db-queries`.

use anyhow::{Result, ensure};
use journeys::soak::queries::{self, Options};

use super::{Words, binary};

const RUNS: u64 = 100;

pub fn run(words: &Words<'_>) -> Result<()> {
    let options = Options {
        rotations: words.get("rotations", RUNS)?,
        promotions: words.get("promotions", RUNS)?,
        restarts: words.get("restarts", RUNS)?,
    };
    binary()?;
    let outcome = queries::run(options)?;
    println!("{outcome}");
    ensure!(outcome.findings.is_empty(), "{:#?}", outcome.findings);
    Ok(())
}
