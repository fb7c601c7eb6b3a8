//! How long from asking for a database until it answers a query.
//!
//! Ours: the call to the API until the operation has succeeded and `stoa db connect` has answered a query. The peer
//! does what the entry point of `docker run postgres` does with the same binaries: initdb, a temporary server, create
//! the database, stop, start for good; without any container around it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use journeys::{ENVIRONMENT, PATIENCE, Stoa, until};
use serde_json::json;

use super::cluster::Cluster;
use super::{Figure, Pairs, Rounds, noise};

const GOAL: f64 = 0.125;

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let stoa = Stoa::start("bench-db")?;
    // The first one makes the template, as the first `docker run` of an image pulls it: not measured for either.
    ours(&stoa, "warm-up")?;
    let mut pairs = Pairs::default();
    noise::quiet_rounds(
        rounds,
        |round| {
            let name = format!("bench-{round}");
            if round % 2 == 0 {
                let ours = ours(&stoa, &name)?;
                Ok((ours, peer(stoa.root(), round)?))
            } else {
                let peer = peer(stoa.root(), round)?;
                Ok((ours(&stoa, &name)?, peer))
            }
        },
        |(ours, peer): (f64, f64)| pairs.add(ours, peer),
    )?;
    stoa.finish()?;
    Ok(vec![Figure {
        what: "database asked for to first answer".into(),
        peer: "initdb, temporary server, create, restart".into(),
        unit: "ms",
        pairs,
        goal: GOAL,
    }])
}

fn ours(stoa: &Stoa, name: &str) -> Result<f64> {
    let begin = Instant::now();
    stoa.api()?.done(
        "POST",
        &format!("{ENVIRONMENT}/databases"),
        Some(&json!({ "name": name })),
    )?;
    answers(stoa, name)?;
    let took = begin.elapsed();
    stoa.api()?
        .done("DELETE", &format!("{ENVIRONMENT}/databases/{name}"), None)?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Waits until a database of ours has answered a query.
pub(super) fn answers(stoa: &Stoa, name: &str) -> Result<()> {
    let query = [
        "db",
        "connect",
        "--no-terminal",
        name,
        "--",
        "-Atc",
        "SELECT 41 + 1",
    ];
    until("the database to answer", PATIENCE, || {
        let answer = stoa.cli(&query)?;
        Ok((answer.code == 0 && answer.stdout == "42\n").then_some(()))
    })
}

fn peer(root: &Path, round: usize) -> Result<f64> {
    let place = root.join(format!("peer-{round}"));
    let cluster = Cluster::prepare(&place)?;
    let begin = Instant::now();
    cluster.step(
        "initdb",
        &[
            "--username=postgres",
            "--pwfile",
            &cluster.path("password"),
            "--auth=scram-sha-256",
        ],
    )?;
    cluster.start(&[])?;
    cluster.sql("postgres", "CREATE DATABASE main")?;
    cluster.stop("fast")?;
    cluster.start_listening(&[])?;
    until("the peer to answer", PATIENCE, || {
        Ok(cluster.sql("main", "SELECT 41 + 1").ok())
    })?;
    let took = begin.elapsed();
    cluster.stop("immediate")?;
    fs::remove_dir_all(&place)?;
    Ok(took.as_secs_f64() * 1e3)
}
