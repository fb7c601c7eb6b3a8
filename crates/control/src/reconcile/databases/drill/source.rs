//! Where a drill gets its base and log from: this server's own, or the target elsewhere.

use std::thread;
use std::time::{Duration, Instant};

use model::drill::{Check, CheckKind, Expected, Outcome};
use model::{Base, Bytes, Database, DatabaseId, DrilledCopy, Segment, Target};
use plan::backup::{Run, Way};

use super::{failed, took};
use crate::databases::backups;
use crate::databases::room::COPY;
use crate::elsewhere;
use crate::reconcile::databases::reading::{self, Reading, Unread};
use crate::reconcile::databases::{refused, volume_of};
use crate::reconcile::workers::Job;
use crate::{ControlError, operations};

/// What the server had written must be on the target by then: it goes there each half minute, within a minute.
const REACHES_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A copy of a backup.
pub(super) enum Source<'a> {
    Here(DatabaseId),
    Elsewhere(Box<Reading<'a>>, Instant),
}

/// What went on: a check that failed is a verdict, and ends the drill.
pub(super) type Went<T> = Result<Result<T, Check>, ControlError>;

impl<'a> Source<'a> {
    /// The copy, with what it promises.
    pub(super) fn of(
        job: &'a Job,
        database: &Database,
        (copy, expected): (&DrilledCopy, &Expected),
    ) -> Went<(Self, backups::Catalogue)> {
        let DrilledCopy::Target { .. } = copy else {
            let found = backups::catalogue(&job.control, database)?;
            return Ok(Ok((Self::Here(database.id), found)));
        };
        let begun = Instant::now();
        operations::step(&job.control, job.operation, "reading what is on the target")?;
        let ready = reading::target(&job.control)?;
        if elsewhere::copy_on(&ready.row) != *copy {
            return Err(ControlError::State {
                message: "the target was set anew since this drill was asked for".to_owned(),
                next_step: format!(
                    "drill what is there now: stoa db drill {} --from-target",
                    database.name
                ),
            });
        }
        let awaited =
            Reading::own(job, &ready, database.id).and_then(|reading| wait_log(job, reading, expected));
        verdict(awaited, begun)
            .map(|went| went.map(|(reading, found)| (Self::Elsewhere(Box::new(reading), begun), found)))
    }

    /// Bytes that a copy of a base takes in the pool.
    pub(super) fn base_bytes(&self, job: &Job, base: &Base) -> Option<Bytes> {
        let engine = &*job.control.engine;
        let volume = match self {
            Self::Here(id) if engine.capabilities().clone == COPY => backups::base_volume(*id, base.number),
            Self::Here(_) => return None,
            // Nothing there tells how large it is when it is opened: about as large as the database is.
            Self::Elsewhere(reading, _) => volume_of(reading.catalogue.database),
        };
        engine.volume_bytes(&volume, Bytes::new(u64::MAX)).ok()
    }

    /// Makes a volume of a base.
    pub(super) fn lay(&mut self, job: &Job, base: &Base, volume: &str) -> Went<()> {
        let (control, engine) = (&job.control, &*job.control.engine);
        let begun = Instant::now();
        match self {
            Self::Here(id) => {
                operations::step(control, job.operation, &format!("copying base {}", base.number))?;
                let own = backups::base_volume(*id, base.number);
                if !engine.volumes()?.iter().any(|known| known.name == own) {
                    let said = format!("base {} is gone", base.number);
                    return Ok(Err(failed(CheckKind::Manifest, said, begun)));
                }
                engine.clone_volume(&own, volume)?;
                Ok(Ok(()))
            }
            Self::Elsewhere(reading, _) => {
                operations::step(control, job.operation, &format!("fetching base {}", base.number))?;
                engine.create_volume(volume)?;
                verdict(reading.lay(base.number, volume), begun)
            }
        }
    }

    /// Puts the log beside it that goes on from it. Returns what was seen of the copy itself, if anything was.
    pub(super) fn supply(
        &mut self,
        job: &Job,
        (base, run): (&Base, &Run),
        volume: &str,
    ) -> Went<Option<Check>> {
        let begun = Instant::now();
        match self {
            Self::Here(id) => {
                let stretch = backups::stretch_volume(*id, base.stretch);
                let engine = &*job.control.engine;
                match databases::supply(engine, &stretch, volume, base.last, run.last) {
                    Ok(()) => Ok(Ok(None)),
                    Err(databases::DatabaseError::Engine(cause)) => Err(cause.into()),
                    Err(cause) => Ok(Err(failed(CheckKind::Start, cause.to_string(), begun))),
                }
            }
            Self::Elsewhere(reading, since) => {
                let count = run.last.number - base.last.number + 1;
                let step = format!("fetching {count} segments of its log");
                operations::step(&job.control, job.operation, &step)?;
                for number in base.last.number..=run.last.number {
                    let segment = Segment { number, ..base.last };
                    if let Err(check) = verdict(reading.put(base.stretch, segment, volume), begun)? {
                        return Ok(Err(check));
                    }
                }
                databases::ask_for_replay(&*job.control.engine, volume).map_err(refused)?;
                let (objects, bytes) = reading.opened;
                Ok(Ok(Some(Check {
                    kind: CheckKind::Objects,
                    outcome: Outcome::Passed,
                    said: format!(
                        "{objects} objects opened with the key {}, {bytes}",
                        reading.ready.row.fingerprint
                    ),
                    took: took(*since),
                })))
            }
        }
    }
}

/// What was read, or what it tells of the copy that it was not.
fn verdict<T>(read: Result<T, Unread>, begun: Instant) -> Went<T> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(cause) => {
            let cause = cause.damage()?;
            Ok(Err(failed(CheckKind::Objects, cause.to_string(), begun)))
        }
    }
}

/// What is promised there, once what was expected is among it. What is not there by then is what the drill is to find.
fn wait_log<'a>(
    job: &Job,
    mut reading: Reading<'a>,
    expected: &Expected,
) -> Result<(Reading<'a>, backups::Catalogue), Unread> {
    let until = Instant::now() + REACHES_WITHIN;
    loop {
        let found = reading.promised();
        let reaches = |way: Way<'_>| way.run.end >= expected.lsn;
        let is_there = plan::backup::way(&found.bases, &found.runs, Target::Latest).is_some_and(reaches);
        if is_there || Instant::now() >= until {
            return Ok((reading, found));
        }
        operations::step(
            &job.control,
            job.operation,
            "waiting for its log to get to the target",
        )?;
        job.control.uploads.hurry(reading.catalogue.database);
        thread::sleep(LOOK_EVERY);
        reading.refresh()?;
    }
}
