//! Another major version: a stopped copy of a cluster becomes one of that version, by the new version's own `pg_upgrade`.
//!
//! ```text
//! pgdata (old version, stopped) + work/upgraded (initdb of the new one) -> pg_upgrade --link -> upgraded is pgdata
//! ```
//! Lives here: that, and what is looked at when it is rehearsed.
//! Does not live here: making the copy, and the place it takes (`control`).
//! Invariant: only copies are changed; what `--link` shares with the former files is given up with them.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use engine::{Engine, LineSink, LogQuery, Workload};
use model::drill::{CheckKind, Outcome};
use model::{Exit, ImageDigest, Lsn, Millis, Resources, Shape};

use crate::branch::{FirstStart, RECOVERS_WITHIN, first_start};
use crate::cluster::{self, SOCKETS, USER, VOLUME_TARGET, program};
use crate::inside::Inside;
use crate::psql::{self, Psql};
use crate::template::{initdb, run_once, temporary, wait_end_while};
use crate::{DATABASE, DatabaseError, Place, archive, drill};

/// The program that does it, as a failure names it.
pub const PG_UPGRADE: &str = "pg_upgrade";
/// Beside the cluster, in its volume: what the new version makes before it takes the place.
const WORK: &str = "work";
const UPGRADED: &str = "upgraded";
/// What the new version needs of the former one and makes anew otherwise: who is let in, and what the platform has set.
const CARRIED: [&str; 2] = ["pg_hba.conf", "postgresql.auto.conf"];
/// What takes longer is stuck: the time goes with the number of tables, not with their size.
const UPGRADES_WITHIN: Duration = Duration::from_secs(3600);
/// How much of what it says is shown when it fails.
const LINES: usize = 30;

/// What is to be upgraded.
pub struct Upgrade<'a> {
    /// The volume of a copy, stopped cleanly.
    pub volume: &'a str,
    /// The image it ran from.
    pub from_image: &'a ImageDigest,
    /// Its major version.
    pub from: &'a str,
    /// The image with the version it is to have.
    pub image: &'a ImageDigest,
    /// That version.
    pub to: &'a str,
    /// Limits of its instance.
    pub resources: Resources,
}

/// What keeps a running cluster from another major version, asked before anything is copied.
///
/// # Errors
/// `Unfit` with what is in the way; when the server refuses.
pub fn fit_for_upgrade(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let asked = psql.run("postgres", IN_THE_WAY)?;
    match asked.lines().find(|line| !line.is_empty()) {
        None => Ok(()),
        Some(why) => Err(DatabaseError::Unfit { why: why.to_owned() }),
    }
}

/// What would be lost on the way, or stop it.
const IN_THE_WAY: &str = "\
SELECT 'it has subscriptions, which an upgrade does not carry over; drop them first, and make them anew afterwards'
  WHERE EXISTS (SELECT FROM pg_subscription)
UNION ALL SELECT 'it has tablespaces, which lie outside of its volume; drop them first'
  WHERE EXISTS (SELECT FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global'))
UNION ALL SELECT format('it has a prepared transaction, %s; commit it or roll it back first', gid) FROM pg_prepared_xacts;
";

/// Writes what would be written when the server ends, so that its end is short. Says how far its log is.
///
/// # Errors
/// When the server refuses.
pub fn make_ready_to_end(psql: Psql<'_>) -> Result<Lsn, DatabaseError> {
    let printed = psql.run("postgres", "CHECKPOINT;\nSELECT pg_current_wal_lsn();\n")?;
    printed.trim().parse().map_err(|_| DatabaseError::Program {
        program: "psql",
        output: format!("it does not tell where the log is: {}", printed.trim()),
    })
}

/// Makes the copy one of the new version, with an identifier of its own.
///
/// # Errors
/// When one of the programs refuses, with what it said; the volume is of no use then.
pub fn upgrade(
    engine: &dyn Engine,
    [first, second]: [Place; 2],
    upgrade: &Upgrade<'_>,
    is_wanted: &dyn Fn() -> bool,
    lines: LineSink<'_>,
) -> Result<(), DatabaseError> {
    let both = engine.combine_images(upgrade.from_image, upgrade.image)?;
    let volume = open(engine, upgrade.volume)?;
    // Whoever runs the new version may have another number than who ran the former one, and is not known yet.
    let work = volume
        .make_open_directory(WORK)
        .map_err(DatabaseError::file(WORK))?;
    let made = format!("{VOLUME_TARGET}/{WORK}/{UPGRADED}");
    let run = |place: &Place, command: &[&str]| Workload {
        resources: upgrade.resources,
        workdir: Some(format!("{VOLUME_TARGET}/{WORK}")),
        network: String::new(),
        ..temporary(place, &both, upgrade.to, upgrade.volume, command)
    };
    let program_of = |name| program(upgrade.to, name);
    let (init, upgrades) = (program_of("initdb"), program_of(PG_UPGRADE));
    run_once(engine, run(&first, &initdb(&init, &made)), "initdb", is_wanted)?;
    give(&volume, &work).map_err(DatabaseError::file("pgdata"))?;
    let (old, new) = (program(upgrade.from, ""), program_of(""));
    let command = [
        upgrades.as_str(),
        "--link",
        "--old-bindir",
        old.trim_end_matches('/'),
        "--new-bindir",
        new.trim_end_matches('/'),
        "--old-datadir",
        cluster::PGDATA,
        "--new-datadir",
        &made,
        "--socketdir",
        SOCKETS,
        "--username",
        USER,
    ];
    let workload = run(&second, &command);
    engine.ensure(&workload)?;
    let ended = wait_end_while(engine, workload.id, (PG_UPGRADE, UPGRADES_WITHIN), is_wanted);
    let said = said(engine, &workload);
    engine.remove(workload.id)?;
    if ended? != (Exit::Code { code: 0 }) {
        let details = details(&work);
        for line in said.iter().chain(&details) {
            lines(line);
        }
        // What is in the way stands in a file; what the program prints only names that file.
        let output = match details.as_slice() {
            [] => last_words(&said),
            found => found.join("; "),
        };
        return Err(DatabaseError::Program {
            program: PG_UPGRADE,
            output,
        });
    }
    put_in_place(&volume, &work).map_err(DatabaseError::file("pgdata"))
}

fn open(engine: &dyn Engine, volume: &str) -> Result<Inside, DatabaseError> {
    Inside::volume(&engine.volume_path(volume)?).map_err(DatabaseError::file(WORK))
}

/// The former cluster becomes his who made the new one.
fn give(volume: &Inside, work: &Inside) -> std::io::Result<()> {
    let of = |dir: &Inside| dir.as_file().metadata().map(|found| (found.uid(), found.gid()));
    let (old, new) = (volume.below("pgdata")?, of(&work.below(UPGRADED)?)?);
    if of(&old)? == new {
        return Ok(());
    }
    old.give(new)?;
    volume.give_itself(new)
}

fn put_in_place(volume: &Inside, work: &Inside) -> std::io::Result<()> {
    let (old, new) = (volume.below("pgdata")?, work.below(UPGRADED)?);
    for name in CARRIED {
        let mut content = Vec::new();
        old.read(name)?.read_to_end(&mut content)?;
        new.put(name, &content)?;
    }
    new.sync()?;
    volume.remove_directory("pgdata")?;
    volume.take(work, UPGRADED, "pgdata")?;
    volume.remove_directory(WORK)?;
    volume.sync()
}

fn said(engine: &dyn Engine, workload: &Workload) -> Vec<String> {
    let query = LogQuery {
        key: workload.log_key.clone(),
        instance: Some(workload.id),
        limit: LINES,
        ..LogQuery::default()
    };
    let said = engine.logs(&query).unwrap_or_default().into_iter();
    said.map(|line| line.text.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn last_words(said: &[String]) -> String {
    /// The reason and what to do about it.
    const LAST: usize = 4;
    said[said.len().saturating_sub(LAST)..].join(" / ")
}

/// What it wrote into files about what is in the way: lists of it, and errors of the programs that it runs.
fn details(work: &Inside) -> Vec<String> {
    let found = || -> std::io::Result<Vec<String>> {
        let all = work.below(UPGRADED)?.below("pg_upgrade_output.d")?;
        let mut lines = Vec::new();
        for (run, _) in all.list()? {
            let run = all.below(&run)?;
            collect(&run, &|name| name.ends_with(".txt"), &|_| true, &mut lines)?;
            let is_error = |line: &str| line.contains("error: ") || line.contains("FATAL: ");
            collect(&run.below("log")?, &|_| true, &is_error, &mut lines)?;
        }
        lines.truncate(LINES);
        Ok(lines)
    };
    found().unwrap_or_default()
}

/// The lines of some files of a directory that are wanted.
fn collect(
    directory: &Inside,
    is_read: &dyn Fn(&str) -> bool,
    is_wanted: &dyn Fn(&str) -> bool,
    lines: &mut Vec<String>,
) -> std::io::Result<()> {
    /// Far more than any reason, and little enough to be held.
    const MOST: u64 = 1 << 20;
    for (name, is_directory) in directory.list()? {
        if is_directory || !is_read(&name) {
            continue;
        }
        let mut text = Vec::new();
        directory.read(&name)?.take(MOST).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let found = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && is_wanted(line));
        lines.extend(found.map(str::to_owned));
    }
    Ok(())
}

/// What came of a rehearsal.
#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// From the start of the server until it answered.
    pub start: Millis,
    /// What was looked at: `Failed` tells that the new version must not serve this.
    pub soundness: (Outcome, String),
}

/// Starts the upgraded copy, on no network, and looks at all its tables and indexes; then it is of no more use.
///
/// # Errors
/// When it does not start.
pub fn look_at_upgraded(
    engine: &dyn Engine,
    mut place: Place,
    upgrade: &Upgrade<'_>,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Rehearsed, DatabaseError> {
    place.network.clear();
    let begun = Instant::now();
    let start = FirstStart {
        place: &place,
        image: upgrade.image,
        version: upgrade.to,
        volume: upgrade.volume,
        resources: upgrade.resources,
        command: cluster::alone(upgrade.to, upgrade.resources),
        hostname: "rehearsal",
        within: RECOVERS_WITHIN,
        is_wanted,
        shape: &Shape::default(),
    };
    first_start(engine, &start, &|_| {}, |psql| {
        let start = drill::millis(begun.elapsed());
        psql.run(DATABASE, "SELECT 1;\n")?;
        let check = drill::timed(CheckKind::Amcheck, || drill::amcheck(psql, upgrade.to));
        Ok(Rehearsed {
            start,
            soundness: (check.outcome, check.said),
        })
    })
}

/// A server that took over the settings of another one: it may write, and no commit waits for a receiver.
///
/// # Errors
/// When the server refuses.
pub fn set_free(psql: Psql<'_>) -> Result<(), DatabaseError> {
    psql::write_again(psql)?;
    archive::release_commits(psql)
}

/// Has every table looked at: the planner's statistics are made where the upgrade brought none, and the server knows again how
/// many rows there are. A table that somebody holds is left out.
///
/// # Errors
/// When the server refuses, or it takes too long.
pub fn make_statistics(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let databases = psql.run_soon(
        "postgres",
        "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1;\n",
    )?;
    let mut outcome = Ok(());
    for name in databases.lines().filter(|name| !name.is_empty()) {
        // One that fails keeps no other from it.
        if let Err(cause) = count(psql, name) {
            outcome = Err(cause);
        }
    }
    outcome
}

/// Bounds that a database sets for its sessions are for its sessions.
const COUNT: &str = "SELECT set_config(name, '0', false) FROM pg_settings
  WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout');
ANALYZE (SKIP_LOCKED);
";

fn count(psql: Psql<'_>, database: &str) -> Result<(), DatabaseError> {
    let exec = psql::quiet(&psql::named(database));
    let streams = psql.engine.exec(psql.instance, &exec)?;
    let said = psql::hear("ANALYZE", streams, COUNT, Some(COUNTS_WITHIN))?;
    match said.code {
        0 => Ok(()),
        _other => Err(DatabaseError::Program {
            program: "ANALYZE",
            output: said.complaint.lines().last().unwrap_or("no message").to_owned(),
        }),
    }
}

/// Of each database; meanwhile nothing else can be done to it.
const COUNTS_WITHIN: Duration = Duration::from_secs(60);
