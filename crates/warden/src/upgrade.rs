//! Going over to another binary without a gap.
//!
//! Lives here: the order of the steps, and the way back.
//! Does not live here: who asks for it and whether the binary is one of ours (the caller's closure), what the new program
//! is told (`takeover`).
//! Invariant: until the last step this process is the old program and can undo everything; the sockets and the lock are
//! never given up.
//!
//! ```text
//! rehearse (would the new program understand us?) -> each child in its order: start the new one, wait until it is healthy
//!      |                                                 |  WhileItServes: the old one drains; AfterItsEnd: it was stopped
//!      '-> refused, nothing changed                      '-> exec: this process becomes the new program, same children
//!                                                        '-> not healthy in time: children of the old binary again
//! ```

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal as Kill;

use crate::children::Replaced;
use crate::inherit::{self, FDS_VARIABLE, Keep};
use crate::process::Process;
use crate::signals::Signal;
use crate::supervise::{Event, State, Warden};
use crate::takeover::{LOCK, Numbers, TAKEOVER_VARIABLE, rehearsal};

/// Set for a child that is back after a newer binary's did not work: what that one changed may be undone.
pub const ROLLED_BACK_VARIABLE: &str = "STOA_ROLLED_BACK";

/// A rehearsal reads its arguments and ends.
const REHEARSES_WITHIN: Duration = Duration::from_secs(20);
/// How often a new child is asked.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What the caller knows and the warden does not.
pub struct Upgrades {
    /// The binary somebody asked for with SIGUSR2; `None` when nobody did.
    pub wanted: Box<dyn FnMut() -> Option<PathBuf>>,
    /// Whether a child does its work.
    pub is_healthy: Box<dyn FnMut(Ask<'_>) -> bool>,
    /// How long a new child may take until it does.
    pub healthy_within: Duration,
}

/// A question about a child.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Its name.
    pub child: &'a str,
    /// The process that should be at work.
    pub pid: u32,
}

/// Why there was no upgrade.
enum Failed {
    Because(String),
    /// A signal said to stop; the caller's loop does.
    Told(i32),
}

impl Warden {
    /// Becomes the wanted binary, and then does not return; else everything is as before. Gives the signal to stop on, when
    /// one came meanwhile.
    pub(crate) fn upgrade(&mut self) -> Option<i32> {
        let to = (self.upgrades.wanted)()?;
        (self.report)(&Event::Upgrading { to: to.clone() });
        let mut replaced = 0;
        let failed = match self.replace_all(&to, &mut replaced) {
            Ok(()) => Failed::Because(format!(
                "could not become {}: {}",
                to.display(),
                self.become_it(&to)
            )),
            Err(failed) => failed,
        };
        match failed {
            Failed::Told(signal) => Some(signal),
            Failed::Because(why) => {
                let back = self.go_back(replaced);
                (self.report)(&Event::NotUpgraded { why });
                back.err()
            }
        }
    }

    /// Counts in `replaced` the children that are no longer what they were.
    fn replace_all(&mut self, to: &Path, replaced: &mut usize) -> Result<(), Failed> {
        self.rehearse(to)?;
        for n in 0..self.slots.len() {
            *replaced = n + 1;
            self.replace(n, to)?;
        }
        Ok(())
    }

    /// Runs the new program with our own arguments: flags it no longer knows must stop us before anything changes.
    fn rehearse(&mut self, to: &Path) -> Result<(), Failed> {
        let mut command = Command::new(to);
        command
            .args(own_arguments())
            .env(TAKEOVER_VARIABLE, rehearsal())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        crate::signals::unblock_in_child(&mut command);
        let started = command
            .spawn()
            .map_err(|cause| Failed::Because(format!("{} could not be started: {cause}", to.display())))?;
        let mut process = Process::of(&started);
        let ended = self.until(REHEARSES_WITHIN, |_| process.ended());
        if !matches!(ended, Ok(Some(_))) {
            process.send(Kill::KILL);
            process.wait();
        }
        match ended? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Failed::Because(format!(
                "{} does not start with the arguments of this one ({status}); its message is in the log",
                to.display()
            ))),
            None => Err(Failed::Because(format!(
                "{} did not answer a rehearsal within {REHEARSES_WITHIN:?}",
                to.display()
            ))),
        }
    }

    fn replace(&mut self, n: usize, to: &Path) -> Result<(), Failed> {
        let child = self.slots[n].child.clone();
        let name = child.name.clone();
        let old = match child.replaced {
            Replaced::WhileItServes => self.slots[n].take_process(),
            Replaced::AfterItsEnd => {
                if let Some(signal) = self.stop_one(n) {
                    return Err(Failed::Told(signal));
                }
                None
            }
        };
        // Whatever happens next, the old one is reaped: as one that ends by itself.
        self.retired.extend(old);
        let mut process = child.start_of(to, &self.bound).map_err(|cause| {
            Failed::Because(format!(
                "{name} of {} could not be started: {cause}",
                to.display()
            ))
        })?;
        let pid = process.id();
        let limit = self.upgrades.healthy_within;
        let verdict = self.until(limit, |warden| {
            if let Some(status) = process.ended() {
                return Some(Err(format!(
                    "the new {name} ended with {status}; its message is in the log"
                )));
            }
            let ask = Ask { child: &name, pid };
            (warden.upgrades.is_healthy)(ask).then_some(Ok(()))
        });
        let late = || {
            Err(format!(
                "the new {name} did no work within {limit:?}; its message is in the log"
            ))
        };
        match verdict {
            Ok(verdict) => match verdict.unwrap_or_else(late) {
                Ok(()) => {
                    self.slots[n].runs(process);
                    (self.report)(&Event::Replaced { child: name, pid });
                    Ok(())
                }
                Err(why) => {
                    process.send(Kill::KILL);
                    process.wait();
                    Err(Failed::Because(why))
                }
            },
            Err(told) => {
                self.slots[n].runs(process);
                Err(told)
            }
        }
    }

    /// Children of this program in place of the first `replaced`, the last of which may have been left empty.
    /// Waits until they work; gives the signal to stop on, when one came meanwhile.
    fn go_back(&mut self, replaced: usize) -> Result<(), i32> {
        for n in 0..replaced {
            let child = self.slots[n].child.clone();
            let (ours, new) = match child.replaced {
                Replaced::WhileItServes => (self.still_serving(&child.name), self.slots[n].take_process()),
                Replaced::AfterItsEnd => {
                    let _stop_later = self.stop_one(n);
                    (None, None)
                }
            };
            // The new one, when it serves, hands over to the next as the old one did to it.
            self.retired.extend(new);
            match ours {
                Some(process) => self.slots[n].runs(process),
                None => self.slots[n].starts_again(),
            }
        }
        self.start_due();
        let limit = self.upgrades.healthy_within;
        for n in 0..replaced {
            let child = self.slots[n].child.name.clone();
            let works = self.until(limit, |warden| {
                let State::Running { process, .. } = &mut warden.slots[n].state else {
                    return Some(());
                };
                let pid = process.id();
                if process.ended().is_some() {
                    return Some(());
                }
                (warden.upgrades.is_healthy)(Ask { child: &child, pid }).then_some(())
            });
            // One that dies or dawdles is the loop's concern, as ever.
            if let Err(Failed::Told(signal)) = works {
                return Err(signal);
            }
        }
        Ok(())
    }

    /// The old child, when the new one never took over from it.
    fn still_serving(&mut self, name: &str) -> Option<Process> {
        let mut old = self.retired.pop()?;
        let ask = Ask {
            child: name,
            pid: old.id(),
        };
        if old.ended().is_none() && (self.upgrades.is_healthy)(ask) {
            return Some(old);
        }
        self.retired.push(old);
        None
    }

    /// Asks until there is an answer or the time is up.
    fn until<T>(
        &mut self,
        limit: Duration,
        mut answer: impl FnMut(&mut Warden) -> Option<T>,
    ) -> Result<Option<T>, Failed> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = answer(self) {
                return Ok(Some(found));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            if let Some(Signal::Stop(number)) = self.signals.wait(Some(ASK_AGAIN)) {
                return Err(Failed::Told(number));
            }
        }
    }

    /// Returns only when the kernel refuses.
    fn become_it(&mut self, to: &Path) -> std::io::Error {
        let numbers = Numbers {
            running: self
                .slots
                .iter()
                .filter_map(|slot| Some((slot.child.name.clone(), slot.pid()?)))
                .collect(),
            retired: self.retired.iter().map(Process::id).collect(),
        };
        let named = self
            .bound
            .iter()
            .map(|bound| (bound.name.as_str(), bound.as_fd()));
        let named: Vec<(&str, BorrowedFd<'_>)> = named.chain([(LOCK, self.lock.as_fd())]).collect();
        let descriptors: Vec<BorrowedFd<'_>> = named.iter().map(|(_, fd)| *fd).collect();
        if let Err(cause) = inherit::keep_open(&descriptors, Keep::ThroughExec) {
            return cause;
        }
        // Our signals stay blocked through exec, so none is lost between the two programs.
        let refused = Command::new(to)
            .args(own_arguments())
            .env(FDS_VARIABLE, inherit::listed(&named))
            .env(TAKEOVER_VARIABLE, numbers.write())
            .exec();
        // Closed on exec again; that failing is the same trouble as the one reported.
        let _same = inherit::keep_open(&descriptors, Keep::ForUs);
        refused
    }
}

fn own_arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1)
}

impl crate::supervise::Slot {
    /// Its process, which it no longer has.
    fn take_process(&mut self) -> Option<Process> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Running { process, .. } => Some(process),
            State::Waiting { .. } | State::Gone => None,
        }
    }

    pub(crate) fn runs(&mut self, process: Process) {
        self.state = State::Running {
            process,
            since: Instant::now(),
        };
    }

    /// Tells the child that another binary was there before it.
    fn starts_again(&mut self) {
        self.early_deaths = 0;
        let env = &mut self.child.env;
        env.retain(|(name, _)| name != ROLLED_BACK_VARIABLE);
        env.push((ROLLED_BACK_VARIABLE.into(), "1".into()));
        self.state = State::Waiting {
            until: Instant::now(),
        };
    }

    fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running { process, .. } => Some(process.id()),
            State::Waiting { .. } | State::Gone => None,
        }
    }
}
