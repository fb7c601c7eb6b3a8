//! The life of a published application's data: Alerta from PyPI with the tables it makes itself is deployed and filled; its
//! next version is tried on a branch, which that migrates; production comes back as of one second before somebody emptied
//! it, without a deploy and without a failed request of who tries once more; then it gets the next version as well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use journeys::http::{self, Connection};
use journeys::{Application, PATIENCE, Stoa, holds, until};
use serde_json::{Value, json};

const HOST: &str = "alerta.localhost";
const PREVIEW: &str = "alerta-preview.localhost";
/// The version in production, of 2021, with what it needs of that time. `tests/apps/alerta` is the next one.
const BEFORE: &str = "alerta-server==8.7.0\nFlask==2.2.5\nFlask-Compress==1.14\nWerkzeug==2.2.3\npymongo==3.13.0\npsycopg2-binary==2.9.13\n";
const ALERTS: u64 = 60;

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-qAtc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

/// An alert of its own: the same resource and event would only count up.
fn alert(stoa: &Stoa, host: &str, resource: &str) -> Result<()> {
    let body = json!({
        "environment": "Production",
        "event": "down",
        "resource": resource,
        "service": ["web"],
        "severity": "major",
    });
    let headers = [("Content-Type", "application/json")];
    let answer = Connection::open(stoa.listeners().http)?.request(
        "POST",
        host,
        "/alert",
        &headers,
        body.to_string().as_bytes(),
    )?;
    ensure!(
        answer.status == 201,
        "an alert was answered {}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn total(stoa: &Stoa, host: &str) -> Result<u64> {
    count(stoa, host, "")
}

fn count(stoa: &Stoa, host: &str, filter: &str) -> Result<u64> {
    let answer = stoa.get(host, &format!("/alerts/count?{filter}"))?;
    let counts: Value = serde_json::from_str(&answer.text())
        .with_context(|| format!("{}: {}", answer.status, answer.text()))?;
    counts["total"].as_u64().context("no total")
}

/// What the next version makes another type of.
fn type_of_count(stoa: &Stoa, database: &str) -> Result<String> {
    let sql = "SELECT format_type(atttypid, NULL) FROM pg_attribute \
               WHERE attrelid = 'metrics'::regclass AND attname = 'count'";
    query(stoa, database, sql)
}

fn has_version(stoa: &Stoa, host: &str, version: &str) -> Result<()> {
    let answer = stoa.get(host, "/management/manifest")?;
    ensure!(
        answer.text().contains(version),
        "not {version}: {}",
        answer.text()
    );
    Ok(())
}

/// One second before everything is gone, by the server's own clock.
fn disaster(stoa: &Stoa) -> Result<String> {
    let last = query(
        stoa,
        "main",
        "SELECT max(extract(epoch FROM create_time)) FROM alerts",
    )?;
    let is_over = format!("SELECT extract(epoch FROM clock_timestamp()) > {last} + 2");
    holds("two quiet seconds", || Ok(query(stoa, "main", &is_over)? == "t"))?;
    let moment = query(
        stoa,
        "main",
        "SELECT to_char((clock_timestamp() - interval '1 second') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'); \
         TRUNCATE alerts, notes",
    )?;
    Ok(moment)
}

/// Asks all the time, tries once more, and counts.
struct Asking {
    stop: AtomicBool,
    asked: AtomicU64,
    failed: AtomicU64,
}

fn ask(address: std::net::SocketAddr, asking: &Asking) {
    let answers = || http::get(address, HOST, "/alerts/count").is_ok_and(|answer| answer.status == 200);
    while !asking.stop.load(Ordering::Relaxed) {
        if !answers() && !answers() {
            asking.failed.fetch_add(1, Ordering::Relaxed);
        }
        asking.asked.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn production_comes_back_to_one_second_before_the_disaster() -> Result<()> {
    let stoa = Stoa::start("published")?;
    let production = Application::copy("alerta", stoa.root())?;
    let next = std::fs::read_to_string(production.folder().join("requirements.txt"))?;
    production.write("requirements.txt", BEFORE)?;
    // That version's own check of its health fails on PostgreSQL 15.
    let (check, page) = ("/management/healthcheck", "/management/manifest");
    production.replace("stoa.toml", check, page)?;
    stoa.deploy(&production)?.ok()?;
    has_version(&stoa, HOST, "8.7.0")?;
    for number in 0..ALERTS {
        alert(&stoa, HOST, &format!("host-{number}"))?;
    }
    ensure!(total(&stoa, HOST)? == ALERTS, "not all alerts are there");

    try_the_next_version(&stoa)?;
    ensure!(
        type_of_count(&stoa, "main")? == "integer",
        "production was migrated"
    );
    ensure!(
        total(&stoa, HOST)? == ALERTS,
        "production has what the preview wrote"
    );

    alert(&stoa, HOST, "the-last-one")?;
    let moment = disaster(&stoa)?;
    ensure!(total(&stoa, HOST)? == 0, "no disaster");
    alert(&stoa, HOST, "too-late")?;
    until("the moment to be restorable", PATIENCE, || {
        let restored = stoa.cli(&["db", "restore", "main", "--as", "main-before", "--at", &moment])?;
        // The first base may still be on its way.
        Ok((restored.code == 0).then_some(()))
    })?;
    let asking = Asking {
        stop: AtomicBool::new(false),
        asked: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let address = stoa.listeners().http;
    thread::scope(|scope| -> Result<()> {
        let askers: Vec<_> = (0..2).map(|_| scope.spawn(|| ask(address, &asking))).collect();
        let words = [
            "db",
            "promote",
            "main-before",
            "--of",
            "main",
            "--confirm",
            "main",
        ];
        let promoted = stoa.cli(&words).and_then(journeys::Answer::ok);
        let back = promoted.and_then(|_| holds("all alerts again", || Ok(total(&stoa, HOST)? == ALERTS + 1)));
        asking.stop.store(true, Ordering::Relaxed);
        for asker in askers {
            ensure!(asker.join().is_ok(), "an asker ended");
        }
        back
    })?;
    let (asked, failed) = (asking.asked.into_inner(), asking.failed.into_inner());
    ensure!(
        asked > 0 && failed == 0,
        "{failed} of {asked} requests failed twice"
    );
    println!("published: {asked} requests during the promotion, {failed} failed");
    let last = count(&stoa, HOST, "resource=the-last-one")?;
    let late = count(&stoa, HOST, "resource=too-late")?;
    ensure!(
        (last, late) == (1, 0),
        "{last} of before, {late} of after the moment"
    );

    // What was tried on the branch is done to production, by the same deploy.
    production.write("requirements.txt", &next)?;
    production.replace("stoa.toml", page, check)?;
    stoa.deploy(&production)?.ok()?;
    has_version(&stoa, HOST, "9.1.0")?;
    ensure!(type_of_count(&stoa, "main")? == "bigint", "not migrated");
    ensure!(total(&stoa, HOST)? == ALERTS + 1, "the migration lost alerts");
    alert(&stoa, HOST, "after-all")?;
    stoa.finish()
}

/// The next version as an app of its own on a branch of the data.
fn try_the_next_version(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "branch", "main", "--as", "preview", "--ttl", "1d"])?
        .ok()?;
    let preview = Application::copy("alerta", &stoa.root().join("preview"))?;
    preview.replace("stoa.toml", "app = \"alerta\"", "app = \"alerta-preview\"")?;
    for (production, preview_of_it) in [
        ("uses = [\"main\"]", "uses = [\"preview\"]"),
        ("[databases]\nmain =", "[databases]\npreview ="),
    ] {
        preview.replace("stoa.toml", production, preview_of_it)?;
    }
    stoa.deploy(&preview)?.ok()?;
    has_version(stoa, PREVIEW, "9.1.0")?;
    ensure!(total(stoa, PREVIEW)? == ALERTS, "the branch has not the data");
    ensure!(
        type_of_count(stoa, "preview")? == "bigint",
        "the branch was not migrated"
    );
    alert(stoa, PREVIEW, "only-a-try")?;
    ensure!(
        total(stoa, PREVIEW)? == ALERTS + 1,
        "the branch does not take alerts"
    );
    stoa.cli(&["apps", "destroy", "alerta-preview", "--confirm", "alerta-preview"])?
        .ok()?;
    stoa.cli(&["db", "destroy", "preview", "--confirm", "preview"])?
        .ok()?;
    Ok(())
}
