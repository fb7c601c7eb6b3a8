//! Long trials of reliability: as many as one likes, the same that run for a short time in `cargo xtask test`.
//!
//! Lives here: which soaks there are and reading their words. Does not live here: the trials (`journeys::soak`).
//! Invariant: what is found is printed with what replays it, and makes the command fail.

pub mod api;
mod control;
mod db_queries;
mod db_rpo;
mod deploys;
mod edge;
mod hostile;
mod kill;
mod power;
mod sim;
mod syscall;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use crate::step::Step;
use crate::{packages, repository};

/// One soak: the only list of them, behind the help, the words that are understood, and running it.
struct Soak {
    name: &'static str,
    about: &'static str,
    /// Each `--key VALUE` it takes.
    flags: &'static [(&'static str, &'static str)],
    run: fn(&Words<'_>) -> Result<()>,
}

const SOAKS: &[Soak] = &[
    Soak {
        name: "api",
        about: "schemathesis against the API, by its document, until so many requests were answered",
        flags: &[("cases", "N"), ("cases-each", "N"), ("seed", "S")],
        run: api::run,
    },
    Soak {
        name: "control",
        about: "kill -9 of control again and again under traffic",
        flags: &[("kills", "N"), ("seed", "S"), ("load", "X")],
        run: control::run,
    },
    Soak {
        name: "db-queries",
        about: "a database gets new passwords, is replaced by another and started anew while programs query it: no query fails",
        flags: &[("rotations", "N"), ("promotions", "N"), ("restarts", "N")],
        run: db_queries::run,
    },
    Soak {
        name: "db-rpo",
        about: "all of a database killed at once and its data gone: what a restore from base and archive brings back",
        flags: &[("trials", "N"), ("level", "stream|sync"), ("seed", "S")],
        run: db_rpo::run,
    },
    Soak {
        name: "deploys",
        about: "deploys good and bad, by all strategies, under traffic",
        flags: &[("deploys", "N"), ("exchanges", "N"), ("load", "X")],
        run: deploys::run,
    },
    Soak {
        name: "edge",
        about: "edges replaced and the platform upgraded under traffic",
        flags: &[("replacements", "N"), ("upgrades", "N"), ("load", "X")],
        run: edge::run,
    },
    Soak {
        name: "hostile",
        about: "hostile requests, each from a seed: none answered 5xx, each error with a code",
        flags: &[("requests", "N"), ("seed", "S"), ("first", "N")],
        run: hostile::run,
    },
    Soak {
        name: "kill",
        about: "kill -9 at random moments of random operations; what was promised is compared",
        flags: &[
            ("trials", "N"),
            ("seed", "S"),
            ("load", "X"),
            ("databases", "yes|no"),
            ("aim", "anything|movements"),
        ],
        run: kill::run,
    },
    Soak {
        name: "power",
        about: "power cuts of the whole data directory",
        flags: &[("trials", "N"), ("fs", "ext4|xfs"), ("seed", "S")],
        run: power::run,
    },
    Soak {
        name: "sim",
        about: "seeded fleets over the real reconcilers, in virtual time; or deaths at each step of one work and of its recovery",
        flags: &[
            ("seeds", "N"),
            ("hours", "H"),
            ("first", "S"),
            ("bursts", "N"),
            ("failpoints", "yes|no"),
        ],
        run: sim::run,
    },
    Soak {
        name: "syscall",
        about: "a fault at each system call of one operation",
        flags: &[
            ("operation", "deploy|rollback"),
            ("fault", "kill|eio|eintr|short"),
            ("from", "N"),
            ("to", "N"),
            ("stride", "K"),
            ("seed", "S"),
            ("load", "X"),
        ],
        run: syscall::run,
    },
];

/// Where the help says what a command does, and where its lines end.
const INDENT: usize = 33;
const WIDTH: usize = 120;

/// The lines of the help that are about soaks.
pub fn usage() -> String {
    let mut text = String::new();
    for soak in SOAKS {
        let head = format!("cargo xtask soak {}", soak.name);
        let flags = soak.flags.iter().map(|(key, value)| format!("[--{key} {value}]"));
        let words: Vec<String> = soak.about.split(' ').map(str::to_owned).chain(flags).collect();
        let mut line = format!("{head:<INDENT$}");
        let mut is_begun = false;
        for word in words {
            if is_begun && line.len() + 1 + word.len() > WIDTH {
                text.push_str(&format!("{line}\n"));
                line = " ".repeat(INDENT);
                is_begun = false;
            }
            if is_begun {
                line.push(' ');
            }
            line.push_str(&word);
            is_begun = true;
        }
        text.push_str(&format!("{line}\n"));
    }
    text
}

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

    /// Refuses keys that the soak does not take.
    fn only(&self, soak: &Soak) -> Result<()> {
        let is_known = |key: &&&str| soak.flags.iter().any(|(known, _)| known == *key);
        match self.0.keys().find(|key| !is_known(key)) {
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
    let names: Vec<&str> = SOAKS.iter().map(|soak| soak.name).collect();
    let (name, rest) = words
        .split_first()
        .with_context(|| format!("which soak? {}", names.join(", ")))?;
    let soak = SOAKS
        .iter()
        .find(|soak| soak.name == *name)
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
    let words = Words(pairs);
    words.only(soak)?;
    println!("{name}: {}", soak.about);
    (soak.run)(&words)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a soak reads is in the list, and what is in the list is read.
    #[test]
    fn the_list_of_flags_is_what_the_soaks_read() {
        for soak in SOAKS {
            let file = format!("xtask/src/soak/{}.rs", soak.name.replace('-', "_"));
            let path = repository::root().join(file);
            let text = std::fs::read_to_string(&path).expect("a soak's file");
            let read: std::collections::BTreeSet<&str> = text
                .split("words.get(\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect();
            let listed: std::collections::BTreeSet<&str> = soak.flags.iter().map(|(key, _)| *key).collect();
            assert_eq!(read, listed, "{}", soak.name);
        }
    }

    #[test]
    fn the_help_has_every_soak_and_flag() {
        let usage = usage();
        for soak in SOAKS {
            assert!(
                usage.contains(&format!("cargo xtask soak {} ", soak.name)),
                "{usage}"
            );
            for (key, value) in soak.flags {
                assert!(usage.contains(&format!("[--{key} {value}]")), "{usage}");
            }
        }
        assert!(usage.lines().all(|line| line.len() <= WIDTH), "{usage}");
    }

    #[test]
    fn a_flag_of_another_soak_is_refused() {
        let why = run(&["power", "--kills", "3"]).expect_err("a flag of control");
        assert!(why.to_string().contains("--kills"), "{why}");
    }
}
