//! Further processes in a running instance.
//!
//! Lives here: starting one through the keeper, its terminal, its end.
//! Does not live here: entering the instance (`stoa-create`), who may do so (`control`).
//! Invariant: the process lives no longer than its session: dropping the session kills it. Nothing of our environment
//! reaches it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use keeper::message::{FENCED, Reply, Request};
use keeper::spec::{ExecSpec, Task, TtySize};
use keeper::wire;
use rustix::termios::Winsize;

use crate::control::{gone, wait_readable};
use crate::{Error, Result, Runtime, Stage, programs};

/// Standard input, output and error for a process without a terminal.
#[derive(Debug)]
pub struct Stdio {
    /// Read by it.
    pub stdin: OwnedFd,
    /// Written by it.
    pub stdout: OwnedFd,
    /// Written by it.
    pub stderr: OwnedFd,
}

/// A process running in an instance for us.
#[derive(Debug)]
pub struct ExecSession {
    id: String,
    socket: OwnedFd,
    pid: u32,
    terminal: Option<File>,
    exit: Option<ExecExit>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecExit {
    /// Exit code; 128 + signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Runtime {
    /// Starts a process in a running instance. Give `stdio` unless `spec.tty` asks for a terminal.
    pub fn exec(&self, id: &str, spec: &ExecSpec, stdio: Option<Stdio>) -> Result<ExecSession> {
        if spec.tty.is_some() == stdio.is_some() {
            let (what, why) = (
                "stdio".to_owned(),
                "give either descriptors or a terminal size".to_owned(),
            );
            return Err(Error::Invalid { what, why });
        }
        let socket = self.connect(id)?;
        let task = serde_json::to_vec(&Task::Exec(Box::new(spec.clone())))
            .map_err(std::io::Error::other)
            .and_then(|json| programs::sealed("stoa-task", &json, false))
            .map_err(Error::io("the task"))?;
        let helper = programs::create().map_err(Error::io("the helper program"))?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![task.as_fd(), helper.as_fd()];
        if let Some(stdio) = &stdio {
            fds.extend([stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()]);
        }
        wire::send(&socket, &Request::Exec.to_frame_of(self.epoch()), &fds)
            .map_err(|cause| gone(id, cause))?;
        // From here on they are the process's: our copies would keep its readers from seeing the end.
        drop(stdio);
        // Entering takes a fork and, on v1, a grace period; the socket's own bound applies.
        let Some((frame, fds)) = wire::receive(&socket).map_err(|cause| gone(id, cause))? else {
            return Err(Error::Ended { id: id.to_owned() });
        };
        match Reply::from_frame(&frame) {
            Some(Reply::Started { pid, .. }) => {
                let terminal = fds.into_iter().next().map(File::from);
                Ok(ExecSession {
                    id: id.to_owned(),
                    socket,
                    pid,
                    terminal,
                    exit: None,
                })
            }
            Some(Reply::Failed { stage, reason }) if stage != FENCED => Err(Error::Exec {
                id: id.to_owned(),
                program: spec.argv.first().cloned().unwrap_or_default(),
                stage: Stage::from_name(&stage),
                reason,
            }),
            other => self
                .accept(id, other)
                .and(Err(Error::Ended { id: id.to_owned() })),
        }
    }
}

/// Ends a process when dropped, also while another thread waits for it.
pub struct Hold {
    socket: OwnedFd,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The keeper kills the process of a connection that ends; one that has ended is no matter.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

impl ExecSession {
    /// Ties its life to what is returned.
    pub fn hold(&self) -> Result<Hold> {
        let socket = self.socket.try_clone().map_err(Error::io("the session"))?;
        Ok(Hold { socket })
    }

    /// Its pid as the host counts.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The master side of its terminal, when it has one. Reading fails with EIO after its end.
    pub fn terminal(&self) -> Option<&File> {
        self.terminal.as_ref()
    }

    /// Tells the terminal a new size.
    pub fn resize(&self, size: TtySize) -> Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size).map_err(|cause| Error::io("the terminal")(cause.into()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let frame = Request::Signal(signal).to_frame();
        match wire::send(&self.socket, &frame, &[]) {
            Err(cause) if self.exit.is_none() => Err(gone(&self.id, cause)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits for its end, at most `within`; `None` when it still runs then.
    pub fn wait(&mut self, within: Duration) -> Result<Option<ExecExit>> {
        let deadline = Instant::now() + within;
        while self.exit.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if !wait_readable(&self.socket, left).map_err(Error::io("the keeper"))? {
                return Ok(None);
            }
            match wire::receive(&self.socket).map_err(|cause| gone(&self.id, cause))? {
                Some((frame, _)) => match Reply::from_frame(&frame) {
                    Some(Reply::Ended { code, signal }) => self.exit = Some(ExecExit { code, signal }),
                    // Answers to signals sent meanwhile.
                    Some(
                        Reply::Ok | Reply::Failed { .. } | Reply::Started { .. } | Reply::Unsupported { .. },
                    )
                    | None => {}
                },
                None => return Err(Error::Lost { id: self.id.clone() }),
            }
        }
        Ok(self.exit)
    }
}
