//! Levels of backup: with `sync` nothing that was acknowledged is lost when everything dies; a receiver that is away holds
//! commits up for a while and no longer, and that is told; it goes back by itself; branches never wait.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use journeys::soak::rpo::{self, Level, Options};
use journeys::{PATIENCE, Stoa, holds, until};
use serde_json::Value;

/// `cargo xtask soak db-rpo` runs more of them.
#[test]
fn nothing_acknowledged_is_lost_with_everything() -> Result<()> {
    let outcome = rpo::run(Options {
        trials: 2,
        level: Level::Sync,
        seed: 7,
    })?;
    println!("{outcome}");
    ensure!(outcome.holes.is_empty(), "{}", outcome.holes.join("\n"));
    ensure!(outcome.lost == 0, "{} rows were lost", outcome.lost);
    Ok(())
}

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-qAtc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

fn shown(stoa: &Stoa, database: &str) -> Result<Value> {
    stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()
}

fn is_effective(stoa: &Stoa, database: &str, level: &str) -> Result<()> {
    holds(&format!("{database} to be {level}"), || {
        let shown = shown(stoa, database)?;
        let names = query(stoa, database, "SHOW synchronous_standby_names")?;
        Ok(shown["backup_level"]["effective"] == level && names.is_empty() == (level == "stream"))
    })
}

fn write(stoa: &Stoa, note: &str) -> Result<Duration> {
    let begin = Instant::now();
    query(stoa, "main", &format!("INSERT INTO notes VALUES ('{note}')"))?;
    Ok(begin.elapsed())
}

fn to_receivers(stoa: &Stoa, signal: i32) -> Result<()> {
    let found = until("a receiver", PATIENCE, || {
        let found = stoa.members("pg_receivewal");
        Ok((!found.is_empty()).then_some(found))
    })?;
    found.iter().try_for_each(|receiver| receiver.signal(signal))
}

fn metrics(stoa: &Stoa) -> Result<String> {
    Ok(stoa.cli(&["api", "GET", "/metrics"])?.ok()?.stdout)
}

#[test]
fn a_receiver_that_is_away_holds_nobody_up_for_long() -> Result<()> {
    let stoa = Stoa::start("levels")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    query(&stoa, "main", "CREATE TABLE notes (note text)")?;
    is_effective(&stoa, "main", "stream")?;
    let server = stoa.members("bin/postgres -D");
    stoa.cli(&["db", "update", "main", "--backup-level", "sync"])?
        .ok()?;
    is_effective(&stoa, "main", "sync")?;
    ensure!(server == stoa.members("bin/postgres -D"), "it was started again");
    write(&stoa, "one")?;
    stoa.cli(&["db", "info", "main"])?
        .ok()?
        .says("each commit waits")?;

    // It stands still, connected, as on a disk that hangs.
    to_receivers(&stoa, libc::SIGSTOP)?;
    let frozen = Instant::now();
    let took = write(&stoa, "two")?;
    ensure!(
        took > Duration::from_secs(5) && took < Duration::from_secs(40),
        "a commit waited {took:?}"
    );
    is_effective(&stoa, "main", "stream")?;
    ensure!(
        shown(&stoa, "main")?["backup_level"]["level"] == "sync",
        "forgotten"
    );
    stoa.cli(&["db", "info", "main"])?.ok()?.says("NOT SO NOW")?;
    stoa.cli(&["status"])?.ok()?.says("NOT SYNC")?;
    ensure!(
        metrics(&stoa)?.contains("stoa_database_sync_effective{database=\"main\""),
        "no metric"
    );
    // Whoever dies meanwhile, nobody waits again.
    for text in ["control", "bin/postgres -D"] {
        let victims = match text {
            "control" => vec![stoa.part("control")?],
            _ => stoa.members(text),
        };
        victims
            .iter()
            .try_for_each(|victim| victim.signal(libc::SIGKILL))?;
        holds("the database again", || {
            Ok(query(&stoa, "main", "SELECT 1").is_ok())
        })?;
        let took = write(&stoa, text)?;
        ensure!(
            took < Duration::from_secs(40),
            "after {text} a commit waited {took:?}"
        );
    }

    // What is not received for a minute is told.
    holds("the log to be told as late", || {
        Ok(shown(&stoa, "main")?["backup_behind_since"].is_string())
    })?;
    ensure!(frozen.elapsed() > Duration::from_secs(55), "told too early");
    stoa.cli(&["status"])?.ok()?.says("LOG NOT RECEIVED")?;
    stoa.cli(&["db", "backups", "main"])?.ok()?.says("not yet")?;
    ensure!(
        metrics(&stoa)?
            .lines()
            .any(|line| line.starts_with("stoa_database_backup_behind{") && line.ends_with(" 1")),
        "no metric"
    );

    to_receivers(&stoa, libc::SIGCONT)?;
    is_effective(&stoa, "main", "sync")?;
    holds("the log to be received", || {
        Ok(shown(&stoa, "main")?["backup_behind_since"].is_null())
    })?;
    copies_are_free(&stoa)?;
    stoa.finish()
}

/// A branch waits for nobody; a restored database is of the level of the one it is of, for its own receiver.
fn copies_are_free(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "branch", "main", "--as", "try"])?.ok()?;
    ensure!(
        query(stoa, "try", "SHOW synchronous_standby_names")?.is_empty(),
        "a branch waits"
    );
    ensure!(
        shown(stoa, "try")?["backup_level"].is_null(),
        "a branch has a level"
    );
    stoa.cli(&["db", "update", "try", "--backup-level", "sync"])?
        .exits(6)?
        .says("branch")?
        .has_next_step()?;
    stoa.cli(&["db", "restore", "main", "--as", "back", "--latest"])?
        .ok()?;
    is_effective(stoa, "back", "sync")?;
    query(stoa, "back", "INSERT INTO notes VALUES ('after')")?;
    stoa.cli(&["db", "update", "main", "--backup-level", "stream"])?
        .ok()?;
    is_effective(stoa, "main", "stream")
}
