//! What the kernel and the disk carry for each instance, seen from outside.
//!
//! Lives here: looking, facet by facet. Does not live here: what should be there (`kill` compares with the API).
//! Invariant: only what bears the data directory's path or mark counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Stoa;
use crate::process::Process;

/// Facet, for example `cgroup memory`, and the instances (or other owners) that have it.
pub(super) type Facets = BTreeMap<String, BTreeSet<String>>;

/// What there is.
#[derive(Debug, Default)]
pub(super) struct World {
    /// By instance.
    pub(super) facets: Facets,
    /// Links of instances: their names say nothing, so they are only counted.
    pub(super) ports: usize,
    /// What belongs to the installation as a whole.
    pub(super) fixed: BTreeSet<String>,
    /// Half-done work: each must go away.
    pub(super) passing: BTreeSet<String>,
}

/// Name of what holds all keepers.
const KEEPERS: &str = "_keepers";

impl World {
    pub(super) fn look(stoa: &Stoa) -> Self {
        let data = stoa.data_dir();
        let mark = stoa.marks().pop().unwrap_or_default();
        let mut world = Self::default();
        world.cgroups(&mark);
        for (facet, folder) in [
            ("instance directory", "instances"),
            ("network namespace", "networks/netns"),
            ("writable layer", "writable"),
        ] {
            // Beside the directories of instances lies a record of who may give them orders.
            let found = names(&data.join(folder)).into_iter();
            let found = found.filter(|name| name != "epoch").collect();
            world.facets.insert(facet.to_owned(), found);
        }
        world.attachments(&data);
        world.mounts(&data);
        world.links(&mark);
        for folder in ["steps", "builds", "images/tmp"] {
            let found = names(&data.join(folder)).into_iter();
            world.passing.extend(found.map(|name| format!("{folder}/{name}")));
        }
        let tables = output("nft", &["list", "tables"]);
        let ours = tables
            .lines()
            .filter(|line| line.ends_with(&format!("stoa_{mark}")));
        world.fixed.extend(ours.map(|line| format!("nft {line}")));
        world
    }

    fn cgroups(&mut self, mark: &str) {
        for hierarchy in names(Path::new("/sys/fs/cgroup")) {
            let folder = Path::new("/sys/fs/cgroup")
                .join(&hierarchy)
                .join(format!("stoa-{mark}"));
            // `cpu` and `cpuacct` may be one hierarchy under two names: each name is a facet.
            if folder.is_dir() {
                let found = names(&folder).into_iter().filter(|name| name != KEEPERS);
                self.facets.insert(format!("cgroup {hierarchy}"), found.collect());
            }
        }
    }

    fn attachments(&mut self, data: &Path) {
        let text = fs::read_to_string(data.join("networks/attachments.json")).unwrap_or_default();
        let found = words(&text).filter(|word| word.starts_with("ins-") || word.starts_with("build-"));
        self.facets
            .insert("attachment".to_owned(), found.map(str::to_owned).collect());
    }

    fn mounts(&mut self, data: &Path) {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut namespaces = BTreeSet::new();
        for line in text.lines() {
            let Some(point) = line.split(' ').nth(4).map(Path::new) else {
                continue;
            };
            let Ok(rest) = point.strip_prefix(data) else {
                continue;
            };
            match rest.strip_prefix("networks/netns") {
                Ok(name) if name.components().count() == 1 => {
                    let known = !namespaces.insert(name.to_string_lossy().into_owned());
                    if known {
                        self.passing
                            .insert(format!("second mount of {}", point.display()));
                    }
                }
                Ok(_) | Err(_) => {
                    self.fixed.insert(format!("mount {}", rest.display()));
                }
            }
        }
        self.facets
            .insert("mounted network namespace".to_owned(), namespaces);
        for name in names(Path::new("/sys/block")) {
            let file = format!("/sys/block/{name}/loop/backing_file");
            let backing = fs::read_to_string(file).unwrap_or_default();
            if let Ok(rest) = Path::new(backing.trim()).strip_prefix(data) {
                let first = self.fixed.insert(format!("loop device of {}", rest.display()));
                if !first {
                    self.passing
                        .insert(format!("second loop device of {}", rest.display()));
                }
            }
        }
    }

    fn links(&mut self, mark: &str) {
        let links = names(Path::new("/sys/class/net"));
        let port = format!("sv{mark}-");
        let bridge = format!("st{mark}-");
        self.ports = links.iter().filter(|name| name.starts_with(&port)).count();
        let bridges: BTreeSet<&String> = links.iter().filter(|name| name.starts_with(&bridge)).collect();
        let rules = output("nft", &["list", "table", "inet", &format!("stoa_{mark}")]);
        for word in words(&rules).filter(|word| word.starts_with(&bridge) && !word.ends_with('*')) {
            if !bridges.iter().any(|known| *known == word) {
                self.passing
                    .insert(format!("nft set element {word} without a bridge"));
            }
        }
    }
}

/// The processes of each instance, by its name: pid and start time.
pub(super) fn workloads(stoa: &Stoa) -> BTreeMap<String, BTreeSet<(i32, u64)>> {
    let mark = stoa.marks().pop().unwrap_or_default();
    let hierarchies = names(Path::new("/sys/fs/cgroup")).into_iter();
    let folders = hierarchies.map(|name| {
        Path::new("/sys/fs/cgroup")
            .join(name)
            .join(format!("stoa-{mark}"))
    });
    let mut found: BTreeMap<String, BTreeSet<(i32, u64)>> = BTreeMap::new();
    for folder in folders {
        for instance in names(&folder).into_iter().filter(|name| name != KEEPERS) {
            let members = found.entry(instance.clone()).or_default();
            members.extend(members_of(&folder.join(instance)));
        }
    }
    found
}

/// Processes in a control group and all below it.
fn members_of(group: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let processes = text.lines().filter_map(|line| Process::of(line.parse().ok()?));
    let mut found: Vec<(i32, u64)> = processes.map(|process| (process.pid, process.started)).collect();
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(members_of(&entry.path()));
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| {
        // Attributes of a control group are files beside the groups below it.
        let is_group = !folder.starts_with("/sys/fs/cgroup") || entry.path().is_dir();
        is_group.then(|| entry.file_name().to_string_lossy().into_owned())
    };
    entries.filter_map(name).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let ends = |letter: char| letter.is_whitespace() || ['"', ',', '{', '}'].contains(&letter);
    text.split(ends).filter(|word| !word.is_empty())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let answer = Command::new(program).args(arguments).output();
    answer
        .map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned())
        .unwrap_or_default()
}
