//! A process of ours, known by its number.
//!
//! Lives here: whether it has ended and how, signals to it.
//! Does not live here: what it is for (`children`), what follows from its end (`supervise`).
//! Invariant: ours and unreaped, so its number cannot have been given to another. A number and not the standard library's
//! handle, because a number outlives `exec`: after an upgrade the children are still those of this process.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitOptions};

/// See the module.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn of(child: &std::process::Child) -> Process {
        Process {
            pid: Pid::from_child(child),
            ended: None,
        }
    }

    /// A child from before `exec`; `None` when this process has no such child.
    pub(crate) fn inherited(pid: u32) -> Option<Process> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let mut process = Process { pid, ended: None };
        process.look(WaitOptions::NOHANG).ok()?;
        Some(process)
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, when it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        // No such child cannot be: only this reaps it.
        let _looked = self.look(WaitOptions::NOHANG);
        self.ended
    }

    /// Waits for its end, which must be certain.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let _looked = self.look(WaitOptions::empty());
        self.ended.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    pub(crate) fn send(&self, signal: Signal) {
        if self.ended.is_none() {
            // The only possible failure is that it is already gone, which is what we want.
            let _gone = rustix::process::kill_process(self.pid, signal);
        }
    }

    fn look(&mut self, how: WaitOptions) -> rustix::io::Result<()> {
        while self.ended.is_none() {
            match rustix::process::waitpid(Some(self.pid), how) {
                Ok(Some((_, status))) => self.ended = Some(ExitStatus::from_raw(status.as_raw())),
                Ok(None) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }
}
