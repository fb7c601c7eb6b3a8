//! Restores: another database with what one had at some time.
//!
//! ```text
//! clone of a base (making-..) -> log handed over -> replayed to the target, settled -> named -> row has an image: wanted
//! -> login -> active
//! ```
//! Invariants: only what reached its target has a volume's final name; after a crash of ours what did not is made again.

use std::time::{Duration, Instant};

use databases::Replay;
use model::{
    Base, Bytes, Database, DatabaseId, Drill, DrillState, DrilledCopy, ImageDigest, Millis, Reached,
    Restored, Segment, Target,
};
use plan::recovery::Measured;

use super::{change, load, refused, serve, unmake, volume_of};
use crate::databases::{backups, room};
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, operations};

/// Makes a database whose row says of which and as of when.
pub(super) fn make(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let result = restore(job, id);
    if let Err(cause) = &result {
        let why = operations::failure_of(cause, Vec::new()).message;
        control.write(|tx| unmake(tx, id, &why))?;
    }
    result
}

fn restore(job: &Job, id: DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let database = load(control, id)?;
    let begun = Instant::now();
    let mut expected = None;
    let from = database.restored.clone().ok_or_else(|| ControlError::State {
        message: format!("{} is no restored database", database.name),
        next_step: "see what there is: stoa db ls".to_owned(),
    })?;
    if database.image.is_none() {
        // Nothing runs on it before the row has an image, so what is there is left by a crash.
        engine.remove_volume(&volume_of(id))?;
        let volume = super::branch::making(id);
        engine.remove_volume(&volume)?;
        let brought = match &from.server {
            None => bring_back(job, &database, &from, &volume).and_then(|brought| {
                expected = Some(brought.expected);
                engine.rename_volume(&volume, &volume_of(id))?;
                change(control, id, |database| {
                    database.version = Some(brought.version.clone());
                    database.image = Some(brought.image.clone());
                    if let Some(restored) = &mut database.restored {
                        restored.reached = Some(brought.reached);
                    }
                })
            }),
            Some(server) => super::fetch::bring_back(job, &database, &from, server, &volume),
        };
        if let Err(cause) = brought {
            drop(engine.remove_volume(&volume));
            return Err(cause);
        }
    }
    serve(job, &database, None)?;
    let reached = load(control, id)?.restored.and_then(|restored| restored.reached);
    let took = expected.map_or_else(String::new, |expected| {
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        format!(" after {} ms, where {} ms were expected", took, expected.as_ms())
    });
    let outcome = format!(
        "{} answers with the data of {} as of {}{}{took}; to sign in: stoa db url {}",
        database.name,
        from.name,
        from.target,
        reached.map(told).unwrap_or_default(),
        database.name
    );
    operations::succeed(control, job.operation, &outcome)
}

fn told(reached: Reached) -> String {
    match reached.at {
        Some(at) => format!(" (the last commit in it is of {at}, at {})", reached.lsn),
        None => format!(" (nothing was committed between its base and {})", reached.lsn),
    }
}

/// A settled cluster, and what it holds.
pub(super) struct Brought {
    pub(super) version: String,
    pub(super) image: ImageDigest,
    pub(super) reached: Reached,
    /// What was said before it began: until something made of it answers.
    pub(super) expected: Millis,
}

/// Brings what a database had to a volume, settled and stopped.
pub(super) fn bring_back(
    job: &Job,
    database: &Database,
    from: &Restored,
    volume: &str,
) -> Result<Brought, ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    let (source, found) = wait_way(job, from)?;
    let way = plan::backup::way(&found.bases, &found.runs, from.target);
    let way = way.ok_or_else(|| {
        let windows = plan::backup::windows(&found.bases, &found.runs);
        backups::outside(&source.name, &windows, from.target, "/to")
    })?;
    let (base, run) = (way.base, way.run);
    let step = format!("copying base {} of {}, taken {}", base.number, from.name, base.at);
    operations::step(control, job.operation, &step)?;
    let last = last_needed(base.last, run, &found.bases, from.target);
    let count = last.number - base.last.number + 1;
    let begins = backups::base_volume(source.id, base.number);
    room::need_to_restore(
        control,
        Some(&begins),
        Bytes::new(count * model::backup::SEGMENT_BYTES),
    )?;
    let expected = expected(control, source.id, &found.bases, count)?;
    let line = format!("expected to take {} ms", expected.as_ms());
    operations::log_line(control, job.operation, &line);
    engine.clone_volume(&begins, volume)?;
    job.still_wanted()?;
    let step = format!("handing over {count} segments of its log");
    operations::step(control, job.operation, &step)?;
    let stretch = backups::stretch_volume(source.id, base.stretch);
    databases::supply(engine, &stretch, volume, base.last, last).map_err(refused)?;
    job.still_wanted()?;
    operations::step(control, job.operation, &format!("replaying to {}", from.target))?;
    let network = database.environment.to_string();
    let places = [job.place(&network)?, job.place(&network)?];
    let is_wanted = || job.still_wanted().is_ok();
    let replay = Replay {
        image: &base.image,
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
    Ok(Brought {
        version: base.version.clone(),
        image: base.image.clone(),
        reached,
        expected,
    })
}

/// How long it will take, by what the last drill that passed took.
fn expected(
    control: &Control,
    source: DatabaseId,
    bases: &[Base],
    segments: u64,
) -> Result<Millis, ControlError> {
    let drills = control.read(|tx| crate::databases::drills::of(tx, source))?;
    let is_like =
        |drill: &&Drill| drill.copy == DrilledCopy::Local && matches!(drill.state, DrillState::Passed { .. });
    let measured = drills.iter().rev().find(is_like).and_then(|drill| {
        let base = bases.iter().find(|base| Some(base.number) == drill.base);
        let log = base.and_then(|base| Some(drill.reached?.lsn.after(base.lsn)));
        Some(Measured {
            took: drill.rto?,
            log: Bytes::new(log.unwrap_or_default()),
        })
    });
    let log = Bytes::new(segments * model::backup::SEGMENT_BYTES);
    Ok(plan::recovery::expected(measured, log))
}

/// What can be restored. The latest is waited for: a new database, or one behind a gap, gets its base soon.
fn wait_way(job: &Job, from: &Restored) -> Result<(Database, backups::Catalogue), ControlError> {
    let control = &*job.control;
    let until = Instant::now() + super::RUNS_WITHIN;
    loop {
        let source = source_of(control, from)?;
        if from.target == Target::Latest {
            backups::bring_up(control, &source)?;
        }
        let found = backups::catalogue(control, &source)?;
        let is_there = plan::backup::way(&found.bases, &found.runs, from.target).is_some();
        if is_there || from.target != Target::Latest || Instant::now() >= until {
            return Ok((source, found));
        }
        job.still_wanted()?;
        operations::step(
            control,
            job.operation,
            &format!("waiting for a base of {}", from.name),
        )?;
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The database whose backup it is: it may be ended by now, as long as its data is kept.
fn source_of(control: &Control, from: &Restored) -> Result<Database, ControlError> {
    let found = control.read(|tx| Ok(tx.get::<Database>(&from.of.to_string())?))?;
    found.map(|found| found.row).ok_or_else(|| ControlError::State {
        message: format!("the backup of {} is gone with it", from.name),
        next_step: "see what there is: stoa db ls".to_owned(),
    })
}

/// Up to where the log is handed over.
pub(super) fn last_needed(
    first: Segment,
    run: &plan::backup::Run,
    bases: &[model::Base],
    target: Target,
) -> Segment {
    let is_later = |base: &&model::Base| match target {
        Target::Latest => false,
        Target::Time { at } => base.at > at,
        Target::Lsn { lsn } => base.lsn > lsn,
    };
    let mut later: Vec<u64> = bases
        .iter()
        .filter(|base| base.stretch == run.stretch)
        .filter(is_later)
        .map(|base| base.last.number)
        .collect();
    later.sort_unstable();
    // Not the first: what was committed while it was noted when that was taken lies behind it. The next was begun after
    // that.
    let number = later.get(1).copied().unwrap_or(run.last.number);
    Segment {
        number: number.clamp(first.number, run.last.number),
        ..first
    }
}

#[cfg(test)]
mod tests {
    use model::{Base, Lsn, Timestamp};
    use plan::backup::Run;

    use super::*;

    #[test]
    fn the_log_is_handed_over_to_the_second_base_after_the_target() {
        let segment = |number| Segment { timeline: 1, number };
        let base = |number: u64| Base {
            number,
            stretch: 1,
            at: Timestamp::from_ms(number * 1000),
            lsn: Lsn::new(number * 160 * model::backup::SEGMENT_BYTES),
            last: segment(number * 10),
            version: "15".to_owned(),
            manifest: None,
            image: format!("sha256:{}", "0".repeat(64)).parse().expect("a digest"),
        };
        let bases: Vec<Base> = [3, 1, 4, 2].map(base).into();
        let run = Run {
            stretch: 1,
            first: segment(5),
            last: segment(99),
            is_open: false,
            end: segment(99).end(),
            until: Timestamp::from_ms(90_000),
            is_proven: true,
        };
        let needed = |target| last_needed(segment(10), &run, &bases, target).number;
        let time = |ms| Target::Time {
            at: Timestamp::from_ms(ms),
        };
        assert_eq!(
            (needed(time(1500)), needed(time(2500)), needed(time(3500))),
            (30, 40, 99)
        );
        assert_eq!(needed(Target::Lsn { lsn: bases[1].lsn }), 30);
        assert_eq!(needed(Target::Latest), 99);
    }
}
