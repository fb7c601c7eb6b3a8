//! Backup: a database comes back as of a moment, a place and the latest; no kill leaves a hole; a hole made by others is
//! found and named; what lies outside is refused with what is kept.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use journeys::process::Process;
use journeys::{PATIENCE, Stoa, holds, until};
use serde_json::Value;

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-Atc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

/// As the server's own superuser, which the CLI's psql can become.
fn as_root(stoa: &Stoa, database: &str, statement: &str) -> Result<String> {
    let words = [
        "db",
        "connect",
        "--no-terminal",
        database,
        "--",
        "-qAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        "SET ROLE NONE",
        "-c",
        statement,
    ];
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

fn backups(stoa: &Stoa, database: &str) -> Result<Value> {
    stoa.cli(&["db", "backups", database, "--json"])?.ok()?.json()
}

/// Waits until something can be restored.
fn restorable(stoa: &Stoa, database: &str) -> Result<()> {
    holds("a base with its log", || {
        let found = backups(stoa, database)?;
        Ok(found["receiving"] == true && found["windows"].as_array().is_some_and(|all| !all.is_empty()))
    })
}

/// The server's clock, to the millisecond, after what it has committed so far.
fn moment(stoa: &Stoa, database: &str) -> Result<String> {
    query(
        stoa,
        database,
        r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#,
    )
}

fn notes(stoa: &Stoa, database: &str) -> Result<String> {
    query(
        stoa,
        database,
        "SELECT string_agg(note, ',' ORDER BY id) FROM notes",
    )
}

fn write(stoa: &Stoa, note: &str) -> Result<()> {
    query(
        stoa,
        "main",
        &format!("INSERT INTO notes (note) VALUES ('{note}')"),
    )
    .map(drop)
}

fn prepare(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "create", "main"])?.ok()?;
    query(
        stoa,
        "main",
        "CREATE TABLE notes (id bigserial PRIMARY KEY, note text UNIQUE)",
    )?;
    write(stoa, "one")?;
    restorable(stoa, "main")
}

#[test]
fn a_database_comes_back_as_of_a_moment() -> Result<()> {
    let stoa = Stoa::start("backup")?;
    prepare(&stoa)?;
    write(&stoa, "two")?;
    let (at, place) = (
        moment(&stoa, "main")?,
        query(&stoa, "main", "SELECT pg_current_wal_lsn()")?,
    );
    write(&stoa, "three")?;
    as_root(&stoa, "main", "SELECT pg_switch_wal()")?;
    write(&stoa, "four")?;

    for (name, words, expected) in [
        ("moment", ["--at", at.as_str()].as_slice(), "one,two"),
        ("place", ["--lsn", place.as_str()].as_slice(), "one,two"),
        ("latest", ["--latest"].as_slice(), "one,two,three,four"),
    ] {
        let all = [&["db", "restore", "main", "--as", name][..], words].concat();
        let told = stoa.cli(&all)?.ok()?;
        let told = told
            .says("with the data of main as of")?
            .says("ms were expected")?;
        let before = told
            .stderr
            .find("expected to take")
            .context("it does not say for how long")?;
        let begun = told
            .stderr
            .find("handing over")
            .context("it does not say what it does")?;
        ensure!(before < begun, "{}", told.stderr);
        let found = notes(&stoa, name)?;
        ensure!(found == expected, "{name} has {found}");
        ensure!(notes(&stoa, "main")? == "one,two,three,four", "main changed");
    }

    // It is a database like any other: durable, with an identity, logins and a backup of its own.
    stoa.cli(&["db", "info", "moment"])?
        .ok()?
        .says(&format!("from main as of {at}"))?
        .says("the last commit in it is of")?;
    for (sql, expected) in [
        ("SHOW fsync", "on"),
        ("SELECT pg_is_in_recovery()", "f"),
        ("SHOW restore_command", ""),
    ] {
        let found = query(&stoa, "moment", sql)?;
        ensure!(found == expected, "{sql} answered {found} on what was restored");
    }
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    ensure!(
        query(&stoa, "main", identifier)? != query(&stoa, "moment", identifier)?,
        "one identifier for both"
    );
    let urls = ["main", "moment"].map(|name| stoa.cli(&["db", "url", name]));
    let [Ok(main), Ok(moment)] = urls else {
        anyhow::bail!("no address")
    };
    ensure!(main.stdout != moment.stdout, "one login for both");
    restorable(&stoa, "moment")?;
    query(&stoa, "moment", "INSERT INTO notes (note) VALUES ('after')")?;
    stoa.cli(&["db", "restore", "moment", "--as", "again", "--latest"])?
        .ok()?;
    ensure!(
        notes(&stoa, "again")? == "one,two,after",
        "what was restored cannot be restored"
    );

    outside_is_refused(&stoa)?;

    stoa.cli(&["db", "branch", "main", "--as", "try"])?.ok()?;
    stoa.cli(&["db", "backup", "try"])?
        .exits(6)?
        .says("branch")?
        .has_next_step()?;
    stoa.cli(&["db", "backups", "try"])?.exits(6)?.says("branch")?;
    let ended = backups(&stoa, "main")?;
    ensure!(
        ended["gaps"].as_array().is_some_and(Vec::is_empty),
        "a gap: {ended:#}"
    );
    stoa.finish()
}

fn outside_is_refused(stoa: &Stoa) -> Result<()> {
    let before = stoa.cli(&["db", "ls"])?.ok()?.stdout;
    for words in [
        ["--at", "2020-01-01T00:00:00Z"],
        ["--at", "2999-01-01T00:00:00Z"],
        ["--lsn", "0/10"],
        ["--lsn", "FFFF/0"],
    ] {
        let all = [&["db", "restore", "main", "--as", "never"][..], &words].concat();
        stoa.cli(&all)?
            .exits(1)?
            .says("lies outside")?
            .says("from")?
            .has_next_step()?;
    }
    stoa.cli(&["db", "restore", "main", "--as", "main", "--latest"])?
        .exits(6)?
        .has_next_step()?;
    ensure!(
        stoa.cli(&["db", "ls"])?.ok()?.stdout == before,
        "a refusal left something"
    );
    Ok(())
}

#[test]
fn no_kill_leaves_a_hole() -> Result<()> {
    let stoa = Stoa::start("backup-kill")?;
    prepare(&stoa)?;
    let over = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| -> Result<BTreeSet<String>> {
        let writer = scope.spawn(|| {
            let mut acknowledged = BTreeSet::new();
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                let note = format!("n{number}");
                // A write that was not acknowledged may be there or not; the next has another number.
                if write(&stoa, &note).is_ok() {
                    acknowledged.insert(note);
                }
                number += 1;
            }
            acknowledged
        });
        let killed = kills(&stoa);
        over.store(true, Ordering::Relaxed);
        let acknowledged = writer.join().expect("no panic");
        killed.map(|()| acknowledged)
    })?;
    ensure!(
        acknowledged.len() > 20,
        "the writer wrote only {}",
        acknowledged.len()
    );
    stoa.cli(&["db", "restore", "main", "--as", "back", "--latest"])?
        .ok()?;
    let all = "SELECT string_agg(note, ',' ORDER BY note) FROM notes";
    let (main, back) = (query(&stoa, "main", all)?, query(&stoa, "back", all)?);
    let found: BTreeSet<String> = back.split(',').map(str::to_owned).collect();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    ensure!(main == back, "main has other rows");
    let found = backups(&stoa, "main")?;
    ensure!(
        found["gaps"].as_array().is_some_and(Vec::is_empty)
            && found["windows"].as_array().map(Vec::len) == Some(1),
        "there is a hole: {found:#}"
    );
    stoa.finish()
}

/// Each of those that could lose something dies twice, with segments closed in between; the second time the receiver while
/// it makes the file of a segment, and the server without a last word to its receiver.
fn kills(stoa: &Stoa) -> Result<()> {
    for round in 0..2 {
        for text in ["pg_receivewal", "postgres -D", "control"] {
            let victims = until(text, PATIENCE, || {
                let found = match text {
                    "control" => vec![stoa.part("control")?],
                    _ => stoa.members(text),
                };
                Ok((!found.is_empty()).then_some(found))
            })?;
            if (round, text) == (1, "pg_receivewal") {
                // Between two segments none is open, until the writer's next word arrives.
                holds("a segment to be open", || {
                    victims
                        .iter()
                        .try_for_each(|victim| victim.signal(libc::SIGSTOP))?;
                    let is_cut = cut_the_open_segment_short(stoa)?;
                    if !is_cut {
                        victims
                            .iter()
                            .try_for_each(|victim| victim.signal(libc::SIGCONT))?;
                    }
                    Ok(is_cut)
                })?;
            }
            if (round, text) == (1, "postgres -D") {
                victims.iter().try_for_each(cut_the_line)?;
            }
            for victim in victims {
                victim.signal(libc::SIGKILL)?;
            }
            holds("the database again", || {
                Ok(as_root(stoa, "main", "SELECT pg_switch_wal()").is_ok())
            })?;
            holds("the receiver again", || {
                Ok(backups(stoa, "main").is_ok_and(|found| found["receiving"] == true))
            })?;
        }
    }
    Ok(())
}

/// What the process sends reaches nobody any more, not even that it ends.
fn cut_the_line(process: &Process) -> Result<()> {
    let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", process.pid))?;
    let device = devices
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()))
        .find(|name| *name != "lo");
    let done = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", process.pid))
        .args(["ip", "link", "set", "dev", device.context("no network")?, "down"])
        .status()?;
    ensure!(done.success(), "the line was not cut");
    Ok(())
}

/// As it is until the receiver has filled a new file up to its full size. Whether there was one.
fn cut_the_open_segment_short(stoa: &Stoa) -> Result<bool> {
    let mut cut = 0;
    for entry in std::fs::read_dir(archive(stoa, "main")?)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "partial") {
            std::fs::File::options()
                .write(true)
                .open(&path)?
                .set_len(5 << 20)?;
            cut += 1;
        }
    }
    ensure!(cut <= 1, "{cut} open segments");
    Ok(cut == 1)
}

/// Where the archived log of a database lies.
fn archive(stoa: &Stoa, database: &str) -> Result<PathBuf> {
    let shown = stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()?;
    let id = shown["id"].as_str().context("no id")?;
    let short = id.trim_start_matches("db_").to_ascii_lowercase();
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    let entries = [pool.join("volumes"), pool.join("mnt/volumes")];
    let entries = entries
        .iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten();
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("wal-") && name.contains(&short)
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop().context("no archive")
}

/// Closed segments, oldest first.
fn segments(archive: &std::path::Path) -> Result<Vec<String>> {
    let names =
        std::fs::read_dir(archive)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.retain(|name| name.len() == 24);
    names.sort();
    Ok(names)
}

#[test]
fn a_hole_is_found_and_named() -> Result<()> {
    let stoa = Stoa::start("backup-hole")?;
    prepare(&stoa)?;
    // The first base has its place; from here on segments are closed one by one.
    let before = moment(&stoa, "main")?;
    for note in ["two", "three", "four"] {
        write(&stoa, note)?;
        as_root(&stoa, "main", "SELECT pg_switch_wal()")?;
    }
    write(&stoa, "five")?;
    let within = moment(&stoa, "main")?;
    let place = archive(&stoa, "main")?;
    let expected = as_root(&stoa, "main", "SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    holds("the segments to be closed", || {
        Ok(place.join(format!("{expected}.partial")).exists() && segments(&place)?.len() >= 3)
    })?;
    let closed = segments(&place)?;
    let [.., kept, gone] = closed.as_slice() else {
        anyhow::bail!("too few segments: {closed:?}")
    };
    std::fs::remove_file(place.join(gone))?;

    let found = backups(&stoa, "main")?;
    let gap = &found["gaps"][0];
    ensure!(
        gap["after"] == **kept && gap["before"] == *expected,
        "the gap is not named: {found:#}"
    );
    stoa.cli(&["db", "backups", "main"])?
        .ok()?
        .says("GAP")?
        .says(kept)?;
    stoa.cli(&["db", "restore", "main", "--as", "never", "--at", &within])?
        .exits(1)?
        .says("lies outside")?
        .says("from")?;
    stoa.cli(&["db", "restore", "main", "--as", "before", "--at", &before])?
        .ok()?;
    ensure!(notes(&stoa, "before")? == "one", "other rows before the gap");
    // Behind it, after another base.
    stoa.cli(&["db", "backup", "main"])?.ok()?.says("is taken")?;
    write(&stoa, "six")?;
    stoa.cli(&["db", "restore", "main", "--as", "after", "--latest"])?
        .ok()?;
    ensure!(
        notes(&stoa, "after")? == "one,two,three,four,five,six",
        "other rows after the gap"
    );
    stoa.finish()
}

#[test]
fn what_the_server_dropped_begins_another_stretch() -> Result<()> {
    let stoa = Stoa::start("backup-lost")?;
    prepare(&stoa)?;
    let mut written = vec!["one".to_owned()];
    // Whether anything is missing depends on what comes first: what is written, or the new stretch.
    for attempt in 0..5 {
        lose(&stoa, &mut written, attempt)?;
        if backups(&stoa, "main")?["gaps"]
            .as_array()
            .is_some_and(|gaps| !gaps.is_empty())
        {
            break;
        }
    }
    write(&stoa, "last")?;
    written.push("last".to_owned());
    stoa.cli(&["db", "restore", "main", "--as", "back", "--latest"])?
        .ok()?;
    ensure!(
        notes(&stoa, "back")? == written.join(","),
        "other rows in the new stretch"
    );
    let found = backups(&stoa, "main")?;
    ensure!(
        found["gaps"].as_array().is_some_and(|gaps| !gaps.is_empty()),
        "the gap is hidden: {found:#}"
    );
    stoa.finish()
}

/// What a server does that ran out of room for what nobody receives: the slot is gone, and then the log.
fn lose(stoa: &Stoa, written: &mut Vec<String>, attempt: u32) -> Result<()> {
    let before = archive(stoa, "main")?;
    for receiver in stoa.members("pg_receivewal") {
        receiver.signal(libc::SIGSTOP)?;
    }
    as_root(
        stoa,
        "main",
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active",
    )?;
    as_root(stoa, "main", "SELECT pg_drop_replication_slot('stoa_archive')")?;
    for note in ["two", "three"] {
        let note = format!("{note}-{attempt}");
        write(stoa, &note)?;
        written.push(note);
        as_root(stoa, "main", "SELECT pg_switch_wal()")?;
        as_root(stoa, "main", "CHECKPOINT")?;
    }
    for receiver in stoa.members("pg_receivewal") {
        receiver.signal(libc::SIGCONT)?;
    }
    holds("another stretch", || Ok(archive(stoa, "main")? != before))?;
    // Its first segment, however little is in it.
    holds("something received into it", || {
        Ok(std::fs::read_dir(archive(stoa, "main")?)?.next().is_some())
    })
}
