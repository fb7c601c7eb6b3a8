//! The peer of every bench of databases: PostgreSQL on the host, without any container around it.
//!
//! Lives here: its directory, its programs, asking it. Does not live here: what it is measured with.
//! Invariants: everything of it lies in one directory, its socket included; it runs as postgres, for it refuses to run as
//! root; no cluster of the host's own is touched. A bench that fails leaves none running.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub(super) const BINARIES: &str = "/usr/lib/postgresql/15/bin";
pub(super) struct Cluster {
    place: PathBuf,
    /// Free when it was prepared.
    port: u16,
}

impl Cluster {
    pub(super) fn prepare(place: &Path) -> Result<Self> {
        folder(place)?;
        fs::write(place.join("password"), "bench\n")?;
        own(&place.join("password"))?;
        // A port nobody has now; the peer alone may take it in the meantime.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .port();
        Ok(Self {
            place: place.to_owned(),
            port,
        })
    }

    /// One with checksums, as ours has them, whose superuser needs no password.
    pub(super) fn init(place: &Path) -> Result<Self> {
        let cluster = Self::prepare(place)?;
        cluster.step(
            "initdb",
            &["--username=postgres", "--auth=trust", "--data-checksums"],
        )?;
        Ok(cluster)
    }

    /// The one it listens on when it has an address.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.place.join(name).to_string_lossy().into_owned()
    }

    /// Adds lines to its configuration.
    pub(super) fn configure(&self, lines: &str) -> Result<()> {
        let path = self.place.join("data/postgresql.conf");
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(&path, format!("{text}\n{lines}"))?)
    }

    /// Starts it on its socket alone, unless a setting says otherwise. It may still replay its log afterwards.
    pub(super) fn start(&self, settings: &[&str]) -> Result<()> {
        let mut options = format!("-k {} -c listen_addresses=", self.place.display());
        for setting in settings {
            options.push_str(&format!(" -c {setting}"));
        }
        let log = self.path("log");
        self.step(
            "pg_ctl",
            &[
                "--wait",
                "--timeout=600",
                "--silent",
                "--options",
                &options,
                "--log",
                &log,
                "start",
            ],
        )
    }

    pub(super) fn stop(&self, mode: &str) -> Result<()> {
        let mode = format!("--mode={mode}");
        self.step("pg_ctl", &["--wait", "--silent", &mode, "stop"])
    }

    pub(super) fn step(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = as_postgres(&format!("{BINARIES}/{program}"));
        command.args(arguments).env("PGDATA", self.place.join("data"));
        // The server keeps what it inherits: no pipe of ours, or waiting for its end would wait for ever.
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.place.join("steps"))?;
        let status = command.stdout(log.try_clone()?).stderr(log).status()?;
        ensure!(
            status.success(),
            "{program}: {}",
            fs::read_to_string(self.place.join("steps"))?
        );
        Ok(())
    }

    /// Of its socket and its address, as it wrote it down when it started.
    pub(super) fn running_port(&self) -> Result<String> {
        let written = fs::read_to_string(self.place.join("data/postmaster.pid"))?;
        let port = written.lines().nth(3).context("it has no port yet")?;
        Ok(port.to_owned())
    }

    /// Of its first process.
    pub(super) fn pid(&self) -> Result<i32> {
        let written = fs::read_to_string(self.place.join("data/postmaster.pid"))?;
        let pid = written.lines().next().context("it does not run")?;
        Ok(pid.parse()?)
    }

    /// A program that speaks to it over its address, when it has been started with one.
    pub(super) fn client(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(format!("{BINARIES}/{program}"));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.running_port()?)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        Ok(command)
    }

    /// Starts it with an address of its own.
    pub(super) fn start_listening(&self, settings: &[&str]) -> Result<()> {
        let port = format!("port={}", self.port);
        self.start(&[&["listen_addresses=127.0.0.1", &port][..], settings].concat())
    }

    /// What a statement answers.
    pub(super) fn sql(&self, database: &str, text: &str) -> Result<String> {
        let port = self.running_port()?;
        let answer = as_postgres("psql")
            .args([
                "--no-psqlrc",
                "--username=postgres",
                "--dbname",
                database,
                "--host",
            ])
            .arg(&self.place)
            .args(["--port", &port, "-qAtc", text])
            .env("PGPASSWORD", "bench")
            .output()?;
        ensure!(
            answer.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }
}

impl Drop for Cluster {
    /// One that still runs belongs to a bench that failed.
    fn drop(&mut self) {
        if self.place.join("data/postmaster.pid").exists() {
            let _gone = self.stop("immediate");
        }
    }
}

/// A program as the user of the server.
pub(super) fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Makes a directory that is the server's user's alone.
pub(super) fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    own(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// Gives a file to the server's user.
pub(super) fn own(path: &Path) -> Result<()> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .context("there is no user postgres")?;
    let fields: Vec<&str> = line.split(':').collect();
    chown(path, Some(fields[2].parse()?), Some(fields[3].parse()?))?;
    Ok(())
}
