//! `cargo xtask soak api`.

use anyhow::{Result, ensure};
use journeys::soak::api::{self, Options};

use super::{Words, binary};
use crate::{judge, repository};

/// Besides the cases at the bounds of the document, some two thousand.
const CASES_EACH: u64 = 5;

pub fn run(words: &Words<'_>) -> Result<()> {
    words.only(&["cases-each", "seed"])?;
    let root = repository::root();
    let options = Options {
        schemathesis: judge::tools::install()?.python("schemathesis"),
        document: root.join("openapi/v1.json"),
        hooks: root.join("xtask/judges/hooks.py"),
        cases_each: words.get("cases-each", CASES_EACH)?,
        seed: words.get("seed", 1)?,
    };
    binary()?;
    let outcome = api::run(&options)?;
    println!("{outcome}");
    for finding in &outcome.findings {
        println!("  {finding}");
    }
    ensure!(
        outcome.findings.is_empty() && outcome.faults() == 0,
        "{} findings, {} answers 5xx",
        outcome.findings.len(),
        outcome.faults()
    );
    Ok(())
}
