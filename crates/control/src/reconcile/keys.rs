//! Goes over to another master key while everything goes on.
//!
//! Invariant: whatever ends it (a crash, a cancel, its deadline), every value opens; the next rotation finishes what is
//! left. Begun again after a crash, it adds no second key: the operation knows which key sealed before.

use std::time::Duration;

use model::Operation;
use model::operation::Work;
use store::{Resealing, Retired, SecretError, StoreError};

use super::workers::Job;
use crate::{ControlError, operations};

/// Between two looks whether readers let go of what shows old values.
const PAUSE: Duration = Duration::from_millis(100);

/// The work of a rotation.
pub(super) fn rotate(job: &Job) -> Result<(), ControlError> {
    let _alone = job.rotation_lock();
    job.still_wanted()?;
    let (control, store) = (&*job.control, &job.control.store);
    let operation = control.read(|tx| Ok(tx.need::<Operation>(&job.operation.to_string())?.row))?;
    let Work::RotateKey { from } = &operation.work else {
        return Ok(());
    };
    if store.key_ids().last() == Some(from) {
        operations::step(control, job.operation, "adding a key")?;
        let id = match store.add_key(control.clock.now()) {
            // Rotations that never ended filled the file: what they left is done first.
            Err(StoreError::Secret(SecretError::TooManyKeys { .. })) => {
                reseal(job)?;
                retire(job)?;
                store.add_key(control.clock.now())?
            }
            added => added?,
        };
        operations::log_line(control, job.operation, &format!("key {id} seals from now on"));
    }
    let walk = reseal(job)?;
    retire(job)?;
    let current = store.key_ids().pop().unwrap_or_default();
    let mut outcome = format!("key {current} seals; {} values were sealed again", walk.changed);
    if walk.closed > 0 {
        outcome = format!("{outcome}; {} did not open before either", walk.closed);
    }
    operations::succeed(control, job.operation, &outcome)
}

/// Seals everything with the newest key.
fn reseal(job: &Job) -> Result<Resealing, ControlError> {
    let (control, store) = (&*job.control, &job.control.store);
    let total = store.sealed_count()?;
    let mut walk = Resealing::default();
    loop {
        let step = format!("sealing again: {} of {}", walk.seen, total.max(walk.seen));
        operations::step(control, job.operation, &step)?;
        if store.reseal(control.clock.now(), &mut walk)? {
            return Ok(walk);
        }
        job.still_wanted()?;
    }
}

/// Takes the old keys out of the file.
fn retire(job: &Job) -> Result<(), ControlError> {
    let (control, store) = (&*job.control, &job.control.store);
    operations::step(control, job.operation, "retiring the old key")?;
    let refuse = |message: &str, next_step: &str| {
        Err(ControlError::State {
            message: message.to_owned(),
            next_step: next_step.to_owned(),
        })
    };
    loop {
        match store.retire_keys(control.clock.now())? {
            Retired::Done => return Ok(()),
            Retired::Needed => {
                return refuse(
                    "the new key seals, but rows that are damaged still need the old one, so it stays",
                    "end stoa up, then: stoa doctor --repair; then rotate again",
                );
            }
            Retired::Superseded => {
                return refuse(
                    "another key was added meanwhile, so the older ones stay",
                    "rotate again: stoa server rotate-key",
                );
            }
            Retired::WalInUse => {
                job.still_wanted()?;
                std::thread::sleep(PAUSE);
            }
        }
    }
}
