//! Long work beside the reconciler: one worker an operation, builds at most one per core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{DatabaseId, InstanceId, Operation, OperationId};

use crate::{Control, ControlError, operations};

/// How often a waiting worker looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The workers of this process. They report through the store only; after a crash the operation is found
/// unsettled and its work begins again, so all of it is idempotent.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    builds: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    freed: Condvar,
    template: Mutex<()>,
    rotation: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Work under way, and the databases it is about.
    busy: BTreeMap<OperationId, Vec<DatabaseId>>,
    places: BTreeMap<InstanceId, OperationId>,
    building: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to build, given back when dropped.
pub(crate) struct BuildSlot(Arc<Shared>);

impl Drop for BuildSlot {
    fn drop(&mut self) {
        self.0.state().building -= 1;
        self.0.freed.notify_all();
    }
}

/// What a worker gets.
pub(crate) struct Job {
    pub(crate) control: Arc<Control>,
    pub(crate) operation: OperationId,
    shared: Arc<Shared>,
    builds: usize,
}

impl Job {
    /// Waits for a place among the builds, as long as the operation is not given up.
    pub(crate) fn build_slot(&self) -> Result<BuildSlot, ControlError> {
        let mut state = self.shared.state();
        while state.building >= self.builds {
            let (waited, _) = self
                .shared
                .freed
                .wait_timeout(state, LOOK_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
            drop(waited);
            self.still_wanted()?;
            state = self.shared.state();
        }
        state.building += 1;
        drop(state);
        Ok(BuildSlot(Arc::clone(&self.shared)))
    }

    fn is_settled(&self) -> Result<bool, ControlError> {
        let id = self.operation.to_string();
        let row = self.control.read(|tx| Ok(tx.need::<Operation>(&id)?.row))?;
        Ok(row.state.is_settled())
    }

    /// Refuses to go on once the operation is settled or is to be given up.
    pub(crate) fn still_wanted(&self) -> Result<(), ControlError> {
        let id = self.operation.to_string();
        let row = self.control.read(|tx| Ok(tx.need::<Operation>(&id)?.row))?;
        if row.cancel || row.state.is_settled() {
            return Err(ControlError::State {
                message: "given up".to_owned(),
                next_step: "try again".to_owned(),
            });
        }
        Ok(())
    }

    /// The right to make a template: two workers must not make the same one at once.
    pub(crate) fn template_lock(&self) -> MutexGuard<'_, ()> {
        self.shared
            .template
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to go over to another master key: a rotation that was given up may not have noticed yet.
    pub(crate) fn rotation_lock(&self) -> MutexGuard<'_, ()> {
        self.shared
            .rotation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a short-lived instance of this worker. It is owned as long as the worker is at work; what that or a
    /// crash leaves is an orphan and goes like any other.
    pub(crate) fn place(&self, network: &str) -> Result<databases::Place, ControlError> {
        let id = InstanceId::fresh();
        let uid_range = self.control.write(crate::workload::uid_range)?;
        self.shared.state().places.insert(id, self.operation);
        Ok(databases::Place {
            id,
            uid_range,
            network: network.to_owned(),
        })
    }
}

impl Workers {
    pub(crate) fn new(builds: usize) -> Self {
        Self {
            shared: Arc::default(),
            builds: builds.max(1),
        }
    }

    /// Starts the work of an operation unless it is under way, or work on one of the same databases is (of an operation
    /// that was given up and has not noticed). An error or a panic of it settles the operation.
    pub(crate) fn start(
        &self,
        control: &Arc<Control>,
        operation: OperationId,
        databases: &[DatabaseId],
        work: impl FnOnce(&Job) -> Result<(), ControlError> + Send + 'static,
    ) {
        {
            let mut state = self.shared.state();
            let is_shared = |others: &Vec<DatabaseId>| others.iter().any(|other| databases.contains(other));
            if state.busy.contains_key(&operation) || state.busy.values().any(is_shared) {
                return;
            }
            state.busy.insert(operation, databases.to_vec());
        }
        let job = Job {
            control: Arc::clone(control),
            operation,
            shared: Arc::clone(&self.shared),
            builds: self.builds,
        };
        let run = move || {
            let begun = || match job.is_settled()? {
                // Whoever asks for it looked before it ended: it is not done twice.
                true => Ok(()),
                false => work(&job),
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(begun));
            let failed = match result {
                Ok(Ok(())) => None,
                Ok(Err(cause)) => {
                    let tail = operations::log_tail(&job.control, operation, 20);
                    Some(operations::failure_of(&cause, tail))
                }
                Err(_) => Some(model::Failure {
                    code: "defect".to_owned(),
                    message: "a defect of Stoa ended this operation; its log has the details".to_owned(),
                    next_step: "try again; if it repeats, report it with the log of stoa up".to_owned(),
                    log_tail: Vec::new(),
                }),
            };
            if let Some(failure) = failed {
                tracing::warn!(%operation, code = failure.code, message = failure.message, "an operation failed");
                if let Err(cause) = operations::fail_unless_made(&job.control, operation, &failure) {
                    tracing::error!(%operation, %cause, "could not settle an operation; it is tried again");
                    // The store does not take anything: trying at once would only heat the processor.
                    std::thread::sleep(LOOK_EVERY);
                }
            }
            {
                let mut state = job.shared.state();
                state.places.retain(|_, of| *of != operation);
                state.busy.remove(&operation);
            }
            job.control.bell.ring();
        };
        let named = std::thread::Builder::new().name("worker".to_owned()).spawn(run);
        if let Err(cause) = named {
            tracing::error!(%cause, "could not start a worker; it is tried again");
            self.shared.state().busy.remove(&operation);
        }
    }

    /// Short-lived instances that workers own.
    pub(crate) fn places(&self) -> BTreeSet<InstanceId> {
        self.shared.state().places.keys().copied().collect()
    }
}
