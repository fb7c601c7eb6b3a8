//! Uploads: a source on its way to a build. Kept below the data directory until used or a day old.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;

use model::{Action, Actor, Millis, Timestamp, UploadId};
use sha2::{Digest, Sha256};
use store::Versioned;
use store::rows::Upload;

use crate::authorize::{self, EnvPath};
use crate::{Control, ControlError, rehearsal};

/// How long an upload stays: long enough for a queued build and its repetition.
const KEEP: Millis = Millis::seconds(24 * 3600);

/// Where an upload's bytes are.
#[must_use]
pub fn path_of(control: &Control, id: UploadId) -> PathBuf {
    control.settings.data_dir.join("uploads").join(id.to_string())
}

/// Takes an archive (tar, tar.gz, tar.zst) from a reader: file synced first, then the row that names it.
///
/// # Errors
/// As the gate's; `Invalid` beyond the size limit; `File` when it cannot be kept.
pub fn receive(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    body: &mut dyn Read,
) -> Result<Versioned<Upload>, ControlError> {
    let id = UploadId::fresh();
    let name = id.to_string();
    let allowed = control.read(|tx| authorize::environment(tx, actor, Action::Deploy, path));
    control.audited(actor, "upload.create", &name, allowed)?;
    let target = path_of(control, id);
    let taken = match rehearsal::is_on() {
        true => count(body, control.settings.upload_bytes),
        false => keep(&target, body, control.settings.upload_bytes),
    };
    let kept = match taken {
        Ok(Some(kept)) => Ok(kept),
        Ok(None) => {
            let limit = model::Bytes::new(control.settings.upload_bytes);
            Err(ControlError::invalid(
                "/",
                format!("larger than {limit}; ignore what is not needed (.gitignore)"),
            ))
        }
        Err(cause) => Err(file_error("could not keep the upload", cause)),
    };
    let kept = kept.inspect_err(|_| drop(fs::remove_file(&target)));
    let (bytes, sha256) = control.audited(actor, "upload.create", &name, kept)?;
    let stored = control.mutate(actor, "upload.create", &name, |tx| {
        // Looked up again: the token may have been revoked, or the environment gone, while the body came.
        let scope = authorize::environment(tx, actor, Action::Deploy, path)?;
        let row = Upload {
            id,
            environment: scope.environment.id,
            bytes,
            sha256: sha256.clone(),
            created_at: control.now_of(tx),
        };
        tx.insert(&row)?;
        Ok(tx.need::<Upload>(&name)?)
    });
    stored.inspect_err(|_| drop(fs::remove_file(&target)))
}

/// Syncs what comes into a file; its size and hash, or nothing beyond the limit.
fn keep(target: &PathBuf, body: &mut dyn Read, limit: u64) -> std::io::Result<Option<(u64, String)>> {
    let dir = target.parent().unwrap_or(target);
    fs::create_dir_all(dir)?;
    let mut file = File::create_new(target)?;
    let taken = pour(body, &mut file, limit)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(taken)
}

/// The same without keeping it.
fn count(body: &mut dyn Read, limit: u64) -> std::io::Result<Option<(u64, String)>> {
    pour(body, &mut std::io::sink(), limit)
}

fn pour(body: &mut dyn Read, file: &mut dyn Write, limit: u64) -> std::io::Result<Option<(u64, String)>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if bytes > limit {
            return Ok(None);
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
    let digest = hash.finalize();
    Ok(Some((
        bytes,
        digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    )))
}

/// An error of the disk as the caller is told it.
pub(crate) fn file_error(what: &str, cause: std::io::Error) -> ControlError {
    if cause.kind() == std::io::ErrorKind::StorageFull {
        return ControlError::Engine(engine::EngineError::Full(what.to_owned()));
    }
    ControlError::File {
        what: what.to_owned(),
        cause,
    }
}

/// Removes uploads past their time, and files without a row.
pub(crate) fn collect(control: &Control, now: Timestamp) -> Result<(), ControlError> {
    let (uploads, lost) = control.read(crate::transact::all::<Upload>)?;
    for upload in &uploads {
        if now.since(upload.created_at) > KEEP {
            let deleted =
                control.write(|tx| Ok(tx.delete::<Upload>(&upload.id.to_string(), store::Expect::Any)?));
            // What is damaged waits for its repair.
            crate::transact::unless_corrupt(deleted)?;
        }
    }
    let Ok(entries) = fs::read_dir(control.settings.data_dir.join("uploads")) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = lost.contains(&name)
            || uploads
                .iter()
                .any(|upload| upload.id.to_string() == name && now.since(upload.created_at) <= KEEP);
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|at| at.elapsed().ok());
        // A file without a row may be an upload under way.
        if !known && age.is_some_and(|age| age > KEEP.as_duration()) {
            drop(fs::remove_file(entry.path()));
        }
    }
    Ok(())
}
