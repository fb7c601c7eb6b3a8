//! The target elsewhere that backups are also written to: setting it, seeing it, its key.
//!
//! Lives here: the row of the target and the proof before it. Does not live here: writing backups (`reconcile`), what is
//! on the target (`kept`).
//! Invariants: a target is proven before it is kept; a key is shown once, when it is made; every server writes under an
//! identity of its own, and never to what is another's.

mod holds;
mod kept;
mod progress;
mod verify;

use std::path::Path;

use ::backup::{Access, BackupError, Bucket, Key, Mark, Names, Target};
use model::{Action, Actor, BackupTarget, DrilledCopy, TargetPlace, Timestamp};
use store::rows::{BACKUP_KEY, BACKUP_TARGET, BUCKET_SECRET};
use store::{Expect, ReadTx, Sealed, Secret, Versioned};
use zeroize::Zeroizing;

use crate::authorize;
use crate::transact::Current as _;
use crate::{Control, ControlError, rehearsal};

pub(crate) use holds::Held;
pub use kept::{KeptDatabase, kept, restore};
pub(crate) use kept::{find, target_refused, wal_file};
pub use progress::{Progress, Uploads, progress};
pub use verify::verify;

/// What is told of the target. No secret is in it.
#[derive(Debug, Clone)]
pub struct TargetView {
    /// The row.
    pub target: Versioned<BackupTarget>,
    /// It is a directory on the disk that the data is on: lost with it.
    pub is_same_disk: bool,
}

/// What came of setting a target.
pub struct TargetSet {
    /// The target.
    pub view: TargetView,
    /// The text of its key, when the key was made now: it is never shown again.
    pub key: Option<Secret>,
}

/// What a target is to be.
pub struct TargetWish {
    /// Where.
    pub place: TargetPlace,
    /// The secret key of a bucket.
    pub secret: Option<Secret>,
    /// The text of a key that there is already.
    pub key: Option<Secret>,
}

fn need(tx: &ReadTx) -> Result<Versioned<BackupTarget>, ControlError> {
    tx.get::<BackupTarget>(BACKUP_TARGET)?.ok_or_else(none)
}

pub(crate) fn none() -> ControlError {
    authorize::missing("backup target", "elsewhere")
}

/// The target with what opens it.
pub(crate) struct Ready {
    pub(crate) row: BackupTarget,
    pub(crate) target: Target,
    pub(crate) key: Key,
}

/// The target there is, ready to be used.
pub(crate) fn ready(control: &Control, row: BackupTarget) -> Result<Ready, ControlError> {
    let open = |name, sealed: &[u8]| {
        let sealed = Sealed(sealed.to_vec());
        let opened = control.store.unseal(BACKUP_TARGET, name, row.version, &sealed);
        opened.map_err(store::StoreError::from)
    };
    let secret = match row.secret.is_empty() {
        true => None,
        false => Some(open(BUCKET_SECRET, &row.secret)?),
    };
    let key = key_of(&open(BACKUP_KEY, &row.key)?)?;
    let target = target_at(&row.place, secret.as_ref())?;
    Ok(Ready { row, target, key })
}

/// The row, if there is one.
pub(crate) fn row(control: &Control) -> Result<Option<BackupTarget>, ControlError> {
    control.read(|tx| Ok(tx.get::<BackupTarget>(BACKUP_TARGET)?.map(|found| found.row)))
}

fn target_at(place: &TargetPlace, secret: Option<&Secret>) -> Result<Target, ControlError> {
    match place {
        TargetPlace::Directory { path } => Ok(Target::Directory(path.into())),
        TargetPlace::S3 {
            endpoint,
            bucket,
            region,
            prefix,
            access_key,
        } => {
            let access = Access {
                access_key: access_key.clone(),
                secret_key: Zeroizing::new(secret.map(|secret| secret.expose().to_vec()).unwrap_or_default()),
            };
            let made = Bucket::new(endpoint, bucket, region, prefix, access);
            made.map(Target::Bucket)
                .map_err(|cause| ControlError::invalid("/place", cause.to_string()))
        }
    }
}

fn key_of(text: &Secret) -> Result<Key, ControlError> {
    let text = text.expose_str().unwrap_or_default();
    text.parse::<Key>()
        .map_err(|cause| ControlError::invalid("/key", cause.to_string()))
}

/// A directory must be there and lie outside of the data it is to outlive.
fn check_directory(control: &Control, path: &str) -> Result<(), ControlError> {
    let wrong = |why: String| ControlError::invalid("/place/path", why);
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(wrong("write the whole path, from /".to_owned()));
    }
    let real = path
        .canonicalize()
        .map_err(|cause| wrong(format!("{}: {cause}; make it first", path.display())))?;
    if !real.is_dir() {
        return Err(wrong(format!("{} is no directory", path.display())));
    }
    let data = control.settings.data_dir.canonicalize();
    if data.is_ok_and(|data| real.starts_with(&data) || data.starts_with(&real)) {
        let why =
            "it and the data directory lie in one another: name a directory elsewhere, best on another disk";
        return Err(wrong(why.to_owned()));
    }
    Ok(())
}

fn is_same_disk(control: &Control, place: &TargetPlace) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).ok();
    match place {
        TargetPlace::Directory { path } => {
            let own = device(&control.settings.data_dir);
            own.is_some() && own == device(Path::new(path))
        }
        TargetPlace::S3 { .. } => false,
    }
}

fn view_of(control: &Control, target: Versioned<BackupTarget>) -> TargetView {
    TargetView {
        is_same_disk: is_same_disk(control, &target.row.place),
        target,
    }
}

/// The target there is.
///
/// # Errors
/// As the gate's; `NotFound` without one.
pub fn view(control: &Control, actor: &Actor) -> Result<TargetView, ControlError> {
    let found = control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        need(tx)
    })?;
    Ok(view_of(control, found))
}

/// The target of that generation, 0 for none; any, when nothing is expected.
fn as_expected(tx: &ReadTx, expected: Option<u64>) -> Result<Option<Versioned<BackupTarget>>, ControlError> {
    match (tx.get::<BackupTarget>(BACKUP_TARGET)?, expected) {
        (Some(found), expected) => found.current(expected).map(Some),
        (None, None | Some(0)) => Ok(None),
        (None, Some(expected)) => Err(ControlError::Stale { expected, found: 0 }),
    }
}

/// Proves a target and writes backups to it from then on. A key that was used here stays; without one, it is made and
/// shown.
///
/// # Errors
/// As the gate's; `Invalid` for a place that cannot be one, or a key that opens nothing of what is there; `State` with
/// what the target answered; `Stale` when there is another than the expected.
pub fn set(
    control: &Control,
    actor: &Actor,
    wish: &TargetWish,
    expected: Option<u64>,
) -> Result<TargetSet, ControlError> {
    let before = control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        as_expected(tx, expected)
    })?;
    let proven = prove(control, before.as_ref().map(|before| &before.row), wish);
    let proven = control.audited(actor, "backup_target.set", &wish.place.to_string(), proven)?;
    let Proven { key, is_new, server } = proven;
    let row = control.mutate(actor, "backup_target.set", &wish.place.to_string(), |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let version = tx.next_number(BACKUP_TARGET)?;
        let seal = |name, secret: &Secret| {
            let sealed = tx.seal(BACKUP_TARGET, name, version, secret);
            sealed.map(|sealed| sealed.0).map_err(store::StoreError::from)
        };
        // As it was when this one was proven: its identity and key go on.
        let found = as_expected(tx, Some(before.as_ref().map_or(0, |before| before.generation)))?;
        // Who gave the key has it; what was proven of the same key before counts.
        let known = found
            .as_ref()
            .filter(|found| found.row.fingerprint == key.fingerprint());
        let escrowed_at = match wish.key {
            Some(_) => Some(control.now_of(tx)),
            None => known.and_then(|found| found.row.escrowed_at),
        };
        let row = BackupTarget {
            place: wish.place.clone(),
            server: server.clone(),
            fingerprint: key.fingerprint(),
            version,
            key: seal(BACKUP_KEY, &Secret::new(key.text().as_bytes().to_vec()))?,
            secret: match &wish.secret {
                Some(secret) => seal(BUCKET_SECRET, secret)?,
                None => Vec::new(),
            },
            escrowed_at,
            since: control.now_of(tx),
        };
        match found {
            Some(found) => tx.update(&row, Expect::Rev(found.rev))?,
            None => tx.insert(&row)?.rev,
        };
        need(tx)
    })?;
    Ok(TargetSet {
        view: view_of(control, row),
        key: is_new.then(|| Secret::new(key.text().as_bytes().to_vec())),
    })
}

struct Proven {
    key: Key,
    is_new: bool,
    server: String,
}

fn prove(
    control: &Control,
    before: Option<&BackupTarget>,
    wish: &TargetWish,
) -> Result<Proven, ControlError> {
    if let TargetPlace::Directory { path } = &wish.place {
        check_directory(control, path)?;
    }
    let target = target_at(&wish.place, wish.secret.as_ref())?;
    let given = wish.key.as_ref().map(key_of).transpose()?;
    let own = before.cloned().map(|row| ready(control, row)).transpose()?;
    let is_new = given.is_none() && own.is_none();
    let key = match (given, &own) {
        (Some(key), _) => key,
        (None, Some(own)) => own.key.clone(),
        (None, None) => Key::fresh().map_err(|cause| target_refused(&cause))?,
    };
    // The same key goes on under the same identity, wherever it lies.
    let server = match &own {
        Some(own) if own.row.fingerprint == key.fingerprint() => own.row.server.clone(),
        Some(_) | None => identity()?,
    };
    if rehearsal::is_on() {
        return Ok(Proven { key, is_new, server });
    }
    let refused = |cause: BackupError| target_refused(&cause);
    target.prove(&server).map_err(refused)?;
    if wish.key.is_some() {
        refuse_other_keys(&target, &key)?;
    }
    let mark = Mark {
        server: server.clone(),
        key: key.fingerprint(),
        since: Timestamp::now(),
    };
    mark.write(&target, &Names::of(&server).mark()).map_err(refused)?;
    Ok(Proven { key, is_new, server })
}

/// A key that was given is one that opens something, unless nothing is there.
fn refuse_other_keys(target: &Target, key: &Key) -> Result<(), ControlError> {
    let marks = marks(target).map_err(|cause| target_refused(&cause))?;
    if marks.is_empty() || marks.iter().any(|mark| mark.key == key.fingerprint()) {
        return Ok(());
    }
    let mut known: Vec<&str> = marks.iter().map(|mark| mark.key.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    Err(ControlError::invalid(
        "/key",
        format!(
            "this is the key {}, and what is on the target was sealed with {}: it opens nothing there",
            key.fingerprint(),
            known.join(", ")
        ),
    ))
}

/// Who writes to a target. One whose mark is gone is nobody.
pub(crate) fn marks(target: &Target) -> Result<Vec<Mark>, BackupError> {
    let mut marks = Vec::new();
    for server in ::backup::servers(target)? {
        match Mark::read(target, &Names::of(&server).mark()) {
            Ok(mark) if mark.server == server => marks.push(mark),
            Ok(_) | Err(BackupError::Missing { .. } | BackupError::Damaged { .. }) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(marks)
}

/// The mark of this server, as it was written when the target was set.
pub(crate) fn own_mark(ready: &Ready) -> Result<(), BackupError> {
    let name = Names::of(&ready.row.server).mark();
    let why = match Mark::read(&ready.target, &name) {
        Ok(mark) if mark.key == ready.row.fingerprint => return Ok(()),
        Ok(mark) => format!(
            "says that the key is {}, and this server's is {}",
            mark.key, ready.row.fingerprint
        ),
        Err(BackupError::Missing { .. }) => {
            "is not there: is what should be mounted there not mounted, or was it emptied?".to_owned()
        }
        Err(cause) => return Err(cause),
    };
    Err(BackupError::Damaged { object: name, why })
}

/// The copy that a drill of a target proves.
pub(crate) fn copy_on(target: &BackupTarget) -> DrilledCopy {
    DrilledCopy::Target {
        place: target.place.to_string(),
        server: target.server.clone(),
    }
}

/// 128 random bits.
fn identity() -> Result<String, ControlError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| target_refused(&BackupError::NoRandomness))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes backups to no target any more. What is there stays there.
///
/// # Errors
/// As the gate's; `NotFound` without one; `Stale` when it is not as expected.
pub fn remove(control: &Control, actor: &Actor, expected: Option<u64>) -> Result<(), ControlError> {
    control.mutate(actor, "backup_target.remove", BACKUP_TARGET, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        need(tx)?.current(expected)?;
        tx.delete::<BackupTarget>(BACKUP_TARGET, Expect::Any)?;
        Ok(())
    })
}

/// Somebody shows that he has the key.
///
/// # Errors
/// As the gate's; `NotFound` without a target; `Invalid` for another key.
pub fn check_key(control: &Control, actor: &Actor, text: &Secret) -> Result<TargetView, ControlError> {
    let row = control.mutate(actor, "backup_key.check", BACKUP_TARGET, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let mut row = need(tx)?.row;
        let key = key_of(text)?;
        if key.fingerprint() != row.fingerprint {
            return Err(ControlError::invalid(
                "/key",
                format!(
                    "this is the key {}, and the backup of this server is sealed with {}",
                    key.fingerprint(),
                    row.fingerprint
                ),
            ));
        }
        row.escrowed_at = Some(control.now_of(tx));
        tx.update_status(&row, Expect::Any)?;
        need(tx)
    })?;
    Ok(view_of(control, row))
}
