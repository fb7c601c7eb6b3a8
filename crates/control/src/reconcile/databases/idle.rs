//! Databases that nobody uses fall asleep, and wake when somebody comes.
//!
//! ```text
//! awake -> nobody for so long, no session -> the door leads nowhere: who comes waits -> still nobody, no session
//!   -> the server ends, asleep -> somebody at the door -> the server starts -> the door leads to it
//! ```
//! Invariants: a server is ended only after its door led nowhere and a later look found nobody inside, so that no session
//! is cut; whoever comes at any moment is let in or waited for; who is at the door counts for what the door's file says, not
//! for what a clock says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use databases::Psql;
use model::{Asleep, Condition, Database, DatabaseState, Instance, InstanceId, Millis, Timestamp};
use store::Expect;

use super::{is_of, refused};
use crate::reconcile::Facts;
use crate::transact::all;
use crate::{Control, ControlError};

/// How often it is looked whether somebody uses them.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Within that everybody who keeps a door has heard that it leads nowhere.
const LED_NOWHERE: Millis = Millis::new(1500);

/// Wakes those that somebody came to since they fell asleep.
pub(in crate::reconcile) fn wake(control: &Control, facts: &Facts) {
    let mut asleep = facts
        .databases
        .values()
        .filter(|database| database.asleep.is_some())
        .peekable();
    if asleep.peek().is_none() {
        return;
    }
    let woken = control
        .engine
        .last_used()
        .map_err(ControlError::from)
        .and_then(|used| asleep.try_for_each(|database| wake_one(control, database, &used)));
    if let Err(cause) = woken {
        tracing::error!(%cause, "it could not be seen who is to be woken; it is tried again");
    }
}

/// By what the row says now: it may have fallen asleep since it was read.
fn wake_one(
    control: &Control,
    database: &Database,
    used: &BTreeMap<String, Timestamp>,
) -> Result<(), ControlError> {
    let key = database.id.to_string();
    let last = used.get(&key).copied();
    let is_woken = |row: &Database| row.asleep.is_some_and(|asleep| asleep.used != last);
    if !is_woken(database) {
        return Ok(());
    }
    control.write(|tx| {
        let Some(mut found) = tx.get::<Database>(&key)? else {
            return Ok(());
        };
        if is_woken(&found.row) {
            found.row.asleep = None;
            tx.update_status(&found.row, Expect::Rev(found.rev))?;
        }
        Ok(())
    })
}

/// Looks again and again who may fall asleep, until `stop` is set.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(250));
        if Instant::now() < next {
            continue;
        }
        if let Err(cause) = look(control, Timestamp::now()) {
            tracing::warn!(%cause, "it could not be seen which databases nobody uses; it is tried again");
        }
        next = Instant::now() + LOOK_EVERY;
    }
}

/// Looks once.
fn look(control: &Control, now: Timestamp) -> Result<(), ControlError> {
    let databases = control.read(|tx| Ok(all::<Database>(tx)?.0))?;
    let mut may: Vec<&Database> = databases.iter().filter(|one| may_sleep(one)).collect();
    if may.is_empty() {
        return Ok(());
    }
    let (instances, open) = control.read(|tx| Ok((all::<Instance>(tx)?.0, control.open.at(tx)?)))?;
    // Work on one of an environment may be about another of it.
    may.retain(|one| {
        !open
            .iter()
            .any(|operation| operation.environment == Some(one.environment))
    });
    let used = control.engine.last_used()?;
    for database in may {
        let seen = Seen::of(database, &instances, &used);
        let Some(idle) = database.idle_stop else { continue };
        let Some((server, next)) = seen.next(database.asleep, idle, now) else {
            continue;
        };
        if sessions(control, server) == Some(0) {
            fall_asleep(control, database, next)?;
        } else {
            // Who is inside came by another way than the door. Asked again when it was left alone for as long once more.
            control.engine.use_door(&database.id.to_string())?;
        }
    }
    Ok(())
}

/// Whether it is one that falls asleep, and its server runs.
fn may_sleep(database: &Database) -> bool {
    let is_awake = database.asleep.is_none_or(|asleep| !asleep.is_stopped);
    database.idle_stop.is_some()
        && database.state == DatabaseState::Active
        && database.paused.is_none()
        && is_awake
}

/// What tells whether somebody uses one.
struct Seen {
    /// Its server and since when it takes sessions.
    server: Option<(InstanceId, Timestamp)>,
    used: Option<Timestamp>,
}

impl Seen {
    fn of(database: &Database, instances: &[Instance], used: &BTreeMap<String, Timestamp>) -> Self {
        let server = instances
            .iter()
            .filter(|instance| is_of(instance, database.id))
            .find_map(|instance| match instance.condition {
                Condition::Ready { since } => Some((instance.id, since)),
                Condition::Starting { .. }
                | Condition::Unready { .. }
                | Condition::Draining { .. }
                | Condition::Stopping { .. }
                | Condition::Exited { .. } => None,
            });
        Self {
            server,
            used: used.get(&database.id.to_string()).copied(),
        }
    }

    /// What is to become of it if nobody is inside, and who tells; nothing while somebody was there lately.
    fn next(&self, asleep: Option<Asleep>, idle: Millis, now: Timestamp) -> Option<(InstanceId, Asleep)> {
        let (server, ready) = self.server?;
        match asleep {
            // Somebody came: the next look of the reconcilers lets him in.
            Some(asleep) if asleep.used != self.used => None,
            Some(asleep) if now.since(asleep.since) < LED_NOWHERE => None,
            Some(asleep) => {
                let is_stopped = true;
                Some((server, Asleep { is_stopped, ..asleep }))
            }
            None => {
                let last = self.used.map_or(ready, |used| used.max(ready));
                let is_left_alone = now.since(last) >= idle;
                let asleep = Asleep {
                    since: now,
                    used: self.used,
                    is_stopped: false,
                };
                is_left_alone.then_some((server, asleep))
            }
        }
    }
}

/// How many are signed in; nothing when it does not say.
fn sessions(control: &Control, server: InstanceId) -> Option<u64> {
    let psql = Psql {
        engine: &*control.engine,
        instance: server,
    };
    let told = databases::all_sessions(psql).map_err(refused);
    told.inspect_err(|cause| tracing::info!(%cause, "a database did not say who uses it; it stays awake"))
        .ok()
}

/// Unless something has become of it since it was read: whoever came meanwhile is served.
fn fall_asleep(control: &Control, before: &Database, asleep: Asleep) -> Result<(), ControlError> {
    let key = before.id.to_string();
    control.write(|tx| {
        let Some(mut found) = tx.get::<Database>(&key)? else {
            return Ok(());
        };
        let open = control.open.at(tx)?;
        let is_worked_on = open
            .iter()
            .any(|operation| operation.environment == Some(before.environment));
        let used = control.engine.last_used()?.get(&key).copied();
        if found.row != *before || is_worked_on || used != asleep.used {
            return Ok(());
        }
        found.row.asleep = Some(asleep);
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_asleep_in_two_steps_and_only_while_nobody_comes() {
        let (server, at) = (InstanceId::fresh(), |s| Timestamp::from_ms(1_000_000 + s * 1000));
        let idle = Millis::seconds(300);
        let seen = |used: Option<u64>| Seen {
            server: Some((server, at(0))),
            used: used.map(at),
        };
        let next = |used, asleep, now| seen(used).next(asleep, idle, at(now)).map(|(_, next)| next);

        assert_eq!(next(None, None, 299), None);
        let about = next(None, None, 300).expect("left alone since it answered");
        assert!(!about.is_stopped && about.used.is_none());
        assert_eq!(next(Some(100), None, 399), None);
        let about = next(Some(100), None, 400).expect("left alone since somebody was there");
        assert_eq!((about.since, about.used), (at(400), Some(at(100))));

        assert_eq!(
            next(Some(100), Some(about), 401),
            None,
            "its door may still lead there"
        );
        let asleep = next(Some(100), Some(about), 402).expect("nobody came");
        assert!(asleep.is_stopped);
        assert_eq!((asleep.since, asleep.used), (about.since, about.used));
        // Somebody came: whether later, or earlier because a clock went back.
        for used in [Some(401), Some(7), None] {
            assert_eq!(next(used, Some(about), 402), None);
        }
        let gone = Seen {
            server: None,
            used: None,
        };
        assert!(gone.next(None, idle, at(9999)).is_none(), "it does not run");
    }
}
