//! Writes down what is seen of instances. The only place that turns an observation into a condition.

use std::collections::BTreeMap;

use engine::{Observed, Phase};
use model::{Condition, Exit, Instance, InstanceId, Millis, Purpose, Timestamp};
use store::{Expect, WriteTx};

use super::Facts;
use crate::{Control, ControlError};

/// How long a row may exist without its workload: the time between intent and effect, generously.
const NEVER_SEEN: Millis = Millis::seconds(30);
/// The clock of what waits for its turn to be started begins again that often: below any grace, and rarely enough that
/// writing it down is no work.
const QUEUE_NOTED: Millis = Millis::new(500);
/// After our start the engine has to ask every adopted instance again: until then a failed check proves nothing, and
/// what was ready counts as ready.
const ADOPTION: Millis = Millis::seconds(10);

/// How long this process has been looking. What happened while nobody looked is nobody's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The first one: clocks of what is starting begin again.
    First,
    /// Adopted instances may not have been asked yet: those that were ready before the first look.
    Early {
        /// When that was.
        first: Timestamp,
    },
    /// All the others.
    Usual,
}

impl Look {
    pub(super) fn after(first: Option<Timestamp>, now: Timestamp) -> Self {
        match first {
            None => Self::First,
            Some(first) if now.since(first) < ADOPTION => Self::Early { first },
            Some(_) => Self::Usual,
        }
    }
}

pub(super) fn write_down(
    control: &Control,
    facts: &Facts,
    seen: &[Observed],
    look: Look,
    now: Timestamp,
) -> Result<(), ControlError> {
    let seen: BTreeMap<InstanceId, &Observed> = seen.iter().map(|one| (one.id, one)).collect();
    let changes: Vec<Instance> = facts
        .instances
        .values()
        .filter_map(|row| {
            let start = facts.tried.since(row.id);
            let seen = seen.get(&row.id).copied();
            next(row, seen, start, is_probed(facts, row), (look, now))
        })
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    // Rows of instances are changed by this one thread only.
    each(control, &changes, |tx, row| {
        tx.update_status(row, Expect::Any)?;
        Ok(())
    })
}

/// All in one transaction; when an object is corrupt, each in its own, so that only what is about that object stays
/// undone.
pub(super) fn each<T>(
    control: &Control,
    changes: &[T],
    change: impl Fn(&WriteTx, &T) -> Result<(), ControlError>,
) -> Result<(), ControlError> {
    let together = control.write(|tx| changes.iter().try_for_each(|one| change(tx, one)));
    match together {
        Err(cause) if cause.is_corrupt() => {}
        done => return done,
    }
    for one in changes {
        if let Some(cause) = control.write(|tx| change(tx, one)).err() {
            tracing::error!(%cause, source = ?std::error::Error::source(&cause), "something about an instance could not be written down");
        }
    }
    Ok(())
}

/// Whether it is fit only when its port says so.
fn is_probed(facts: &Facts, row: &Instance) -> bool {
    match &row.purpose {
        Purpose::Service { release, service, .. } => facts
            .releases
            .get(release)
            .and_then(|release| release.services.get(service))
            .is_some_and(|service| service.port.is_some()),
        Purpose::Database { .. } | Purpose::Pooler { .. } => true,
        Purpose::Job { .. } | Purpose::Receiver { .. } => false,
    }
}

/// The row as it should be after this observation, when that is another one.
fn next(
    row: &Instance,
    seen: Option<&Observed>,
    tried: Option<Timestamp>,
    is_probed: bool,
    (look, now): (Look, Timestamp),
) -> Option<Instance> {
    let mut next = row.clone();
    if let (Condition::Starting { since }, Look::First) = (&mut next.condition, look) {
        *since = now;
    }
    match seen {
        // It stays as it is, without an address: `start` repeats what was cut off.
        Some(seen) if is_cut_off(&next, seen, now) => {}
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
                Phase::Running { ready, .. } => {
                    running(&next.condition, ready.as_ref(), is_probed, look, now)
                }
            };
        }
        None => {
            let exit = match &next.condition {
                Condition::Starting { .. } if row.address.is_some() => Some(Exit::Lost),
                // It waits for its turn among the starts: that is no time it had.
                Condition::Starting { since } if tried.is_none() => {
                    if now.since(*since) >= QUEUE_NOTED {
                        next.condition = Condition::Starting { since: now };
                    }
                    None
                }
                // Without an address the effect may still be under way.
                Condition::Starting { since } => {
                    (now.since(*since) > NEVER_SEEN).then(|| Exit::NeverStarted {
                        why: format!("the host could not start it within {NEVER_SEEN}"),
                    })
                }
                Condition::Ready { .. }
                | Condition::Unready { .. }
                | Condition::Draining { .. }
                | Condition::Stopping { .. } => Some(Exit::Lost),
                Condition::Exited { .. } => None,
            };
            if let Some(exit) = exit {
                next.condition = Condition::Exited { at: now, exit };
            }
        }
    }
    (next != *row).then_some(next)
}

/// Whether its start was cut off, as it is when we die in the middle of it: nobody was told an address yet, and nothing
/// is known of any program of it. That is no failure of the release.
fn is_cut_off(row: &Instance, seen: &Observed, now: Timestamp) -> bool {
    let Condition::Starting { since } = row.condition else {
        return false;
    };
    let is_lost = matches!(&seen.phase, Phase::Exited { exit: Exit::Lost, .. });
    is_lost && row.address.is_none() && now.since(since) <= NEVER_SEEN
}

/// Without a port to probe, a process that runs is fit; whether it stays is the rollout's business (`plan`). With one, no
/// answer means that nobody asked yet.
fn running(
    was: &Condition,
    ready: Option<&Result<(), String>>,
    is_probed: bool,
    look: Look,
    now: Timestamp,
) -> Condition {
    let is_fit = match ready {
        Some(Ok(())) => true,
        Some(Err(_)) => false,
        None => !is_probed,
    };
    match was {
        Condition::Starting { .. } if is_fit => Condition::Ready { since: now },
        Condition::Unready { .. } if is_fit => Condition::Ready { since: now },
        Condition::Ready { since } => match (ready, look) {
            (Some(Err(_)), Look::First) => was.clone(),
            (Some(Err(_)), Look::Early { first }) if *since < first => was.clone(),
            (Some(Err(why)), Look::Early { .. } | Look::Usual) => Condition::Unready {
                since: now,
                why: why.clone(),
            },
            (Some(Ok(())) | None, _) => was.clone(),
        },
        Condition::Starting { .. }
        | Condition::Unready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. }
        | Condition::Exited { .. } => was.clone(),
    }
}

#[cfg(test)]
mod tests {
    use model::{InstanceId, Purpose};

    use super::*;

    fn starting(address: Option<std::net::Ipv4Addr>) -> Instance {
        Instance {
            id: InstanceId::fresh(),
            purpose: Purpose::Database {
                database: model::DatabaseId::fresh(),
            },
            attempt: 0,
            created_at: Timestamp::from_ms(0),
            address,
            uid_range: 0,
            excused: false,
            condition: Condition::Starting {
                since: Timestamp::from_ms(0),
            },
        }
    }

    /// What becomes of a starting instance that is seen to have ended like that, so long after it was asked for.
    fn after(address: Option<std::net::Ipv4Addr>, exit: &Exit, after: Millis) -> Condition {
        let row = starting(address);
        let now = Timestamp::from_ms(0).plus(after);
        let seen = Observed {
            id: row.id,
            address: Some([10, 0, 0, 2].into()),
            phase: Phase::Exited {
                at: now,
                exit: exit.clone(),
            },
        };
        next(&row, Some(&seen), None, true, (Look::Usual, now)).map_or(row.condition, |next| next.condition)
    }

    #[test]
    fn a_start_that_was_cut_off_is_repeated_and_no_failure() {
        let is_starting = |condition| matches!(condition, Condition::Starting { .. });
        let known = Some([10, 0, 0, 2].into());
        assert!(is_starting(after(None, &Exit::Lost, Millis::seconds(1))));
        // What had been started, what ended by itself, and what is cut off again and again count.
        assert!(!is_starting(after(known, &Exit::Lost, Millis::seconds(1))));
        assert!(!is_starting(after(
            None,
            &Exit::Code { code: 1 },
            Millis::seconds(1)
        )));
        assert!(!is_starting(after(
            None,
            &Exit::Lost,
            Millis::new(NEVER_SEEN.as_ms() + 1)
        )));
    }
}
