//! What a database goes through while programs query it: a new password, another one in its place, another
//! server under its pooler. A program that tries once more sees no failed query.
//!
//! Lives here: the runs and their verdict. Does not live here: the program that queries and counts (`tests/apps/queries`).
//! Invariant: what an instance counted is read when it has ended, from its log, or from itself while it lives: every query
//! is counted once.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Application, PATIENCE, Stoa, holds, until};

const HOST: &str = "queries.localhost";
const TOLD_EACH: u64 = 10;
/// Queries that must be answered after each run before the next begins.
const GO_ON: u64 = 100;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How often the password is replaced.
    pub rotations: u64,
    /// How often another database takes the place.
    pub promotions: u64,
    /// How often its server is started anew under its pooler.
    pub restarts: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    rotations: Vec<Duration>,
    promotions: Vec<Duration>,
    restarts: Vec<Duration>,
    /// Instances that ended.
    ended: usize,
    queries: u64,
    again: u64,
    worst_ms: u64,
    /// What was not as promised.
    pub findings: Vec<String>,
}

/// Goes through all of it.
///
/// # Errors
/// When Stoa does not come up, or refuses something of it.
pub fn run(options: Options) -> Result<Outcome> {
    let stoa = Stoa::start("soak-queries")?;
    stoa.deploy(&Application::copy("queries", stoa.root())?)?.ok()?;
    go_on(&stoa)?;
    let mut outcome = Outcome::default();
    for run in 1..=options.rotations {
        let begun = Instant::now();
        stoa.cli(&["db", "rotate", "main"])?.ok()?;
        outcome.rotations.push(begun.elapsed());
        outcome.ended += 1;
        go_on(&stoa)?;
        told(run, "rotations");
    }
    if options.promotions > 0 {
        stoa.cli(&["db", "restore", "main", "--as", "other", "--latest"])?
            .ok()?;
    }
    let mut next = "other".to_owned();
    for run in 1..=options.promotions {
        let begun = Instant::now();
        stoa.cli(&["db", "promote", &next, "--of", "main", "--confirm", "main"])?
            .ok()?;
        outcome.promotions.push(begun.elapsed());
        go_on(&stoa)?;
        next = kept(&stoa)?;
        told(run, "promotions");
    }
    if options.restarts > 0 {
        stoa.cli(&["db", "update", "main", "--pooled", "yes"])?.ok()?;
        pooled(&stoa, "main")?;
        // It has the address of the pooler from its start.
        stoa.cli(&["restart", "--app", "queries"])?.ok()?;
        outcome.ended += 1;
        go_on(&stoa)?;
    }
    for run in 1..=options.restarts {
        let begun = Instant::now();
        stoa.cli(&["db", "restart", "main", "--confirm", "main"])?.ok()?;
        outcome.restarts.push(begun.elapsed());
        go_on(&stoa)?;
        told(run, "restarts");
    }
    outcome.count(&stoa)?;
    stoa.finish()?;
    Ok(outcome)
}

/// Waits until a database has its pooler.
///
/// # Errors
/// When it has none in time.
pub fn pooled(stoa: &Stoa, database: &str) -> Result<()> {
    holds("a pooler", || {
        let shown = stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()?;
        Ok(shown["pooler"]["state"] == "ready")
    })
}

fn told(run: u64, what: &str) {
    if run.is_multiple_of(TOLD_EACH) {
        println!("   {run} {what}");
    }
}

fn counts(stoa: &Stoa) -> Result<Value> {
    let answer = stoa.get(HOST, "/")?;
    serde_json::from_str(&answer.text()).with_context(|| format!("the counts are {}", answer.text()))
}

/// Waits until it queries on. A new instance begins to count anew.
fn go_on(stoa: &Stoa) -> Result<()> {
    let number = || -> Result<u64> { counts(stoa)?["queries"].as_u64().context("no count") };
    let mut before = number()?;
    let goal = before + GO_ON;
    until("queries", PATIENCE, || {
        let now = number()?;
        before = before.min(now);
        Ok((now >= goal || now >= before + GO_ON).then_some(()))
    })
}

/// The name under which the one before is kept.
fn kept(stoa: &Stoa) -> Result<String> {
    let info = |name: &str| stoa.cli(&["db", "info", name, "--json"])?.ok()?.json();
    let id = info("main")?["promoted"]["instead_of"].clone();
    let kept = info(id.as_str().context("main took nobody's place")?)?;
    Ok(kept["name"].as_str().context("no name")?.to_owned())
}

impl Outcome {
    /// Adds up what all instances counted.
    fn count(&mut self, stoa: &Stoa) -> Result<()> {
        let ended = self.ended;
        let said = until("what ended instances counted", PATIENCE, || {
            let words = ["logs", "--app", "queries", "--tail", "1000", "--grep", "counts "];
            let printed = stoa.cli(&words)?.ok()?.stdout;
            let said: Vec<Value> = printed
                .lines()
                .filter_map(|line| serde_json::from_str(line.split_once("counts ")?.1).ok())
                .collect();
            Ok((said.len() >= ended).then_some(said))
        })?;
        ensure!(said.len() == ended, "{} instances ended", said.len());
        for counts in said.into_iter().chain([counts(stoa)?]) {
            let number = |what: &str| counts[what].as_u64().unwrap_or_default();
            self.queries += number("queries");
            self.again += number("again");
            self.worst_ms = self.worst_ms.max(number("worst_ms"));
            if counts["failed"] != 0 {
                self.findings.push(format!(
                    "{} queries failed: {}",
                    counts["failed"], counts["errors"]
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queries, again, .. } = self;
        writeln!(
            f,
            "{queries} queries, {again} of them tried once more, the longest {} ms; {} findings",
            self.worst_ms,
            self.findings.len()
        )?;
        for (what, took) in [
            ("rotations", &self.rotations),
            ("promotions", &self.promotions),
            ("restarts", &self.restarts),
        ] {
            let mut took = took.clone();
            took.sort_unstable();
            let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1)));
            if let (Some(half), Some(most)) = (at(50), took.last()) {
                writeln!(
                    f,
                    "  {} {what}: {:.1} s each (half of them), {:.1} s at most",
                    took.len(),
                    half.as_secs_f64(),
                    most.as_secs_f64()
                )?;
            }
        }
        Ok(())
    }
}
