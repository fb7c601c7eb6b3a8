//! A running instance: its output, its children, its requests, its end.
//!
//! Lives here: the one loop of a keeper.
//! Does not live here: entering the instance (`exec`), log segments (`keeper::log`).
//! Invariant: every wait has a bound or a descriptor that wakes it; whatever happens, process 1's end is recorded durably
//! before this process ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use keeper::message::{self, OLDEST, Reply, Request, Start, VERSION};
use keeper::record::{Exit, SOCKET};
use keeper::wire::{self, Frame};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::exec::Session;
use crate::output::{Output, now_us};

/// Connections at a time; more than any control needs.
const MAX_CLIENTS: usize = 64;
/// For output still in the pipes after process 1 ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
const KILL_SIGNAL: i32 = 9;

/// A keeper whose instance runs.
pub struct Keeper {
    start: Start,
    signals: OwnedFd,
    listener: OwnedFd,
    output: Output,
    pid: Pid,
    pidfd: OwnedFd,
    clients: Vec<Client>,
    kill_at: Option<Instant>,
    /// We killed it ourselves, so a SIGKILL says nothing about memory.
    killed: bool,
    ended: Option<WaitStatus>,
}

struct Client {
    socket: OwnedFd,
    session: Option<Session>,
}

impl Keeper {
    pub fn new(
        start: Start,
        signals: OwnedFd,
        listener: OwnedFd,
        output: Output,
        pid: Pid,
        pidfd: OwnedFd,
    ) -> Keeper {
        let (clients, kill_at, killed, ended) = (Vec::new(), None, false, None);
        Keeper {
            start,
            signals,
            listener,
            output,
            pid,
            pidfd,
            clients,
            kill_at,
            killed,
            ended,
        }
    }

    /// Until the instance has ended.
    pub fn run(&mut self) -> io::Result<()> {
        // It may have ended before we had a signal descriptor to notice by.
        self.reap();
        while self.ended.is_none() {
            self.wait()?;
            self.output.drain();
            self.take_signals();
            self.accept();
            self.serve();
            self.reap();
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill();
            }
        }
        self.end()
    }

    fn wait(&mut self) -> io::Result<()> {
        let patience = self.output.patience();
        let until_kill = self
            .kill_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = patience.into_iter().chain(until_kill).min();
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().cast_signed(),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        fds.extend(
            self.output
                .descriptors()
                .into_iter()
                .flatten()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        for client in &self.clients {
            fds.push(PollFd::new(&client.socket, PollFlags::IN));
            if let Some(report) = client.session.as_ref().and_then(Session::report) {
                fds.push(PollFd::from_borrowed_fd(report, PollFlags::IN));
            }
        }
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) if patience.is_some() => {
                drop(fds);
                self.output.release();
                Ok(())
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_signals(&self) {
        let mut bytes = [0u8; 512];
        // What arrived does not matter: `reap` looks itself, and SIGTERM is declined: an instance outlives whoever stops us.
        while rustix::io::read(&self.signals, &mut bytes[..]).is_ok_and(|n| n == bytes.len()) {}
    }

    fn accept(&mut self) {
        while let Ok(socket) =
            rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let ours = rustix::process::geteuid();
            let same_user = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == ours);
            if same_user && self.clients.len() < MAX_CLIENTS {
                self.clients.push(Client {
                    socket,
                    session: None,
                });
            }
        }
    }

    fn serve(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        clients.retain_mut(|client| {
            if let Some(session) = &mut client.session {
                session.take_report(&client.socket);
            }
            self.serve_one(client)
        });
        self.clients = clients;
    }

    /// Whether the client stays.
    fn serve_one(&mut self, client: &mut Client) -> bool {
        let (frame, fds) = match wire::receive(&client.socket) {
            Ok(Some(received)) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Ok(None) | Err(_) => {
                if let Some(session) = &client.session {
                    session.kill();
                }
                return false;
            }
        };
        let reply = match self.obey(&frame, &fds, client) {
            Ok(Some(reply)) => reply,
            Ok(None) => return true,
            // Only starting a process in the instance's group meets its limit.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Reply::Failed {
                stage: "limits".to_owned(),
                reason: message::fork_failure(&error),
            },
            Err(error) => Reply::Failed {
                stage: "keeper".to_owned(),
                reason: error.to_string(),
            },
        };
        wire::send(&client.socket, &reply.to_frame(), &[]).is_ok()
    }

    fn obey(&mut self, frame: &Frame, fds: &[OwnedFd], client: &mut Client) -> io::Result<Option<Reply>> {
        let Some(request) = Request::from_frame(frame) else {
            return Ok(Some(Reply::Unsupported {
                oldest: OLDEST,
                newest: VERSION,
            }));
        };
        if let Some(refusal) = message::refusal(Path::new(".."), frame) {
            return Ok(Some(refusal));
        }
        match request {
            Request::Ping => {}
            // Within an exec session a signal is for that process.
            Request::Signal(signal) => match &client.session {
                Some(session) => session.signal(signal)?,
                None => self.signal(signal)?,
            },
            Request::Stop { signal, grace_ms } => {
                self.signal(signal.unwrap_or(self.start.stop_signal))?;
                let at = Instant::now() + Duration::from_millis(grace_ms);
                self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
            }
            Request::Kill => self.kill(),
            Request::Exec => {
                client.session = Some(Session::begin(&self.start.group, self.pidfd.as_fd(), fds)?);
                return Ok(None);
            }
            Request::Start(_) => return Err(io::Error::other("already started")),
        }
        Ok(Some(Reply::Ok))
    }

    fn signal(&mut self, signal: i32) -> io::Result<()> {
        if signal == KILL_SIGNAL {
            self.killed = true;
        }
        let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("no such signal"))?;
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            // Ended already: that is what a stop wants.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        self.kill_at = None;
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.start.group.kill();
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                self.ended = Some(status);
                continue;
            }
            for client in &mut self.clients {
                if let Some(session) = &mut client.session {
                    // Its report was sent before it could be reaped: read it before asking whose child this was.
                    session.take_report(&client.socket);
                    session.reaped(pid, status, &client.socket);
                }
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let oom_kills = self.start.group.oom_kills();
        // Process 1's namespace died with it; this is for a process just entering.
        self.start.group.kill_and_wait(LAST_WORDS);
        self.drain_rest();
        self.reap();
        let lost = self.output.finish();
        let status = self
            .ended
            .unwrap_or_else(|| unreachable!("called after process 1 was reaped"));
        let (code, signal) = outcome(status);
        let exit = Exit {
            code,
            signal,
            oom: oom_kills > 0 && code == 128 + KILL_SIGNAL && !self.killed,
            oom_kills,
            at_ms: now_us() / 1000,
            error: (lost > 0).then(|| format!("{lost} bytes of output could not be kept")),
        };
        let saved = exit.save(Path::new("."));
        for client in &mut self.clients {
            if let Some(session) = &mut client.session {
                session.abandon(&client.socket);
            }
        }
        let _ = std::fs::remove_file(SOCKET);
        let _ = self.start.group.remove(Duration::from_millis(200));
        saved
    }

    fn drain_rest(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            self.output.drain();
            if self.output.is_closed() || Instant::now() >= deadline {
                return;
            }
            let mut fds: Vec<PollFd<'_>> = (self.output.descriptors().into_iter().flatten())
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            let _ = rustix::event::poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 50_000_000,
                }),
            );
        }
    }
}

/// Code (128 + signal) and signal.
pub fn outcome(status: WaitStatus) -> (i32, Option<i32>) {
    match status.terminating_signal() {
        Some(signal) => (128 + signal, Some(signal)),
        None => (status.exit_status().unwrap_or(255), None),
    }
}
