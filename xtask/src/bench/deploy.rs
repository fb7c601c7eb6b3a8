//! How long from asking for a release whose image is there until its first byte.
//!
//! Ours: the call to the API until the edge's first answer from the new release, with the previous release serving
//! meanwhile (health gate and route switch included). The peer: `docker run -d` until the container's first byte,
//! found at its known address, with nothing before it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use journeys::http::{self, Connection};
use journeys::{Application, ENVIRONMENT, PATIENCE, Stoa};
use serde_json::json;

use super::dockerd::Dockerd;
use super::{Figure, Pairs, Rounds, noise};
use crate::repository;
use crate::step::Step;

const PORT: u16 = 8080;
const GOAL: f64 = 0.25;
/// What runs in both: the API of `examples/rust-api`, which is ready within a millisecond.
const PROGRAM: &str = "/bin/rust-api";

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let docker = Dockerd::start()?;
    let archive = root_archive()?;
    docker.import(&archive, "bench")?;
    let mut stoa = Stoa::start("bench-deploy")?;
    let app = prepare(&mut stoa, &docker)?;
    let mut pairs = Pairs::default();
    noise::quiet_rounds(
        rounds,
        |round| {
            // Which comes first alternates, so that neither always meets the other's aftermath.
            if round % 2 == 0 {
                let ours = ours(&stoa, &app, round)?;
                Ok((ours, peer(&docker)?))
            } else {
                let peer = peer(&docker)?;
                Ok((ours(&stoa, &app, round)?, peer))
            }
        },
        |(ours, peer): (f64, f64)| pairs.add(ours, peer),
    )?;
    drop(docker);
    stoa.finish()?;
    Ok(vec![Figure {
        what: "release asked for to first byte".into(),
        peer: "docker run -d".into(),
        unit: "ms",
        pairs,
        goal: GOAL,
    }])
}

/// A root file system with one program and its libraries.
pub fn root_archive() -> Result<PathBuf> {
    let target = repository::target().join("bench");
    let manifest = repository::root().join("examples/rust-api/Cargo.toml");
    Step::cargo("bench-program")
        .env("CARGO_TARGET_DIR", target.join("program"))
        .args([
            Path::new("build"),
            Path::new("--release"),
            Path::new("--manifest-path"),
            &manifest,
        ])
        .run()?;
    let root = target.join("root");
    let _stale = fs::remove_dir_all(&root);
    let libraries = [
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libgcc_s.so.1",
    ];
    for library in libraries {
        copy(&Path::new("/").join(library), &root.join(library))?;
    }
    copy(
        &target.join("program/release/rust-api"),
        &root.join("bin/rust-api"),
    )?;
    let archive = target.join("root.tar");
    let tar = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&root)
        .arg(".")
        .output()?;
    ensure!(
        tar.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&tar.stderr)
    );
    Ok(archive)
}

/// Brings the peer's image into Stoa, so that both run the same bytes, and deploys it once.
pub fn prepare(stoa: &mut Stoa, docker: &Dockerd) -> Result<Application> {
    let saved = stoa.root().join("bench-image.tar");
    docker.run(&["save", "--output", &saved.to_string_lossy(), "bench"])?;
    stoa.cli(&["image", "import", &saved.to_string_lossy(), "--name", "bench"])?
        .ok()?;
    let app = Application::copy("rust-api", stoa.root())?;
    let reply = stoa.api()?.call(
        "POST",
        &format!("{ENVIRONMENT}/apps"),
        Some(&json!({ "name": "bench" })),
    )?;
    ensure!(reply.status == 201, "the app was not made: {}", reply.body);
    release(stoa, 0).and_then(|operation| stoa.api()?.settled(&operation))?;
    Ok(app)
}

fn release(stoa: &Stoa, round: usize) -> Result<String> {
    let manifest = format!(
        "schema = 1\napp = \"bench\"\n[env]\nGREETING = \"round {round}\"\n\
         [services.web]\nimage = \"bench\"\ncommand = \"{PROGRAM}\"\nport = {PORT}\nhealth = {{ path = \"/healthz\" }}\n"
    );
    let body = json!({ "source": { "kind": "image", "image": "bench" }, "manifest": manifest });
    stoa.api()?
        .begin("POST", &format!("{ENVIRONMENT}/apps/bench/releases"), Some(&body))
}

fn ours(stoa: &Stoa, _app: &Application, round: usize) -> Result<f64> {
    let wanted = format!("\"round {}\"", round + 1);
    let edge = stoa.listeners().http;
    let mut connection = Connection::open(edge)?;
    let begin = Instant::now();
    let operation = release(stoa, round + 1)?;
    let took = loop {
        let response = connection.get("bench.localhost", "/")?;
        if response.status == 200 && response.text().contains(&wanted) {
            break begin.elapsed();
        }
        if begin.elapsed() > PATIENCE {
            bail!(
                "round {round} never served: {:#}",
                stoa.api()?.settled(&operation)?
            );
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    // The old instance drains outside the measured time, as docker's container is removed outside it.
    let settled = stoa.api()?.settled(&operation)?;
    ensure!(settled["state"] == "succeeded", "{settled:#}");
    Ok(took.as_secs_f64() * 1e3)
}

fn peer(docker: &Dockerd) -> Result<f64> {
    let address = SocketAddr::from((Dockerd::first_address(), PORT));
    let begin = Instant::now();
    let id = docker.run(&["run", "--detach", "--env", "PORT=8080", "bench", PROGRAM])?;
    let took = loop {
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
            && http::get(address, "bench", "/").is_ok_and(|response| response.status == 200)
        {
            break begin.elapsed();
        }
        if begin.elapsed() > PATIENCE {
            bail!("the container never answered at {address}");
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    docker.run(&["rm", "--force", &id])?;
    Ok(took.as_secs_f64() * 1e3)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("could not copy {}", from.display()))?;
    Ok(())
}
