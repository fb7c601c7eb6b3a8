//! Goes over to another master key while everything goes on.
//!
//! Invariant: whatever ends it (a crash, a cancel, its deadline), every value opens; the next rotation finishes what is
//! left. Begun again after a crash, it adds no second key: the operation knows which key sealed before.

use model::Operation;
use model::operation::Work;
use store::Resealing;

use super::workers::Job;
use crate::{ControlError, operations};

/// The work of a rotation.
pub(super) fn rotate(job: &Job) -> Result<(), ControlError> {
    let (control, store) = (&*job.control, &job.control.store);
    let operation = control.read(|tx| Ok(tx.need::<Operation>(&job.operation.to_string())?.row))?;
    let Work::RotateKey { from } = &operation.work else {
        return Ok(());
    };
    let step = |text: &str| operations::step(control, job.operation, text);
    if store.key_ids().last() == Some(from) {
        step("adding a key")?;
        let id = store.add_key(control.clock.now())?;
        operations::log_line(control, job.operation, &format!("key {id} seals from now on"));
    }
    let total = store.sealed_count()?;
    let mut walk = Resealing::default();
    loop {
        step(&format!(
            "sealing again: {} of {}",
            walk.seen,
            total.max(walk.seen)
        ))?;
        if store.reseal(control.clock.now(), &mut walk)? {
            break;
        }
        job.still_wanted()?;
    }
    step("retiring the old key")?;
    if !store.retire_keys()? {
        return Err(ControlError::State {
            message: "the new key seals, but rows that are damaged still need the old one, so it stays"
                .to_owned(),
            next_step: "end stoa up, then: stoa doctor --repair; then rotate again".to_owned(),
        });
    }
    let current = store.key_ids().pop().unwrap_or_default();
    let mut outcome = format!("key {current} seals; {} values were sealed again", walk.changed);
    if walk.closed > 0 {
        outcome = format!("{outcome}; {} did not open before either", walk.closed);
    }
    operations::succeed(control, job.operation, &outcome)
}
