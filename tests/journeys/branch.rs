//! Branches: a copy of a database under write load keeps its invariant, has nothing of the parent's logins, slots and
//! subscriptions, can be branched, reset and destroyed by itself, and survives a kill of control while it is made.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::json;

const ACCOUNTS: i64 = 1000;
const BALANCE: i64 = 100;
const WRITERS: usize = 3;

/// Transfers between accounts, each with a line in the history, until the table `stop` has a row.
const WRITER: &str = "DO $$ DECLARE a int; b int; BEGIN LOOP \
    EXIT WHEN EXISTS (SELECT FROM stop); \
    a := 1 + (random() * 999)::int; b := 1 + (random() * 999)::int; \
    UPDATE accounts SET balance = balance - 1 WHERE id = least(a, b); \
    UPDATE accounts SET balance = balance + 1 WHERE id = greatest(a, b); \
    INSERT INTO history (a, b) VALUES (a, b); \
    COMMIT; END LOOP; END $$";

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-Atc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

/// As the server's own superuser, which the CLI's psql can become.
fn as_root(stoa: &Stoa, database: &str, statements: &[&str]) -> Result<()> {
    let mut words = vec![
        "db",
        "connect",
        "--no-terminal",
        database,
        "--",
        "-At",
        "-v",
        "ON_ERROR_STOP=1",
    ];
    words.extend(["-c", "SET ROLE NONE"]);
    for &statement in statements {
        words.extend(["-c", statement]);
    }
    stoa.cli(&words)?.ok().map(drop)
}

fn number(stoa: &Stoa, database: &str, sql: &str) -> Result<i64> {
    let text = query(stoa, database, sql)?;
    text.parse().with_context(|| format!("{sql} answered {text}"))
}

fn url(stoa: &Stoa, database: &str) -> Result<String> {
    let shown = stoa.cli(&["db", "url", database, "--json"])?.ok()?.json()?;
    let url = shown["variables"]["DATABASE_URL"].as_str();
    Ok(url.context("no DATABASE_URL")?.to_owned())
}

/// Whether the login of one database gets into the server of another.
fn lets_in(stoa: &Stoa, database: &str, url: &str) -> Result<bool> {
    let (_, rest) = url.split_once("://").context("no address")?;
    let (login, _) = rest.split_once('@').context("no login")?;
    let here = format!("postgresql://{login}@127.0.0.1:5432/app");
    let words = [
        "db",
        "connect",
        "--no-terminal",
        database,
        "--",
        "-d",
        &here,
        "-Atc",
        "SELECT 1",
    ];
    Ok(stoa.cli(&words)?.code == 0)
}

/// The sum of balances is what it was, and every line of the history is readable.
fn invariant_holds(stoa: &Stoa, database: &str) -> Result<i64> {
    let sum = number(stoa, database, "SELECT sum(balance) FROM accounts")?;
    ensure!(
        sum == ACCOUNTS * BALANCE,
        "{database}: the balances add up to {sum}"
    );
    number(stoa, database, "SELECT count(*) FROM history")
}

fn prepare(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "create", "main"])?.ok()?;
    let fill = format!(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL); \
         INSERT INTO accounts SELECT id, {BALANCE} FROM generate_series(1, {ACCOUNTS}) id; \
         CREATE TABLE history (id bigserial PRIMARY KEY, a int, b int, filler text DEFAULT repeat('x', 200)); \
         CREATE TABLE stop (at timestamptz)"
    );
    query(stoa, "main", &fill)?;
    Ok(())
}

/// Whether the pool has anything that bears the id of a database.
fn has_volume(stoa: &Stoa, id: &str) -> Result<bool> {
    let short = id.trim_start_matches("db_").to_ascii_lowercase();
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let entries = places
        .iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten();
    Ok(entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains(&short)))
}

#[test]
fn a_branch_is_a_database_of_its_own() -> Result<()> {
    let stoa = Stoa::start("branch")?;
    stoa.cli(&["db", "branch", "main", "--as", "early"])?
        .exits(3)?
        .has_next_step()?;
    prepare(&stoa)?;
    // What a copy must not take over: a slot, a subscription, an archive, a password for elsewhere.
    as_root(
        &stoa,
        "main",
        &[
            "SELECT pg_create_physical_replication_slot('kept', true)",
            "CREATE SUBSCRIPTION theirs CONNECTION 'host=127.0.0.1 port=1' PUBLICATION theirs WITH (connect = false)",
            "CREATE EXTENSION postgres_fdw",
            "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1')",
            "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'u', password 'secret')",
            "CREATE ROLE person LOGIN PASSWORD 'secret'",
            "ALTER SYSTEM SET archive_mode = 'on'",
            "ALTER SYSTEM SET archive_command = 'false'",
            "SELECT pg_reload_conf()",
        ],
    )?;
    stoa.cli(&["db", "branch", "main", "--as", "main"])?
        .exits(6)?
        .has_next_step()?;
    stoa.cli(&["db", "branch", "main", "--as", "short", "--ttl", "5s"])?
        .exits(1)?
        .says("at least 60")?;
    stoa.cli(&["db", "reset", "main", "--confirm", "main"])?
        .exits(6)?
        .says("no branch")?;

    thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| scope.spawn(|| query(&stoa, "main", WRITER)))
            .collect();
        let branched = branch_under_load(&stoa);
        // Whatever came of it, the writers end.
        query(&stoa, "main", "INSERT INTO stop VALUES (now())")?;
        for writer in writers {
            writer.join().expect("no panic")?;
        }
        branched
    })?;
    invariant_holds(&stoa, "main")?;

    stoa.cli(&["db", "branch", "try-1", "--as", "try-2", "--ttl", "7d"])?
        .ok()?;
    let of_a_branch = invariant_holds(&stoa, "try-2")?;
    ensure!(
        of_a_branch == invariant_holds(&stoa, "try-1")?,
        "the branch of a branch has other rows"
    );
    stoa.cli(&["db", "info", "try-2"])?
        .ok()?
        .says("of try-1 as of")?
        .says("ends")?;

    let before = url(&stoa, "try-1")?;
    query(&stoa, "try-1", "DROP TABLE accounts; CREATE TABLE tried (id int)")?;
    query(&stoa, "main", "INSERT INTO history (a, b) VALUES (-1, -1)")?;
    stoa.cli(&["db", "reset", "try-1", "--confirm", "try-1"])?.ok()?;
    ensure!(
        invariant_holds(&stoa, "try-1")? == invariant_holds(&stoa, "main")?,
        "after the reset the rows differ"
    );
    ensure!(
        query(&stoa, "try-1", "SELECT to_regclass('tried')")?.is_empty(),
        "the reset kept a table"
    );
    ensure!(url(&stoa, "try-1")? == before, "the reset changed the login");
    ensure!(
        lets_in(&stoa, "try-1", &before)?,
        "the login is not let in after the reset"
    );

    let id = |name: &str| -> Result<String> {
        let shown = stoa.cli(&["db", "info", name, "--json"])?.ok()?.json()?;
        Ok(shown["id"].as_str().context("no id")?.to_owned())
    };
    let (second, first) = (id("try-2")?, id("try-1")?);
    ensure!(has_volume(&stoa, &second)?, "the volume is not found by its id");
    stoa.cli(&["db", "destroy", "try-2", "--confirm", "try-2"])?
        .ok()?
        .says("space is given back")?;
    holds("the volume of the branch to go", || {
        Ok(!has_volume(&stoa, &second)?)
    })?;
    stoa.cli(&["db", "destroy", "main", "--confirm", "main"])?
        .ok()?
        .says("stay (1: try-1)")?;
    invariant_holds(&stoa, "try-1")?;
    stoa.cli(&["db", "reset", "try-1", "--confirm", "try-1"])?
        .exits(6)?
        .has_next_step()?;
    invariant_holds(&stoa, "try-1")?;
    stoa.cli(&["db", "destroy", "try-1", "--confirm", "try-1"])?
        .ok()?;
    holds("the volume of the other branch to go", || {
        Ok(!has_volume(&stoa, &first)?)
    })?;
    stoa.finish()
}

fn branch_under_load(stoa: &Stoa) -> Result<()> {
    holds("the writers to be at work", || {
        Ok(number(stoa, "main", "SELECT count(*) FROM history")? > 100)
    })?;
    let before = number(stoa, "main", "SELECT count(*) FROM history")?;
    stoa.cli(&["db", "branch", "main", "--as", "try-1"])?
        .ok()?
        .says("try-1 answers")?;
    let after = number(stoa, "main", "SELECT count(*) FROM history")?;
    let copied = invariant_holds(stoa, "try-1")?;
    ensure!(
        (before..=after).contains(&copied),
        "the branch has {copied} rows; the parent had {before} before and {after} after"
    );
    for (sql, expected) in [
        ("SELECT count(*) FROM pg_replication_slots", "0"),
        ("SELECT count(*) FROM pg_subscription", "0"),
        ("SELECT count(*) FROM pg_user_mappings", "0"),
        ("SHOW archive_mode", "off"),
        ("SHOW fsync", "off"),
        ("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'person'", "f"),
        ("SELECT pg_is_in_recovery()", "f"),
    ] {
        let found = query(stoa, "try-1", sql)?;
        ensure!(found == expected, "{sql} answered {found} on the branch");
    }
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    ensure!(
        query(stoa, "main", identifier)? != query(stoa, "try-1", identifier)?,
        "one identifier for both"
    );
    let (parents, own) = (url(stoa, "main")?, url(stoa, "try-1")?);
    ensure!(lets_in(stoa, "try-1", &own)?, "its own login is not let in");
    ensure!(!lets_in(stoa, "try-1", &parents)?, "the parent's login is let in");
    // Backup mode ended with its session: nothing of it stays at the parent, and what was there still is.
    let slots = query(
        stoa,
        "main",
        "SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE slot_name <> 'stoa_archive'",
    )?;
    ensure!(slots == "kept", "the parent has the slots {slots}");
    stoa.cli(&["db", "info", "main"])?
        .ok()?
        .says("branches")?
        .says("try-1")?;
    stoa.cli(&["db", "info", "try-1"])?
        .ok()?
        .says("of main as of")?
        .says("a power cut may lose it")?;
    Ok(())
}

#[test]
fn a_kill_of_control_at_any_step_ends_in_a_whole_branch() -> Result<()> {
    let stoa = Stoa::start("branch-kill")?;
    prepare(&stoa)?;
    query(
        &stoa,
        "main",
        "INSERT INTO history (a, b) SELECT 0, 0 FROM generate_series(1, 1000)",
    )?;
    for (round, step) in ["copying main", "recovering the copy", "starting the server"]
        .iter()
        .enumerate()
    {
        let api = stoa.api()?;
        let name = format!("kill-{round}");
        let path = format!("{ENVIRONMENT}/databases/main/branches");
        let operation = api.begin("POST", &path, Some(&json!({ "name": name })))?;
        until("the step before the kill", PATIENCE, || {
            let now = api.get(&format!("/v1/operations/{operation}"))?;
            let is_over = matches!(now["state"].as_str(), Some("succeeded" | "failed"));
            Ok((now["step"] == **step || is_over).then_some(()))
        })?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = until("the API again", PATIENCE, || {
            Ok(Some(stoa.api()?.settled(&operation)?))
        })?;
        ensure!(settled["state"] == "succeeded", "killed at {step:?}: {settled:#}");
        ensure!(
            invariant_holds(&stoa, &name)? == 1000,
            "killed at {step:?}: rows differ"
        );
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> 'stoa_archive'";
        holds("the parent to be out of backup mode", || {
            Ok(query(&stoa, "main", slots)? == "0")
        })?;
    }
    // The same for a reset: the old data or the new, and then the new.
    query(&stoa, "main", "INSERT INTO history (a, b) VALUES (1, 1)")?;
    for step in [
        "copying main",
        "putting the copy in its place",
        "starting the server",
    ] {
        let operation = stoa
            .api()?
            .begin("POST", &format!("{ENVIRONMENT}/databases/kill-0/reset"), None)?;
        until("the step before the kill", PATIENCE, || {
            let now = stoa.api()?.get(&format!("/v1/operations/{operation}"))?;
            let is_over = matches!(now["state"].as_str(), Some("succeeded" | "failed"));
            Ok((now["step"] == step || is_over).then_some(()))
        })?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = until("the API again", PATIENCE, || {
            Ok(Some(stoa.api()?.settled(&operation)?))
        })?;
        ensure!(
            settled["state"] == "succeeded",
            "reset killed at {step:?}: {settled:#}"
        );
        ensure!(
            invariant_holds(&stoa, "kill-0")? == 1001,
            "reset killed at {step:?}: rows differ"
        );
    }
    stoa.finish()
}
