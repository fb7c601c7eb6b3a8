//! Writes down what is seen of instances. The only place that turns an observation into a condition.

use std::collections::BTreeMap;

use engine::{Observed, Phase};
use model::{Condition, Exit, Instance, InstanceId, Timestamp};
use store::Expect;

use crate::{Control, ControlError};

/// How long a row may exist without its workload: the time between intent and effect, generously.
const NEVER_SEEN: model::Millis = model::Millis::seconds(30);

pub(crate) fn write_down(control: &Control, seen: &[Observed], now: Timestamp) -> Result<(), ControlError> {
    let seen: BTreeMap<InstanceId, &Observed> = seen.iter().map(|one| (one.id, one)).collect();
    let rows = control.read(|tx| Ok(tx.list_all::<Instance>()?))?;
    let changes: Vec<_> = rows
        .into_iter()
        .filter_map(|found| {
            let next = next(&found.row, seen.get(&found.row.id).copied(), now)?;
            Some((next, found.rev))
        })
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    control.write(|tx| {
        for (row, rev) in &changes {
            tx.update_status(row, Expect::Rev(*rev))?;
        }
        Ok(())
    })
}

/// The row as it should be after this observation, when that is another one.
fn next(row: &Instance, seen: Option<&Observed>, now: Timestamp) -> Option<Instance> {
    let mut next = row.clone();
    match seen {
        Some(seen) => {
            next.address = seen.address.or(next.address);
            next.condition = match &seen.phase {
                Phase::Exited { at, exit } => match &row.condition {
                    Condition::Exited { .. } => row.condition.clone(),
                    Condition::Starting { .. }
                    | Condition::Ready { .. }
                    | Condition::Unready { .. }
                    | Condition::Draining { .. }
                    | Condition::Stopping { .. } => Condition::Exited {
                        at: *at,
                        exit: exit.clone(),
                    },
                },
                Phase::Running { ready, .. } => running(&row.condition, ready.as_ref(), now),
            };
        }
        None => {
            let is_lost = match &row.condition {
                // Without an address the effect may still be under way.
                Condition::Starting { since } => row.address.is_some() || now.since(*since) > NEVER_SEEN,
                Condition::Ready { .. }
                | Condition::Unready { .. }
                | Condition::Draining { .. }
                | Condition::Stopping { .. } => true,
                Condition::Exited { .. } => false,
            };
            if is_lost {
                next.condition = Condition::Exited {
                    at: now,
                    exit: Exit::Lost,
                };
            }
        }
    }
    (next != *row).then_some(next)
}

/// Without a probe, a process that runs is fit; whether it stays is the rollout's business (`plan`).
fn running(was: &Condition, ready: Option<&Result<(), String>>, now: Timestamp) -> Condition {
    let is_fit = match ready {
        Some(Ok(())) | None => true,
        Some(Err(_)) => false,
    };
    match was {
        Condition::Starting { .. } if is_fit => Condition::Ready { since: now },
        Condition::Unready { .. } if is_fit => Condition::Ready { since: now },
        Condition::Ready { .. } => match ready {
            Some(Err(why)) => Condition::Unready {
                since: now,
                why: why.clone(),
            },
            Some(Ok(())) | None => was.clone(),
        },
        Condition::Starting { .. }
        | Condition::Unready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. }
        | Condition::Exited { .. } => was.clone(),
    }
}
