//! What a database loses when everything of it dies at once and its data directory is gone: server and receiver are killed
//! together under writers, and it is restored from its base and its archive.
//!
//! Lives here: the trials and their verdict. Does not live here: how a restore is done.
//! Invariants: a row counts as acknowledged only when its writer read so before the kill began; writers reach the server
//! without control between them, and control stands still from before the kill until the directory is gone, so that nothing
//! is started again on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::Chance;
use crate::process::Process;
use crate::{PATIENCE, Stoa, holds, session, until};

const WRITERS: u64 = 4;
/// What is killed while it still begins shows nothing.
const WRITES_AT_LEAST: Duration = Duration::from_millis(700);
const KILL_WITHIN_MS: u64 = 2000;
/// Ended databases keep their volumes for days: after that many trials another Stoa begins.
const TRIALS_EACH: u64 = 32;

/// The level whose promise is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Commits wait for nobody.
    Stream,
    /// Each waits until it is received.
    Sync,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Sync => "sync",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many trials.
    pub trials: u64,
    /// Of which level.
    pub level: Level,
    /// Where the moments come from.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    options: Options,
    trials: u64,
    took: Duration,
    acknowledged: usize,
    /// Rows that were acknowledged and did not come back.
    pub lost: usize,
    /// Of each trial: how old its oldest lost row was when everything died.
    ages: Vec<Duration>,
    restores: Vec<Duration>,
    /// Trials in which a row came back without one that its writer wrote before.
    pub holes: Vec<String>,
}

impl Outcome {
    /// How old the oldest lost row was, at the worst of a hundred trials.
    #[must_use]
    pub fn rpo_p99(&self) -> Duration {
        at(&self.ages, 99)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hit = self.ages.iter().filter(|age| !age.is_zero()).count();
        let ms = |times: &[Duration], percent| at(times, percent).as_millis();
        write!(
            f,
            "level {}, seed {}: {} trials in {:.0} s; {} rows acknowledged, {} lost in {hit} trials, {} trials with a hole; \
             oldest lost row p50 {} ms, p99 {} ms, worst {} ms; restored in p50 {} ms, p99 {} ms",
            self.options.level.as_str(),
            self.options.seed,
            self.trials,
            self.took.as_secs_f64(),
            self.acknowledged,
            self.lost,
            self.holes.len(),
            ms(&self.ages, 50),
            ms(&self.ages, 99),
            ms(&self.ages, 100),
            ms(&self.restores, 50),
            ms(&self.restores, 99),
        )
    }
}

/// The smallest of them that so many percent do not exceed.
fn at(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

/// Runs the trials.
///
/// # Errors
/// When Stoa does not come up, or a database cannot be made or restored.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let mut outcome = Outcome {
        options,
        trials: 0,
        took: Duration::ZERO,
        acknowledged: 0,
        lost: 0,
        ages: Vec::new(),
        restores: Vec::new(),
        holes: Vec::new(),
    };
    while outcome.trials < options.trials {
        let stoa = Stoa::start(&format!("soak-rpo-{}", options.level.as_str()))?;
        let until = options.trials.min(outcome.trials + TRIALS_EACH);
        for number in outcome.trials + 1..=until {
            let found = trial(&stoa, number, options)
                .with_context(|| format!("trial {number} of seed {}", options.seed))?;
            println!("trial {number}: {found}");
            outcome.acknowledged += found.acknowledged;
            outcome.lost += found.lost;
            outcome.ages.push(found.oldest);
            outcome.restores.push(found.restored);
            if !found.is_whole {
                outcome.holes.push(format!("trial {number}: {found}"));
            }
            outcome.trials = number;
        }
        stoa.finish()?;
    }
    outcome.took = begin.elapsed();
    Ok(outcome)
}

/// What one trial found.
struct Found {
    acknowledged: usize,
    lost: usize,
    oldest: Duration,
    restored: Duration,
    is_whole: bool,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} lost, the oldest {} ms old, restored in {} ms{}",
            self.acknowledged,
            self.lost,
            self.oldest.as_millis(),
            self.restored.as_millis(),
            if self.is_whole { "" } else { ", WITH A HOLE" }
        )
    }
}

fn trial(stoa: &Stoa, number: u64, options: Options) -> Result<Found> {
    let mut chance = Chance::of(options.seed, number);
    let (name, back) = (format!("t{number}"), format!("back{number}"));
    prepare(stoa, &name, options.level)?;
    let writers = (0..WRITERS)
        .map(|writer| Writer::start(stoa, &name, writer))
        .collect::<Result<Vec<_>>>()?;
    thread::sleep(WRITES_AT_LEAST + Duration::from_millis(chance.below(KILL_WITHIN_MS)));
    let killed = kill_all(stoa, &name, &mut chance)?;
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.end(killed)?);
    }
    ensure!(
        acknowledged.len() > 20,
        "only {} rows were acknowledged",
        acknowledged.len()
    );
    let begin = Instant::now();
    stoa.cli(&["db", "restore", &name, "--as", &back, "--latest"])?
        .ok()?;
    let restored = begin.elapsed();
    let rows = rows(stoa, &back)?;
    let is_lost = |(row, _): &(&Row, &Instant)| !rows.contains(row);
    let lost: Vec<Instant> = acknowledged.iter().filter(is_lost).map(|(_, at)| *at).collect();
    let oldest = lost.iter().map(|at| killed.duration_since(*at)).max();
    for name in [&name, &back] {
        stoa.cli(&["db", "destroy", name, "--confirm", name])?.ok()?;
    }
    Ok(Found {
        acknowledged: acknowledged.len(),
        lost: lost.len(),
        oldest: oldest.unwrap_or_default(),
        restored,
        is_whole: is_whole(&rows),
    })
}

/// A writer, and its count.
type Row = (u64, u64);

/// Whether each writer's rows are all up to its last.
fn is_whole(rows: &BTreeSet<Row>) -> bool {
    (0..WRITERS).all(|writer| {
        let mine = rows.range((writer, 0)..(writer + 1, 0));
        mine.enumerate().all(|(index, (_, count))| *count == index as u64)
    })
}

fn prepare(stoa: &Stoa, name: &str, level: Level) -> Result<()> {
    stoa.cli(&["db", "create", name, "--backup-level", level.as_str()])?
        .ok()?;
    query(
        stoa,
        name,
        "CREATE TABLE rows (writer int, count int, filler text, PRIMARY KEY (writer, count))",
    )?;
    holds("a base with its log, and the level", || {
        let found = stoa.cli(&["db", "backups", name, "--json"])?.ok()?.json()?;
        let shown = stoa.cli(&["db", "info", name, "--json"])?.ok()?.json()?;
        Ok(found["receiving"] == true
            && found["windows"].as_array().is_some_and(|all| !all.is_empty())
            && shown["backup_level"]["effective"] == level.as_str())
    })
}

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-qAtc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

fn rows(stoa: &Stoa, database: &str) -> Result<BTreeSet<Row>> {
    let text = query(stoa, database, "SELECT writer, count FROM rows")?;
    text.lines()
        .map(|line| {
            let (writer, count) = line.split_once('|').context("not two columns")?;
            Ok((writer.parse()?, count.parse()?))
        })
        .collect()
}

/// One session that writes row after row, each when the one before was acknowledged.
struct Writer {
    child: Child,
    reading: JoinHandle<Vec<(Row, Instant)>>,
}

impl Writer {
    fn start(stoa: &Stoa, database: &str, number: u64) -> Result<Self> {
        let mut child = session::client(stoa, database, session::PSQL)?
            .args(["--no-psqlrc", "-qAt", "--set", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start psql")?;
        let mut input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        let reading = thread::spawn(move || {
            let mut acknowledged = Vec::new();
            let mut lines = BufReader::new(output).lines();
            for count in 0.. {
                let insert = format!(
                    "INSERT INTO rows VALUES ({number}, {count}, repeat('x', 200)) RETURNING count;\n"
                );
                let is_said = input.write_all(insert.as_bytes()).is_ok();
                match lines.next() {
                    Some(Ok(line)) if is_said && line == count.to_string() => {
                        acknowledged.push(((number, count), Instant::now()));
                    }
                    Some(_) | None => break,
                }
            }
            acknowledged
        });
        Ok(Self { child, reading })
    }

    /// What was acknowledged before that moment.
    fn end(mut self, killed: Instant) -> Result<Vec<(Row, Instant)>> {
        // Its server is gone, so it ends by itself or has nobody to speak with any more.
        let _ended_already = self.child.kill();
        self.child.wait()?;
        let Ok(mut acknowledged) = self.reading.join() else {
            bail!("a writer panicked");
        };
        acknowledged.retain(|(_, at)| *at < killed);
        Ok(acknowledged)
    }
}

/// Kills all processes of the database and of its receiver at once and takes the data directory away, with control standing
/// still meanwhile; when it began.
fn kill_all(stoa: &Stoa, name: &str, chance: &mut Chance) -> Result<Instant> {
    let directory = directory(stoa, name)?;
    let control = stoa.part("control")?;
    control.signal(libc::SIGSTOP)?;
    let done = (|| {
        // Programs of PostgreSQL alone lie in directories of that name: the server's, and the receiver.
        let mut victims = stoa.members("postgres");
        ensure!(
            victims.iter().any(|victim| victim.line.contains("pg_receivewal"))
                && victims
                    .iter()
                    .any(|victim| victim.line.contains("bin/postgres -D")),
            "not all of it runs: {victims:?}"
        );
        for place in (1..victims.len()).rev() {
            let other = usize::try_from(chance.below(place as u64 + 1)).unwrap_or_default();
            victims.swap(place, other);
        }
        let killed = Instant::now();
        for victim in &victims {
            // A child of the server may have ended with it.
            let _gone = victim.signal(libc::SIGKILL);
        }
        until("all of it to be dead", PATIENCE, || {
            Ok((!victims.iter().any(Process::is_alive)).then_some(()))
        })?;
        fs::remove_dir_all(&directory)
            .with_context(|| format!("could not remove {}", directory.display()))?;
        Ok(killed)
    })();
    control.signal(libc::SIGCONT)?;
    done
}

/// The data directory of a database on the host.
fn directory(stoa: &Stoa, name: &str) -> Result<PathBuf> {
    let shown = stoa.cli(&["db", "info", name, "--json"])?.ok()?.json()?;
    let id = shown["id"].as_str().context("no id")?;
    let volume = format!("db-{}", id.trim_start_matches("db_").to_ascii_lowercase());
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    [pool.join("volumes"), pool.join("mnt/volumes")]
        .iter()
        .map(|place| place.join(&volume).join("pgdata"))
        .find(|path| path.is_dir())
        .with_context(|| format!("no volume {volume}"))
}
