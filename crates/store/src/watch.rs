//! Waking those who wait for a change.
//!
//! Lives here: the last committed revision, a way to wait for it, hooks for asynchronous servers.
//! Does not live here: the changes themselves (`log`).
//! Invariant: told only after the commit; the number never falls. A wake-up is a hint: the log is the truth.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Hook = Arc<dyn Fn(u64) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Notify {
    rev: Mutex<u64>,
    changed: Condvar,
    hooks: Mutex<(u64, BTreeMap<u64, Hook>)>,
}

/// Keeps a hook alive; dropping it removes the hook.
pub struct Subscription {
    notify: Arc<Notify>,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.notify
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .remove(&self.number);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscription({})", self.number)
    }
}

impl Notify {
    pub(crate) fn publish(&self, rev: u64) {
        {
            let mut last = self.rev.lock().unwrap_or_else(PoisonError::into_inner);
            if *last >= rev {
                return;
            }
            *last = rev;
            self.changed.notify_all();
        }
        let hooks: Vec<Hook> = self
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .values()
            .cloned()
            .collect();
        for hook in hooks {
            hook(rev);
        }
    }

    pub(crate) fn rev(&self) -> u64 {
        *self.rev.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait(&self, seen: u64, limit: Duration) -> u64 {
        let deadline = Instant::now() + limit;
        let mut last = self.rev.lock().unwrap_or_else(PoisonError::into_inner);
        while *last <= seen {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            last = self
                .changed
                .wait_timeout(last, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *last
    }

    pub(crate) fn subscribe(self: &Arc<Self>, hook: Hook) -> Subscription {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.0 += 1;
        let number = hooks.0;
        hooks.1.insert(number, hook);
        Subscription {
            notify: Arc::clone(self),
            number,
        }
    }
}
