//! Restarts: another instance of a database's server, of the same volume, from the newest image of its version.
//!
//! ```text
//! checkpoint -> clients of its pooler wait -> the row says paused, its server ends -> the row has the newest image
//! -> a server starts and answers -> its name leads to it -> clients go on
//! ```
//! Invariants: whatever fails or dies in between, a server is wanted again and clients go on: a pause counts only while
//! the operation is open (`databases`), and clients that wait for nobody are let go (`pooler`). An image from which no
//! server answers is not kept: which one was before is in the row until one answered.

use std::time::{Duration, Instant};

use databases::{Psql, pooler, promote};
use model::{Condition, Database, DatabaseId, ImageDigest, Instance, InstanceId, Restarting};
use store::Expect;
use store::rows::poolers_of;

use super::{change, load, refused, upgrade, wait};
use crate::databases::backups;
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, operations};

/// How long transactions may go on before they are ended with the server. What waits for them is everybody else.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// How long a server may take until it answers, less than clients of a pooler wait (two minutes).
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// How long a name may take to lead to it.
const LED_WITHIN: Duration = Duration::from_secs(10);

/// Puts another server in the place of the one that runs.
pub(super) fn make(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let pooler = pooler_of(control, id)?;
    let begun = Instant::now();
    let done = restart(job, id, pooler);
    if done.is_err() {
        control.write(|tx| upgrade::resume(tx, id, job.operation))?;
    }
    if let Some(pooler) = pooler {
        let resumed = pooler::resume(&*control.engine, pooler).map_err(refused);
        match (&done, resumed) {
            // What failed first says more.
            (Err(_), Err(cause)) => {
                tracing::warn!(%cause, "clients of a pooler wait; they are let go by the next look");
            }
            (Ok(_) | Err(_), resumed) => resumed?,
        }
    }
    let (image, ended) = done?;
    let database = load(control, id)?;
    let clients = match (pooler, ended) {
        (Some(_), true) => "clients of its pooler waited, with no transaction cut off".to_owned(),
        (Some(_), false) => format!(
            "clients of its pooler waited; transactions that took longer than {} s were ended",
            FINISH_WITHIN.as_secs()
        ),
        (None, _) if database.pooled => {
            "its sessions ended once, and who came meanwhile was refused: its pooler was not ready".to_owned()
        }
        (None, _) => "its sessions ended once, and who came meanwhile was refused; with a pooler they wait: \
                      stoa db update NAME --pooled yes"
            .replace("NAME", database.name.as_str()),
    };
    let outcome = format!(
        "{} runs from {} again after {:.1} s; {clients}",
        database.name,
        image.short(),
        begun.elapsed().as_secs_f64()
    );
    operations::succeed(control, job.operation, &outcome)
}

/// The pooler that takes its clients.
fn pooler_of(control: &Control, id: DatabaseId) -> Result<Option<InstanceId>, ControlError> {
    control.read(|tx| {
        let takes_clients = |instance: &Instance| matches!(instance.condition, Condition::Ready { .. });
        let mut all = tx.list::<Instance>(&poolers_of(id))?.into_iter();
        Ok(all
            .find(|found| takes_clients(&found.row))
            .map(|found| found.row.id))
    })
}

/// Says from which image it runs now, and whether every transaction over the pooler had ended by itself.
fn restart(
    job: &Job,
    id: DatabaseId,
    pooler: Option<InstanceId>,
) -> Result<(ImageDigest, bool), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let before = load(control, id)?;
    // What a run before a crash of ours remembered.
    let remembered = before.restarting.as_ref();
    let remembered = remembered
        .filter(|restarting| restarting.by == job.operation)
        .map(|restarting| &restarting.from);
    let (Some(was), Some(version)) = (remembered.or(before.image.as_ref()), &before.version) else {
        return Err(ControlError::State {
            message: format!("the server of {} does not run", before.name),
            next_step: format!("see why: stoa db info {}", before.name),
        });
    };
    let newest = databases::find_image(engine, Some(version)).map_err(refused)?;
    // It was to run from another image already, and perhaps does not answer.
    let begun = before
        .image
        .as_ref()
        .filter(|image| before.paused.is_none() && remembered.is_some_and(|remembered| remembered != *image));
    let newest = match begun {
        Some(image) => image.clone(),
        None => newest.map_or_else(|| was.clone(), |(image, _)| image),
    };
    let mut all_ended = true;
    if before.paused != Some(job.operation) && begun.is_none() {
        let psql = Psql {
            engine,
            instance: wait::running(control, id)?,
        };
        databases::make_ready_to_end(psql).map_err(refused)?;
        job.still_wanted()?;
        if let Some(pooler) = pooler {
            operations::step(control, job.operation, "having its clients wait")?;
            all_ended = pooler::pause(engine, pooler, FINISH_WITHIN).map_err(refused)?;
        }
        control.write(|tx| {
            let mut found = tx.need::<Database>(&id.to_string())?;
            found.row.paused = Some(job.operation);
            tx.update_status(&found.row, Expect::Rev(found.rev))?;
            operations::step_in(tx, job.operation, "ending its server")
        })?;
    }
    if begun.is_none() {
        wait::ended_while(control, id, &|| job.still_wanted())?;
    }
    let step = match newest == *was {
        true => format!("starting its server from {}", newest.short()),
        false => format!(
            "starting its server from {}, before from {}",
            newest.short(),
            was.short()
        ),
    };
    operations::step(control, job.operation, &step)?;
    let restarting = (newest != *was).then(|| Restarting {
        by: job.operation,
        from: was.clone(),
    });
    change(control, id, |database| {
        (database.image, database.paused) = (Some(newest.clone()), None);
        database.restarting.clone_from(&restarting);
    })?;
    let until = Instant::now() + ANSWERS_WITHIN;
    let go_on = || match Instant::now() < until {
        true => job.still_wanted(),
        false => Err(ControlError::State {
            message: format!(
                "no server answered from {} within {} s",
                newest.short(),
                ANSWERS_WITHIN.as_secs()
            ),
            next_step: format!("see why: stoa db info {}", before.name),
        }),
    };
    let running = match wait::running_while(control, id, &go_on) {
        Err(cause) if newest != *was => {
            operations::log_line(control, job.operation, "==> it goes back to the image before");
            if let Err(also) = go_back(job, id, was) {
                tracing::warn!(cause = %also, "the image before does not answer after a restart that failed");
            }
            return Err(cause);
        }
        running => running?,
    };
    if restarting.is_some() {
        change(control, id, |database| database.restarting = None)?;
    }
    if let Some(pooler) = pooler {
        wait_led(control, &before, running, pooler)?;
    }
    Ok((newest, all_ended))
}

/// Has a server of the image before in the place of one that does not answer, which may live all the same.
fn go_back(job: &Job, id: DatabaseId, was: &ImageDigest) -> Result<(), ControlError> {
    let control = &*job.control;
    change(control, id, |database| {
        (database.image, database.paused) = (Some(was.clone()), Some(job.operation));
    })?;
    wait::ended(control, id)?;
    control.write(|tx| upgrade::resume(tx, id, job.operation))?;
    wait::running(control, id)?;
    change(control, id, |database| database.restarting = None)
}

/// Waits until the pooler is led to the new server: its clients would be the first to find the former one gone.
fn wait_led(
    control: &Control,
    database: &Database,
    server: InstanceId,
    pooler: InstanceId,
) -> Result<(), ControlError> {
    let host = format!("{}.internal", crate::routes::lasting_name(database));
    let until = Instant::now() + LED_WITHIN;
    loop {
        let found = backups::server_of(control, database.id)?.filter(|found| found.id == server);
        let address = found.and_then(|found| found.address);
        let led = match promote::leads_to(&*control.engine, pooler, pooler::USER, &host) {
            Ok(led) => led,
            Err(cause) => {
                // The server is up. Whoever signs in before its name leads there is let in by the next try.
                tracing::warn!(%cause, host, "where a name leads could not be asked in a pooler");
                return Ok(());
            }
        };
        if address.is_some_and(|address| led == [address]) || Instant::now() >= until {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
