//! Reads everything on the target elsewhere that its key opens: this server's and others'.
//!
//! ```text
//! marks -> for each database its catalogue -> sizes of all it names -> each base, part by part -> each segment
//! -> a line for each object that is not as it was put there, and what can be restored without those
//! ```
//! Invariants: nothing is changed, here or there; one object that does not open keeps no other from being read; a target
//! that stops answering is no damage and ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::backup::{BackupError, Catalogue, Names};
use model::{Bytes, DatabaseId};
use plan::backup as planned;

use super::reading::{Reading, Unread, ask, target};
use crate::elsewhere::{self, Ready};
use crate::reconcile::workers::Job;
use crate::{ControlError, operations};

/// Between two notes of how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(2);
/// So many damaged objects are in the message; all of them are in the log.
const NAMED: usize = 3;

/// What was found over all databases.
#[derive(Default)]
struct Tally {
    databases: u64,
    objects: u64,
    bytes: Bytes,
    damaged: Vec<String>,
}

/// The work of a verification.
pub(in crate::reconcile) fn verify(job: &Job) -> Result<(), ControlError> {
    let control = &*job.control;
    let ready = target(control)?;
    operations::step(
        control,
        job.operation,
        &format!("reading what is on {}", ready.target),
    )?;
    let mut tally = Tally::default();
    for (server, id) in ask(job, &ready, databases)?.map_err(Unread::Target)? {
        one(job, &ready, (&server, id), &mut tally)?;
    }
    let Tally {
        databases,
        objects,
        bytes,
        damaged,
    } = tally;
    if damaged.is_empty() {
        let outcome = format!(
            "everything on {} is as it was put there: {objects} objects of {databases} databases were opened with the key {}, {bytes}",
            ready.target, ready.row.fingerprint
        );
        return operations::succeed(control, job.operation, &outcome);
    }
    let mut named = damaged[..damaged.len().min(NAMED)].join("; ");
    if damaged.len() > NAMED {
        named = format!("{named}; and {} more", damaged.len() - NAMED);
    }
    Err(ControlError::State {
        message: format!(
            "{} damages on {}, {objects} objects of {databases} databases opened: {named}",
            damaged.len(),
            ready.target
        ),
        next_step: format!(
            "see all of them and what can be restored without: stoa op follow {}; what is damaged of this server's is not needed by its next base there, within a day",
            job.operation
        ),
    })
}

/// Whose backups the key opens.
fn databases(ready: &Ready) -> Result<Vec<(String, DatabaseId)>, BackupError> {
    let mut found = Vec::new();
    let marks = elsewhere::marks(&ready.target)?;
    for mark in marks.into_iter().filter(|mark| mark.key == ready.row.fingerprint) {
        let folders = ready.target.folders(&Names::of(&mark.server).all())?;
        let ids = folders.iter().filter_map(|folder| folder.parse().ok());
        found.extend(ids.map(|id| (mark.server.clone(), id)));
    }
    // Without its own mark this server's would be passed over in silence.
    if found.iter().all(|(server, _)| *server != ready.row.server) {
        elsewhere::own_mark(ready)?;
    }
    Ok(found)
}

/// Reads all of one database.
fn one(
    job: &Job,
    ready: &Arc<Ready>,
    (server, id): (&str, DatabaseId),
    tally: &mut Tally,
) -> Result<(), ControlError> {
    let say = |line: &str| operations::log_line(&job.control, job.operation, line);
    let read = Reading::of(job, ready, server, id);
    let prefix = Names::of(server).database(id);
    // Only a catalogue that was never written has nothing beside it: it is the first object of a database.
    if let Err(Unread::Target(BackupError::Missing { .. })) = &read
        && ask(job, ready, move |ready| ready.target.list(&prefix))?
            .map_err(Unread::Target)?
            .is_empty()
    {
        return Ok(());
    }
    tally.databases += 1;
    let mut reading = match read {
        Ok(reading) => reading,
        Err(cause) => {
            let cause = cause.damage()?.to_string();
            say(&format!("{id}, written by {server}: DAMAGED: {cause}"));
            say("  nothing of it can be restored without its catalogue");
            tally.damaged.push(cause);
            return Ok(());
        }
    };
    let mut look = Look {
        job,
        named: count(&reading.catalogue),
        told: None,
        damaged: Vec::new(),
    };
    let seen = look.all(&mut reading)?;
    let whose = match server == ready.row.server {
        true => "this server",
        false => server,
    };
    let catalogue = &reading.catalogue;
    let (objects, bytes) = reading.opened;
    say(&format!(
        "{} of {}, written by {whose}: {}, {objects} objects, {bytes}",
        catalogue.name,
        catalogue.place,
        match look.damaged.len() {
            0 => "OK".to_owned(),
            count => format!("{count} DAMAGED"),
        },
    ));
    for cause in &look.damaged {
        say(&format!("  DAMAGED: {cause}"));
    }
    let windows = planned::windows(&seen.bases, &planned::runs(&seen.stretches));
    for window in &windows {
        say(&format!(
            "  restorable from {} until {}",
            window.from, window.until
        ));
    }
    if windows.is_empty() {
        say("  restorable: nothing, there is no base with its log");
    }
    tally.objects += objects;
    tally.bytes = Bytes::new(tally.bytes.get() + bytes.get());
    tally.damaged.append(&mut look.damaged);
    Ok(())
}

/// How many objects a catalogue names, itself among them; the parts of its bases are not known before they are read.
fn count(catalogue: &Catalogue) -> usize {
    let files = catalogue.stretches.iter().map(|stretch| stretch.files.len());
    1 + catalogue.bases.len() + files.sum::<usize>()
}

/// What opened of one database.
struct Seen {
    bases: Vec<model::Base>,
    stretches: Vec<planned::Stretch>,
}

struct Look<'a> {
    job: &'a Job,
    named: usize,
    told: Option<Instant>,
    damaged: Vec<String>,
}

impl Look<'_> {
    fn all(&mut self, reading: &mut Reading<'_>) -> Result<Seen, ControlError> {
        let promised = reading.promised();
        let before = reading.catalogue.clone();
        let sizes = self.sizes(reading)?;
        let mut seen = Seen {
            bases: promised.bases,
            stretches: promised.stretches,
        };
        let mut bad = Vec::new();
        for base in &before.bases {
            if !self.base(reading, base.number, &sizes)? {
                bad.push(base.number);
            }
        }
        seen.bases.retain(|base| !bad.contains(&base.number));
        for (stretch, seen) in before.stretches.iter().zip(&mut seen.stretches) {
            let mut bad = Vec::new();
            for file in &stretch.files {
                self.tell(reading)?;
                let name = reading.names.file(before.database, stretch.number, file);
                let is_sized = file.open_at.is_some() || self.is_sized(&sizes, &name, file.bytes);
                match reading.segment(stretch.number, file.segment) {
                    Ok(_) if is_sized => {}
                    Ok(_) => bad.push(file.segment),
                    Err(cause) => {
                        self.note(cause)?;
                        bad.push(file.segment);
                    }
                }
            }
            seen.files.retain(|file| !bad.contains(&file.segment));
        }
        Ok(seen)
    }

    fn sizes(&self, reading: &Reading<'_>) -> Result<BTreeMap<String, u64>, ControlError> {
        let prefix = reading.names.database(reading.catalogue.database);
        let listed = ask(self.job, &reading.ready, move |ready| ready.target.list(&prefix))?;
        let listed = listed.map_err(Unread::Target)?;
        Ok(listed
            .into_iter()
            .map(|object| (object.name, object.bytes))
            .collect())
    }

    /// One that is not there is told when it is read.
    fn is_sized(&mut self, sizes: &BTreeMap<String, u64>, name: &str, bytes: u64) -> bool {
        let found = sizes.get(name).copied().unwrap_or(bytes);
        if found != bytes {
            let told = format!("{name} has {found} bytes and was put there with {bytes}");
            self.damaged.push(told);
        }
        found == bytes
    }

    /// Whether all of it opens.
    fn base(
        &mut self,
        reading: &mut Reading<'_>,
        number: u64,
        sizes: &BTreeMap<String, u64>,
    ) -> Result<bool, ControlError> {
        let manifest = match reading.manifest(number) {
            Ok(manifest) => manifest,
            Err(cause) => return self.note(cause).map(|()| false),
        };
        self.named += manifest.parts.len();
        let before = self.damaged.len();
        for (index, part) in manifest.parts.iter().enumerate() {
            self.tell(reading)?;
            if let Err(cause) = reading.check_part(number, index as u64, part) {
                self.note(cause)?;
            } else {
                self.is_sized(sizes, &part.name, part.bytes);
            }
        }
        Ok(self.damaged.len() == before)
    }

    fn note(&mut self, cause: Unread) -> Result<(), ControlError> {
        self.damaged.push(cause.damage()?.to_string());
        Ok(())
    }

    fn tell(&mut self, reading: &Reading<'_>) -> Result<(), ControlError> {
        if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        let step = format!(
            "reading {}: {} of {} objects",
            reading.catalogue.name, reading.opened.0, self.named
        );
        operations::step(&self.job.control, self.job.operation, &step)
    }
}
