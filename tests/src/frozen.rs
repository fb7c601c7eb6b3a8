//! One thread of a process that stands still while the others go on.
//!
//! Lives here: stopping it and letting it go. Does not live here: what is expected of its process (the journeys).
//! Invariant: the kernel lets go of the thread when its tracer ends, so nothing stays frozen after a test.

use std::io;

use anyhow::{Result, ensure};

/// A thread that does not run while this lives. Only the thread that made it may use it.
#[derive(Debug)]
pub struct Frozen {
    tid: i32,
}

impl Frozen {
    /// Stops it.
    ///
    /// # Errors
    /// When the kernel refuses.
    #[allow(unsafe_code)]
    pub fn new(tid: i32) -> Result<Self> {
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: stops one thread of another process; nothing of this process is touched.
            let done = unsafe { libc::ptrace(request, tid, none, none) };
            ensure!(
                done == 0,
                "thread {tid} cannot be stopped: {}",
                io::Error::last_os_error()
            );
        }
        Ok(Self { tid })
    }

    /// A traced thread is dead only when its tracer has seen it die; before that its process cannot be reaped.
    #[allow(unsafe_code)]
    pub fn see(&self) {
        // SAFETY: asks about our own tracee, without waiting.
        unsafe {
            libc::waitpid(self.tid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
        }
    }
}

impl Drop for Frozen {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        self.see();
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: lets our own tracee go; one that is gone has left nothing to let go.
        unsafe {
            libc::ptrace(libc::PTRACE_DETACH, self.tid, none, none);
        }
    }
}
