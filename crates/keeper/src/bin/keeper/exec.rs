//! A further process in the instance, on behalf of one connection.
//!
//! Lives here: running the helper that enters, and telling the connection how it went.
//! Does not live here: entering (`stoa-create`).
//! Invariant: the process lives no longer than its connection.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keeper::cgroup::Group;
use keeper::message::Reply;
use keeper::wire;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitStatus};

use crate::start::helper_fd;
use crate::supervise::outcome;
use crate::sys;

/// One exec.
pub struct Session {
    helper: Pid,
    /// Until the helper has reported.
    report: Option<OwnedFd>,
    child: Option<(Pid, OwnedFd)>,
    told: bool,
}

impl Session {
    /// Starts the helper. Descriptors: task, helper, and without a terminal stdin, stdout, stderr.
    pub fn begin(group: &Group, instance: BorrowedFd<'_>, fds: &[OwnedFd]) -> io::Result<Session> {
        let [task, helper, stdio @ ..] = fds else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "expected a task and a helper",
            ));
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut pass = vec![
            (task.as_fd(), helper_fd::TASK),
            (theirs.as_fd(), helper_fd::REPORT),
            (instance, helper_fd::SUBJECT),
        ];
        let numbers = [helper_fd::STDIN, helper_fd::STDOUT, helper_fd::STDERR];
        pass.extend(stdio.iter().map(AsFd::as_fd).zip(numbers));
        let cgroup = group.unified().map(File::open).transpose()?;
        let text = group.to_text();
        let helper = sys::spawn(
            helper.as_fd(),
            &["stoa-create", "exec", &text],
            &pass,
            cgroup.as_ref().map(AsFd::as_fd),
        )?;
        Ok(Session {
            helper,
            report: Some(ours),
            child: None,
            told: false,
        })
    }

    /// What to wait for.
    pub fn report(&self) -> Option<BorrowedFd<'_>> {
        self.report.as_ref().map(AsFd::as_fd)
    }

    /// Passes the helper's report on, when it is there.
    pub fn take_report(&mut self, client: &OwnedFd) {
        let Some(report) = &self.report else { return };
        match wire::receive(report) {
            Ok(Some((frame, fds))) => {
                if let Some(Reply::Started { pid, .. }) = Reply::from_frame(&frame) {
                    self.child = i32::try_from(pid).ok().and_then(Pid::from_raw).and_then(|pid| {
                        Some((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?))
                    });
                } else {
                    self.told = true;
                }
                let terminal: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                let _ = wire::send(client, &frame, &terminal);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(None) | Err(_) => self.tell(client, &failed("the helper ended without a word")),
        }
        self.report = None;
    }

    /// A child of ours ended; was it this one?
    pub fn reaped(&mut self, pid: Pid, status: WaitStatus, client: &OwnedFd) {
        if self.child.as_ref().is_some_and(|(child, _)| *child == pid) {
            let (code, signal) = outcome(status);
            self.tell(client, &Reply::Ended { code, signal });
            self.child = None;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("no such signal"))?;
        let Some((_, pidfd)) = &self.child else {
            return Ok(());
        };
        match rustix::process::pidfd_send_signal(pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Its connection has gone.
    pub fn kill(&self) {
        if self.report.is_some() {
            let _ = rustix::process::kill_process(self.helper, Signal::KILL);
        }
        if let Some((_, pidfd)) = &self.child {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// The instance has ended and took this process along, reaped or not.
    pub fn abandon(&mut self, client: &OwnedFd) {
        self.tell(
            client,
            &Reply::Ended {
                code: 137,
                signal: Some(9),
            },
        );
    }

    fn tell(&mut self, client: &OwnedFd, reply: &Reply) {
        if !self.told {
            let _ = wire::send(client, &reply.to_frame(), &[]);
            self.told = true;
        }
    }
}

fn failed(reason: &str) -> Reply {
    Reply::Failed {
        stage: "exec".to_owned(),
        reason: reason.to_owned(),
    }
}
