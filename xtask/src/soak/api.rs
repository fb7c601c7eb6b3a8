//! `cargo xtask soak api`.

use std::path::Path;

use anyhow::{Result, ensure};
use journeys::soak::api::{self, Memory, Options, Outcome};

use super::{Words, binary};
use crate::{judge, repository};

/// What the issue of the contract asks for.
const CASES: u64 = 20_000;
/// Besides the cases at the bounds of the document, some two thousand in a run.
const CASES_EACH: u64 = 5;
/// Checks that are silently left out when the document or the users give nothing to try them on.
const CHECKED: [&str; 4] = [
    "use_after_free",
    "ignored_auth",
    "negative_data_rejection",
    "object_level_authorization",
];
/// How much of its memory control may gain in a long run. A short one is too short to tell growth from a first use.
const GROWTH: f64 = 0.05;

/// The cases of `cargo xtask test`: one run makes as many.
const FEW: u64 = 2000;
const FEW_EACH: u64 = 2;

pub fn run(words: &Words<'_>) -> Result<()> {
    binary()?;
    let (cases, each) = (words.get("cases", CASES)?, words.get("cases-each", CASES_EACH)?);
    let memory = match cases {
        CASES.. => Memory::Compared,
        0..CASES => Memory::PassedOver,
    };
    let outcome = tried(cases, each, words.get("seed", 1)?, memory)?;
    ensure!(
        outcome.growth() < GROWTH || memory == Memory::PassedOver,
        "control's memory grew by {:.1} %",
        outcome.growth() * 100.0
    );
    Ok(())
}

/// The short version, with the binary that tests run.
///
/// # Errors
/// When anything is found.
pub fn short(binary: &Path) -> Result<()> {
    journeys::Stoa::use_binary(binary);
    tried(FEW, FEW_EACH, 1, Memory::PassedOver).map(drop)
}

fn tried(cases: u64, cases_each: u64, seed: u64, memory: Memory) -> Result<Outcome> {
    let root = repository::root();
    let outcome = api::run(&Options {
        schemathesis: judge::tools::install()?.python("schemathesis"),
        document: root.join("openapi/v1.json"),
        hooks: root.join("xtask/judges/hooks.py"),
        cases,
        cases_each,
        seed,
        memory,
    })?;
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
    for check in CHECKED {
        ensure!(
            outcome.checks.contains_key(check),
            "nothing was checked for {check}"
        );
    }
    Ok(outcome)
}
