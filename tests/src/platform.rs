//! A Stoa that serves one application while it is changed itself.
//!
//! Lives here: starting it, going over to another binary, seeing that nobody noticed. Does not live here: how often and
//! under which load (the journeys, `soak::edge`).
//! Invariant: a workload is the same process before and after, whatever was done to the platform.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, Process};
use crate::traffic::{Load, Traffic};
use crate::{Answer, Application, PATIENCE, Stoa, until};

/// A Stoa with two instances of the probe.
#[derive(Debug)]
pub struct Platform {
    /// The installation.
    pub stoa: Stoa,
    /// Release `1` of the probe serves.
    pub app: Application,
    workloads: BTreeSet<Process>,
}

impl Platform {
    /// Starts it and deploys.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub fn start(name: &str) -> Result<Self> {
        let stoa = Stoa::start(name)?;
        let app = Application::copy("probe", stoa.root())?;
        app.replace("stoa.toml", "port = 8080", "port = 8080\nscale = 2")?;
        stoa.deploy(&app)?.ok()?;
        let workloads = until("two workloads", PATIENCE, || {
            let found: BTreeSet<Process> = stoa.members("python3 server.py").into_iter().collect();
            Ok(Some(found).filter(|found| found.len() == 2))
        })?;
        Ok(Self { stoa, app, workloads })
    }

    /// Traffic to the application.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn traffic(&self, load: Load) -> Result<Traffic> {
        Traffic::start(self.stoa.listeners().http, &self.app.host(), "1", load)
    }

    /// `stoa server upgrade`.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn upgrade(&self, to: &Path) -> Result<Answer> {
        let (to, data) = (to.to_string_lossy(), self.stoa.data_dir());
        self.stoa.cli(&[
            "server",
            "upgrade",
            "--to",
            &to,
            "--data-dir",
            &data.to_string_lossy(),
        ])
    }

    /// Goes over to that binary, which then runs as the same warden, and nobody notices.
    ///
    /// # Errors
    /// When it is otherwise.
    pub fn becomes(&self, to: &Path) -> Result<()> {
        let warden = self.stoa.warden()?;
        self.upgrade(to)?.ok()?.says("runs from")?;
        ensure!(self.runs_from(to)?, "not everything runs from {}", to.display());
        ensure!(
            self.stoa.warden()?.started == warden.started,
            "the warden is another process"
        );
        self.nothing_noticed()
    }

    /// Whether the warden's program is that file, and that of its control and of its newest edge.
    ///
    /// # Errors
    /// When there is no warden.
    pub fn runs_from(&self, file: &Path) -> Result<bool> {
        let warden = self.stoa.warden()?;
        let parts = process::children(warden.pid);
        let newest = |role: &str| {
            let word = format!("__{role}");
            let of_role = parts
                .iter()
                .filter(|part| part.line.split(' ').any(|one| one == word));
            of_role.max_by_key(|part| (part.started, part.pid)).cloned()
        };
        let (Some(edge), Some(control)) = (newest("edge"), newest("control")) else {
            return Ok(false);
        };
        let is_it = |process: &Process| {
            fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|exe| exe == file)
        };
        Ok([&warden, &edge, &control].into_iter().all(is_it))
    }

    /// The workloads are the same processes, and the API answers.
    ///
    /// # Errors
    /// When it is otherwise.
    pub fn nothing_noticed(&self) -> Result<()> {
        for workload in &self.workloads {
            ensure!(workload.is_alive(), "a workload lost its process: {workload:?}");
        }
        let now: BTreeSet<Process> = self.stoa.members("python3 server.py").into_iter().collect();
        ensure!(now == self.workloads, "other workloads run: {now:?}");
        self.stoa.cli(&["status"])?.ok()?;
        Ok(())
    }

    /// Deploys release 2, which then serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn deploys(&self) -> Result<()> {
        self.app
            .replace("stoa.toml", "VERSION = \"1\"", "VERSION = \"2\"")?;
        self.stoa.deploy(&self.app)?.ok()?.says("v2")?;
        ensure!(
            self.stoa.get(&self.app.host(), "/")?.text() == "2",
            "v2 does not serve"
        );
        Ok(())
    }

    /// The program that runs now.
    ///
    /// # Errors
    /// When there is no warden.
    pub fn binary(&self) -> Result<PathBuf> {
        let warden = self.stoa.warden()?;
        fs::read_link(format!("/proc/{}/exe", warden.pid)).context("the warden has no program")
    }

    /// A program that does as the real one but for one of its words.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn broken(&self, word: &str, instead: &str) -> Result<PathBuf> {
        let path = self
            .stoa
            .root()
            .join(format!("broken-{}", word.trim_start_matches('_')));
        let real = self.binary()?;
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = {word} ]; then {instead}; fi\nexec {} \"$@\"\n",
            real.display()
        );
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}
