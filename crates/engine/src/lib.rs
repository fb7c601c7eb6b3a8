//! The face of "a place where workloads run": what is wanted goes in, what is seen comes out.
//!
//! Lives here: the words that every engine speaks, and the simulated engine for tests at `control`.
//! Does not live here: how containers are made (`runtime`, `host`), what should run (`control`, `plan`).
//! Invariant: every call is idempotent by the ids and names it carries; doing it twice is doing it once.

mod error;
mod image;
mod log;
pub mod simulated;
mod volume;
mod workload;

pub use error::EngineError;
pub use image::{BuildStep, ImageFacts, ImageSummary, LineSink, StepConfig, StepInput, StepOutput};
pub use log::{LogQuery, LogRecord, Stream};
pub use volume::VolumeFacts;
pub use workload::{
    Capabilities, Capacity, Exec, ExecStreams, Observed, Phase, Probe, SecretFile, Speaks, Usage,
    VolumeMount, Workload,
};

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use model::operation::ImageSource;
use model::{Bytes, ImageDigest, InstanceId, Timestamp};

/// A place where workloads run. Calls block; the caller chooses the thread.
pub trait Engine: Send + Sync {
    /// What this engine can do, and what it cannot.
    fn capabilities(&self) -> Capabilities;

    /// What the machine has, and what is left of it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn capacity(&self) -> Result<Capacity, EngineError>;

    /// Makes the workload run, or confirms that it does or did: an id lives once. Returns its address.
    ///
    /// # Errors
    /// When it could not be started; nothing of it is left behind then.
    fn ensure(&self, workload: &Workload) -> Result<Ipv4Addr, EngineError>;

    /// Asks the workload to end: its stop signal now, the hard stop after `grace`. Returns at once.
    ///
    /// # Errors
    /// When the workload cannot be reached; a workload that has ended is not an error.
    fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError>;

    /// Ends the workload at once and removes everything it had but its logs and volumes.
    ///
    /// # Errors
    /// When something of it could not be removed; calling again goes on where it stopped.
    fn remove(&self, id: InstanceId) -> Result<(), EngineError>;

    /// Everything that bears our mark, running or ended.
    ///
    /// # Errors
    /// When the world cannot be read; the caller must then not conclude that something is absent.
    fn observe(&self) -> Result<Vec<Observed>, EngineError>;

    /// Waits until something that [`Engine::observe`] tells has changed since `seen`, at most `timeout`.
    /// Returns the number to pass next time. Only a hint: it may return early, and a full look comes anyway.
    fn wait_change(&self, seen: u64, timeout: Duration) -> u64;

    /// What a running workload uses now.
    ///
    /// # Errors
    /// When it does not run.
    fn usage(&self, id: InstanceId) -> Result<Usage, EngineError>;

    /// Runs a further program inside a running workload.
    ///
    /// # Errors
    /// When the workload does not run or the program cannot be started.
    fn exec(&self, id: InstanceId, exec: &Exec) -> Result<ExecStreams, EngineError>;

    /// Lines of the logs of an app's services or a database, oldest first. They outlive instances and releases.
    ///
    /// # Errors
    /// When the logs cannot be read. A place without logs has none: an empty answer.
    fn logs(&self, query: &LogQuery) -> Result<Vec<LogRecord>, EngineError>;

    /// Removes the logs of apps and databases that are not in `keep`, after a while: they outlive what wrote them, but
    /// not for ever.
    ///
    /// # Errors
    /// When they cannot be looked over or removed; calling again goes on.
    fn collect_logs(&self, keep: &BTreeSet<String>) -> Result<(), EngineError>;

    /// Makes the names and doors of the environments' networks known to their instances, as a whole.
    ///
    /// # Errors
    /// When they could not be published; the old ones stay.
    fn publish_names(&self, names: &[NetworkNames]) -> Result<(), EngineError>;

    /// When each door was last used, by its key: somebody knocked, or was inside. One that nobody came to yet is left out.
    ///
    /// # Errors
    /// When that cannot be read.
    fn last_used(&self) -> Result<BTreeMap<String, Timestamp>, EngineError>;

    /// Counts as somebody at the door of this key.
    ///
    /// # Errors
    /// When it cannot be told.
    fn use_door(&self, key: &str) -> Result<(), EngineError>;

    /// Gets an image into the store under a name, or confirms that it is there.
    ///
    /// # Errors
    /// When it cannot be got; nothing half-done is visible.
    fn fetch_image(&self, request: &FetchImage<'_>, lines: LineSink<'_>) -> Result<ImageDigest, EngineError>;

    /// An image with the files of two: those of `above` over those of `below`. It wants to be run as `above` does.
    ///
    /// # Errors
    /// When one of them is not there, or together they have more layers than an image may.
    fn combine_images(&self, below: &ImageDigest, above: &ImageDigest) -> Result<ImageDigest, EngineError>;

    /// What a name or digest means in the store, without asking anybody outside.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn find_image(&self, name_or_digest: &str) -> Result<Option<ImageFacts>, EngineError>;

    /// Whether an image has a file at this path below its root; what only a link to another layer leads to does not count.
    ///
    /// # Errors
    /// When the image is not there or cannot be read.
    fn image_has(&self, image: &ImageDigest, path: &str) -> Result<bool, EngineError>;

    /// All images of the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn images(&self) -> Result<Vec<ImageSummary>, EngineError>;

    /// Forgets a name, or an image by digest; the bytes go with the next collection.
    ///
    /// # Errors
    /// When it is not there.
    fn remove_image(&self, name_or_digest: &str) -> Result<(), EngineError>;

    /// Frees what no image in `keep`, no name and no recent build step needs. Returns the bytes freed.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    fn collect_images(&self, keep: &[ImageDigest]) -> Result<u64, EngineError>;

    /// Unpacks an uploaded source archive safely into a directory that does not exist yet.
    ///
    /// # Errors
    /// When the archive is hostile, broken or beyond the quota; the directory is removed then.
    fn unpack_source(&self, archive: &Path, into: &Path) -> Result<(), EngineError>;

    /// Runs one bounded, unprivileged build step and returns the image that results.
    /// A step with a key that was run before is answered from the cache.
    ///
    /// # Errors
    /// When the step fails, takes too long or uses too much; its output has gone to `lines`.
    fn build_step(&self, step: &BuildStep, lines: LineSink<'_>) -> Result<StepOutput, EngineError>;

    /// Makes an empty volume, or confirms it.
    ///
    /// # Errors
    /// When there is no room or the pool is not writable.
    fn create_volume(&self, name: &str) -> Result<(), EngineError>;

    /// Makes `to` a copy of `from` as of now, as cheaply as the pool can.
    ///
    /// # Errors
    /// As [`Engine::create_volume`]; when `from` is not there, or `to` is.
    fn clone_volume(&self, from: &str, to: &str) -> Result<(), EngineError>;

    /// Gives a volume another name.
    ///
    /// # Errors
    /// When `from` is not there, or `to` is.
    fn rename_volume(&self, from: &str, to: &str) -> Result<(), EngineError>;

    /// Removes a volume; one that is not there is fine.
    ///
    /// # Errors
    /// When it could not be removed.
    fn remove_volume(&self, name: &str) -> Result<(), EngineError>;

    /// All volumes.
    ///
    /// # Errors
    /// When the pool cannot be read.
    fn volumes(&self) -> Result<Vec<VolumeFacts>, EngineError>;

    /// How many bytes a volume holds now, whether others share them or not. Counting may end where it is more than
    /// `enough`; what cannot be counted for how it is nested is more.
    ///
    /// # Errors
    /// When it is not there or cannot be measured.
    fn volume_bytes(&self, name: &str, enough: Bytes) -> Result<Bytes, EngineError>;

    /// How many bytes volumes can still take together. Sees first that the pool grows, where it can.
    ///
    /// # Errors
    /// When the pool cannot be measured.
    fn pool_free(&self) -> Result<Bytes, EngineError>;

    /// How many more files volumes, and what runs of them, can have together: free inodes. `None` where the file system has
    /// no number of them.
    ///
    /// # Errors
    /// When the pool cannot be measured.
    fn pool_inodes(&self) -> Result<Option<u64>, EngineError>;

    /// How many inodes the files and directories of a volume take. Looks at every name.
    ///
    /// # Errors
    /// When it is not there or cannot be measured.
    fn volume_inodes(&self, name: &str) -> Result<u64, EngineError>;

    /// How many bytes a workload has written into its own root file system, counted as those of a volume.
    ///
    /// # Errors
    /// When they cannot be measured. A workload that is gone has written nothing.
    fn written(&self, id: InstanceId, enough: Bytes) -> Result<Bytes, EngineError>;

    /// Ends a workload at once because it wrote too much: [`model::Exit::DiskFull`].
    ///
    /// # Errors
    /// When the workload cannot be reached; a workload that has ended is not an error.
    fn end_full(&self, id: InstanceId) -> Result<(), EngineError>;

    /// Where a volume's files are on this host, for an engine that has them here.
    ///
    /// # Errors
    /// When it is not there, or not here.
    fn volume_path(&self, name: &str) -> Result<std::path::PathBuf, EngineError>;
}

/// A wish for an image.
#[derive(Debug, Clone, Copy)]
pub struct FetchImage<'a> {
    /// Where from.
    pub source: &'a ImageSource,
    /// The upload, when the source is one.
    pub archive: Option<&'a Path>,
    /// The name it gets.
    pub name: &'a str,
    /// Where a registry may be.
    pub reach: Reach,
}

/// Where a registry may be. An engine asks it from the host, past the firewall that confines instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Also on the host or in private networks: for a wish of the operator.
    Anywhere,
    /// On public addresses only: for references that a tenant wrote.
    PublicOnly,
}

/// The names of one environment's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkNames {
    /// The environment's network, as in [`Workload::network`].
    pub network: String,
    /// `SERVICE.APP` (without `.internal`) and the addresses behind it.
    pub names: Vec<(String, Vec<Ipv4Addr>)>,
    /// Names that lead to a door instead.
    pub doors: Vec<Door>,
}

/// An address that stands for a server, whether it runs or not: who connects waits until it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Whose it is: letters, digits, `_` and `-`.
    pub key: String,
    /// The name that leads to it, as those of [`NetworkNames::names`].
    pub name: String,
    /// The port that is knocked at, and that the server listens on.
    pub port: u16,
    /// The server, while it takes connections.
    pub target: Option<Ipv4Addr>,
}
