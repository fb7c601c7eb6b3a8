//! Everything CI runs, in order, each step with its time; the last line is the true sum.
//!
//! Lives here: which steps, and counting. Does not live here: any test.
//! Invariant: a step that failed makes the sum show a failure and the exit code say so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::step::{Done, Step};
use crate::{bench, check, judge, packages, repository, s3, soak};

/// Bounds of a single test.
const NEXTEST: &str = "xtask/nextest.toml";
/// A journey works with whole Stoas; more than two at once on two cores only wait for each other.
const JOURNEYS_AT_ONCE: &str = "2";
/// What a first run writes: some 6 GiB of build, and what the tests deploy; products keep 1 GiB of a disk free.
const ROOM_GIB: u64 = 12;
/// What a run on an earlier one's build still writes.
const ROOM_AGAIN_GIB: u64 = 6;
const TESTS_LIMIT: Duration = Duration::from_secs(45 * 60);

#[derive(Default)]
struct Summary {
    lines: Vec<String>,
    passed: u64,
    failed: u64,
}

impl Summary {
    /// Notes a step that is one yes or no.
    fn step(&mut self, name: &str, outcome: Result<Done>) {
        match outcome {
            Ok(done) => self.line(name, "ok", done.took),
            Err(error) => {
                println!("    {error:#}");
                self.failed += 1;
                self.lines.push(format!("{name:<28} FAILED"));
            }
        }
    }

    /// Does something here and notes it.
    fn work(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        let begin = Instant::now();
        match work() {
            Ok(()) => self.line(name, "ok", begin.elapsed()),
            Err(error) => self.step(name, Err(error)),
        }
    }

    /// Notes a step that ran tests.
    fn tests(&mut self, name: &str, outcome: Result<(Done, bool)>) {
        let (done, success) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.step(name, Err(error)),
        };
        let (passed, failed) = count(&done.output);
        self.passed += passed;
        // A runner that fails without a failed test (a build error) is one failure all the same.
        self.failed += if success { failed } else { failed.max(1) };
        if !success {
            show_failures(&done.output);
        }
        self.line(name, &format!("{passed} passed, {failed} failed"), done.took);
    }

    fn line(&mut self, name: &str, what: &str, took: Duration) {
        self.lines
            .push(format!("{name:<28} {what:<26} {:>7.1} s", took.as_secs_f64()));
    }
}

/// Runs it all.
///
/// # Errors
/// When anything failed.
pub fn run() -> Result<()> {
    let begin = Instant::now();
    check_room()?;
    packages::install()?;
    s3::install()?;
    let mut summary = Summary::default();
    summary.step("fmt", Step::cargo("fmt").args(["fmt", "--all", "--check"]).run());
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    summary.step("clippy", Step::cargo("clippy").args(clippy).run());
    summary.work("check", check::run);
    summary.work("judges of the document", judge::run);
    // The product first: journeys and the demo run the same binary, from the same profile.
    let built = Step::cargo("build")
        .args(["build", "--package", "stoa", "--quiet"])
        .run();
    let runnable = built.is_ok();
    summary.step("build", built);
    summary.tests("tests", workspace_tests());
    if runnable {
        summary.tests("journeys", journeys());
        summary.work("schemathesis, 2,000 cases", || soak::api::short(&binary()));
        summary.work("benches, two rounds", || bench::short(&binary()));
    }
    summary.tests("example rust-api", example_tests());
    println!("\nwhat ran, in {:.0} s:", begin.elapsed().as_secs_f64());
    for line in &summary.lines {
        println!("  {line}");
    }
    println!("\n{} passed, {} failed", summary.passed, summary.failed);
    if summary.failed > 0 {
        bail!(
            "not everything passed; logs: {}",
            repository::target().join("xtask-logs").display()
        );
    }
    Ok(())
}

/// Refuses to begin what the disk cannot hold: it would fail late, and name the wrong culprit.
fn check_room() -> Result<()> {
    let needed = match binary().exists() {
        true => ROOM_AGAIN_GIB,
        false => ROOM_GIB,
    };
    let root = repository::root();
    let asked = Command::new("df")
        .args(["--output=avail", "--block-size=1G"])
        .arg(&root)
        .output()
        .context("ask df for the free room")?;
    let text = String::from_utf8_lossy(&asked.stdout);
    let free: u64 = text
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok())
        .context("df does not tell the free room")?;
    if free < needed {
        bail!(
            "{free} GiB are free under {}, and this needs {needed}: make room, then try again",
            root.display()
        );
    }
    Ok(())
}

/// What journeys and benches run.
fn binary() -> PathBuf {
    repository::target().join("debug/stoa")
}

fn workspace_tests() -> Result<(Done, bool)> {
    let step = Step::cargo("tests").limit(TESTS_LIMIT);
    let step = if has_nextest() {
        step.args([
            "nextest",
            "run",
            "--config-file",
            NEXTEST,
            "--no-fail-fast",
            "--status-level",
            "fail",
            "--hide-progress-bar",
        ])
    } else {
        step.args(["test", "--no-fail-fast"])
    };
    step.args(["--workspace", "--exclude", "journeys"]).run_anyway()
}

fn journeys() -> Result<(Done, bool)> {
    let step = Step::cargo("journeys")
        .limit(TESTS_LIMIT)
        .env("STOA_BIN", binary())
        .env("RUST_LIB_BACKTRACE", "0");
    let step = if has_nextest() {
        step.args([
            "nextest",
            "run",
            "--config-file",
            NEXTEST,
            "--no-fail-fast",
            "--status-level",
            "pass",
            "--hide-progress-bar",
        ])
        .args(["--package", "journeys", "--test-threads", JOURNEYS_AT_ONCE])
    } else {
        step.args([
            "test",
            "--no-fail-fast",
            "--package",
            "journeys",
            "--",
            "--test-threads",
            JOURNEYS_AT_ONCE,
        ])
    };
    step.run_anyway()
}

/// An application outside the workspace: its build directory stays inside ours.
fn example_tests() -> Result<(Done, bool)> {
    let manifest = repository::root().join("examples/rust-api/Cargo.toml");
    let folder = repository::target().join("examples");
    Step::cargo("example-rust-api")
        .env("CARGO_TARGET_DIR", &folder)
        .args([Path::new("test"), Path::new("--manifest-path"), &manifest])
        .run_anyway()
}

fn has_nextest() -> bool {
    Command::new("cargo-nextest")
        .arg("--version")
        .output()
        .is_ok_and(|answer| answer.status.success())
}

/// Passed and failed of a runner's closing lines: one line of nextest, or one of libtest for each program.
fn count(output: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in output.lines() {
        let line = plain(line);
        let closing = line.trim_start().starts_with("Summary [") || line.starts_with("test result:");
        if !closing {
            continue;
        }
        sum.0 += number_before(&line, " passed");
        // A test that ran out of time is told apart by nextest and is a failure here.
        sum.1 += number_before(&line, " failed") + number_before(&line, " timed out");
        sum.1 += number_before(&line, " exec failed");
    }
    sum
}

fn number_before(line: &str, word: &str) -> u64 {
    let Some(at) = line.find(word) else { return 0 };
    let digits: String = line[..at]
        .chars()
        .rev()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.chars().rev().collect::<String>().parse().unwrap_or(0)
}

/// Without colour sequences.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            let _sequence = letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(letter);
        }
    }
    text
}

/// What the failed tests said, and only that.
fn show_failures(output: &str) {
    const SHOWN: usize = 400;
    let interesting = |line: &&str| {
        let quiet = [
            "PASS [",
            "Compiling ",
            "Finished ",
            "test result: ok",
            "... ok",
            "Running ",
        ];
        !line.trim().is_empty() && !quiet.iter().any(|word| line.contains(word))
    };
    let lines: Vec<&str> = output.lines().filter(interesting).collect();
    for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)) {
        println!("    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn closing_lines_are_summed() {
        let nextest = "     Summary [   0.020s] 15 tests run: 13 passed (1 slow), 2 failed, 3 skipped\n";
        assert_eq!(count(nextest), (13, 2));
        let timed_out = "Summary [ 60.1s] 4 tests run: 2 passed, 1 failed, 1 timed out, 0 skipped";
        assert_eq!(count(timed_out), (2, 2));
        let libtest =
            "test result: ok. 4 passed; 0 failed; 0 ignored\ntest result: FAILED. 1 passed; 2 failed; 0\n";
        assert_eq!(count(libtest), (5, 2));
        let coloured = "\u{1b}[32m     Summary\u{1b}[0m [   0.0s] \u{1b}[1m7\u{1b}[0m tests run: \u{1b}[1m7\u{1b}[0m \u{1b}[32mpassed\u{1b}[0m, 0 skipped";
        assert_eq!(count(coloured), (7, 0));
        assert_eq!(count("error: could not compile"), (0, 0));
    }
}
