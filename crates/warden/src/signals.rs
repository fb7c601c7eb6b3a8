//! Waiting for signals instead of being interrupted by them.
//!
//! Lives here: blocking the signals the warden handles, and waiting for one with a limit.
//! Does not live here: what a signal means (`supervise`).
//! Invariant: no handler runs, ever; a signal is read like any other input, between two steps of the loop.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// A signal the warden reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A child changed state.
    Child,
    /// Stop (SIGINT, SIGTERM, SIGHUP).
    Stop(i32),
    /// Go over to another binary (SIGUSR2).
    Upgrade,
}

/// The signals blocked for as long as this lives.
pub(crate) struct Signals {
    wanted: libc::sigset_t,
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks them in this thread, and thereby in the process: the warden has one thread.
    pub(crate) fn block() -> std::io::Result<Signals> {
        let mut wanted = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set it is given; sigaddset gets that set and valid signal numbers;
        // pthread_sigmask reads the one and initialises the other. All pointers outlive the calls.
        unsafe {
            libc::sigemptyset(wanted.as_mut_ptr());
            for number in [libc::SIGCHLD, libc::SIGTERM, libc::SIGUSR2] {
                libc::sigaddset(wanted.as_mut_ptr(), number);
            }
            for number in [libc::SIGINT, libc::SIGHUP] {
                if !is_ignored(number) {
                    libc::sigaddset(wanted.as_mut_ptr(), number);
                }
            }
            let code = libc::pthread_sigmask(libc::SIG_BLOCK, wanted.as_ptr(), before.as_mut_ptr());
            if code != 0 {
                return Err(std::io::Error::from_raw_os_error(code));
            }
            Ok(Signals {
                wanted: wanted.assume_init(),
                before: before.assume_init(),
            })
        }
    }

    /// The next signal, or `None` when `limit` has passed (no limit: waits for ever).
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Option<Signal> {
        let limit = limit.map(|l| libc::timespec {
            tv_sec: libc::time_t::try_from(l.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: l.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set is initialised, the info pointer may be null, the limit is null or points to a live timespec.
        let number = unsafe { libc::sigtimedwait(&raw const self.wanted, std::ptr::null_mut(), limit) };
        match number {
            libc::SIGCHLD => Some(Signal::Child),
            libc::SIGUSR2 => Some(Signal::Upgrade),
            // EAGAIN (the limit passed) and EINTR: the caller's loop looks at the clock again either way.
            n if n < 0 => None,
            n => Some(Signal::Stop(n)),
        }
    }
}

/// Whether whoever started us has it ignored (`nohup`, a script's `&`). The kernel discards an ignored signal only while
/// it is not blocked: blocked, it would wait for us and end what was to outlive its terminal.
fn is_ignored(number: libc::c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null action changes nothing; the kernel initialises `now` when it returns 0.
    unsafe {
        libc::sigaction(number, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Lets the child be signalled: a blocked signal stays blocked through `exec`, and the child would be deaf to SIGTERM.
pub(crate) fn unblock_in_child(command: &mut Command) {
    let unblock = || {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that pthread_sigmask then reads.
        let code = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
        };
        if code == 0 {
            Ok(())
        } else {
            Err(std::io::Error::from_raw_os_error(code))
        }
    };
    // SAFETY: between fork and exec the closure only calls two async-signal-safe functions, and allocates nothing.
    unsafe {
        command.pre_exec(unblock);
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: `before` was initialised by the kernel in `block`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}
