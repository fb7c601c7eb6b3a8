//! The peer of restores and drills: pgBackRest, with a repository of its own.
//!
//! Lives here: its configuration and running it. Does not live here: the cluster it backs up (`cluster`).
//! Invariants: repository, locks and logs lie in the directory it is given; no configuration of the host's is read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Result, ensure};
use journeys::{PATIENCE, until};

use super::cluster::{Cluster, as_postgres, folder, own};

/// The name of a cluster in its repository.
const STANZA: &str = "--stanza=main";

pub(super) struct Backrest {
    place: PathBuf,
}

impl Backrest {
    /// A repository for a cluster that was made and does not run yet; it archives there from its start on.
    pub(super) fn prepare(place: &Path, source: &Cluster, more: &str) -> Result<Self> {
        for name in ["", "repository", "lock"] {
            folder(&place.join(name))?;
        }
        let backrest = Self {
            place: place.to_owned(),
        };
        let (at, cores) = (
            place.display(),
            std::thread::available_parallelism().map_or(1, usize::from),
        );
        let text = format!(
            "[global]\nrepo1-path={at}/repository\nlock-path={at}/lock\nlog-level-file=off\nlog-level-console=warn\n\
             log-level-stderr=warn\nprocess-max={cores}\nstart-fast=y\n{more}\n[main]\npg1-path={}\npg1-socket-path={}\n\
             pg1-user=postgres\n",
            source.path("data"),
            source.place().display()
        );
        fs::write(backrest.configuration(), text)?;
        own(&backrest.configuration())?;
        source.configure(&format!(
            "archive_mode = on\narchive_command = '{}'\n",
            backrest.push()
        ))?;
        Ok(backrest)
    }

    fn configuration(&self) -> PathBuf {
        self.place.join("pgbackrest.conf")
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.place.join("repository")
    }

    /// Has the cluster put its log into a plain directory, too.
    pub(super) fn archive_also(&self, source: &Cluster, plain: &Path) -> Result<()> {
        let push = self.push();
        source.configure(&format!(
            "archive_command = 'cp %p {}/%f && {push}'\n",
            plain.display()
        ))
    }

    fn push(&self) -> String {
        format!(
            "pgbackrest --config={} {STANZA} archive-push %p",
            self.configuration().display()
        )
    }

    /// Runs it; failing is an answer too.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<Output> {
        self.ask_with(arguments, &[])
    }

    /// With variables, which are stronger than its configuration.
    pub(super) fn ask_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        let configuration = format!("--config={}", self.configuration().display());
        Ok(as_postgres("pgbackrest")
            .args([&configuration, STANZA])
            .args(arguments)
            .envs(variables.iter().copied())
            .output()?)
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<()> {
        let answer = self.ask(arguments)?;
        ensure!(
            answer.status.success(),
            "pgbackrest {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&answer.stdout),
            String::from_utf8_lossy(&answer.stderr)
        );
        Ok(())
    }
}

/// Closes the segment that is written, and waits until it is archived.
pub(super) fn archived(source: &Cluster) -> Result<()> {
    let closed = source.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())")?;
    until("the log to be archived", PATIENCE, || {
        let last = source.sql("postgres", "SELECT last_archived_wal FROM pg_stat_archiver")?;
        Ok((last >= closed).then_some(()))
    })
}
