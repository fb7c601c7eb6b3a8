//! The clock of one installation.
//!
//! Lives here: where the moment of a transaction comes from. Does not live here: deciding by it (`plan`: time is an
//! argument), how long something may block a thread.
//! Invariant: it is read before a transaction begins and never inside one, so a clock that does not come back leaves
//! nothing half written.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use model::Timestamp;
use store::Now;

/// Tells the time: the machine's, or one that a simulation moves.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Now + Send + Sync>);

impl Clock {
    /// A clock that reads so.
    #[must_use]
    pub fn new(read: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Both clocks, read once.
    pub(crate) fn now(&self) -> Now {
        (self.0)()
    }
}

impl Default for Clock {
    /// The machine's.
    fn default() -> Self {
        Self::new(machine)
    }
}

fn machine() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    Now {
        wall_ms: Timestamp::now().as_ms(),
        mono_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}
