//! One outside command as a step: its output in a log file, its progress on the terminal, its failure explained.
//!
//! Lives here: running, logging, timing. Does not live here: which steps there are (`test`, `demo`, `bench`).
//! Invariant: a step that failed says so with the end of its log and where the rest is.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::repository;

/// How often a long step shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How much of a failed step's log is shown.
const SHOWN_LINES: usize = 60;

/// A command to run from the root of the repository.
pub struct Step {
    name: String,
    command: Command,
    limit: Duration,
}

/// A step that succeeded.
pub struct Done {
    /// How long it took.
    pub took: Duration,
    /// What it printed.
    pub output: String,
}

impl Step {
    /// A step with a name for people and its log.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(repository::root());
        Self {
            name: name.to_owned(),
            command,
            limit: Duration::from_secs(3600),
        }
    }

    /// Cargo, the one that runs us.
    pub fn cargo(name: &str) -> Self {
        Self::new(
            name,
            std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")),
        )
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets how long it may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it cannot be started, fails or takes too long; the end of its output has been shown then.
    pub fn run(self) -> Result<Done> {
        let name = self.name.clone();
        let (finished, success) = self.run_anyway()?;
        if success {
            return Ok(finished);
        }
        let lines: Vec<&str> = finished.output.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)) {
            println!("    {line}");
        }
        bail!("{name} failed; its whole output: {}", log_path(&name).display());
    }

    /// Runs it; failing is an answer too.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn run_anyway(mut self) -> Result<(Done, bool)> {
        let path = log_path(&self.name);
        let log = create(&path)?;
        self.command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        print!("== {} ...", self.name);
        std::io::stdout().flush()?;
        let begin = Instant::now();
        let program = self.command.get_program().to_owned();
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("could not start {}", program.to_string_lossy()))?;
        let mut beat = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begin.elapsed() > self.limit {
                child.kill()?;
                child.wait()?;
                println!();
                bail!(
                    "{} did not end within {} s; its output: {}",
                    self.name,
                    self.limit.as_secs(),
                    path.display()
                );
            }
            if beat.elapsed() > HEARTBEAT {
                beat = Instant::now();
                print!("\n   {:>4} s  {}", begin.elapsed().as_secs(), last_line(&path));
                std::io::stdout().flush()?;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let took = begin.elapsed();
        println!(
            " {} ({:.1} s)",
            if status.success() { "ok" } else { "FAILED" },
            took.as_secs_f64()
        );
        let output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        Ok((Done { took, output }, status.success()))
    }
}

fn log_path(name: &str) -> PathBuf {
    repository::target()
        .join("xtask-logs")
        .join(format!("{name}.log"))
}

fn create(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create(path).with_context(|| format!("could not write {}", path.display()))
}

/// The last line that says something, without terminal control.
fn last_line(path: &Path) -> String {
    let tail = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tail().unwrap_or_default();
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    line.chars()
        .filter(|letter| !letter.is_control())
        .take(110)
        .collect()
}
