//! Containers on this machine: create, adopt, stop, exec, limits.
//!
//! Lives here: the library side of instances: the directory of each, its state, requests to its keeper.
//! Does not live here: images (`image`), networks (`net`), volumes (`volume`): they come as paths; and what should run
//! (`control`). Supervision is the keeper's, a process of its own that outlives us.
//! Invariant: the truth is on the machine (records, locks, processes), never in this process: opening again after a crash
//! sees the same. Every operation is idempotent by id; starting, retrying and adopting are one path.
//!
//! ```text
//!             start()                    program ends
//!  (nothing) ---------> Starting --> Running ---------> Exited --remove()--> (nothing)
//!                          \ failed: Error, nothing left      Lost (its keeper was killed) --remove()--> (nothing)
//! ```

mod control;
mod error;
mod exec;
mod instance;
pub mod planted;
mod programs;
mod start;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keeper::cgroup::Hierarchies;

pub use error::{Error, Result, Stage};
pub use exec::{ExecExit, ExecSession, Hold, Stdio};
pub use instance::{Container, State, keeper_process};
pub use keeper::cgroup::Usage;
pub use keeper::log as logs;
pub use keeper::record::{Exit, Running as Record};
pub use keeper::spec::{
    ContainerSpec, ExecSpec, ID_RANGE, Limits, LogSpec, Mount, Owner, Secret, SmallFile, Tier, TtySize, User,
};

/// All instances of one Stoa on this machine.
#[derive(Debug)]
pub struct Runtime {
    root: PathBuf,
    mark: String,
    hierarchies: Hierarchies,
    boot_id: String,
    epoch: u64,
}

impl Runtime {
    /// Opens the directory of instances (made when missing). `mark` names this Stoa on the machine, e.g. in its
    /// cgroups `stoa-MARK/`; two Stoas need two marks. `epoch` is the store's: from here on nobody who opened with a
    /// smaller one is obeyed.
    pub fn open(root: &Path, mark: &str, epoch: u64) -> Result<Runtime> {
        instance::check_name("the mark", mark)?;
        instance::make_private_dir(root).map_err(|cause| Error::Io {
            what: root.display().to_string(),
            cause,
        })?;
        let root = root.canonicalize().map_err(|cause| Error::Io {
            what: root.display().to_string(),
            cause,
        })?;
        let hierarchies = Hierarchies::detect().map_err(|cause| Error::Cgroups { cause })?;
        let boot_id = keeper::record::boot_id().map_err(|cause| Error::Io {
            what: "the boot id".to_owned(),
            cause,
        })?;
        let epoch = keeper::fence::claim(&root, epoch).map_err(|cause| Error::Io {
            what: "claiming the instances".to_owned(),
            cause,
        })?;
        Ok(Runtime {
            root,
            mark: mark.to_owned(),
            hierarchies,
            boot_id,
            epoch,
        })
    }

    /// Refuses when somebody newer has opened these instances: whoever finds out must not touch anything of them.
    pub fn owned(&self) -> Result<()> {
        match keeper::fence::newer_than(&self.root, Some(self.epoch())) {
            Some(newest) => Err(Error::Fenced { newest }),
            None => Ok(()),
        }
    }

    /// What our orders are given in the name of.
    pub(crate) fn epoch(&self) -> u64 {
        if planted::is_unfenced() {
            u64::MAX
        } else {
            self.epoch
        }
    }

    /// Everything that bears our mark: running, ended, or left over. A directory whose name is no id is not ours.
    pub fn list(&self) -> Result<Vec<Container>> {
        let mut ids: BTreeSet<String> = BTreeSet::new();
        let entries = std::fs::read_dir(&self.root).map_err(|cause| Error::Io {
            what: self.root.display().to_string(),
            cause,
        })?;
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                ids.extend(entry.file_name().into_string());
            }
        }
        ids.extend(
            self.hierarchies
                .names(&self.mark)
                .into_iter()
                .filter(|name| !name.starts_with('_')),
        );
        let mut containers = Vec::with_capacity(ids.len());
        for id in ids {
            if instance::check_name("the id", &id).is_ok() {
                containers.extend(self.get(&id)?);
            }
        }
        Ok(containers)
    }

    /// What one instance uses now; zeros once it has ended.
    pub fn stats(&self, id: &str) -> Result<Usage> {
        instance::check_name("the id", id)?;
        Ok(self.hierarchies.group(&self.mark, id).usage())
    }

    /// Removes what the machine carries for this Stoa when no instance is left: its empty parent cgroups.
    pub fn tidy(&self) {
        self.hierarchies.remove_empty_root(&self.mark);
    }
}
