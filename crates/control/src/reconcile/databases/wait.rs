//! Waiting for the servers of databases.

use std::time::{Duration, Instant};

use model::{Condition, Database, DatabaseId, Instance, InstanceId};
use store::rows::poolers_of;

use super::{RUNS_WITHIN, STOP_GRACE};
use crate::{Control, ControlError};

/// How much longer a server may take that reads its data first.
const READS_WITHIN: Duration = Duration::from_secs(600);

/// The instance that runs, waited for.
pub(super) fn running(control: &Control, id: DatabaseId) -> Result<InstanceId, ControlError> {
    running_while(control, id, &|| Ok(()))
}

/// The same, as long as it is to go on.
pub(super) fn running_while(
    control: &Control,
    id: DatabaseId,
    go_on: &dyn Fn() -> Result<(), ControlError>,
) -> Result<InstanceId, ControlError> {
    let until = Instant::now() + RUNS_WITHIN;
    // It may sleep.
    crate::databases::knock(control, id)?;
    loop {
        let (rev, found, row) = control.read(|tx| {
            let row = tx.get::<Database>(&id.to_string())?.map(|found| found.row);
            Ok((tx.rev()?, tx.list::<Instance>(&id.to_string())?, row))
        })?;
        // One that is about to fall asleep may be ended at any moment.
        let is_awake = row.as_ref().is_none_or(|row| row.asleep.is_none());
        // A Valkey reads all it has before it answers.
        let is_reading = row.is_some_and(|row| row.engine.valkey().is_some())
            && found
                .iter()
                .any(|v| matches!(v.row.condition, Condition::Starting { .. }) && v.row.address.is_some());
        let ready = found
            .iter()
            .map(|v| &v.row)
            .find(|i| is_awake && matches!(i.condition, Condition::Ready { .. }));
        if let Some(instance) = ready {
            return Ok(instance.id);
        }
        let until = if is_reading { until + READS_WITHIN } else { until };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let last = found.last().map(|v| format!("{:?}", v.row.condition));
            return Err(ControlError::State {
                message: format!(
                    "its server did not start: {}",
                    last.unwrap_or_else(|| "never tried".to_owned())
                ),
                next_step: "see its state: stoa db info NAME, and the machine's: stoa doctor; then try again"
                    .to_owned(),
            });
        }
        go_on()?;
        control.store.wait_change(rev, left.min(Duration::from_secs(1)));
    }
}

/// Waits until no server of a database that is not wanted lives.
pub(super) fn ended(control: &Control, id: DatabaseId) -> Result<(), ControlError> {
    ended_while(control, id, &|| Ok(()))
}

/// The same, as long as it is to go on.
pub(super) fn ended_while(
    control: &Control,
    id: DatabaseId,
    go_on: &dyn Fn() -> Result<(), ControlError>,
) -> Result<(), ControlError> {
    let until = Instant::now() + STOP_GRACE + RUNS_WITHIN;
    loop {
        let (rev, found) = control.read(|tx| Ok((tx.rev()?, tx.list::<Instance>(&id.to_string())?)))?;
        if !found.iter().any(|v| v.row.condition.is_live()) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(ControlError::State {
                message: "its server did not end in time".to_owned(),
                next_step: "see the host: stoa doctor".to_owned(),
            });
        }
        go_on()?;
        control.store.wait_change(rev, Duration::from_secs(1));
    }
}

/// Waits until no pooler of a database that is to have none lives, for so long at most. Says whether none does.
pub(super) fn without_pooler(
    control: &Control,
    id: DatabaseId,
    within: Duration,
) -> Result<bool, ControlError> {
    let until = Instant::now() + within;
    loop {
        let (rev, found) = control.read(|tx| Ok((tx.rev()?, tx.list::<Instance>(&poolers_of(id))?)))?;
        if !found.iter().any(|v| v.row.condition.is_live()) {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        control.store.wait_change(rev, left.min(Duration::from_secs(1)));
    }
}
