//! How long from asking for a database until it answers a query.
//!
//! Ours: the call to the API until the operation has succeeded and `stoa db connect` has answered a query. The peer
//! does what the entry point of `docker run postgres` does with the same binaries: initdb, a temporary server, create
//! the database, stop, start for good; without any container around it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, until};
use serde_json::json;

use super::{Figure, Pairs, Rounds, noise};

const BINARIES: &str = "/usr/lib/postgresql/15/bin";
const GOAL: f64 = 0.2;

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let stoa = Stoa::start("bench-db")?;
    // The first one makes the template, as the first `docker run` of an image pulls it: not measured for either.
    ours(&stoa, "warm-up")?;
    let mut pairs = Pairs::default();
    noise::quiet_rounds(
        rounds,
        |round| {
            let name = format!("bench-{round}");
            if round % 2 == 0 {
                let ours = ours(&stoa, &name)?;
                Ok((ours, peer(stoa.root(), round)?))
            } else {
                let peer = peer(stoa.root(), round)?;
                Ok((ours(&stoa, &name)?, peer))
            }
        },
        |(ours, peer): (f64, f64)| pairs.add(ours, peer),
    )?;
    stoa.finish()?;
    Ok(vec![Figure {
        what: "database asked for to first answer".into(),
        peer: "initdb, temporary server, create, restart".into(),
        unit: "ms",
        pairs,
        goal: GOAL,
    }])
}

fn ours(stoa: &Stoa, name: &str) -> Result<f64> {
    let begin = Instant::now();
    stoa.api()?.done(
        "POST",
        &format!("{ENVIRONMENT}/databases"),
        Some(&json!({ "name": name })),
    )?;
    answers(stoa, name)?;
    let took = begin.elapsed();
    stoa.api()?
        .done("DELETE", &format!("{ENVIRONMENT}/databases/{name}"), None)?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Waits until a database of ours has answered a query.
pub(super) fn answers(stoa: &Stoa, name: &str) -> Result<()> {
    let query = [
        "db",
        "connect",
        "--no-terminal",
        name,
        "--",
        "-Atc",
        "SELECT 41 + 1",
    ];
    until("the database to answer", PATIENCE, || {
        let answer = stoa.cli(&query)?;
        Ok((answer.code == 0 && answer.stdout == "42\n").then_some(()))
    })
}

fn peer(root: &Path, round: usize) -> Result<f64> {
    let place = root.join(format!("peer-{round}"));
    let cluster = Cluster::prepare(&place)?;
    let begin = Instant::now();
    cluster.step(
        "initdb",
        &[
            "--username=postgres",
            "--pwfile",
            &cluster.path("password"),
            "--auth=scram-sha-256",
        ],
    )?;
    let quiet = format!("-c listen_addresses='' -k {}", place.display());
    cluster.step(
        "pg_ctl",
        &[
            "--wait",
            "--silent",
            "--options",
            &quiet,
            "--log",
            &cluster.path("log"),
            "start",
        ],
    )?;
    cluster.sql("postgres", "CREATE DATABASE main")?;
    cluster.step("pg_ctl", &["--wait", "--silent", "--mode=fast", "stop"])?;
    let open = format!(
        "-c listen_addresses='127.0.0.1' -c port={} -k {}",
        cluster.port,
        place.display()
    );
    cluster.step(
        "pg_ctl",
        &[
            "--wait",
            "--silent",
            "--options",
            &open,
            "--log",
            &cluster.path("log"),
            "start",
        ],
    )?;
    until("the peer to answer", PATIENCE, || {
        Ok(cluster.sql("main", "SELECT 41 + 1").ok())
    })?;
    let took = begin.elapsed();
    cluster.step("pg_ctl", &["--wait", "--silent", "--mode=immediate", "stop"])?;
    fs::remove_dir_all(&place)?;
    Ok(took.as_secs_f64() * 1e3)
}

/// A cluster on the host, without any container around it.
pub(super) struct Cluster {
    place: PathBuf,
    port: u16,
}

impl Cluster {
    pub(super) fn prepare(place: &Path) -> Result<Self> {
        fs::create_dir_all(place)?;
        fs::write(place.join("password"), "bench\n")?;
        let (user, group) = postgres_ids()?;
        for path in [place.to_owned(), place.join("password")] {
            chown(&path, Some(user), Some(group))?;
        }
        fs::set_permissions(place, fs::Permissions::from_mode(0o700))?;
        // A port nobody has now; the peer alone may take it in the meantime.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .port();
        Ok(Self {
            place: place.to_owned(),
            port,
        })
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.place.join(name).to_string_lossy().into_owned()
    }

    pub(super) fn step(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(&format!("{BINARIES}/{program}"));
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

    pub(super) fn sql(&self, database: &str, text: &str) -> Result<()> {
        let mut command = self.command("psql");
        command
            .args([
                "--no-psqlrc",
                "--username=postgres",
                "--dbname",
                database,
                "--host",
            ])
            .arg(&self.place);
        let port = if database == "main" { self.port } else { 5432 };
        let answer = command
            .args(["--port", &port.to_string(), "-Atc", text])
            .env("PGPASSWORD", "bench")
            .output()?;
        if !answer.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&answer.stderr));
        }
        Ok(())
    }

    /// As the user postgres: the server refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

fn postgres_ids() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .context("there is no user postgres")?;
    let fields: Vec<&str> = line.split(':').collect();
    Ok((fields[2].parse()?, fields[3].parse()?))
}
