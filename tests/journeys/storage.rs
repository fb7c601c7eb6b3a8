//! Every byte has a budget: an instance that fills its own file system is ended and its end says why; a database that is
//! full may be read, says so, and takes rows again when there is room.

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, Stoa, holds};
use serde_json::Value;

/// Writes so many MiB into the root file system, and stays.
const FILL: &str = "\
import os, sys, time
with open('/var/tmp/fill', 'wb') as file:
    for _ in range(int(sys.argv[1])):
        file.write(os.urandom(1 << 20))
    file.flush()
    os.fsync(file.fileno())
time.sleep(1000)";

#[test]
fn an_instance_that_writes_too_much_is_ended_and_says_why() -> Result<()> {
    let stoa = Stoa::start("storage-instance")?;
    let app = Application::copy("probe", stoa.root())?;
    app.replace(
        "stoa.toml",
        "port = 8080",
        "port = 8080\nresources = { disk = \"64Mi\" }",
    )?;
    stoa.deploy(&app)?.ok()?;
    let fill = |mib: &str| {
        let exec = ["exec", "-a", app.name(), "--", "timeout", "15"];
        stoa.cli(&[&exec[..], &["python3", "-c", FILL, mib]].concat())
    };
    // The control: what is within the limit stays.
    let before = stoa.instances(app.name())?;
    fill("16")?;
    ensure!(
        stoa.instances(app.name())?.len() == before.len(),
        "it was ended for little"
    );
    fill("96")?;
    holds("its end and its reason", || {
        let ended = stoa.instances(app.name())?;
        let says = |one: &Value| {
            one["why"]
                .as_str()
                .is_some_and(|why| why.contains("resources.disk"))
        };
        Ok(ended.iter().any(says))
    })?;
    holds("another in its place", || {
        Ok(stoa.get(&app.host(), "/healthz")?.status == 200)
    })?;
    stoa.finish()
}

fn query(stoa: &Stoa, sql: &str) -> Result<journeys::Answer> {
    stoa.cli(&[
        "db",
        "connect",
        "--no-terminal",
        "main",
        "--",
        "-v",
        "ON_ERROR_STOP=1",
        "-Atc",
        sql,
    ])
}

fn database(stoa: &Stoa) -> Result<Value> {
    stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()
}

#[test]
fn a_full_database_is_read_only_until_there_is_room() -> Result<()> {
    let stoa = Stoa::start("storage-database")?;
    stoa.cli(&["db", "create", "main", "--size", "160Mi"])?.ok()?;
    ensure!(
        database(&stoa)?["storage_full"].is_null(),
        "it is full from the start"
    );
    query(
        &stoa,
        "CREATE TABLE filler AS SELECT 0 AS n, ''::text AS data WHERE false",
    )?
    .ok()?;
    let fill = "INSERT INTO filler SELECT n, repeat(md5(n::text || random()::text), 30) FROM generate_series(1, 20000) n";
    holds("the database to be full", || {
        let answer = query(&stoa, fill)?;
        Ok(answer.stderr.contains("read-only transaction"))
    })?;
    let full = database(&stoa)?;
    ensure!(full["storage_full"] == "budget", "{full:#}");
    let (used, size) = (full["used_bytes"].as_u64(), full["size_bytes"].as_u64());
    ensure!(used.context("measured")? >= size.context("a size")?, "{full:#}");
    stoa.cli(&["db", "info", "main"])?
        .ok()?
        .says("may only be read")?;
    stoa.cli(&["db", "ls"])?.ok()?.says("full, read only")?;
    query(&stoa, "SELECT count(*) > 0 FROM filler")?.ok()?.says("t")?;
    // A server that starts again is as full as before.
    for server in stoa.members("postgres -D") {
        server.signal(libc::SIGKILL)?;
    }
    holds("the server again", || Ok(query(&stoa, "SELECT 1")?.code == 0))?;
    ensure!(query(&stoa, fill)?.code != 0, "after its restart it takes rows");
    // Its owner makes room.
    let room = [
        "-c",
        "SET default_transaction_read_only = off",
        "-c",
        "TRUNCATE filler",
    ];
    stoa.cli(&[&["db", "connect", "--no-terminal", "main", "--"], &room[..]].concat())?
        .ok()?;
    holds("room again", || {
        Ok(query(&stoa, "INSERT INTO filler VALUES (1, '')")?.code == 0)
    })?;
    ensure!(
        database(&stoa)?["storage_full"].is_null(),
        "it still says that it is full"
    );
    stoa.finish()
}
