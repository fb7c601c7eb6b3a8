//! Another password for a database, without a failed query.

use std::time::{Duration, Instant};

use model::DatabaseId;
use model::operation::Work;

use super::server::{Server, new_login};
use super::{change, load, login_number, refused, wait};
use crate::reconcile::workers::Job;
use crate::{ControlError, operations};

/// How long sessions of an old login may keep it alive after the apps that had it were replaced.
const OLD_LOGIN_BOUND: Duration = Duration::from_secs(300);

/// A second login, fresh instances for the apps that have the first, then the end of the first.
pub(super) fn make(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    operations::step(control, job.operation, "making a second login")?;
    let instance = wait::running(control, id)?;
    let server = Server::of(control, &load(control, id)?, instance)?;
    // Repeated after a crash, it only makes a third one; all but the last end below.
    let newest = control.write(|tx| login_number(tx, id))?;
    new_login(control, id, &server, newest, |_| {})?;
    let database = load(control, id)?;
    operations::step(
        control,
        job.operation,
        "replacing instances that have the old login",
    )?;
    let restarts = control.write(|tx| {
        let mut restarts = Vec::new();
        for (app, release) in crate::workload::serving(tx, &database.environment.to_string())? {
            if !app.deleting
                && release
                    .services
                    .values()
                    .any(|service| service.uses.contains(&database.name))
            {
                let actor = model::Actor::System;
                let scope =
                    crate::authorize::environment_by_id(tx, &actor, model::Action::Deploy, app.environment)?;
                let work = Work::Restart { app: app.id };
                restarts.push(
                    operations::accept(control, tx, &actor, Some(&scope), work)?
                        .operation
                        .id,
                );
            }
        }
        Ok(restarts)
    })?;
    for restart in restarts {
        let actor = model::Actor::System;
        let done = operations::view(control, &actor, &restart.to_string(), OLD_LOGIN_BOUND)?;
        match &done.row.state {
            model::OperationState::Succeeded { .. } => {}
            model::OperationState::Pending
            | model::OperationState::Running
            | model::OperationState::Failed { .. }
            | model::OperationState::Canceled { .. } => {
                return Err(ControlError::State {
                    message: "an app that uses it could not be restarted, so the old login stays valid"
                        .to_owned(),
                    next_step: format!("mend the app, then again: stoa db rotate {}", database.name),
                });
            }
        }
    }
    operations::step(control, job.operation, "ending the old login")?;
    let until = Instant::now() + OLD_LOGIN_BOUND;
    for credential in database
        .credentials
        .iter()
        .filter(|credential| credential.version != newest)
    {
        while server.sessions(credential.version).map_err(refused)? > 0 {
            if Instant::now() >= until {
                return Err(ControlError::State {
                    message: format!(
                        "{} still has sessions; it stays valid",
                        databases::login_role(credential.version)
                    ),
                    next_step: format!("end them, then again: stoa db rotate {}", database.name),
                });
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        server.drop_login(credential.version).map_err(refused)?;
    }
    change(control, id, |database| {
        database
            .credentials
            .retain(|credential| credential.version == newest);
    })?;
    operations::succeed(
        control,
        job.operation,
        &format!("{} has a new password", database.name),
    )
}
