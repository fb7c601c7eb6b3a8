//! A branch that nobody uses falls asleep, and wakes for whoever comes: by its name, by the CLI, many at once, while control
//! is away, through another edge. Who is inside is never put out, and no query fails at the moment it falls asleep.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::{PATIENCE, Stoa, holds, session};
use serde_json::Value;

/// Without anybody for so long, it falls asleep.
const IDLE: Duration = Duration::from_secs(2);

fn shown(stoa: &Stoa, database: &str) -> Result<Value> {
    stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()
}

fn servers(stoa: &Stoa) -> usize {
    stoa.members("bin/postgres -D").len()
}

/// What psql prints, run as a neighbour of the database.
fn ask(psql: &mut Command, sql: &str) -> Result<String> {
    let output = psql.args(["-c", sql]).stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaint}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn count(stoa: &Stoa, database: &str) -> Result<String> {
    ask(
        &mut session::neighbour(stoa, database)?,
        "SELECT count(*) FROM notes",
    )
}

fn falls_asleep(stoa: &Stoa) -> Result<()> {
    holds("the branch to sleep", || {
        Ok(shown(stoa, "try")?["asleep_since"].is_string() && servers(stoa) == 1)
    })
}

/// A Stoa with `main`, and a branch `try` of it that falls asleep soon.
fn prepare(name: &str) -> Result<Stoa> {
    let stoa = Stoa::start(name)?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    let sql = "CREATE TABLE notes AS SELECT generate_series(1, 1000) AS n";
    stoa.cli(&["db", "connect", "--no-terminal", "main", "--", "-c", sql])?
        .ok()?;
    let idle = format!("{}s", IDLE.as_secs());
    stoa.cli(&["db", "branch", "main", "--as", "try", "--idle-stop", &idle])?
        .ok()?;
    Ok(stoa)
}

#[test]
fn a_branch_sleeps_when_nobody_uses_it_and_wakes_for_whoever_comes() -> Result<()> {
    let stoa = prepare("idle")?;
    ensure!(count(&stoa, "try")? == "1000");
    falls_asleep(&stoa)?;
    let told = stoa.cli(&["db", "info", "try"])?.ok()?.stdout;
    ensure!(
        told.contains("asleep") && told.contains("it wakes when somebody connects"),
        "{told}"
    );
    let listed = stoa.cli(&["db", "ls"])?.ok()?.stdout;
    ensure!(listed.contains("asleep"), "{listed}");

    // By its name, as an application comes.
    let mut psql = session::neighbour(&stoa, "try")?;
    let begin = Instant::now();
    ensure!(ask(&mut psql, "SELECT count(*) FROM notes")? == "1000");
    println!("woken and asked in {} ms", begin.elapsed().as_millis());
    ensure!(servers(&stoa) == 2 && shown(&stoa, "try")?["asleep_since"].is_null());

    // Many at once.
    falls_asleep(&stoa)?;
    let many: Vec<Command> = (0..12)
        .map(|_| session::neighbour(&stoa, "try"))
        .collect::<Result<_>>()?;
    let asking: Vec<_> = many
        .into_iter()
        .map(|mut psql| thread::spawn(move || ask(&mut psql, "SELECT count(*) FROM notes")))
        .collect();
    for one in asking {
        ensure!(one.join().ok().context("it panicked")?? == "1000");
    }

    // By the CLI, which comes by another way, and what is asked through control.
    falls_asleep(&stoa)?;
    let sql = ["db", "connect", "--no-terminal", "try", "--", "-Atc", "SELECT 7"];
    ensure!(stoa.cli(&sql)?.ok()?.stdout.trim() == "7");
    falls_asleep(&stoa)?;
    let settings = stoa.cli(&["db", "settings", "try"])?.ok()?.stdout;
    ensure!(settings.contains("fsync"), "{settings}");

    // What it printed is read without waking it.
    falls_asleep(&stoa)?;
    stoa.cli(&["db", "logs", "try"])?
        .ok()?
        .says("database system is shut down")?;
    ensure!(servers(&stoa) == 1 && shown(&stoa, "try")?["asleep_since"].is_string());

    // A branch of what sleeps, and its reset.
    let never = ["db", "branch", "try", "--as", "third", "--idle-stop", "never"];
    stoa.cli(&never)?.ok()?;
    ensure!(shown(&stoa, "third")?["idle_stop_s"].is_null());
    ensure!(count(&stoa, "third")? == "1000");
    stoa.cli(&["db", "destroy", "third", "--confirm", "third"])?
        .ok()?;
    falls_asleep(&stoa)?;
    stoa.cli(&["db", "reset", "try", "--confirm", "try"])?.ok()?;
    ensure!(count(&stoa, "try")? == "1000");
    falls_asleep(&stoa)?;
    stoa.cli(&["db", "destroy", "try", "--confirm", "try"])?.ok()?;

    let wrong = stoa.cli(&["db", "branch", "main", "--as", "x", "--idle-stop", "0s"])?;
    ensure!(wrong.code == 2 && wrong.stderr.contains("never"), "{wrong:?}");
    stoa.finish()
}

#[test]
fn who_is_inside_is_never_put_out() -> Result<()> {
    let stoa = prepare("idle-inside")?;
    let mut child = session::neighbour(&stoa, "try")?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    input.write_all(b"SELECT pg_backend_pid();\n")?;
    let before = lines.next().context("no answer")??;
    thread::sleep(IDLE * 3);
    input.write_all(b"SELECT pg_backend_pid();\n")?;
    ensure!(lines.next().context("it was put out")?? == before);
    drop(input);
    child.wait()?;

    // Each comes about when it falls asleep.
    for step in 0..10_u32 {
        thread::sleep(IDLE + Duration::from_millis(200) * step);
        ensure!(count(&stoa, "try")? == "1000", "step {step}");
    }
    stoa.finish()
}

#[test]
fn it_wakes_when_control_is_back_and_through_another_edge() -> Result<()> {
    let stoa = prepare("idle-faults")?;
    falls_asleep(&stoa)?;
    let mut psql = session::neighbour(&stoa, "try")?;
    stoa.part("control")?.signal(libc::SIGSTOP)?;
    let asking = thread::spawn(move || ask(&mut psql, "SELECT count(*) FROM notes"));
    thread::sleep(Duration::from_secs(2));
    ensure!(!asking.is_finished(), "nobody could wake it");
    stoa.part("control")?.signal(libc::SIGKILL)?;
    ensure!(asking.join().ok().context("it panicked")?? == "1000");

    falls_asleep(&stoa)?;
    let edge = stoa.part("edge")?;
    edge.signal(libc::SIGKILL)?;
    holds("another edge", || {
        Ok(stoa.part("edge").is_ok_and(|part| part.pid != edge.pid))
    })?;
    let begin = Instant::now();
    loop {
        match count(&stoa, "try") {
            Ok(found) => {
                ensure!(found == "1000");
                break;
            }
            Err(cause) if begin.elapsed() > PATIENCE => return Err(cause),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
    stoa.finish()
}
