//! What the dependency tree may hold: one SQLite, new enough, known to `store` alone; and few crates.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use toml::Table;

use super::{Finding, Verdict};
use crate::repository::Repository;

const LOCK: &str = "Cargo.lock";
/// 3.51.3 repairs a corruption of WAL databases (two connections, checkpoint and reset at the same time).
const SQLITE_AT_LEAST: (u32, u32, u32) = (3, 51, 3);
const CRATES_BELOW: usize = 350;

pub fn one_sqlite(repository: &Repository) -> Result<Verdict> {
    let mut findings = Vec::new();
    for path in repository
        .files()
        .filter(|path| path.ends_with("Cargo.toml") && path.contains('/'))
    {
        let text = repository.read(path)?;
        let known = ["rusqlite", "libsqlite3-sys", "sqlx", "diesel"];
        for (index, line) in text.lines().enumerate() {
            if known.iter().any(|name| line.trim_start().starts_with(name))
                && path != "crates/store/Cargo.toml"
            {
                findings.push(Finding::line(path, index, "SQL lives in `store` only"));
            }
        }
    }
    let versions: Vec<String> = locked(repository)?
        .into_iter()
        .filter_map(|(name, version)| (name == "libsqlite3-sys").then_some(version))
        .collect();
    let mut looked_at = format!("{} of libsqlite3-sys", versions.len());
    if versions.len() > 1 {
        findings.push(Finding::at(
            LOCK,
            format!("two SQLite in one program: {}", versions.join(", ")),
        ));
    }
    if let [version] = versions.as_slice()
        && let Some(header) = header(version)
    {
        let bundled = sqlite_version(&header).context("sqlite3.h does not tell its version")?;
        looked_at = format!("SQLite {}.{}.{}", bundled.0, bundled.1, bundled.2);
        if bundled < SQLITE_AT_LEAST {
            findings.push(Finding::at(
                LOCK,
                format!("{looked_at} is older than {SQLITE_AT_LEAST:?}"),
            ));
        }
    }
    Ok(Verdict::new(looked_at, findings))
}

pub fn lean_tree(repository: &Repository) -> Result<Verdict> {
    let count = locked(repository)?.len();
    let mut findings = Vec::new();
    if count >= CRATES_BELOW {
        let message = format!("{count} crates, {CRATES_BELOW} or more: see which are new with cargo tree");
        findings.push(Finding::at(LOCK, message));
    }
    Ok(Verdict::new(format!("{count} crates in {LOCK}"), findings))
}

/// Name and version of each crate.
fn locked(repository: &Repository) -> Result<Vec<(String, String)>> {
    let lock: Table = repository.read(LOCK)?.parse().context("Cargo.lock is not TOML")?;
    let packages = lock.get("package").and_then(|packages| packages.as_array());
    let text = |package: &toml::Value, key| package.get(key)?.as_str().map(str::to_owned);
    Ok(packages
        .into_iter()
        .flatten()
        .filter_map(|package| Some((text(package, "name")?, text(package, "version")?)))
        .collect())
}

/// The header of the bundled SQLite, from cargo's registry.
fn header(version: &str) -> Option<String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let path = format!("libsqlite3-sys-{version}/sqlite3/sqlite3.h");
    registries
        .flatten()
        .find_map(|registry| std::fs::read_to_string(registry.path().join(&path)).ok())
}

fn sqlite_version(header: &str) -> Option<(u32, u32, u32)> {
    let line = header
        .lines()
        .find(|line| line.starts_with("#define SQLITE_VERSION "))?;
    let mut parts = line.split('"').nth(1)?.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::*;

    fn lock(names: &[&str]) -> String {
        names
            .iter()
            .map(|name| format!("[[package]]\nname = \"{name}\"\nversion = \"0.0.0\"\n"))
            .collect()
    }

    #[test]
    fn two_sqlites_and_a_second_room_with_sql_are_found() {
        let one = lock(&["libsqlite3-sys"]);
        let two = lock(&["libsqlite3-sys", "libsqlite3-sys"]);
        let store = (
            "crates/store/Cargo.toml",
            "[dependencies]\nrusqlite.workspace = true\n",
        );
        let server = (
            "crates/server/Cargo.toml",
            "[dependencies]\nrusqlite.workspace = true\n",
        );
        assert!(findings(one_sqlite, &[(LOCK, &one), store]).is_empty());
        assert_eq!(findings(one_sqlite, &[(LOCK, &two), store]).len(), 1);
        assert_eq!(findings(one_sqlite, &[(LOCK, &one), server]).len(), 1);
    }

    #[test]
    fn a_fat_tree_is_found() {
        let few = lock(&["a"; CRATES_BELOW - 1]);
        let many = lock(&["a"; CRATES_BELOW]);
        assert!(findings(lean_tree, &[(LOCK, &few)]).is_empty());
        assert_eq!(findings(lean_tree, &[(LOCK, &many)]).len(), 1);
    }

    #[test]
    fn the_version_of_the_header_is_read() {
        let header =
            "/* x */\n#define SQLITE_VERSION        \"3.51.3\"\n#define SQLITE_VERSION_NUMBER 3051003\n";
        assert_eq!(sqlite_version(header), Some((3, 51, 3)));
        assert_eq!(sqlite_version(""), None);
    }
}
