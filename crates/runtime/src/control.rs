//! Requests to a running instance, and its removal.
//!
//! Lives here: signal, stop, kill, waiting for the end, remove.
//! Does not live here: deciding to (`control`).
//! Invariant: what is asked of an instance that has ended already succeeds, where the end is what was wanted; removal works
//! whatever state the instance, its keeper or its directory is in.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use keeper::message::{FENCED, Reply, Request, VERSION};
use keeper::record::{Exit, KEEPER_LOCK, SOCKET};
use keeper::wire;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::instance::{Lock, Make, is_locked, keeper_process};
use crate::{Error, Result, Runtime, State};

/// A keeper answers at once or is stuck.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// For a killed group to become empty; longer means processes stuck in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(20);

impl Runtime {
    /// Sends a signal to its program.
    pub fn signal(&self, id: &str, signal: i32) -> Result<()> {
        self.request(id, &Request::Signal(signal))
    }

    /// Asks it to end with its stop signal and returns; whatever still runs after `grace` is killed, by the keeper, even
    /// if we are gone by then.
    pub fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Stop {
            signal: None,
            grace_ms,
        };
        self.ended_is_fine(id, self.request(id, &request))
    }

    /// Kills it and returns.
    pub fn kill(&self, id: &str) -> Result<()> {
        self.ended_is_fine(id, self.request(id, &Request::Kill))
    }

    /// A keeper that is gone has ended its instance, but one with too many connections drops a new one just the same.
    fn ended_is_fine(&self, id: &str, result: Result<()>) -> Result<()> {
        match result {
            Err(Error::Ended { .. }) => match self.get(id)?.map(|there| there.state) {
                Some(State::Running { .. }) => Err(Error::Io {
                    what: format!("the keeper of {id}"),
                    cause: io::Error::other("it takes no more connections"),
                }),
                Some(State::Starting | State::Exited(_) | State::Lost) | None => Ok(()),
            },
            other => other,
        }
    }

    /// Waits for its end, at most `within`; `None` when it still runs then.
    pub fn wait_exit(&self, id: &str, within: Duration) -> Result<Option<Exit>> {
        let deadline = Instant::now() + within;
        loop {
            let container = self
                .get(id)?
                .ok_or_else(|| Error::NotFound { id: id.to_owned() })?;
            match container.state {
                State::Exited(exit) => {
                    // The keeper is about to end; wait for that too, so that removal finds nothing alive.
                    if let Some(keeper) = container.record.as_ref().and_then(keeper_process) {
                        wait_readable(&keeper, REPLY_LIMIT).map_err(Error::io("the keeper"))?;
                    }
                    return Ok(Some(exit));
                }
                State::Lost => return Err(Error::Lost { id: id.to_owned() }),
                State::Starting | State::Running { .. } => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match container.record.as_ref().and_then(keeper_process) {
                Some(keeper) => drop(wait_readable(&keeper, left).map_err(Error::io("the keeper"))?),
                None => std::thread::sleep(left.min(Duration::from_millis(5))),
            }
        }
    }

    /// Kills it if it lives, and removes its control groups and directory. Nothing of that name is fine. Logs, the
    /// writable directory, volumes and networks are the caller's.
    pub fn remove(&self, id: &str) -> Result<()> {
        crate::instance::check_name("the id", id)?;
        let dir = self.dir(id);
        let lock = Lock::take(&dir, Make::Nothing).map_err(Error::io(&dir))?;
        self.owned()?;
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            if lock.is_some() {
                self.end_keeper(id, &dir)?;
            }
            let late = |what| Error::Late {
                id: id.to_owned(),
                what,
                limit_s: KILL_LIMIT.as_secs(),
            };
            let group = self.hierarchies.group(&self.mark, id);
            if !group.kill_and_wait(KILL_LIMIT) {
                return Err(late("killing its processes"));
            }
            group.remove(KILL_LIMIT).map_err(Error::io("its control group"))?;
            match fs::remove_dir_all(&dir) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // A keeper whose starter was killed came to life meanwhile: once more from the beginning.
                Err(error)
                    if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {}
                Err(error) => return Err(Error::io(&dir)(error)),
            }
        }
    }

    /// Sees to it that no keeper works for this instance any more.
    fn end_keeper(&self, id: &str, dir: &Path) -> Result<()> {
        let group = self.hierarchies.group(&self.mark, id);
        let lock = dir.join(KEEPER_LOCK);
        let held = || is_locked(&lock).map_err(Error::io(&lock));
        if !held()? {
            return Ok(());
        }
        // Asking first lets it say how the instance ended; a keeper that is starting, old or stuck is not waited for.
        let _ = self.request(id, &Request::Kill);
        let (_, record) = self.state(dir)?;
        let keeper = record.as_ref().and_then(keeper_process);
        let deadline = Instant::now() + KILL_LIMIT;
        while held()? {
            group.kill();
            if Instant::now() >= deadline {
                return Err(Error::Late {
                    id: id.to_owned(),
                    what: "ending its keeper",
                    limit_s: KILL_LIMIT.as_secs(),
                });
            }
            match &keeper {
                Some(keeper) => {
                    wait_readable(keeper, Duration::from_millis(500)).map_err(Error::io("the keeper"))?;
                    if deadline.saturating_duration_since(Instant::now()) < KILL_LIMIT / 2 {
                        let _ = rustix::process::pidfd_send_signal(keeper, rustix::process::Signal::KILL);
                    }
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(())
    }

    fn request(&self, id: &str, request: &Request) -> Result<()> {
        let socket = self.connect(id)?;
        wire::send(&socket, &request.to_frame_of(self.epoch()), &[]).map_err(|cause| gone(id, cause))?;
        match wire::receive(&socket).map_err(|cause| gone(id, cause))? {
            Some((frame, _)) => self.accept(id, Reply::from_frame(&frame)),
            // It ended between connecting and answering.
            None => Err(Error::Ended { id: id.to_owned() }),
        }
    }

    /// A connection to the keeper.
    pub(crate) fn connect(&self, id: &str) -> Result<OwnedFd> {
        let container = self
            .get(id)?
            .ok_or_else(|| Error::NotFound { id: id.to_owned() })?;
        match container.state {
            State::Exited(_) => return Err(Error::Ended { id: id.to_owned() }),
            State::Lost => return Err(Error::Lost { id: id.to_owned() }),
            State::Starting | State::Running { .. } => {}
        }
        let dir = rustix::fs::open(
            self.dir(id),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|cause| Error::io(self.dir(id))(cause.into()))?;
        connect_in(&dir).map_err(|cause| gone(id, cause))
    }
}

fn connect_in(dir: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    for timeout in [
        rustix::net::sockopt::Timeout::Recv,
        rustix::net::sockopt::Timeout::Send,
    ] {
        rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(REPLY_LIMIT))?;
    }
    // Through the descriptor: the full path may exceed the 108 bytes of a socket address.
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_str())?)?;
    Ok(socket)
}

/// A refused or cut connection means that the keeper has just ended, or was killed; a later look tells which.
pub(crate) fn gone(id: &str, cause: io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotFound => Error::Ended { id: id.to_owned() },
        io::ErrorKind::WouldBlock => Error::Late {
            id: id.to_owned(),
            what: "the keeper's answer",
            limit_s: REPLY_LIMIT.as_secs(),
        },
        _ => Error::Io {
            what: format!("the keeper of {id}"),
            cause,
        },
    }
}

impl Runtime {
    pub(crate) fn accept(&self, id: &str, reply: Option<Reply>) -> Result<()> {
        let id = id.to_owned();
        match reply {
            Some(Reply::Ok) => Ok(()),
            Some(Reply::Failed { stage, reason }) if stage == FENCED => {
                // It knows better than this process did when it asked.
                self.owned().and(Err(Error::Refused { id, reason }))
            }
            Some(Reply::Failed { reason, .. }) => Err(Error::Refused { id, reason }),
            Some(Reply::Unsupported { oldest, newest }) => Err(Error::Version {
                id,
                oldest,
                newest,
                ours: VERSION,
            }),
            Some(Reply::Started { .. } | Reply::Ended { .. }) | None => Err(Error::Refused {
                id,
                reason: "an answer that does not belong here".to_owned(),
            }),
        }
    }
}

/// Waits until `fd` is readable (true) or `within` has passed (false).
pub(crate) fn wait_readable(fd: impl AsFd, within: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
