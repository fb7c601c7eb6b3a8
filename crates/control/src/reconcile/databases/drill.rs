//! Drills: a backup is restored into a throw-away instance and looked at.
//!
//! ```text
//! row and operation (one transaction) -> what must be there is asked of the server and kept in the row
//! -> log without a hole up to there? -> room? -> clone of the base (making-drill-..) -> its files as listed?
//! -> log handed over -> replayed without a network, looked at -> verdict in the row -> clone removed
//! ```
//! A drill of the copy on the target waits until that is on it, and fetches base and log from there (`source`).
//! Invariants: what must be there is asked once, before anything is read; after a crash of ours the drill is done again
//! from the base on. What keeps a drill from being done is no verdict on the backup.

mod source;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use databases::{Estimates, Findings, Psql, Rehearsal};
use model::drill::{Check, CheckKind, Expected, Outcome};
use model::{
    Base, Bytes, Database, DatabaseId, Drill, DrillId, DrillState, Drilled, DrilledCopy, Instance, Millis,
    Segment, Timestamp,
};
use plan::backup::Way;
use plan::drill;
use store::{Expect, WriteTx};

use super::archive::{is_archived, takes_base};
use super::{change, load, refused};
use crate::databases::{backups, room};
use crate::reconcile::workers::Job;
use crate::{Control, ControlError, operations};
use source::Source;

/// The clone of a base that a drill works on: of its own name, for one that was given up may not have noticed yet.
fn making(id: DatabaseId, drill: DrillId) -> String {
    format!("{}{}", makings_of(id), drill.short(26))
}

/// How the names of those begin.
pub(super) fn makings_of(id: DatabaseId) -> String {
    format!("making-drill-{}-", id.short(26))
}

/// A drill that was given up.
pub(in crate::reconcile) fn undo(
    tx: &WriteTx,
    id: DrillId,
    why: &str,
    now: Timestamp,
) -> Result<(), ControlError> {
    if let Some(mut found) = tx.get::<Drill>(&id.to_string())?
        && found.row.state == DrillState::Running
    {
        found.row.state = DrillState::Undone {
            at: now,
            why: why.to_owned(),
        };
        tx.update_status(&found.row, Expect::Any)?;
    }
    Ok(())
}

pub(super) fn psql<'a>(control: &'a Control, server: &Instance) -> Psql<'a> {
    Psql {
        engine: &*control.engine,
        instance: server.id,
    }
}

fn note(control: &Control, id: DrillId, change: impl Fn(&mut Drill)) -> Result<Drill, ControlError> {
    control.write(|tx| {
        let mut found = tx.need::<Drill>(&id.to_string())?;
        // What was given up meanwhile stays so.
        if found.row.state == DrillState::Running {
            change(&mut found.row);
            tx.update_status(&found.row, Expect::Rev(found.rev))?;
        }
        Ok(found.row)
    })
}

/// Does a drill whose row says of what.
pub(super) fn make(job: &Job, id: DatabaseId, drill: DrillId) -> Result<(), ControlError> {
    let control = &*job.control;
    let volume = making(id, drill);
    let done = rehearse(job, id, drill, &volume);
    let removed = control.engine.remove_volume(&volume);
    if let Err(cause) = done {
        let why = operations::failure_of(&cause, Vec::new()).message;
        control.write(|tx| undo(tx, drill, &why, control.now_of(tx)))?;
        return Err(cause);
    }
    removed?;
    let (database, found) = (load(control, id)?, note(control, drill, |_| {})?);
    settle(job, &database, &found)
}

/// The operation ends as the drill did.
fn settle(job: &Job, database: &Database, drill: &Drill) -> Result<(), ControlError> {
    let name = &database.name;
    let (of, again) = match &drill.copy {
        DrilledCopy::Local => (String::new(), format!("stoa db drill {name}")),
        DrilledCopy::Target { place, .. } => (
            format!(" on {place}"),
            format!("stoa db drill {name} --from-target"),
        ),
    };
    let Some(failed) = drill.failed_check() else {
        let lsn = drill
            .reached
            .map_or_else(|| "?".to_owned(), |reached| reached.lsn.to_string());
        let outcome = format!(
            "the backup of {name}{of} brings it back: restored from base {} up to {lsn} in {} ms, {} tables with {} rows read",
            drill.base.unwrap_or_default(),
            drill.rto.map_or(0, Millis::as_ms),
            drill.tables,
            drill.rows
        );
        return operations::succeed(&job.control, job.operation, &outcome);
    };
    let is_there = matches!(drill.copy, DrilledCopy::Target { .. });
    let next_step = match failed.kind {
        CheckKind::Objects => format!(
            "see what else is damaged there: stoa server backup-target verify; the next base there, within a day, needs nothing of it; then: {again}"
        ),
        CheckKind::Log if is_there => {
            format!("see since when it waits and why: stoa db backups {name}, then: {again}")
        }
        CheckKind::Log => format!(
            "see what is missing: stoa db backups {name}; a base behind it helps: stoa db backup {name}, then: {again}"
        ),
        CheckKind::Manifest | CheckKind::Start | CheckKind::Place | CheckKind::Canary => format!(
            "change nothing in {name} that you may want back; take another base: stoa db backup {name}, then: {again}"
        ),
        // It may have been copied as it was.
        CheckKind::Amcheck | CheckKind::Read | CheckKind::Rows => format!(
            "see whether {name} itself has the same damage: stoa db connect {name}; an earlier moment may be sound: stoa db backups {name}"
        ),
    };
    Err(ControlError::State {
        message: format!(
            "the drill of {name}{of} failed at the check {}: {}; {name} is unprotected{}",
            failed.kind.as_str(),
            failed.said,
            if is_there { " there" } else { "" }
        ),
        next_step,
    })
}

/// Brings the row of a drill to its verdict.
fn rehearse(job: &Job, id: DatabaseId, drill: DrillId, volume: &str) -> Result<(), ControlError> {
    let control = &*job.control;
    let engine = &*control.engine;
    // What tries that were cut short left.
    for left in engine.volumes()? {
        if left.name.starts_with(&makings_of(id)) {
            engine.remove_volume(&left.name)?;
        }
    }
    let row = note(control, drill, |_| {})?;
    if row.state != DrillState::Running {
        return Ok(());
    }
    let database = match row.copy {
        DrilledCopy::Local => wait_base(job, id)?,
        DrilledCopy::Target { .. } => load(control, id)?,
    };
    let (expected, estimates) = expect(job, &database, &row)?;
    let mut checks = Vec::new();
    let (mut source, found) = match Source::of(job, &database, (&row.copy, &expected))? {
        Ok(found) => found,
        Err(check) => {
            tell(job, &mut checks, check);
            return verdict(control, drill, &checks, &Findings::default(), None);
        }
    };
    let way = plan::backup::way(&found.bases, &found.runs, model::Target::Latest);
    let log = check_log(&found, way, &expected);
    tell(job, &mut checks, log);
    let Some(way) = way.filter(|_| is_all_well(&checks)) else {
        return verdict(control, drill, &checks, &Findings::default(), None);
    };
    need_room(job, id, &source, way)?;
    note(control, drill, |drill| drill.base = Some(way.base.number))?;
    let begun = Instant::now();
    if let Err(gone) = source.lay(job, way.base, volume)? {
        tell(job, &mut checks, gone);
        return verdict(control, drill, &checks, &Findings::default(), None);
    }
    let cloned = begun.elapsed();
    job.still_wanted()?;
    operations::step(control, job.operation, "comparing its files with their list")?;
    let manifest = check_manifest(job, way.base, volume)?;
    tell(job, &mut checks, manifest);
    let begun = Instant::now();
    let findings = match source.supply(job, (way.base, way.run), volume)? {
        Ok(opened) => {
            if let Some(opened) = opened {
                tell(job, &mut checks, opened);
            }
            replay(job, &database, way.base, &expected, volume, (begun, cloned))?
        }
        Err(check) => {
            tell(job, &mut checks, check);
            Findings::default()
        }
    };
    job.still_wanted()?;
    checks.extend(findings.checks.iter().cloned());
    if findings.reached.is_some() {
        let rows = check_rows(&findings, estimates.as_ref());
        tell(job, &mut checks, rows);
    }
    let size = engine.volume_bytes(volume, Bytes::new(u64::MAX)).ok();
    // What was fetched shares no block with the database: kept, it would take the room of another one.
    let is_cheap = row.copy == DrilledCopy::Local;
    if let (true, Some(reached)) = (is_cheap && is_all_well(&checks), findings.reached) {
        let drilled = Drilled {
            drill,
            at: expected.at,
            lsn: reached.lsn,
            version: way.base.version.clone(),
            image: way.base.image.clone(),
        };
        keep(control, id, &drilled, volume)?;
    }
    verdict(control, drill, &checks, &findings, size)
}

/// Keeps what the drill made, in the place of what the one before it left: branches are made of it. Where a clone is a whole
/// copy, it is not kept: it would take the room of another database.
fn keep(control: &Control, id: DatabaseId, drilled: &Drilled, volume: &str) -> Result<(), ControlError> {
    let engine = &*control.engine;
    if engine.capabilities().clone.as_str() == room::COPY {
        return Ok(());
    }
    let kept = backups::drilled_volume(id, drilled.drill);
    // Of the same drill, before a crash of ours.
    engine.remove_volume(&kept)?;
    engine.rename_volume(volume, &kept)?;
    change(control, id, |database| {
        if let Some(archive) = &mut database.archive {
            archive.drilled = Some(drilled.clone());
        }
    })?;
    forget_others(control, id, Some(drilled.drill))
}

/// Removes what drills left, but for one.
fn forget_others(control: &Control, id: DatabaseId, but: Option<DrillId>) -> Result<(), ControlError> {
    let but = but.map(|drill| backups::drilled_volume(id, drill));
    for left in control.engine.volumes()? {
        if left.name.starts_with(&backups::drilled_of(id)) && Some(&left.name) != but.as_ref() {
            control.engine.remove_volume(&left.name)?;
        }
    }
    Ok(())
}

fn is_all_well(checks: &[Check]) -> bool {
    !checks.iter().any(|check| check.outcome == Outcome::Failed)
}

fn tell(job: &Job, checks: &mut Vec<Check>, check: Check) {
    let line = format!("{}: {}", check.kind.as_str(), check.said);
    operations::log_line(&job.control, job.operation, &line);
    checks.push(check);
}

fn took(begun: Instant) -> Millis {
    Millis::new(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn failed(kind: CheckKind, said: String, begun: Instant) -> Check {
    Check {
        kind,
        outcome: Outcome::Failed,
        said,
        took: took(begun),
    }
}

fn verdict(
    control: &Control,
    drill: DrillId,
    checks: &[Check],
    findings: &Findings,
    size: Option<Bytes>,
) -> Result<(), ControlError> {
    let at = Timestamp::now();
    let state = match is_all_well(checks) {
        true => DrillState::Passed { at },
        false => DrillState::Failed { at },
    };
    note(control, drill, |drill| {
        drill.checks = checks.to_vec();
        drill.reached = findings.reached;
        drill.rto = findings.rto;
        drill.size = size;
        drill.tables = findings.counted.len() as u64;
        drill.rows = findings.counted.iter().map(|one| one.rows).sum();
        drill.state = state.clone();
    })
    .map(drop)
}

/// The database, once no base of it is being taken and, for a new one, once there is one.
fn wait_base(job: &Job, id: DatabaseId) -> Result<Database, ControlError> {
    let control = &*job.control;
    let until = Instant::now() + super::RUNS_WITHIN;
    loop {
        let (rev, database, is_taken) = control.read(|tx| {
            let is_taken = control.open.at(tx)?.iter().any(|open| takes_base(open, id));
            Ok((tx.rev()?, tx.need::<Database>(&id.to_string())?.row, is_taken))
        })?;
        let has_base = database
            .archive
            .as_ref()
            .is_some_and(|archive| !archive.bases.is_empty());
        if !is_taken && (has_base || !is_archived(&database) || Instant::now() >= until) {
            return Ok(database);
        }
        job.still_wanted()?;
        operations::step(control, job.operation, "waiting for a base")?;
        control.store.wait_change(rev, Duration::from_secs(1));
    }
}

/// What must be there, asked once; and how many rows there are about, as far as the server tells now.
fn expect(
    job: &Job,
    database: &Database,
    row: &Drill,
) -> Result<(Expected, Option<Estimates>), ControlError> {
    let control = &*job.control;
    operations::step(control, job.operation, "asking the server what must be there")?;
    let server = backups::server_of(control, database.id)?;
    let estimates = server
        .as_ref()
        .and_then(|server| databases::estimates(psql(control, server)).ok());
    if let Some(expected) = &row.expected {
        return Ok((expected.clone(), estimates));
    }
    let asked = server.and_then(|server| ask_server(control, database, &server));
    let expected = match asked {
        Some(expected) => Some(expected),
        // How far it was when it was heard of last.
        None => backups::catalogue(control, database)?
            .stretches
            .iter()
            .max_by_key(|stretch| stretch.number)
            .and_then(|stretch| stretch.complete)
            .map(|(at, lsn)| Expected {
                at,
                lsn,
                canary: None,
            }),
    };
    let expected = expected.ok_or_else(|| ControlError::State {
        message: format!(
            "the server of {} does not answer, and nobody knows how far its log went",
            database.name
        ),
        next_step: format!("see why: stoa db info {}", database.name),
    })?;
    note(control, row.id, |drill| drill.expected = Some(expected.clone()))?;
    Ok((expected, estimates))
}

/// Nothing when it does not answer.
fn ask_server(control: &Control, database: &Database, server: &Instance) -> Option<Expected> {
    let psql = psql(control, server);
    let at = Timestamp::now();
    // One that is full has no room for a canary; the one before it counts then.
    let canary = match database.full {
        None => databases::canary::write(psql).ok(),
        Some(_) => databases::canary::read(psql).ok().flatten(),
    };
    let lsn = databases::archive::mark(psql).ok()?.written;
    // It may take a moment to be received. What is not received then is what the drill is to find.
    if let Err(cause) = backups::bring_up(control, database) {
        tracing::warn!(database = %database.name, %cause, "could not see whether its log is received");
    }
    Some(Expected { at, lsn, canary })
}

fn check_log(found: &backups::Catalogue, way: Option<Way<'_>>, expected: &Expected) -> Check {
    let begun = Instant::now();
    let Some(way) = way else {
        let gaps = plan::backup::gaps(&found.runs);
        let said = match (gaps.last(), found.bases.is_empty()) {
            (Some(gap), _) => format!(
                "log is missing after {} and before {}, and no base was taken since",
                gap.after, gap.before
            ),
            (None, true) => "there is no base".to_owned(),
            (None, false) => "no base has the log that goes on from it".to_owned(),
        };
        return failed(CheckKind::Log, said, begun);
    };
    let end = way.run.end;
    if end < expected.lsn {
        let said = format!(
            "the archive ends at {end}, and the server had written up to {} at {}",
            expected.lsn, expected.at
        );
        return failed(CheckKind::Log, said, begun);
    }
    Check {
        kind: CheckKind::Log,
        outcome: Outcome::Passed,
        said: format!("no hole from base {} up to {end}", way.base.number),
        took: took(begun),
    }
}

/// The pool has others to serve: a drill waits for better times.
fn need_room(job: &Job, id: DatabaseId, source: &Source<'_>, way: Way<'_>) -> Result<(), ControlError> {
    let (control, engine) = (&*job.control, &*job.control.engine);
    let Segment { number: first, .. } = way.base.last;
    let log = Bytes::new((way.run.last.number - first + 1) * model::backup::SEGMENT_BYTES);
    let base = source.base_bytes(job, way.base);
    let needed = drill::room(log, base);
    let is_room = |free: Bytes| free >= needed && room::need_inodes(control, "a drill").is_ok();
    if is_room(engine.pool_free()?) {
        return Ok(());
    }
    // Proof goes before what branches are made of.
    change(control, id, |database| {
        if let Some(archive) = &mut database.archive {
            archive.drilled = None;
        }
    })?;
    forget_others(control, id, None)?;
    let free = engine.pool_free()?;
    if free >= needed {
        return room::need_inodes(control, "a drill");
    }
    Err(ControlError::State {
        message: format!("the storage pool has {free} free, and a drill needs {needed}"),
        next_step: "make room on the server's disk; it is tried again by itself".to_owned(),
    })
}

fn check_manifest(job: &Job, base: &Base, volume: &str) -> Result<Check, ControlError> {
    let begun = Instant::now();
    let check = |outcome, said: String| Check {
        kind: CheckKind::Manifest,
        outcome,
        said,
        took: took(begun),
    };
    let Some(sum) = base.manifest else {
        let said = "the files of this base were not listed when it was taken; those of the next are";
        return Ok(check(Outcome::LeftOut, said.to_owned()));
    };
    let is_wanted = || job.still_wanted().is_ok();
    let found =
        databases::manifest::compare(&*job.control.engine, volume, sum, &is_wanted).map_err(refused)?;
    Ok(match found {
        None => check(Outcome::Passed, "each file is as it was taken".to_owned()),
        Some(different) => check(Outcome::Failed, different),
    })
}

fn replay(
    job: &Job,
    database: &Database,
    base: &Base,
    expected: &Expected,
    volume: &str,
    begun: (Instant, Duration),
) -> Result<Findings, ControlError> {
    let control = &*job.control;
    operations::step(control, job.operation, "replaying and looking")?;
    let is_wanted = || job.still_wanted().is_ok();
    let rehearsal = Rehearsal {
        image: &base.image,
        version: &base.version,
        volume,
        resources: database.resources,
        expected,
        begun,
        is_wanted: &is_wanted,
    };
    // On no network: what it names belongs to the environment that it could be on.
    let place = job.place(&database.environment.to_string())?;
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    databases::drill(&*control.engine, place, &rehearsal, &lines).map_err(refused)
}

fn check_rows(findings: &Findings, estimates: Option<&Estimates>) -> Check {
    let begun = Instant::now();
    let check = |outcome, said: String| Check {
        kind: CheckKind::Rows,
        outcome,
        said,
        took: took(begun),
    };
    let Some(estimates) = estimates else {
        let said = "the server did not tell how many rows there are";
        return check(Outcome::LeftOut, said.to_owned());
    };
    let counted: BTreeMap<(&str, &str), u64> = findings
        .counted
        .iter()
        .map(|one| ((one.database.as_str(), one.table.as_str()), one.rows))
        .collect();
    let mut wrong = Vec::new();
    for ((database, table), (tracked, counted_before)) in estimates {
        // One that was made since the log ends is not there yet, and one that cannot be read was told of already.
        let Some(rows) = counted.get(&(database.as_str(), table.as_str())) else {
            continue;
        };
        if !drill::is_in_band(*rows, *tracked, *counted_before) {
            wrong.push(format!(
                "{database}: {table} has {rows} rows, the server about {tracked}"
            ));
        }
    }
    match wrong.first() {
        None => check(
            Outcome::Passed,
            format!(
                "{} tables have about as many rows as the server says",
                estimates.len()
            ),
        ),
        Some(first) if wrong.len() == 1 => check(Outcome::Failed, first.clone()),
        Some(first) => check(Outcome::Failed, format!("{first}, and {} more", wrong.len() - 1)),
    }
}
