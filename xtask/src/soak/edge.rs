//! `cargo xtask soak edge`.

use anyhow::{Result, ensure};
use journeys::soak::edge::{self, Options};
use journeys::traffic::Load;

use super::{Words, binary};

const REPLACEMENTS: u64 = 100;
const UPGRADES: u64 = 20;

pub fn run(words: &Words<'_>) -> Result<()> {
    let options = Options {
        replacements: words.get("replacements", REPLACEMENTS)?,
        upgrades: words.get("upgrades", UPGRADES)?,
        load: Load::times(words.get("load", 1.0)?),
    };
    binary()?;
    let outcome = edge::run(options)?;
    println!("{outcome}");
    ensure!(
        outcome.faults() == 0,
        "{} exchanges were not as they should be",
        outcome.faults()
    );
    Ok(())
}
