//! Starts every instance whose intent is stored and whose workload is not known yet.
//!
//! Invariant: this is the only place that starts an instance of a row, so the first start, its repetition and the
//! recovery after a crash between intent and effect are one path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use engine::{EngineError, Workload};
use model::{
    App, Condition, Database, DatabaseEngine, Exit, ImageDigest, Instance, InstanceId, Millis, Purpose,
    Release, Timestamp,
};
use store::{Expect, ReadTx};

use super::Facts;
use super::databases::volume_of;
use super::observe::each;
use crate::databases::backups;
use crate::{Control, ControlError};

/// Starts at once: more would only wait for the same kernel locks.
const AT_ONCE: usize = 4;

/// An app waits so long for a database that does not answer yet; then it shows by itself that it cannot do without.
const DATABASES_FIRST: Millis = Millis::seconds(30);

/// Starts in one look: what is more waits for the next, so that crashes and drains are noticed meanwhile.
const IN_ONE_LOOK: usize = 32;

pub(super) fn pending(control: &Control, facts: &Facts, now: Timestamp) -> Result<(), ControlError> {
    let is_waiting = |row: &&Instance| {
        matches!(row.condition, Condition::Starting { .. })
            && row.address.is_none()
            && !waits_for_database(facts, row, now)
    };
    let rows: Vec<&Instance> = facts.instances.values().filter(is_waiting).collect();
    if rows.is_empty() {
        return Ok(());
    }
    if rows.len() > IN_ONE_LOOK {
        control.bell.ring();
    }
    for row in rows.iter().take(IN_ONE_LOOK) {
        facts.tried.note(row.id, now);
    }
    let waiting = control.read(|tx| {
        let first = rows.iter().take(IN_ONE_LOOK);
        Ok(first
            .map(|row| (row.id, workload(control, tx, row)))
            .collect::<Vec<_>>())
    })?;
    let mut ends = Vec::new();
    for batch in waiting.chunks(AT_ONCE) {
        let (send, results) = mpsc::channel();
        std::thread::scope(|scope| {
            for (id, workload) in batch {
                let send = send.clone();
                scope.spawn(move || drop(send.send((*id, begin(control, workload)))));
            }
            drop(send);
        });
        ends.extend(results);
    }
    each(control, &ends, |tx, (id, end)| {
        let mut found = tx.need::<Instance>(&id.to_string())?;
        match end {
            Begun::Runs(address) => {
                found.row.address = Some(*address);
                // Its time to get ready begins here, not when somebody wished for it.
                if let Condition::Starting { since } = &mut found.row.condition {
                    *since = now;
                }
            }
            Begun::Never(why) => {
                found.row.condition = Condition::Exited {
                    at: now,
                    exit: Exit::NeverStarted { why: why.clone() },
                };
            }
            Begun::NotYet => return Ok(()),
        }
        tx.update_status(&found.row, Expect::Any)?;
        Ok(())
    })
}

/// Whether it uses a database that is about to answer: after a reboot of the host, databases come before what needs them.
fn waits_for_database(facts: &Facts, row: &Instance, now: Timestamp) -> bool {
    let (app, uses) = match &row.purpose {
        Purpose::Service {
            app,
            release,
            service,
            ..
        } => {
            let release = facts.releases.get(release);
            (
                app,
                release.and_then(|of| of.services.get(service)).map(|of| &of.uses),
            )
        }
        Purpose::Job {
            app, release, job, ..
        } => {
            let release = facts.releases.get(release);
            (app, release.and_then(|of| of.jobs.get(job)).map(|of| &of.uses))
        }
        Purpose::Database { .. } | Purpose::Receiver { .. } | Purpose::Pooler { .. } => return false,
    };
    let (Some(app), Some(uses)) = (facts.apps.get(app), uses) else {
        return false;
    };
    if uses.is_empty() || now.since(row.created_at) > DATABASES_FIRST {
        return false;
    }
    facts.databases.values().any(|database| {
        database.environment == app.environment
            && uses.contains(&database.name)
            && super::databases::is_wanted(database)
            && (!super::databases::is_ready(facts, database.id)
                || super::databases::is_pooler_awaited(facts, database))
    })
}

/// At which starts this process is, and since when. Shared between looks.
#[derive(Default, Clone)]
pub(crate) struct Tried(Arc<Mutex<BTreeMap<InstanceId, Timestamp>>>);

impl Tried {
    fn all(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: InstanceId, now: Timestamp) {
        self.all().entry(id).or_insert(now);
    }

    /// Since when it is tried; nothing while it waits for its turn.
    pub(super) fn since(&self, id: InstanceId) -> Option<Timestamp> {
        self.all().get(&id).copied()
    }

    /// Forgets those that no longer start.
    pub(super) fn forget(&self, facts: &Facts) {
        let is_starting = |id: &InstanceId| {
            let row = facts.instances.get(id);
            row.is_some_and(|row| matches!(row.condition, Condition::Starting { .. }))
        };
        self.all().retain(|id, _| is_starting(id));
    }
}

/// What came of a start.
enum Begun {
    Runs(std::net::Ipv4Addr),
    Never(String),
    /// The host may be short of something for a moment: tried again until the row counts as lost.
    NotYet,
}

fn begin(control: &Control, workload: &Result<Workload, ControlError>) -> Begun {
    let workload = match workload {
        Ok(workload) => workload,
        // The store did not answer: that says nothing about the release.
        Err(cause @ ControlError::Store(_)) => {
            tracing::warn!(%cause, "could not read what to start");
            return Begun::NotYet;
        }
        Err(cause) => return Begun::Never(crate::operations::failure_of(cause, Vec::new()).message),
    };
    match control.engine.ensure(workload) {
        Ok(address) => Begun::Runs(address),
        Err(EngineError::NotStarted { why, .. }) => Begun::Never(why),
        Err(
            cause @ (EngineError::Image { .. } | EngineError::Volume { .. } | EngineError::Unsupported(_)),
        ) => Begun::Never(cause.to_string()),
        Err(
            cause @ (EngineError::NotRunning(_)
            | EngineError::NotExecuted { .. }
            | EngineError::Source(_)
            | EngineError::Step { .. }
            | EngineError::Full(_)
            | EngineError::Host { .. }),
        ) => {
            tracing::warn!(instance = %workload.id, %cause, "could not start it yet");
            Begun::NotYet
        }
    }
}

/// What its server loads as it starts. One that only does not count its statements serves.
fn preload(
    control: &Control,
    database: &Database,
    version: &str,
    image: &ImageDigest,
    volume: &str,
) -> Option<String> {
    let found = databases::preload(&*control.engine, image, version, volume);
    found.unwrap_or_else(|cause| {
        tracing::warn!(database = %database.name, %cause, "its server will not count statements");
        None
    })
}

fn workload(control: &Control, tx: &ReadTx, instance: &Instance) -> Result<Workload, ControlError> {
    match &instance.purpose {
        Purpose::Service { app, release, .. } | Purpose::Job { app, release, .. } => {
            let app = tx.need::<App>(&app.to_string())?.row;
            let release = tx.need::<Release>(&release.to_string())?.row;
            crate::workload::of_app(control, tx, &app, &release, instance)
        }
        Purpose::Database { database } => {
            let row = tx.need::<Database>(&database.to_string())?.row;
            if !super::databases::is_wanted(&row) {
                return Err(crate::authorize::missing("database", row.name.as_str()));
            }
            let (Some(image), Some(version)) = (&row.image, &row.version) else {
                return Err(crate::authorize::missing("image", "of the database"));
            };
            let volume = volume_of(row.id);
            Ok(match &row.engine {
                DatabaseEngine::Postgres => {
                    let preload = preload(control, &row, version, image, &volume);
                    databases::workload(&row, version, image, instance, &volume, preload)
                }
                DatabaseEngine::Valkey(valkey) => {
                    databases::valkey::workload(&row, valkey.plan, version, image, instance, &volume)
                }
            })
        }
        Purpose::Pooler { database, number } => {
            let row = tx.need::<Database>(&database.to_string())?.row;
            let Some(pooler) = row.pooler.as_ref().filter(|pooler| pooler.number == *number) else {
                return Err(crate::authorize::missing("pooler", row.name.as_str()));
            };
            let password = super::databases::pooler_password(control, row.id, pooler)?;
            Ok(databases::pooler::workload(
                &row,
                &pooler.image,
                instance,
                &format!("{}.internal", crate::routes::lasting_name(&row)),
                password.expose_str().unwrap_or_default(),
            ))
        }
        Purpose::Receiver { database, stretch } => {
            let row = tx.need::<Database>(&database.to_string())?.row;
            let archive = row.archive.as_ref().filter(|archive| archive.stretch == *stretch);
            let (Some(archive), Some(image), Some(version)) = (archive, &row.image, &row.version) else {
                return Err(crate::authorize::missing("archive", row.name.as_str()));
            };
            let password = backups::receiver_password(control, row.id, archive)?;
            let password = password.expose_str().unwrap_or_default();
            let volume = backups::stretch_volume(row.id, *stretch);
            Ok(databases::archive::receiver(
                &row, version, image, instance, &volume, password,
            ))
        }
    }
}
