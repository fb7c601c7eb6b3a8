//! What a container is: the specification `runtime` hands to the helper.
//!
//! Lives here: the serde types, public through `runtime`.
//! Does not live here: how they become mounts, namespaces and limits (`bin/create`).
//! Invariant: a specification travels in memory only (a memfd); it carries secrets and is never written to a disk.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How many ids a private range holds, and so how many users exist inside.
pub const ID_RANGE: u32 = 65_536;

/// Everything needed to start one instance.
///
/// On-disk owners of `layers`, `writable` and [`Owner::Instance`] `mounts` are *container* ids (0..65535); the running processes have the
/// host ids `uid_base`..`uid_base + 65535`. Idmapped mounts translate, so nothing is ever chowned.
#[derive(Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique name on this machine: letters, digits, `-`, `.`; at most 96; also the name of its cgroup and directory.
    pub id: String,
    /// Host name inside.
    pub hostname: String,
    /// Unpacked read-only layer directories, lowest first. At least one.
    pub layers: Vec<PathBuf>,
    /// Directory (same file system throughout) in which `upper/` and `work/` live; made when missing.
    pub writable: PathBuf,
    /// The program and its arguments; a name without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited. `PATH` and `HOME` are added when missing.
    pub env: Vec<(String, String)>,
    /// Working directory inside; must exist.
    pub cwd: PathBuf,
    /// Who the program runs as, inside.
    pub user: User,
    /// First host id of the private 64k range. Never 0.
    pub uid_base: u32,
    /// Resource limits.
    pub limits: Limits,
    /// A bind-mounted network namespace made by somebody else; `None`: a new one with only loopback.
    pub netns: Option<PathBuf>,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// Files under `/run/secrets`, on a private tmpfs.
    pub secrets: Vec<Secret>,
    /// Small synthesised files such as `/etc/hosts`; bind-mounted over the image, which stays untouched.
    pub files: Vec<SmallFile>,
    /// Signal that asks the program to end, e.g. 15.
    pub stop_signal: i32,
    /// Where its output goes.
    pub log: LogSpec,
    /// Put a reaper in front as process 1. Wanted for nearly everything: a program that is itself process 1 ignores
    /// SIGTERM unless it handles it, and has to reap orphans.
    pub init: bool,
    /// How strictly it is confined.
    pub tier: Tier,
    /// Open file limit (clamped to what this machine allows us).
    pub nofile: u64,
    /// Size of `/dev/shm`.
    pub shm_bytes: u64,
    /// Put a tmpfs of this size on `/tmp`.
    pub tmp_bytes: Option<u64>,
}

/// No environment: values there are as secret as secrets.
impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ContainerSpec")
            .field("id", &self.id)
            .field("layers", &self.layers)
            .field("argv", &self.argv)
            .field("env", &names)
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

/// A user inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Resource limits; all of them are always in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory including swap and tmpfs contents.
    pub memory_bytes: u64,
    /// Thousandths of a core: 1500 is one and a half.
    pub cpu_millis: u64,
    /// Share under contention, 1..10000, 100 is usual.
    pub cpu_weight: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// A directory or file of the host, seen inside through a bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// Inside; made when missing.
    pub target: PathBuf,
    /// Refuse writes.
    pub read_only: bool,
    /// Whose files they are.
    pub owner: Owner,
}

/// Whose files a mount shows, and so what root inside may do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// The instance's: owners on disk are ids inside (an idmapped mount), and root inside may do everything.
    Instance,
    /// The host's: owners show as nobody, and only what everybody on the host may read can be read.
    Host,
}

/// A secret file. No `Debug` of its bytes.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret {
    /// File name under `/run/secrets`: no slash.
    pub name: String,
    /// Contents.
    pub bytes: Vec<u8>,
    /// Permission bits; the owner is the container's user.
    pub mode: u32,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A synthesised file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallFile {
    /// Absolute path inside.
    pub path: PathBuf,
    /// Contents.
    pub contents: Vec<u8>,
    /// Permission bits; owned by root inside.
    pub mode: u32,
}

/// Where output goes and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Directory for the segments; may be shared by several labels; outlives the instance.
    pub dir: PathBuf,
    /// A segment is closed at this size.
    pub segment_bytes: u64,
    /// The oldest segments of this label are deleted beyond this sum.
    pub max_bytes: u64,
    /// Who writes: part of the segment names (letters, digits, `-`, `.`).
    pub label: String,
    /// More than this per second is dropped and counted; 0 is no cap.
    pub rate_bytes_per_s: u64,
}

/// How strictly an instance is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    /// User namespace, few capabilities, no new privileges, seccomp allow-list, masked proc.
    #[default]
    Standard,
    /// The same with a read-only root.
    Hardened,
}

/// A further process in a running instance.
#[derive(Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment: neither ours nor the instance's is inherited.
    pub env: Vec<(String, String)>,
    /// Working directory inside.
    pub cwd: PathBuf,
    /// Who it runs as, inside.
    pub user: User,
    /// Give it a terminal of this size.
    pub tty: Option<TtySize>,
}

impl fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSpec")
            .field("argv", &self.argv)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// What the helper is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Make and start a container.
    Create(Box<ContainerSpec>),
    /// Start a further process in one.
    Exec(Box<ExecSpec>),
}
