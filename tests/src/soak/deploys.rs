//! Deploys, good and bad, one after the other, under traffic.
//!
//! Lives here: the sequence and its verdict. Does not live here: the traffic (`traffic`), kills (`kill`).
//! Invariant: a rejected release is never allowed to answer, so an answer of it counts as misrouted.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::operation::{Answer, Operation, SERVED};
use super::{BAD, upload};
use crate::traffic::{FULL, Load, Report, Traffic};
use crate::{ENVIRONMENT, Stoa};

/// Every fifth release is bad.
const BAD_EACH: u64 = 5;
/// How versions move in, in turn.
const ROLLOUTS: [&str; 4] = ["", "-bluegreen", "", "-canary"];
/// Every so manieth, good or bad, moves in by `recreate`: the edge holds requests in the gap, which lasts as long as a
/// WebSocket does.
const RECREATE_EACH: u64 = 16;
/// A number that the first bad deploys meet soon.
const RECREATE_AT: u64 = 4;
/// During such a gap the load is this at most, however long the gap lasts on a busy machine: the edge holds a bounded number
/// of requests.
const HELD_LOAD_MAX: f64 = 0.3;
/// How often there is a word on how it goes.
const TOLD_EACH: u64 = 25;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many deploys at least.
    pub deploys: u64,
    /// How many exchanges at least.
    pub exchanges: u64,
    /// Traffic during all of it.
    pub load: Load,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    good: u64,
    bad: u64,
    /// Deploys in which nobody ran for a while.
    gaps: u64,
    took: Duration,
    /// What the traffic saw.
    pub report: Report,
}

/// Deploys until both counts are reached.
///
/// # Errors
/// When a good release is rejected, a bad one serves, or something is left behind.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let stoa = Stoa::start("soak-deploys")?;
    let api = stoa.api()?;
    let upload = upload(&stoa)?;
    let body = serde_json::json!({ "name": SERVED });
    let made = api.call("POST", &format!("{ENVIRONMENT}/apps"), Some(&body))?;
    ensure!(made.status == 201, "{}", made.body);
    let settle = |operation: &Operation| -> Result<bool> {
        match operation.ask(&api, &upload) {
            Answer::Acknowledged { operation: Some(id) } => Ok(api.settled(&id)?["state"] == "succeeded"),
            other => bail!("{operation} was answered {other:?}"),
        }
    };
    let good = |version: &str| Operation::Deploy {
        app: SERVED.to_owned(),
        version: version.to_owned(),
    };
    ensure!(settle(&good(&format!("{SERVED}-0")))?, "the first deploy failed");
    let (address, host) = (stoa.listeners().http, format!("{SERVED}.localhost"));
    let traffic = Traffic::start(address, &host, &format!("{SERVED}-0"), options.load)?;
    let mut outcome = Outcome {
        good: 0,
        bad: 0,
        gaps: 0,
        took: Duration::ZERO,
        report: Report::default(),
    };
    let mut serves_alone = false;
    for number in 1.. {
        if number > options.deploys && outcome.report.exchanges() >= options.exchanges {
            break;
        }
        let is_alone = number % RECREATE_EACH == RECREATE_AT;
        let way = if is_alone {
            "-recreate"
        } else {
            ROLLOUTS[usize::try_from(number)? % ROLLOUTS.len()]
        };
        // What runs alone makes a gap when it comes, and when it goes.
        let has_gap = is_alone || serves_alone;
        traffic.pace(if has_gap {
            options.load.share_of(HELD_LOAD_MAX)
        } else {
            FULL
        });
        let version = format!("{SERVED}-{number}{way}");
        if number.is_multiple_of(BAD_EACH) {
            let turn = usize::try_from(number / BAD_EACH)?;
            let bad = Operation::DeployBad {
                app: SERVED.to_owned(),
                version,
                how: BAD[turn % BAD.len()],
            };
            ensure!(!settle(&bad)?, "{bad} serves");
            outcome.bad += 1;
        } else {
            traffic.may(&version);
            ensure!(settle(&good(&version))?, "deploy {number} failed");
            traffic.only(&version);
            outcome.good += 1;
            serves_alone = is_alone;
        }
        outcome.gaps += u64::from(has_gap);
        outcome.report.add(traffic.take());
        if number.is_multiple_of(TOLD_EACH) {
            let (exchanges, faults) = (outcome.report.exchanges(), outcome.report.faults());
            println!("   {number} deploys, {exchanges} exchanges, {faults} not as they should be");
        }
    }
    outcome.report.add(traffic.stop());
    outcome.took = begin.elapsed();
    stoa.finish()?;
    Ok(outcome)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} good and {} bad deploys, {} of them with a gap, in {:.0} s",
            self.good,
            self.bad,
            self.gaps,
            self.took.as_secs_f64()
        )?;
        write!(f, "{}", self.report)
    }
}
