//! Processes seen from outside, through /proc.
//!
//! Invariant: a process is told apart by pid and start time together; pids come again.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks after boot.
    pub started: u64,
    /// Its program and arguments.
    pub line: String,
}

impl Process {
    /// The process with that pid, if there is one.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so count from its end.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        if *fields.first()? == "Z" {
            return None;
        }
        let started = fields.get(19)?.parse().ok()?;
        Some(Self {
            pid,
            started,
            line: line(pid),
        })
    }

    /// Whether it still runs, and is the same.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Paths of its cgroups, one line for each hierarchy.
    #[must_use]
    pub fn cgroups(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        send(self.pid, signal).with_context(|| format!("could not signal {} ({})", self.pid, self.line))
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        kibibytes(self.pid, "status", "VmRSS:") * 1024
    }

    /// Memory that only it uses, in bytes.
    #[must_use]
    pub fn private_bytes(&self) -> u64 {
        let of = |key| kibibytes(self.pid, "smaps_rollup", key);
        (of("Private_Dirty:") + of("Private_Clean:")) * 1024
    }

    /// Memory that only it uses and that is not a file's, in bytes.
    #[must_use]
    pub fn private_dirty_bytes(&self) -> u64 {
        kibibytes(self.pid, "smaps_rollup", "Private_Dirty:") * 1024
    }
}

/// All processes.
#[must_use]
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// All whose command line or environment contains a text.
#[must_use]
pub fn bearing(text: &str) -> Vec<Process> {
    let me = std::process::id().cast_signed();
    let bears = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        process.line.contains(text) || String::from_utf8_lossy(&environment).contains(text)
    };
    all()
        .into_iter()
        .filter(|process| process.pid != me && bears(process))
        .collect()
}

/// Children of a process.
#[must_use]
pub fn children(pid: i32) -> Vec<Process> {
    let parent = |process: &Process| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
        stat.rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok())
            == Some(pid)
    };
    all().into_iter().filter(parent).collect()
}

/// Processor time used by a process, user and system, in clock ticks.
#[must_use]
pub fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return 0;
    };
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |index: usize| {
        fields
            .get(index)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field(11) + field(12)
}

fn line(pid: i32) -> String {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

fn kibibytes(pid: i32, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
    found.unwrap_or(0)
}

#[allow(unsafe_code, reason = "the standard library has no kill")]
fn send(pid: i32, signal: i32) -> std::io::Result<()> {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    let result = unsafe { libc::kill(pid, signal) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
