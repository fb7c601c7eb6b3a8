//! Words by the server's own `valkey-cli`, inside the database's instance.
//!
//! Invariant: no text of a user becomes a word here; a password is in the environment of the program, never among its words.

use std::time::Duration;

use engine::{Engine, Exec};
use model::InstanceId;

use super::RUNS_AS;
use super::users::PLATFORM;
use crate::psql::hear;
use crate::{DatabaseError, login_role};

/// How long a server may take for what is short.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
/// Who a person's program runs as: it can read neither the files of the server nor its environment.
const NOBODY: &str = "nobody";

/// A Valkey's instance to speak with, as the platform.
#[derive(Clone, Copy)]
pub struct Cli<'a> {
    /// Where it runs.
    pub engine: &'a dyn Engine,
    /// Its instance.
    pub instance: InstanceId,
    /// The password of the platform's own user.
    pub password: &'a str,
}

impl Cli<'_> {
    /// Gives the server one command and returns what it answers.
    ///
    /// # Errors
    /// When it refuses, or does not answer for a while.
    pub(super) fn ask(&self, words: &[&str]) -> Result<String, DatabaseError> {
        let exec = exec(PLATFORM, self.password, RUNS_AS, words.iter().copied());
        let streams = self.engine.exec(self.instance, &exec)?;
        let said = hear("valkey-cli", streams, "", Some(TOLD_WITHIN))?;
        if said.code == 0 {
            return Ok(said.printed);
        }
        let output = said.complaint.lines().chain(said.printed.lines());
        Err(DatabaseError::Program {
            program: "valkey-cli",
            output: output.last().unwrap_or("no message").to_owned(),
        })
    }

    /// Has the log rewritten; false when that is under way already.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn rewrite(&self) -> Result<bool, DatabaseError> {
        if self.is_rewriting()? {
            return Ok(false);
        }
        // What it replaces must stay until it is kept: whoever forgot the one before may have died over it.
        self.keep_former("yes")?;
        self.ask(&["BGREWRITEAOF"]).map(|_| true)
    }

    /// Whether the log is being rewritten, or is about to be.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn is_rewriting(&self) -> Result<bool, DatabaseError> {
        let told = self.ask(&["INFO", "persistence"])?;
        let is_set = |name: &str| {
            let mut lines = told.lines().filter_map(|line| line.trim().split_once(':'));
            lines.any(|(known, value)| known == name && value != "0")
        };
        Ok(is_set("aof_rewrite_in_progress") || is_set("aof_rewrite_scheduled"))
    }

    /// Removes what the last rewrite replaced.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn forget_former(&self) -> Result<(), DatabaseError> {
        self.keep_former("no")?;
        self.keep_former("yes")
    }

    fn keep_former(&self, whether: &str) -> Result<(), DatabaseError> {
        self.ask(&["CONFIG", "SET", "aof-disable-auto-gc", whether])
            .map(drop)
    }

    /// Refuses what takes memory from now on. What makes room is still done.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn only_read(&self) -> Result<(), DatabaseError> {
        self.most_memory(1)
    }

    /// Takes everything again.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn write_again(&self, plan: model::ValkeyPlan, memory: model::Bytes) -> Result<(), DatabaseError> {
        self.most_memory(super::server::most_memory(plan, memory).get())
    }

    fn most_memory(&self, bytes: u64) -> Result<(), DatabaseError> {
        self.ask(&["CONFIG", "SET", "maxmemory", &bytes.to_string()])
            .map(drop)
    }
}

/// The program a person gets: `valkey-cli` as a login of applications.
#[must_use]
pub fn connect(version: u64, password: &str, arguments: &[String]) -> Exec {
    exec(
        &login_role(version),
        password,
        NOBODY,
        arguments.iter().map(String::as_str),
    )
}

fn exec<'w>(user: &str, password: &str, runs_as: &str, words: impl Iterator<Item = &'w str>) -> Exec {
    // `-e`: an error of the server is an error of the program.
    let mut argv = ["valkey-cli", "-e", "--no-auth-warning", "--user", user]
        .map(str::to_owned)
        .to_vec();
    argv.extend(words.map(str::to_owned));
    Exec {
        argv,
        env: vec![
            ("REDISCLI_AUTH".to_owned(), password.to_owned()),
            ("HOME".to_owned(), "/tmp".to_owned()),
        ],
        user: Some(runs_as.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    }
}
