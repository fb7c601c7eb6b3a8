//! Orgs, projects, environments and apps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::InstanceId;
use crate::id::{AppId, EnvironmentId, OperationId, OrgId, ProjectId, ReleaseId};
use crate::name::{EnvKey, Name};
use crate::operation::Failure;
use crate::time::Timestamp;

/// Who owns projects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Org {
    /// Id.
    pub id: OrgId,
    /// Name, unique on the installation.
    pub name: Name,
}

/// A group of environments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Id.
    pub id: ProjectId,
    /// Owner.
    pub org: OrgId,
    /// Name, unique in the org.
    pub name: Name,
}

/// Where apps and databases live together: one private network each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Id.
    pub id: EnvironmentId,
    /// Its project.
    pub project: ProjectId,
    /// Name, unique in the project.
    pub name: Name,
}

/// What one `stoa.toml` describes, in one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Id.
    pub id: AppId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Name, unique in the environment.
    pub name: Name,
    /// Plain configuration set by hand; wins over the manifest's. Frozen into each release.
    pub env: BTreeMap<EnvKey, String>,
    /// Instance counts set by hand; they outlive releases.
    pub scale: BTreeMap<Name, u16>,
    /// What serves now.
    pub serving: Option<Serving>,
    /// What served before it, newest last, without what was rolled away from: where a rollback goes.
    #[serde(default)]
    pub served_before: Vec<ReleaseId>,
    /// The one movement under way. A field, so that two can not own the app at once.
    pub rollout: Option<Rollout>,
    /// Set when the app is to be gone: instances end first, then the row.
    pub deleting: bool,
}

/// The release that serves, and since which rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The release.
    pub release: ReleaseId,
    /// Number of the rollout that brought it; instances of an older one are replaced.
    pub epoch: u64,
}

/// Moving an app from what serves to another release (or to fresh instances of the same one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The operation people watch.
    pub operation: OperationId,
    /// Where to.
    pub to: Serving,
    /// When it began.
    pub started_at: Timestamp,
    /// When it must be decided.
    pub deadline: Timestamp,
    /// New instances seen failed: a set of ids, so that one seen twice weighs once.
    pub failed: std::collections::BTreeSet<InstanceId>,
    /// Steps of a canary that began, by number, and when: noted once, so that a step seen twice begins once.
    #[serde(default)]
    pub begun: BTreeMap<usize, Timestamp>,
    /// Set when it goes back. It owns the app until nothing but what serves may answer: only then is its operation settled.
    #[serde(default)]
    pub returning: Option<Returning>,
}

/// A movement that goes back to what serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returning {
    /// Since when: ready instances of what is given up are held back for a while, no longer.
    pub since: Timestamp,
    /// Why, as the operation will say.
    pub failure: Failure,
}
