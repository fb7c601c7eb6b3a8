//! Promoting: a restored database takes the place of the one it is of, and no query of who tries once more fails.
//!
//! ```text
//! its logins become those of the other one -> new sessions of it wait -> names change (one transaction)
//! -> the name leads to it, for everybody -> sessions of the other one end -> who waits is let in
//! -> the other one gets a login of its own, and an end
//! ```
//! Invariants: until the names change, nothing has changed but logins that nobody uses; from then on the only way is
//! forward, whatever fails or dies. A session ends only when whoever had it reaches the new server by the same name and
//! login; nobody writes to the new server before nobody writes to the old one (a crash of ours in between apart).

use std::time::{Duration, Instant};

use databases::Psql;
use databases::promote::{self, Hold};
use model::operation::Work;
use model::{Condition, Credential, Database, DatabaseId, Instance, Millis, Operation, Promoted, Replaced};
use store::rows::{PASSWORD, database_tenant, receivers_of};
use store::{Expect, WriteTx};

use super::server::{Server, new_login};
use super::{change, load, login_number, refused, upgrade, wait};
use crate::databases::promote::{data_until, fit, kept_name};
use crate::databases::{Protection, backups, drills};
use crate::reconcile::Facts;
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, operations};

/// How long a name may take to lead to the new server before the old one is ended all the same: who answers names is
/// another process. It and what follows stay within the minute for which a server lets sessions wait.
const LED_WITHIN: Duration = Duration::from_secs(10);
/// As long as the name's answer may be remembered by who asked before.
pub(super) const REMEMBERED: Duration = Duration::from_millis(1100);
/// How long a server that does not end its sessions, and its pooler, are waited for when they are ended themselves.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// Before what is left is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// Whether the names have changed already.
pub(in crate::reconcile) fn is_switched(facts: &Facts, work: &Work) -> bool {
    let (Work::PromoteDatabase { database, of, .. } | Work::UpgradeDatabase { database, of, .. }) = work
    else {
        return false;
    };
    facts
        .databases
        .get(of)
        .is_some_and(|old| took_over(*database, old))
}

pub(super) fn took_over(new: DatabaseId, old: &Database) -> bool {
    old.replaced.as_ref().is_some_and(|replaced| replaced.by == new)
}

/// Puts one in the place of the other.
pub(super) fn make(job: &Job, new: DatabaseId, old: DatabaseId, keep: Millis) -> Result<(), ControlError> {
    let control = &*job.control;
    let hold = match took_over(new, &load(control, old)?) {
        true => None,
        false => {
            operations::step(control, job.operation, "making the logins the same")?;
            let psql = Psql {
                engine: &*control.engine,
                instance: wait::running(control, new)?,
            };
            adopt(control, psql, new, old)?;
            job.still_wanted()?;
            operations::step(control, job.operation, "changing names")?;
            let hold = promote::hold(psql).map_err(refused)?;
            control.write(|tx| switch(control, tx, job, (new, old), keep))?;
            Some(hold)
        }
    };
    if let Err(cause) = finish(job, new, old, hold) {
        // Its names have changed: it is not given up, but begun again by the next look.
        tracing::error!(operation = %job.operation, %cause, "could not end a promotion; it is tried again");
        std::thread::sleep(AGAIN);
    }
    Ok(())
}

/// Gives the new one the logins of the old one, with the same passwords, and takes away its own.
fn adopt(control: &Control, psql: Psql<'_>, new: DatabaseId, old: DatabaseId) -> Result<(), ControlError> {
    let of = load(control, old)?;
    let mut passwords = Vec::new();
    for credential in &of.credentials {
        let password = crate::databases::password_of(control, old, credential)?;
        let text = password.expose_str().unwrap_or_default();
        databases::add_login(psql, credential.version, text).map_err(refused)?;
        passwords.push((credential, password));
    }
    let is_of = |version: u64| of.credentials.iter().any(|theirs| theirs.version == version);
    let own = load(control, new)?.credentials.into_iter();
    let own: Vec<u64> = own
        .map(|credential| credential.version)
        .filter(|v| !is_of(*v))
        .collect();
    promote::bar(psql, &own).map_err(refused)?;
    control.write(|tx| {
        let mut found = tx.need::<Database>(&new.to_string())?;
        let mut credentials = Vec::new();
        for (theirs, password) in &passwords {
            let sealed = tx.seal(&database_tenant(new), PASSWORD, theirs.version, password);
            credentials.push(Credential {
                version: theirs.version,
                sealed: sealed.map_err(store::StoreError::from)?.0,
                since: theirs.since,
            });
        }
        found.row.credentials = credentials;
        let newest = passwords.iter().map(|(theirs, _)| theirs.version).max();
        // What a rotation makes next must not be one of these.
        while login_number(tx, new)? < newest.unwrap_or_default() {}
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}

/// From one moment to the next the new one has the name of the old one, and with it everybody who uses it.
fn switch(
    control: &Control,
    tx: &WriteTx,
    job: &Job,
    (new, old): (DatabaseId, DatabaseId),
    keep: Millis,
) -> Result<(), ControlError> {
    let operation = tx.need::<Operation>(&job.operation.to_string())?.row;
    let mut new = tx.need::<Database>(&new.to_string())?.row;
    let mut old = tx.need::<Database>(&old.to_string())?.row;
    if operation.cancel || operation.state.is_settled() {
        return Err(ControlError::State {
            message: "given up".to_owned(),
            next_step: format!("{} serves as before", old.name),
        });
    }
    // Whatever became of them since it was asked for.
    fit(tx, &new, &old)?;
    let now = control.now_of(tx);
    let kept = kept_name(tx, &old, now)?;
    let place = std::mem::replace(&mut old.name, kept);
    let was = std::mem::replace(&mut new.name, place.clone());
    old.replaced = Some(Replaced {
        was: place,
        by: new.id,
        at: now,
        data_until: data_until(&new, &old),
    });
    (old.promoted, old.expires_at) = (None, Some(now.plus(keep)));
    new.promoted = Some(Promoted {
        was,
        instead_of: old.id,
        at: now,
    });
    (new.replaced, new.expires_at) = (None, None);
    new.pooled = old.pooled;
    // The name is free only after the old one gave it up.
    tx.update(&old, Expect::Any)?;
    tx.update(&new, Expect::Any)?;
    // They were told the names of before, and would ask for the other one.
    for receivers in [receivers_of(old.id), receivers_of(new.id)] {
        for mut found in tx.list::<Instance>(&receivers)? {
            if found.row.condition.is_live() {
                found.row.condition = Condition::Stopping { since: now };
                tx.update_status(&found.row, Expect::Any)?;
            }
        }
    }
    operations::step_in(tx, job.operation, "moving sessions")
}

/// Everything after the names have changed. Doing it again is fine.
fn finish(job: &Job, new: DatabaseId, old: DatabaseId, hold: Option<Hold>) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    wait_led(job, new)?;
    std::thread::sleep(REMEMBERED);
    let before = load(control, old)?;
    let versions: Vec<u64> = before.credentials.iter().map(|theirs| theirs.version).collect();
    let server = backups::server_of(control, old)?.map(|server| Psql {
        engine,
        instance: server.id,
    });
    let is_cut = match server.map(|psql| promote::cut(psql, &versions)) {
        Some(Ok(())) => true,
        Some(Err(cause)) => {
            let line = format!("its sessions could not be ended ({cause}): its server is started again");
            operations::log_line(control, job.operation, &line);
            end_server(job, old)?;
            false
        }
        // Without a server that answers nobody is there, or nobody that it would let go: it is ended first.
        None => {
            end_server(job, old)?;
            false
        }
    };
    if let Some(hold) = hold
        && let Err(cause) = hold.release()
    {
        tracing::warn!(%cause, "whoever was to be let in at the end of a promotion was let in before");
    }
    // Its clients come to the name anew, which leads to the other one by now.
    change(control, old, |database| database.pooled = false)?;
    let written = match server.filter(|_| is_cut) {
        Some(psql) => {
            let number = control.write(|tx| login_number(tx, old))?;
            new_login(control, old, &Server::postgres(psql), number, |database| {
                database.credentials.retain(|own| own.version == number);
            })?;
            written(control, psql, new, old)?
        }
        None => String::new(),
    };
    let outcome = control.read(|tx| {
        let new = tx.need::<Database>(&new.to_string())?.row;
        let old = tx.need::<Database>(&old.to_string())?.row;
        let is_protected = drills::proof(tx, &new, model::Timestamp::now())?.local;
        let warning = match is_protected {
            Some(Protection::Unprotected { .. }) => format!(
                "; it is unprotected until a drill has passed: stoa db drill {}",
                new.name
            ),
            Some(Protection::Protected { .. }) | None => String::new(),
        };
        let until = old.expires_at.map(|at| at.to_string()).unwrap_or_default();
        Ok(format!(
            "{} is what {} was; the one before is kept as {} until {until}{written}{warning}",
            new.name,
            new.promoted
                .map(|promoted| promoted.was.to_string())
                .unwrap_or_default(),
            old.name,
        ))
    })?;
    operations::succeed(control, job.operation, &outcome)
}

/// What the old one has and the new one has not.
fn written(
    control: &Control,
    psql: Psql<'_>,
    new: DatabaseId,
    old: DatabaseId,
) -> Result<String, ControlError> {
    let restored = load(control, new)?.restored.filter(|from| from.of == old);
    let Some(reached) = restored.and_then(|from| from.reached) else {
        return Ok(String::new());
    };
    // It says how much, and nothing depends on it.
    Ok(promote::written_since(psql, reached.lsn)
        .map(|bytes| format!(", with {bytes} of log written since the restored moment"))
        .unwrap_or_default())
}

/// Waits until programs that ask for the name are led to the new server, and to no other.
pub(super) fn wait_led(job: &Job, new: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let host = format!(
        "{}.{}.internal",
        load(control, new)?.name,
        crate::workload::DATABASE_DOMAIN
    );
    let until = Instant::now() + LED_WITHIN;
    loop {
        let server = control.read(|tx| backups::answering(tx, new))?;
        if let Some(server) = &server
            && let Some(address) = server.address
        {
            match promote::leads_to(&*control.engine, server.id, databases::USER, &host) {
                Ok(led) if led == [address] => return Ok(()),
                Ok(_) => {}
                Err(cause) => {
                    let line = format!("where {host} leads could not be asked: {cause}");
                    operations::log_line(control, job.operation, &line);
                    return Ok(());
                }
            }
        }
        if Instant::now() >= until {
            let line = format!("{host} does not lead to the new server yet");
            operations::log_line(control, job.operation, &line);
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the server of a database, which then is started again, but not while its pooler lives: what waits there would be
/// written to it, for it takes the logins of before.
fn end_server(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    control.write(|tx| {
        let mut old = tx.need::<Database>(&id.to_string())?;
        (old.row.pooled, old.row.paused) = (false, Some(job.operation));
        tx.update_status(&old.row, Expect::Rev(old.rev))?;
        for mut found in tx.list::<Instance>(&id.to_string())? {
            if found.row.condition.is_live() && !matches!(found.row.condition, Condition::Stopping { .. }) {
                found.row.condition = Condition::Stopping {
                    since: control.now_of(tx),
                };
                tx.update_status(&found.row, Expect::Any)?;
            }
        }
        Ok(())
    })?;
    let until = Instant::now() + ENDED_WITHIN;
    loop {
        let (rev, all) = control.read(|tx| Ok((tx.rev()?, tx.list::<Instance>(&id.to_string())?)))?;
        if !all.iter().any(|found| found.row.condition.is_live()) || Instant::now() >= until {
            break;
        }
        control.store.wait_change(rev, Duration::from_secs(1));
    }
    let left = until.saturating_duration_since(Instant::now());
    if !wait::without_pooler(control, id, left)? {
        operations::log_line(control, job.operation, "its pooler did not end in time");
    }
    control.write(|tx| upgrade::resume(tx, id, job.operation))
}
