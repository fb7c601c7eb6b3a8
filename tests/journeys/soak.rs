//! The short soaks: kills at random moments under traffic lose nothing, do nothing twice and leave nothing behind; no query
//! fails while a database gets another password, or another one takes its place.

use anyhow::{Result, ensure};
use journeys::soak::kill::{self, Aim, Options};
use journeys::soak::queries;
use journeys::traffic::Load;

/// `cargo xtask soak kill` runs more of them, with databases too.
const TRIALS: u64 = 200;
const SEED: u64 = 3;

#[test]
fn kills_at_random_moments_lose_nothing() -> Result<()> {
    let outcome = kill::run(Options {
        trials: TRIALS,
        seed: SEED,
        databases: false,
        load: Load::times(0.5),
        aim: Aim::Anything,
    })?;
    println!("{outcome}");
    ensure!(outcome.findings.is_empty(), "{}", outcome.findings.join("\n"));
    Ok(())
}

/// `cargo xtask soak db-queries` goes through a hundred of each.
#[test]
fn no_query_fails_while_a_database_changes() -> Result<()> {
    let outcome = queries::run(queries::Options {
        rotations: 2,
        promotions: 2,
        restarts: 2,
    })?;
    println!("{outcome}");
    ensure!(outcome.findings.is_empty(), "{}", outcome.findings.join("\n"));
    Ok(())
}
