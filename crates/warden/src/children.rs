//! A child process: how it is described, started, and how soon it is started again.
//!
//! Lives here: the description, the restart delay, starting.
//! Does not live here: waiting and stopping (`supervise`).
//! Invariant: the first restart is immediate; only a child that keeps dying young is made to wait.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::inherit;
use crate::process::Process;
use crate::signals;
use crate::sockets::Bound;
use crate::takeover::TAKEOVER_VARIABLE;

/// What to run and keep running.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its name in messages (`edge`).
    pub name: String,
    /// The program; `/proc/self/exe` is this same binary, even after its file was replaced.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub argv: Vec<OsString>,
    /// Added to the inherited environment.
    pub env: Vec<(OsString, OsString)>,
    /// Names of the sockets it gets, see [`crate::inherited_fds`].
    pub sockets: Vec<String>,
    /// How soon it is started again.
    pub restart: Backoff,
    /// How long it may take after SIGTERM before SIGKILL.
    pub stop_grace: Duration,
    /// How an upgrade puts another binary's child in its place.
    pub replaced: Replaced,
}

/// How a child makes place for the same child of another binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The new one takes over from the old one, which ends by itself when its work is done.
    WhileItServes,
    /// The old one is stopped first: there must never be two.
    AfterItsEnd,
}

impl Child {
    /// This same binary with other arguments, no sockets, default restart delays, fifteen seconds to stop (the edge gives
    /// its requests ten).
    pub fn of_this_binary(name: &str, argv: &[&str]) -> Child {
        Child {
            name: name.to_owned(),
            program: PathBuf::from("/proc/self/exe"),
            argv: argv.iter().map(OsString::from).collect(),
            env: Vec::new(),
            sockets: Vec::new(),
            restart: Backoff::default(),
            stop_grace: Duration::from_secs(15),
            replaced: Replaced::AfterItsEnd,
        }
    }

    pub(crate) fn start(&self, bound: &[Bound]) -> std::io::Result<Process> {
        self.start_of(&self.program, bound)
    }

    /// As it is, but of another binary.
    pub(crate) fn start_of(&self, program: &Path, bound: &[Bound]) -> std::io::Result<Process> {
        let mut command = Command::new(program);
        // Own process group: Ctrl-C at the terminal reaches the warden only, which then stops the children in order.
        command
            .args(&self.argv)
            .envs(self.env.iter().cloned())
            .process_group(0);
        command.stdin(std::process::Stdio::null());
        let sockets: Vec<(&str, BorrowedFd<'_>)> = bound
            .iter()
            .filter(|b| self.sockets.contains(&b.name))
            .map(|b| (b.name.as_str(), b.as_fd()))
            .collect();
        inherit::pass(&mut command, &sockets);
        command.env_remove(TAKEOVER_VARIABLE);
        signals::unblock_in_child(&mut command);
        Ok(Process::of(&command.spawn()?))
    }
}

/// How long a child that keeps dying waits before its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the second early death; doubles from there.
    pub first: Duration,
    /// It never grows beyond this.
    pub cap: Duration,
    /// A child that lived this long is forgiven its earlier deaths.
    pub stable: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_millis(200),
            cap: Duration::from_secs(10),
            stable: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The wait before the next start, given how many times in a row the child died before it was stable.
    pub(crate) fn delay(&self, early_deaths: u32) -> Duration {
        match early_deaths {
            0 | 1 => Duration::ZERO,
            n => self
                .first
                .saturating_mul(1u32.checked_shl(n - 2).unwrap_or(u32::MAX))
                .min(self.cap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_delay_is_capped() {
        let backoff = Backoff::default();
        let delays: Vec<u64> = (0..9)
            .map(|n| u64::try_from(backoff.delay(n).as_millis()).unwrap())
            .collect();
        assert_eq!(delays, [0, 0, 200, 400, 800, 1600, 3200, 6400, 10_000]);
        assert_eq!(backoff.delay(u32::MAX), backoff.cap);
    }
}
