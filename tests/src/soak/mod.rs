//! Long trials of one real Stoa under traffic: the short ones are journeys, the long ones `cargo xtask soak`.
//!
//! Lives here: chance that can be repeated. Does not live here: the trials (`kill`, `deploys`, `edge`).
//! Invariant: everything random comes from a seed that is printed.

pub mod api;
mod compare;
pub mod control;
pub mod deploys;
pub mod edge;
pub mod hostile;
pub mod kill;
mod operation;
mod outcome;
pub mod power;
pub mod queries;
pub mod rpo;
mod state;
pub mod syscall;
mod world;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{Api, Application, Stoa};

/// Random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
struct Chance(u64);

impl Chance {
    /// A sequence of its own for each trial, so that a trial is the same whatever came before.
    fn of(seed: u64, trial: u64) -> Self {
        let mut mixed = Self(seed ^ trial.wrapping_mul(0xA24B_AED4_963E_E407));
        mixed.next();
        mixed
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(of.len() as u64);
        of.get(usize::try_from(at).unwrap_or_default())
    }
}

/// How a version moves in: what stands after its last dash, else rolling.
fn rollout(version: &str) -> &'static str {
    match version.rsplit_once('-') {
        Some((_, "bluegreen")) => "\n[rollout]\nstrategy = \"blue-green\"\n",
        Some((_, "recreate")) => "\n[rollout]\nstrategy = \"recreate\"\n",
        Some((_, "canary")) => "\n[rollout]\nstrategy = \"canary\"\nsteps = [\"20%:1s\"]\n",
        Some(_) | None => "",
    }
}

/// The manifest of a probe under any name: a good release, or one with more environment and a second to get ready.
fn manifest(app: &str, version: &str, bad: Option<&str>, build: &str) -> String {
    format!(
        "schema = 1\napp = \"{app}\"\n\n{build}[env]\nVERSION = \"{version}\"\n{}\n\n[services.web]\n\
         command = \"python3 server.py\"\nport = 8080\n\
         health = {{ path = \"/healthz\", interval = \"500ms\"{} }}\n{}",
        bad.unwrap_or_default(),
        if bad.is_some() { ", grace = \"1s\"" } else { "" },
        rollout(version),
    )
}

/// Both ways a release is bad: it ends at once, or never gets ready.
const BAD: [&str; 2] = ["BROKEN = \"1\"", "HEALTH = \"500\""];

/// The probe's sources as an archive in the installation; the id to deploy from.
fn upload(stoa: &Stoa) -> Result<String> {
    send(&stoa.api()?, &archive(stoa, None)?)
}

/// The probe's sources, with something in them that makes them differ from all others if that is wanted.
fn archive(stoa: &Stoa, differing: Option<&str>) -> Result<Vec<u8>> {
    let app = Application::copy("probe", stoa.root())?;
    if let Some(text) = differing {
        app.write("differing", text)?;
    }
    let archive: PathBuf = stoa.root().join("probe.tar");
    let status = Command::new("tar")
        .args(["--create", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(app.folder())
        .arg("server.py")
        .args(differing.map(|_| "differing"))
        .status()?;
    ensure!(status.success(), "tar: {status}");
    Ok(std::fs::read(&archive)?)
}

/// Sends an archive; the id to deploy from.
fn send(api: &Api, archive: &[u8]) -> Result<String> {
    let reply = api.upload(archive)?;
    let id = reply.body["id"].as_str();
    Ok(id
        .with_context(|| format!("the upload was answered {}: {}", reply.status, reply.body))?
        .to_owned())
}
