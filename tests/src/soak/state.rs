//! What the API says there is: the acknowledged writes, as a value that can be compared.
//!
//! Invariant: nothing in it changes by itself once everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{Api, ENVIRONMENT, PATIENCE, until};

/// How many of the newest releases and operations are looked at.
const NEWEST: usize = 60;

/// So many newer ones of its kind a release has when it is removed; with fewer it must be there (`plan::prune`).
const KEPT: usize = 10;

/// Everything that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    pub(super) apps: BTreeMap<String, App>,
    /// Name and state of each database.
    pub(super) databases: BTreeMap<String, String>,
    /// Destroyed databases: they give their name away and are kept for a while.
    pub(super) destroyed: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct App {
    /// The release that serves.
    pub(super) serving: Option<u64>,
    pub(super) env: BTreeMap<String, String>,
    /// Version of each secret: how often it was set.
    pub(super) secrets: BTreeMap<String, u64>,
    /// Wanted instances.
    pub(super) scale: Option<u64>,
    /// The newest releases by number.
    pub(super) releases: BTreeMap<u64, Release>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) version: String,
    pub(super) state: String,
}

impl App {
    pub(super) fn newest(&self) -> u64 {
        self.releases.keys().next_back().copied().unwrap_or(0)
    }

    /// The version that answers.
    pub(super) fn version(&self) -> Option<&str> {
        let release = self.releases.get(&self.serving?)?;
        Some(&release.version)
    }
}

impl State {
    pub(super) fn read(api: &Api) -> Result<Self> {
        let mut state = Self::default();
        for app in items(api, "/apps")? {
            let name = text(&app, "name")?;
            state.apps.insert(name.clone(), read_app(api, &name, &app)?);
        }
        for database in items(api, "/databases")? {
            let (name, standing) = (text(&database, "name")?, text(&database, "state")?);
            if standing == "destroyed" {
                state.destroyed += 1;
            } else {
                state.databases.insert(name, standing);
            }
        }
        Ok(state)
    }

    /// What differs between two, in words.
    pub(super) fn difference(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let names: BTreeSet<&String> = self.apps.keys().chain(other.apps.keys()).collect();
        for name in names {
            match (self.apps.get(name), other.apps.get(name)) {
                (Some(mine), Some(theirs)) => found.extend(
                    mine.difference(theirs)
                        .into_iter()
                        .map(|what| format!("{name}: {what}")),
                ),
                (Some(_), None) => found.push(format!("app {name} expected, not there")),
                (None, Some(_)) => found.push(format!("app {name} not expected, but there")),
                (None, None) => {}
            }
        }
        if self.databases != other.databases {
            found.push(format!(
                "databases {:?} expected, {:?} there",
                self.databases, other.databases
            ));
        }
        if self.destroyed != other.destroyed {
            found.push(format!(
                "{} destroyed databases expected, {} there",
                self.destroyed, other.destroyed
            ));
        }
        found
    }
}

impl App {
    fn difference(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |what: &str, mine: String, theirs: String| {
            if mine != theirs {
                found.push(format!("{what} {mine} expected, {theirs} there"));
            }
        };
        differ("serving", debug(&self.serving), debug(&other.serving));
        differ("env", debug(&self.env), debug(&other.env));
        differ("secrets", debug(&self.secrets), debug(&other.secrets));
        differ("scale", debug(&self.scale), debug(&other.scale));
        // The oldest leave the page as new ones come.
        let oldest = self.releases.keys().next().max(other.releases.keys().next());
        let oldest = oldest.copied().unwrap_or(0);
        let mine = self.releases.range(oldest..);
        let mine = mine.filter(|(number, release)| !other.has_removed(**number, release));
        differ(
            "releases",
            debug(&mine.collect::<Vec<_>>()),
            debug(&other.releases.range(oldest..).collect::<Vec<_>>()),
        );
        found
    }

    /// Whether a release that was there is not, and rightly: nobody wants the oldest of many.
    fn has_removed(&self, number: u64, release: &Release) -> bool {
        let newer = self.releases.range(number + 1..);
        let newer = newer.filter(|(_, newer)| newer.state == release.state);
        !self.releases.contains_key(&number) && release.state != "pending" && newer.count() >= KEPT
    }
}

fn debug(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

fn read_app(api: &Api, name: &str, app: &Value) -> Result<App> {
    let number = |name: &str| name.trim_start_matches('v').parse::<u64>().ok();
    let mut releases = BTreeMap::new();
    for release in items(api, &format!("/apps/{name}/releases"))? {
        let number = number(&text(&release, "name")?).context("a release without a number")?;
        let version = release["env"]["VERSION"].as_str().unwrap_or_default().to_owned();
        let state = text(&release, "state")?;
        let known = releases.insert(number, Release { version, state });
        ensure!(known.is_none(), "two releases of {name} have the number {number}");
    }
    let mut secrets = BTreeMap::new();
    for secret in items(api, &format!("/apps/{name}/secrets"))? {
        secrets.insert(
            text(&secret, "key")?,
            secret["version"].as_u64().unwrap_or_default(),
        );
    }
    let env = api.get(&format!("{ENVIRONMENT}/apps/{name}/env"))?["env"].clone();
    Ok(App {
        serving: app["serving"].as_str().and_then(number),
        env: serde_json::from_value(env)?,
        secrets,
        scale: app["services"][0]["wanted"].as_u64(),
        releases,
    })
}

/// Waits until nothing is under way and every app has what it wants.
pub(super) fn settle(api: &Api) -> Result<()> {
    until("everything to settle", PATIENCE, || {
        for operation in operations(api)? {
            if matches!(operation["state"].as_str(), Some("pending" | "running")) {
                bail!("under way: {operation}");
            }
        }
        let apps = api.get(&format!("{ENVIRONMENT}/apps"))?;
        for app in apps["items"].as_array().into_iter().flatten() {
            let is_busy = app["deleting"] == true || !app["rollout"].is_null();
            let services = app["services"].as_array().into_iter().flatten();
            let lacks = services
                .filter(|service| service["wanted"] != service["ready"])
                .count();
            if is_busy || lacks > 0 {
                bail!("not as it is wanted: {app}");
            }
        }
        Ok(Some(()))
    })
}

/// Ids of the newest operations.
pub(super) fn known(api: &Api) -> Result<BTreeSet<String>> {
    let operations = operations(api)?;
    let ids = operations.iter().filter_map(|operation| operation["id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

/// Operations, newest first.
pub(super) fn operations(api: &Api) -> Result<Vec<Value>> {
    items(api, "/operations")
}

/// Instances of an app that have not ended: name on the host and condition.
pub(super) fn live(api: &Api, app: &str) -> Result<BTreeMap<String, String>> {
    let mut live = BTreeMap::new();
    for instance in items(api, &format!("/apps/{app}/instances"))? {
        let condition = text(&instance, "condition")?;
        if condition != "exited" {
            live.insert(text(&instance, "id")?.replace('_', "-"), condition);
        }
    }
    Ok(live)
}

/// The first page of a list.
fn items(api: &Api, list: &str) -> Result<Vec<Value>> {
    let path = format!("{ENVIRONMENT}{list}?limit={NEWEST}");
    let page = api.get(&path)?;
    let items = page["items"].as_array();
    Ok(items
        .with_context(|| format!("{path} is no list: {page}"))?
        .clone())
}

fn text(value: &Value, key: &str) -> Result<String> {
    let text = value[key].as_str();
    Ok(text.with_context(|| format!("no {key} in {value}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{App, KEPT, Release};

    fn app(numbers: impl Iterator<Item = u64>, state: &str) -> App {
        let release = |number| {
            let state = state.to_owned();
            let version = format!("v{number}");
            (number, Release { version, state })
        };
        App {
            releases: numbers.map(release).collect(),
            ..App::default()
        }
    }

    #[test]
    fn only_the_oldest_of_many_releases_may_be_gone() {
        let all = KEPT as u64 + 2;
        let check = |gone: &[u64], state: &str, is_fine: bool| {
            let (before, after) = (
                app(1..=all, state),
                app((1..=all).filter(|n| !gone.contains(n)), state),
            );
            assert_eq!(before.difference(&after).is_empty(), is_fine, "{gone:?} {state}");
        };
        check(&[], "proven", true);
        check(&[2], "proven", true);
        check(&[2], "pending", false);
        check(&[3], "proven", false);
        check(&[all], "rejected", false);
        // Nor may one be there that nobody asked for.
        assert!(
            !app(1..=all, "proven")
                .difference(&app(1..=all + 1, "proven"))
                .is_empty()
        );
    }
}
