//! schemathesis against a real Stoa: what it sends, what the server made of it, what it weighed before and after.
//!
//! Lives here: a Stoa of its own, the run, and reading the report. Does not live here: installing schemathesis and saying
//! how many cases (`xtask`), what a stranger's tool must be told about this API (`xtask/judges/hooks.py`).
//! Invariant: every answer is counted from the report; a case without an answer is a finding.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::Stoa;

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// The program.
    pub schemathesis: PathBuf,
    /// The document to generate from.
    pub document: PathBuf,
    /// Python that tells it what a schema cannot say.
    pub hooks: PathBuf,
    /// Generated cases for each operation and phase, besides those that cover the document's bounds.
    pub cases_each: u64,
    /// Repeats a run.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Requests that were sent.
    pub cases: u64,
    /// How many answers had each class of status.
    pub classes: BTreeMap<u64, u64>,
    /// What it objected to: its own words.
    pub findings: Vec<String>,
    /// Resident memory of control before, in bytes.
    pub before: u64,
    /// The same after.
    pub after: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cases, {} findings", self.cases, self.findings.len())?;
        for (class, count) in &self.classes {
            writeln!(f, "  {class}xx: {count}")?;
        }
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "  control's memory: {} MiB before, {} MiB after",
            mib(self.before),
            mib(self.after)
        )
    }
}

impl Outcome {
    /// Answers that say the server is at fault.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.classes.get(&5).copied().unwrap_or_default()
    }
}

/// Runs it.
///
/// # Errors
/// When Stoa or schemathesis does not run; findings are no error.
pub fn run(options: &Options) -> Result<Outcome> {
    let stoa = Stoa::start("judged")?;
    let control = stoa.part("control")?;
    let before = control.resident_bytes();
    let report = stoa.root().join("report.ndjson");
    // As a credential and not as a header of every request: it must be able to leave it out.
    let config = stoa.root().join("schemathesis.toml");
    fs::write(
        &config,
        format!("[auth.openapi.token]\nbearer = \"{}\"\n", stoa.api()?.token()),
    )?;
    let said = Command::new(&options.schemathesis)
        .current_dir(stoa.root())
        .args(["--config-file", &config.to_string_lossy()])
        .arg("run")
        .arg(&options.document)
        .args(["--url", &stoa.api_url()])
        .args(["--seed", &options.seed.to_string()])
        .args(["--max-examples", &options.cases_each.to_string()])
        .args(["--generation-database", "none"])
        .args(["--continue-on-failure", "--no-shrink", "--no-color"])
        .args(["--request-timeout", "60"])
        // Ends only when the reader goes away: a request that waits for its end never would.
        .args(["--exclude-operation-id", "event_watch"])
        // Hands the connection over, which schemathesis cannot take.
        .args(["--exclude-operation-id", "instance_exec"])
        .args(["--exclude-operation-id", "database_exec"])
        .args(["--report-ndjson-path", &report.to_string_lossy()])
        .env("SCHEMATHESIS_HOOKS", &options.hooks)
        .output()
        .with_context(|| format!("could not start {}", options.schemathesis.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        matches!(said.status.code(), Some(0 | 1)),
        "schemathesis ended with {}:\n{text}{}",
        said.status,
        String::from_utf8_lossy(&said.stderr)
    );
    let after = control.resident_bytes();
    ensure!(control.is_alive(), "control did not outlive it");
    let mut outcome = Outcome {
        cases: 0,
        classes: BTreeMap::new(),
        findings: Vec::new(),
        before,
        after,
    };
    let lines = BufReader::new(File::open(&report).context("schemathesis left no report")?);
    for line in lines.lines() {
        count(&serde_json::from_str(&line?)?, &mut outcome);
    }
    ensure!(
        said.status.success() || !outcome.findings.is_empty(),
        "schemathesis failed without a finding:\n{text}"
    );
    stoa.finish()?;
    Ok(outcome)
}

/// Adds what one line of the report says: a scenario holds its requests, their answers and what each check said.
fn count(line: &Value, outcome: &mut Outcome) {
    let recorder = &line["ScenarioFinished"]["recorder"];
    let label = recorder["label"].as_str().unwrap_or_default();
    for (case, interaction) in recorder["interactions"].as_object().into_iter().flatten() {
        outcome.cases += 1;
        match interaction["response"]["status_code"].as_u64() {
            Some(status) => *outcome.classes.entry(status / 100).or_default() += 1,
            None => outcome
                .findings
                .push(format!("{label}: case {case} got no answer")),
        }
    }
    for (case, checks) in recorder["checks"].as_object().into_iter().flatten() {
        let failed = checks.as_array().into_iter().flatten();
        for check in failed.filter(|check| check["status"] != "success") {
            let sent = &recorder["cases"][case]["value"];
            outcome.findings.push(format!(
                "{label}: {} ({}): query {}, body {}",
                check["name"].as_str().unwrap_or_default(),
                recorder["interactions"][case]["response"]["status_code"],
                short(&sent["query"]),
                short(&sent["body"])
            ));
        }
    }
}

/// Enough to see what it was.
fn short(value: &Value) -> String {
    const SHOWN: usize = 200;
    value.to_string().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_and_objections_are_counted() {
        let mut outcome = Outcome {
            cases: 0,
            classes: BTreeMap::new(),
            findings: Vec::new(),
            before: 0,
            after: 0,
        };
        count(&json!({"EngineStarted": {}}), &mut outcome);
        let line = json!({"ScenarioFinished": {"recorder": {
            "label": "GET /v1/whoami",
            "cases": {"a": {"value": {"query": {"x": "1"}}}},
            "checks": {"a": [{"name": "not_a_server_error", "status": "failure"}, {"name": "x", "status": "success"}]},
            "interactions": {"a": {"response": {"status_code": 500}}, "b": {"response": null}},
        }}});
        count(&line, &mut outcome);
        assert_eq!(
            (outcome.cases, outcome.faults(), outcome.findings.len()),
            (2, 1, 2)
        );
    }
}
