//! The engine on this machine: containers, images, networks and volumes put together.
//!
//! Lives here: translating the engine's words into those of the four capabilities below, readiness probes, build steps.
//! Does not live here: deciding what runs (`control`); how a container, layer, bridge or clone is made.
//! Invariant: nothing is remembered that cannot be found again on the machine, so opening after a crash is adopting.

mod builds;
mod capacity;
mod doors;
mod error;
mod images;
mod instances;
mod leftovers;
mod line;
mod logs;
mod names;
mod probe;
mod room;
mod users;
mod volumes;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{
    BuildStep, Capabilities, Capacity, Engine, EngineError, Exec, ExecStreams, FetchImage, ImageFacts,
    ImageSummary, LineSink, LogQuery, LogRecord, NetworkNames, Observed, StepOutput, Usage, VolumeFacts,
    Workload,
};
use image::Images;
use model::{Bytes, ImageDigest, InstanceId, Timestamp};
use net::{Mark, Networks, Repaired};
use runtime::Runtime;
use volume::Pool;

use crate::error::host;
use crate::probe::Probes;
use crate::watch::Watch;

/// How often the networks and the pool are looked over.
const MEND_EVERY: Duration = Duration::from_secs(30);

/// How the engine of this machine is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Up to six letters and digits that name this installation on everything it makes.
    pub mark: String,
    /// Toolchains outside `/usr` that the `host` image shows: name and directory.
    pub toolchains: Vec<(String, PathBuf)>,
    /// Which opening of the store this is: older ones are refused from here on.
    pub epoch: u64,
    /// Where the names of the private networks are published for the discovery DNS.
    pub zones: PathBuf,
    /// The directory in which whoever keeps the doors tells when each was last used.
    pub doors: PathBuf,
}

/// This machine as an engine.
pub struct Host {
    options: Options,
    runtime: Runtime,
    images: Images,
    networks: Networks,
    pool: Pool,
    probes: Probes,
    watch: Watch,
    names: names::Published,
    mended: Mutex<Instant>,
    /// Names that a former look found without an instance.
    suspects: Mutex<BTreeSet<String>>,
}

impl Host {
    /// Opens everything below the data directory and adopts what runs.
    ///
    /// # Errors
    /// When the host lacks something; the message says what.
    pub fn open(options: Options) -> Result<Self, EngineError> {
        let dir = |name: &str| options.data_dir.join(name);
        let runtime = Runtime::open(&dir("instances"), &options.mark, options.epoch)
            .map_err(host("open the instances"))?;
        let images = Images::open(&dir("images")).map_err(host("open the images"))?;
        let mark: Mark = options.mark.parse().map_err(host("read the mark"))?;
        let networks =
            Networks::open(net::Options::new(dir("networks"), mark)).map_err(host("open the networks"))?;
        networks.reapply().map_err(host("put the networks in order"))?;
        let pool = volumes::open(&dir("volumes"))?;
        let watch = Watch::start().map_err(host("watch the instances"))?;
        doors::watch(&options.doors, watch.bump()).map_err(host("watch the doors"))?;
        let opened = Self {
            probes: Probes::new(watch.bump()),
            watch,
            options,
            runtime,
            images,
            networks,
            pool,
            names: names::Published::default(),
            mended: Mutex::new(Instant::now()),
            suspects: Mutex::default(),
        };
        opened.adopt()?;
        builds::sweep(&opened);
        // No start is under way: whatever no instance has is left over.
        leftovers::sweep(&opened, |_| true);
        Ok(opened)
    }

    /// Refuses when a newer control is at work: this one was away (stopped, swapped out) and knows nothing any more.
    fn owned(&self) -> Result<(), EngineError> {
        self.runtime.owned().map_err(host("change anything"))
    }

    /// Repairs, every now and then, what somebody else removed (firewall rules, links), and lets the pool grow.
    fn mend(&self) {
        let mut mended = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        if mended.elapsed() < MEND_EVERY || self.owned().is_err() {
            return;
        }
        *mended = Instant::now();
        drop(mended);
        match self.networks.reapply() {
            Ok(repaired) => {
                for one in repaired {
                    tracing::warn!(?one, "repaired a network");
                    // A program in a namespace that is gone reaches nobody: it gets a fresh life in the new one.
                    if let Repaired::Namespace { instance } = one
                        && let Err(cause) = self.runtime.kill(&instance)
                    {
                        tracing::warn!(instance, cause = error::chain(&cause), "could not end it");
                    }
                }
            }
            Err(cause) => tracing::warn!(
                cause = error::chain(&cause),
                "the networks could not be looked over"
            ),
        }
        // A start attaches and makes its directory before there is an instance, so only what two looks found goes.
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *suspects);
        *suspects = leftovers::sweep(self, |name| before.contains(name));
        drop(suspects);
        if let Err(cause) = self.pool.maintain() {
            tracing::warn!(cause = error::chain(&cause), "the pool could not be looked over");
        }
    }

    /// Ends and removes everything that bears this installation's mark, but for the data directory's files.
    ///
    /// # Errors
    /// When something could not be removed; calling again goes on.
    pub fn destroy(self) -> Result<(), EngineError> {
        for container in self.runtime.list().map_err(host("list the instances"))? {
            self.runtime
                .remove(&container.id)
                .map_err(host("remove an instance"))?;
        }
        self.runtime.tidy();
        self.networks.destroy_all().map_err(host("remove the networks"))?;
        self.networks.settle();
        self.pool.settle();
        self.pool.close().map_err(host("close the pool"))
    }
}

impl Engine for Host {
    fn capabilities(&self) -> Capabilities {
        volumes::capabilities(self)
    }
    fn capacity(&self) -> Result<Capacity, EngineError> {
        capacity::of(&self.options.data_dir)
    }
    fn ensure(&self, workload: &Workload) -> Result<Ipv4Addr, EngineError> {
        self.owned()?;
        instances::ensure(self, workload)
    }
    fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError> {
        instances::stop(self, id, grace)
    }
    fn remove(&self, id: InstanceId) -> Result<(), EngineError> {
        self.owned()?;
        instances::remove(self, id)
    }
    fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        self.mend();
        instances::observe(self)
    }
    fn wait_change(&self, seen: u64, timeout: Duration) -> u64 {
        self.watch.wait(seen, timeout)
    }
    fn usage(&self, id: InstanceId) -> Result<Usage, EngineError> {
        instances::usage(self, id)
    }
    fn exec(&self, id: InstanceId, exec: &Exec) -> Result<ExecStreams, EngineError> {
        instances::exec(self, id, exec)
    }
    fn logs(&self, query: &LogQuery) -> Result<Vec<LogRecord>, EngineError> {
        logs::query(&self.options.data_dir.join("logs"), query)
    }
    fn collect_logs(&self, keep: &BTreeSet<String>) -> Result<(), EngineError> {
        self.owned()?;
        logs::collect(&self.options.data_dir.join("logs"), keep)
    }

    fn publish_names(&self, names: &[NetworkNames]) -> Result<(), EngineError> {
        self.owned()?;
        names::publish(self, names)
    }
    fn last_used(&self) -> Result<BTreeMap<String, Timestamp>, EngineError> {
        doors::last_used(&self.options.doors)
    }
    fn use_door(&self, key: &str) -> Result<(), EngineError> {
        doors::tell(&self.options.doors, key)
    }
    fn fetch_image(&self, request: &FetchImage<'_>, lines: LineSink<'_>) -> Result<ImageDigest, EngineError> {
        images::fetch(self, request, lines)
    }
    fn combine_images(&self, below: &ImageDigest, above: &ImageDigest) -> Result<ImageDigest, EngineError> {
        images::combine(self, below, above)
    }

    fn find_image(&self, name_or_digest: &str) -> Result<Option<ImageFacts>, EngineError> {
        images::find(self, name_or_digest)
    }
    fn image_has(&self, image: &ImageDigest, path: &str) -> Result<bool, EngineError> {
        images::has(self, image, path)
    }
    fn images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        images::list(self)
    }
    fn remove_image(&self, name_or_digest: &str) -> Result<(), EngineError> {
        self.images
            .remove(name_or_digest)
            .map_err(error::image(name_or_digest))
    }
    fn collect_images(&self, keep: &[ImageDigest]) -> Result<u64, EngineError> {
        self.owned()?;
        images::collect(self, keep)
    }
    fn unpack_source(&self, archive: &Path, into: &Path) -> Result<(), EngineError> {
        images::unpack_source(archive, into)
    }
    fn build_step(&self, step: &BuildStep, lines: LineSink<'_>) -> Result<StepOutput, EngineError> {
        builds::step(self, step, lines)
    }
    fn create_volume(&self, name: &str) -> Result<(), EngineError> {
        self.owned()?;
        volumes::create(self, name)
    }
    fn clone_volume(&self, from: &str, to: &str) -> Result<(), EngineError> {
        self.owned()?;
        self.pool.clone(from, to).map(drop).map_err(error::volume(to))
    }
    fn rename_volume(&self, from: &str, to: &str) -> Result<(), EngineError> {
        self.owned()?;
        self.pool.rename(from, to).map(drop).map_err(error::volume(from))
    }
    fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.owned()?;
        self.pool.remove(name).map_err(error::volume(name))
    }
    fn volumes(&self) -> Result<Vec<VolumeFacts>, EngineError> {
        volumes::list(self)
    }
    fn volume_bytes(&self, name: &str, enough: Bytes) -> Result<Bytes, EngineError> {
        volumes::bytes(self, name, enough)
    }
    fn pool_free(&self) -> Result<Bytes, EngineError> {
        self.owned()?;
        volumes::free(self)
    }
    fn pool_inodes(&self) -> Result<Option<u64>, EngineError> {
        self.owned()?;
        volumes::free_inodes(self)
    }
    fn volume_inodes(&self, name: &str) -> Result<u64, EngineError> {
        volumes::inodes(self, name)
    }
    fn written(&self, id: InstanceId, enough: Bytes) -> Result<Bytes, EngineError> {
        room::written(self, id, enough)
    }
    fn end_full(&self, id: InstanceId) -> Result<(), EngineError> {
        self.owned()?;
        room::end_full(self, id)
    }
    fn volume_path(&self, name: &str) -> Result<PathBuf, EngineError> {
        self.pool.path(name).map_err(error::volume(name))
    }
}
