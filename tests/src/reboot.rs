//! What a reboot of the host does to one Stoa, without rebooting anything else.
//!
//! Lives here: ending all of its processes at once and taking away everything that only the kernel had. Does not live
//! here: what must come back (the journeys).
//! Invariant: only what bears the Stoa's data directory or mark is touched; what lies on the disk stays, but for the
//! directory of sockets and pid files, which many hosts keep in memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Process};
use crate::{PATIENCE, Stoa, census, until};

/// A boot that never was.
const FORMER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

/// Takes the host's power from a Stoa. `stoa up` is what comes next.
///
/// # Errors
/// When something of it stays.
pub fn reboot(stoa: &mut Stoa) -> Result<()> {
    power_off(stoa)?;
    forget_boot(&stoa.data_dir())
}

/// The first half of it: everything ends, and nothing on the disk changes.
///
/// # Errors
/// When something of it stays.
pub fn power_off(stoa: &mut Stoa) -> Result<()> {
    let (data, mark) = (stoa.data_dir(), stoa.marks().pop().context("no mark")?);
    until("every process to be gone", PATIENCE, || {
        let left = processes(&data, &mark);
        for process in &left {
            let _other_was_faster = process.signal(libc::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    })?;
    stoa.wait_end()?;
    until("the kernel to forget it", PATIENCE, || {
        forget(&data, &mark);
        let left = census::take(&data, std::slice::from_ref(&mark));
        if left.is_empty() {
            return Ok(Some(()));
        }
        bail!("{left:#?}")
    })
}

/// The second half: what a disk holds was written before this boot.
///
/// # Errors
/// When that cannot be written there.
pub fn forget_boot(data: &Path) -> Result<()> {
    for entry in fs::read_dir(data.join("instances"))?.flatten() {
        let record = entry.path().join("record");
        if let Ok(text) = fs::read_to_string(&record) {
            fs::write(&record, of_a_former_boot(&text))?;
        }
    }
    fs::remove_dir_all(data.join("run")).context("could not empty the directory of sockets")
}

fn of_a_former_boot(record: &str) -> String {
    let lines = record.lines().map(|line| match line.split_once(' ') {
        Some(("boot_id", _)) => format!("boot_id {FORMER_BOOT}\n"),
        Some(_) | None => format!("{line}\n"),
    });
    lines.collect()
}

fn processes(data: &Path, mark: &str) -> BTreeSet<Process> {
    let group = format!("/stoa-{mark}/");
    let inside = process::all()
        .into_iter()
        .filter(|process| process.cgroups().contains(&group));
    inside.chain(process::bearing(&data.to_string_lossy())).collect()
}

fn forget(data: &Path, mark: &str) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<&str> = points
        .filter(|point| Path::new(point).starts_with(data))
        .collect();
    points.reverse();
    for point in points {
        run("umount", &[point]);
    }
    for name in names(Path::new("/sys/block")) {
        let backing = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim()).starts_with(data) {
            run("losetup", &["--detach", &format!("/dev/{name}")]);
        }
    }
    for link in names(Path::new("/sys/class/net")) {
        if link.starts_with(&format!("sv{mark}-")) || link.starts_with(&format!("st{mark}-")) {
            run("ip", &["link", "delete", &link]);
        }
    }
    for family in ["inet", "bridge"] {
        run("nft", &["delete", "table", family, &format!("stoa_{mark}")]);
    }
    for hierarchy in names(Path::new("/sys/fs/cgroup")) {
        let top = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join(format!("stoa-{mark}"));
        remove_groups(&top);
    }
}

/// Control groups go from the leaves up; their files are no files.
fn remove_groups(group: &Path) {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let below: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    for group in below {
        remove_groups(&group);
    }
    let _busy_or_absent = fs::remove_dir(group);
}

/// What cannot be done now is tried again: the caller looks what is left.
fn run(program: &str, arguments: &[&str]) {
    let _looked_at_later = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
