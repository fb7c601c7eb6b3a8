//! What is wanted to run, and what is seen of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use model::spec::{Health, Resources};
use model::{EnvKey, Exit, ImageDigest, InstanceId, Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// One instance as it is wanted.
#[derive(Clone)]
pub struct Workload {
    /// Its id: names everything it has on the host.
    pub id: InstanceId,
    /// Host name inside.
    pub hostname: String,
    /// Key of the environment's network; empty: no network at all, only itself.
    pub network: String,
    /// The image it runs from.
    pub image: ImageDigest,
    /// Program and arguments; empty means what the image says.
    pub command: Vec<String>,
    /// User inside, as the image spells it (`name`, `uid`, `uid:gid`); `None` means what the image says.
    pub user: Option<String>,
    /// Working directory; `None` means what the image says.
    pub workdir: Option<String>,
    /// Its whole environment but for what the image sets; may hold credentials, so it is never written to disk.
    pub env: BTreeMap<EnvKey, String>,
    /// Secrets as files under `/run/secrets` on a private tmpfs.
    pub secrets: Vec<SecretFile>,
    /// Limits.
    pub resources: Resources,
    /// Number of its private range of user ids.
    pub uid_range: u32,
    /// Volumes.
    pub volumes: Vec<VolumeMount>,
    /// Domain that completes plain names, for example `shop.internal`.
    pub search_domain: String,
    /// Where its log lines are kept, for example `app_.../web`; outlives the instance.
    pub log_key: String,
    /// Label of its log lines, for example `v3`.
    pub log_label: String,
    /// The check, if it serves.
    pub probe: Option<Probe>,
    /// Signal that asks it to end (a number); 15 unless the program wants another.
    pub stop_signal: i32,
}

/// How readiness is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Port it must listen on.
    pub port: u16,
    /// The check.
    pub health: Health,
    /// What an answer is.
    pub speaks: Speaks,
}

/// What must answer on a port before its workload is fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaks {
    /// An accepted connection; HTTP when the check has a path.
    Tcp,
    /// PostgreSQL that takes sessions: it accepts connections while it still recovers, and refuses each.
    Postgres,
    /// Valkey that takes commands: it accepts connections while it still loads, and refuses each command. It is asked as the
    /// user `probe`, which needs no password and may only ask.
    Valkey,
}

/// A secret as a file. No Debug: its content must not reach a log.
#[derive(Clone)]
pub struct SecretFile {
    /// File name under `/run/secrets`.
    pub name: String,
    /// Content.
    pub content: Vec<u8>,
}

/// A volume in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name in the pool.
    pub volume: String,
    /// Absolute path inside.
    pub target: String,
}

/// What is seen of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Which.
    pub id: InstanceId,
    /// Its address, while it has one.
    pub address: Option<Ipv4Addr>,
    /// Where it stands.
    pub phase: Phase,
}

/// Where a workload stands, as the engine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its process runs. `ready` tells what the probe says; without a probe it is `None`.
    Running {
        /// Since when.
        since: Timestamp,
        /// `Ok` fit for traffic; `Err` says why not (yet).
        ready: Option<Result<(), String>>,
    },
    /// It ended.
    Exited {
        /// When.
        at: Timestamp,
        /// How.
        exit: Exit,
    },
}

/// What a workload uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// A further program inside a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the workload's own environment.
    pub env: Vec<(String, String)>,
    /// User inside; `None` is the workload's own.
    pub user: Option<String>,
    /// Working directory; `None` is the workload's own.
    pub workdir: Option<String>,
    /// Rows and columns of a terminal to give it; `None` gives it pipes.
    pub terminal: Option<(u16, u16)>,
}

/// The ends of a further program.
pub struct ExecStreams {
    /// Write here what it reads. Closing it ends its input. With a terminal this is the terminal.
    pub stdin: OwnedFd,
    /// Read here what it writes.
    pub stdout: OwnedFd,
    /// Read here what it complains about; absent with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Waits for its end: an exit code, or 128 + the signal.
    pub wait: Box<dyn FnOnce() -> Result<i32, crate::EngineError> + Send>,
    /// To be kept for as long as the program is wanted: dropping it ends the program.
    pub hold: Box<dyn Send>,
}

/// What an engine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the engine.
    pub engine: &'static str,
    /// How volumes are cloned: `reflink`, `snapshot` or `copy`.
    pub clone: String,
    /// A sentence about the pool for people.
    pub pool: String,
    /// How limits are enforced, for example `cgroup v1 hybrid`.
    pub limits: String,
}

/// What the machine has, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Memory in bytes.
    pub memory: u64,
    /// Of it, what could be given to something new.
    pub memory_available: u64,
    /// Bytes of the file system with the data.
    pub disk: u64,
    /// Of them, what is free.
    pub disk_available: u64,
}

impl Probe {
    /// How long the first success may take.
    #[must_use]
    pub fn grace(&self) -> Millis {
        self.health.grace
    }
}
