//! A pooler: more clients than the server has sessions, statements prepared over it, and no failed query while passwords
//! are replaced, the server starts anew, another database takes the place, and the pooler comes and goes.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use journeys::process::Process;
use journeys::session;
use journeys::soak::queries::pooled;
use journeys::{Application, ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::Value;

const HOST: &str = "queries.localhost";
/// Of Debian's package.
const PGBENCH: &str = "/usr/lib/postgresql/15/bin/pgbench";
/// Four times what the server of 256 MiB has room for.
const CLIENTS: &str = "100";

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", database, "--", "-qAtc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

fn poolers(stoa: &Stoa) -> Vec<Process> {
    stoa.members("pgbouncer /run/secrets")
}

/// A program of PostgreSQL in the network of an instance, which signs in to what listens there.
fn beside(stoa: &Stoa, instance: &Process, program: &str, arguments: &[&str]) -> Result<Output> {
    beside_as(stoa, "main", instance, program, arguments)
}

/// The same with the login of another database.
fn beside_as(
    stoa: &Stoa,
    database: &str,
    instance: &Process,
    program: &str,
    arguments: &[&str],
) -> Result<Output> {
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", instance.pid));
    let shown = stoa.cli(&["db", "url", database, "--json"])?.ok()?.json()?;
    for name in ["PGUSER", "PGPASSWORD", "PGDATABASE"] {
        let value = shown["variables"][name].as_str();
        command.env(name, value.with_context(|| format!("no {name}"))?);
    }
    command.env("PGHOST", "127.0.0.1").arg(program).args(arguments);
    Ok(command.output()?)
}

fn failed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn counts(stoa: &Stoa) -> Result<Value> {
    let answer = stoa.get(HOST, "/")?;
    serde_json::from_str(&answer.text()).with_context(|| format!("the counts are {}", answer.text()))
}

/// Waits until a hundred more have been answered; none of all has failed.
fn queries_go_on(stoa: &Stoa, when: &str) -> Result<Value> {
    let number = |counts: &Value| counts["queries"].as_u64().unwrap_or_default();
    let before = number(&counts(stoa)?);
    holds("queries", || Ok(number(&counts(stoa)?) >= before + 100))?;
    let counts = counts(stoa)?;
    ensure!(counts["failed"] == 0, "{when}: {counts:#}");
    println!("{when}: {counts}");
    Ok(counts)
}

fn variable(stoa: &Stoa, name: &str) -> Result<String> {
    let shown = stoa.cli(&["db", "url", "main", "--json"])?.ok()?.json()?;
    let value = shown["variables"][name].as_str();
    Ok(value.with_context(|| format!("no {name}"))?.to_owned())
}

#[test]
fn many_clients_share_few_sessions_and_none_of_their_queries_fails() -> Result<()> {
    let stoa = Stoa::start("pooler")?;
    stoa.cli(&["db", "create", "main", "--pooled"])?.ok()?;
    // Its address leads to the server until the pooler is there, so that this one needs not wait.
    stoa.deploy(&Application::copy("queries", stoa.root())?)?.ok()?;
    pooled(&stoa, "main")?;
    ensure!(
        variable(&stoa, "DATABASE_URL")?.contains("@pool.main.db.internal:5432/app"),
        "not pooled"
    );
    ensure!(
        variable(&stoa, "DATABASE_URL_DIRECT")?.contains("@main.db.internal:5432/app"),
        "not direct"
    );
    stoa.cli(&["restart", "--app", "queries"])?.ok()?;
    queries_go_on(&stoa, "pooled")?;
    more_clients_than_sessions(&stoa)?;
    nobody_else_signs_in(&stoa)?;

    // Who is connected to the pooler stays connected, and the first login ends.
    stoa.cli(&["db", "rotate", "main"])?.ok()?;
    queries_go_on(&stoa, "rotated")?;
    ensure!(variable(&stoa, "PGUSER")? == "app_2", "not another login");

    let server = session::server(&stoa)?.pid;
    stoa.cli(&["db", "restart", "main", "--confirm", "other"])?
        .exits(2)?;
    for run in 0..2 {
        let told = stoa.cli(&["db", "restart", "main", "--confirm", "main"])?.ok()?;
        told.says("clients of its pooler waited")?;
        let counts = queries_go_on(&stoa, "started anew")?;
        ensure!(counts["again"] == 0, "somebody noticed restart {run}: {counts:#}");
    }
    ensure!(session::server(&stoa)?.pid != server, "the same server");
    a_kill_of_control_leaves_nobody_waiting(&stoa)?;

    a_copy_has_no_pooler_of_the_other(&stoa)?;
    another_takes_the_place(&stoa)?;

    // Its address goes on leading somewhere, for those that have it.
    stoa.cli(&["db", "update", "main", "--pooled", "no"])?
        .ok()?
        .says("stoa restart --app queries")?;
    holds("the end of the pooler", || Ok(poolers(&stoa).is_empty()))?;
    queries_go_on(&stoa, "without a pooler")?;
    ensure!(
        variable(&stoa, "DATABASE_URL")? == variable(&stoa, "DATABASE_URL_DIRECT")?,
        "still pooled"
    );
    holds("nobody to look up logins", || {
        Ok(query(
            &stoa,
            "main",
            "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'stoa_pooler'",
        )? == "f")
    })?;
    stoa.cli(&["db", "restart", "main", "--confirm", "main"])?
        .ok()?
        .says("its sessions ended once")?;
    stoa.finish()
}

/// While clients wait, whoever had them wait dies: it goes on, and they with it.
fn a_kill_of_control_leaves_nobody_waiting(stoa: &Stoa) -> Result<()> {
    let path = format!("{ENVIRONMENT}/databases/main/restart");
    for step in [
        "having its clients wait",
        "ending its server",
        "starting its server",
    ] {
        let api = stoa.api()?;
        let operation = api.begin("POST", &path, None)?;
        until("the step before the kill", PATIENCE, || {
            let now = api.get(&format!("/v1/operations/{operation}"))?;
            let is_over = matches!(now["state"].as_str(), Some("succeeded" | "failed"));
            let is_there = now["step"].as_str().is_some_and(|at| at.starts_with(step));
            Ok((is_there || is_over).then_some(()))
        })?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = until("the API again", PATIENCE, || {
            Ok(Some(stoa.api()?.settled(&operation)?))
        })?;
        ensure!(settled["state"] == "succeeded", "killed at {step:?}: {settled:#}");
        queries_go_on(stoa, step)?;
    }
    Ok(())
}

/// All at once, each with a statement that it prepared once; without the pooler the server refuses most of them.
fn more_clients_than_sessions(stoa: &Stoa) -> Result<()> {
    let pooler = poolers(stoa).pop().context("no pooler runs")?;
    let made = beside(stoa, &pooler, PGBENCH, &["-i", "-q"])?;
    ensure!(made.status.success(), "{}", failed(&made));
    let work = [
        "-n", "-S", "-M", "prepared", "-c", CLIENTS, "-j", "2", "-t", "100",
    ];
    let shared = beside(stoa, &pooler, PGBENCH, &work)?;
    ensure!(shared.status.success(), "{}", failed(&shared));
    let direct = beside(stoa, &session::server(stoa)?, PGBENCH, &work)?;
    let is_full =
        |text: &str| text.contains("too many clients") || text.contains("remaining connection slots");
    ensure!(is_full(&failed(&direct)), "{}", failed(&direct));
    // Transactions of many statements, too.
    let pooler_again = beside(
        stoa,
        &pooler,
        PGBENCH,
        &["-n", "-M", "simple", "-c", "30", "-t", "10"],
    )?;
    ensure!(pooler_again.status.success(), "{}", failed(&pooler_again));
    Ok(())
}

/// Logins of apps alone are looked up, and only the pooler looks them up.
fn nobody_else_signs_in(stoa: &Stoa) -> Result<()> {
    let pooler = poolers(stoa).pop().context("no pooler runs")?;
    for (user, expected) in [
        ("postgres", "no such user"),
        ("stoa_archive", "no such user"),
        ("app_owner", "no such user"),
        ("nobody", "no such user"),
        ("stoa_pooler", "authentication failed"),
    ] {
        let said = beside(stoa, &pooler, session::PSQL, &["-U", user, "-c", "SELECT 1"])?;
        ensure!(failed(&said).contains(expected), "{user}: {}", failed(&said));
    }
    for database in ["postgres", "pgbouncer"] {
        let sql = "SELECT * FROM stoa_pooler.lookup('app_1')";
        let said = beside(stoa, &pooler, session::PSQL, &["-d", database, "-c", sql])?;
        ensure!(!said.status.success(), "{database}: it was told");
    }
    // Its password is on no command line, in no environment, and in none of our files.
    let words = std::fs::read_to_string(format!("/proc/{}/cmdline", pooler.pid))?;
    let surroundings = std::fs::read_to_string(format!("/proc/{}/environ", pooler.pid))?;
    ensure!(
        !words.contains("userlist") && !surroundings.to_lowercase().contains("password"),
        "{words} {surroundings}"
    );
    Ok(())
}

fn a_copy_has_no_pooler_of_the_other(stoa: &Stoa) -> Result<()> {
    // One that sleeps can have none.
    stoa.cli(&["db", "branch", "main", "--as", "try", "--idle-stop", "never"])?
        .ok()?;
    let shown = stoa.cli(&["db", "info", "try", "--json"])?.ok()?.json()?;
    ensure!(shown["pooler"].is_null(), "{shown:#}");
    let may = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'stoa_pooler'";
    ensure!(
        query(stoa, "try", may)? == "f",
        "what looked up logins still signs in"
    );
    // It can have its own.
    let others: Vec<_> = poolers(stoa).iter().map(|pooler| pooler.pid).collect();
    stoa.cli(&["db", "update", "try", "--pooled", "yes"])?.ok()?;
    pooled(stoa, "try")?;
    let own = poolers(stoa)
        .into_iter()
        .find(|pooler| !others.contains(&pooler.pid))
        .context("it has none of its own")?;
    let said = beside_as(stoa, "try", &own, session::PSQL, &["-Atc", "SELECT 6 * 7"])?;
    ensure!(
        said.status.success() && String::from_utf8_lossy(&said.stdout).trim() == "42",
        "{}",
        failed(&said)
    );
    stoa.cli(&["db", "destroy", "try", "--confirm", "try"])?.ok()?;
    holds("the end of its pooler", || Ok(poolers(stoa).len() == 1))
}

fn another_takes_the_place(stoa: &Stoa) -> Result<()> {
    query(stoa, "main", "CREATE TABLE marks AS SELECT 1 AS mark")?;
    stoa.cli(&["db", "restore", "main", "--as", "main-before", "--latest"])?
        .ok()?;
    // It is ready before anybody is led to it.
    pooled(stoa, "main-before")?;
    let words = [
        "db",
        "promote",
        "main-before",
        "--of",
        "main",
        "--confirm",
        "main",
    ];
    stoa.cli(&words)?.ok()?;
    queries_go_on(stoa, "promoted")?;
    holds("one pooler", || Ok(poolers(stoa).len() == 1))?;
    let shown = stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()?;
    ensure!(shown["pooler"]["state"] == "ready", "{shown:#}");
    let last = "SELECT coalesce(max(id), 0) FROM ticks";
    let before = query(stoa, "main", last)?;
    queries_go_on(stoa, "on the other one")?;
    ensure!(query(stoa, "main", last)? != before, "queries go elsewhere");
    let place = format!("{ENVIRONMENT}/databases/main");
    ensure!(
        stoa.api()?.get(&place)?["pooler"]["sessions"] == 15,
        "other limits"
    );
    Ok(())
}

/// Debian 12's is too old, and said to be; with another image in its place it comes by itself.
#[test]
fn an_old_one_is_refused_with_the_reason() -> Result<()> {
    let stoa = Stoa::start("old-pooler")?;
    let words = ["image", "base", "create", "pgbouncer:1", "--suite", "bookworm"];
    stoa.cli(&[&words[..], &["--packages", "pgbouncer"]].concat())?
        .ok()?;
    stoa.cli(&["db", "create", "main", "--pooled"])?.ok()?;
    holds("its pooler to be refused", || {
        let shown = stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()?;
        let why = shown["pooler"]["why"].as_str().unwrap_or_default();
        Ok(shown["pooler"]["state"] == "failed" && why.contains("1.18.0, and 1.24.1 is the oldest"))
    })?;
    stoa.cli(&["db", "info", "main"])?
        .ok()?
        .says("leads to the server")?;
    // Who was given its address reaches the database all the same.
    stoa.deploy(&Application::copy("queries", stoa.root())?)?.ok()?;
    queries_go_on(&stoa, "without its pooler")?;
    stoa.finish()
}
