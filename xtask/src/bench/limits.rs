//! The limits of an instance of ours, put on a peer that would else have the whole machine.
//!
//! Lives here: control groups of version 1 and 2, processor and memory. Does not live here: what runs in them.
//! Invariant: the groups are ours alone, beside those of any Stoa, and go when this does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use journeys::holds;
use journeys::process::{self, Process};

const ROOT: &str = "/sys/fs/cgroup";
/// Of version 1, a period before the quota that must fit into it.
const FILES_1: [(&str, &[&str]); 2] = [
    ("cpu", &["cpu.cfs_period_us", "cpu.cfs_quota_us"]),
    ("memory", &["memory.limit_in_bytes"]),
];
const FILES_2: &[&str] = &["cpu.max", "memory.max"];

pub(super) struct Limits(Vec<PathBuf>);

impl Limits {
    /// Groups with the limits of that process.
    pub(super) fn like(process: &Process) -> Result<Self> {
        let text = process.cgroups();
        let lines: Vec<[&str; 2]> = text
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .map(|(controllers, path)| [controllers, path.trim_start_matches('/')])
            .collect();
        let mut limits = Self(Vec::new());
        for (controller, files) in FILES_1 {
            let held = lines
                .iter()
                .find(|[controllers, _]| controllers.split(',').any(|one| one == controller));
            if let Some([controllers, path]) = held {
                limits.make(&Path::new(ROOT).join(controllers), path, files)?;
            }
        }
        if limits.0.is_empty() {
            let unified = lines.iter().find(|[controllers, _]| controllers.is_empty());
            let [_, path] = unified.context("no control group")?;
            limits.make(Path::new(ROOT), path, FILES_2)?;
        }
        Ok(limits)
    }

    fn make(&mut self, hierarchy: &Path, path: &str, files: &[&str]) -> Result<()> {
        let group = hierarchy.join(format!("stoa-bench-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("could not make {}", group.display()))?;
        self.0.push(group.clone());
        for file in files {
            let limit = fs::read_to_string(hierarchy.join(path).join(file))?;
            fs::write(group.join(file), limit.trim())
                .with_context(|| format!("could not set {file} of {}", group.display()))?;
        }
        Ok(())
    }

    /// Puts a process and its children into them, and so what these start from then on.
    pub(super) fn hold(&self, pid: i32) -> Result<()> {
        let children = process::children(pid).into_iter().map(|child| child.pid);
        for pid in [pid].into_iter().chain(children) {
            for group in &self.0 {
                fs::write(group.join("cgroup.procs"), pid.to_string())?;
            }
        }
        Ok(())
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for group in &self.0 {
            // What was in it has ended, or ends now.
            if let Err(left) = holds("an empty control group", || Ok(fs::remove_dir(group).is_ok())) {
                eprintln!("{} is left: {left:#}", group.display());
            }
        }
    }
}
