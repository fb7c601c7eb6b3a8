//! Which releases of an app may go, and which versions of its secrets.
//!
//! Invariant: what serves, what a rollout moves to, what a rollback goes to and what is not decided yet always stays.

use std::collections::{BTreeMap, BTreeSet};

use model::{App, EnvKey, Release, ReleaseId, ReleaseState};

/// Releases kept of each kind: enough to go back a week of daily deploys and some.
pub const KEEP: usize = 10;

/// What becomes of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep(KeepWhy),
    /// It may go: so many newer ones of its kind are kept.
    Go {
        /// How many.
        newer: usize,
    },
}

/// Why a release keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepWhy {
    /// It serves.
    Serving,
    /// A rollout moves to it.
    Arriving,
    /// Nobody knows yet what becomes of it.
    Undecided,
    /// One of the last that were fit to serve, or that did: a rollback may want it.
    RollbackTarget,
    /// One of the last that were rejected: people want to see why.
    Evidence,
}

/// The fate of each release of the app. Rejected ones are counted apart, so that a row of broken deploys pushes out no
/// release that worked.
#[must_use]
pub fn releases(
    app: &App,
    releases: &BTreeMap<ReleaseId, Release>,
    keep: usize,
) -> BTreeMap<ReleaseId, Fate> {
    let mut newest_first: Vec<&Release> = releases
        .values()
        .filter(|release| release.app == app.id)
        .collect();
    newest_first.sort_by_key(|release| std::cmp::Reverse((release.number, release.id)));
    let (mut proven, mut rejected) = (0, 0);
    let windowed = |count: &mut usize, why: KeepWhy| {
        *count += 1;
        if *count <= keep {
            Fate::Keep(why)
        } else {
            Fate::Go { newer: *count - 1 }
        }
    };
    // After going back a long way, what served before that is older than the newest ones.
    let served: BTreeSet<ReleaseId> = app.served_before.iter().rev().take(keep).copied().collect();
    let mut fates = BTreeMap::new();
    for release in newest_first {
        let in_window = match release.state {
            ReleaseState::Pending => Fate::Keep(KeepWhy::Undecided),
            ReleaseState::Proven => windowed(&mut proven, KeepWhy::RollbackTarget),
            ReleaseState::Rejected { .. } => windowed(&mut rejected, KeepWhy::Evidence),
        };
        let fate = if app.serving.is_some_and(|serving| serving.release == release.id) {
            Fate::Keep(KeepWhy::Serving)
        } else if app
            .rollout
            .as_ref()
            .is_some_and(|rollout| rollout.to.release == release.id)
        {
            Fate::Keep(KeepWhy::Arriving)
        } else if served.contains(&release.id) {
            Fate::Keep(KeepWhy::RollbackTarget)
        } else {
            in_window
        };
        fates.insert(release.id, fate);
    }
    fates
}

/// The versions of an app's secrets that may go: not the newest of each, and frozen by no release that is left. `versions`
/// are key and number of each.
#[must_use]
pub fn secret_versions(
    versions: &BTreeSet<(EnvKey, u64)>,
    left: &BTreeMap<ReleaseId, Release>,
) -> BTreeSet<(EnvKey, u64)> {
    let mut newest: BTreeMap<&EnvKey, u64> = BTreeMap::new();
    for (key, version) in versions {
        // In the order of the set the last of each key is its newest.
        newest.insert(key, *version);
    }
    let is_frozen = |key: &EnvKey, version: u64| {
        let mut releases = left.values();
        releases.any(|release| release.secrets.get(key) == Some(&version))
    };
    versions
        .iter()
        .filter(|(key, version)| newest.get(key) != Some(version) && !is_frozen(key, *version))
        .cloned()
        .collect()
}
