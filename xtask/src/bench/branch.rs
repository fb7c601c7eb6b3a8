//! How long from asking for a branch of a database until it answers a query: of what its last drill left, and of the
//! database as it runs.
//!
//! Ours: the call to the API until the operation has succeeded and `stoa db connect` has answered a query. The peer:
//! `pg_basebackup` of a cluster with the same rows and a start of the copy, without any container around it. All copies
//! must hold every row, which is looked at outside of what is timed.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, until};
use serde_json::json;

use super::cluster::Cluster;
use super::db::answers;
use super::{Figure, Pairs, Rounds, noise};

/// The promises for a branch of 1 to 3 GB.
const GOAL_LIVE: f64 = 0.125;
const GOAL_DRILLED: f64 = 0.02;
/// About 1 GB with their index.
const ROWS: u64 = 7_500_000;
/// Enough to show that both sides are measured.
const ROWS_SHORT: u64 = 200_000;
const COUNT: &str = "SELECT count(*) FROM filled";

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let rows = if rounds.noise_counts { ROWS_SHORT } else { ROWS };
    let fill = format!(
        "CREATE TABLE filled AS SELECT id, repeat('x', 84) AS filler FROM generate_series(1, {rows}) id; \
         ALTER TABLE filled ADD PRIMARY KEY (id)"
    );
    let stoa = Stoa::start("bench-branch")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    let connect = ["db", "connect", "--no-terminal", "main", "--", "-c", &fill];
    // A checkpoint is the superuser's to ask for: what is measured begins with little to flush on both sides.
    let flush = ["-c", "SET ROLE NONE", "-c", "CHECKPOINT"];
    stoa.cli(&[&connect[..], &flush].concat())?.ok()?;
    let source = Cluster::init(&stoa.root().join("source"))?;
    source.start(&[])?;
    source.sql("postgres", &fill)?;
    source.sql("postgres", "CHECKPOINT")?;

    // It waits for a base first, which has every row by now.
    stoa.cli(&["db", "backup", "main"])?.ok()?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;

    let (mut live, mut drilled) = (Pairs::default(), Pairs::default());
    noise::quiet_rounds(
        rounds,
        |round| {
            let copy = stoa.root().join(format!("copy-{round}"));
            let (one, other) = (format!("live-{round}"), format!("drilled-{round}"));
            let ours = || -> Result<(f64, f64)> {
                Ok((
                    ours(&stoa, &one, "live", rows)?,
                    ours(&stoa, &other, "drilled", rows)?,
                ))
            };
            if round % 2 == 0 {
                let ours = ours()?;
                Ok((ours, peer(&stoa.root().join("source"), &copy, rows)?))
            } else {
                let peer = peer(&stoa.root().join("source"), &copy, rows)?;
                Ok((ours()?, peer))
            }
        },
        |((ours_live, ours_drilled), peer): ((f64, f64), f64)| {
            live.add(ours_live, peer);
            drilled.add(ours_drilled, peer);
        },
    )?;
    source.stop("immediate")?;
    stoa.finish()?;
    let figure = |what: &str, pairs, goal| Figure {
        what: what.into(),
        peer: "pg_basebackup and start".into(),
        unit: "ms",
        pairs,
        goal,
    };
    Ok(vec![
        figure(
            "branch of what a drill left to first answer",
            drilled,
            GOAL_DRILLED,
        ),
        figure("branch of a live database to first answer", live, GOAL_LIVE),
    ])
}

fn ours(stoa: &Stoa, name: &str, from: &str, rows: u64) -> Result<f64> {
    let api = stoa.api()?;
    let begin = Instant::now();
    let path = format!("{ENVIRONMENT}/databases/main/branches");
    api.done(
        "POST",
        &path,
        Some(&json!({"name": name, "from": {"kind": from}})),
    )?;
    answers(stoa, name)?;
    let took = begin.elapsed();
    let counted = stoa
        .cli(&["db", "connect", "--no-terminal", name, "--", "-Atc", COUNT])?
        .ok()?;
    ensure!(
        counted.stdout.trim() == rows.to_string(),
        "the branch has {} rows",
        counted.stdout.trim()
    );
    api.done("DELETE", &format!("{ENVIRONMENT}/databases/{name}"), None)?;
    Ok(took.as_secs_f64() * 1e3)
}

fn peer(source: &Path, place: &Path, rows: u64) -> Result<f64> {
    let copy = Cluster::prepare(place)?;
    let (from, to) = (source.display().to_string(), copy.path("data"));
    let begin = Instant::now();
    copy.step(
        "pg_basebackup",
        &[
            "--checkpoint=fast",
            "--username=postgres",
            "--host",
            &from,
            "--pgdata",
            &to,
        ],
    )?;
    copy.start(&[])?;
    until("the peer to answer", PATIENCE, || {
        Ok(copy.sql("postgres", "SELECT 41 + 1").ok())
    })?;
    let took = begin.elapsed();
    let all_there = format!("SELECT 1 / (count(*) = {rows})::int FROM filled");
    copy.sql("postgres", &all_there)?;
    copy.stop("immediate")?;
    fs::remove_dir_all(place)?;
    Ok(took.as_secs_f64() * 1e3)
}
