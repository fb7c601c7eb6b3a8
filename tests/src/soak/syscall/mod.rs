//! One deploy or rollback again and again, each time with control killed before its n-th system call that counts, or with
//! that call failing.
//!
//! ```text
//! settled state -> trace control -> upload, ask -> n-th call: kill, or an error -> settle -> compare as after any kill
//! ```
//! Lives here: which points are tried and what came of them. Does not live here: counting calls (`tracer`), which calls
//! count (`calls`), the comparison (`kill`, `compare`).
//! Invariant: a point that was not reached is told as such and is no proof.
//! Threads are not ordered: the n-th call of two runs may differ; what was hit is counted by its name.

mod calls;
mod tracer;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::tracer::{Act, Tracer};
use super::kill::{Bench, Kill};
use super::operation::{Answer, Operation, SERVED};
use super::outcome::{self, Victim};
use super::state::State;
use super::{archive, send, world};
use crate::traffic::Load;
use crate::{PATIENCE, until};

/// After so many deaths of control the warden is renewed: it makes a child that keeps dying wait, up to 10 s.
const DEATHS_IN_A_ROW: u64 = 4;
/// So many runs are only counted, before the trials.
const COUNTING: usize = 3;
/// So many points in a row that are not reached, beyond the last one listed, end a run over all of them.
const BEYOND: u64 = 3;

/// What is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An upload that no layer is known of, and its release.
    Deploy,
    /// Back to a release before.
    Rollback,
}

/// What happens at the n-th call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Control is killed.
    Kill,
    /// The disk answers with an error.
    Error,
    /// A signal came between.
    Interrupted,
    /// Half is written.
    Short,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Chooses the first point of a stride.
    pub seed: u64,
    /// The first point.
    pub from: u64,
    /// The last one; without it, all there are.
    pub to: Option<u64>,
    /// Every so many.
    pub stride: u64,
    /// Of what.
    pub what: What,
    /// Which fault.
    pub fault: Fault,
    /// Traffic during all of it.
    pub load: Load,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    options: Options,
    /// Calls that counted in each run without a fault.
    listed: Vec<u64>,
    tried: u64,
    reached: u64,
    clean: u64,
    /// By name: how often it was hit.
    hit: BTreeMap<String, u64>,
    /// How the operation was answered.
    answers: BTreeMap<&'static str, u64>,
    took: Duration,
    trials: outcome::Outcome,
}

/// Runs the trials.
///
/// # Errors
/// When the installation cannot be set up or taken down cleanly; what trials find is in the outcome.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let mut bench = Bench::new("soak-syscall", options.load, 2)?;
    let mut outcome = Outcome {
        options,
        listed: Vec::new(),
        tried: 0,
        reached: 0,
        clean: 0,
        hit: BTreeMap::new(),
        answers: BTreeMap::new(),
        took: Duration::ZERO,
        trials: outcome::Outcome::default(),
    };
    let mut number = 0;
    for _ in 0..COUNTING {
        number += 1;
        let (head, reached) = trial(&mut bench, &mut outcome, number, None)?;
        println!("{head}");
        ensure!(!reached, "a run without a fault had one");
    }
    let last = outcome.listed.iter().max().copied().unwrap_or_default();
    let mut point = options.from + options.seed % options.stride.max(1);
    let mut beyond = 0;
    // Only a run over all points looks beyond the last one listed: runs differ in length.
    let beyond_most = if options.stride == 1 { BEYOND } else { 0 };
    while options.to.is_none_or(|to| point <= to) && (point <= last || beyond < beyond_most) {
        number += 1;
        let (head, reached) = trial(&mut bench, &mut outcome, number, Some(point))
            .with_context(|| format!("{:?} at point {point}", options.what))?;
        println!("{head}");
        if outcome.trials.findings.len() >= outcome::WRONG_MAX {
            break;
        }
        if reached && options.fault == Fault::Kill && outcome.reached.is_multiple_of(DEATHS_IN_A_ROW) {
            bench.renew()?;
        }
        if reached {
            beyond = 0;
        } else if point > last {
            beyond += 1;
        }
        point += options.stride.max(1);
    }
    let found = bench.end(&mut outcome.trials)?;
    outcome.trials.note("after the last trial", found);
    outcome.took = begin.elapsed();
    Ok(outcome)
}

/// One run, with a fault at a point or without any; whether the point was reached.
fn trial(
    bench: &mut Bench,
    outcome: &mut Outcome,
    number: u64,
    point: Option<u64>,
) -> Result<(String, bool)> {
    let options = outcome.options;
    let archive = archive(&bench.stoa, Some(&number.to_string()))?;
    if options.what == What::Rollback && point.is_none() {
        // There must be releases to go back to.
        renew(bench, outcome, &archive, number)?;
    }
    let operation = match options.what {
        What::Deploy => Operation::Deploy {
            app: SERVED.to_owned(),
            version: format!("{SERVED}-{number}"),
        },
        What::Rollback => Operation::Rollback {
            app: SERVED.to_owned(),
            to: before(&State::read(&bench.api)?)?,
        },
    };
    let act = |number: u64| match options.fault {
        Fault::Kill => Act::Kill { at: number },
        Fault::Error => Act::Fail {
            at: number,
            errno: libc::EIO,
        },
        Fault::Interrupted => Act::Fail {
            at: number,
            errno: libc::EINTR,
        },
        Fault::Short => Act::Shorten { at: number },
    };
    // A point that is never reached counts what can be reached.
    let act = act(point.unwrap_or(u64::MAX));
    let mut seen = tracer::Seen::default();
    let name = point.map_or("without a fault".to_owned(), |point| format!("point {point}"));
    let mut kind = "";
    let (head, found) = bench.around(&name, &operation, &mut outcome.trials, |bench| {
        let control = bench.stoa.part("control")?;
        let tracer = Tracer::start(control.pid, act)?;
        let answer = match (options.what, send_if(options.what, bench, &archive)) {
            (What::Deploy, Ok(Some(upload))) => operation.ask(&bench.api, &upload),
            (What::Deploy, _) => Answer::Unknown,
            (What::Rollback, _) => operation.ask(&bench.api, ""),
        };
        follow(bench, &tracer, &answer)?;
        let at = Instant::now();
        kind = match &answer {
            Answer::Acknowledged { .. } => "acknowledged",
            Answer::Unknown => "unanswered",
            Answer::Refused { .. } => "refused",
        };
        seen = tracer.end()?;
        let victim = match (&seen.acted, options.fault) {
            (None, _) => Victim::Nobody,
            (Some(_), Fault::Kill) => Victim::Control,
            (Some(_), Fault::Error | Fault::Interrupted | Fault::Short) => Victim::Disk,
        };
        let kill = Kill {
            victim,
            instance: None,
            at,
        };
        Ok((answer, kill))
    })?;
    let acted = seen.acted.clone();
    let head = format!(
        "{head}; {} of {} calls",
        acted.as_deref().unwrap_or("not reached"),
        seen.calls
    );
    let is_clean = found.is_empty();
    outcome.trials.note(&head, found);
    if point.is_none() {
        outcome.listed.push(seen.calls);
        return Ok((head, acted.is_some()));
    }
    outcome.tried += 1;
    *outcome.answers.entry(kind).or_default() += 1;
    if let Some(call) = &acted {
        outcome.reached += 1;
        outcome.clean += u64::from(is_clean);
        let name = call.split(' ').next().unwrap_or_default();
        *outcome.hit.entry(name.to_owned()).or_default() += 1;
    }
    Ok((head, acted.is_some()))
}

/// What is deployed is sent under trace too.
fn send_if(what: What, bench: &Bench, archive: &[u8]) -> Result<Option<String>> {
    match what {
        What::Deploy => send(&bench.api, archive).map(Some),
        What::Rollback => Ok(None),
    }
}

/// A release more, without a tracer.
fn renew(bench: &mut Bench, outcome: &mut Outcome, archive: &[u8], number: u64) -> Result<()> {
    let operation = Operation::Deploy {
        app: SERVED.to_owned(),
        version: format!("{SERVED}-{number}"),
    };
    let (head, found) = bench.around("one release more", &operation, &mut outcome.trials, |bench| {
        let upload = send(&bench.api, archive)?;
        let answer = operation.ask(&bench.api, &upload);
        let kill = Kill {
            victim: Victim::Nobody,
            instance: None,
            at: Instant::now(),
        };
        Ok((answer, kill))
    })?;
    ensure!(found.is_empty(), "{head}: {found:?}");
    Ok(())
}

/// The newest release that served before the one that serves.
fn before(state: &State) -> Result<u64> {
    let app = state.apps.get(SERVED).context("the app is not there")?;
    let mut proven = app.releases.iter().rev();
    let found = proven.find(|(number, release)| release.state == "proven" && Some(**number) != app.serving);
    found
        .map(|(number, _)| *number)
        .context("no release to go back to")
}

/// Waits until the fault has come, or all that the operation does has been done: it has settled and its old instances
/// have ended. The latter is looked at from outside, so that looking makes no calls.
fn follow(bench: &Bench, tracer: &Tracer, answer: &Answer) -> Result<()> {
    let Answer::Acknowledged { operation: Some(id) } = answer else {
        return Ok(());
    };
    until("the operation to settle", PATIENCE, || {
        if tracer.has_acted() {
            return Ok(Some(()));
        }
        let now = bench.api.get(&format!("/v1/operations/{id}?wait=10s"))?;
        let settled = matches!(now["state"].as_str(), Some("succeeded" | "failed" | "canceled"));
        Ok(settled.then_some(()))
    })?;
    until("the old instances to end", PATIENCE, || {
        if tracer.has_acted() {
            return Ok(Some(()));
        }
        let groups = world::workloads(&bench.stoa).len();
        ensure!(groups <= 2, "{groups} instances");
        Ok(Some(()))
    })
}

impl Outcome {
    /// Each wrong trial in words.
    #[must_use]
    pub fn findings(&self) -> &[String] {
        &self.trials.findings
    }

    /// Points that were tried and reached.
    #[must_use]
    pub fn reached(&self) -> u64 {
        self.reached
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            seed, from, stride, ..
        } = self.options;
        let what = match self.options.what {
            What::Deploy => "deploy",
            What::Rollback => "rollback",
        };
        let fault = match self.options.fault {
            Fault::Kill => "kill",
            Fault::Error => "eio",
            Fault::Interrupted => "eintr",
            Fault::Short => "short",
        };
        write!(
            f,
            "{what}, {fault}, in {:.0} s; replay: cargo xtask soak syscall --operation {what} --fault {fault} --seed {seed} --from {from} --stride {stride}",
            self.took.as_secs_f64()
        )?;
        match self.options.to {
            Some(to) => writeln!(f, " --to {to}")?,
            None => writeln!(f)?,
        }
        writeln!(f, "calls that count in runs without a fault: {:?}", self.listed)?;
        writeln!(
            f,
            "{} points tried, {} reached, {} clean",
            self.tried, self.reached, self.clean
        )?;
        let pairs = |map: &BTreeMap<String, u64>| {
            let each: Vec<String> = map
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            each.join(", ")
        };
        let (middle, longest) = outcome::spread(&self.trials.settled);
        writeln!(
            f,
            "all settled {middle:.1} s after the fault in the middle, {longest:.1} s at most"
        )?;
        writeln!(f, "hit: {}", pairs(&self.hit))?;
        for (kind, count) in &self.answers {
            writeln!(f, "{count} questions {kind}")?;
        }
        let renewals: u64 = self.trials.excused.values().sum();
        writeln!(
            f,
            "{renewals} exchanges cut while the warden was renewed between trials, not counted as found"
        )?;
        write!(f, "{}", self.trials.report)
    }
}
