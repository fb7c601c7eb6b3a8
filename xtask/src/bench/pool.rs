//! What the pool costs a database at work: transactions of pgbench on a database of Stoa's, and on the same PostgreSQL with
//! the same settings and limits on the host's file system.
//!
//! Both are spoken to by the same program over 127.0.0.1, four sessions of the usual transaction of pgbench, for the same
//! time in turn. Each begins behind a checkpoint. What is told is the time of one by the number of all. A database of Stoa's
//! has its log received, synced to the pool a second time: the peer is measured with such a receiver of its own, and without.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::{Stoa, damage, holds, session};

use super::cluster::{BINARIES, Cluster, as_postgres, folder};
use super::limits::Limits;
use super::{Figure, Pairs, Rounds, noise};

/// At least three quarters of the transactions in the same time.
const GOAL: f64 = 4.0 / 3.0;
/// Where the server is and who may speak to it is not the same; nothing else is left out.
const OF_THE_PLACE: [&str; 2] = ["listen_addresses", "unix_socket_directories"];
/// Compared when both run, whoever set them.
const THE_SAME: &str = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN \
    ('shared_buffers', 'max_wal_size', 'min_wal_size', 'wal_level', 'wal_buffers', 'wal_segment_size', 'wal_compression', \
     'fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'data_checksums', 'checkpoint_timeout', \
     'checkpoint_completion_target', 'max_connections', 'work_mem', 'autovacuum', 'jit', 'track_io_timing', \
     'synchronous_standby_names')";

/// How much is done.
struct Amount {
    scale: &'static str,
    seconds: &'static str,
}

/// About 300 MB, more than the memory of a usual database holds.
const USUAL: Amount = Amount {
    scale: "20",
    seconds: "20",
};
/// Enough to show that both sides are measured.
const SHORT: Amount = Amount {
    scale: "1",
    seconds: "2",
};

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let amount = if rounds.noise_counts { SHORT } else { USUAL };
    let stoa = Stoa::start("bench-pool")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    let server = session::server(&stoa)?;
    let limits = Limits::like(&server)?;
    let source = Cluster::init(&stoa.root().join("source"))?;
    source.configure(&settings(server.pid)?)?;
    source.start_listening(&[])?;
    limits.hold(source.pid()?)?;
    let all = (
        damage::as_root(&stoa, &[THE_SAME])?,
        source.sql("postgres", THE_SAME)?,
    );
    ensure!(all.0 == all.1, "other settings:\n{}\n{}", all.0, all.1);
    let (pool, host) = (
        file_system(&damage::newest(&stoa, "main", "db-")?.to_string_lossy())?,
        file_system(&source.path("data"))?,
    );

    let pgbench = format!("{BINARIES}/pgbench");
    let ours = || session::client(&stoa, "main", &pgbench);
    let peer = || source.client("pgbench");
    for mut command in [ours()?, peer()?] {
        said(command.args(["--initialize", "--quiet", "--scale", amount.scale]))?;
    }
    let (mut with, mut without) = (Pairs::default(), Pairs::default());
    noise::quiet_rounds(
        rounds,
        |round| {
            let ours = || {
                damage::as_root(&stoa, &["CHECKPOINT"])?;
                transaction_us(ours()?, amount.seconds)
            };
            let alone = || {
                source.sql("postgres", "CHECKPOINT")?;
                transaction_us(peer()?, amount.seconds)
            };
            let received = || {
                let _receiver = Receiver::start(&source, round)?;
                alone()
            };
            if round % 2 == 0 {
                let ours = ours()?;
                Ok((ours, received()?, alone()?))
            } else {
                let (alone, received) = (alone()?, received()?);
                Ok((ours()?, received, alone))
            }
        },
        |(ours, received, alone): (f64, f64, f64)| {
            with.add(ours, received);
            without.add(ours, alone);
        },
    )?;
    source.stop("immediate")?;
    drop(limits);
    stoa.finish()?;
    let figure = |peer: &str, pairs| Figure {
        what: format!("transaction of pgbench, time of all by their number, pool: {pool}"),
        peer: format!("on {host}, {peer}"),
        unit: "us",
        pairs,
        goal: GOAL,
    };
    Ok(vec![
        figure("its log received there", with),
        figure("without a receiver", without),
    ])
}

/// Receives the log of the peer as ours is received, from where it is now on.
struct Receiver {
    child: Child,
    place: PathBuf,
}

impl Receiver {
    fn start(source: &Cluster, round: usize) -> Result<Self> {
        let place = source.place().join(format!("received-{round}"));
        folder(&place)?;
        let child = as_postgres(&format!("{BINARIES}/pg_receivewal"))
            .args([
                "--synchronous",
                "--status-interval=5",
                "--no-password",
                "--directory",
            ])
            .arg(&place)
            .args(["--host=127.0.0.1", "--username=postgres", "--port"])
            .arg(source.running_port()?)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let receiver = Self { child, place };
        holds("a receiver of the peer", || {
            let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            Ok(source.sql("postgres", streaming)? == "1")
        })?;
        Ok(receiver)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        // It lies in the directory of the bench, which goes as well.
        let _removed = fs::remove_dir_all(&self.place);
    }
}

/// What our server was started with, as lines of a configuration.
fn settings(pid: i32) -> Result<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let words: Vec<&str> = line.split('\0').collect();
    let given = words.windows(2).filter(|pair| pair[0] == "-c");
    let mut text = String::new();
    for pair in given {
        let (name, value) = pair[1].split_once('=').context("a setting without a value")?;
        if !OF_THE_PLACE.contains(&name) {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
    }
    ensure!(!text.is_empty(), "our server has no settings: {line}");
    Ok(text)
}

/// What a directory lies on, in words.
fn file_system(path: &str) -> Result<String> {
    let mut command = Command::new("findmnt");
    let found = said(command.args(["--noheadings", "--output", "FSTYPE,SOURCE", "--target", path]))?;
    let (kind, source) = found.trim().split_once(' ').context("findmnt says nothing")?;
    let kind = match kind {
        "xfs" => "XFS",
        other => other,
    };
    Ok(match source.trim().starts_with("/dev/loop") {
        true => format!("{kind} in a file"),
        false => kind.to_owned(),
    })
}

fn transaction_us(mut pgbench: Command, seconds: &str) -> Result<f64> {
    let text = said(pgbench.args(["--no-vacuum", "--client=4", "--jobs=2", "--time", seconds]))?;
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    let rate: f64 = rate.with_context(|| format!("no rate: {text}"))?.parse()?;
    ensure!(
        text.contains("number of failed transactions: 0 "),
        "not all were done: {text}"
    );
    Ok(1e6 / rate)
}

fn said(command: &mut Command) -> Result<String> {
    let answer = command.output()?;
    ensure!(
        answer.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&answer.stderr)
    );
    Ok(String::from_utf8(answer.stdout)?)
}
