//! The warden's life: take the lock, open the sockets, keep the children running, stop them in order.
//!
//! Lives here: the loop, what it reports, why it ends.
//! Does not live here: what the children do. Their workloads are not ours to stop.
//! Invariant: at most one process per child is ours at any time, and none is left unreaped.
//!
//! ```text
//!            start                dies
//! waiting ----------> running ----------> waiting (delay after Backoff)
//!    ^                   | stop: SIGTERM, grace, SIGKILL
//!    '-------------------'---> gone
//! ```

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal as Kill;

use crate::children::{Backoff, Child};
use crate::lock::{Lock, LockError, Taker};
use crate::process::Process;
use crate::signals::{Signal, Signals};
use crate::sockets::{self, Bound, Origin, SocketError, Wanted};
use crate::takeover::{self, TakeoverError};
use crate::upgrade::Upgrades;

/// A child that exits with this code cannot work at all (`EX_CONFIG`): starting it again would only repeat its message.
/// Believed only of a child that has never been stable: what has worked may work again, and the others shall not suffer.
pub const NO_RESTART: i32 = 78;

/// A child that somebody kills later than this in its life has shown no defect of its own: it comes back at once, which
/// makes one start a second at most.
const KILLED_LATE: Duration = Duration::from_secs(1);

/// A child that cannot even be started is tried again after its backoff, at the latest this often.
const WAIT_AT_MOST: Duration = Duration::from_secs(3600);

/// Asks a living edge of this data directory for its listening sockets; `None` when there is none.
pub type Adopt = Box<dyn Fn() -> Option<Vec<(String, OwnedFd)>>>;

/// Describes the children once the sockets, and thereby the ports, are known. Started in this order.
pub type Describe = Box<dyn FnOnce(&[Bound]) -> Vec<Child>>;

/// What [`run`] needs.
pub struct Options {
    /// The directory to lock.
    pub data_dir: PathBuf,
    /// The sockets to open.
    pub sockets: Vec<Wanted>,
    /// See [`Adopt`]; called with the lock held, unless this process goes on after an upgrade, and once more when a port is
    /// taken.
    pub adopt: Adopt,
    /// See [`Describe`]. They are stopped in the same order, each gone before the next is told.
    pub children: Describe,
    /// Going over to another binary.
    pub upgrades: Upgrades,
    /// Told everything worth a log line.
    pub report: Box<dyn FnMut(&Event)>,
}

/// Something worth a log line.
#[derive(Debug)]
pub enum Event {
    /// A socket is open.
    Listening {
        /// Its name.
        name: String,
        /// Its address.
        address: std::net::SocketAddr,
        /// Bound here or taken over from a living edge.
        origin: Origin,
    },
    /// A child runs.
    Started {
        /// Its name.
        child: String,
        /// Its process.
        pid: u32,
    },
    /// A child could not be started.
    NotStarted {
        /// Its name.
        child: String,
        /// What the kernel said.
        cause: std::io::Error,
        /// When it is tried again.
        again_in: Duration,
    },
    /// A child died and is started again after the delay.
    Died {
        /// Its name.
        child: String,
        /// The process that died.
        pid: u32,
        /// How it died.
        status: ExitStatus,
        /// How long it had lived.
        lived: Duration,
        /// When it is started again.
        again_in: Duration,
    },
    /// Somebody wants another binary.
    Upgrading {
        /// Its path.
        to: PathBuf,
    },
    /// A child of the new binary is at work.
    Replaced {
        /// Its name.
        child: String,
        /// Its process.
        pid: u32,
    },
    /// This process is the new binary now.
    Upgraded,
    /// It stays the old one, and so do its children.
    NotUpgraded {
        /// Why.
        why: String,
    },
    /// The warden was told to stop.
    Stopping {
        /// The signal's number.
        signal: i32,
    },
    /// A child is gone because we stopped it.
    Stopped {
        /// Its name.
        child: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A child did not stop in time and was killed.
    Killed {
        /// Its name.
        child: String,
        /// How long it was given.
        grace: Duration,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening {
                name,
                address,
                origin: Origin::Bound,
            } => write!(f, "{name} listens on {address}"),
            Self::Listening {
                name,
                address,
                origin: Origin::Adopted,
            } => {
                write!(f, "{name} listens on {address}, taken over from the running edge")
            }
            Self::Started { child, pid } => write!(f, "{child} started as process {pid}"),
            Self::NotStarted {
                child,
                cause,
                again_in,
            } => {
                write!(
                    f,
                    "{child} could not be started ({cause}); next try in {again_in:?}"
                )
            }
            Self::Died {
                child,
                pid,
                status,
                lived,
                again_in,
            } => {
                write!(
                    f,
                    "{child} (process {pid}) ended after {lived:.1?} with {status}; next start in {again_in:?}"
                )
            }
            Self::Upgrading { to } => write!(f, "going over to {}", to.display()),
            Self::Replaced { child, pid } => write!(f, "{child} of the new binary works as process {pid}"),
            Self::Upgraded => write!(f, "went over to this binary"),
            Self::NotUpgraded { why } => write!(f, "stays with this binary: {why}"),
            Self::Stopping { signal } => write!(f, "stopping on signal {signal}"),
            Self::Stopped { child, status } => write!(f, "{child} stopped ({status})"),
            Self::Killed { child, grace } => {
                write!(f, "{child} did not stop within {grace:?} and was killed")
            }
        }
    }
}

/// Why [`run`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// Told to stop by a signal; the children are gone.
    Signal(i32),
    /// A child said that it cannot work ([`NO_RESTART`]); the others were stopped.
    Unrecoverable {
        /// Its name.
        child: String,
    },
}

/// Why the warden could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory is not ours to take.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A socket could not be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Signals could not be blocked.
    #[error("could not block signals")]
    Signals(#[source] std::io::Error),
    /// An upgrade came to the wrong program.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
}

impl Error {
    /// What the user can do.
    pub fn next(&self) -> String {
        match self {
            Self::Lock(cause) => cause.next(),
            Self::Socket(cause) => cause.next(),
            Self::Takeover(_) => "start Stoa again: stoa up".to_owned(),
            Self::Signals(_) => "report this with the kernel's version (uname -r)".to_owned(),
        }
    }
}

/// Runs until a signal, or until a child cannot work. Must be called from the process's only thread.
pub fn run(options: Options) -> Result<ExitReason, Error> {
    let Options {
        data_dir,
        sockets,
        adopt,
        children,
        upgrades,
        mut report,
    } = options;
    let signals = Signals::block().map_err(Error::Signals)?;
    let taken = takeover::taken()?;
    let is_upgrade = taken.is_some();
    let (lock, handed_over, running, retired) = match taken {
        Some(taken) => (taken.lock, taken.sockets, taken.running, taken.retired),
        None => {
            let lock = Lock::take(&data_dir, Taker::Warden)?;
            (lock, adopt().unwrap_or_default(), Vec::new(), Vec::new())
        }
    };
    let bound = match sockets::open(&sockets, handed_over) {
        // An edge that had only just been started when its warden died could not be asked yet: by now it can.
        Err(cause) if !is_upgrade => match adopt() {
            Some(handed_over) => sockets::open(&sockets, handed_over)?,
            None => return Err(cause.into()),
        },
        opened => opened?,
    };
    for socket in bound.iter().filter(|_| !is_upgrade) {
        let (name, address, origin) = (socket.name.clone(), socket.address, socket.origin);
        report(&Event::Listening {
            name,
            address,
            origin,
        });
    }
    let mut slots: Vec<Slot> = children(&bound).into_iter().map(Slot::new).collect();
    for (name, process) in running {
        if let Some(slot) = slots.iter_mut().find(|slot| slot.child.name == name) {
            slot.runs(process);
            slot.has_worked = true;
        }
    }
    if is_upgrade {
        report(&Event::Upgraded);
    }
    Ok(Warden {
        lock,
        signals,
        bound,
        slots,
        retired,
        upgrades,
        report,
    }
    .live())
}

pub(crate) struct Warden {
    pub(crate) lock: Lock,
    pub(crate) signals: Signals,
    pub(crate) bound: Vec<Bound>,
    pub(crate) slots: Vec<Slot>,
    /// Replaced children that end by themselves when their work is done.
    pub(crate) retired: Vec<Process>,
    pub(crate) upgrades: Upgrades,
    pub(crate) report: Box<dyn FnMut(&Event)>,
}

/// One child and where it is in its life.
pub(crate) struct Slot {
    pub(crate) child: Child,
    pub(crate) state: State,
    /// Deaths in a row before the child was stable.
    pub(crate) early_deaths: u32,
    /// Whether it has been stable once.
    has_worked: bool,
}

pub(crate) enum State {
    Waiting { until: Instant },
    Running { process: Process, since: Instant },
    Gone,
}

impl Slot {
    fn new(child: Child) -> Slot {
        Slot {
            child,
            state: State::Waiting {
                until: Instant::now(),
            },
            early_deaths: 0,
            has_worked: false,
        }
    }

    /// Takes note of a death and says how long to wait before the next start.
    fn died_after(&mut self, lived: Duration, death: Death) -> Duration {
        let Backoff { stable, cap, .. } = self.child.restart;
        self.has_worked |= lived >= stable;
        self.early_deaths = match death {
            Death::Own | Death::Useless | Death::Killed if lived >= stable => 1,
            Death::Killed if lived >= KILLED_LATE => self.early_deaths,
            Death::Own | Death::Useless | Death::Killed => self.early_deaths.saturating_add(1),
        };
        let delay = match death {
            Death::Useless => cap,
            Death::Own | Death::Killed => self.child.restart.delay(self.early_deaths),
        };
        self.state = State::Waiting {
            until: Instant::now() + delay,
        };
        delay
    }
}

/// How a child died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// By itself, or by a signal that a defect brings.
    Own,
    /// It said that it cannot work ([`NO_RESTART`]).
    Useless,
    /// Somebody sent SIGKILL: a person, or the kernel for want of memory.
    Killed,
}

impl Warden {
    fn live(mut self) -> ExitReason {
        loop {
            self.start_due();
            let next = self.slots.iter().filter_map(|slot| match slot.state {
                State::Waiting { until } => Some(until.saturating_duration_since(Instant::now())),
                State::Running { .. } | State::Gone => None,
            });
            let limit = next.min().unwrap_or(WAIT_AT_MOST);
            match self.signals.wait(Some(limit)) {
                Some(Signal::Stop(number)) => {
                    (self.report)(&Event::Stopping { signal: number });
                    self.stop();
                    return ExitReason::Signal(number);
                }
                Some(Signal::Upgrade) => {
                    if let Some(number) = self.upgrade() {
                        (self.report)(&Event::Stopping { signal: number });
                        self.stop();
                        return ExitReason::Signal(number);
                    }
                }
                Some(Signal::Child) | None => {}
            }
            // After every wake-up, whatever its cause: one SIGCHLD may stand for several deaths.
            if let Some(child) = self.reap() {
                self.stop();
                return ExitReason::Unrecoverable { child };
            }
        }
    }

    pub(crate) fn start_due(&mut self) {
        let now = Instant::now();
        for slot in &mut self.slots {
            if !matches!(slot.state, State::Waiting { until } if until <= now) {
                continue;
            }
            let child = slot.child.name.clone();
            match slot.child.start(&self.bound) {
                Ok(process) => {
                    (self.report)(&Event::Started {
                        child,
                        pid: process.id(),
                    });
                    slot.state = State::Running {
                        process,
                        since: Instant::now(),
                    };
                }
                Err(cause) => {
                    // At least the first delay: a start that fails at once must not spin.
                    slot.early_deaths = slot.early_deaths.max(1);
                    let again_in = slot.died_after(Duration::ZERO, Death::Own);
                    (self.report)(&Event::NotStarted {
                        child,
                        cause,
                        again_in,
                    });
                }
            }
        }
    }

    /// Collects the dead and plans their restart; names a child that cannot work.
    fn reap(&mut self) -> Option<String> {
        self.retired.retain_mut(|process| process.ended().is_none());
        for slot in &mut self.slots {
            let State::Running { process, since } = &mut slot.state else {
                continue;
            };
            let (pid, lived) = (process.id(), since.elapsed());
            let Some(status) = process.ended() else {
                continue;
            };
            let says_useless = status.code() == Some(NO_RESTART);
            let death = match status.signal() {
                _ if says_useless => Death::Useless,
                Some(signal) if signal == Kill::KILL.as_raw() => Death::Killed,
                Some(_) | None => Death::Own,
            };
            let again_in = slot.died_after(lived, death);
            let child = slot.child.name.clone();
            (self.report)(&Event::Died {
                child,
                pid,
                status,
                lived,
                again_in,
            });
            if says_useless && !slot.has_worked {
                slot.state = State::Gone;
                return Some(slot.child.name.clone());
            }
        }
        None
    }

    /// Stops the children one after the other: each is gone before the next is told.
    fn stop(&mut self) {
        let mut hurry = false;
        for process in &self.retired {
            process.send(Kill::TERM);
        }
        let grace = self.slots.iter().map(|slot| slot.child.stop_grace).max();
        let deadline = Instant::now() + grace.unwrap_or_default();
        for n in 0..self.slots.len() {
            hurry |= self.stop_slot(n, hurry).is_some();
        }
        // Whoever is left after as long as the others have does not outlive its warden.
        for process in &mut self.retired {
            while process.ended().is_none() && !hurry && Instant::now() < deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                hurry = matches!(self.signals.wait(Some(left)), Some(Signal::Stop(_)));
            }
            process.send(Kill::KILL);
            process.wait();
        }
    }

    /// Stops one child; gives the signal to stop everything, when one came meanwhile.
    pub(crate) fn stop_one(&mut self, n: usize) -> Option<i32> {
        self.stop_slot(n, false)
    }

    fn stop_slot(&mut self, n: usize, hurried: bool) -> Option<i32> {
        let slot = &mut self.slots[n];
        let State::Running { mut process, .. } = std::mem::replace(&mut slot.state, State::Gone) else {
            return None;
        };
        let grace = if hurried {
            Duration::ZERO
        } else {
            slot.child.stop_grace
        };
        process.send(Kill::TERM);
        let (mut killed, mut told) = (false, None);
        let deadline = Instant::now() + grace;
        let status = loop {
            if let Some(status) = process.ended() {
                break status;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || told.is_some() {
                killed = true;
                process.send(Kill::KILL);
                break process.wait();
            }
            // A second Ctrl-C means: now.
            if let Some(Signal::Stop(number)) = self.signals.wait(Some(left)) {
                told = Some(number);
            }
        };
        let child = slot.child.name.clone();
        let event = if killed {
            Event::Killed { child, grace }
        } else {
            Event::Stopped { child, status }
        };
        (self.report)(&event);
        told
    }
}
