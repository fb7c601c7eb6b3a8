//! Ends the process when a serving thread no longer moves.
//!
//! Lives here: noticing, the dump, the end.
//! Does not live here: the heartbeat (`worker`), starting again (the warden).
//! Invariant: noticing takes no lock and allocates nothing, because the stalled thread may hold the allocator's lock; and
//! from the decision on, the kernel ends the process even if the dump gets stuck.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::process::LOOK;

/// Time for the dump.
const DUMP_S: u32 = 5;

/// One thread, watched.
#[derive(Debug)]
pub(crate) struct Pulse {
    tid: Arc<AtomicI32>,
    heartbeat: Arc<AtomicU64>,
    seen: u64,
    still: u32,
}

impl Pulse {
    pub(crate) fn new(tid: Arc<AtomicI32>, heartbeat: Arc<AtomicU64>) -> Pulse {
        Pulse {
            tid,
            heartbeat,
            seen: u64::MAX,
            still: 0,
        }
    }

    /// Counts the looks in a row that found it where it was.
    fn look(&mut self) {
        let beat = self.heartbeat.load(Ordering::Relaxed);
        self.still = if beat == self.seen {
            self.still.saturating_add(1)
        } else {
            0
        };
        self.seen = beat;
    }
}

/// Counts looks without a heartbeat. Looks, not seconds: a machine that was asleep has no stalled threads.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pulses: Vec<Pulse>,
    looks_allowed: u32,
    state_dir: PathBuf,
}

impl Watchdog {
    pub(crate) fn new(pulses: Vec<Pulse>, limit: Duration, state_dir: PathBuf) -> Watchdog {
        let looks_allowed = u32::try_from(limit.as_millis() / LOOK.as_millis())
            .unwrap_or(u32::MAX)
            .max(1);
        Watchdog {
            pulses,
            looks_allowed,
            state_dir,
        }
    }

    /// Looks at every thread; does not return when one is stalled.
    pub(crate) fn look(&mut self) {
        if self.is_any_stalled() {
            self.end();
        }
    }

    fn is_any_stalled(&mut self) -> bool {
        // Every thread is looked at, also after the first that is stalled: the dump tells them apart.
        self.pulses.iter_mut().for_each(Pulse::look);
        self.pulses.iter().any(|pulse| pulse.still >= self.looks_allowed)
    }

    fn end(&self) -> ! {
        end_after(DUMP_S);
        let mut dump = format!("edge {} has a stalled thread\n", std::process::id());
        for pulse in &self.pulses {
            let tid = pulse.tid.load(Ordering::Relaxed);
            let state = if pulse.still >= self.looks_allowed {
                "stalled"
            } else {
                "moving"
            };
            // Writing to a String cannot fail.
            let _written = writeln!(dump, "=== thread {tid}: {state}");
            for name in ["status", "wchan", "syscall", "stack"] {
                let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/{name}"));
                let _written = writeln!(dump, "--- {name}\n{}", text.unwrap_or_else(|e| e.to_string()));
            }
        }
        // Not synced: after a stall the disk may be what is slow, and the next edge waits for this one's end.
        let _best_effort = std::fs::write(self.state_dir.join("stalled.txt"), dump);
        tracing::error!("a serving thread is stalled; ending the process so that it is replaced");
        std::process::abort();
    }
}

/// Has the kernel end the process after that many seconds (SIGALRM, which nobody here handles).
#[allow(unsafe_code)]
fn end_after(seconds: u32) {
    // SAFETY: takes a number and touches no memory of ours.
    unsafe {
        libc::alarm(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_that_stays_still_is_stalled() {
        let beats: Vec<Arc<AtomicU64>> = (0..2).map(|_| Arc::default()).collect();
        let pulses = beats
            .iter()
            .map(|beat| Pulse::new(Arc::default(), beat.clone()))
            .collect();
        let mut watchdog = Watchdog::new(pulses, LOOK * 2, PathBuf::new());
        assert!(!watchdog.is_any_stalled());
        for _ in 0..5 {
            beats[0].fetch_add(1, Ordering::Relaxed);
            beats[1].fetch_add(1, Ordering::Relaxed);
            assert!(!watchdog.is_any_stalled());
        }
        beats[0].fetch_add(1, Ordering::Relaxed);
        assert!(!watchdog.is_any_stalled());
        beats[0].fetch_add(1, Ordering::Relaxed);
        assert!(watchdog.is_any_stalled());
    }
}
