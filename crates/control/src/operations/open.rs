//! The operations that have not settled, told without reading all that ever were.
//!
//! Lives here: what a look last knew of them, brought up to a transaction's own revision by the log.
//! Does not live here: deciding about them (`reconcile`).
//! Invariant: only what is committed is kept; what a transaction adds by itself is added for it alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use model::{Operation, OperationId};
use store::{ReadTx, Row, StoreError};

use crate::ControlError;

/// Beyond so many changes since, all operations are read instead.
const FEW: usize = 500;

/// What was known last.
#[derive(Debug, Default)]
pub struct Open(Mutex<Known>);

#[derive(Debug, Default, Clone)]
struct Known {
    rev: u64,
    operations: BTreeMap<OperationId, Operation>,
}

impl Open {
    /// Keeps what was committed with a revision.
    pub(crate) fn learn(&self, rev: u64, operations: &BTreeMap<OperationId, Operation>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.rev = rev;
        known.operations.clone_from(operations);
    }

    /// All that have not settled, oldest first, as a transaction sees them. A corrupt one is as the log has it last.
    pub(crate) fn at(&self, tx: &ReadTx) -> Result<Vec<Operation>, ControlError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let operations = match brought_up(known, tx)? {
            Some(operations) => operations,
            None => crate::transact::all::<Operation>(tx)?
                .0
                .into_iter()
                .map(|operation| (operation.id, operation))
                .collect(),
        };
        Ok(operations
            .into_values()
            .filter(|operation| !operation.state.is_settled())
            .collect())
    }
}

/// Nothing when the log cannot tell, or has too much to tell.
fn brought_up(
    mut known: Known,
    tx: &ReadTx,
) -> Result<Option<BTreeMap<OperationId, Operation>>, ControlError> {
    let end = tx.rev()?;
    if known.rev == 0 || end.saturating_sub(known.rev) > FEW as u64 {
        return Ok(None);
    }
    let changes = match tx.changes_since(known.rev, FEW) {
        Ok(changes) => changes,
        Err(StoreError::Compacted { .. } | StoreError::Corrupt { .. } | StoreError::Unreadable { .. }) => {
            return Ok(None);
        }
        Err(cause) => return Err(cause.into()),
    };
    for change in changes.iter().filter(|change| change.kind == Operation::KIND) {
        crate::transact::put(&mut known.operations, change, |operation: &Operation| {
            operation.id
        })?;
    }
    Ok(Some(known.operations))
}
