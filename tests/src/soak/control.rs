//! F4: control dies again and again under traffic. No request fails, and no workload changes its process.
//!
//! Lives here: the kills and their verdict. Does not live here: what else may die (`kill`).
//! Invariant: the moments come from the seed. A kill comes no sooner than the API answers again: what is tried is dying,
//! not the wait before the next start, which the warden's own tests show.

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Chance;
use crate::process::Process;
use crate::traffic::{Load, Report, Traffic};
use crate::{Application, PATIENCE, Stoa, http, until};

/// Copies of the app under traffic.
const INSTANCES: usize = 2;
/// A control that lives shorter is a control that crashes: the warden waits longer each time.
const LIVES_AT_LEAST: Duration = Duration::from_millis(1050);
/// Then the kill comes at most this long after: somewhere within a look of the reconcilers or none.
const KILL_WITHIN_MS: u64 = 200;
const TOLD_EACH: u64 = 50;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many kills.
    pub kills: u64,
    /// Where the moments come from.
    pub seed: u64,
    /// Traffic during all of it.
    pub load: Load,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    seed: u64,
    kills: u64,
    took: Duration,
    back: Vec<Duration>,
    /// What the traffic saw.
    pub report: Report,
    /// What was not as promised.
    pub findings: Vec<String>,
}

/// Kills until the count is reached.
///
/// # Errors
/// When Stoa does not come up or control does not come back.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let stoa = Stoa::start("soak-control")?;
    let app = Application::copy("probe", stoa.root())?;
    app.replace(
        "stoa.toml",
        "port = 8080",
        &format!("port = 8080\nscale = {INSTANCES}"),
    )?;
    stoa.deploy(&app)?.ok()?;
    let members = || -> BTreeSet<Process> { stoa.members("python3 server.py").into_iter().collect() };
    let (workloads, keepers) = (members(), stoa.keepers());
    ensure!(workloads.len() == INSTANCES, "{workloads:?}");
    let traffic = Traffic::start(stoa.listeners().http, &app.host(), "1", options.load)?;
    let mut outcome = Outcome {
        seed: options.seed,
        kills: 0,
        took: Duration::ZERO,
        back: Vec::new(),
        report: Report::default(),
        findings: Vec::new(),
    };
    for kill in 1..=options.kills {
        let mut chance = Chance::of(options.seed, kill);
        let control = stoa.part("control")?;
        thread::sleep(LIVES_AT_LEAST + Duration::from_millis(chance.below(KILL_WITHIN_MS)));
        let killed = Instant::now();
        control.signal(libc::SIGKILL)?;
        until("control to be back", PATIENCE, || {
            let is_another = stoa.part("control").is_ok_and(|now| now.pid != control.pid);
            // A connection that the dying one had accepted ends unanswered.
            let answers =
                || http::get(stoa.listeners().api, "localhost", "/readyz").is_ok_and(|a| a.status == 200);
            Ok((is_another && answers()).then_some(()))
        })?;
        outcome.back.push(killed.elapsed());
        outcome.kills = kill;
        let now = members();
        if now != workloads {
            outcome
                .findings
                .push(format!("kill {kill}: {now:?} run instead of {workloads:?}"));
            break;
        }
        outcome.report.add(traffic.take());
        if kill.is_multiple_of(TOLD_EACH) {
            let (exchanges, faults) = (outcome.report.exchanges(), outcome.report.faults());
            println!("   {kill} kills, {exchanges} exchanges, {faults} not as they should be");
        }
    }
    outcome.report.add(traffic.stop());
    let wrong = outcome.report.faults() + outcome.report.cuts();
    if wrong > 0 {
        outcome.findings.push(format!("{:#?}", outcome.report.troubles));
    }
    if !keepers.iter().all(Process::is_alive) {
        outcome.findings.push("a keeper died".to_owned());
    }
    outcome.took = begin.elapsed();
    stoa.finish()?;
    Ok(outcome)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut back = self.back.clone();
        back.sort();
        let at = |part: usize| back.get(part).map_or(0, Duration::as_millis);
        writeln!(
            f,
            "seed {}: {} kills of control in {:.0} s; its API answered again after {} ms ({}-{})",
            self.seed,
            self.kills,
            self.took.as_secs_f64(),
            at(back.len() / 2),
            at(0),
            at(back.len().saturating_sub(1)),
        )?;
        write!(f, "{}", self.report)
    }
}
