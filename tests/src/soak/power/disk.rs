//! The disk whose power is cut: a file system of its own on a loop device, and everything that loses its power with it.
//!
//! ```text
//! stop every process and see that it is stopped -> shut the file system down, its log not flushed -> kill
//! -> remove what a reboot removes (mounts, links, tables, control groups) -> unmount -> mount: the journal is replayed
//! ```
//! Lives here: that order. Does not live here: what must be there afterwards (`files`, `ledger`).
//! Invariant: only processes and names that bear the Stoa's data directory or mark are touched.
//! Not shown by it: what a disk loses that acknowledged a flush; the loop device's own file keeps what reached it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{self, Process};
use crate::{PATIENCE, Stoa, until};

/// Of the file that is the disk. It is sparse; the storage pool inside wants 4 GiB and `stoa up` 2 GiB free.
const SIZE_BYTES: u64 = 16 << 30;

/// Which file system the data directory is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// Clones are copies, so the storage pool is an XFS in a file of it.
    Ext4,
    /// The storage pool is a directory of it.
    Xfs,
}

impl FileSystem {
    /// As `mount` and `mkfs` call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Commits of the journal that nobody asked for come late, so that what was not synced is really missing.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,commit=60",
            Self::Xfs => "loop",
        }
    }
}

/// Where it is.
pub(super) struct Disk {
    kind: FileSystem,
    image: PathBuf,
    point: PathBuf,
}

impl Disk {
    /// A new one, mounted, beside everything else of that Stoa.
    pub(super) fn make(kind: FileSystem, stoa: &Stoa) -> Result<Self> {
        let disk = Self {
            kind,
            image: stoa.root().join("disk.img"),
            point: stoa.root().join("disk"),
        };
        File::create(&disk.image)?.set_len(SIZE_BYTES)?;
        fs::create_dir_all(&disk.point)?;
        let program = format!("mkfs.{}", kind.name());
        let image = text(&disk.image)?;
        match kind {
            FileSystem::Ext4 => run(&program, &["-q", "-F", "-m", "0", image])?,
            FileSystem::Xfs => run(&program, &["-q", "-m", "reflink=1", image])?,
        }
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts it; after a cut this replays its journal.
    pub(super) fn mount(&self) -> Result<()> {
        let (image, point) = (text(&self.image)?, text(&self.point)?);
        run(
            "mount",
            &["-t", self.kind.name(), "-o", self.kind.options(), image, point],
        )
    }

    /// The power goes: afterwards nothing of that Stoa runs, and nothing is mounted.
    pub(super) fn cut(&self, stoa: &Stoa) -> Result<()> {
        let marks = stoa.marks();
        stop(stoa, &marks)?;
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.point)?])?;
        until("everything to be dead", PATIENCE, || {
            let left = everybody(stoa, &marks);
            for process in &left {
                let _gone = process.signal(libc::SIGKILL);
            }
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(Some(()))
        })?;
        for mark in &marks {
            reboot(mark)?;
        }
        self.unmount()
    }

    /// Unmounts what is below it, the deepest first, and then itself.
    fn unmount(&self) -> Result<()> {
        until("the disk to be unmounted", PATIENCE, || {
            let points = mounts_below(&self.point);
            for point in points.iter().rev() {
                // The last look decides; a mount that was still in use a moment ago is tried again.
                let _busy = run("umount", &[text(point)?]);
            }
            let left = mounts_below(&self.point);
            ensure!(left.is_empty(), "still mounted: {left:?}");
            Ok(Some(()))
        })?;
        self.detached()
    }

    /// Waits until no loop device has its file any more.
    pub(super) fn detached(&self) -> Result<()> {
        let image = text(&self.image)?;
        until("the loop device to let go", PATIENCE, || {
            for device in names(Path::new("/sys/block")) {
                let file = format!("/sys/block/{device}/loop/backing_file");
                let backing = fs::read_to_string(file).unwrap_or_default();
                ensure!(!backing.starts_with(image), "{device} has it");
            }
            Ok(Some(()))
        })
    }
}

/// All processes of a Stoa: those that name its directory, those in its control groups, and what they started.
fn everybody(stoa: &Stoa, marks: &[String]) -> BTreeSet<Process> {
    let me = std::process::id().cast_signed();
    let groups: Vec<String> = marks.iter().map(|mark| format!("/stoa-{mark}/")).collect();
    let mut found: BTreeSet<Process> = process::bearing(&stoa.data_dir().to_string_lossy())
        .into_iter()
        .collect();
    for process in process::all() {
        let inside = format!("{}\n", process.cgroups()).replace('\n', "/\n");
        if groups.iter().any(|group| inside.contains(group)) {
            found.insert(process);
        }
    }
    let mut fresh: Vec<Process> = found.iter().cloned().collect();
    while let Some(parent) = fresh.pop() {
        for child in process::children(parent.pid) {
            if found.insert(child.clone()) {
                fresh.push(child);
            }
        }
    }
    found.retain(|process| process.pid != me);
    found
}

/// Stops all of it. A sync under way while the file system goes would report success, and its acknowledgement would
/// look like a lost write; so every thread must be seen to have stopped.
fn stop(stoa: &Stoa, marks: &[String]) -> Result<()> {
    let mut stopped = BTreeSet::new();
    until("everything to be stopped", PATIENCE, || {
        let now = everybody(stoa, marks);
        let fresh = now.difference(&stopped).count();
        for process in now.difference(&stopped) {
            let _gone = process.signal(libc::SIGSTOP);
        }
        let is_still = now.iter().all(|process| has_stopped(process.pid));
        stopped.extend(now);
        Ok((fresh == 0 && is_still).then_some(()))
    })
}

/// Whether no thread of it runs or is in the kernel.
fn has_stopped(pid: i32) -> bool {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    names(&tasks).iter().all(|task| {
        let stat = fs::read_to_string(tasks.join(task).join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// Removes what the kernel forgets at a reboot.
fn reboot(mark: &str) -> Result<()> {
    for line in output("nft", &["list", "tables"])?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["table", family, name] = words[..]
            && name == format!("stoa_{mark}")
        {
            run("nft", &["delete", "table", family, name])?;
        }
    }
    let (bridge, port) = (format!("st{mark}-"), format!("sv{mark}-"));
    for link in names(Path::new("/sys/class/net")) {
        if link.starts_with(&bridge) || link.starts_with(&port) {
            // One of a pair goes with the other.
            let _gone = run("ip", &["link", "delete", &link]);
        }
    }
    for hierarchy in names(Path::new("/sys/fs/cgroup")) {
        let group = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join(format!("stoa-{mark}"));
        until("a control group to be removed", PATIENCE, || {
            remove_group(&group)?;
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// A control group goes when all below it are gone.
fn remove_group(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("could not remove {}", group.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Mount points at and below a directory, in the order in which they were made.
fn mounts_below(point: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|known| known.starts_with(point))
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Runs a program to its end.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).map(drop)
}

/// The same; what it printed.
pub(super) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {} ended with {}: {said}",
            arguments.join(" "),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
