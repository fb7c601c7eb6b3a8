//! The store on disk: blobs by digest, layers by diff-id, one index of images and names.
//!
//! ```text
//! ROOT/oci-layout, index.json      an OCI image layout: any tool that reads those can read this
//! ROOT/blobs/sha256/HEX            manifests, configurations, compressed layers
//! ROOT/layers/HEX/                 the unpacked layer of that diff-id, ready to be an overlay lower directory
//! ROOT/layers/HEX.json             what is known of it; written before the directory gets its name
//! ROOT/cache/HEX.json              build step cache: key -> image
//! ROOT/used/HEX                    its time is when the image was last asked for
//! ROOT/tmp/                        everything unfinished; emptied at open
//! ```
//!
//! Lives here: opening, blobs, temporary places, waiting for one another, protection from collection.
//! Does not live here: names (`names`), layers (`layers`), collection (`gc`).
//! Invariant: whatever has a name outside `tmp` is complete and durable.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::digest::{Digest, Hashing, ImageId};
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::names::Names;

/// The images of one data directory. Cloning is cheap and gives the same store; all calls may come from any thread.
#[derive(Clone)]
pub struct Images {
    pub(crate) store: Arc<Store>,
}

pub(crate) struct Store {
    root: PathBuf,
    pub(crate) names: Mutex<Names>,
    /// Blobs and layers some call is working with; the collector leaves them alone.
    pins: Mutex<HashMap<Digest, u32>>,
    /// Images in use, with how often; see [`Images::hold`].
    pub(crate) holds: Mutex<HashMap<ImageId, u32>>,
    /// Work that must not be done twice at once.
    busy: Mutex<HashSet<String>>,
    no_longer_busy: Condvar,
    temporaries: AtomicU64,
    /// Held for as long as the store is open.
    _lock: File,
}

impl Images {
    /// Opens the store, creating what is missing and removing what an earlier process left unfinished.
    pub fn open(root: &Path) -> Result<Self> {
        for directory in ["blobs/sha256", "layers", "cache", "used", "tmp"] {
            disk::private_directory(&root.join(directory))?;
        }
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).doing("create", &lock_path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ImageError::InUse { root: root.into() }),
            Err(cause) => return Err(ImageError::io("lock", lock_path, cause)),
        }
        let tmp = root.join("tmp");
        for left in fs::read_dir(&tmp).doing("read", &tmp)? {
            // What cannot be removed is left for the next time: its name is not used again.
            let _stays = disk::remove_left(&left.doing("read", &tmp)?.path());
        }
        let layout = root.join("oci-layout");
        if !layout.exists() {
            disk::write_durably(
                &layout,
                &tmp.join("oci-layout"),
                br#"{"imageLayoutVersion":"1.0.0"}"#,
            )?;
        }
        let names = Names::load(&root.join("index.json"))?;
        let store = Store {
            root: root.into(),
            names: Mutex::new(names),
            pins: Mutex::default(),
            holds: Mutex::default(),
            busy: Mutex::default(),
            no_longer_busy: Condvar::new(),
            temporaries: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self {
            store: Arc::new(store),
        })
    }
}

/// A poisoned lock only means that another call panicked; what it guards is replaced whole, never half.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn layer_facts_path(&self, diff_id: Digest) -> PathBuf {
        self.root.join("layers").join(format!("{}.json", diff_id.hex()))
    }

    pub(crate) fn used_path(&self, digest: Digest) -> PathBuf {
        self.root.join("used").join(digest.hex())
    }

    /// A path nobody else uses, removed with all below it when the guard goes.
    pub(crate) fn temporary(&self) -> Temporary {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        Temporary {
            path: self.root.join("tmp").join(number.to_string()),
        }
    }

    /// The same as a new directory.
    pub(crate) fn temporary_directory(&self) -> Result<Temporary> {
        let temporary = self.temporary();
        disk::private_directory(&temporary.path)?;
        Ok(temporary)
    }

    pub(crate) fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        disk::write_durably(path, &self.temporary().path, bytes)
    }

    pub(crate) fn has_blob(&self, digest: Digest) -> bool {
        self.blob_path(digest).exists()
    }

    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).doing("open", path)
    }

    /// A small blob, checked against its digest: nothing altered on disk is believed.
    pub(crate) fn read_blob(&self, digest: Digest, limit: u64) -> Result<Vec<u8>> {
        let bytes = read_bounded(&mut self.open_blob(digest)?, &digest.to_string(), limit)?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(ImageError::DigestMismatch {
                what: format!("blob {digest}"),
                expected: digest,
                found,
            });
        }
        Ok(bytes)
    }

    /// Stores a small blob, once.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<Pin<'_>> {
        let digest = Digest::of(bytes);
        let pin = self.pin(digest);
        if !self.has_blob(digest) {
            self.write_durably(&self.blob_path(digest), bytes)?;
        }
        Ok(pin)
    }

    pub(crate) fn blob_writer(&self) -> Result<BlobWriter<'_>> {
        let temporary = self.temporary();
        let file = File::create(&temporary.path).doing("create", &temporary.path)?;
        Ok(BlobWriter {
            store: self,
            temporary,
            out: Hashing::new(BufWriter::with_capacity(1 << 18, file)),
        })
    }

    /// Protects a blob or layer from collection while the guard lives. Take it *before* looking whether it exists.
    pub(crate) fn pin(&self, digest: Digest) -> Pin<'_> {
        *locked(&self.pins).entry(digest).or_default() += 1;
        Pin { store: self, digest }
    }

    /// Runs `remove` unless somebody works with it; pins taken meanwhile wait.
    pub(crate) fn unless_pinned<T>(&self, digest: Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let pins = locked(&self.pins);
        (!pins.contains_key(&digest)).then(remove)
    }

    /// Waits until nobody else does the work called `key`.
    pub(crate) fn alone_with(&self, key: String) -> Alone<'_> {
        let mut busy = locked(&self.busy);
        while busy.contains(&key) {
            busy = self
                .no_longer_busy
                .wait(busy)
                .unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(key.clone());
        Alone { store: self, key }
    }
}

/// Reads a document that may not exceed a bound.
pub(crate) fn read_bounded(from: &mut impl Read, what: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut bounded = BufReader::new(from).take(limit + 1);
    bounded.read_to_end(&mut bytes).doing("read", what)?;
    if bytes.len() as u64 > limit {
        return Err(ImageError::Quota {
            what: what.into(),
            limit,
            unit: "bytes",
        });
    }
    Ok(bytes)
}

/// A path in `tmp` that goes with its guard.
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let removed = disk::remove_tree(&self.path).or_else(|_| disk::remove_left(&self.path));
        if let Err(cause) = removed {
            tracing::warn!(path = %self.path.display(), %cause, "could not remove; the next start will");
        }
    }
}

/// Protection from collection.
pub(crate) struct Pin<'s> {
    store: &'s Store,
    pub(crate) digest: Digest,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = locked(&self.store.pins);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

/// Being the only one to do some work.
pub(crate) struct Alone<'s> {
    store: &'s Store,
    key: String,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        locked(&self.store.busy).remove(&self.key);
        self.store.no_longer_busy.notify_all();
    }
}

/// A blob being written; it gets its name from its content.
pub(crate) struct BlobWriter<'s> {
    store: &'s Store,
    temporary: Temporary,
    out: Hashing<BufWriter<File>>,
}

impl<'s> BlobWriter<'s> {
    /// How much was written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.bytes()
    }

    /// Commits if the content is what it should be; else it is gone.
    pub(crate) fn commit_as(self, expected: Digest) -> Result<()> {
        let found = self.out.digest();
        if found != expected {
            return Err(ImageError::DigestMismatch {
                what: format!("blob {expected}"),
                expected,
                found,
            });
        }
        self.commit().map(drop)
    }

    pub(crate) fn commit(self) -> Result<(Pin<'s>, u64)> {
        let (digest, bytes, out) = self.out.finish();
        let file = out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .doing("write", &self.temporary.path)?;
        let pin = self.store.pin(digest);
        if !self.store.has_blob(digest) {
            file.sync_all().doing("sync", &self.temporary.path)?;
            disk::rename_durably(&self.temporary.path, &self.store.blob_path(digest))?;
        }
        Ok((pin, bytes))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
