//! The backups of databases on their way to the target elsewhere.
//!
//! ```text
//! each few seconds, for each database: log that is closed -> the open segment, each half minute -> catalogue
//! a base when none there can be gone on from, or a day later: parts -> manifest -> catalogue; log goes on in between
//! after a base: what no promise needs leaves the catalogue, then the target
//! ```
//! Invariants: the catalogue names only what was put before; what it does not name is put again or removed, so a crash
//! anywhere loses nothing and doubles nothing. A target that does not bear our mark is not written to: what should be
//! mounted there is not. What this process does not reach stays here and goes there later.

mod base;
mod expire;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::backup::{BackupError, Catalogue, KeptBase, KeptFile, KeptStretch, Mark, Names, seal};
use databases::carry;
use model::{Base, Bytes, Database, DatabaseId, Environment, Millis, Org, Project, Timestamp};
use plan::backup::Stretch;
use plan::elsewhere::{Held, Place, behind, wanted};
use store::ReadTx;

use super::archive::is_archived;
use super::refused;
use crate::databases::backups::{self, catalogue, stretch_volume};
use crate::elsewhere::{self, Progress, Ready, target_refused, wal_file};
use crate::transact::all;
use crate::{Control, ControlError};
use expire::Shelf;

/// Between two looks at what was closed.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at whether there is a target, and an end of ours.
const GLANCE: Duration = Duration::from_millis(500);
/// How long an end of ours waits for what is under way.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How old the copy of the segment that is received now may get. With the looks and the upload itself it stays below the
/// minute that is promised.
const OPEN_EVERY: Duration = Duration::from_secs(25);
/// After a failure, at first and at last.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AT_LAST: Duration = Duration::from_secs(60);
/// After that time the time of a file tells of each write to it: file systems count in steps of some milliseconds.
const SETTLED_AFTER: Millis = Millis::seconds(1);
/// Segments put between two catalogues: what a crash makes to be put again.
const AT_ONCE: usize = 16;

/// What this process knows of a database on the target.
struct Known {
    catalogue: Catalogue,
    /// When the open segment was put, and up to which write to it.
    open: Option<(Instant, Timestamp)>,
    /// Number of a base that is to be put.
    base: Option<u64>,
    pruned: Option<Instant>,
}

struct Uploader<'a> {
    control: &'a Control,
    stop: &'a AtomicBool,
    ready: Ready,
    names: Names,
    known: BTreeMap<DatabaseId, Known>,
    looked: Option<Instant>,
}

/// Uploads again and again until `stop` is set. A request that hangs then is not waited for: what it puts is in no catalogue.
pub(in crate::reconcile) fn watch(control: &Arc<Control>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let is_over = Arc::new(AtomicBool::new(false));
        let (uploading, told) = (Arc::clone(control), Arc::clone(&is_over));
        let uploads = std::thread::spawn(move || upload(&uploading, &told));
        while !stop.load(Ordering::Relaxed) && !uploads.is_finished() {
            std::thread::sleep(GLANCE);
        }
        is_over.store(true, Ordering::Relaxed);
        let until = Instant::now() + END_WITHIN;
        while !uploads.is_finished() && Instant::now() < until {
            std::thread::sleep(GLANCE / 10);
        }
        if uploads.is_finished() && uploads.join().is_err() {
            tracing::error!("uploads of backups ended by a defect; they begin again");
        }
    }
}

fn upload(control: &Control, stop: &AtomicBool) {
    let mut pause = AGAIN;
    let mut not_before = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(GLANCE);
        if Instant::now() < not_before {
            continue;
        }
        let begun = Instant::now();
        match serve(control, stop) {
            Ok(()) => pause = AGAIN,
            Err(cause) => {
                tracing::warn!(%cause, "backups could not be put on the target elsewhere; it is tried again");
                if begun.elapsed() > AGAIN_AT_LAST {
                    pause = AGAIN;
                }
                not_before = Instant::now() + pause;
                pause = (pause * 2).min(AGAIN_AT_LAST);
            }
        }
    }
}

/// Serves the target there is until it is another one, or fails.
fn serve(control: &Control, stop: &AtomicBool) -> Result<(), ControlError> {
    let Some(row) = elsewhere::row(control)? else {
        control.uploads.keep(|_| false);
        return Ok(());
    };
    let ready = elsewhere::ready(control, row)?;
    let names = Names::of(&ready.row.server);
    let mut uploader = Uploader {
        control,
        stop,
        ready,
        names,
        known: BTreeMap::new(),
        looked: None,
    };
    uploader
        .check_mark()
        .inspect_err(|cause| uploader.tell_all(cause))?;
    while uploader.is_wanted()? {
        let (databases, mut failed) = uploader.logs()?;
        for database in &databases {
            if let Err(cause) = uploader.base(database) {
                uploader.tell(database.id, &cause);
                failed = Some(cause);
            }
        }
        if let Some(cause) = failed {
            return Err(cause);
        }
        std::thread::sleep(GLANCE);
    }
    Ok(())
}

impl Uploader<'_> {
    /// Notes what keeps a database from the target.
    fn tell(&self, id: DatabaseId, cause: &ControlError) {
        let why = cause.to_string();
        self.control
            .uploads
            .note(id, |progress| progress.error = Some(why));
    }

    fn tell_all(&self, cause: &ControlError) {
        let databases = self.control.read(|tx| Ok(all::<Database>(tx)?.0));
        for database in databases.unwrap_or_default() {
            if is_archived(&database) {
                self.tell(database.id, cause);
            }
        }
    }

    /// Whether this target is still the one to write to.
    fn is_wanted(&self) -> Result<bool, ControlError> {
        let row = elsewhere::row(self.control)?;
        let is_same = row.is_some_and(|row| row.version == self.ready.row.version);
        Ok(is_same && !self.stop.load(Ordering::Relaxed))
    }

    fn check_mark(&self) -> Result<(), ControlError> {
        let name = self.names.mark();
        match Mark::read(&self.ready.target, &name) {
            Ok(mark) if mark.key == self.ready.row.fingerprint => Ok(()),
            Err(cause @ (BackupError::Unreachable { .. } | BackupError::Refused { .. })) => {
                Err(target_refused(&cause))
            }
            Ok(_) | Err(_) => Err(ControlError::State {
                message: format!(
                    "{} does not bear the mark of this server ({name}): is what should be mounted there not mounted, or was it emptied?",
                    self.ready.target
                ),
                next_step: "bring it back; or begin anew there: stoa server backup-target set".to_owned(),
            }),
        }
    }

    /// Puts the log of all databases there, when it is time to look at it. Returns those whose log is there, and the last
    /// thing that kept another from it: one's trouble is its own, as far as it is not the target's.
    fn logs(&mut self) -> Result<(Vec<Database>, Option<ControlError>), ControlError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok((Vec::new(), None));
        }
        self.looked = Some(Instant::now());
        let mut databases = self.control.read(|tx| Ok(all::<Database>(tx)?.0))?;
        databases.retain(|database| is_archived(database) && database.archive.is_some());
        let is_there = |id| databases.iter().any(|database| database.id == id);
        self.control.uploads.keep(is_there);
        self.known.retain(|id, _| is_there(*id));
        let mut failed = None;
        databases.retain(|database| match self.log(database) {
            Ok(()) => true,
            Err(cause) => {
                self.tell(database.id, &cause);
                // What is there is looked at again: something may have been put that no catalogue names.
                self.known.remove(&database.id);
                failed = Some(cause);
                false
            }
        });
        Ok((databases, failed))
    }

    fn log(&mut self, database: &Database) -> Result<(), ControlError> {
        let id = database.id;
        if !self.known.contains_key(&id) {
            let known = self.learn(database)?;
            self.known.insert(id, known);
        }
        let due = |known: &Known| known.open.is_none_or(|(at, _)| at.elapsed() >= OPEN_EVERY);
        let is_open_due = self.control.uploads.take_hurry(id) || self.known.get(&id).is_some_and(due);
        if is_open_due {
            // Before the files are looked at: what is said to be complete must be in them.
            backups::freshen(self.control, database)?;
        }
        let here = catalogue(self.control, database)?;
        let held = Held {
            bases: &here.bases,
            stretches: &here.stretches,
        };
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        let (bases, stretches) = there(&known.catalogue);
        let there = Held {
            bases: &bases,
            stretches: &stretches,
        };
        let found = wanted(held, there);
        known.base = found.base;
        let seen = known.open.map(|(_, written)| written);
        let since = behind(&found, held, seen);
        let mut waiting = found.closed.len() as u64;
        let note = |waiting: u64, since| {
            let waiting = Bytes::new(waiting * model::backup::SEGMENT_BYTES);
            self.control.uploads.note(id, |progress| {
                (progress.waiting, progress.waiting_since) = (waiting, since);
            });
        };
        note(waiting, since);
        for closed in found.closed.chunks(AT_ONCE) {
            self.put_log(database, &here.stretches, closed, None)?;
            waiting -= closed.len() as u64;
            note(waiting, since);
        }
        if let Some(open) = found.open.filter(|_| is_open_due) {
            self.put_log(database, &here.stretches, &[], Some(open))?;
            note(0, None);
        }
        let noted = self.known.get(&id).map(|known| &known.catalogue);
        self.control.uploads.note(id, |progress| {
            if let Some(catalogue) = noted {
                told(catalogue, progress);
            }
            progress.is_well();
        });
        Ok(())
    }

    /// What is on the target of a database; what its catalogue does not name goes.
    fn learn(&self, database: &Database) -> Result<Known, ControlError> {
        let (target, id) = (&self.ready.target, database.id);
        let name = self.names.catalogue(id);
        let catalogue = match target.document::<Catalogue>(&self.ready.key, &name) {
            Ok(catalogue) => {
                let swept = self.shelf().sweep(&catalogue);
                swept.map_err(|cause| target_refused(&cause))?;
                catalogue
            }
            Err(BackupError::Missing { .. }) => {
                let place = self.control.read(|tx| place_of(tx, database))?;
                let begun = Catalogue {
                    database: id,
                    name: database.name.clone(),
                    place,
                    size: database.size,
                    memory: database.resources.memory,
                    written_at: Timestamp::now(),
                    stretches: Vec::new(),
                    bases: Vec::new(),
                };
                self.write(&begun)?;
                begun
            }
            Err(cause) => return Err(target_refused(&cause)),
        };
        Ok(Known {
            catalogue,
            open: None,
            base: None,
            pruned: None,
        })
    }

    fn shelf(&self) -> Shelf<'_> {
        Shelf {
            target: &self.ready.target,
            key: &self.ready.key,
            names: &self.names,
        }
    }

    fn remove(&self, name: &str) -> Result<(), ControlError> {
        self.ready
            .target
            .remove(name)
            .map_err(|cause| target_refused(&cause))
    }

    fn write(&self, catalogue: &Catalogue) -> Result<(), ControlError> {
        self.shelf()
            .write(catalogue)
            .map_err(|cause| target_refused(&cause))
    }

    /// Puts segments, then the catalogue that names them, then removes what it names no more.
    fn put_log(
        &mut self,
        database: &Database,
        here: &[Stretch],
        closed: &[Place],
        open: Option<Place>,
    ) -> Result<(), ControlError> {
        let id = database.id;
        let Some(known) = self.known.get(&id) else {
            return Ok(());
        };
        let mut next = known.catalogue.clone();
        let mut seen = known.open;
        for place in closed {
            if let Some(file) = self.put_segment(id, here, *place, None)? {
                keep(&mut next, place.0, file);
            }
        }
        let mut with_open = None;
        if let Some(place) = open
            && let Some(written) = written(here, place, true)
        {
            let at = Timestamp::now();
            let is_same = seen.is_some_and(|(_, seen)| seen == written);
            let put = if is_same {
                None
            } else {
                self.put_segment(id, here, place, Some(at))?
            };
            with_open = (is_same || put.is_some()).then_some(place.0);
            if let Some(file) = put {
                keep(&mut next, place.0, file);
            }
            // A later write in the same moment would not show in the time of the file.
            let is_settled = written.plus(SETTLED_AFTER) <= at;
            seen = Some((
                Instant::now(),
                if is_settled { written } else { Timestamp::default() },
            ));
        }
        for stretch in &mut next.stretches {
            let found = here.iter().find(|found| found.number == stretch.number);
            let Some((at, lsn)) = found.and_then(|found| found.complete) else {
                continue;
            };
            // What lies in the segment that is still received is there only when that was put now.
            let is_closed =
                |file: &KeptFile| file.open_at.is_none() && file.segment.number == lsn.segment_before();
            if with_open == Some(stretch.number) || stretch.files.iter().any(is_closed) {
                stretch.complete = Some((at, lsn));
            }
        }
        next.name.clone_from(&database.name);
        (next.size, next.memory) = (database.size, database.resources.memory);
        next.written_at = Timestamp::now();
        self.write(&next)?;
        let gone = gone(&known.catalogue, &next);
        let gone: Vec<String> = gone
            .iter()
            .map(|(stretch, file)| self.names.file(id, *stretch, file))
            .collect();
        if let Some(known) = self.known.get_mut(&id) {
            (known.catalogue, known.open) = (next, seen);
        }
        gone.iter().try_for_each(|name| self.remove(name))
    }

    /// Nothing when it was closed or removed meanwhile: the next look sees what became of it.
    fn put_segment(
        &self,
        id: DatabaseId,
        here: &[Stretch],
        place: Place,
        open_at: Option<Timestamp>,
    ) -> Result<Option<KeptFile>, ControlError> {
        let (stretch, segment) = place;
        let volume = stretch_volume(id, stretch);
        let found = carry::segment(&*self.control.engine, &volume, segment, open_at.is_some());
        let mut file = match found {
            Ok(file) => file,
            Err(databases::DatabaseError::Gap { .. }) => return Ok(None),
            Err(cause) => return Err(refused(cause)),
        };
        let kept = KeptFile {
            segment,
            written: written(here, place, open_at.is_some()).unwrap_or_default(),
            bytes: 0,
            open_at,
        };
        let name = self.names.file(id, stretch, &kept);
        let bytes = self.put(&name, &mut file)?;
        Ok(Some(KeptFile { bytes, ..kept }))
    }

    fn put(&self, name: &str, plain: &mut dyn io::Read) -> Result<u64, ControlError> {
        let sealed = seal(&self.ready.key, name, plain).map_err(|cause| target_refused(&cause))?;
        self.ready
            .target
            .put(name, &sealed)
            .map_err(|cause| target_refused(&cause))?;
        Ok(sealed.len() as u64)
    }
}

/// What a catalogue names, as the planner knows it.
fn there(catalogue: &Catalogue) -> (Vec<Base>, Vec<Stretch>) {
    let stretch = |stretch: &KeptStretch| Stretch {
        number: stretch.number,
        files: stretch.files.iter().map(wal_file).collect(),
        complete: stretch.complete,
    };
    (
        catalogue.bases.iter().map(KeptBase::base).collect(),
        catalogue.stretches.iter().map(stretch).collect(),
    )
}

/// Until when everything is there, the newest base, and when it was written.
fn told(catalogue: &Catalogue, progress: &mut Progress) {
    let newest = catalogue.stretches.iter().max_by_key(|stretch| stretch.number);
    let base = catalogue.bases.iter().max_by_key(|base| base.number);
    progress.until = newest.and_then(|stretch| stretch.complete).map(|(at, _)| at);
    progress.base = base.map(|base| (base.at, base.number));
    progress.uploaded_at = Some(catalogue.written_at);
}

/// Names a segment; what was put of it before it was closed counts no more.
fn keep(catalogue: &mut Catalogue, number: u64, file: KeptFile) {
    let at = match catalogue
        .stretches
        .iter()
        .position(|stretch| stretch.number == number)
    {
        Some(at) => at,
        None => {
            catalogue.stretches.push(KeptStretch {
                number,
                complete: None,
                files: Vec::new(),
            });
            catalogue.stretches.sort_by_key(|stretch| stretch.number);
            catalogue
                .stretches
                .iter()
                .position(|stretch| stretch.number == number)
                .unwrap_or_default()
        }
    };
    let files = &mut catalogue.stretches[at].files;
    files
        .retain(|other| other.segment != file.segment && (other.open_at.is_none() || file.open_at.is_none()));
    files.push(file);
    files.sort_by_key(|file| file.segment);
}

/// What the next catalogue names no more.
fn gone(before: &Catalogue, next: &Catalogue) -> Vec<(u64, KeptFile)> {
    let is_named = |number: u64, file: &KeptFile| {
        let mut stretches = next.stretches.iter().filter(|stretch| stretch.number == number);
        let is_it = |other: &KeptFile| other.segment == file.segment && other.open_at == file.open_at;
        stretches.any(|stretch| stretch.files.iter().any(is_it))
    };
    let all = before.stretches.iter();
    all.flat_map(|stretch| {
        stretch
            .files
            .iter()
            .map(move |file| (stretch.number, file.clone()))
    })
    .filter(|(number, file)| !is_named(*number, file))
    .collect()
}

fn written(here: &[Stretch], (number, segment): Place, is_open: bool) -> Option<Timestamp> {
    let stretch = here.iter().find(|stretch| stretch.number == number)?;
    let mut files = stretch.files.iter();
    let file = files.find(|file| file.segment == segment && file.is_open == is_open)?;
    Some(file.written)
}

fn place_of(tx: &ReadTx, database: &Database) -> Result<String, ControlError> {
    let environment = tx.need::<Environment>(&database.environment.to_string())?.row;
    let project = tx.need::<Project>(&environment.project.to_string())?.row;
    let org = tx.need::<Org>(&project.org.to_string())?.row;
    Ok(format!("{}/{}/{}", org.name, project.name, environment.name))
}

#[cfg(test)]
mod tests {
    use model::Segment;

    use super::*;

    fn file(number: u64, open_at: Option<u64>) -> KeptFile {
        KeptFile {
            segment: Segment { timeline: 1, number },
            written: Timestamp::from_ms(1),
            bytes: 5,
            open_at: open_at.map(Timestamp::from_ms),
        }
    }

    #[test]
    fn a_segment_takes_the_place_of_what_was_put_of_it() {
        let mut catalogue = Catalogue {
            database: DatabaseId::fresh(),
            name: "main".parse().expect("a name"),
            place: "a/b/c".to_owned(),
            size: Bytes::mi(1),
            memory: Bytes::mi(1),
            written_at: Timestamp::from_ms(1),
            stretches: Vec::new(),
            bases: Vec::new(),
        };
        let empty = catalogue.clone();
        for (stretch, one) in [
            (2, file(9, None)),
            (1, file(4, Some(10))),
            (1, file(3, None)),
            (1, file(4, Some(20))),
        ] {
            keep(&mut catalogue, stretch, one);
        }
        let numbers = |catalogue: &Catalogue| -> Vec<Vec<(u64, bool)>> {
            let files = |stretch: &KeptStretch| {
                let all = stretch.files.iter();
                all.map(|file| (file.segment.number, file.open_at.is_some()))
                    .collect()
            };
            catalogue.stretches.iter().map(files).collect()
        };
        assert_eq!(
            numbers(&catalogue),
            [vec![(3, false), (4, true)], vec![(9, false)]]
        );
        let before = catalogue.clone();
        // It is closed, and the next one is received.
        keep(&mut catalogue, 1, file(4, None));
        keep(&mut catalogue, 1, file(5, Some(30)));
        assert_eq!(numbers(&catalogue)[0], [(3, false), (4, false), (5, true)]);
        assert_eq!(gone(&before, &catalogue), [(1, file(4, Some(20)))]);
        assert!(gone(&empty, &catalogue).is_empty() && gone(&catalogue, &catalogue).is_empty());
    }
}
