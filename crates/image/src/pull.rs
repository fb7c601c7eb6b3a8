//! Pulling: from a reference to an image whose every byte was checked.
//!
//! Lives here: manifest, configuration and layers in order; retrying, resuming, several layers at once.
//! Does not live here: HTTP and its rules (`registry`).
//! Invariant: nothing enters the store under a digest it does not have; an image is entered when all of it is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use ureq::http::header;

use crate::allowance::Allowance;
use crate::digest::{Digest, ImageId};
use crate::error::{Doing, ImageError, Result};
use crate::import::short;
use crate::names::{Known, Origin};
use crate::oci::{self, ConfigFile, Descriptor, Index, Manifest, Platform};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Access, Ask, Freshness, PullPolicy, Registry};
use crate::store::{BlobWriter, Images, Pin, Store, locked, read_bounded};

/// More do not make a registry faster, and each costs a connection and a core for unpacking.
const AT_ONCE: usize = 3;
/// A transfer that moves this much has earned a new count of attempts.
const HEADWAY: u64 = 1 << 20;
/// But no blob is worth more connections than this.
const CONNECTIONS_LIMIT: u32 = 200;
/// Progress is told in steps people can see.
const TELL_EVERY: u64 = 1 << 20;
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

impl Images {
    /// Pulls an image for this machine and gives its digest; later moves of the tag do not change what that means (N28).
    pub fn pull(
        &self,
        reference: &Reference,
        policy: &PullPolicy,
        progress: &dyn Fn(Progress),
    ) -> Result<ImageId> {
        let name = reference.to_string();
        let _alone = self.store.alone_with(format!("pull {name}"));
        if policy.freshness == Freshness::IfAbsent
            && let Ok(id) = self.resolve(&name)
        {
            return Ok(id);
        }
        progress(Progress::Step(format!(
            "asking {} for {}",
            reference.registry(),
            reference.repository()
        )));
        let registry = Registry::new(reference, Access::Pull, policy)?;
        let pull = Pull {
            store: &self.store,
            registry,
            policy,
            allowance: Allowance::new("the image", &policy.quota),
            is_over: AtomicBool::new(false),
        };
        let (digest, bytes) = pull.manifest(reference)?;
        let manifest = Manifest::read(&name, &bytes)?;
        let manifest_pin = self.store.put_blob(&bytes)?;
        let config_pin = self.store.pin(manifest.config.digest);
        pull.small_blob(&manifest.config)?;
        let config: ConfigFile = oci::read(
            &name,
            &self.store.read_blob(manifest.config.digest, oci::CONFIG_LIMIT)?,
        )?;
        check_image(&name, &manifest, &config, policy)?;
        let pins: Vec<Pin<'_>> = manifest
            .layers
            .iter()
            .map(|layer| layer.digest)
            .chain(config.rootfs.diff_ids.iter().copied())
            .map(|digest| self.store.pin(digest))
            .collect();
        pull.layers(&manifest, &config, progress)?;
        let known = Known {
            size: bytes.len() as u64,
            names: BTreeSet::new(),
            origin: Origin::Pulled,
            binds: Vec::new(),
            notes: BTreeMap::from([("reference".to_owned(), name.clone())]),
        };
        self.store.enter(ImageId(digest), Some(&name), known)?;
        drop((pins, config_pin, manifest_pin));
        Ok(ImageId(digest))
    }
}

fn check_image(name: &str, manifest: &Manifest, config: &ConfigFile, policy: &PullPolicy) -> Result<()> {
    crate::inspect::check_layer_count(name, manifest, config)?;
    let found = Platform {
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        variant: None,
    };
    if !found.runs_here() && !config.architecture.is_empty() {
        let wanted = Platform::here().to_string();
        return Err(ImageError::NoPlatform {
            reference: name.into(),
            wanted,
            offered: found.to_string(),
        });
    }
    let compressed = manifest
        .layers
        .iter()
        .fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    if compressed > policy.quota.bytes {
        return Err(ImageError::Quota {
            what: name.into(),
            limit: policy.quota.bytes,
            unit: "bytes",
        });
    }
    Ok(())
}

struct Pull<'a> {
    store: &'a Store,
    registry: Registry<'a>,
    policy: &'a PullPolicy,
    /// Of all layers together.
    allowance: Allowance<'a>,
    /// Set when one layer failed for good: the others need not go on.
    is_over: AtomicBool,
}

/// What came of one connection.
enum Fetched {
    Complete,
    /// Broke off, or was not answered; the reason when no further attempt is made.
    Broken(ImageError),
    /// The registry does not continue where we ask it to.
    StartAgain,
}

impl Pull<'_> {
    /// Repeats what may succeed next time: lost connections, overload.
    fn with_patience<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Err(cause) if is_passing(&cause) && failures + 1 < self.policy.attempts => {
                    failures += 1;
                    pause(failures);
                }
                outcome => return outcome,
            }
        }
    }

    /// The manifest for this machine, its digest checked against whatever named it.
    fn manifest(&self, reference: &Reference) -> Result<(Digest, Vec<u8>)> {
        let name = reference.to_string();
        let (bytes, kind) = self.with_patience(|| self.document(&reference.wanted(), reference.digest()))?;
        if kind == Kind::Manifest {
            return Ok((Digest::of(&bytes), bytes));
        }
        let index: Index = oci::read(&name, &bytes)?;
        let chosen = index.choose(&name)?;
        let (bytes, kind) =
            self.with_patience(|| self.document(&chosen.digest.to_string(), Some(chosen.digest)))?;
        if kind == Kind::Index {
            return Err(ImageError::refused(name, "its index lists another index"));
        }
        if bytes.len() as u64 != chosen.size {
            let found = bytes.len() as u64;
            return Err(ImageError::SizeMismatch {
                what: format!("manifest {}", chosen.digest),
                expected: chosen.size,
                found,
            });
        }
        Ok((chosen.digest, bytes))
    }

    fn document(&self, wanted: &str, expected: Option<Digest>) -> Result<(Vec<u8>, Kind)> {
        let path = format!("manifests/{wanted}");
        let answer = self.registry.get(Ask {
            path: &path,
            accept: Some(ACCEPT),
            from_byte: 0,
        })?;
        let mut answer = self.registry.expect(answer, &path, wanted)?;
        let said = answer
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        let said = said.and_then(|text| text.parse::<Digest>().ok());
        let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
        let bytes = read_bounded(&mut body, "the manifest", oci::MANIFEST_LIMIT)
            .map_err(|cause| self.broken(cause))?;
        let found = Digest::of(&bytes);
        for expected in [expected, said].into_iter().flatten() {
            if expected != found {
                return Err(ImageError::DigestMismatch {
                    what: format!("manifest {wanted}"),
                    expected,
                    found,
                });
            }
        }
        let kind = Kind::of(wanted, &bytes)?;
        Ok((bytes, kind))
    }

    /// An answer that broke off is the registry's doing; a full disk or a bound is not.
    fn broken(&self, cause: ImageError) -> ImageError {
        match cause {
            ImageError::Io { cause, .. } => self.registry.unreachable(cause.to_string()),
            ImageError::Refused { why, .. } => self.registry.unreachable(why),
            other => other,
        }
    }

    fn small_blob(&self, wanted: &Descriptor) -> Result<()> {
        if wanted.size > oci::CONFIG_LIMIT {
            return Err(ImageError::Quota {
                what: "the configuration".into(),
                limit: oci::CONFIG_LIMIT,
                unit: "bytes",
            });
        }
        self.blob(wanted, &|_| {})
    }

    /// Fetches and unpacks all layers, a few at a time; the calling thread tells the progress.
    fn layers(&self, manifest: &Manifest, config: &ConfigFile, progress: &dyn Fn(Progress)) -> Result<()> {
        let jobs: VecDeque<(&Descriptor, Digest)> = manifest
            .layers
            .iter()
            .zip(config.rootfs.diff_ids.iter().copied())
            .collect();
        let (jobs, failure) = (Mutex::new(jobs), Mutex::new(None));
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            for _worker in 0..AT_ONCE.min(manifest.layers.len()) {
                let tell = tell.clone();
                let (jobs, failure) = (&jobs, &failure);
                scope.spawn(move || self.work(jobs, failure, &tell));
            }
            drop(tell);
            for news in told {
                progress(news);
            }
        });
        match failure.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(cause)) => Err(cause),
            Err(poisoned) => poisoned.into_inner().map_or(Ok(()), Err),
        }
    }

    fn work(
        &self,
        jobs: &Mutex<VecDeque<(&Descriptor, Digest)>>,
        failure: &Mutex<Option<ImageError>>,
        tell: &Sender<Progress>,
    ) {
        while !self.is_over.load(Ordering::Relaxed) {
            let Some((layer, diff_id)) = locked(jobs).pop_front() else {
                return;
            };
            let what = format!("layer {}", short(layer.digest));
            let say = |done| {
                let news = Progress::Bytes {
                    what: what.clone(),
                    done,
                    total: layer.size,
                };
                // Nobody listens any more when another layer failed.
                let _unheard = tell.send(news);
            };
            let done = self
                .blob(layer, &say)
                .and_then(|()| self.store.ensure_layer(diff_id, layer.digest, &self.allowance));
            if let Err(cause) = done {
                self.is_over.store(true, Ordering::Relaxed);
                locked(failure).get_or_insert(cause);
            }
        }
    }

    /// Fetches one blob unless it is there; resumes where a connection broke off.
    fn blob(&self, wanted: &Descriptor, say: &dyn Fn(u64)) -> Result<()> {
        let _alone = self.store.alone_with(format!("blob {}", wanted.digest));
        if self.store.has_blob(wanted.digest) {
            return Ok(());
        }
        let mut is_second_copy = false;
        loop {
            let writer = self.fetch(wanted, say)?;
            match writer.commit_as(wanted.digest) {
                // Once more: a proxy may have kept a damaged copy. Twice is an answer.
                Err(ImageError::DigestMismatch { .. }) if !is_second_copy => is_second_copy = true,
                outcome => return outcome,
            }
        }
    }

    fn fetch(&self, wanted: &Descriptor, say: &dyn Fn(u64)) -> Result<BlobWriter<'_>> {
        let mut writer = self.store.blob_writer()?;
        let (mut failures, mut mark) = (0, 0);
        for _connection in 0..CONNECTIONS_LIMIT {
            let cause = match self.connection(wanted, &mut writer, say)? {
                Fetched::Complete => return Ok(writer),
                Fetched::StartAgain => {
                    (writer, mark) = (self.store.blob_writer()?, 0);
                    failures += 1;
                    self.registry.unreachable("it does not resume transfers")
                }
                Fetched::Broken(cause) => {
                    failures = if writer.bytes() >= mark + HEADWAY {
                        1
                    } else {
                        failures + 1
                    };
                    mark = writer.bytes();
                    cause
                }
            };
            if failures >= self.policy.attempts || self.is_over.load(Ordering::Relaxed) {
                return Err(cause);
            }
            pause(failures);
        }
        Err(self.registry.unreachable("the connection broke off too often"))
    }

    fn connection(
        &self,
        wanted: &Descriptor,
        writer: &mut BlobWriter<'_>,
        say: &dyn Fn(u64),
    ) -> Result<Fetched> {
        let path = format!("blobs/{}", wanted.digest);
        let begin = writer.bytes();
        let answer = match self.registry.get(Ask {
            path: &path,
            accept: None,
            from_byte: begin,
        }) {
            Err(cause) if is_passing(&cause) => return Ok(Fetched::Broken(cause)),
            answer => answer?,
        };
        if answer.status() == 416 || (begin > 0 && answer.status() == 200) {
            return Ok(Fetched::StartAgain);
        }
        let mut answer = match self.registry.expect(answer, &path, &wanted.digest.to_string()) {
            Err(cause) if is_passing(&cause) => return Ok(Fetched::Broken(cause)),
            answer => answer?,
        };
        if begin > 0 && !continues_at(answer.headers(), begin) {
            return Ok(Fetched::StartAgain);
        }
        let mismatch = |found| ImageError::SizeMismatch {
            what: format!("blob {}", wanted.digest),
            expected: wanted.size,
            found,
        };
        if let Some(length) = answer.body().content_length()
            && begin + length != wanted.size
        {
            return Err(mismatch(begin + length));
        }
        let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
        let (mut buffer, mut told) = (vec![0; 1 << 16], begin);
        while !self.is_over.load(Ordering::Relaxed) {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) => return Ok(Fetched::Broken(self.registry.unreachable(cause.to_string()))),
            };
            if writer.bytes() + count as u64 > wanted.size {
                return Err(mismatch(writer.bytes() + count as u64));
            }
            writer
                .write_all(&buffer[..count])
                .doing("write", self.store.blob_path(wanted.digest))?;
            if writer.bytes() - told >= TELL_EVERY || writer.bytes() == wanted.size {
                told = writer.bytes();
                say(told);
            }
        }
        if writer.bytes() == wanted.size {
            return Ok(Fetched::Complete);
        }
        Ok(Fetched::Broken(
            self.registry.unreachable("the connection broke off"),
        ))
    }
}

fn continues_at(headers: &ureq::http::HeaderMap, begin: u64) -> bool {
    let range = headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    range
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split('-').next())
        .and_then(|start| start.parse().ok())
        == Some(begin)
}

/// Whether the same question may have another answer soon.
fn is_passing(cause: &ImageError) -> bool {
    let is_overload = |status: u16| status == 429 || status >= 500;
    matches!(cause, ImageError::Unreachable { .. })
        || matches!(cause, ImageError::Registry { status, .. } if is_overload(*status))
}

fn pause(failures: u32) {
    std::thread::sleep(Duration::from_millis(100 << failures.min(5)));
}

/// What a document from the registry is. One that could be read as both is an attack on whoever checks only one reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
}

impl Kind {
    fn of(what: &str, bytes: &[u8]) -> Result<Self> {
        let document: serde_json::Map<String, serde_json::Value> = oci::read(what, bytes)?;
        match (
            document.contains_key("layers"),
            document.contains_key("manifests"),
        ) {
            (true, false) => Ok(Self::Manifest),
            (false, true) => Ok(Self::Index),
            (true, true) => Err(ImageError::refused(what, "it is a manifest and an index at once")),
            (false, false) => Err(ImageError::Unsupported {
                what: format!("manifest {what}"),
                why: "only OCI and Docker version 2 schema 2 images are read".into(),
            }),
        }
    }
}
