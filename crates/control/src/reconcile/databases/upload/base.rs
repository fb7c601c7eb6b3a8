//! Bases on their way to the target elsewhere.
//!
//! Invariant: a base is named when all its parts and then its manifest are there.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::backup::{KeptBase, Manifest, PART_BYTES, Part};
use databases::carry;
use model::{Base, Database, DatabaseId, Timestamp};

use super::super::archive::takes_base;
use super::super::refused;
use super::Uploader;
use crate::ControlError;
use crate::databases::backups::base_volume;
use crate::elsewhere::target_refused;

/// Between two looks at what time alone makes superfluous.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

impl Uploader<'_> {
    /// Puts a base there when one is wanted, then removes what it makes superfluous.
    pub(super) fn base(&mut self, database: &Database) -> Result<(), ControlError> {
        let id = database.id;
        let Some(known) = self.known.get(&id) else {
            return Ok(());
        };
        let is_pruned = known.pruned.is_some_and(|at| at.elapsed() < PRUNE_EVERY);
        let Some(number) = known.base else {
            return if is_pruned { Ok(()) } else { self.prune(id) };
        };
        let (row, is_taking) = self.control.read(|tx| {
            let is_taking = self.control.open.at(tx)?.iter().any(|open| takes_base(open, id));
            Ok((tx.get::<Database>(&id.to_string())?, is_taking))
        })?;
        let archive = row.and_then(|row| row.row.archive);
        let mut bases = archive.iter().flat_map(|archive| &archive.bases);
        // It may have been given up here meanwhile: the next look finds another.
        let Some(base) = bases.find(|base| base.number == number) else {
            return Ok(());
        };
        // The list of its files goes with it.
        if is_taking && base.manifest.is_none() {
            return Ok(());
        }
        tracing::info!(database = %database.name, number, "a base is put on the target elsewhere");
        let Some(bytes) = self.put_base(id, base)? else {
            return Ok(());
        };
        self.name_base(id, base, bytes)?;
        self.prune(id)
    }

    /// The bytes it has there; nothing when the target is not wanted any more.
    fn put_base(&mut self, id: DatabaseId, base: &Base) -> Result<Option<u64>, ControlError> {
        let listed = self.ready.target.list(&self.names.base(id, base.number));
        let listed = listed.map_err(|cause| target_refused(&cause))?;
        let there = listed
            .into_iter()
            .map(|object| (object.name, object.bytes))
            .collect();
        let engine = Arc::clone(&self.control.engine);
        let mut parts = Parts {
            uploader: self,
            id,
            number: base.number,
            there,
            buffer: Vec::new(),
            put: Vec::new(),
            failure: None,
        };
        let packed = carry::pack(&*engine, &base_volume(id, base.number), &mut parts);
        match (parts.failure.take(), packed) {
            (Some(GivenUp::Failed(cause)), _) => return Err(cause),
            (Some(GivenUp::Unwanted), _) => return Ok(None),
            (None, packed) => packed.map_err(refused)?,
        }
        if let Err(cause) = parts.flush() {
            return match parts.failure.take() {
                Some(GivenUp::Failed(cause)) => Err(cause),
                Some(GivenUp::Unwanted) | None => {
                    tracing::debug!(%cause, "a base was given up");
                    Ok(None)
                }
            };
        }
        let manifest = Manifest {
            parts: std::mem::take(&mut parts.put),
        };
        drop(parts);
        let sum: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
        let name = self.names.manifest(id, base.number);
        let put = self.ready.target.put_document(&self.ready.key, &name, &manifest);
        let put = put.map_err(|cause| target_refused(&cause))?;
        Ok(Some(sum + put.bytes))
    }

    fn name_base(&mut self, id: DatabaseId, base: &Base, bytes: u64) -> Result<(), ControlError> {
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        let mut next = known.catalogue.clone();
        next.bases.push(KeptBase {
            number: base.number,
            stretch: base.stretch,
            at: base.at,
            lsn: base.lsn,
            last: base.last,
            version: base.version.clone(),
            image: base.image.clone(),
            files: base.manifest,
            bytes,
        });
        next.written_at = Timestamp::now();
        self.write(&next)?;
        if let Some(known) = self.known.get_mut(&id) {
            known.catalogue = next;
            known.base = None;
        }
        Ok(())
    }

    /// Removes what no promise needs, unless somebody reads what is there: then at another look.
    fn prune(&mut self, id: DatabaseId) -> Result<(), ControlError> {
        let control = self.control;
        let Some(_held) = control.uploads.holds.remove(id) else {
            return Ok(());
        };
        let Some(known) = self.known.get(&id) else {
            return Ok(());
        };
        let next = self.shelf().expire(&known.catalogue, Timestamp::now());
        let next = next.map_err(|cause| target_refused(&cause))?;
        if let Some(known) = self.known.get_mut(&id) {
            (known.catalogue, known.pruned) = (next, Some(Instant::now()));
        }
        Ok(())
    }
}

/// Why a base was not put to its end.
enum GivenUp {
    Failed(ControlError),
    Unwanted,
}

/// Cuts the stream of a base into parts and puts them. In between the log of all databases goes on.
struct Parts<'u, 'c> {
    uploader: &'u mut Uploader<'c>,
    id: DatabaseId,
    number: u64,
    /// What an earlier try put, with sizes.
    there: BTreeMap<String, u64>,
    buffer: Vec<u8>,
    put: Vec<Part>,
    failure: Option<GivenUp>,
}

impl Parts<'_, '_> {
    fn put_part(&mut self) -> Result<(), GivenUp> {
        if !self.uploader.is_wanted().map_err(GivenUp::Failed)? {
            return Err(GivenUp::Unwanted);
        }
        let index = self.put.len() as u64;
        let name = self.uploader.names.part(
            self.id,
            self.number,
            index,
            &self.buffer,
            &self.uploader.ready.key,
        );
        // A mark of its content is in its name.
        let bytes = match self.there.get(&name) {
            Some(bytes) => *bytes,
            None => self
                .uploader
                .put(&name, &mut &self.buffer[..])
                .map_err(GivenUp::Failed)?,
        };
        self.put.push(Part { name, bytes });
        self.buffer.clear();
        // What keeps one of them is told there, and the target's own trouble shows at the next part.
        self.uploader.logs().map_err(GivenUp::Failed)?;
        Ok(())
    }

    fn try_part(&mut self) -> io::Result<()> {
        self.put_part().map_err(|cause| {
            self.failure = Some(cause);
            io::Error::other("the base could not be put there")
        })
    }
}

impl Write for Parts<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(PART_BYTES).unwrap_or(usize::MAX) - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.try_part()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => self.try_part(),
        }
    }
}
