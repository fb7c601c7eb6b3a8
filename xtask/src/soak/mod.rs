//! Long trials of reliability: as many as one likes, the same that run for a short time in `cargo xtask test`.
//!
//! Lives here: which soaks there are and reading their words. Does not live here: the trials (`journeys::soak`).
//! Invariant: what is found is printed with what replays it, and makes the command fail.

mod api;
mod control;
mod deploys;
mod edge;
mod kill;
mod power;
mod sim;
mod syscall;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use crate::step::Step;
use crate::{packages, repository};

type Soak = fn(&Words<'_>) -> Result<()>;

/// One line for each: name, what it does, its function.
const SOAKS: &[(&str, &str, Soak)] = &[
    (
        "api",
        "schemathesis against the API, by its document [--cases N] [--cases-each N] [--seed S]",
        api::run,
    ),
    (
        "control",
        "kill -9 of control under traffic [--kills N] [--seed S] [--load X]",
        control::run,
    ),
    (
        "deploys",
        "deploys good and bad, by all strategies, under traffic [--deploys N] [--exchanges N] [--load X]",
        deploys::run,
    ),
    (
        "edge",
        "edges replaced and the platform upgraded under traffic [--replacements N] [--upgrades N] [--load X]",
        edge::run,
    ),
    (
        "kill",
        "kill -9 at random moments of random operations [--trials N] [--seed S] [--load X] [--databases yes|no] \
         [--aim anything|movements]",
        kill::run,
    ),
    (
        "power",
        "power cuts of the whole data directory [--trials N] [--fs ext4|xfs] [--seed S]",
        power::run,
    ),
    (
        "sim",
        "seeded fleets over the real reconcilers, in virtual time [--seeds N] [--hours H] [--first S] [--bursts N], \
         or deaths at each step of one work and of its recovery [--failpoints yes]",
        sim::run,
    ),
    (
        "syscall",
        "a fault at each system call of one operation [--operation deploy|rollback] [--fault kill|eio|eintr|short] \
         [--from N] [--to N] [--stride K] [--seed S] [--load X]",
        syscall::run,
    ),
];

/// The words after a soak's name, as `--key value`.
pub struct Words<'w>(BTreeMap<&'w str, &'w str>);

impl Words<'_> {
    /// The value of a key, or what is usual.
    pub fn get<T: std::str::FromStr>(&self, key: &str, usual: T) -> Result<T> {
        match self.0.get(key) {
            None => Ok(usual),
            Some(text) => text
                .parse()
                .ok()
                .with_context(|| format!("--{key} {text} is not understood")),
        }
    }

    /// Refuses keys that nobody knows.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => bail!("--{key} is not understood; see cargo xtask help"),
        }
    }
}

/// Runs one soak.
///
/// # Errors
/// When the words are not understood, or something is found.
pub fn run(words: &[&str]) -> Result<()> {
    let names: Vec<&str> = SOAKS.iter().map(|(name, ..)| *name).collect();
    let (name, rest) = words
        .split_first()
        .with_context(|| format!("which soak? {}", names.join(", ")))?;
    let (_, about, soak) = SOAKS
        .iter()
        .find(|(known, ..)| known == name)
        .with_context(|| format!("there is no soak {name}; there are {}", names.join(", ")))?;
    let mut pairs = BTreeMap::new();
    for pair in rest.chunks(2) {
        let [key, value] = pair else {
            bail!("{} wants a value", pair.join(" "));
        };
        let key = key
            .strip_prefix("--")
            .with_context(|| format!("{key} is not understood"))?;
        pairs.insert(key, *value);
    }
    println!("{name}: {about}");
    soak(&Words(pairs))
}

/// Sees that the journeys' harness has a program to run: what `STOA_BIN` says, else the one that tests run.
fn binary() -> Result<()> {
    packages::install()?;
    if std::env::var_os("STOA_BIN").is_none() {
        Step::cargo("build")
            .args(["build", "--package", "stoa", "--quiet"])
            .run()?;
        journeys::Stoa::use_binary(&repository::target().join("debug/stoa"));
    }
    Ok(())
}
