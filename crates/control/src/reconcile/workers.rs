//! Long work beside the reconciler: one worker an operation, builds at most one per core.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use model::{InstanceId, OperationId};

use crate::{Control, ControlError, operations};

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
}

#[derive(Default)]
struct State {
    busy: BTreeSet<OperationId>,
    places: BTreeSet<InstanceId>,
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
    /// Waits for a place among the builds.
    pub(crate) fn build_slot(&self) -> BuildSlot {
        let state = self.shared.state();
        let full = |state: &mut State| state.building >= self.builds;
        let mut state = self
            .shared
            .freed
            .wait_while(state, full)
            .unwrap_or_else(PoisonError::into_inner);
        state.building += 1;
        drop(state);
        BuildSlot(Arc::clone(&self.shared))
    }

    /// The right to make a template: two workers must not make the same one at once.
    pub(crate) fn template_lock(&self) -> MutexGuard<'_, ()> {
        self.shared
            .template
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a short-lived instance of this worker. It is owned as long as the process lives; what a crash
    /// leaves is an orphan and goes like any other.
    pub(crate) fn place(&self, network: &str) -> Result<databases::Place, ControlError> {
        let id = InstanceId::fresh();
        let uid_range = self.control.write(crate::workload::uid_range)?;
        self.shared.state().places.insert(id);
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

    /// Starts the work of an operation unless it is under way. An error or a panic of it settles the operation.
    pub(crate) fn start(
        &self,
        control: &Arc<Control>,
        operation: OperationId,
        work: impl FnOnce(&Job) -> Result<(), ControlError> + Send + 'static,
    ) {
        if !self.shared.state().busy.insert(operation) {
            return;
        }
        let job = Job {
            control: Arc::clone(control),
            operation,
            shared: Arc::clone(&self.shared),
            builds: self.builds,
        };
        let run = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&job)));
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
                if let Err(cause) = operations::fail(&job.control, operation, &failure) {
                    tracing::error!(%operation, %cause, "could not settle an operation; its deadline will");
                }
            }
            job.shared.state().busy.remove(&operation);
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
        self.shared.state().places.clone()
    }

    /// Whether an operation's work is under way in this process.
    pub(crate) fn is_busy(&self, operation: OperationId) -> bool {
        self.shared.state().busy.contains(&operation)
    }
}
