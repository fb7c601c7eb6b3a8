//! A managed database: created, bound, rotated without a failed query, alive after everything was killed, destroyed
//! with a grace period.

use anyhow::{Context as _, Result, ensure};
use journeys::http::Connection;
use journeys::{Application, Stoa, holds};

const HOST: &str = "guestbook.localhost";

fn sign(stoa: &Stoa, message: &str) -> Result<()> {
    let form = format!("name=Ada&message={message}");
    let answer = Connection::open(stoa.listeners().http)?.post_form(HOST, "/entries", &form)?;
    ensure!(
        answer.status == 303,
        "writing answered {}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn query(stoa: &Stoa, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", "main", "--", "-Atc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

#[test]
fn the_life_of_a_database() -> Result<()> {
    let mut stoa = Stoa::start("database")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    stoa.cli(&["db", "create", "main"])?.exits(6)?.has_next_step()?;
    ensure!(query(&stoa, "SELECT 41 + 1")? == "42", "it does not count");
    ensure!(query(&stoa, "SHOW data_checksums")? == "on", "no checksums");
    ensure!(
        query(&stoa, "SHOW password_encryption")? == "scram-sha-256",
        "no scram"
    );

    let app = Application::copy("guestbook", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    sign(&stoa, "before")?;
    ensure!(
        query(&stoa, "SELECT message FROM entries")? == "before",
        "the app writes elsewhere"
    );
    let url = |stoa: &Stoa| -> Result<String> {
        let shown = stoa.cli(&["db", "url", "main", "--json"])?.ok()?.json()?;
        Ok(shown["variables"]["DATABASE_URL"]
            .as_str()
            .context("no DATABASE_URL")?
            .to_owned())
    };

    let old = url(&stoa)?;
    stoa.cli(&["db", "rotate", "main"])?.ok()?;
    ensure!(url(&stoa)? != old, "the credentials are the same after rotate");
    sign(&stoa, "after-rotate")?;

    for _ in 0..2 {
        for role in ["control", "edge"] {
            stoa.part(role)?.signal(libc::SIGKILL)?;
        }
        stoa.warden()?.signal(libc::SIGKILL)?;
        stoa.wait_end()?;
        stoa.up()?;
        holds("the page again", || Ok(stoa.get(HOST, "/")?.status == 200))?;
    }
    sign(&stoa, "after-kill")?;
    ensure!(
        query(&stoa, "SELECT count(*) FROM entries")? == "3",
        "an entry is lost"
    );

    // The server itself dies: it comes back with everything it had acknowledged.
    let servers = stoa.members("postgres -D");
    ensure!(!servers.is_empty(), "no server process is found");
    for server in &servers {
        server.signal(libc::SIGKILL)?;
    }
    holds("the database again", || {
        Ok(query(&stoa, "SELECT count(*) FROM entries").is_ok_and(|count| count == "3"))
    })?;
    holds("the page again", || Ok(stoa.get(HOST, "/")?.status == 200))?;

    stoa.cli(&["db", "destroy", "main", "--confirm", "main"])?
        .exits(6)?
        .says("guestbook")?
        .has_next_step()?;
    stoa.cli(&["apps", "destroy", "guestbook", "--confirm", "guestbook"])?
        .ok()?;
    stoa.cli(&["db", "destroy", "main", "--confirm", "other"])?
        .exits(2)?;
    stoa.cli(&["db", "destroy", "main", "--confirm", "main"])?.ok()?;
    stoa.cli(&["db", "connect", "--no-terminal", "main", "--", "-Atc", "SELECT 1"])?
        .exits(3)?;
    stoa.finish()
}
