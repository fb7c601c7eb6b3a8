//! Drills: a backup that brings its database back protects it; each damage that a backup can have is caught, and the check
//! that caught it is named; a kill of control in the middle changes nothing.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::Value;

/// As the server's own superuser.
fn as_root(stoa: &Stoa, statements: &[&str]) -> Result<String> {
    let head = [
        "db",
        "connect",
        "--no-terminal",
        "main",
        "--",
        "-qAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        "SET ROLE NONE",
    ];
    let rest = statements.iter().flat_map(|statement| ["-c", *statement]);
    let words: Vec<&str> = head.into_iter().chain(rest).collect();
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

fn last(stoa: &Stoa) -> Result<Value> {
    stoa.cli(&["db", "drills", "main", "last", "--json"])?
        .ok()?
        .json()
}

/// The checks of the last drill that failed.
fn failed(drill: &Value) -> Vec<&str> {
    let checks = drill["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_failed = checks.iter().filter(|check| check["result"] == "failed");
    is_failed.filter_map(|check| check["check"].as_str()).collect()
}

fn protection(stoa: &Stoa) -> Result<Value> {
    let shown = stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()?;
    Ok(shown["protection"].clone())
}

/// The volumes of `main` whose names begin so, in order.
fn volumes(stoa: &Stoa, prefix: &str) -> Result<Vec<PathBuf>> {
    let shown = stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()?;
    let id = shown["id"].as_str().context("no id")?;
    let short = id.trim_start_matches("db_").to_ascii_lowercase();
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let entries = places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten();
    let is_mine = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with(prefix) && name.contains(&short))
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_mine)
        .collect();
    found.sort();
    Ok(found)
}

fn newest(stoa: &Stoa, prefix: &str) -> Result<PathBuf> {
    volumes(stoa, prefix)?
        .pop()
        .with_context(|| format!("no volume {prefix}"))
}

/// A database with a table and an index that nobody touches, and a base behind that.
fn prepare(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "create", "main"])?.ok()?;
    as_root(
        stoa,
        &[
            "CREATE TABLE cold (id int, note text) WITH (autovacuum_enabled = off)",
            "INSERT INTO cold SELECT n, repeat('x', 100) || n FROM generate_series(1, 20000) n",
            "CREATE INDEX cold_note ON cold (note)",
            "CREATE TABLE warm (id bigserial PRIMARY KEY, note text)",
            "VACUUM (FREEZE, ANALYZE) cold",
            "CHECKPOINT",
        ],
    )?;
    // The first is taken by itself: of two bases the newest counts.
    holds("a base", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["bases"].as_array().is_some_and(|bases| !bases.is_empty()))
    })?;
    let taken = stoa.cli(&["db", "backup", "main"])?.ok()?.says("is taken")?;
    println!("{}{}", taken.stdout, taken.stderr);
    write(stoa)
}

/// Log over three segments.
fn write(stoa: &Stoa) -> Result<()> {
    for _ in 0..3 {
        as_root(
            stoa,
            &[
                "INSERT INTO warm (note) SELECT 'n' || n FROM generate_series(1, 500) n",
                "SELECT pg_switch_wal()",
            ],
        )?;
    }
    as_root(stoa, &["INSERT INTO warm (note) VALUES ('last')"])?;
    let open = as_root(stoa, &["SELECT pg_walfile_name(pg_current_wal_lsn())"])?;
    holds("the segments to be closed", || {
        Ok(newest(stoa, "wal-")?.join(format!("{open}.partial")).exists())
    })
}

#[test]
fn a_drill_protects() -> Result<()> {
    let stoa = Stoa::start("drill")?;
    prepare(&stoa)?;
    stoa.cli(&["db", "info", "main"])?
        .ok()?
        .says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["db", "ls"])?.ok()?.says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["status"])?.ok()?.says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["db", "drills", "main", "last"])?
        .exits(3)?
        .has_next_step()?;

    // Nobody is in the network of what is drilled: not even its environment.
    let (done, seen) = thread::scope(|scope| {
        let drill = scope.spawn(|| stoa.cli(&["db", "drill", "main"]));
        let seen = until("the instance of a drill", PATIENCE, || {
            let lonely = |process: &journeys::process::Process| {
                let devices = fs::read_to_string(format!("/proc/{}/net/dev", process.pid)).ok()?;
                let names: Vec<String> = devices
                    .lines()
                    .skip(2)
                    .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
                    .filter(|name| !name.starts_with("sit") && !name.starts_with("tunl"))
                    .collect();
                (names == ["lo"]).then_some(())
            };
            Ok(stoa.members("postgres -D").iter().find_map(lonely))
        });
        (drill.join().expect("no panic"), seen)
    });
    done?.ok()?.says("brings it back")?;
    seen?;

    let drill = last(&stoa)?;
    println!(
        "drill: rto {} ms, {} rows of {} tables",
        drill["rto_ms"], drill["rows"], drill["tables"]
    );
    ensure!(drill["state"] == "passed", "{drill:#}");
    let results: Vec<String> = drill["checks"]
        .as_array()
        .context("no checks")?
        .iter()
        .map(|check| format!("{}={}", check["check"], check["result"]).replace('"', ""))
        .collect();
    ensure!(
        results
            == [
                "log=passed",
                "manifest=passed",
                "start=passed",
                "place=passed",
                "canary=passed",
                "amcheck=passed",
                "read=passed",
                "rows=passed"
            ],
        "{results:?}: {drill:#}"
    );
    ensure!(
        drill["rows"].as_u64() >= Some(21_501) && drill["rto_ms"].as_u64() > Some(0),
        "{drill:#}"
    );
    ensure!(
        protection(&stoa)?["state"] == "protected",
        "{}",
        protection(&stoa)?
    );
    stoa.cli(&["db", "ls"])?.ok()?.says("protected")?;
    stoa.cli(&["db", "drills", "main", "last"])?
        .ok()?
        .says("amcheck")?;
    let id = drill["id"].as_str().context("no id")?;
    let one = stoa
        .api()?
        .get(&format!("{ENVIRONMENT}/databases/main/drills/{id}"))?;
    ensure!(one == drill, "{one:#}");
    let counters = stoa.cli(&["api", "GET", "/metrics"])?.ok()?;
    counters
        .says("stoa_database_protected{database=\"main\"")?
        .says("stoa_database_drill_rto_seconds")?;

    // It left nothing behind, and changed nothing in the database.
    ensure!(
        volumes(&stoa, "making-")?.is_empty(),
        "{:?}",
        volumes(&stoa, "making-")?
    );
    let extensions = as_root(
        &stoa,
        &["SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'"],
    )?;
    ensure!(extensions == "0", "amcheck was left in the database");

    stoa.cli(&["db", "branch", "main", "--as", "try"])?.ok()?;
    stoa.cli(&["db", "drill", "try"])?
        .exits(6)?
        .says("branch")?
        .has_next_step()?;
    stoa.cli(&["db", "drills", "try"])?.exits(6)?.says("branch")?;
    stoa.cli(&["db", "drill", "nowhere"])?.exits(3)?.has_next_step()?;

    // What was restored is to be proven anew.
    stoa.cli(&["db", "restore", "main", "--as", "back", "--latest"])?
        .ok()?;
    stoa.cli(&["db", "info", "back"])?
        .ok()?
        .says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["db", "drill", "back"])?.ok()?.says("brings it back")?;
    stoa.finish()
}

/// A damage to the backup of `main`: does it, and returns what undoes it.
type Damage = fn(&Stoa, &Places) -> Result<Undo>;
type Undo = Box<dyn FnOnce() -> Result<()>>;

/// Where the parts of the backup are.
struct Places {
    base: PathBuf,
    archive: PathBuf,
    heap: PathBuf,
    index: PathBuf,
    /// Closed segments that the base needs, oldest first.
    closed: Vec<PathBuf>,
    open: PathBuf,
}

fn places(stoa: &Stoa) -> Result<Places> {
    let (base, archive) = (newest(stoa, "base-")?, newest(stoa, "wal-")?);
    let of = |table: &str| as_root(stoa, &[&format!("SELECT pg_relation_filepath('{table}')")]);
    let (heap, index) = (of("cold")?, of("cold_note")?);
    let cluster = base.join("pgdata");
    let mut closed = Vec::new();
    let mut open = None;
    for entry in fs::read_dir(&archive)? {
        let path = entry?.path();
        match path.extension() {
            Some(_) => open = Some(path),
            None if path.file_name().is_some_and(|name| name.len() == 24) => closed.push(path),
            None => {}
        }
    }
    closed.sort();
    Ok(Places {
        heap: cluster.join(heap),
        index: cluster.join(index),
        base,
        archive,
        closed,
        open: open.context("nothing is received")?,
    })
}

fn flip(path: &Path, at: u64) -> Result<Undo> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(Box::new(move || Ok(file.write_all_at(&byte, at)?)))
}

fn cut(path: &Path, bytes: u64) -> Result<Undo> {
    let whole = fs::read(path)?;
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    Ok(Box::new(move || Ok(file.write_all_at(&whole, 0)?)))
}

/// Each damage, and what must catch it: all of these, whatever else does.
const DAMAGES: [(&str, Damage, &[&str]); 11] = [
    (
        "a segment in the middle is missing",
        |_, at| out_of_sight(&at.closed[at.closed.len() - 2]),
        &["log"],
    ),
    (
        "the newest segment never came",
        |_, at| out_of_sight(&at.open),
        &["log"],
    ),
    (
        "a segment of 0 bytes",
        |_, at| cut(&at.closed[at.closed.len() - 2], 0),
        &["log"],
    ),
    (
        "a bit of the log",
        |_, at| flip(&at.closed[at.closed.len() - 2], 8192 * 2 + 100),
        &["place", "canary"],
    ),
    (
        "a bit of a heap page",
        |_, at| flip(&at.heap, 8192 * 3 + 5000),
        &["manifest", "amcheck", "read"],
    ),
    (
        "a bit of an index page",
        |_, at| flip(&at.index, 8192 * 3 + 5000),
        &["manifest", "amcheck"],
    ),
    (
        "a heap file cut short",
        |_, at| cut(&at.heap, 8192 * 100),
        &["manifest"],
    ),
    (
        "a heap file is missing",
        |_, at| out_of_sight(&at.heap),
        &["manifest", "amcheck", "read"],
    ),
    (
        "an index file is missing",
        |_, at| out_of_sight(&at.index),
        &["manifest", "amcheck"],
    ),
    (
        "the list of files was changed",
        |_, at| flip(&at.base.join("manifest"), 3),
        &["manifest"],
    ),
    (
        "an empty base",
        |_, at| out_of_sight(&at.base.join("pgdata")),
        &["manifest", "start"],
    ),
];

/// Renamed into the directory above the volumes: who has it open writes on into it.
fn out_of_sight(path: &Path) -> Result<Undo> {
    let above = path
        .ancestors()
        .find(|place| place.file_name().is_some_and(|name| name == "volumes"))
        .and_then(Path::parent)
        .context("not in a volume")?;
    let (path, aside) = (path.to_owned(), above.join("aside"));
    fs::rename(&path, &aside)?;
    Ok(Box::new(move || Ok(fs::rename(&aside, &path)?)))
}

#[test]
fn each_damage_is_caught_and_named() -> Result<()> {
    let stoa = Stoa::start("drill-damage")?;
    prepare(&stoa)?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    let at = places(&stoa)?;
    ensure!(
        at.closed.len() >= 3,
        "too few segments in {}",
        at.archive.display()
    );
    for (what, damage, expected) in DAMAGES {
        let undo = damage(&stoa, &at).with_context(|| format!("could not do: {what}"))?;
        let done = stoa.cli(&["db", "drill", "main"]);
        undo().with_context(|| format!("could not undo: {what}"))?;
        let drill = last(&stoa)?;
        let caught = failed(&drill);
        println!("{what}: {caught:?}");
        ensure!(drill["state"] == "failed", "{what} was not caught: {drill:#}");
        let missed: Vec<_> = expected.iter().filter(|check| !caught.contains(check)).collect();
        ensure!(missed.is_empty(), "{what} was missed by {missed:?}: {drill:#}");
        let first = caught.first().copied().unwrap_or_default();
        done?
            .exits(1)?
            .says(&format!("failed at the check {first}"))?
            .says("unprotected")?
            .has_next_step()?;
        let state = protection(&stoa)?;
        let why = state["why"].as_str().unwrap_or_default();
        ensure!(
            state["state"] == "unprotected" && why.contains(first),
            "{what}: {state}"
        );
        ensure!(
            volumes(&stoa, "making-")?.is_empty(),
            "{what}: {:?}",
            volumes(&stoa, "making-")?
        );
    }
    // Nothing was wrong but what was done to it.
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    ensure!(
        protection(&stoa)?["state"] == "protected",
        "{}",
        protection(&stoa)?
    );
    let all = stoa.cli(&["db", "drills", "main"])?.ok()?;
    all.says("FAILED at manifest")?
        .says("FAILED at log")?
        .says("passed")?;
    stoa.finish()
}

#[test]
fn a_kill_in_the_middle_changes_nothing() -> Result<()> {
    let stoa = Stoa::start("drill-kill")?;
    prepare(&stoa)?;
    let path = format!("{ENVIRONMENT}/databases/main/drills");
    for step in ["asking", "comparing", "replaying"] {
        let operation = stoa.api()?.begin("POST", &path, None)?;
        until(step, PATIENCE, || {
            let now = stoa.api()?.get(&format!("/v1/operations/{operation}"))?;
            let is_there = now["step"].as_str().is_some_and(|now| now.contains(step));
            if !is_there && now["state"] == "succeeded" {
                return Ok(Some(()));
            }
            Ok(is_there.then_some(()))
        })?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = stoa.api()?.settled(&operation)?;
        ensure!(settled["state"] == "succeeded", "{step}: {settled:#}");
        ensure!(last(&stoa)?["state"] == "passed", "{step}: {:#}", last(&stoa)?);
    }
    // One that is given up tells nothing.
    let operation = stoa.api()?.begin("POST", &path, None)?;
    let again = stoa.api()?.call("POST", &path, None)?;
    ensure!(again.status == 409, "two at once: {}", again.body);
    stoa.cli(&["op", "cancel", &operation])?;
    let settled = stoa.api()?.settled(&operation)?;
    match settled["state"].as_str() {
        Some("canceled") => ensure!(last(&stoa)?["state"] == "undone", "{:#}", last(&stoa)?),
        // It was done before.
        Some("succeeded") => {}
        _ => bail!("{settled:#}"),
    }
    ensure!(
        protection(&stoa)?["state"] == "protected",
        "{}",
        protection(&stoa)?
    );
    holds("nothing of it is left", || {
        Ok(volumes(&stoa, "making-")?.is_empty())
    })?;
    stoa.finish()
}
