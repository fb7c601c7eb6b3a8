//! The poolers of databases: one for each that is to have one, watched.
//!
//! ```text
//! asked for: image -> role and lookup on the server -> row has a pooler -> instance (advance) -> its name leads to it
//! not any more: its name leads to the server -> instance ends when what is under way has -> role signs in no more
//! ```
//! Invariant: the name of a pooler always leads to somebody who answers as the server does: to the server itself as long
//! as the pooler takes no clients.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use databases::{Place, Psql};
use model::operation::Work;
use model::{
    Condition, Database, DatabaseId, DatabaseState, Instance, InstanceId, Millis, Pooler, Purpose, Timestamp,
};
use store::Expect;
use store::rows::{POOLER_PASSWORD, database_tenant, poolers_of};
use store::secret::{Sealed, Secret};

use super::{change, ended_at, fresh_password, next_attempt, prune, refused, stop};
use crate::databases::backups;
use crate::reconcile::Facts;
use crate::transact::all;
use crate::{Control, ControlError, operations};

/// How soon it is noticed that a database wants a pooler, and an end of ours.
const GLANCE: Duration = Duration::from_millis(500);
/// Between two looks at one that is as it should be.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same while it is not.
const LOOK_SOON: Duration = Duration::from_secs(5);
/// For so long it takes clients after its name leads elsewhere: who asked before remembers that for a second.
const LEAVES_AFTER: Millis = Millis::seconds(3);

fn is_wanted(database: &Database) -> bool {
    match &database.state {
        DatabaseState::Active => database.pooled,
        DatabaseState::Creating | DatabaseState::Failed { .. } | DatabaseState::Destroyed { .. } => false,
    }
}

/// All poolers of a database that have a row, oldest first.
pub(super) fn poolers(facts: &Facts, id: DatabaseId) -> Vec<&Instance> {
    let mut mine: Vec<&Instance> = facts
        .instances
        .values()
        .filter(|instance| number_of(instance, id).is_some())
        .collect();
    mine.sort_by_key(|instance| instance.id);
    mine
}

/// With which password it looks up clients, when it is a pooler of that database.
fn number_of(instance: &Instance, id: DatabaseId) -> Option<u64> {
    match &instance.purpose {
        Purpose::Pooler { database, number } if *database == id => Some(*number),
        Purpose::Pooler { .. }
        | Purpose::Service { .. }
        | Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. } => None,
    }
}

/// The pooler that takes clients of a database.
pub(crate) fn pooler_of<'f>(facts: &'f Facts, database: &Database) -> Option<&'f Instance> {
    // One that was ready and does not answer its check once is still there.
    let takes_clients = |instance: &&Instance| {
        matches!(
            instance.condition,
            Condition::Ready { .. } | Condition::Unready { .. }
        )
    };
    let number = database.pooler.as_ref().map(|pooler| pooler.number);
    let mut mine = poolers(facts, database.id).into_iter();
    mine.find(|instance| takes_clients(instance) && number_of(instance, database.id) == number)
        .filter(|_| is_wanted(database))
}

/// Whether whoever starts now should wait for it: it is to be there, and is not yet.
pub(in crate::reconcile) fn is_awaited(facts: &Facts, database: &Database) -> bool {
    is_wanted(database) && database.pooler.is_some() && pooler_of(facts, database).is_none()
}

/// Keeps one instance alive for each pooler.
pub(super) fn advance(
    control: &Control,
    facts: &Facts,
    database: &Database,
    lingering: &BTreeSet<InstanceId>,
    now: Timestamp,
) -> Result<(), ControlError> {
    let id = database.id;
    let mine = poolers(facts, id);
    let live = mine.iter().find(|instance| instance.condition.is_live());
    let pooler = database.pooler.as_ref().filter(|_| is_wanted(database));
    let wanted = pooler.map(|pooler| pooler.number);
    // One that was told to end is not forgotten: another one begins with what is true then.
    let is_told = |instance: &Instance| {
        matches!(
            instance.condition,
            Condition::Draining { .. } | Condition::Stopping { .. }
        )
    };
    match (wanted, live) {
        (Some(number), Some(instance)) if number_of(instance, id) == Some(number) && !is_told(instance) => {
            Ok(())
        }
        (Some(_) | None, Some(instance)) => leave(control, facts, database, instance, now),
        (None, None) => Ok(()),
        (Some(number), None) => {
            if lingering.iter().any(|id| facts.lost.contains(&id.to_string())) {
                return Ok(());
            }
            let attempt = next_attempt(&mine);
            let ended: Vec<Timestamp> = mine.iter().filter_map(|instance| ended_at(instance)).collect();
            if let Some(last) = ended.last()
                && now < last.plus(plan::backoff::delay(attempt))
            {
                return Ok(());
            }
            prune(control, &mine)?;
            control.write(|tx| {
                let row = tx.need::<Database>(&id.to_string())?.row;
                // Changed since the facts were read.
                if !is_wanted(&row) || row.pooler.is_none_or(|pooler| pooler.number != number) {
                    return Ok(());
                }
                tx.insert(&Instance {
                    id: InstanceId::fresh(),
                    purpose: Purpose::Pooler { database: id, number },
                    attempt,
                    created_at: now,
                    address: None,
                    uid_range: crate::workload::uid_range(tx)?,
                    excused: false,
                    condition: Condition::Starting { since: now },
                })?;
                Ok(())
            })
        }
    }
}

/// Ends one that is not wanted any more, once nobody is led to it.
fn leave(
    control: &Control,
    facts: &Facts,
    database: &Database,
    instance: &Instance,
    now: Timestamp,
) -> Result<(), ControlError> {
    match (&instance.condition, &database.state) {
        (Condition::Ready { .. } | Condition::Unready { .. }, DatabaseState::Active) => control.write(|tx| {
            let mut found = tx.need::<Instance>(&instance.id.to_string())?;
            found.row.condition = Condition::Draining { since: now };
            tx.update_status(&found.row, Expect::Any)?;
            Ok(())
        }),
        (Condition::Draining { since }, DatabaseState::Active) if now.since(*since) < LEAVES_AFTER => Ok(()),
        (
            Condition::Starting { .. }
            | Condition::Ready { .. }
            | Condition::Unready { .. }
            | Condition::Draining { .. }
            | Condition::Stopping { .. }
            | Condition::Exited { .. },
            _,
        ) => stop(control, facts, instance, now),
    }
}

/// The password it looks up clients with.
pub(in crate::reconcile) fn password_of(
    control: &Control,
    id: DatabaseId,
    pooler: &Pooler,
) -> Result<Secret, ControlError> {
    let sealed = Sealed(pooler.sealed.clone());
    let opened = control
        .store
        .unseal(&database_tenant(id), POOLER_PASSWORD, pooler.number, &sealed);
    Ok(opened.map_err(store::StoreError::from)?)
}

/// What is known of a database from the last look at its pooler.
struct Watched {
    next: Instant,
    pooled: bool,
    server: Option<InstanceId>,
    /// The server that was last told of its pooler: the volume of another one may be of before.
    prepared: Option<InstanceId>,
}

/// Looks again and again until `stop` is set.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    let mut known: BTreeMap<DatabaseId, Watched> = BTreeMap::new();
    let mut seen = None;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        let (now, rev) = (Instant::now(), control.store.rev());
        if seen == Some(rev) && !known.values().any(|watched| watched.next <= now) {
            continue;
        }
        seen = Some(rev);
        if let Err(cause) = look(control, &mut known, stop) {
            tracing::warn!(%cause, "could not see to the poolers; it is tried again");
            seen = None;
        }
    }
}

fn look(
    control: &Control,
    known: &mut BTreeMap<DatabaseId, Watched>,
    stop: &AtomicBool,
) -> Result<(), ControlError> {
    let is_ours = |database: &&Database| {
        database.state == DatabaseState::Active && (database.pooled || database.pooler.is_some())
    };
    let databases = control.read(|tx| {
        let mut ours = Vec::new();
        for database in all::<Database>(tx)?.0.into_iter().filter(|one| is_ours(&one)) {
            let server = backups::answering(tx, database.id)?.map(|server| server.id);
            ours.push((database, server));
        }
        Ok(ours)
    })?;
    known.retain(|id, _| databases.iter().any(|(database, _)| database.id == *id));
    for (database, server) in &databases {
        let before = known.get(&database.id);
        let is_due = before.is_none_or(|before| {
            before.next <= Instant::now() || (before.pooled, before.server) != (database.pooled, *server)
        });
        let mut prepared = before.and_then(|before| before.prepared);
        if !is_due || stop.load(Ordering::Relaxed) {
            continue;
        }
        let again = match see_to(control, database, &mut prepared) {
            Ok(()) if database.pooled && database.pooler.is_some() => LOOK_EVERY,
            // Its server may not answer yet, or its pooler be there still.
            Ok(()) => LOOK_SOON,
            Err(cause) => {
                tracing::warn!(database = %database.name, %cause, "could not see to its pooler; it is tried again");
                if database.pooled && database.pooler.is_none() {
                    let why = operations::failure_of(&cause, Vec::new()).message;
                    change(control, database.id, |row| row.unpooled = Some(why.clone()))?;
                }
                match database.pooler {
                    Some(_) => LOOK_SOON,
                    None => LOOK_EVERY,
                }
            }
        };
        let watched = Watched {
            next: Instant::now() + again,
            pooled: database.pooled,
            server: *server,
            prepared,
        };
        known.insert(database.id, watched);
    }
    Ok(())
}

fn see_to(
    control: &Control,
    database: &Database,
    prepared: &mut Option<InstanceId>,
) -> Result<(), ControlError> {
    let id = database.id;
    let (server, pooler) = control.read(|tx| {
        let live = tx.list::<Instance>(&poolers_of(id))?.into_iter();
        let mut live = live.filter(|found| found.row.condition.is_live());
        Ok((backups::answering(tx, id)?, live.next().map(|found| found.row)))
    })?;
    let psql = server.map(|server| Psql {
        engine: &*control.engine,
        instance: server.id,
    });
    match (database.pooled, &database.pooler) {
        (true, None) => psql.map_or(Ok(()), |psql| begin(control, database, psql)),
        (true, Some(of)) => {
            if let Some(psql) = psql.filter(|psql| *prepared != Some(psql.instance)) {
                let password = password_of(control, id, of)?;
                let password = password.expose_str().unwrap_or_default();
                databases::pooler::prepare(psql, password).map_err(refused)?;
                *prepared = Some(psql.instance);
            }
            match pooler {
                Some(pooler) if matches!(pooler.condition, Condition::Ready { .. }) => {
                    release(control, id, &pooler)
                }
                Some(_) | None => Ok(()),
            }
        }
        (false, Some(_)) => match (pooler, psql) {
            (None, Some(psql)) => end(control, id, psql),
            // It ends first.
            (Some(_), _) | (None, None) => Ok(()),
        },
        (false, None) => Ok(()),
    }
}

/// Has the server forget its pooler, which is gone, then the row.
fn end(control: &Control, id: DatabaseId, psql: Psql<'_>) -> Result<(), ControlError> {
    databases::pooler::forget(psql).map_err(refused)?;
    control.write(|tx| {
        let mut found = tx.need::<Database>(&id.to_string())?;
        // Also when it is to have one again by now: that one is begun anew, for the server has forgotten this one.
        (found.row.pooler, found.row.unpooled) = (None, None);
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

/// Gives a database what its pooler needs: what its server must know first, then the row.
fn begin(control: &Control, database: &Database, psql: Psql<'_>) -> Result<(), ControlError> {
    let id = database.id;
    let place = Place {
        id: InstanceId::fresh(),
        uid_range: control.write(crate::workload::uid_range)?,
        network: String::new(),
    };
    let lines = |line: &str| tracing::info!(database = %database.name, line, "getting the image of poolers");
    let (image, version) =
        databases::pooler::ensure_image(&*control.engine, &place, &lines).map_err(refused)?;
    let password = fresh_password()?;
    databases::pooler::prepare(psql, &password).map_err(refused)?;
    let secret = Secret::new(password.into_bytes());
    control.write(|tx| {
        let number = tx.next_number(&format!("pooler:{id}"))?;
        let sealed = tx.seal(&database_tenant(id), POOLER_PASSWORD, number, &secret);
        let sealed = sealed.map_err(store::StoreError::from)?;
        let mut found = tx.need::<Database>(&id.to_string())?;
        if found.row.pooler.is_none() {
            found.row.pooler = Some(Pooler {
                image: image.clone(),
                version: version.clone(),
                number,
                sealed: sealed.0,
            });
            found.row.unpooled = None;
            tx.update_status(&found.row, Expect::Rev(found.rev))?;
        }
        Ok(())
    })
}

/// Lets clients go on that an operation had wait which is over, however it ended.
fn release(control: &Control, id: DatabaseId, pooler: &Instance) -> Result<(), ControlError> {
    let engine = &*control.engine;
    if !databases::pooler::is_paused(engine, pooler.id).map_err(refused)? {
        return Ok(());
    }
    // Asked after: whoever has them wait was accepted before.
    let is_held = control.read(|tx| {
        let open = control.open.at(tx)?;
        Ok(open
            .iter()
            .any(|one| one.work == Work::RestartDatabase { database: id }))
    })?;
    match is_held {
        true => Ok(()),
        false => databases::pooler::resume(engine, pooler.id).map_err(refused),
    }
}
