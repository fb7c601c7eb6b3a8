//! How long from asking for a restore of everything until the new database answers a query with all of it.
//!
//! Ours: the call to the API until the operation has succeeded and `stoa db connect` has answered a query. The peer:
//! `pgbackrest restore` of the same rows and the same log into an empty directory, and a start, until it has replayed all
//! of the log and answers; without any container around it. Both must have every row and every later transaction, which is
//! looked at outside of what is timed. A drill passed before the log was written, as one does each day; what the restore says
//! that it will take is the peer of the second figure.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, until};
use serde_json::json;

use super::backrest::{self, Backrest};
use super::cluster::{Cluster, folder};
use super::db::answers;
use super::filled::{Filled, INDEX, TIDY};
use super::{Figure, Pairs, Rounds, noise};

const GOAL: f64 = 1.0 / 3.0;
/// What is said beforehand is kept within that.
const GOAL_SAID: f64 = 1.5;

/// As `bench branch` has.
const GIGABYTES: u64 = 3;
/// Of its volume.
const BUDGET: &str = "20Gi";
/// How much is restored.
struct Amount {
    filled: Filled,
    /// Written by small transactions after the base.
    log_bytes: u64,
}

/// Sixteen segments: a quarter of an hour at 300 KB a second.
const LOG_BYTES: u64 = 256 << 20;
/// Enough to show that both sides are measured.
const LOG_BYTES_SHORT: u64 = 24 << 20;
/// The same in every copy of the same state.
const STATE: &str =
    "SELECT count(*) || ' rows, ' || (SELECT count(*) FROM noted) || ' transactions' FROM filled";

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let amount = Amount {
        filled: Filled::of(rounds, GIGABYTES),
        log_bytes: if rounds.noise_counts {
            LOG_BYTES_SHORT
        } else {
            LOG_BYTES
        },
    };
    let stoa = Stoa::start("bench-restore")?;
    stoa.cli(&["db", "create", "main", "--size", BUDGET])?.ok()?;
    let source = Cluster::init(&stoa.root().join("source"))?;
    // Less to read than with its usual gzip, and faster.
    let backrest = Backrest::prepare(&stoa.root().join("backrest"), &source, "compress-type=lz4")?;
    source.start(&[])?;
    backrest.run(&["stanza-create"])?;

    let (fill, later) = (amount.fill(), amount.later());
    for text in &fill {
        in_main(&stoa, &["-c", text])?;
        source.sql("postgres", text)?;
    }
    // A checkpoint is the superuser's to ask for.
    in_main(&stoa, &["-c", "SET ROLE NONE", "-c", "CHECKPOINT"])?;
    stoa.cli(&["db", "backup", "main"])?.ok()?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    backrest.run(&["backup", "--type=full"])?;
    in_main(&stoa, &["-c", &later])?;
    source.sql("postgres", &later)?;
    backrest::archived(&source)?;
    let states = (in_main(&stoa, &["-c", STATE])?, source.sql("postgres", STATE)?);
    println!("   ours: {}; the peer: {}", states.0, states.1);

    let (mut pairs, mut said) = (Pairs::default(), Pairs::default());
    noise::quiet_rounds(
        rounds,
        |round| {
            let (name, copy) = (
                format!("restored-{round}"),
                stoa.root().join(format!("copy-{round}")),
            );
            if round % 2 == 0 {
                let ours = ours(&stoa, &name, &states.0)?;
                Ok((ours, peer(&backrest, &copy, &states.1)?))
            } else {
                let peer = peer(&backrest, &copy, &states.1)?;
                Ok((ours(&stoa, &name, &states.0)?, peer))
            }
        },
        |(ours, peer): (Ours, f64)| {
            pairs.add(ours.took_ms, peer);
            said.add(ours.took_ms, ours.said_ms);
        },
    )?;
    source.stop("immediate")?;
    stoa.finish()?;
    let size = amount.filled.size();
    let figure = |peer: &str, pairs, goal| Figure {
        what: format!("restore of everything to first answer, {size}"),
        peer: peer.into(),
        unit: "ms",
        pairs,
        goal,
    };
    Ok(vec![
        figure("pgbackrest restore and start", pairs, GOAL),
        figure("what it said that it would take", said, GOAL_SAID),
    ])
}

/// One restore.
struct Ours {
    took_ms: f64,
    /// Before it began.
    said_ms: f64,
}

impl Amount {
    fn fill(&self) -> [String; 4] {
        [
            self.filled.table(),
            INDEX.to_owned(),
            "CREATE TABLE noted (number bigint PRIMARY KEY)".to_owned(),
            // Else both would write other log.
            TIDY.to_owned(),
        ]
    }

    /// Small transactions all over the table, until so much log is written.
    fn later(&self) -> String {
        format!(
            "DO $$ DECLARE begun pg_lsn := pg_current_wal_lsn(); n bigint := 0; at bigint; BEGIN \
             WHILE pg_current_wal_lsn() - begun < {} LOOP \
             at := n * 7919 % {}; \
             UPDATE filled SET filler = repeat('y', 84) WHERE id BETWEEN at + 1 AND at + 50; \
             INSERT INTO noted VALUES (n); n := n + 1; COMMIT; \
             END LOOP; END $$",
            self.log_bytes,
            self.filled.rows - 50
        )
    }
}

fn in_main(stoa: &Stoa, arguments: &[&str]) -> Result<String> {
    in_database(stoa, "main", arguments)
}

fn in_database(stoa: &Stoa, name: &str, arguments: &[&str]) -> Result<String> {
    let head = ["db", "connect", "--no-terminal", name, "--", "-qAt"];
    let answer = stoa.cli(&[&head[..], arguments].concat())?.ok()?;
    Ok(answer.stdout.trim().to_owned())
}

fn ours(stoa: &Stoa, name: &str, state: &str) -> Result<Ours> {
    let api = stoa.api()?;
    let begin = Instant::now();
    let done = api.done(
        "POST",
        &format!("{ENVIRONMENT}/databases/main/restores"),
        Some(&json!({"name": name, "to": {"kind": "latest"}})),
    )?;
    answers(stoa, name)?;
    let took = begin.elapsed();
    let found = in_database(stoa, name, &["-c", STATE])?;
    ensure!(found == state, "restored: {found} instead of {state}");
    api.done("DELETE", &format!("{ENVIRONMENT}/databases/{name}"), None)?;
    let outcome = done["outcome"].as_str().context("no outcome")?;
    let mut words = outcome.split(' ').rev().skip_while(|word| *word != "were");
    let said = words
        .nth(2)
        .with_context(|| format!("nothing is said: {outcome}"))?;
    Ok(Ours {
        took_ms: took.as_secs_f64() * 1e3,
        said_ms: said.parse()?,
    })
}

fn peer(backrest: &Backrest, place: &Path, state: &str) -> Result<f64> {
    let copy = Cluster::prepare(place)?;
    folder(&place.join("data"))?;
    let to = format!("--pg1-path={}", copy.path("data"));
    let begin = Instant::now();
    backrest.run(&["restore", &to])?;
    copy.start(&["archive_mode=off"])?;
    until("the peer to have replayed all", PATIENCE, || {
        Ok(copy
            .sql("postgres", "SELECT pg_is_in_recovery()")
            .is_ok_and(|answer| answer == "f")
            .then_some(()))
    })?;
    let took = begin.elapsed();
    let found = copy.sql("postgres", STATE)?;
    ensure!(found == state, "the peer restored: {found} instead of {state}");
    copy.stop("immediate")?;
    fs::remove_dir_all(place)?;
    Ok(took.as_secs_f64() * 1e3)
}
