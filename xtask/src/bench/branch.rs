//! How long from asking for a branch of a database until it answers a query: of what its last drill left, and of the
//! database as it runs; what it takes of the disk then; and what a writer on its parent notices.
//!
//! Ours: the call to the API until the operation has succeeded and `stoa db connect` has answered a query. The peer:
//! `pg_basebackup` of a cluster with the same rows and a start of the copy, without any container around it. All copies
//! must hold every row, which is looked at outside of what is timed. The writer is one session that is to write a row each
//! 5 ms; it works during copies of their own, so that it does not lengthen those that are timed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::session::{self, Beat};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, damage, until};
use serde_json::json;

use super::cluster::Cluster;
use super::db::answers;
use super::filled::{COUNT, Filled, INDEX, TIDY};
use super::{Figure, Pairs, Rounds, noise, space};

/// The promises.
const GOAL_LIVE: f64 = 0.125;
const GOAL_DRILLED: f64 = 0.02;
/// Of its parent.
const GOAL_SPACE: f64 = 0.05;
/// What the 99th of 100 writes may take, beside that of the peer's.
const GOAL_DISTURBED: f64 = 0.2;
/// Writes a second on the parent.
const RATE: u32 = 200;
/// The writer is at its usual pace by then.
const WARM: Duration = Duration::from_secs(1);
/// The promises are for 1 to 3.
const GIGABYTES: u64 = 3;
/// Of the volume of so much, with its log.
const BUDGET: &str = "40Gi";

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let filled = Filled::of(rounds, GIGABYTES);
    let rows = filled.rows;
    let stoa = Stoa::start("bench-branch")?;
    drilled(&stoa, "main", filled)?;
    let source = Cluster::init(&stoa.root().join("source"))?;
    source.start_listening(&[])?;
    for text in [&filled.table(), INDEX, TIDY, Beat::TABLE, "CHECKPOINT"] {
        source.sql("postgres", text)?;
    }
    let parent = damage::newest(&stoa, "main", "db-")?;

    let mut all: [Pairs; 5] = Default::default();
    noise::quiet_rounds(
        rounds,
        |round| {
            let copy = stoa.root().join(format!("copy-{round}"));
            let ours = || -> Result<Ours> {
                let taken = |kind: &str| -> Result<(Copied, u64)> {
                    let (name, mut private_bytes) = (format!("{kind}-{round}"), 0);
                    let copied = ours(&stoa, "main", &name, kind, rows, || {
                        private_bytes = space::private_bytes(&damage::newest(&stoa, &name, "db-")?)?;
                        Ok(())
                    })?;
                    Ok((copied, private_bytes))
                };
                Ok(Ours {
                    drilled: taken("drilled")?,
                    live: taken("live")?,
                    disturbed_ms: disturbed(session::client(&stoa, "main", session::PSQL)?, || {
                        ours(&stoa, "main", &format!("disturbs-{round}"), "live", rows, || {
                            Ok(())
                        })
                    })?,
                    parent_bytes: space::cluster_bytes(&parent)?,
                })
            };
            let peer = || -> Result<(f64, f64)> {
                let took = peer(&source, &copy, rows)?.took_ms();
                let disturbed_ms = disturbed(source.client("psql")?, || peer(&source, &copy, rows))?;
                Ok((took, disturbed_ms))
            };
            if round % 2 == 0 {
                let ours = ours()?;
                Ok((ours, peer()?))
            } else {
                let peer = peer()?;
                Ok((ours()?, peer))
            }
        },
        |(ours, (took_ms, disturbed_ms)): (Ours, (f64, f64))| {
            #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
            let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let samples = [
                (ours.drilled.0.took_ms(), took_ms),
                (ours.live.0.took_ms(), took_ms),
                (mebibytes(ours.drilled.1), mebibytes(ours.parent_bytes)),
                (mebibytes(ours.live.1), mebibytes(ours.parent_bytes)),
                (ours.disturbed_ms, disturbed_ms),
            ];
            for (pairs, (ours, peer)) in all.iter_mut().zip(samples) {
                pairs.add(ours, peer);
            }
        },
    )?;
    source.stop("immediate")?;
    stoa.finish()?;
    let [drilled, live, space_drilled, space_live, disturbed] = all;
    let size = filled.size();
    let figure = |what: &str, peer: &str, unit, pairs, goal| Figure {
        what: format!("{what}, {size}"),
        peer: peer.into(),
        unit,
        pairs,
        goal,
    };
    let copied = "pg_basebackup and start";
    Ok(vec![
        figure(
            "branch of what a drill left to first answer",
            copied,
            "ms",
            drilled,
            GOAL_DRILLED,
        ),
        figure(
            "branch of a live database to first answer",
            copied,
            "ms",
            live,
            GOAL_LIVE,
        ),
        figure(
            "what a branch of what a drill left holds alone when it answers",
            "its parent without log",
            "MiB",
            space_drilled,
            GOAL_SPACE,
        ),
        figure(
            "what a branch of a live database holds alone when it answers",
            "its parent without log",
            "MiB",
            space_live,
            GOAL_SPACE,
        ),
        figure(
            "write on the parent meanwhile, p99",
            copied,
            "ms",
            disturbed,
            GOAL_DISTURBED,
        ),
    ])
}

/// One round of ours: copies, and what only they held when they answered.
struct Ours {
    drilled: (Copied, u64),
    live: (Copied, u64),
    disturbed_ms: f64,
    parent_bytes: u64,
}

/// A copy that was made.
pub(super) struct Copied {
    asked: Instant,
    answered: Instant,
}

impl Copied {
    pub(super) fn took_ms(&self) -> f64 {
        self.answered.duration_since(self.asked).as_secs_f64() * 1e3
    }
}

/// What 99 of 100 writes on the parent took at most while a copy was made, in milliseconds.
fn disturbed(psql: Command, copy: impl FnOnce() -> Result<Copied>) -> Result<f64> {
    let beat = Beat::start(psql, RATE)?;
    thread::sleep(WARM);
    let copied = copy();
    let writes = beat.end()?;
    let copied = copied?;
    session::p99(&writes, copied.asked, copied.answered).context("nothing was written meanwhile")
}

/// Makes a database, fills it, and has a drill of it leave a copy with every row.
pub(super) fn drilled(stoa: &Stoa, name: &str, filled: Filled) -> Result<()> {
    stoa.cli(&["db", "create", name, "--size", BUDGET])?.ok()?;
    let table = filled.table();
    let head = ["db", "connect", "--no-terminal", name, "--"];
    let fill = ["-c", &table, "-c", INDEX, "-c", TIDY, "-c", Beat::TABLE];
    // A checkpoint is the superuser's to ask for: what is measured begins with little to flush on both sides.
    let flush = ["-c", "SET ROLE NONE", "-c", "CHECKPOINT"];
    stoa.cli(&[&head[..], &fill, &flush].concat())?.ok()?;
    // A drill waits for a base, which has every row by then.
    stoa.cli(&["db", "backup", name])?.ok()?;
    stoa.cli(&["db", "drill", name])?.ok()?;
    Ok(())
}

pub(super) fn ours(
    stoa: &Stoa,
    parent: &str,
    name: &str,
    from: &str,
    rows: u64,
    when_it_answers: impl FnOnce() -> Result<()>,
) -> Result<Copied> {
    let api = stoa.api()?;
    let asked = Instant::now();
    let path = format!("{ENVIRONMENT}/databases/{parent}/branches");
    api.done(
        "POST",
        &path,
        Some(&json!({"name": name, "from": {"kind": from}})),
    )?;
    answers(stoa, name)?;
    let answered = Instant::now();
    when_it_answers()?;
    let counted = stoa
        .cli(&["db", "connect", "--no-terminal", name, "--", "-Atc", COUNT])?
        .ok()?;
    ensure!(
        counted.stdout.trim() == rows.to_string(),
        "the branch has {} rows",
        counted.stdout.trim()
    );
    api.done("DELETE", &format!("{ENVIRONMENT}/databases/{name}"), None)?;
    Ok(Copied { asked, answered })
}

fn peer(source: &Cluster, place: &Path, rows: u64) -> Result<Copied> {
    let copy = Cluster::prepare(place)?;
    let (from, to) = (source.place().display().to_string(), copy.path("data"));
    let asked = Instant::now();
    copy.step(
        "pg_basebackup",
        &[
            "--checkpoint=fast",
            "--username=postgres",
            "--host",
            &from,
            "--port",
            &source.running_port()?,
            "--pgdata",
            &to,
        ],
    )?;
    copy.start(&[])?;
    until("the peer to answer", PATIENCE, || {
        Ok(copy.sql("postgres", "SELECT 41 + 1").ok())
    })?;
    let answered = Instant::now();
    let all_there = format!("SELECT 1 / (count(*) = {rows})::int FROM filled");
    copy.sql("postgres", &all_there)?;
    copy.stop("immediate")?;
    fs::remove_dir_all(place)?;
    Ok(Copied { asked, answered })
}
