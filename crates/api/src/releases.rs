//! Uploads, releases and what moves an app between them.

use std::collections::BTreeMap;

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// A received archive, waiting to become a release or an image. It is removed when nothing used it for a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Id, begins with `upl_`.
    pub id: String,
    /// Bytes received.
    pub bytes: u64,
    /// SHA-256 of what was received, hexadecimal.
    pub sha256: String,
}

/// Make a release and move the app to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRelease {
    /// Where it comes from.
    pub source: ReleaseSource,
    /// The text of `stoa.toml`, when it is not inside the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    pub manifest: Option<String>,
}

/// Where a release comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReleaseSource {
    /// An uploaded directory.
    #[schema(title = "UploadSource")]
    Upload {
        /// Id of the upload.
        upload: String,
    },
    /// An image.
    #[schema(title = "ImageReferenceSource")]
    Image {
        /// Name of an image in the store, or a reference like `registry/repository:tag`.
        image: String,
    },
    /// The image and shape of what serves, with the configuration and secrets of now.
    #[schema(title = "ConfigurationSource")]
    Configuration {},
    /// A directory that was not sent: for `dry_run` only, which reads `manifest` alone.
    #[schema(title = "UnsentSource")]
    Unsent {},
}

/// What a deploy would do. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleasePlan {
    /// Name of the release it would make.
    pub release: String,
    /// Name of the release that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<String>,
    /// How the app would be moved to it, in words.
    pub strategy: String,
    /// How its configuration differs from what serves: names, never values.
    pub changes: Vec<ReleasePlanChange>,
    /// What would happen, in order, if every instance gets ready.
    pub steps: Vec<String>,
    /// What would make it fail.
    pub obstacles: Vec<String>,
    /// What is known only after the build, or after something else that is under way.
    pub unknown: Vec<String>,
}

/// One difference between what serves and what would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleasePlanChange {
    /// `service`, `job`, `variable`, `secret` or `database`.
    pub what: String,
    /// Its name.
    pub name: String,
    /// `added`, `removed`, `changed`, or `orphaned`: no longer used, while its data stays.
    pub change: String,
    /// Which of its settings, as the manifest calls them.
    pub settings: Vec<String>,
}

/// Image + configuration + secret versions + routes: immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Id, begins with `rel_`.
    pub id: String,
    /// Name: `v` and its number, never reused within the app.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The operation that made it.
    pub operation: String,
    /// One line about where it came from.
    pub note: String,
    /// What became of it: `pending`, `proven` (it has served) or `rejected` (it never got traffic).
    pub state: String,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it serves now.
    pub serving: bool,
    /// Digest of its image.
    pub image: String,
    /// Its process types.
    pub services: BTreeMap<String, ReleaseService>,
    /// Plain configuration frozen in it.
    pub env: BTreeMap<String, String>,
    /// Version of each secret frozen in it.
    pub secrets: BTreeMap<String, u64>,
}

/// A process type, all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseService {
    /// The program and its arguments; empty means what the image says.
    pub command: Vec<String>,
    /// The port it listens on; absent when it serves nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Instances when nobody scaled it.
    pub count: u16,
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Memory limit.
    pub memory_bytes: u64,
    /// Path of the health check; absent when an accepted connection is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Databases and services it may use.
    pub uses: Vec<String>,
    /// Names of the secrets delivered to it.
    pub secrets: Vec<String>,
}

/// Move the app back (or forth) to a release that has served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Name or id of the release; without it, the one that served before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// How an app moves from one release to another now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Id of the operation that it belongs to: wait for it, or give it up there.
    pub operation: String,
    /// The release that serves, for example `v2`; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release it moves to; the same as `from` when instances are only replaced.
    pub to: String,
    /// How it moves, in words.
    pub strategy: String,
    /// What it waits for now, in a sentence: why it is not done yet.
    pub reason: String,
    /// How far each service is.
    pub services: Vec<RolloutService>,
    /// Why new instances failed, in the order of their failures.
    pub failures: Vec<RolloutFailure>,
    /// When each step of a canary began; empty for other strategies.
    #[schema(value_type = Vec<String>)]
    pub steps_began_at: Vec<Timestamp>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it is given up and the old release stays.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
}

/// How far a rollout is with one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutService {
    /// Its name.
    pub name: String,
    /// How many instances are wanted.
    pub wanted: u16,
    /// New instances that are fit for traffic.
    pub new_ready: u16,
    /// New instances that are not, or not yet.
    pub new_unready: u16,
    /// Old instances that still run.
    pub old: u16,
}

/// A new instance that failed during a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutFailure {
    /// Id of the instance.
    pub instance: String,
    /// What became of it; empty when it is forgotten already.
    pub why: String,
}

pages! {
    ReleasePage of Release, "releases, newest first";
}
