//! Getting to the server of a database, which may sleep.

use std::time::{Duration, Instant};

use model::{Condition, Database, DatabaseId, Instance, Name};
use store::ReadTx;

use super::need_active;
use crate::{Control, ControlError};

/// How long somebody waits for a server that wakes.
const WAKES_WITHIN: Duration = Duration::from_secs(60);

/// The server of a database as it was found.
pub(super) struct Server {
    database: Database,
    instance: Option<Instance>,
}

impl Server {
    /// The one that runs, or that would when somebody comes.
    ///
    /// # Errors
    /// `State` when the database is not active, or its server does not run and does not sleep either.
    pub(super) fn of(tx: &ReadTx, database: Database) -> Result<Self, ControlError> {
        need_active(&database)?;
        let instance = live(tx, database.id)?;
        if instance.is_none() && database.idle_stop.is_none() {
            return Err(not_running(&database.name));
        }
        Ok(Self { database, instance })
    }

    /// The instance of the server, woken when it sleeps.
    ///
    /// # Errors
    /// `State` when it does not wake in time.
    pub(super) fn awake(self, control: &Control) -> Result<Instance, ControlError> {
        let Self { database, instance } = self;
        if database.idle_stop.is_none() {
            return instance.ok_or_else(|| not_running(&database.name));
        }
        control.engine.use_door(&database.id.to_string())?;
        control.bell.ring();
        let until = Instant::now() + WAKES_WITHIN;
        loop {
            let (rev, row, instance) = control.read(|tx| {
                let row = tx.need::<Database>(&database.id.to_string())?.row;
                let instance = live(tx, row.id)?;
                Ok((tx.rev()?, row, instance))
            })?;
            need_active(&row)?;
            // One that is about to fall asleep may be ended at any moment.
            if let Some(instance) = instance.filter(|one| row.asleep.is_none() && is_up(one)) {
                return Ok(instance);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(not_running(&database.name));
            }
            control.store.wait_change(rev, left.min(Duration::from_secs(1)));
        }
    }
}

/// Counts as somebody who came to a database, if it is one that sleeps when nobody does.
pub(crate) fn knock(control: &Control, id: DatabaseId) -> Result<(), ControlError> {
    let found = control.read(|tx| Ok(tx.get::<Database>(&id.to_string())?))?;
    if found.is_some_and(|found| found.row.idle_stop.is_some()) {
        control.engine.use_door(&id.to_string())?;
        control.bell.ring();
    }
    Ok(())
}

/// Whether it takes sessions, or did.
fn is_up(instance: &Instance) -> bool {
    match instance.condition {
        Condition::Ready { .. } | Condition::Unready { .. } => true,
        Condition::Starting { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. }
        | Condition::Exited { .. } => false,
    }
}

fn live(tx: &ReadTx, id: DatabaseId) -> Result<Option<Instance>, ControlError> {
    let instances = tx.list::<Instance>(&id.to_string())?;
    let mut rows = instances.into_iter().map(|found| found.row);
    Ok(rows.find(|one| one.condition.is_live()))
}

pub(super) fn not_running(name: &Name) -> ControlError {
    ControlError::State {
        message: format!("the instance of {name} does not run at the moment"),
        next_step: format!("see why: stoa db info {name}"),
    }
}
