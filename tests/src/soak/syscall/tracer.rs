//! A tracer that counts the system calls of one process over all its threads, and does one thing at the n-th.
//!
//! strace counts for each thread by itself, so its "n-th call" says nothing about a program with many threads. Here the
//! calls of all threads are one sequence, in the order in which they stop at their entry; the n-th has not been done yet.
//! Lives here: seizing, counting, acting, letting go. Does not live here: which calls count (`calls`).
//! Invariant: all `unsafe` of this module is a call of the kernel with plain numbers or a buffer of ours; every thread that
//! was seized is let go or has ended when the tracer ends. Children are never followed.
#![allow(unsafe_code, reason = "ptrace and waitpid have no safe form")]

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};

use super::calls::Call;

/// What happens at the n-th call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// The process is killed before the call.
    Kill { at: u64 },
    /// The call is not done and answers with that error; only calls that can fail in that way are counted.
    Fail { at: u64, errno: i32 },
    /// The call writes half of what it was asked to; only such calls are counted.
    Shorten { at: u64 },
}

/// What a tracer saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Calls that count.
    pub(super) calls: u64,
    /// The call at which it acted.
    pub(super) acted: Option<String>,
}

/// A running tracer.
pub(super) struct Tracer {
    pid: i32,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Option<String>>>>,
}

#[derive(Default)]
struct Shared {
    calls: AtomicU64,
    has_acted: AtomicBool,
    must_end: AtomicBool,
}

impl Tracer {
    /// Seizes every thread of the process.
    pub(super) fn start(pid: i32, act: Act) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (told, seized) = mpsc::channel();
        let inside = Arc::clone(&shared);
        // The kernel knows tracers by thread: everything is done from this one.
        let thread = thread::spawn(move || {
            let mut work = Work {
                pid,
                act,
                shared: inside,
                tasks: BTreeSet::new(),
                failing: None,
                acted: None,
            };
            let seized = work.seize();
            let is_seized = seized.is_ok();
            let _told = told.send(seized);
            if is_seized { work.run() } else { Ok(None) }
        });
        seized.recv().context("the tracer has ended")??;
        Ok(Self {
            pid,
            shared,
            thread: Some(thread),
        })
    }

    /// How many calls there were so far.
    pub(super) fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Acquire)
    }

    /// Whether the n-th call was reached.
    pub(super) fn has_acted(&self) -> bool {
        self.shared.has_acted.load(Ordering::Acquire)
    }

    /// Lets go of the process; what was seen.
    pub(super) fn end(mut self) -> Result<Seen> {
        let acted = self.join()?;
        Ok(Seen {
            calls: self.calls(),
            acted,
        })
    }

    fn join(&mut self) -> Result<Option<String>> {
        let Some(thread) = self.thread.take() else {
            return Ok(None);
        };
        self.shared.must_end.store(true, Ordering::Release);
        while !thread.is_finished() {
            // Any signal stops a traced thread, so the tracer wakes; this one means nothing to the process.
            // SAFETY: kill takes two numbers.
            let _gone = unsafe { libc::kill(self.pid, libc::SIGURG) };
            thread::sleep(std::time::Duration::from_millis(2));
        }
        thread.join().map_err(|_| anyhow!("the tracer panicked"))?
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _told = self.join();
    }
}

/// The tracer's own thread.
struct Work {
    pid: i32,
    act: Act,
    shared: Arc<Shared>,
    tasks: BTreeSet<i32>,
    /// The thread whose call fails, until that call has answered.
    failing: Option<i32>,
    acted: Option<String>,
}

impl Work {
    /// Seizes and stops all threads; the new ones of a seized thread are seized by the kernel.
    fn seize(&mut self) -> Result<()> {
        loop {
            let mut is_new = false;
            for entry in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
                let task: i32 = entry?.file_name().to_string_lossy().parse()?;
                if self.tasks.contains(&task) {
                    continue;
                }
                let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
                match ptrace(libc::PTRACE_SEIZE, task, 0, options as usize) {
                    Ok(()) => {
                        ptrace(libc::PTRACE_INTERRUPT, task, 0, 0)?;
                        self.tasks.insert(task);
                        is_new = true;
                    }
                    // It ended, or came from a seized one a moment ago.
                    Err(cause) if matches!(cause.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => {}
                    Err(cause) => return Err(cause).context("could not trace"),
                }
            }
            if !is_new {
                return Ok(());
            }
        }
    }

    /// Follows all threads until they have ended or are let go.
    fn run(&mut self) -> Result<Option<String>> {
        while let Some((task, status)) = wait()? {
            if !libc::WIFSTOPPED(status) {
                self.tasks.remove(&task);
                continue;
            }
            self.tasks.insert(task);
            let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
            if self.shared.must_end.load(Ordering::Acquire) && self.failing != Some(task) {
                let passed = if event == 0 && signal < libc::SIGTRAP | 0x80 && signal != libc::SIGURG {
                    signal
                } else {
                    0
                };
                // A thread that a SIGKILL took meanwhile cannot be let go and need not be.
                let _gone = ptrace(libc::PTRACE_DETACH, task, 0, passed.cast_unsigned() as usize);
                self.tasks.remove(&task);
                if self.tasks.is_empty() {
                    break;
                }
                for other in &self.tasks {
                    let _gone = ptrace(libc::PTRACE_INTERRUPT, *other, 0, 0);
                }
                continue;
            }
            self.stopped(task, signal, event)?;
        }
        Ok(self.acted.take())
    }

    fn stopped(&mut self, task: i32, signal: i32, event: i32) -> Result<()> {
        const SYSCALL: i32 = libc::SIGTRAP | 0x80;
        let go_on = |request, passed: i32| match ptrace(request, task, 0, passed.cast_unsigned() as usize) {
            Err(cause) if cause.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.context("could not let a thread go on"),
        };
        match (signal, event) {
            (SYSCALL, _) => {
                if self.at_call(task)? {
                    go_on(libc::PTRACE_SYSCALL, 0)
                } else {
                    Ok(())
                }
            }
            (libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU, libc::PTRACE_EVENT_STOP) => {
                go_on(libc::PTRACE_LISTEN, 0)
            }
            (_, 0) => go_on(libc::PTRACE_SYSCALL, signal),
            (_, _) => go_on(libc::PTRACE_SYSCALL, 0),
        }
    }

    /// At the entry or exit of a call; whether the thread goes on.
    fn at_call(&mut self, task: i32) -> Result<bool> {
        const ENTRY: u64 = 1;
        let Some(info) = call_info(task)? else {
            return Ok(true);
        };
        if info[0] & 0xff != ENTRY {
            if self.failing == Some(task)
                && let Act::Fail { errno, .. } = self.act
            {
                self.failing = None;
                answer(task, -i64::from(errno))?;
            }
            return Ok(true);
        }
        let Some(call) = Call::of(self.pid, info[3], &info[4..10]) else {
            return Ok(true);
        };
        let at = match self.act {
            Act::Kill { at } => at,
            Act::Fail { at, .. } if call.reaches_disk() => at,
            Act::Shorten { at } if call.may_be_short() => at,
            Act::Fail { .. } | Act::Shorten { .. } => return Ok(true),
        };
        let number = self.shared.calls.fetch_add(1, Ordering::AcqRel) + 1;
        if number != at {
            return Ok(true);
        }
        self.acted = Some(call.to_string());
        match self.act {
            Act::Kill { .. } => {
                // SAFETY: kill takes two numbers.
                let _gone = unsafe { libc::kill(self.pid, libc::SIGKILL) };
                self.shared.has_acted.store(true, Ordering::Release);
                return Ok(false);
            }
            Act::Fail { .. } => {
                skip(task)?;
                self.failing = Some(task);
                self.shared.has_acted.store(true, Ordering::Release);
            }
            Act::Shorten { .. } => {
                shorten(task)?;
                self.shared.has_acted.store(true, Ordering::Release);
            }
        }
        Ok(true)
    }
}

/// The next thread of ours that stopped or ended; nothing when there is none left.
fn wait() -> Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one number. Only what this thread traces is waited for, so no child of the test is lost.
        let task = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if task > 0 {
            return Ok(Some((task, status)));
        }
        let cause = io::Error::last_os_error();
        match cause.raw_os_error() {
            Some(libc::ECHILD) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(cause).context("could not wait for a traced thread"),
        }
    }
}

fn ptrace(request: libc::c_uint, task: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests this is used with take numbers.
    let answer = unsafe { libc::ptrace(request, task, address, data) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `struct ptrace_syscall_info` as words: kind in the first, number in the fourth, then six arguments.
fn call_info(task: i32) -> Result<Option<[u64; 11]>> {
    const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
    let mut info = [0_u64; 11];
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes into `info`.
    let written = unsafe { libc::ptrace(GET_SYSCALL_INFO, task, size, info.as_mut_ptr()) };
    if written > 0 {
        return Ok(Some(info));
    }
    let cause = io::Error::last_os_error();
    if cause.raw_os_error() == Some(libc::ESRCH) {
        return Ok(None);
    }
    Err(cause).context("could not read a system call")
}

/// Makes the call that a thread is about to do one that does not exist.
#[cfg(target_arch = "x86_64")]
fn skip(task: i32) -> Result<()> {
    change(task, |registers| registers.orig_rax = u64::MAX)
}

/// Makes the call that a thread is about to do write half as much.
#[cfg(target_arch = "x86_64")]
fn shorten(task: i32) -> Result<()> {
    change(task, |registers| registers.rdx = (registers.rdx / 2).max(1))
}

/// Makes the call that a thread has just done answer with that.
#[cfg(target_arch = "x86_64")]
fn answer(task: i32, value: i64) -> Result<()> {
    change(task, |registers| registers.rax = value.cast_unsigned())
}

#[cfg(target_arch = "x86_64")]
fn change(task: i32, with: impl FnOnce(&mut libc::user_regs_struct)) -> Result<()> {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    // SAFETY: the kernel fills the whole structure; zeroes are a valid one too.
    let mut registers = unsafe {
        if libc::ptrace(libc::PTRACE_GETREGS, task, 0, registers.as_mut_ptr()) < 0 {
            bail!("could not read registers: {}", io::Error::last_os_error());
        }
        registers.assume_init()
    };
    with(&mut registers);
    // SAFETY: the kernel reads one structure.
    if unsafe { libc::ptrace(libc::PTRACE_SETREGS, task, 0, &raw const registers) } < 0 {
        bail!("could not write registers: {}", io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn skip(_: i32) -> Result<()> {
    bail!("changing system calls is written for x86-64 only")
}

#[cfg(not(target_arch = "x86_64"))]
fn shorten(_: i32) -> Result<()> {
    bail!("changing system calls is written for x86-64 only")
}

#[cfg(not(target_arch = "x86_64"))]
fn answer(_: i32, _: i64) -> Result<()> {
    bail!("changing system calls is written for x86-64 only")
}
