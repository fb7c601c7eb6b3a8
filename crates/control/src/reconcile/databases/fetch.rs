//! Restores from the target elsewhere: a base and the log after it come from there, and nothing else is needed but its key.
//!
//! ```text
//! base opened into a volume (making-..) -> log put beside it -> replayed, settled -> named, as any restore
//! ```
//! Invariants: nothing on the target is changed by it; an object that does not open stops it and is named.

use databases::Replay;
use model::{Base, Bytes, Database, ImageDigest, Restored, Segment, Target};
use plan::backup as planned;

use super::reading::{Reading, ask, target};
use super::restore::last_needed;
use super::{change, refused, volume_of};
use crate::databases::{backups, room};
use crate::elsewhere;
use crate::reconcile::workers::Job;
use crate::{ControlError, operations};

pub(super) fn bring_back(
    job: &Job,
    database: &Database,
    from: &Restored,
    server: &str,
    volume: &str,
) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let ready = target(control)?;
    operations::step(
        control,
        job.operation,
        &format!("reading what is on {}", ready.target),
    )?;
    let mut reading = Reading::of(job, &ready, server, from.of)?;
    let (writer, of) = (server.to_owned(), from.of.to_string());
    let kept = ask(job, &ready, move |ready| {
        elsewhere::find(ready, Some(&writer), &of)
    })??;
    let way = planned::way(&kept.bases, &kept.runs, from.target);
    let Some(way) = way else {
        let windows = planned::windows(&kept.bases, &kept.runs);
        return Err(backups::outside(&from.name, &windows, from.target, "/to"));
    };
    let (base, run) = (way.base.clone(), *way.run);
    let image = image_for(job, &base.version)?;
    job.still_wanted()?;

    operations::step(
        control,
        job.operation,
        &format!(
            "fetching base {} of {}, taken {}",
            base.number, from.name, base.at
        ),
    )?;
    let last = last_needed(base.last, &run, &kept.bases, from.target);
    let count = last.number - base.last.number + 1;
    // All of it is new to the pool, and at least as large as it is there, compressed.
    let bases = reading.catalogue.bases.iter();
    let sealed: u64 = bases
        .filter(|one| one.number == base.number)
        .map(|one| one.bytes)
        .sum();
    let bytes = sealed.saturating_add(count * model::backup::SEGMENT_BYTES);
    room::need_to_restore(control, None, Bytes::new(bytes))?;
    engine.create_volume(volume)?;
    reading.lay(base.number, volume)?;
    compare(job, &base, from, volume)?;

    operations::step(
        control,
        job.operation,
        &format!("fetching {count} segments of its log"),
    )?;
    for number in base.last.number..=last.number {
        reading.put(base.stretch, Segment { number, ..base.last }, volume)?;
    }
    databases::ask_for_replay(engine, volume).map_err(refused)?;

    operations::step(control, job.operation, &format!("replaying to {}", from.target))?;
    let network = database.environment.to_string();
    let places = [job.place(&network)?, job.place(&network)?];
    let is_wanted = || job.still_wanted().is_ok();
    let replay = Replay {
        image: &image,
        version: &base.version,
        volume,
        resources: database.resources,
        target: from.target,
        is_proven: match from.target {
            Target::Latest => true,
            Target::Time { at } => run.is_proven && at <= run.until,
            Target::Lsn { lsn } => run.is_proven && lsn <= run.end,
        },
        is_wanted: &is_wanted,
    };
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let reached = databases::replay(engine, places, &replay, &lines).map_err(refused)?;
    job.still_wanted()?;
    engine.rename_volume(volume, &volume_of(database.id))?;
    change(control, database.id, |database| {
        database.version = Some(base.version.clone());
        database.image = Some(image.clone());
        if let Some(restored) = &mut database.restored {
            restored.reached = Some(reached);
        }
    })
}

/// What was put there was whole, but it may have been put there when it was not any more.
fn compare(job: &Job, base: &Base, from: &Restored, volume: &str) -> Result<(), ControlError> {
    let Some(sum) = base.manifest else {
        return Ok(());
    };
    let control = &*job.control;
    operations::step(control, job.operation, "comparing its files with their list")?;
    let is_wanted = || job.still_wanted().is_ok();
    let found = databases::manifest::compare(&*control.engine, volume, sum, &is_wanted).map_err(refused)?;
    found.map_or(Ok(()), |different| {
        Err(ControlError::State {
            message: format!(
                "base {} of {} on the target is not as it was taken: {different}",
                base.number, from.name
            ),
            next_step: "restore to a moment behind another base: stoa db backups --target".to_owned(),
        })
    })
}

/// The image it ran from is on the other server; one of the same version runs its files.
fn image_for(job: &Job, version: &str) -> Result<ImageDigest, ControlError> {
    let control = &*job.control;
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    operations::step(control, job.operation, &format!("getting PostgreSQL {version}"))?;
    let image = databases::ensure_image(&*control.engine, Some(version), &lines);
    image.map(|(image, _)| image).map_err(refused)
}
