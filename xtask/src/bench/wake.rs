//! How long a branch that sleeps lets somebody wait who connects, until it has answered his first query.
//!
//! Ours: psql, run as a program on the branch's network, is given the branch's usual address. The peer: the same PostgreSQL
//! with as many rows on the host, without any container around it, is started, and asked by psql from the moment it takes
//! connections. Both were ended cleanly before, and both answers must be right.

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use journeys::{PATIENCE, Stoa, holds, session};

use super::cluster::{BINARIES, Cluster, as_postgres};
use super::{Figure, Pairs, Rounds, noise};

/// The promise.
const GOAL: f64 = 2.0;
const ROWS: u64 = 100_000;
const COUNT: &str = "SELECT count(*) FROM filled";
/// Short, so that a round is.
const IDLE: &str = "1s";

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let fill = format!("CREATE TABLE filled AS SELECT id FROM generate_series(1, {ROWS}) id");
    let stoa = Stoa::start("bench-wake")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    stoa.cli(&["db", "connect", "--no-terminal", "main", "--", "-c", &fill])?
        .ok()?;
    stoa.cli(&["db", "branch", "main", "--as", "try", "--idle-stop", IDLE])?
        .ok()?;
    let plain = Cluster::init(&stoa.root().join("plain"))?;
    plain.start_listening(&[])?;
    plain.sql("postgres", &fill)?;
    plain.stop("fast")?;
    let mut pairs = Pairs::default();
    noise::quiet_rounds(
        rounds,
        |round| {
            let ours = || ours(&stoa);
            let peer = || peer(&plain);
            if round % 2 == 0 {
                let ours = ours()?;
                Ok((ours, peer()?))
            } else {
                let peer = peer()?;
                Ok((ours()?, peer))
            }
        },
        |(ours, peer)| pairs.add(ours, peer),
    )?;
    stoa.finish()?;
    Ok(vec![Figure {
        what: "first query of a branch that sleeps".into(),
        peer: "start of the server and first query".into(),
        unit: "ms",
        pairs,
        goal: GOAL,
    }])
}

fn ours(stoa: &Stoa) -> Result<f64> {
    holds("the branch to sleep", || {
        let shown = stoa.cli(&["db", "info", "try", "--json"])?.ok()?.json()?;
        Ok(shown["asleep_since"].is_string() && stoa.members("bin/postgres -D").len() == 1)
    })?;
    let mut psql = session::neighbour(stoa, "try")?;
    let asked = Instant::now();
    let answer = answer(&mut psql)?;
    let took = asked.elapsed();
    ensure!(answer == Some(ROWS.to_string()), "it answered {answer:?}");
    Ok(took.as_secs_f64() * 1e3)
}

fn peer(plain: &Cluster) -> Result<f64> {
    let (data, sockets) = (plain.path("data"), plain.place().display().to_string());
    let port = plain.port();
    let asked = Instant::now();
    let mut server = as_postgres(&format!("{BINARIES}/postgres"))
        .args(["-D", &data, "-k", &sockets, "-c", "listen_addresses=127.0.0.1"])
        .args(["-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(asked.elapsed() < PATIENCE, "it does not listen");
        thread::sleep(Duration::from_millis(1));
    }
    let place = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    // It may refuse while it still starts: asked again at once.
    let text = loop {
        let mut psql = Command::new(format!("{BINARIES}/psql"));
        if let Some(text) = answer(psql.args(["--no-psqlrc", "-qAt", "--dbname", &place]))? {
            break text;
        }
        ensure!(asked.elapsed() < PATIENCE, "it does not answer");
    };
    let took = asked.elapsed();
    ensure!(text == ROWS.to_string(), "the peer answered {text}");
    plain.stop("fast")?;
    server.wait()?;
    Ok(took.as_secs_f64() * 1e3)
}

/// What psql says, unless nobody takes it yet.
fn answer(psql: &mut Command) -> Result<Option<String>> {
    let output = psql.args(["-c", COUNT]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(output.status.success().then_some(text))
}
