//! Who was asked to end by this process, so that nobody is asked twice without need.
//!
//! Invariant: a stop signal is sent again only when the first request failed, control is another process, or the grace is
//! long over. Many programs take a second one as "now, without finishing what you have".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::EngineError;
use model::{InstanceId, Millis, Timestamp};

use super::Facts;
use crate::planted::{self, Defect};
use crate::{Control, ControlError};

/// After its grace the hard stop has happened; if the instance is still there then, the request was lost.
const LATE: Duration = Duration::from_secs(10);

/// Shared between looks.
#[derive(Default, Clone)]
pub(super) struct Told(Arc<Mutex<BTreeMap<InstanceId, Timestamp>>>);

impl Told {
    fn all(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks an instance to end. May be said again at every look.
    pub(super) fn stop(
        &self,
        control: &Control,
        id: InstanceId,
        grace: Duration,
        now: Timestamp,
    ) -> Result<(), ControlError> {
        let late = Millis::new(u64::try_from((grace + LATE).as_millis()).unwrap_or(u64::MAX));
        if self
            .all()
            .get(&id)
            .is_some_and(|at| now < at.plus(late) || planted::is(Defect::StopsOnce))
        {
            return Ok(());
        }
        match control.engine.stop(id, grace) {
            Ok(()) | Err(EngineError::NotRunning(_)) => {
                self.all().insert(id, now);
                Ok(())
            }
            Err(cause) => Err(cause.into()),
        }
    }

    /// Forgets those that have ended.
    pub(super) fn forget(&self, facts: &Facts) {
        self.all().retain(|id, _| {
            let row = facts.instances.get(id);
            row.is_some_and(|row| row.condition.is_live())
        });
    }
}
