//! Releases: immutable, numbered per app and environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, OperationId, ReleaseId};
use crate::name::{EnvKey, Name};
use crate::spec::{ImageDigest, Job, Service};
use crate::strategy::Strategy;
use crate::time::Timestamp;

/// Image + configuration + secret versions + routes. Never changed after creation, but for its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Id.
    pub id: ReleaseId,
    /// Its app.
    pub app: AppId,
    /// 1 for v1; never reused.
    pub number: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The operation that made it.
    pub operation: OperationId,
    /// One line about where it came from.
    pub note: String,
    /// The image of each service and job that has none of its own.
    pub image: ImageDigest,
    /// Images of services that name their own, pinned.
    pub images: BTreeMap<Name, ImageDigest>,
    /// Process types.
    pub services: BTreeMap<Name, Service>,
    /// Jobs.
    pub jobs: BTreeMap<Name, Job>,
    /// Plain configuration: the manifest's, overlaid by what was set by hand.
    pub env: BTreeMap<EnvKey, String>,
    /// The manifest's part of it, for a later release with the same manifest and other configuration.
    pub manifest_env: BTreeMap<EnvKey, String>,
    /// Version of each secret at that time.
    pub secrets: BTreeMap<EnvKey, u64>,
    /// How an app is moved to it.
    #[serde(default)]
    pub strategy: Strategy,
    /// What became of it.
    pub state: ReleaseState,
}

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReleaseState {
    /// Made, not decided yet.
    Pending,
    /// It has served, and may again.
    Proven,
    /// It did not pass its gate: it never got traffic, but for the share of a canary.
    Rejected {
        /// Why, in a sentence.
        why: String,
    },
}
