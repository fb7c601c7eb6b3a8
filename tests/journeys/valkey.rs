//! Valkeys: what is written survives a kill of the server, logins are replaced, a branch is independent, and what a FLUSHALL
//! took comes back by a restore to the second before, from the log in use and from one that was kept before its rewrite.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, PATIENCE, Stoa, holds, until};

/// What `valkey-cli` prints, beside the server and as its newest login.
fn ask(stoa: &Stoa, database: &str, words: &[&str]) -> Result<String> {
    let mut all = vec!["db", "connect", "--no-terminal", database, "--"];
    all.extend(words);
    Ok(stoa.cli(&all)?.ok()?.stdout.trim().to_owned())
}

fn url(stoa: &Stoa, database: &str) -> Result<String> {
    let shown = stoa.cli(&["db", "url", database, "--json"])?.ok()?.json()?;
    let url = shown["variables"]["REDIS_URL"].as_str();
    Ok(url.context("no REDIS_URL")?.to_owned())
}

/// Whether a login gets into the server of a database.
fn lets_in(stoa: &Stoa, database: &str, url: &str) -> Result<bool> {
    let (login, _) = url.split_once('@').context("no login")?;
    let here = format!("{login}@127.0.0.1:6379/0");
    let words = [
        "db",
        "connect",
        "--no-terminal",
        database,
        "--",
        "-u",
        &here,
        "PING",
    ];
    let answer = stoa.cli(&words)?;
    Ok(answer.stdout.trim() == "PONG")
}

/// The first whole second after now, once it has come.
fn next_second(stoa: &Stoa, database: &str) -> Result<String> {
    let now = || -> Result<String> {
        let shown = stoa.cli(&["db", "backups", database, "--json"])?.ok()?.json()?;
        let until = shown["valkey"]["until"].as_str().context("no window")?;
        Ok(format!("{}Z", until.get(..19).context("no time")?))
    };
    let before = now()?;
    until("the next second", PATIENCE, || {
        let second = now()?;
        Ok((second > before).then_some(second))
    })
}

fn refused(stoa: &Stoa, words: &[&str], why: &str) -> Result<()> {
    let answer = stoa.cli(words)?;
    ensure!(answer.code != 0, "{words:?} was not refused: {}", answer.stdout);
    answer.says(why)?.has_next_step()?;
    Ok(())
}

fn kill_server(stoa: &Stoa, database: &str) -> Result<()> {
    let marks = ask(stoa, database, &["INFO", "server"])?;
    let run = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("run_id:"));
        line.unwrap_or_default().trim().to_owned()
    };
    let before = run(&marks);
    for server in stoa.members("valkey-server") {
        server.signal(9)?;
    }
    holds("another server", || {
        let words = ["db", "connect", "--no-terminal", database, "--", "INFO", "server"];
        let answer = stoa.cli(&words)?;
        Ok(answer.code == 0 && run(&answer.stdout) != before)
    })
}

#[test]
fn a_valkey_keeps_what_it_was_given() -> Result<()> {
    let stoa = Stoa::start("valkey")?;
    let begun = Instant::now();
    stoa.cli(&["db", "create", "store", "--engine", "valkey"])?.ok()?;
    println!("the first, with its image: {} ms", begun.elapsed().as_millis());
    let begun = Instant::now();
    stoa.cli(&[
        "db", "create", "cache", "--engine", "valkey", "--plan", "cache", "--memory", "64Mi",
    ])?
    .ok()?
    .says("REDIS_URL")?;
    println!("the second: {} ms", begun.elapsed().as_millis());

    // What it is, and what it has not, is told.
    stoa.cli(&["db", "ls"])?
        .ok()?
        .says("valkey 8 durable")?
        .says("valkey 8 cache")?
        .says("ON THIS SERVER ONLY, not drilled")?
        .says("NONE: a cache keeps nothing on disk")?;
    let shown = stoa.cli(&["db", "info", "store", "--json"])?.ok()?.json()?;
    ensure!(
        shown["protection"].is_null() && shown["backup_level"].is_null(),
        "{shown:#}"
    );
    let address = url(&stoa, "store")?;
    ensure!(
        address.starts_with("redis://app_1:") && address.ends_with("@store.db.internal:6379/0"),
        "{address}"
    );

    // A login may do what is its own, and nothing to the server.
    ask(&stoa, "store", &["SET", "a", "1"])?;
    ask(&stoa, "cache", &["SET", "a", "1"])?;
    ensure!(ask(&stoa, "store", &["GET", "a"])? == "1");
    for words in [
        &["CONFIG", "GET", "maxmemory"][..],
        &["SHUTDOWN", "NOSAVE"],
        &["BGREWRITEAOF"],
        &["ACL", "LIST"],
        &["REPLICAOF", "NO", "ONE"],
    ] {
        let mut all = vec!["db", "connect", "--no-terminal", "store", "--"];
        all.extend(words);
        stoa.cli(&all)?.exits(1)?.says("NOPERM")?;
    }

    // A kill takes nothing from a durable one, and everything from a cache.
    kill_server(&stoa, "store")?;
    ensure!(ask(&stoa, "store", &["GET", "a"])? == "1");
    holds("the cache to answer", || {
        let answer = stoa.cli(&["db", "connect", "--no-terminal", "cache", "--", "DBSIZE"])?;
        Ok(answer.stdout.trim() == "0")
    })?;

    // Another password; the former one ends.
    ensure!(lets_in(&stoa, "store", &address)?);
    stoa.cli(&["db", "rotate", "store"])?.ok()?;
    let second = url(&stoa, "store")?;
    ensure!(second.starts_with("redis://app_2:"), "{second}");
    ensure!(lets_in(&stoa, "store", &second)? && !lets_in(&stoa, "store", &address)?);
    kill_server(&stoa, "store")?;
    ensure!(lets_in(&stoa, "store", &second)? && !lets_in(&stoa, "store", &address)?);

    // A branch has the data and neither the logins nor a life in common.
    stoa.cli(&["db", "branch", "store", "--as", "try"])?.ok()?;
    ensure!(!lets_in(&stoa, "try", &second)? && lets_in(&stoa, "try", &url(&stoa, "try")?)?);
    ask(&stoa, "try", &["SET", "a", "2"])?;
    ask(&stoa, "store", &["SET", "b", "1"])?;
    ensure!(ask(&stoa, "store", &["GET", "a"])? == "1" && ask(&stoa, "try", &["GET", "b"])?.is_empty());

    stoa.cli(&["db", "destroy", "try", "--confirm", "try"])?.ok()?;
    stoa.finish()
}

/// Speaks with the server at `REDIS_URL`, as any client does.
const CLIENT: &str = "\
import os, socket, urllib.parse
url = urllib.parse.urlparse(os.environ['REDIS_URL'])
assert os.environ['REDIS_URL'] == os.environ['FAST_URL'] and 'DATABASE_URL' not in os.environ
link = socket.create_connection((url.hostname, url.port))
link.sendall(f'AUTH {url.username} {url.password}\\r\\nSET greeting hello\\r\\nGET greeting\\r\\nQUIT\\r\\n'.encode())
print(link.makefile().read().split())";

#[test]
fn an_app_finds_its_valkey() -> Result<()> {
    let stoa = Stoa::start("valkey-app")?;
    let app = Application::copy("probe", stoa.root())?;
    let manifest = std::fs::read_to_string(app.folder().join("stoa.toml"))?;
    let manifest = manifest.replacen("[services.web]\n", "[services.web]\nuses = [\"fast\"]\n", 1);
    let databases = "\n[databases]\nfast = { engine = \"valkey\", plan = \"cache\" }\n";
    app.write("stoa.toml", &format!("{manifest}{databases}"))?;
    stoa.deploy(&app)?.ok()?;
    let told = stoa
        .cli(&["run", "-a", app.name(), "--", "python3", "-c", CLIENT])?
        .ok()?;
    ensure!(
        told.stdout.trim() == "['+OK', '+OK', '$5', 'hello', '+OK']",
        "{}",
        told.stdout
    );
    ensure!(ask(&stoa, "fast", &["GET", "greeting"])? == "hello");
    app.replace("stoa.toml", "plan = \"cache\"", "plan = \"durable\"")?;
    stoa.deploy(&app)?
        .exits(1)?
        .says("has the plan cache, and stoa.toml wants the plan durable")?
        .has_next_step()?;
    refused(
        &stoa,
        &["db", "destroy", "fast", "--confirm", "fast"],
        "is used by the release of",
    )?;
    stoa.finish()
}

#[test]
fn what_was_flushed_comes_back() -> Result<()> {
    let stoa = Stoa::start("valkey-restore")?;
    stoa.cli(&["db", "create", "store", "--engine", "valkey"])?.ok()?;
    for number in 0..20 {
        ask(&stoa, "store", &["SET", &format!("k{number}"), "before"])?;
    }
    let before = next_second(&stoa, "store")?;
    ask(&stoa, "store", &["FLUSHALL"])?;
    ask(&stoa, "store", &["SET", "after", "1"])?;

    let begun = Instant::now();
    stoa.cli(&["db", "restore", "store", "--as", "back", "--at", &before])?
        .ok()?
        .says("before the whole second")?;
    println!("restored: {} ms", begun.elapsed().as_millis());
    let had = |database: &str| -> Result<()> {
        let size = ask(&stoa, database, &["DBSIZE"])?;
        ensure!(size == "20", "{database} has {size} keys");
        ensure!(ask(&stoa, database, &["GET", "k7"])? == "before");
        Ok(())
    };
    had("back")?;
    ensure!(!lets_in(&stoa, "back", &url(&stoa, "store")?)?);
    ensure!(
        ask(&stoa, "store", &["DBSIZE"])? == "1",
        "the other one is left alone"
    );

    // The log as it was is kept when it is rewritten, and reaches the same moment.
    stoa.cli(&["db", "backup", "store"])?.ok()?.says("is kept")?;
    ask(&stoa, "store", &["SET", "later", "1"])?;
    stoa.cli(&["db", "backups", "store"])?
        .ok()?
        .says("KEPT LOG")?
        .says("no copy elsewhere")?;
    stoa.cli(&["db", "restore", "store", "--as", "again", "--at", &before])?
        .ok()?;
    had("again")?;
    let now = next_second(&stoa, "store")?;
    stoa.cli(&["db", "restore", "store", "--as", "today", "--at", &now])?
        .ok()?;
    ensure!(ask(&stoa, "today", &["DBSIZE"])? == "2");
    stoa.cli(&["db", "restore", "store", "--as", "newest", "--latest"])?
        .ok()?;
    ensure!(ask(&stoa, "newest", &["DBSIZE"])? == "2");

    // What is not kept is refused, with what is.
    refused(
        &stoa,
        &[
            "db",
            "restore",
            "store",
            "--as",
            "x",
            "--at",
            "2020-01-01T00:00:00Z",
        ],
        "lies outside of what store can be restored to: from ",
    )?;
    refused(
        &stoa,
        &[
            "db",
            "restore",
            "store",
            "--as",
            "x",
            "--at",
            "2100-01-01T00:00:00Z",
        ],
        "lies outside",
    )?;
    stoa.finish()
}

#[test]
fn what_a_valkey_has_not_is_refused() -> Result<()> {
    let stoa = Stoa::start("valkey-refused")?;
    stoa.cli(&["db", "create", "x", "--engine", "mysql"])?
        .exits(2)?
        .says("postgres, valkey")?;
    for (words, why) in [
        (
            &["db", "create", "x", "--plan", "cache"][..],
            "only a Valkey has a plan",
        ),
        (
            &[
                "db",
                "create",
                "x",
                "--engine",
                "valkey",
                "--backup-level",
                "sync",
            ],
            "a Valkey has no level",
        ),
        (
            &["db", "create", "x", "--engine", "valkey", "--version", "99"],
            "there is no Valkey 99 here",
        ),
    ] {
        refused(&stoa, words, why)?;
    }
    stoa.cli(&["db", "create", "store", "--engine", "valkey"])?.ok()?;
    stoa.cli(&["db", "create", "cache", "--engine", "valkey", "--plan", "cache"])?
        .ok()?;
    for words in [
        &["db", "drill", "store"][..],
        &["db", "drills", "store"],
        &["db", "promote", "store", "--of", "cache", "--confirm", "cache"],
        &["db", "upgrade", "store", "--to", "9", "--confirm", "store"],
        &["db", "branch", "store", "--as", "x", "--schema-only"],
        &["db", "branch", "store", "--as", "x", "--from", "drilled"],
        &["db", "update", "store", "--backup-level", "sync"],
        &["db", "top", "store"],
        &["db", "top", "store", "--statements"],
        &["db", "settings", "store"],
        &["db", "reset", "store", "--confirm", "store"],
    ] {
        refused(&stoa, words, "is a Valkey: ")?;
    }
    for words in [
        &["db", "restore", "cache", "--as", "x", "--latest"][..],
        &["db", "branch", "cache", "--as", "x"],
        &["db", "backups", "cache"],
        &["db", "backup", "cache"],
    ] {
        refused(&stoa, words, "it keeps nothing on disk")?;
    }
    // What it prints is read as that of any database.
    holds("the lines of the Valkey", || {
        let lines = stoa.cli(&["db", "logs", "store"])?.ok()?.stdout;
        Ok(lines.contains(" store valkey-") && lines.contains("Ready to accept connections"))
    })?;
    let status = stoa.cli(&["status"])?.ok()?;
    ensure!(!status.stdout.contains("UNPROTECTED"), "{}", status.stdout);
    stoa.finish()
}
