//! Keeping the store within its budget.
//!
//! Lives here: the step cache, what counts as unused, which images go first, removing what nobody refers to, holding what
//! is in use.
//! Does not live here: which images releases need (the caller's keep list), the budget itself (`control`).
//! Invariant: what a kept image refers to, and what any call is working with, is never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::names::Origin;
use crate::oci;
use crate::store::{Images, Store, locked};

/// What images nobody asked to keep may take on disk, blobs and unpacked layers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes.
    pub unused_bytes: u64,
    /// What was made or asked for within this time stays, however large: whoever got it may be about to name it.
    pub grace: Duration,
}

/// An image in use: no collection removes it while this lives.
pub struct Hold {
    store: Arc<Store>,
    id: ImageId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = locked(&self.store.holds);
        if let Some(count) = holds.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.id);
            }
        }
    }
}

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Bytes of blobs and unpacked layers.
    pub bytes: u64,
    /// Images forgotten.
    pub images: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
}

/// What the store takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Images known.
    pub images: u64,
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// Bytes of the files of all unpacked layers.
    pub layer_bytes: u64,
}

/// One line of the step cache.
#[derive(Serialize, Deserialize)]
struct Cached {
    key: String,
    image: ImageId,
}

/// What an image refers to, with the bytes each takes.
type Parts = BTreeMap<Digest, u64>;

impl Images {
    /// The image an earlier build step of this key made. Keys must name everything the step depends on, the tenant included (N31).
    pub fn cache_get(&self, key: &str) -> Result<Option<ImageId>> {
        let path = self.store.cache_path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause).doing("read", &path),
        };
        // A line that cannot be read is a miss: the step runs again and replaces it.
        let Ok(cached) = serde_json::from_slice::<Cached>(&bytes) else {
            return Ok(None);
        };
        let is_there = cached.key == key && locked(&self.store.names).images.contains_key(&cached.image);
        if is_there {
            self.store.touch(cached.image);
        }
        Ok(is_there.then_some(cached.image))
    }

    /// Remembers which image a build step of this key made.
    pub fn cache_put(&self, key: &str, image: ImageId) -> Result<()> {
        self.store.known(image)?;
        let line = oci::write(&Cached {
            key: key.into(),
            image,
        });
        self.store.write_durably(&self.store.cache_path(key), &line)
    }

    /// Keeps an image from collection for as long as what is returned lives.
    pub fn hold(&self, id: ImageId) -> Result<Hold> {
        // A collection has the names locked throughout: it is over now, or it will see this.
        let names = locked(&self.store.names);
        if !names.images.contains_key(&id) {
            return Err(ImageError::NotFound { name: id.to_string() });
        }
        *locked(&self.store.holds).entry(id).or_default() += 1;
        Ok(Hold {
            store: Arc::clone(&self.store),
            id,
        })
    }

    /// Removes what is not needed: images neither in `keep` nor held, longest unused first, until the rest is within the budget;
    /// then every blob and layer no image refers to. Images a person imported stay while they have a name.
    pub fn gc(&self, keep: &[ImageId], budget: Budget) -> Result<Freed> {
        let store = &self.store;
        let mut names = locked(&store.names);
        let mut wanted = Parts::new();
        let mut unused = Vec::new();
        for (id, known) in &names.images {
            let used = store.last_used(*id);
            let is_kept = keep.contains(id)
                || locked(&store.holds).contains_key(id)
                || (known.origin == Origin::Imported && !known.names.is_empty())
                || used.elapsed().is_ok_and(|since| since < budget.grace);
            match store.parts(*id) {
                Ok(parts) if is_kept => wanted.extend(parts),
                Ok(parts) => unused.push((used, *id, parts)),
                Err(cause) if is_kept => return Err(cause),
                Err(cause) => {
                    tracing::warn!(image = %id, %cause, "a damaged image nobody needs is removed");
                    unused.push((SystemTime::UNIX_EPOCH, *id, Parts::new()));
                }
            }
        }
        let going = going(&mut wanted, unused, budget);
        let mut freed = Freed {
            images: going.len() as u64,
            ..Freed::default()
        };
        if !going.is_empty() {
            let mut changed = names.clone();
            changed.images.retain(|id, _| !going.contains(id));
            store.write_durably(&store.path("index.json"), &changed.to_bytes())?;
            *names = changed;
        }
        store.sweep_cache(|image| names.images.contains_key(&image))?;
        // The names stay locked: an image that is entered now was pinned, part by part, before we look.
        store.sweep_blobs(&wanted, &mut freed)?;
        let doomed = store.sweep_layers(&wanted, &mut freed)?;
        drop(names);
        drop(doomed);
        Ok(freed)
    }

    /// What the store takes on disk.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage {
            images: locked(&self.store.names).images.len() as u64,
            ..Usage::default()
        };
        for (_, bytes) in listed(&self.store.path("blobs/sha256"))? {
            usage.blob_bytes += bytes;
        }
        for (digest, _) in listed(&self.store.path("layers"))? {
            usage.layer_bytes += self
                .store
                .layer_facts(digest)
                .map_or(0, |facts| facts.unpacked.bytes);
        }
        Ok(usage)
    }
}

/// Which images go: in order of last use, everything from the first that does not fit any more.
fn going(
    wanted: &mut Parts,
    mut unused: Vec<(SystemTime, ImageId, Parts)>,
    budget: Budget,
) -> BTreeSet<ImageId> {
    unused.sort_by_key(|(used, id, _)| (std::cmp::Reverse(*used), *id));
    let mut left = budget.unused_bytes;
    let mut going = BTreeSet::new();
    for (_, id, parts) in unused {
        let added: u64 = parts
            .iter()
            .filter(|(digest, _)| !wanted.contains_key(digest))
            .map(|(_, bytes)| bytes)
            .sum();
        if going.is_empty() && added <= left && !parts.is_empty() {
            left -= added;
            wanted.extend(parts);
        } else {
            going.insert(id);
        }
    }
    going
}

/// Files and directories named by a digest, with their length.
fn listed(directory: &Path) -> Result<Vec<(Digest, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).doing("read", directory)? {
        let entry = entry.doing("read", directory)?;
        if let Some(digest) = entry
            .file_name()
            .to_str()
            .and_then(|name| Digest::from_hex(name).ok())
        {
            found.push((digest, entry.metadata().doing("read", entry.path())?.len()));
        }
    }
    Ok(found)
}

impl Store {
    fn cache_path(&self, key: &str) -> std::path::PathBuf {
        self.path("cache")
            .join(format!("{}.json", Digest::of(key.as_bytes()).hex()))
    }

    fn last_used(&self, id: ImageId) -> SystemTime {
        fs::metadata(self.used_path(id.0))
            .and_then(|found| found.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn parts(&self, id: ImageId) -> Result<Parts> {
        let (manifest, config) = self.image(id)?;
        let mut parts = Parts::new();
        for blob in [id.0, manifest.config.digest]
            .into_iter()
            .chain(manifest.layers.iter().map(|layer| layer.digest))
        {
            parts.insert(
                blob,
                fs::metadata(self.blob_path(blob)).map_or(0, |found| found.len()),
            );
        }
        for diff_id in config.rootfs.diff_ids {
            let bytes = self.layer_facts(diff_id).map_or(0, |facts| facts.unpacked.bytes);
            // An uncompressed layer has one digest as blob and as directory.
            *parts.entry(diff_id).or_default() += bytes;
        }
        Ok(parts)
    }

    fn sweep_cache(&self, is_known: impl Fn(ImageId) -> bool) -> Result<()> {
        let directory = self.path("cache");
        for entry in fs::read_dir(&directory).doing("read", &directory)? {
            let path = entry.doing("read", &directory)?.path();
            let cached = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
            if !cached.is_some_and(|cached| is_known(cached.image)) {
                fs::remove_file(&path).doing("remove", &path)?;
            }
        }
        Ok(())
    }

    fn sweep_blobs(&self, wanted: &Parts, freed: &mut Freed) -> Result<()> {
        for (digest, bytes) in listed(&self.path("blobs/sha256"))? {
            let path = self.blob_path(digest);
            if !wanted.contains_key(&digest)
                && self.unless_pinned(digest, || fs::remove_file(&path)).is_some()
            {
                freed.blobs += 1;
                freed.bytes += bytes;
                let _never_used = fs::remove_file(self.used_path(digest));
            }
        }
        Ok(())
    }

    /// Takes layers out of sight at once; their files go when what is returned goes, with nothing locked.
    fn sweep_layers(&self, wanted: &Parts, freed: &mut Freed) -> Result<Vec<crate::store::Temporary>> {
        let mut doomed = Vec::new();
        for (digest, _) in listed(&self.path("layers"))? {
            if wanted.contains_key(&digest) {
                continue;
            }
            let place = self.temporary();
            let path = self.layer_path(digest);
            let bytes = self.layer_facts(digest).map_or(0, |facts| facts.unpacked.bytes);
            if let Some(moved) = self.unless_pinned(digest, || fs::rename(&path, &place.path)) {
                moved.doing("remove", &path)?;
                doomed.push(place);
                freed.layers += 1;
                freed.bytes += bytes;
                let _never_there = fs::remove_file(self.layer_facts_path(digest));
            }
        }
        disk::sync_directory(&self.path("layers"))?;
        Ok(doomed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ImageId {
        ImageId(Digest::of(name.as_bytes()))
    }

    fn parts(names: &[(&str, u64)]) -> Parts {
        names
            .iter()
            .map(|(name, bytes)| (Digest::of(name.as_bytes()), *bytes))
            .collect()
    }

    #[test]
    fn the_longest_unused_go_first_and_shared_bytes_count_once() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let unused = || {
            vec![
                (at(1), id("old"), parts(&[("base", 100), ("old", 10)])),
                (at(3), id("new"), parts(&[("base", 100), ("new", 10)])),
                (at(2), id("mid"), parts(&[("base", 100), ("mid", 10)])),
                (at(9), id("broken"), parts(&[])),
            ]
        };
        let check = |kept: &Parts, unused_bytes, expected: &[&str]| {
            let going = going(
                &mut kept.clone(),
                unused().into_iter().filter(|u| u.1 != id("broken")).collect(),
                Budget {
                    unused_bytes,
                    grace: Duration::ZERO,
                },
            );
            assert_eq!(
                going,
                expected.iter().map(|name| id(name)).collect(),
                "budget {unused_bytes}"
            );
        };
        check(&parts(&[]), 0, &["old", "mid", "new"]);
        check(&parts(&[]), 110, &["old", "mid"]);
        check(&parts(&[]), 120, &["old"]);
        check(&parts(&[]), 130, &[]);
        check(&parts(&[("base", 100)]), 20, &["old"]);
        assert!(
            going(
                &mut parts(&[]),
                unused(),
                Budget {
                    unused_bytes: u64::MAX,
                    grace: Duration::ZERO
                }
            )
            .contains(&id("broken"))
        );
    }
}
