//! Housekeeping: what nobody needs any more goes, so that nothing grows for ever.
//!
//! Lives here: settled operations with their logs, old releases and versions of secrets, leftovers of builds, old
//! revisions, images, templates of databases, logs of what is gone.
//! Does not live here: uploads (`uploads`), ended instances (`plan`).
//! Invariant: a row that is damaged is waited for, and so is what it may need; everything else goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

use model::operation::Work;
use model::{
    App, Database, Environment, EnvironmentId, ImageDigest, Instance, Millis, Operation, OperationId,
    Release, ReleaseId, SecretId, Timestamp,
};
use plan::prune::Fate;
use store::rows::SecretVersion;
use store::{Expect, ReadTx, Versioned, WriteTx};

use crate::transact::unless_corrupt;
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
    let ((mut all, untold), (places, lost)) = control.read(|tx| {
        Ok((
            crate::transact::all::<Operation>(tx)?,
            crate::transact::all::<Environment>(tx)?,
        ))
    })?;
    let places: BTreeSet<EnvironmentId> = places.into_iter().map(|place| place.id).collect();
    all.sort_by_key(|operation| std::cmp::Reverse(operation.id));
    let mut newest: BTreeMap<_, usize> = BTreeMap::new();
    let mut old = Vec::new();
    for operation in all.iter().filter(|operation| operation.state.is_settled()) {
        let count = newest.entry(operation.environment).or_default();
        *count += 1;
        // Of an environment that is gone nobody can see them any more. One that cannot be told is not gone.
        let is_gone = |of: EnvironmentId| !places.contains(&of) && !lost.contains(&of.to_string());
        if operation.environment.is_some_and(is_gone)
            || *count > KEEP_NEWEST && now.since(operation.created_at) > KEEP
        {
            old.push(operation.id);
        }
    }
    old.truncate(AT_ONCE);
    if !old.is_empty() {
        let gone = control.write(|tx| {
            let mut gone = Vec::new();
            for id in &old {
                let deleted = tx.delete::<Operation>(&id.to_string(), Expect::Any);
                // What is damaged waits for its repair.
                if unless_corrupt(deleted.map_err(ControlError::from))?.is_some() {
                    gone.push(*id);
                }
            }
            Ok(gone)
        })?;
        for id in gone {
            drop(fs::remove_file(operations::log_path(control, id)));
        }
    }
    // With its release made, an operation does not build again. One that cannot be told may.
    let open: BTreeSet<OperationId> = all
        .iter()
        .filter(|operation| !operation.state.is_settled() && operation.release.is_none())
        .map(|operation| operation.id)
        .chain(untold.iter().filter_map(|id| id.parse().ok()))
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
    // What ended is history: it needs neither its release nor the image of that.
    let mut wanted: BTreeSet<ReleaseId> = tx
        .list::<Instance>(&parent)?
        .iter()
        .filter(|found| found.row.condition.is_live())
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

/// Collects images that no release that is left, no instance and no database needs: any release that is there may be gone
/// back to.
pub(super) fn images(control: &Control) -> Result<(), ControlError> {
    let keep = control.read(|tx| {
        let (releases, untold) = crate::transact::all::<Release>(tx)?;
        let (databases, lost) = crate::transact::all::<Database>(tx)?;
        if !untold.is_empty() || !lost.is_empty() {
            // Which images those need cannot be told either.
            return Ok(None);
        }
        let images = releases.into_iter().flat_map(|release| {
            let own = release.images.into_values();
            own.chain([release.image])
        });
        // A base is replayed by the image it ran from, whatever runs now; so is what a drill left.
        let databases = databases.into_iter().flat_map(|database| {
            let archived = database.archive.into_iter().flat_map(|archive| {
                let bases = archive.bases.into_iter().map(|base| base.image);
                bases.chain(archive.drilled.map(|drilled| drilled.image))
            });
            archived.chain(database.image)
        });
        let keep: BTreeSet<ImageDigest> = images.chain(databases).collect();
        Ok(Some(keep.into_iter().collect::<Vec<_>>()))
    })?;
    let Some(keep) = keep else {
        tracing::warn!(
            "no images are collected while rows of the store are damaged; end stoa up, then: stoa doctor --repair"
        );
        return Ok(());
    };
    let freed = control.engine.collect_images(&keep)?;
    if freed > 0 {
        tracing::info!(freed, "collected images that nothing needs");
    }
    crate::images::collect(control)
}

/// Collects the templates of databases, and the volumes made of them beforehand, whose image was replaced. Not while a
/// database is being made of one.
pub(super) fn templates(control: &Control) -> Result<(), ControlError> {
    let makes = |work: &Work| match work {
        Work::CreateDatabase { .. } | Work::BranchDatabase { .. } | Work::ResetDatabase { .. } => true,
        _other => false,
    };
    if control.read(|tx| Ok(control.open.at(tx)?.iter().any(|one| makes(&one.work))))? {
        return Ok(());
    }
    databases::collect_templates(&*control.engine).map_err(super::databases::refused)
}

/// Collects the logs of apps and databases that are gone. One that cannot be told is not gone.
pub(super) fn logs(control: &Control) -> Result<(), ControlError> {
    let keep = control.read(|tx| {
        let (apps, mut keep) = crate::transact::all::<App>(tx)?;
        let (databases, lost) = crate::transact::all::<Database>(tx)?;
        keep.extend(lost);
        keep.extend(apps.into_iter().map(|app| app.id.to_string()));
        keep.extend(databases.into_iter().map(|database| database.id.to_string()));
        Ok(keep)
    })?;
    Ok(control.engine.collect_logs(&keep)?)
}
