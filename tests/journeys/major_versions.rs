//! A database goes to a later major version of PostgreSQL: rehearsed on a branch and by itself, with a pause that was said
//! before, nothing acknowledged missing, and the way back; whatever fails before the names change, it serves as it was.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, ENVIRONMENT, PATIENCE, Stoa, holds, postgres, until};
use serde_json::{Value, json};

const HOST: &str = "queries.localhost";

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let words = ["db", "connect", "--no-terminal", database, "--", "-qAtc", sql];
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

/// As the superuser, for what the owner of the data may not do.
fn above(stoa: &Stoa, database: &str, sql: &str) -> Result<()> {
    let words = ["db", "connect", "--no-terminal", database, "--", "-qAt"];
    let words = [&words[..], &["-c", "SET ROLE NONE", "-c", sql]].concat();
    stoa.cli(&words)?.ok().map(drop)
}

fn info(stoa: &Stoa, database: &str) -> Result<Value> {
    stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()
}

fn version(stoa: &Stoa, database: &str) -> Result<String> {
    query(
        stoa,
        database,
        "SELECT current_setting('server_version_num')::int / 10000",
    )
}

fn names(stoa: &Stoa) -> Result<Vec<String>> {
    let all = stoa.cli(&["db", "ls", "--json"])?.ok()?.json()?;
    let all = all.as_array().context("no list")?.iter();
    Ok(all
        .filter_map(|one| one["name"].as_str().map(str::to_owned))
        .collect())
}

/// Debian's image, as the first database of its version would make it.
fn debians(stoa: &Stoa) -> Result<()> {
    let packages = "postgresql-15,postgresql-client-15";
    let words = [
        "image",
        "base",
        "create",
        "postgres:15",
        "--suite",
        "bookworm",
        "--packages",
        packages,
    ];
    stoa.cli(&words)?.ok().map(drop)
}

/// A version laid over Debian's image.
fn add(stoa: &Stoa, version: &str) -> Result<()> {
    let made = postgres::install(stoa.root(), version)?;
    let (name, made) = (format!("postgres:{version}"), made.display().to_string());
    stoa.cli(&["image", "add", &name, &made, "--over", "postgres:15"])?
        .ok()
        .map(drop)
}

fn counts(stoa: &Stoa) -> Result<Value> {
    let answer = stoa.get(HOST, "/")?;
    serde_json::from_str(&answer.text()).with_context(|| format!("the counts are {}", answer.text()))
}

fn number(counts: &Value, what: &str) -> u64 {
    counts[what].as_u64().unwrap_or(u64::MAX)
}

fn queries_go_on(stoa: &Stoa) -> Result<()> {
    let before = number(&counts(stoa)?, "queries");
    holds("queries", || {
        Ok(number(&counts(stoa)?, "queries") >= before.saturating_add(100))
    })
}

/// Everything that was acknowledged so far is there.
fn nothing_is_missing(stoa: &Stoa, database: &str) -> Result<()> {
    let counts = counts(stoa)?;
    let acknowledged = number(&counts, "queries") - number(&counts, "failed");
    let there: u64 = query(stoa, database, "SELECT count(*) FROM ticks")?.parse()?;
    ensure!(
        there >= acknowledged,
        "{acknowledged} rows were acknowledged, {there} are there"
    );
    Ok(())
}

#[test]
fn a_database_goes_to_a_later_major_version_and_back() -> Result<()> {
    let stoa = Stoa::start("majors")?;
    // Both of one age: a later version that is older than the former one does not know all of what that writes.
    debians(&stoa)?;
    add(&stoa, "16")?;
    add(&stoa, "18")?;
    stoa.cli(&["db", "engines"])?
        .ok()?
        .says("15")?
        .says("16")?
        .says("18")?;
    // What waits for a receiver must not wait for one that is not there yet.
    let words = [
        "db",
        "create",
        "main",
        "--version",
        "16",
        "--backup-level",
        "sync",
    ];
    stoa.cli(&words)?.ok()?;
    let app = Application::copy("queries", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    queries_go_on(&stoa)?;
    query(
        &stoa,
        "main",
        "CREATE TABLE people (id bigserial PRIMARY KEY, name text COLLATE \"C\"); CREATE INDEX ON people (name);
         INSERT INTO people (name) SELECT md5(n::text) FROM generate_series(1, 20000) n; ANALYZE people",
    )?;
    above(
        &stoa,
        "main",
        "CREATE ROLE reader; GRANT SELECT ON people TO reader",
    )?;

    // Rehearsed on a branch, to try things out on; again from the same.
    stoa.cli(&["db", "branch", "main", "--as", "try", "--version", "18"])?
        .ok()?
        .says("upgraded from 16 in")?;
    ensure!(version(&stoa, "try")? == "18", "the branch is not of 18");
    ensure!(info(&stoa, "try")?["branch_of"]["version"] == "18", "not told");
    ensure!(
        query(&stoa, "try", "SELECT count(*) FROM people")? == "20000",
        "not its rows"
    );
    query(&stoa, "try", "DROP TABLE people")?;
    stoa.cli(&["db", "reset", "try", "--confirm", "try"])?.ok()?;
    ensure!(
        query(&stoa, "try", "SELECT count(*) FROM people")? == "20000",
        "not again"
    );
    stoa.cli(&["db", "destroy", "try", "--confirm", "try"])?.ok()?;

    // Longer than is allowed: nothing is changed, not even an instance.
    let (url, before) = (stoa.cli(&["db", "url", "main"])?.ok()?.stdout, counts(&stoa)?);
    let words = ["db", "upgrade", "main", "--to", "18", "--confirm", "main"];
    stoa.cli(&[&words[..], &["--max-pause", "1s"]].concat())?
        .exits(1)?
        .says("rehearsed: copied in")?
        .says("nothing was changed")?
        .says("--max-pause")?;
    ensure!(
        counts(&stoa)?["again"] == before["again"],
        "somebody had to connect again"
    );
    ensure!(
        names(&stoa)? == ["main"],
        "something was left: {:?}",
        names(&stoa)?
    );
    stoa.cli(&["db", "upgrade", "main", "--to", "18"])?
        .exits(2)?
        .says("--confirm main")?;

    let answer = stoa.cli(&[&words[..], &["--keep", "2h"]].concat())?.ok()?;
    let answer = answer.says("main is PostgreSQL 18; it did not answer for")?;
    let answer = answer
        .says("is kept as main-replaced-")?
        .says("main will not answer for about")?;
    println!("{}", answer.stderr);
    ensure!(version(&stoa, "main")? == "18", "it is not of 18");
    queries_go_on(&stoa)?;
    nothing_is_missing(&stoa, "main")?;
    ensure!(
        stoa.cli(&["db", "url", "main"])?.ok()?.stdout == url,
        "another address"
    );
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM people")? == "20000",
        "not its rows"
    );
    let granted = "SELECT has_table_privilege('reader', 'people', 'SELECT')";
    ensure!(query(&stoa, "main", granted)? == "t", "not its roles");
    let statistics = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'people'";
    ensure!(query(&stoa, "main", statistics)? == "t", "no statistics");
    ensure!(
        info(&stoa, "main")?["restored_from"]["upgraded_from"] == "16",
        "not told"
    );

    // It has a backup of its own, which brings it back, and logins that can be replaced.
    holds("a base of the new version", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["windows"].as_array().is_some_and(|all| !all.is_empty()))
    })?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    stoa.cli(&["db", "rotate", "main"])?.ok()?;
    queries_go_on(&stoa)?;
    stoa.cli(&["db", "restore", "main", "--as", "copy", "--latest"])?
        .ok()?;
    ensure!(version(&stoa, "copy")? == "18", "a restore is not of 18");

    // The way back, without what was written since.
    let all = names(&stoa)?;
    let kept = all.iter().find(|name| name.starts_with("main-replaced-"));
    let kept = kept.context("nothing is kept")?.clone();
    ensure!(version(&stoa, &kept)? == "16", "the one before is not of 16");
    ensure!(
        stoa.cli(&["db", "url", &kept])?.ok()?.stdout != url,
        "it has the logins still"
    );
    stoa.cli(&["db", "promote", &kept, "--of", "main", "--confirm", "main"])?
        .ok()?;
    ensure!(version(&stoa, "main")? == "16", "it did not go back");
    queries_go_on(&stoa)?;
    stoa.finish()
}

/// The pool holds nothing of a database but what rows tell of.
fn nothing_is_left(stoa: &Stoa) -> Result<()> {
    let pool = stoa.data_dir().join("volumes");
    holds("nothing is left of what was begun", || {
        let all = stoa.cli(&["db", "ls", "--json"])?.ok()?.json()?;
        let ids: Vec<String> = all
            .as_array()
            .context("no list")?
            .iter()
            .filter_map(|one| one["id"].as_str())
            .map(|id| id.trim_start_matches("db_").to_ascii_lowercase())
            .collect();
        let mut left = Vec::new();
        for place in [pool.join("volumes"), pool.join("mnt/volumes")] {
            for volume in fs::read_dir(place).into_iter().flatten() {
                let name = volume?.file_name().to_string_lossy().into_owned();
                let is_of_one = ids.iter().any(|id| name.contains(id.as_str()));
                if name.starts_with("making-db-") || name.starts_with("db-") && !is_of_one {
                    left.push(name);
                }
            }
        }
        Ok(left.is_empty())
    })
}

#[test]
fn what_cannot_be_upgraded_serves_as_before() -> Result<()> {
    let stoa = Stoa::start("majors-refused")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    query(
        &stoa,
        "main",
        "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n",
    )?;
    let upgrade = |to: &str| stoa.cli(&["db", "upgrade", "main", "--to", to, "--confirm", "main"]);
    upgrade("15")?.exits(1)?.says("has PostgreSQL 15 already")?;
    upgrade("9.6")?.exits(1)?.says("must have the form")?;
    upgrade("19")?
        .exits(1)?
        .says("there is no PostgreSQL 19 here")?
        .says("stoa db engines")?;
    stoa.cli(&["db", "branch", "main", "--as", "no", "--version", "14"])?
        .exits(1)?
        .says("there is no PostgreSQL 14 here")?;
    stoa.cli(&["db", "upgrade", "nowhere", "--to", "18", "--confirm", "nowhere"])?
        .exits(3)?;

    // An image that bears the name and has nothing of it.
    let empty = stoa.root().join("empty");
    fs::create_dir(&empty)?;
    fs::write(empty.join("note"), "no PostgreSQL")?;
    let empty = empty.display().to_string();
    stoa.cli(&["image", "add", "postgres:17", &empty, "--over", "nowhere"])?
        .exits(1)?
        .says("there is no image nowhere")?;
    stoa.cli(&[
        "image",
        "add",
        "postgres:17",
        &empty,
        "--over",
        "postgres:15",
        "--at",
        "/../x",
    ])?
    .exits(1)?
    .says("an absolute path")?;
    stoa.cli(&[
        "image",
        "add",
        "postgres:17",
        &empty,
        "--over",
        "postgres:15",
        "--at",
        "/srv",
    ])?
    .ok()?;
    let before = info(&stoa, "main")?;
    upgrade("17")?.exits(1)?.says("initdb")?;
    stoa.cli(&["db", "create", "other", "--version", "17"])?
        .exits(1)?
        .says("initdb")?;

    // What the new version has no library for; what would be lost; what must be settled first. That statements were counted
    // is not in the way.
    add(&stoa, "18")?;
    stoa.cli(&["db", "top", "main", "--statements"])?.ok()?;
    above(&stoa, "main", "CREATE EXTENSION pg_trgm")?;
    upgrade("18")?.exits(1)?.says("pg_trgm")?;
    above(&stoa, "main", "DROP EXTENSION pg_trgm")?;
    let subscription = "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false)";
    above(&stoa, "main", subscription)?;
    upgrade("18")?.exits(1)?.says("subscriptions")?;
    above(&stoa, "main", "ALTER SUBSCRIPTION s SET (slot_name = NONE)")?;
    above(&stoa, "main", "DROP SUBSCRIPTION s")?;
    stoa.cli(&["db", "branch", "main", "--as", "try"])?.ok()?;
    stoa.cli(&["db", "upgrade", "try", "--to", "18", "--confirm", "try"])?
        .exits(6)?
        .says("is a branch")?;
    stoa.cli(&["db", "destroy", "try", "--confirm", "try"])?.ok()?;
    let after = info(&stoa, "main")?;
    ensure!(
        (&after["id"], &after["ready"], &after["generation"])
            == (&before["id"], &json!(true), &before["generation"]),
        "it was changed: {after:#}"
    );
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM kept")? == "100",
        "rows are missing"
    );
    nothing_is_left(&stoa)?;
    stoa.finish()
}

/// Begins an upgrade, and waits until it is at a step.
fn at_step(stoa: &Stoa, operation: &str, wanted: &str) -> Result<()> {
    holds(wanted, || {
        // Nobody answers while control is away.
        let found = stoa.api()?.get(&format!("/v1/operations/{operation}"));
        Ok(found.is_ok_and(|found| found["step"].as_str().unwrap_or_default().contains(wanted)))
    })
}

fn serves(stoa: &Stoa, as_version: &str) -> Result<()> {
    holds("it serves", || Ok(info(stoa, "main")?["ready"] == true))?;
    ensure!(version(stoa, "main")? == as_version, "it is not of {as_version}");
    ensure!(
        query(stoa, "main", "SELECT count(*) FROM kept")? == "100",
        "rows are missing"
    );
    Ok(())
}

#[test]
fn an_upgrade_that_is_given_up_or_killed_ends_well() -> Result<()> {
    let stoa = Stoa::start("majors-killed")?;
    debians(&stoa)?;
    add(&stoa, "16")?;
    add(&stoa, "18")?;
    stoa.cli(&["db", "create", "main", "--version", "16"])?.ok()?;
    // That its image lacks a library only matters to who asks for it.
    stoa.cli(&["db", "top", "main", "--statements"])?
        .exits(6)?
        .says("lacks pg_stat_statements")?
        .has_next_step()?;
    query(
        &stoa,
        "main",
        "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n",
    )?;
    let path = format!("{ENVIRONMENT}/databases/main/upgrade");
    let begin = || {
        stoa.api()?
            .begin("POST", &path, Some(&json!({"version": "18", "max_pause_s": 600})))
    };
    // Given up while it is rehearsed, and while its server is away.
    for wanted in ["upgrading the copy", "does not answer from here on"] {
        let operation = begin()?;
        at_step(&stoa, &operation, wanted)?;
        stoa.cli(&["op", "cancel", &operation])?.ok()?;
        let settled = stoa.api()?.settled(&operation)?;
        ensure!(settled["state"] == "canceled", "after {wanted}: {settled:#}");
        holds("only main is left", || Ok(names(&stoa)? == ["main"]))?;
        serves(&stoa, "16")?;
        nothing_is_left(&stoa)?;
    }
    // Killed at the worst moments: it goes on by itself.
    let operation = begin()?;
    for wanted in [
        "upgrading the copy",
        "does not answer from here on",
        "starting PostgreSQL",
        "starting the one before",
    ] {
        at_step(&stoa, &operation, wanted)?;
        let before = stoa.part("control")?;
        before.signal(libc::SIGKILL)?;
        until("its successor", PATIENCE, || {
            Ok(stoa
                .part("control")
                .ok()
                .filter(|now| now.pid != before.pid)
                .map(|_| ()))
        })?;
    }
    holds("it is done", || {
        let found = stoa.api()?.get(&format!("/v1/operations/{operation}"));
        Ok(found.is_ok_and(|found| found["state"] == "succeeded"))
    })?;
    serves(&stoa, "18")?;
    ensure!(
        names(&stoa)?.len() == 2,
        "more is left than the two: {:?}",
        names(&stoa)?
    );
    stoa.finish()
}
