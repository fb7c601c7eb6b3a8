//! Stoa beside its peers, in the same run on the same machine: what is told is the ratio, with its spread.
//!
//! Lives here: which benches there are, rounds, and the report. Does not live here: how one thing is measured.
//! Invariants: ours and the peer's samples alternate within a round; a round in which the hypervisor took time away
//! is measured again; absolute figures are told only beside their ratio.

mod api;
mod back;
mod backrest;
mod branch;
mod cluster;
mod db;
mod deploy;
mod dockerd;
mod drill;
mod edge;
mod figures;
mod filled;
mod growth;
mod limits;
mod noise;
mod pool;
mod restore;
mod space;
mod wake;
mod weight;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::Step;
use crate::{packages, repository};
pub use figures::{Figure, Pairs};
pub use noise::Rounds;

const DOCUMENT: &str = "docs/benchmarks.md";

enum Bench {
    /// Told as ratios.
    Figures(fn(Rounds) -> Result<Vec<Figure>>),
    /// Told as a table: what was found, whatever it took.
    Findings(fn(Rounds) -> Result<String>),
}

const BENCHES: &[(&str, &str, usize, Bench)] = &[
    (
        "deploy",
        "image present: release asked for until its first byte, beside `docker run -d` of the same root",
        15,
        Bench::Figures(deploy::run),
    ),
    (
        "weight",
        "memory of the idle control plane beside dockerd + containerd, of a keeper beside a containerd-shim",
        3,
        Bench::Figures(weight::run),
    ),
    (
        "db",
        "database asked for until it answers, beside what `docker run postgres` does",
        7,
        Bench::Figures(db::run),
    ),
    (
        "branch",
        "branches of what a drill left and of a live database, asked for until they answer, beside pg_basebackup and a start on the same data",
        7,
        Bench::Figures(branch::run),
    ),
    (
        "growth",
        "a branch of what a drill left of a database ten times as large, asked for until it answers, beside that of the smaller one",
        9,
        Bench::Figures(growth::run),
    ),
    (
        "wake",
        "first query of a branch that sleeps, beside a start of the same server on the host and its first query",
        15,
        Bench::Figures(wake::run),
    ),
    (
        "restore",
        "a database restored with everything, asked for until it answers, beside pgbackrest restore and a start on the same data",
        5,
        Bench::Figures(restore::run),
    ),
    (
        "drill",
        "who notices what happened to a backup: a drill, pgbackrest verify, or pg_dump of what is restored",
        1,
        Bench::Findings(drill::run),
    ),
    (
        "pool",
        "transactions of pgbench on a database of ours, beside the same PostgreSQL with the same settings and limits on the host",
        7,
        Bench::Figures(pool::run),
    ),
    (
        "edge",
        "processor time per proxied request, beside nginx and HAProxy before the same instance",
        7,
        Bench::Figures(edge::run),
    ),
    (
        "api",
        "the API with 1,000 apps and 10,000 releases in its store, beside etcd with as many keys",
        7,
        Bench::Figures(api::run),
    ),
    (
        "back",
        "kill -9 with 200 instances running, until a write is acknowledged and until all are adopted, beside the promise",
        9,
        Bench::Figures(back::run),
    ),
];

/// Runs one bench or all.
///
/// # Errors
/// When the words are not understood or something cannot be measured.
pub fn run(words: &[&str]) -> Result<()> {
    let mut chosen = None;
    let (mut rounds, mut write, mut is_short, mut gigabytes) = (None, false, false, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--rounds" => rounds = Some(words.next().context("--rounds wants a number")?.parse()?),
            "--gigabytes" => gigabytes = Some(words.next().context("--gigabytes wants a number")?.parse()?),
            "--write" => write = true,
            "--short" => is_short = true,
            name if chosen.is_none() && !name.starts_with('-') => chosen = Some(name),
            other => bail!("{other} is not understood; see cargo xtask help"),
        }
    }
    let names: Vec<_> = BENCHES.iter().map(|(known, ..)| *known).collect();
    let names = names.join(", ");
    let name = chosen.with_context(|| format!("which bench? {names} or all"))?;
    ensure!(!(is_short && write), "what is measured with --short is no figure");
    let benches: Vec<_> = BENCHES
        .iter()
        .filter(|(known, ..)| *known == name || name == "all")
        .collect();
    if benches.is_empty() {
        bail!("there is no bench {name}; there are {names} and all");
    }
    packages::install()?;
    match std::env::var_os("STOA_BIN") {
        Some(binary) => println!("measuring {}, as STOA_BIN says", binary.to_string_lossy()),
        None => {
            // What is measured is what is shipped: the release profile.
            Step::cargo("build-release")
                .args(["build", "--release", "--package", "stoa", "--quiet"])
                .run()?;
            journeys::Stoa::use_binary(&repository::target().join("release/stoa"));
        }
    }
    for (name, about, usual, bench) in benches {
        println!("\n{name}: {about}");
        let rounds = Rounds {
            count: rounds.unwrap_or(*usual),
            noise_counts: is_short,
            gigabytes,
        };
        let table = match bench {
            Bench::Figures(run) => figures::table(&run(rounds)?),
            Bench::Findings(run) => run(rounds)?,
        };
        print!("\n{table}");
        if write {
            write_section(name, about, &table)?;
        }
    }
    Ok(())
}

/// Runs every bench for two rounds with `binary`: shows that each still measures both sides. What it measures says
/// nothing: the build is not the one that is shipped, and the machine is at work.
///
/// # Errors
/// When something cannot be measured.
pub fn short(binary: &Path) -> Result<()> {
    const ROUNDS: Rounds = Rounds {
        count: 2,
        noise_counts: true,
        gigabytes: None,
    };
    journeys::Stoa::use_binary(binary);
    for (name, _, _, bench) in BENCHES {
        println!("   bench {name}");
        let run = match bench {
            Bench::Figures(run) => run,
            Bench::Findings(run) => {
                run(ROUNDS).with_context(|| format!("bench {name}"))?;
                continue;
            }
        };
        for figure in run(ROUNDS).with_context(|| format!("bench {name}"))? {
            let (what, pairs) = (&figure.what, &figure.pairs);
            ensure!(
                pairs.rounds() == ROUNDS.count && pairs.are_numbers(),
                "bench {name}: {what} was not measured: {pairs:?}"
            );
        }
    }
    Ok(())
}

/// Replaces one bench's section of the document.
fn write_section(name: &str, about: &str, table: &str) -> Result<()> {
    let path = repository::root().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {DOCUMENT}"))?;
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- end {name} -->"));
    let (head, rest) = text
        .split_once(&begin)
        .with_context(|| format!("{DOCUMENT} has no {begin}"))?;
    let (_, tail) = rest
        .split_once(&end)
        .with_context(|| format!("{DOCUMENT} has no {end}"))?;
    let machine = noise::machine();
    let body = format!("\n`cargo xtask bench {name}`: {about}.\n\n{table}\nMeasured on {machine}.\n");
    fs::write(&path, format!("{head}{begin}{body}{end}{tail}"))?;
    println!("written into {DOCUMENT}");
    Ok(())
}
