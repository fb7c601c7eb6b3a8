//! How a simulated program behaves.

use model::{Exit, Millis};

/// How workloads of one image behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Ready that long after the start; `None` never.
    pub ready_after: Option<Millis>,
    /// Ends that long after the start, and how.
    pub exits: Option<(Millis, Exit)>,
    /// Ends that long after it was asked to; `None` ignores the request until the grace is over.
    pub obeys_after: Option<Millis>,
    /// Cannot be started at all, with this reason.
    pub refuses: Option<String>,
    /// Its check fails again and again: the last part of each period, both counted from the start.
    pub flaps: Option<(Millis, Millis)>,
}

impl Default for Behaviour {
    /// Ready at once, never ends by itself, obeys at once.
    fn default() -> Self {
        Self {
            ready_after: Some(Millis::new(0)),
            exits: None,
            obeys_after: Some(Millis::new(0)),
            refuses: None,
            flaps: None,
        }
    }
}

impl Behaviour {
    /// Whether the check of a workload that is so old succeeds.
    pub(super) fn is_ready(&self, age: Millis) -> bool {
        let is_down = self.flaps.is_some_and(|(period, down)| {
            age.as_ms() % period.as_ms().max(1) + down.as_ms() >= period.as_ms()
        });
        self.ready_after.is_some_and(|after| after <= age) && !is_down
    }

    /// The next age at which the check may say something else.
    pub(super) fn next_change(&self, age: Millis) -> Option<Millis> {
        let after = self.ready_after.filter(|after| *after > age);
        let flip = self.flaps.map(|(period, down)| {
            let (period, down) = (period.as_ms().max(1), down.as_ms());
            let begun = age.as_ms() / period * period;
            let falls = begun + period.saturating_sub(down);
            Millis::new(if falls > age.as_ms() {
                falls
            } else {
                begun + period
            })
        });
        after.into_iter().chain(flip).min()
    }
}
