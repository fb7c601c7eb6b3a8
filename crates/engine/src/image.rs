//! Images and build steps in the engine's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::spec::Resources;
use model::{ImageDigest, Millis, Timestamp};

/// Receives lines of progress or build output as they come.
pub type LineSink<'a> = &'a (dyn Fn(&str) + Sync);

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its digest.
    pub digest: ImageDigest,
    /// Entry point and command together.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// User, as spelled.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// Ports it exposes (TCP).
    pub ports: Vec<u16>,
    /// Labels and annotations: data only.
    pub labels: BTreeMap<String, String>,
}

/// One line of the image list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its digest.
    pub digest: ImageDigest,
    /// Names that point to it.
    pub names: Vec<String>,
    /// Bytes of its layers as unpacked.
    pub bytes: u64,
    /// When it came into the store.
    pub created_at: Timestamp,
}

/// One step of a build: a bounded, unprivileged instance over `base`; what it leaves becomes a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildStep {
    /// For people and errors, for example `dependencies`.
    pub name: String,
    /// The image it starts from.
    pub base: ImageDigest,
    /// Directories of the source to copy in before the command runs.
    pub inputs: Vec<StepInput>,
    /// Program and arguments; empty: the inputs alone are the layer.
    pub command: Vec<String>,
    /// Environment of the step.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: String,
    /// User inside, 0 to own what it writes.
    pub user: String,
    /// Identifies the result: same base and same key, same layer. `None` is never cached.
    pub key: Option<String>,
    /// Whether it may use the network.
    pub network: bool,
    /// Host files given read-only, for example a package client's configuration: (on the host, inside).
    pub host_files: Vec<(PathBuf, String)>,
    /// Limits.
    pub resources: Resources,
    /// How long it may take.
    pub timeout: Millis,
    /// What the resulting image says about itself, where it differs from the base.
    pub config: StepConfig,
}

/// A directory or file that a step copies in, owned by its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInput {
    /// On the host, below the unpacked source.
    pub from: PathBuf,
    /// Absolute path inside.
    pub to: String,
}

/// Changes to an image's description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepConfig {
    /// Command.
    pub command: Option<Vec<String>>,
    /// Variables to set.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User.
    pub user: Option<String>,
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutput {
    /// The resulting image.
    pub image: ImageDigest,
    /// It was there already.
    pub cached: bool,
}
