//! `cargo xtask soak deploys`.

use anyhow::{Result, ensure};
use journeys::soak::deploys::{self, Options};
use journeys::traffic::Load;

use super::{Words, binary};

const DEPLOYS: u64 = 1000;

pub fn run(words: &Words<'_>) -> Result<()> {
    let options = Options {
        deploys: words.get("deploys", DEPLOYS)?,
        exchanges: words.get("exchanges", 0)?,
        load: Load::times(words.get("load", 1.0)?),
    };
    binary()?;
    let outcome = deploys::run(options)?;
    println!("{outcome}");
    for trouble in &outcome.report.troubles {
        println!("  {trouble}");
    }
    let wrong = outcome.report.faults() + outcome.report.cuts();
    ensure!(
        wrong == 0,
        "{wrong} exchanges or connections were not as they should be"
    );
    Ok(())
}
