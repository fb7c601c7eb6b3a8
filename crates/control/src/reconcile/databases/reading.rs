//! Reading what is on the target elsewhere, for whoever restores, drills or verifies.
//!
//! Invariants: whoever reads is never held up by a target that hangs: each answer is waited for in a thread of its own, and
//! given up with the operation or after a while. While something of this server is read, nothing of it is removed; the copy
//! of the segment that is received now is replaced all the same, so it is looked up again when it is gone.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use ::backup::{BackupError, Catalogue, Manifest, Names, Part};
use databases::carry;
use model::{Bytes, DatabaseId, Segment};
use plan::backup::Stretch;

use super::refused;
use crate::databases::backups;
use crate::elsewhere::{self, Held, Ready, target_refused, wal_file};
use crate::reconcile::workers::Job;
use crate::{Control, ControlError};

/// How long one answer may take: an object of 16 MiB over a slow line, or a list of some ten thousand.
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);
/// How soon an end of the operation is noticed meanwhile.
const GLANCE: Duration = Duration::from_millis(500);
/// How often the newest copy of the segment that is received is looked up: it is replaced each half minute.
const TRIES: usize = 5;

/// Why something was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// What the target answered, or that it did not.
    Target(BackupError),
    /// It is not wanted any more, or we failed.
    Ours(ControlError),
}

impl Unread {
    /// What it tells of the backup, if anything: a target that does not answer tells nothing.
    pub(super) fn damage(self) -> Result<BackupError, ControlError> {
        match self {
            Self::Target(cause @ (BackupError::Missing { .. } | BackupError::Damaged { .. })) => Ok(cause),
            other => Err(other.into()),
        }
    }
}

impl From<ControlError> for Unread {
    fn from(cause: ControlError) -> Self {
        Self::Ours(cause)
    }
}

impl From<Unread> for ControlError {
    fn from(cause: Unread) -> Self {
        match cause {
            Unread::Target(cause) => target_refused(&cause),
            Unread::Ours(cause) => cause,
        }
    }
}

/// Asks the target something, as long as the operation is wanted.
pub(super) fn ask<T: Send + 'static>(
    job: &Job,
    ready: &Arc<Ready>,
    what: impl FnOnce(&Ready) -> T + Send + 'static,
) -> Result<T, Unread> {
    job.still_wanted()?;
    let (tell, told) = mpsc::channel();
    let asked = Arc::clone(ready);
    let silent = |why: String| {
        Unread::Target(BackupError::Unreachable {
            target: ready.target.to_string(),
            why,
        })
    };
    let thread = std::thread::Builder::new().name("reading".to_owned());
    // Nobody listens any more when it was given up.
    let spawned = thread.spawn(move || drop(tell.send(what(&asked))));
    spawned.map_err(|cause| silent(format!("could not be asked: {cause}")))?;
    let until = Instant::now() + ANSWERS_WITHIN;
    loop {
        match told.recv_timeout(GLANCE) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(silent("a defect of Stoa ended the reading".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => job.still_wanted()?,
        }
        if Instant::now() >= until {
            let waited = ANSWERS_WITHIN.as_secs();
            return Err(silent(format!("gave no answer for {waited} seconds")));
        }
    }
}

/// The target with what opens it.
pub(super) fn target(control: &Control) -> Result<Arc<Ready>, ControlError> {
    let row = elsewhere::row(control)?.ok_or_else(elsewhere::none)?;
    elsewhere::ready(control, row).map(Arc::new)
}

/// The backup of one database as somebody reads it.
pub(super) struct Reading<'a> {
    job: &'a Job,
    pub(super) ready: Arc<Ready>,
    pub(super) names: Names,
    /// As it was read last.
    pub(super) catalogue: Catalogue,
    /// Objects that were opened, and their content.
    pub(super) opened: (u64, Bytes),
    _held: Option<Held<'a>>,
}

impl<'a> Reading<'a> {
    /// Of what a server wrote there.
    pub(super) fn of(job: &'a Job, ready: &Arc<Ready>, server: &str, id: DatabaseId) -> Result<Self, Unread> {
        let held = match server == ready.row.server {
            true => Some(hold(job, ready, id)?),
            // Another server removes when it sees fit.
            false => None,
        };
        let names = Names::of(server);
        let catalogue = read_catalogue(job, ready, names.catalogue(id))?;
        Ok(Self {
            job,
            ready: Arc::clone(ready),
            names,
            catalogue,
            opened: (1, Bytes::default()),
            _held: held,
        })
    }

    /// Of what this server wrote, if that bears its mark.
    pub(super) fn own(job: &'a Job, ready: &Arc<Ready>, id: DatabaseId) -> Result<Self, Unread> {
        ask(job, ready, elsewhere::own_mark)?.map_err(Unread::Target)?;
        Self::of(job, ready, &ready.row.server, id)
    }

    /// What is there now.
    pub(super) fn refresh(&mut self) -> Result<(), Unread> {
        let name = self.names.catalogue(self.catalogue.database);
        self.catalogue = read_catalogue(self.job, &self.ready, name)?;
        Ok(())
    }

    /// What the catalogue names, as the planner knows it.
    pub(super) fn promised(&self) -> backups::Catalogue {
        let stretches = self.catalogue.stretches.iter().map(|stretch| Stretch {
            number: stretch.number,
            files: stretch.files.iter().map(wal_file).collect(),
            complete: stretch.complete,
        });
        let stretches: Vec<Stretch> = stretches.collect();
        backups::Catalogue {
            bases: self
                .catalogue
                .bases
                .iter()
                .map(::backup::KeptBase::base)
                .collect(),
            runs: plan::backup::runs(&stretches),
            stretches,
        }
    }

    /// What is in an object.
    pub(super) fn object(&mut self, name: &str) -> Result<Vec<u8>, Unread> {
        let name = name.to_owned();
        let read = ask(self.job, &self.ready, move |ready| {
            ready.target.object(&ready.key, &name)
        })?;
        let plain = read.map_err(Unread::Target)?;
        self.opened.0 += 1;
        self.opened.1 = Bytes::new(self.opened.1.get() + plain.len() as u64);
        Ok(plain)
    }

    /// The parts of a base.
    pub(super) fn manifest(&mut self, number: u64) -> Result<Manifest, Unread> {
        let name = self.names.manifest(self.catalogue.database, number);
        let read = ask(self.job, &self.ready, move |ready| {
            ready.target.document(&ready.key, &name)
        })?;
        let manifest = read.map_err(Unread::Target)?;
        self.opened.0 += 1;
        Ok(manifest)
    }

    /// Whether a part opens and holds what its name says.
    pub(super) fn check_part(&mut self, number: u64, index: u64, part: &Part) -> Result<(), Unread> {
        let plain = self.object(&part.name)?;
        let (id, key) = (self.catalogue.database, &self.ready.key);
        match self.names.part(id, number, index, &plain, key) == part.name {
            true => Ok(()),
            false => Err(Unread::Target(BackupError::Damaged {
                object: part.name.clone(),
                why: "has not the content that its name says".to_owned(),
            })),
        }
    }

    /// A segment, the one that is received now as it is there now. Nothing when the catalogue names none.
    pub(super) fn segment(&mut self, stretch: u64, segment: Segment) -> Result<Option<Vec<u8>>, Unread> {
        let mut last: Option<String> = None;
        for _ in 0..TRIES {
            let Some(name) = self.name_of(stretch, segment) else {
                return Ok(None);
            };
            match self.object(&name) {
                // Another one is in its place by now, unless it is still named.
                Err(Unread::Target(BackupError::Missing { object })) if last.as_ref() != Some(&name) => {
                    last = Some(object);
                    self.refresh()?;
                }
                Err(cause) => return Err(cause),
                Ok(plain) if plain.len() as u64 == model::backup::SEGMENT_BYTES => return Ok(Some(plain)),
                Ok(plain) => {
                    return Err(Unread::Target(BackupError::Damaged {
                        object: name,
                        why: format!("has {} bytes, which no segment has", plain.len()),
                    }));
                }
            }
        }
        let object = last.unwrap_or_default();
        Err(Unread::Target(BackupError::Missing { object }))
    }

    fn name_of(&self, stretch: u64, segment: Segment) -> Option<String> {
        let stretches = self.catalogue.stretches.iter();
        let mut files = stretches
            .filter(|other| other.number == stretch)
            .flat_map(|stretch| &stretch.files);
        let file = files.find(|file| file.segment == segment)?;
        Some(self.names.file(self.catalogue.database, stretch, file))
    }

    /// Fills an empty volume with a base.
    pub(super) fn lay(&mut self, number: u64, volume: &str) -> Result<(), Unread> {
        let left = self.manifest(number)?.parts.into_iter();
        let engine = Arc::clone(&self.job.control.engine);
        let mut parts = Parts {
            reading: self,
            left,
            now: io::Cursor::default(),
            failure: None,
        };
        let unpacked = carry::unpack(&*engine, volume, &mut parts);
        // What stopped it says more than that the stream ended.
        match (parts.failure.take(), unpacked) {
            (Some(cause), _) => Err(cause),
            (None, unpacked) => Ok(unpacked.map_err(refused)?),
        }
    }

    /// Puts a segment beside it.
    pub(super) fn put(&mut self, stretch: u64, segment: Segment, volume: &str) -> Result<(), Unread> {
        let Some(plain) = self.segment(stretch, segment)? else {
            return Err(Unread::Ours(refused(databases::DatabaseError::Gap { segment })));
        };
        let put = carry::put_segment(&*self.job.control.engine, volume, segment, &mut &plain[..]);
        Ok(put.map_err(refused)?)
    }
}

fn read_catalogue(job: &Job, ready: &Arc<Ready>, name: String) -> Result<Catalogue, Unread> {
    let read = ask(job, ready, move |ready| ready.target.document(&ready.key, &name))?;
    read.map_err(Unread::Target)
}

/// Waits until nothing of it is removed.
fn hold<'a>(job: &'a Job, ready: &Ready, id: DatabaseId) -> Result<Held<'a>, Unread> {
    let until = Instant::now() + ANSWERS_WITHIN;
    loop {
        if let Some(held) = job.control.uploads.holds.read(id) {
            return Ok(held);
        }
        job.still_wanted()?;
        if Instant::now() >= until {
            return Err(Unread::Target(BackupError::Unreachable {
                target: ready.target.to_string(),
                why: "is still removing what is too old".to_owned(),
            }));
        }
        std::thread::sleep(GLANCE);
    }
}

/// The parts of a base, one after the other, as one stream.
struct Parts<'r, 'a> {
    reading: &'r mut Reading<'a>,
    left: std::vec::IntoIter<Part>,
    now: io::Cursor<Vec<u8>>,
    failure: Option<Unread>,
}

impl Read for Parts<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.now.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            let Some(part) = self.left.next() else {
                return Ok(0);
            };
            match self.reading.object(&part.name) {
                Ok(plain) => self.now = io::Cursor::new(plain),
                Err(cause) => {
                    self.failure = Some(cause);
                    return Err(io::Error::other("a part of it was not read"));
                }
            }
        }
    }
}
