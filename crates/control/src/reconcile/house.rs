//! Housekeeping: what nobody needs any more goes, so that nothing grows for ever.
//!
//! Lives here: settled operations with their logs, leftovers of builds, old revisions, images, logs of what is gone.
//! Does not live here: uploads (`uploads`), ended instances (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

use model::{Environment, EnvironmentId, Instance, Millis, Operation, OperationId, Release, Timestamp};

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
    Ok(())
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
