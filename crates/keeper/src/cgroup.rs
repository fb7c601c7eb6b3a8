//! Control groups of instances on v1, hybrid and v2, told apart by looking.
//!
//! Lives here: finding the hierarchies, making, limiting, joining, killing, reading and removing a group.
//! Does not live here: which limits an instance gets (`spec`), when it is killed (the keeper, `runtime`).
//! Invariant: everything sits below `stoa-MARK/`; instances in `stoa-MARK/ID`, keepers in `stoa-MARK/_keepers`, a sibling, so
//! that killing an instance never kills its keeper, and v2's rule "no processes in inner groups" holds.
//!
//! Joining a v1 group by writing a pid waits for an RCU grace period (measured 13-16 ms on an idle machine); a second
//! write shortly after does not wait. See `bin/keeper/start.rs` for how that is hidden.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What one directory of a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// v1 memory controller.
    MemoryV1,
    /// v1 cpu controller.
    CpuV1,
    /// v1 cpuacct controller.
    CpuacctV1,
    /// v1 pids controller.
    PidsV1,
    /// The v2 tree of a hybrid host, without controllers: kill and events only.
    Hybrid,
    /// The v2 tree with controllers.
    V2,
}

const ROLES: [(Role, &str); 6] = [
    (Role::MemoryV1, "memory"),
    (Role::CpuV1, "cpu"),
    (Role::CpuacctV1, "cpuacct"),
    (Role::PidsV1, "pids"),
    (Role::Hybrid, "hybrid"),
    (Role::V2, "v2"),
];

/// Where the machine's hierarchies are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies(Vec<(Role, PathBuf)>);

/// One group: the same name in every hierarchy that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(Vec<(Role, PathBuf)>);

/// Limits of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Memory, swap included.
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// v2 weight, 1..10000.
    pub cpu_weight: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory charged, page cache included.
    pub memory_bytes: u64,
    /// The same without page cache that could be dropped at once.
    pub working_set_bytes: u64,
    /// CPU time so far.
    pub cpu_ns: u64,
    /// Time spent waiting for quota so far.
    pub cpu_throttled_ns: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes killed for memory so far.
    pub oom_kills: u64,
}

impl Hierarchies {
    /// Looks at what is mounted. Fails when memory, cpu or pids cannot be limited anywhere.
    pub fn detect() -> io::Result<Hierarchies> {
        Hierarchies::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?, |path| {
            fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    fn from_mountinfo(mounts: &str, controllers: impl Fn(&Path) -> String) -> io::Result<Hierarchies> {
        let mut found: Vec<(Role, PathBuf)> = Vec::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let (Some(point), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else {
                continue;
            };
            if kind == "cgroup2" && v2.is_none() {
                v2 = Some(PathBuf::from(point));
            }
            if kind != "cgroup" {
                continue;
            }
            let options = right.split(' ').nth(2).unwrap_or_default();
            for (role, name) in &ROLES[..4] {
                if options.split(',').any(|o| o == *name) && !found.iter().any(|(r, _)| r == role) {
                    found.push((*role, PathBuf::from(point)));
                }
            }
        }
        if let Some(point) = v2 {
            let offered = controllers(&point);
            let full = ["memory", "cpu", "pids"]
                .iter()
                .all(|c| offered.split_whitespace().any(|o| o == *c));
            found.push((if full { Role::V2 } else { Role::Hybrid }, point));
        }
        let has = |role| found.iter().any(|(r, _)| *r == role);
        if has(Role::V2) || (has(Role::MemoryV1) && has(Role::CpuV1) && has(Role::PidsV1)) {
            return Ok(Hierarchies(found));
        }
        Err(io::Error::other(
            "the memory, cpu and pids controllers of cgroups are not all mounted",
        ))
    }

    /// The group of instance `name` of the Stoa named `mark`.
    pub fn group(&self, mark: &str, name: &str) -> Group {
        let inside = |root: &PathBuf| root.join(format!("stoa-{mark}")).join(name);
        Group(self.0.iter().map(|(role, root)| (*role, inside(root))).collect())
    }

    /// The group of all keepers of the Stoa named `mark`.
    pub fn keepers(&self, mark: &str) -> Group {
        self.group(mark, "_keepers")
    }

    /// Names of all groups of the Stoa named `mark`, instances and keepers.
    pub fn names(&self, mark: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (_, root) in &self.0 {
            let Ok(entries) = fs::read_dir(root.join(format!("stoa-{mark}"))) else {
                continue;
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Removes what is left of the Stoa named `mark` when nothing runs there; leaves it when something does.
    pub fn remove_empty_root(&self, mark: &str) {
        let _ = self.keepers(mark).remove(Duration::ZERO);
        for (_, root) in &self.0 {
            // Refused by the kernel while instances exist, which is what we want.
            let _ = fs::remove_dir(root.join(format!("stoa-{mark}")));
        }
    }
}

impl Group {
    /// `role=path` pairs, separated by tabs.
    pub fn to_text(&self) -> String {
        let name = |role: Role| {
            ROLES
                .iter()
                .find(|(r, _)| *r == role)
                .map_or("", |(_, name)| name)
        };
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(r, p)| format!("{}={}", name(*r), p.display()))
            .collect();
        parts.join("\t")
    }

    /// The inverse of [`Group::to_text`]; unknown roles are skipped.
    pub fn from_text(text: &str) -> Group {
        let part = |part: &str| {
            let (name, path) = part.split_once('=')?;
            let (role, _) = ROLES.iter().find(|(_, n)| *n == name)?;
            Some((*role, PathBuf::from(path)))
        };
        Group(text.split('\t').filter_map(part).collect())
    }

    fn dir(&self, role: Role) -> Option<&Path> {
        self.0
            .iter()
            .find(|(r, _)| *r == role)
            .map(|(_, path)| path.as_path())
    }

    /// The directory in the v2 tree: `clone3` can start a process right in it, without any lock.
    pub fn unified(&self) -> Option<&Path> {
        self.dir(Role::V2).or_else(|| self.dir(Role::Hybrid))
    }

    /// Whether joining by pid is needed at all: on pure v2, `clone3` does everything.
    pub fn needs_join(&self) -> bool {
        self.0
            .iter()
            .any(|(role, _)| !matches!(role, Role::Hybrid | Role::V2))
    }

    fn directories(&self) -> Vec<&Path> {
        let mut unique: Vec<&Path> = Vec::new();
        for (_, path) in &self.0 {
            if !unique.contains(&path.as_path()) {
                unique.push(path);
            }
        }
        unique
    }

    /// Makes the group. Does nothing where it exists.
    pub fn create(&self) -> io::Result<()> {
        for (role, path) in &self.0 {
            if *role == Role::V2
                && let Some(parent) = path.parent()
                && let Some(root) = parent.parent()
            {
                enable_controllers(root)?;
                make_dir(parent)?;
                enable_controllers(parent)?;
            }
            fs::create_dir_all(path).map_err(|e| at(path, &e))?;
        }
        Ok(())
    }

    /// Sets the limits.
    pub fn limit(&self, bounds: &Bounds) -> io::Result<()> {
        let weight = bounds.cpu_weight.clamp(1, 10_000);
        // 1 ms per 100 ms is the least the kernel takes.
        let quota_us = (bounds.cpu_millis * 100).max(1000);
        for (role, path) in &self.0 {
            match role {
                Role::MemoryV1 => {
                    set(path, "memory.limit_in_bytes", bounds.memory_bytes)?;
                    // Absent without swap accounting; then there is no swap to bound either, or the operator chose so.
                    let _ = set(path, "memory.memsw.limit_in_bytes", bounds.memory_bytes);
                }
                Role::CpuV1 => {
                    set(path, "cpu.shares", (weight * 1024 / 100).max(2))?;
                    set(path, "cpu.cfs_period_us", 100_000)?;
                    set(path, "cpu.cfs_quota_us", quota_us)?;
                }
                Role::PidsV1 => set(path, "pids.max", bounds.pids)?,
                Role::V2 => {
                    set(path, "memory.max", bounds.memory_bytes)?;
                    let _ = set(path, "memory.swap.max", 0);
                    set(path, "cpu.weight", weight)?;
                    fs::write(path.join("cpu.max"), format!("{quota_us} 100000"))
                        .map_err(|e| at(path, &e))?;
                    set(path, "pids.max", bounds.pids)?;
                }
                Role::CpuacctV1 | Role::Hybrid => {}
            }
        }
        Ok(())
    }

    /// Moves a process in. On v1 the first of several writes may take 16 ms.
    pub fn join(&self, pid: u32) -> io::Result<()> {
        for path in self.directories() {
            set(path, "cgroup.procs", u64::from(pid))?;
        }
        Ok(())
    }

    /// Keeps the grace period from having to be waited for again, by a cheap write that changes nothing: `pid`, a member
    /// already, joins once more.
    pub fn keep_warm(&self, pid: u32) {
        if let Some((_, path)) = self
            .0
            .iter()
            .find(|(role, _)| !matches!(role, Role::Hybrid | Role::V2))
        {
            let _ = set(path, "cgroup.procs", u64::from(pid));
        }
    }

    /// Opened `cgroup.procs` of every tree this process is not in yet: writing a pid joins it.
    pub fn doors(&self) -> io::Result<Vec<fs::File>> {
        let mine = fs::read_to_string("/proc/self/cgroup")?;
        let unified = mine.lines().find_map(|line| line.strip_prefix("0::"));
        let inside = |role: Role, path: &Path| {
            matches!(role, Role::Hybrid | Role::V2)
                && unified.is_some_and(|own| path.ends_with(own.trim_start_matches('/')) && own != "/")
        };
        let mut opened: Vec<&Path> = Vec::new();
        let mut doors = Vec::new();
        for (role, path) in &self.0 {
            if inside(*role, path) || opened.contains(&path.as_path()) {
                continue;
            }
            let file = path.join("cgroup.procs");
            doors.push(
                fs::OpenOptions::new()
                    .write(true)
                    .open(&file)
                    .map_err(|e| at(&file, &e))?,
            );
            opened.push(path);
        }
        Ok(doors)
    }

    /// Processes inside.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = Vec::new();
        for path in self.directories() {
            let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        // 0 stands for a process of another pid namespace: nothing we could name, and never to be signalled.
        pids.retain(|pid| *pid != 0);
        pids
    }

    /// Kills every process inside, those being forked too. Does not wait.
    pub fn kill(&self) {
        if let Some(unified) = self.unified()
            && fs::write(unified.join("cgroup.kill"), "1").is_ok()
            && !self.needs_join()
        {
            return;
        }
        // v1 has no such file; on a hybrid host a process may not have joined every tree yet.
        for pid in self.pids() {
            kill_pid(pid);
        }
    }

    /// Kills and waits until the group is empty, or `within` has passed. True when it is empty.
    pub fn kill_and_wait(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            self.kill();
            if self.pids().is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Removes the group; retries while dying processes still hold it. Absent is fine.
    pub fn remove(&self, within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        for path in self.directories() {
            loop {
                match fs::remove_dir(path) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if Instant::now() >= deadline => return Err(at(path, &error)),
                    Err(_) => sleep(Duration::from_millis(2)),
                }
            }
        }
        Ok(())
    }

    /// Whether any part of it exists.
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|path| path.exists())
    }

    /// Processes killed for memory so far.
    pub fn oom_kills(&self) -> u64 {
        if let Some(path) = self.dir(Role::MemoryV1) {
            return keyed(path, "memory.oom_control", "oom_kill");
        }
        self.dir(Role::V2)
            .map_or(0, |path| keyed(path, "memory.events", "oom_kill"))
    }

    /// What it uses now. Zeros once it is gone.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            oom_kills: self.oom_kills(),
            ..Usage::default()
        };
        for (role, path) in &self.0 {
            match role {
                Role::MemoryV1 => {
                    usage.memory_bytes = number(path, "memory.usage_in_bytes");
                    let idle = keyed(path, "memory.stat", "total_inactive_file");
                    usage.working_set_bytes = usage.memory_bytes.saturating_sub(idle);
                }
                Role::CpuV1 => usage.cpu_throttled_ns = keyed(path, "cpu.stat", "throttled_time"),
                Role::CpuacctV1 => usage.cpu_ns = number(path, "cpuacct.usage"),
                Role::PidsV1 => usage.pids = number(path, "pids.current"),
                Role::Hybrid => {
                    if self.dir(Role::CpuacctV1).is_none() {
                        usage.cpu_ns = keyed(path, "cpu.stat", "usage_usec") * 1000;
                    }
                }
                Role::V2 => {
                    usage.memory_bytes = number(path, "memory.current");
                    let idle = keyed(path, "memory.stat", "inactive_file");
                    usage.working_set_bytes = usage.memory_bytes.saturating_sub(idle);
                    usage.cpu_ns = keyed(path, "cpu.stat", "usage_usec") * 1000;
                    usage.cpu_throttled_ns = keyed(path, "cpu.stat", "throttled_usec") * 1000;
                    usage.pids = number(path, "pids.current");
                }
            }
        }
        usage
    }
}

fn enable_controllers(dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).map_err(|e| at(&file, &e))?;
    let missing: Vec<String> = ["memory", "cpu", "pids"]
        .iter()
        .filter(|c| !enabled.split_whitespace().any(|e| e == **c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::write(&file, missing.join(" ")).map_err(|e| at(&file, &e))
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn set(dir: &Path, file: &str, value: u64) -> io::Result<()> {
    let path = dir.join(file);
    fs::write(&path, value.to_string()).map_err(|e| at(&path, &e))
}

fn number(dir: &Path, file: &str) -> u64 {
    fs::read_to_string(dir.join(file))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn keyed(dir: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    };
    text.lines().find_map(value).unwrap_or(0)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn kill_pid(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is the aim.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn check(mounts: &str, controllers: &str, roles: &[Role]) {
        let found = Hierarchies::from_mountinfo(mounts, |_| controllers.to_owned()).unwrap();
        assert_eq!(found.0.iter().map(|(r, _)| *r).collect::<Vec<_>>(), roles);
    }

    #[test]
    fn every_kind_of_host_is_recognised() {
        check(V2, "cpuset cpu io memory pids", &[Role::V2]);
        check(
            V1,
            "hugetlb",
            &[
                Role::CpuV1,
                Role::CpuacctV1,
                Role::MemoryV1,
                Role::PidsV1,
                Role::Hybrid,
            ],
        );
        let pure_v1: String = V1.lines().take(4).map(|l| format!("{l}\n")).collect();
        check(
            &pure_v1,
            "",
            &[Role::CpuV1, Role::CpuacctV1, Role::MemoryV1, Role::PidsV1],
        );
        assert!(Hierarchies::from_mountinfo("", |_| String::new()).is_err());
        assert!(Hierarchies::from_mountinfo(V2, |_| "cpu".to_owned()).is_err());
    }

    #[test]
    fn a_group_survives_its_text_form() {
        let group = Hierarchies::from_mountinfo(V1, |_| String::new())
            .unwrap()
            .group("t", "a-1");
        assert_eq!(Group::from_text(&group.to_text()), group);
        assert_eq!(group.directories().len(), 4);
        assert_eq!(
            group.unified(),
            Some(Path::new("/sys/fs/cgroup/unified/stoa-t/a-1"))
        );
    }
}
