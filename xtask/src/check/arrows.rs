//! Which crate may know which: the file `ARROWS` against the manifests, in both directions.
//!
//! Lives here: reading both. Does not live here: the map itself (`ARROWS`), dev-dependencies (tests may know more).
//! Invariant: an arrow that is drawn is used, and one that is used is drawn.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use toml::Table;

use super::{Finding, Verdict};
use crate::repository::Repository;

const MAP: &str = "ARROWS";
/// `* -> model` lets everybody know `model`, `keeper -> nobody` shuts a crate off even from that.
const EVERYBODY: &str = "*";
const NOBODY: &str = "nobody";

type Arrow = (String, String);

pub fn check(repository: &Repository) -> Result<Verdict> {
    let crates = repository.crates();
    let (drawn, mut findings) = drawn(&repository.read(MAP)?);
    let used = used(repository, &crates)?;
    let known: BTreeSet<&str> = crates.iter().map(|(_, name)| name.as_str()).collect();
    for ((from, to), index) in &drawn {
        let names = [from, to]
            .into_iter()
            .filter(|name| *name != EVERYBODY && *name != NOBODY);
        for name in names.filter(|name| !known.contains(name.as_str())) {
            findings.push(Finding::line(MAP, *index, format!("there is no crate {name}")));
        }
    }
    for (from, to) in &used {
        let direct = drawn.contains_key(&(from.clone(), to.clone()));
        let shut = drawn.contains_key(&(from.clone(), NOBODY.to_owned()));
        let shared = !shut && drawn.contains_key(&(EVERYBODY.to_owned(), to.clone()));
        if !direct && !shared {
            findings.push(Finding::at(MAP, format!("{from} -> {to} is used but not drawn")));
        }
    }
    for ((from, to), index) in &drawn {
        let special = from == EVERYBODY || to == NOBODY;
        if !special && !used.contains(&(from.clone(), to.clone())) {
            findings.push(Finding::line(
                MAP,
                *index,
                format!("{from} -> {to} is drawn but not used"),
            ));
        }
    }
    Ok(Verdict::new(
        format!("{} crates, {} arrows", crates.len(), used.len()),
        findings,
    ))
}

/// Arrows of the map with their line.
fn drawn(text: &str) -> (BTreeMap<Arrow, usize>, Vec<Finding>) {
    let (mut arrows, mut findings) = (BTreeMap::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let Some((from, targets)) = line.split_once("->") else {
            findings.push(Finding::line(MAP, index, "write: a -> b c"));
            continue;
        };
        for to in targets.split_whitespace() {
            let arrow = (from.trim().to_owned(), to.to_owned());
            if arrows.insert(arrow, index).is_some() {
                findings.push(Finding::line(
                    MAP,
                    index,
                    format!("{} -> {to} is drawn twice", from.trim()),
                ));
            }
        }
    }
    (arrows, findings)
}

/// Arrows of the manifests.
fn used(repository: &Repository, crates: &[(String, String)]) -> Result<BTreeSet<Arrow>> {
    let mut arrows = BTreeSet::new();
    for (folder, from) in crates {
        let path = format!("{folder}/Cargo.toml");
        let manifest: Table = repository
            .read(&path)?
            .parse()
            .with_context(|| format!("{path} is not TOML"))?;
        for (key, value) in dependencies(&manifest) {
            let package = value
                .get("package")
                .and_then(|name| name.as_str())
                .unwrap_or(&key);
            let name = package.strip_prefix("stoa-").unwrap_or(package);
            let name = if name == "journeys" { "tests" } else { name };
            if crates.iter().any(|(_, known)| known == name) {
                arrows.insert((from.clone(), name.to_owned()));
            }
        }
    }
    Ok(arrows)
}

/// Dependencies and build-dependencies, for all targets.
fn dependencies(manifest: &Table) -> Vec<(String, toml::Value)> {
    let mut tables = vec![manifest];
    let targets = manifest.get("target").and_then(|target| target.as_table());
    tables.extend(
        targets
            .into_iter()
            .flat_map(Table::values)
            .filter_map(|value| value.as_table()),
    );
    let sections = tables.iter().flat_map(|table| {
        ["dependencies", "build-dependencies"]
            .iter()
            .filter_map(|kind| table.get(*kind)?.as_table())
    });
    sections
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::check;

    const MODEL: (&str, &str) = ("crates/model/Cargo.toml", "[dependencies]\nserde = \"1\"\n");
    const EDGE: (&str, &str) = (
        "crates/edge/Cargo.toml",
        "[dependencies]\nmodel.workspace = true\n",
    );

    #[test]
    fn a_true_map_passes() {
        assert!(findings(check, &[("ARROWS", "* -> model"), MODEL, EDGE]).is_empty());
        assert!(findings(check, &[("ARROWS", "edge -> model # why"), MODEL, EDGE]).is_empty());
    }

    #[test]
    fn extra_unused_and_unknown_arrows_are_found() {
        for (map, expected) in [
            ("", "edge -> model is used but not drawn"),
            (
                "* -> model\nedge -> nobody",
                "edge -> model is used but not drawn",
            ),
            (
                "edge -> model\nmodel -> edge",
                "model -> edge is drawn but not used",
            ),
            ("edge -> model net", "there is no crate net"),
            ("edge -> model model", "drawn twice"),
            ("edge -> model\nedge", "write: a -> b"),
        ] {
            let found = findings(check, &[("ARROWS", map), MODEL, EDGE]);
            assert!(
                found.iter().any(|line| line.contains(expected)),
                "{map:?} gave {found:?}"
            );
        }
    }

    #[test]
    fn crates_outside_of_the_folder_are_on_the_map() {
        for name in ["fuzz", "stoa", "xtask"] {
            let path = format!("{name}/Cargo.toml");
            let found = findings(check, &[("ARROWS", ""), MODEL, (&path, EDGE.1)]);
            let expected = format!("{name} -> model is used but not drawn");
            assert!(found.iter().any(|line| line.contains(&expected)), "{found:?}");
        }
    }

    #[test]
    fn build_and_target_dependencies_count_and_dev_dependencies_do_not() {
        let with = |section: &str| {
            let manifest =
                format!("[{section}]\nmodel = {{ package = \"stoa-model\", path = \"../model\" }}\n");
            findings(
                check,
                &[("ARROWS", ""), MODEL, ("crates/edge/Cargo.toml", &manifest)],
            )
            .len()
        };
        assert_eq!(with("build-dependencies"), 1);
        assert_eq!(with("target.'cfg(unix)'.dependencies"), 1);
        assert_eq!(with("dev-dependencies"), 0);
    }
}
