//! Starts every instance whose intent is stored and whose workload is not known yet.
//!
//! Invariant: this is the only place that starts an instance of a row, so the first start, its repetition and the
//! recovery after a crash between intent and effect are one path.

use std::sync::mpsc;

use engine::{EngineError, Workload};
use model::{App, Condition, Database, Exit, Instance, Purpose, Release, Timestamp};
use store::{Expect, ReadTx};

use super::databases::volume_of;
use crate::{Control, ControlError};

/// Starts at once: more would only wait for the same kernel locks.
const AT_ONCE: usize = 4;

pub(super) fn pending(control: &Control, now: Timestamp) -> Result<(), ControlError> {
    let waiting = control.read(|tx| {
        let mut waiting = Vec::new();
        for found in tx.list_all::<Instance>()? {
            if let Condition::Starting { .. } = found.row.condition
                && found.row.address.is_none()
            {
                let workload = workload(control, tx, &found.row);
                waiting.push((found.row, workload));
            }
        }
        Ok(waiting)
    })?;
    for batch in waiting.chunks(AT_ONCE) {
        let (send, results) = mpsc::channel();
        std::thread::scope(|scope| {
            for (instance, workload) in batch {
                let send = send.clone();
                scope.spawn(move || {
                    let result = match workload {
                        Ok(workload) => control.engine.ensure(workload).map_err(ControlError::from),
                        Err(cause) => Err(ControlError::State {
                            message: crate::operations::failure_of(cause, Vec::new()).message,
                            next_step: cause.next(),
                        }),
                    };
                    drop(send.send((instance.id, result)));
                });
            }
            drop(send);
        });
        for (id, result) in results {
            let change = match result {
                Ok(address) => Ok(address),
                Err(ControlError::Engine(EngineError::NotStarted { why, .. })) => Err(why),
                Err(cause @ ControlError::State { .. }) => Err(cause.to_string()),
                Err(ControlError::Engine(
                    cause @ (EngineError::Image { .. } | EngineError::Volume { .. }),
                )) => Err(cause.to_string()),
                // The host may be short of something for a moment: tried again until the row counts as lost.
                Err(cause) => {
                    tracing::warn!(instance = %id, %cause, "could not start it yet");
                    continue;
                }
            };
            control.write(|tx| {
                let mut found = tx.need::<Instance>(&id.to_string())?;
                match change {
                    Ok(address) => found.row.address = Some(address),
                    Err(why) => {
                        found.row.condition = Condition::Exited {
                            at: now,
                            exit: Exit::NeverStarted { why },
                        };
                    }
                }
                tx.update_status(&found.row, Expect::Any)?;
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn workload(control: &Control, tx: &ReadTx, instance: &Instance) -> Result<Workload, ControlError> {
    match &instance.purpose {
        Purpose::Service { app, release, .. } | Purpose::Job { app, release, .. } => {
            let app = tx.need::<App>(&app.to_string())?.row;
            let release = tx.need::<Release>(&release.to_string())?.row;
            crate::workload::of_app(control, tx, &app, &release, instance)
        }
        Purpose::Database { database } => {
            let row = tx.need::<Database>(&database.to_string())?.row;
            let (Some(image), Some(version)) = (&row.image, &row.version) else {
                return Err(crate::authorize::missing("image", "of the database"));
            };
            Ok(databases::workload(
                &row,
                version,
                image,
                instance,
                &volume_of(row.id),
            ))
        }
    }
}
