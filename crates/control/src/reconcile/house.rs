//! Housekeeping: what nobody needs any more goes, so that nothing grows for ever.
//!
//! Lives here: settled operations with their logs, old releases and versions of secrets, leftovers of builds, old
//! revisions, images, logs of what is gone.
//! Does not live here: uploads (`uploads`), ended instances (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

use model::operation::Work;
use model::{
    App, Environment, EnvironmentId, Instance, Millis, Operation, OperationId, Release, ReleaseId, SecretId,
    Timestamp,
};
use plan::prune::Fate;
use store::rows::SecretVersion;
use store::{Expect, ReadTx, Versioned, WriteTx};

use crate::{Control, ControlError, operations};

/// Revisions of the change log that stay for watchers.
const KEEP_REVISIONS: u64 = 20_000;
/// Settled operations stay at least this long, so that whoever asked can still read how it went.
const KEEP: Millis = Millis::seconds(14 * 24 * 3600);
/// The newest settled ones of each environment stay however old they are.
const KEEP_NEWEST: usize = 200;
/// Most that are removed at once, so that a look stays short.
const AT_ONCE: usize = 500;

/// Removes old settled operations, their logs, and build directories without work under way.
/// `begun`: when this process began to work; nobody is at what is older.
pub(super) fn operations(control: &Control, begun: SystemTime, now: Timestamp) -> Result<(), ControlError> {
    let (mut all, places) = control.read(|tx| {
        let places = tx.list_all::<Environment>()?.into_iter();
        let places: BTreeSet<EnvironmentId> = places.map(|found| found.row.id).collect();
        Ok((tx.list_all::<Operation>()?, places))
    })?;
    all.sort_by_key(|found| std::cmp::Reverse(found.row.id));
    let mut newest: BTreeMap<_, usize> = BTreeMap::new();
    let mut old = Vec::new();
    for found in all.iter().filter(|found| found.row.state.is_settled()) {
        let count = newest.entry(found.row.environment).or_default();
        *count += 1;
        // Of an environment that is gone nobody can see them any more.
        let is_hidden = found.row.environment.is_some_and(|of| !places.contains(&of));
        if is_hidden || *count > KEEP_NEWEST && now.since(found.row.created_at) > KEEP {
            old.push(found.row.id);
        }
    }
    old.truncate(AT_ONCE);
    if !old.is_empty() {
        control.write(|tx| {
            for id in &old {
                tx.delete::<Operation>(&id.to_string(), store::Expect::Any)?;
            }
            Ok(())
        })?;
        for id in &old {
            drop(fs::remove_file(operations::log_path(control, *id)));
        }
    }
    // With its release made, an operation does not build again.
    let open: BTreeSet<OperationId> = all
        .iter()
        .filter(|found| !found.row.state.is_settled() && found.row.release.is_none())
        .map(|found| found.row.id)
        .collect();
    let Ok(builds) = fs::read_dir(control.settings.data_dir.join("builds")) else {
        return Ok(());
    };
    for entry in builds.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let modified = entry.metadata().and_then(|meta| meta.modified());
        // A worker whose operation was given up may still be at work there for a while.
        let is_left = modified.is_ok_and(|at| at < begun || at.elapsed().is_ok_and(|age| age > BUILD_AGE));
        if is_left && name.parse::<OperationId>().is_ok_and(|id| !open.contains(&id)) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

/// Longer than any build may take.
const BUILD_AGE: std::time::Duration = std::time::Duration::from_secs(2 * 3600);

/// Forgets revisions that no watcher can want.
pub(super) fn revisions(control: &Control, now: Timestamp) -> Result<(), ControlError> {
    control.store.write(control.clock.now(), |tx| {
        tx.compact(KEEP_REVISIONS, now.as_ms())
            .map(drop)
            .map_err(ControlError::from)
    })
}

/// Removes releases that no rollback can want, and versions of secrets that no release left has frozen.
pub(super) fn releases(control: &Control) -> Result<(), ControlError> {
    let (apps, _) = control.read(crate::transact::all::<App>)?;
    for app in apps {
        match control.read(|tx| surplus(control, tx, &app)) {
            Ok(found) if found.is_empty() => {}
            // Looked at again where it is changed: a rollback may have been accepted since.
            Ok(_) => control.write(|tx| {
                let app = tx.need::<App>(&app.id.to_string())?;
                let surplus = surplus(control, tx, &app.row)?;
                remove(tx, app, &surplus)
            })?,
            // It waits for its repair; the others do not.
            Err(cause) if cause.is_corrupt() => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// What may go of an app.
struct Surplus {
    releases: BTreeSet<ReleaseId>,
    secrets: Vec<SecretId>,
}

impl Surplus {
    fn is_empty(&self) -> bool {
        self.releases.is_empty() && self.secrets.is_empty()
    }
}

fn surplus(control: &Control, tx: &ReadTx, app: &App) -> Result<Surplus, ControlError> {
    let parent = app.id.to_string();
    let mut left: BTreeMap<ReleaseId, Release> = tx
        .list::<Release>(&parent)?
        .into_iter()
        .map(|found| (found.row.id, found.row))
        .collect();
    let mut wanted: BTreeSet<ReleaseId> = tx
        .list::<Instance>(&parent)?
        .iter()
        .filter_map(|found| found.row.purpose.release())
        .collect();
    for operation in operations::unsettled_of(control, tx, app)? {
        wanted.extend(operation.release);
        if let Work::Rollback { to, .. } = operation.work {
            wanted.insert(to);
        }
    }
    let fates = plan::prune::releases(app, &left, plan::prune::KEEP);
    let goes = |(id, fate): &(&ReleaseId, &Fate)| matches!(fate, Fate::Go { .. }) && !wanted.contains(id);
    let releases: BTreeSet<ReleaseId> = fates
        .iter()
        .filter(goes)
        .take(AT_ONCE)
        .map(|(id, _)| *id)
        .collect();
    left.retain(|id, _| !releases.contains(id));
    let rows = tx.list::<SecretVersion>(&parent)?;
    let versions = rows
        .iter()
        .map(|found| (found.row.key.clone(), found.row.version));
    let old = plan::prune::secret_versions(&versions.collect(), &left);
    let secrets = rows
        .into_iter()
        .filter(|found| old.contains(&(found.row.key.clone(), found.row.version)))
        .take(AT_ONCE)
        .map(|found| found.row.id)
        .collect();
    Ok(Surplus { releases, secrets })
}

fn remove(tx: &WriteTx, mut app: Versioned<App>, surplus: &Surplus) -> Result<(), ControlError> {
    for id in &surplus.releases {
        tx.delete::<Release>(&id.to_string(), Expect::Any)?;
    }
    for id in &surplus.secrets {
        tx.delete::<SecretVersion>(&id.to_string(), Expect::Any)?;
    }
    let before = app.row.served_before.len();
    app.row
        .served_before
        .retain(|release| !surplus.releases.contains(release));
    if app.row.served_before.len() != before {
        tx.update_status(&app.row, Expect::Rev(app.rev))?;
    }
    Ok(())
}

/// Collects images that no kept release, no instance and no database needs.
pub(super) fn images(control: &Control) -> Result<(), ControlError> {
    let keep = control.read(|tx| {
        let mut keep = BTreeSet::new();
        for app in tx.list_all::<model::App>()? {
            let rows = tx.list::<Release>(&app.row.id.to_string())?;
            let releases: BTreeMap<_, _> = rows.into_iter().map(|found| (found.row.id, found.row)).collect();
            let fates = plan::prune::releases(&app.row, &releases, plan::prune::KEEP);
            keep.append(&mut plan::prune::needed_images(&releases, &fates));
        }
        // What runs needs its image, whatever became of its release.
        for instance in tx.list_all::<Instance>()? {
            let (release, process) = match &instance.row.purpose {
                model::Purpose::Service { release, service, .. } => (release, service),
                model::Purpose::Job { release, job, .. } => (release, job),
                model::Purpose::Database { .. } => continue,
            };
            if instance.row.condition.is_live()
                && let Some(release) = tx.get::<Release>(&release.to_string())?
            {
                let own = release.row.images.get(process);
                keep.insert(own.unwrap_or(&release.row.image).clone());
            }
        }
        keep.extend(
            tx.list_all::<model::Database>()?
                .into_iter()
                .filter_map(|found| found.row.image),
        );
        Ok(keep.into_iter().collect::<Vec<_>>())
    })?;
    let freed = control.engine.collect_images(&keep)?;
    if freed > 0 {
        tracing::info!(freed, "collected images that nothing needs");
    }
    crate::images::collect(control)
}

/// Collects the logs of apps and databases that are gone.
pub(super) fn logs(control: &Control) -> Result<(), ControlError> {
    let keep = control.read(|tx| {
        let apps = tx.list_all::<model::App>()?.into_iter();
        let mut keep: BTreeSet<String> = apps.map(|found| found.row.id.to_string()).collect();
        let databases = tx.list_all::<model::Database>()?.into_iter();
        keep.extend(databases.map(|found| found.row.id.to_string()));
        Ok(keep)
    })?;
    Ok(control.engine.collect_logs(&keep)?)
}
