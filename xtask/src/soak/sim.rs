//! Fleets of apps over the real reconcilers, a real store and the simulated engine: the long run of
//! `crates/control/tests/simulation`, whose short one every test command has.
//!
//! Lives here: starting it, and its bounds. Does not live here: any fleet, any rule.
//! Invariant: what it prints is shown as it comes, so that a run that is ended early has told how far it came.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::Words;
use crate::repository;

/// What issue 3 asks for when nothing is said.
const SEEDS: u64 = 10_000;
/// Beyond any seeds' hours: only the seeds bound the run.
const HOURS: u64 = 1_000_000_000;

pub fn run(words: &Words<'_>) -> Result<()> {
    let which = match words.get("failpoints", "no".to_owned())?.as_str() {
        "no" => "soak",
        "yes" => "failpoints::soak_failpoints",
        other => bail!("--failpoints {other} is neither yes nor no"),
    };
    let hours = words.get("hours", HOURS)?;
    let seeds = words.get("seeds", if hours == HOURS { SEEDS } else { u64::MAX })?;
    let first: u64 = words.get("first", 1)?;
    let mut child = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repository::root())
        .args(["test", "--quiet", "--workspace", "--test", "simulation"])
        .args(["--", which, "--exact", "--ignored", "--nocapture"])
        .env("STOA_SIM_SEEDS", seeds.to_string())
        .env("STOA_SIM_HOURS", hours.to_string())
        .env("STOA_SIM_FIRST", first.to_string())
        .env("STOA_SIM_BURSTS", words.get("bursts", u64::MAX)?.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).lines() {
        println!("{}", line?);
    }
    ensure!(
        child.wait()?.success(),
        "the simulation found something; see above"
    );
    Ok(())
}
