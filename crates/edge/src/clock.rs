//! Deadlines that cost a store, not a timer.
//!
//! Lives here: each thread's coarse clock, and the watch every connection has on itself.
//! Does not live here: which deadline applies (`request`, `forward`).
//! Invariant: a deadline passes at most one tick late, and whoever waits under it is woken. Arming it on every request
//! costs nothing measurable, where a timer per request costs a lock and two list operations.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// The clock's step. All limits are seconds; being late by this is nothing.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The step while there are no connections; still several heartbeats within the watchdog's patience.
pub(crate) const IDLE_TICK: Duration = Duration::from_millis(500);

/// A thread's clock and the watches on it.
#[derive(Debug)]
pub(crate) struct Clock {
    origin: Instant,
    now_ms: Cell<u64>,
    watches: RefCell<Vec<Option<Rc<Inner>>>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// 0: not armed.
    deadline_ms: Cell<u64>,
    expired: Cell<bool>,
    /// Between two requests: nothing is lost when it ends now.
    idle: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Clock {
    pub(crate) fn new() -> Rc<Clock> {
        Rc::new(Clock {
            origin: Instant::now(),
            now_ms: Cell::new(1),
            watches: RefCell::default(),
            free: RefCell::default(),
        })
    }

    /// Milliseconds since the thread began, as of the last tick.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Looks at the real clock and wakes everybody whose time is up.
    pub(crate) fn tick(&self) {
        self.refresh();
        self.expire_due();
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(crate) fn pass(&self, ms: u64) {
        self.now_ms.set(self.now_ms.get() + ms);
        self.expire_due();
    }

    fn expire_due(&self) {
        let now = self.now_ms.get();
        self.expire(|inner| inner.deadline_ms.get() != 0 && inner.deadline_ms.get() <= now);
    }

    /// Ends every idle connection.
    pub(crate) fn end_idle(&self) {
        self.expire(|inner| inner.idle.get());
    }

    fn expire(&self, is_due: impl Fn(&Inner) -> bool) {
        for inner in self
            .watches
            .borrow()
            .iter()
            .flatten()
            .filter(|inner| is_due(inner))
        {
            inner.deadline_ms.set(0);
            inner.expired.set(true);
            if let Some(waker) = inner.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Looks at the real clock only.
    pub(crate) fn refresh(&self) {
        self.now_ms
            .set(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX) + 1);
    }

    pub(crate) fn watch(self: &Rc<Clock>) -> Watch {
        let inner = Rc::new(Inner::default());
        let mut watches = self.watches.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or(watches.len());
        if slot == watches.len() {
            watches.push(None);
        }
        watches[slot] = Some(inner.clone());
        Watch {
            inner,
            slot,
            clock: self.clone(),
        }
    }
}

/// One connection's deadline.
#[derive(Debug)]
pub(crate) struct Watch {
    inner: Rc<Inner>,
    slot: usize,
    clock: Rc<Clock>,
}

impl Watch {
    /// Sets the deadline, replacing an earlier one.
    pub(crate) fn arm(&self, limit: Duration) {
        self.arm_ms(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    }

    /// As [`Watch::arm`], for a connection between two requests.
    pub(crate) fn arm_idle(&self, limit: Duration) {
        self.arm(limit);
        self.inner.idle.set(true);
    }

    pub(crate) fn arm_ms(&self, limit_ms: u64) {
        self.inner.expired.set(false);
        self.inner.idle.set(false);
        self.inner
            .deadline_ms
            .set(self.clock.now_ms().saturating_add(limit_ms).max(1));
    }

    /// To be called whenever something is about to wait: fails when the time is up, else has the task woken then.
    pub(crate) fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.inner.expired.get() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut waker = self.inner.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.clock.watches.borrow_mut()[self.slot] = None;
        self.clock.free.borrow_mut().push(self.slot);
    }
}
