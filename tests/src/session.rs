//! Programs that speak to a database of Stoa's as an application on its network does, without control between them.
//!
//! Lives here: how they get there, and a writer with a steady beat. Does not live here: what they show.
//! Invariant: a write counts from when it was due, not from when its writer had time for it: a server that stands still
//! delays all that were due meanwhile.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::Stoa;
use crate::process::Process;

/// Of Debian's package.
pub const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

/// The server of the database that was made first of those that run.
///
/// # Errors
/// When none runs.
pub fn server(stoa: &Stoa) -> Result<Process> {
    let found = stoa.members("bin/postgres -D");
    let first = found.into_iter().min_by_key(|process| process.started);
    first.context("no server runs")
}

/// A program of PostgreSQL that signs in to that database by its name and address.
///
/// # Errors
/// When it has no login.
pub fn client(stoa: &Stoa, database: &str, program: &str) -> Result<Command> {
    let shown = stoa.cli(&["db", "url", database, "--json"])?.ok()?.json()?;
    let login = &shown["variables"];
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{}/ns/net", server(stoa)?.pid))
        .arg(program)
        .env("PGHOST", "127.0.0.1");
    for name in ["PGUSER", "PGPASSWORD", "PGDATABASE"] {
        command.env(name, login[name].as_str().with_context(|| format!("no {name}"))?);
    }
    Ok(command)
}

/// The psql of the first server's instance, which signs in to another database on its network by the name it is known by.
///
/// # Errors
/// When the other one has no login.
pub fn neighbour(stoa: &Stoa, database: &str) -> Result<Command> {
    let shown = stoa.cli(&["db", "url", database, "--json"])?.ok()?.json()?;
    let url = shown["variables"]["DATABASE_URL"].as_str().context("no url")?;
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={}", server(stoa)?.pid))
        .args(["--net", "--mount", "--", PSQL, "--no-psqlrc", "-qAt"])
        .args(["--set", "ON_ERROR_STOP=1", "--dbname", url])
        .env_clear();
    Ok(command)
}

/// A session that writes one row at each beat.
#[derive(Debug)]
pub struct Beat {
    is_over: Arc<AtomicBool>,
    writing: JoinHandle<Result<Vec<Write>>>,
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// When it was to begin.
    pub due: Instant,
    /// From then until it was acknowledged.
    pub took: Duration,
}

impl Beat {
    /// What it needs to be there.
    pub const TABLE: &str = "CREATE TABLE beats (id bigserial PRIMARY KEY, note text)";

    /// Begins, with psql as it signs in; so many writes a second.
    ///
    /// # Errors
    /// When psql cannot be started.
    pub fn start(mut psql: Command, rate: u32) -> Result<Self> {
        let mut child = psql
            .args(["--no-psqlrc", "-qAt", "--set", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start psql")?;
        let mut input = child.stdin.take().context("no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let writing = thread::spawn(move || {
            let mut all = Vec::new();
            let begun = Instant::now();
            for number in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let due = begun + Duration::from_secs(1) * number / rate;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                input.write_all(b"INSERT INTO beats (note) VALUES (repeat('x', 200)) RETURNING 'ok';\n")?;
                match lines.next() {
                    Some(Ok(line)) if line == "ok" => all.push(Write {
                        due,
                        took: due.elapsed(),
                    }),
                    other => bail!("a write was answered {other:?}"),
                }
            }
            drop(input);
            child.wait()?;
            Ok(all)
        });
        Ok(Self { is_over, writing })
    }

    /// Ends it; what it wrote.
    ///
    /// # Errors
    /// When a write failed.
    pub fn end(self) -> Result<Vec<Write>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.writing.join().ok().context("the writer panicked")?
    }
}

/// Of those that were due within a time, 99 of 100 took at most so many milliseconds.
#[must_use]
pub fn p99(writes: &[Write], from: Instant, until: Instant) -> Option<f64> {
    let within = writes.iter().filter(|write| (from..=until).contains(&write.due));
    let mut took: Vec<Duration> = within.map(|write| write.took).collect();
    took.sort();
    let place = (took.len() * 99).div_ceil(100).checked_sub(1)?;
    Some(took[place].as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_due_within_counts() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let writes: Vec<Write> = (0..300)
            .map(|number| Write {
                due: at(number),
                took: Duration::from_millis(number),
            })
            .collect();
        let of = |from, until| p99(&writes, at(from), at(until)).map(f64::round);
        assert_eq!(of(1, 100), Some(99.0));
        assert_eq!(of(7, 7), Some(7.0));
        assert_eq!(of(300, 400), None);
    }
}
