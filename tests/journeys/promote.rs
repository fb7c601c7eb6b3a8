//! A restored database takes the place of the one it is of: a program that tries once more sees no failed query, nothing
//! is written to both, the one before stays, and a kill at any step ends in the same place.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::{Value, json};

const HOST: &str = "queries.localhost";

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-qAtc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

/// The application that queries all the time, and a table that somebody will miss.
fn prepare(stoa: &Stoa) -> Result<()> {
    let app = Application::copy("queries", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    queries_go_on(stoa)?;
    query(
        stoa,
        "main",
        "CREATE TABLE orders AS SELECT generate_series(1, 100) AS id",
    )?;
    holds("a base with its log", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["receiving"] == true && found["windows"].as_array().is_some_and(|all| !all.is_empty()))
    })
}

fn counts(stoa: &Stoa) -> Result<Value> {
    let answer = stoa.get(HOST, "/")?;
    serde_json::from_str(&answer.text()).with_context(|| format!("the counts are {}", answer.text()))
}

fn number(counts: &Value, what: &str) -> u64 {
    counts[what].as_u64().unwrap_or(u64::MAX)
}

/// Waits until a hundred more have been answered.
fn queries_go_on(stoa: &Stoa) -> Result<()> {
    let before = number(&counts(stoa)?, "queries");
    holds("queries", || {
        Ok(number(&counts(stoa)?, "queries") >= before.saturating_add(100))
    })
}

fn none_failed(stoa: &Stoa, when: &str) -> Result<Value> {
    let counts = counts(stoa)?;
    ensure!(counts["failed"] == 0, "{when}: {counts:#}");
    Ok(counts)
}

/// The server's clock, to the millisecond, after what it has committed so far.
fn moment(stoa: &Stoa) -> Result<String> {
    query(
        stoa,
        "main",
        r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#,
    )
}

fn database(stoa: &Stoa, name: &str) -> Result<Value> {
    stoa.cli(&["db", "info", name, "--json"])?.ok()?.json()
}

/// The name under which the one before is kept.
fn kept(stoa: &Stoa) -> Result<String> {
    let id = database(stoa, "main")?["promoted"]["instead_of"].clone();
    let kept = database(stoa, id.as_str().context("main took nobody's place")?)?;
    Ok(kept["name"].as_str().context("no name")?.to_owned())
}

fn writes_to(stoa: &Stoa, database: &str) -> Result<bool> {
    let last = "SELECT coalesce(max(id), 0) FROM ticks";
    let before = query(stoa, database, last)?;
    queries_go_on(stoa)?;
    Ok(query(stoa, database, last)? != before)
}

#[test]
fn no_query_fails_when_a_restored_database_takes_its_place() -> Result<()> {
    let stoa = Stoa::start("promote")?;
    prepare(&stoa)?;
    let url = stoa.cli(&["db", "url", "main"])?.ok()?.stdout;
    let at = moment(&stoa)?;
    query(&stoa, "main", "DROP TABLE orders")?;
    stoa.cli(&["db", "restore", "main", "--as", "main-before", "--at", &at])?
        .ok()?;
    what_cannot_be_is_refused(&stoa)?;

    none_failed(&stoa, "before")?;
    stoa.cli(&["db", "promote", "main-before", "--of", "main"])?
        .exits(2)?
        .says(&format!("after {at}"))?
        .says("--confirm main")?;
    let words = [
        "db",
        "promote",
        "main-before",
        "--of",
        "main",
        "--confirm",
        "main",
        "--keep",
        "2h",
    ];
    stoa.cli(&words)?
        .ok()?
        .says("is kept as main-replaced-")?
        .says("of log written since the restored moment")?;
    queries_go_on(&stoa)?;
    let counts = none_failed(&stoa, "promoted")?;
    ensure!(
        number(&counts, "again") >= 4,
        "who was connected had to connect again: {counts:#}"
    );
    ensure!(
        number(&counts, "worst_ms") < 10_000,
        "somebody waited long: {counts:#}"
    );
    println!("promote: {counts}");

    // The same name and login, the data of the moment, and nobody writes to the one before.
    ensure!(
        stoa.cli(&["db", "url", "main"])?.ok()?.stdout == url,
        "another address"
    );
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM orders")? == "100",
        "not the data"
    );
    let old = kept(&stoa)?;
    ensure!(
        writes_to(&stoa, "main")? && !writes_to(&stoa, &old)?,
        "writes go elsewhere"
    );
    let row = database(&stoa, &old)?;
    ensure!(
        row["replaced"]["was"] == "main" && row["replaced"]["data_until"].as_str() == Some(at.as_str()),
        "{row:#}"
    );
    ensure!(
        row["expires_at"].is_string() && row["used_by"] == json!([]),
        "{row:#}"
    );
    ensure!(
        database(&stoa, "main")?["used_by"] == json!(["queries"]),
        "not used"
    );
    ensure!(
        stoa.cli(&["db", "url", &old])?.ok()?.stdout != url,
        "its own login"
    );
    stoa.cli(&["db", "info", "main"])?.ok()?.says("was main-before")?;
    // A new instance of the application finds it as well.
    stoa.cli(&["restart", "--app", "queries"])?.ok()?;
    queries_go_on(&stoa)?;
    none_failed(&stoa, "a new instance")?;

    stoa.cli(&[
        "db",
        "promote",
        "main-before",
        "--of",
        "main",
        "--confirm",
        "main",
    ])?
    .exits(6)?
    .says("has been main since")?
    .says(&format!("db promote {old} --of main"))?;
    backups_go_on(&stoa, &old)?;

    // The way back is the same one.
    let words = ["db", "promote", &old, "--of", "main", "--confirm", "main"];
    stoa.cli(&words)?.ok()?;
    queries_go_on(&stoa)?;
    none_failed(&stoa, "promoted back")?;
    ensure!(
        query(&stoa, "main", "SELECT to_regclass('orders') IS NULL")? == "t",
        "not the one before"
    );
    ensure!(
        database(&stoa, "main")?["expires_at"].is_null(),
        "what serves would end"
    );
    stoa.finish()
}

/// Both are received under their new names, and both can be restored.
fn backups_go_on(stoa: &Stoa, old: &str) -> Result<()> {
    for name in ["main", old] {
        holds("its log to be received", || {
            Ok(stoa.cli(&["db", "backups", name, "--json"])?.ok()?.json()?["receiving"] == true)
        })?;
    }
    for (name, copy, orders) in [("main", "copy-new", "f"), (old, "copy-old", "t")] {
        query(stoa, name, "CREATE TABLE marks AS SELECT 1 AS mark")?;
        stoa.cli(&["db", "restore", name, "--as", copy, "--latest"])?
            .ok()?;
        ensure!(
            query(stoa, copy, "SELECT mark FROM marks")? == "1",
            "{name} is not archived"
        );
        ensure!(
            query(stoa, copy, "SELECT to_regclass('orders') IS NULL")? == orders,
            "not {name}"
        );
        stoa.cli(&["db", "destroy", copy, "--confirm", copy])?.ok()?;
    }
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    Ok(())
}

fn what_cannot_be_is_refused(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "create", "other"])?.ok()?;
    stoa.cli(&["db", "branch", "main", "--as", "try"])?.ok()?;
    for (name, of, code, said) in [
        ("try", "main", 6, "is a branch"),
        ("other", "main", 6, "is no restore of main"),
        ("main-before", "other", 6, "is no restore of other"),
        ("nowhere", "main", 3, "nowhere"),
        ("main-before", "nowhere", 3, "nowhere"),
        ("main", "main", 1, "its own place"),
    ] {
        stoa.cli(&["db", "promote", name, "--of", of, "--confirm", of])?
            .exits(code)?
            .says(said)?
            .has_next_step()?;
    }
    let short = [
        "db",
        "promote",
        "main-before",
        "--of",
        "main",
        "--confirm",
        "main",
        "--keep",
        "1s",
    ];
    stoa.cli(&short)?.exits(1)?.says("keep_s")?;
    ensure!(
        database(stoa, "main")?["used_by"] == json!(["queries"]),
        "something was done"
    );
    stoa.cli(&["db", "destroy", "try", "--confirm", "try"])?.ok()?;
    stoa.cli(&["db", "destroy", "other", "--confirm", "other"])?
        .ok()?;
    Ok(())
}

#[test]
fn a_kill_of_control_at_any_step_ends_in_one_place() -> Result<()> {
    let stoa = Stoa::start("promote-kill")?;
    prepare(&stoa)?;
    stoa.cli(&["db", "restore", "main", "--as", "before", "--latest"])?
        .ok()?;
    let mut next = "before".to_owned();
    for step in ["making the logins the same", "changing names", "moving sessions"] {
        let api = stoa.api()?;
        let path = format!("{ENVIRONMENT}/databases/main/promote");
        let id = database(&stoa, &next)?["id"].clone();
        let operation = api.begin("POST", &path, Some(&json!({ "name": next })))?;
        until("the step before the kill", PATIENCE, || {
            let now = api.get(&format!("/v1/operations/{operation}"))?;
            let is_over = matches!(now["state"].as_str(), Some("succeeded" | "failed"));
            Ok((now["step"] == step || is_over).then_some(()))
        })?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = until("the API again", PATIENCE, || {
            Ok(Some(stoa.api()?.settled(&operation)?))
        })?;
        ensure!(settled["state"] == "succeeded", "killed at {step:?}: {settled:#}");
        ensure!(
            database(&stoa, "main")?["id"] == id,
            "killed at {step:?}: another one"
        );
        next = kept(&stoa)?;
        ensure!(
            writes_to(&stoa, "main")? && !writes_to(&stoa, &next)?,
            "killed at {step:?}: writes go elsewhere"
        );
        none_failed(&stoa, step)?;
        let all = stoa.cli(&["db", "ls", "--json"])?.ok()?.json()?;
        ensure!(all.as_array().is_some_and(|all| all.len() == 2), "{all:#}");
        stoa.cli(&["db", "url", &next])?.ok()?;
    }
    stoa.finish()
}

/// The control file of a database's cluster: without it no server starts.
fn control_file(stoa: &Stoa, name: &str) -> Result<PathBuf> {
    let row = database(stoa, name)?;
    let id = row["id"].as_str().context("no id")?;
    let volume = format!("db-{}", id.trim_start_matches("db_").to_ascii_lowercase());
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let file = places
        .iter()
        .map(|place| place.join(&volume).join("pgdata/global/pg_control"))
        .find(|file| file.exists());
    file.with_context(|| format!("no cluster in {volume}"))
}

#[test]
fn one_that_is_beyond_repair_can_be_replaced() -> Result<()> {
    let stoa = Stoa::start("promote-broken")?;
    prepare(&stoa)?;
    stoa.cli(&["db", "restore", "main", "--as", "before", "--latest"])?
        .ok()?;
    fs::remove_file(control_file(&stoa, "main")?)?;
    // A server's working directory is its cluster; the other one goes on, so that nothing waits for it.
    for server in stoa.members("postgres -D") {
        if !PathBuf::from(format!("/proc/{}/cwd/global/pg_control", server.pid)).exists() {
            server.signal(libc::SIGKILL)?;
        }
    }
    holds("one server of two", || {
        Ok(database(&stoa, "main")?["ready"] == false && database(&stoa, "before")?["ready"] == true)
    })?;
    stoa.cli(&["db", "promote", "before", "--of", "main", "--confirm", "main"])?
        .ok()?
        .says("is kept as main-replaced-")?;
    holds("writes again", || writes_to(&stoa, "main"))?;
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM orders")? == "100",
        "not the data"
    );
    let failed = counts(&stoa)?["failed"].clone();
    queries_go_on(&stoa)?;
    ensure!(counts(&stoa)?["failed"] == failed, "queries still fail");
    stoa.finish()
}
