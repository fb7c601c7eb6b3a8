//! Restores from the target elsewhere: a base and the log after it come from there, and nothing else is needed but its key.
//!
//! ```text
//! base opened into a volume (making-..) -> log put beside it -> replayed, settled -> named, as any restore
//! ```
//! Invariants: nothing on the target is changed by it; an object that does not open stops it and is named.

use std::io::{self, Read};

use ::backup::{BackupError, Manifest, Names, open};
use databases::{Replay, carry};
use model::{Base, Database, ImageDigest, Restored, Segment, Target};
use plan::backup as planned;

use super::restore::last_needed;
use super::{change, refused, volume_of};
use crate::databases::backups;
use crate::elsewhere::{self, Kept, Ready, target_refused};
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
    let row = elsewhere::row(control)?.ok_or_else(elsewhere::none)?;
    let ready = elsewhere::ready(control, row)?;
    operations::step(
        control,
        job.operation,
        &format!("reading what is on {}", ready.target),
    )?;
    let kept = elsewhere::find(&ready, Some(server), &from.of.to_string())?;
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
    engine.create_volume(volume)?;
    let mut parts = Parts::of(job, &ready, &kept, base.number)?;
    let unpacked = carry::unpack(engine, volume, &mut parts);
    // What stopped it says more than that the stream ended.
    match (parts.failure.take(), unpacked) {
        (Some(cause), _) => return Err(cause),
        (None, unpacked) => unpacked.map_err(refused)?,
    }
    compare(job, &base, from, volume)?;

    let last = last_needed(base.last, &run, &kept.bases, from.target);
    let count = last.number - base.last.number + 1;
    operations::step(
        control,
        job.operation,
        &format!("fetching {count} segments of its log"),
    )?;
    for number in base.last.number..=last.number {
        job.still_wanted()?;
        let segment = Segment { number, ..base.last };
        fetch_segment(job, &ready, &kept, (base.stretch, segment), volume)?;
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

fn fetch_segment(
    job: &Job,
    ready: &Ready,
    kept: &Kept,
    (stretch, segment): (u64, Segment),
    volume: &str,
) -> Result<(), ControlError> {
    let (names, id) = (Names::of(&kept.server), kept.catalogue.database);
    let stretches = kept
        .catalogue
        .stretches
        .iter()
        .filter(|other| other.number == stretch);
    let mut files = stretches
        .flat_map(|stretch| &stretch.files)
        .filter(|file| file.segment == segment);
    let file = files
        .next()
        .ok_or(databases::DatabaseError::Gap { segment })
        .map_err(refused)?;
    let name = match file.open_at {
        Some(at) => names.open_segment(id, stretch, segment, at),
        None => names.segment(id, stretch, segment),
    };
    let sealed = ready.target.get(&name).map_err(|cause| target_refused(&cause))?;
    let mut opened = open(&ready.key, &name, sealed).map_err(|cause| damaged(&name, &cause))?;
    carry::put_segment(
        &*job.control.engine,
        volume,
        segment,
        &mut Named(&name, &mut opened),
    )
    .map_err(refused)
}

fn damaged(object: &str, cause: &io::Error) -> ControlError {
    target_refused(&BackupError::Damaged {
        object: object.to_owned(),
        why: cause.to_string(),
    })
}

/// Says of which object an error is.
struct Named<'a>(&'a str, &'a mut dyn Read);

impl Read for Named<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.1.read(into);
        read.map_err(|cause| {
            io::Error::new(
                cause.kind(),
                format!("the object {} on the target {cause}", self.0),
            )
        })
    }
}

/// The parts of a base, one after the other, as one stream.
struct Parts<'a> {
    job: &'a Job,
    ready: &'a Ready,
    left: std::vec::IntoIter<::backup::Part>,
    now: Option<(String, ::backup::Opened<'static>)>,
    failure: Option<ControlError>,
}

impl<'a> Parts<'a> {
    fn of(job: &'a Job, ready: &'a Ready, kept: &Kept, number: u64) -> Result<Self, ControlError> {
        let name = Names::of(&kept.server).manifest(kept.catalogue.database, number);
        let manifest: Manifest = ready
            .target
            .document(&ready.key, &name)
            .map_err(|cause| target_refused(&cause))?;
        Ok(Self {
            job,
            ready,
            left: manifest.parts.into_iter(),
            now: None,
            failure: None,
        })
    }

    fn next(&mut self) -> Result<bool, ControlError> {
        let Some(part) = self.left.next() else {
            return Ok(false);
        };
        self.job.still_wanted()?;
        let sealed = self
            .ready
            .target
            .get(&part.name)
            .map_err(|cause| target_refused(&cause))?;
        let opened =
            open(&self.ready.key, &part.name, sealed).map_err(|cause| damaged(&part.name, &cause))?;
        self.now = Some((part.name, opened));
        Ok(true)
    }
}

impl Read for Parts<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((name, part)) = &mut self.now {
                match part.read(into) {
                    Ok(0) => self.now = None,
                    Ok(count) => return Ok(count),
                    Err(cause) => {
                        self.failure = Some(damaged(name, &cause));
                        return Err(cause);
                    }
                }
            }
            match self.next() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(cause) => {
                    let told = io::Error::other(cause.to_string());
                    self.failure = Some(cause);
                    return Err(told);
                }
            }
        }
    }
}
