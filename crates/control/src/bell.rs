//! Wakes the reconcilers. Only a hint: they look by themselves every now and then.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Something to ring and to wait on. Rings between two waits are not lost.
#[derive(Default)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// Wakes whoever waits.
    pub fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_all();
    }

    /// Waits until it was rung since `seen`, at most `timeout`. Returns the number to pass next time.
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let (rings, _) = self
            .rung
            .wait_timeout_while(rings, timeout, |rings| *rings == seen)
            .unwrap_or_else(PoisonError::into_inner);
        *rings
    }
}
