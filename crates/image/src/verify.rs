//! Finding damage: every byte of an image compared with what its digests promise (F19).
//!
//! Lives here: checking blobs, comparing unpacked layers with their archives, unpacking damaged ones again.
//! Does not live here: fetching a damaged blob again (`pull`, which replaces it).
//! Invariant: a fault names what is damaged; repair never keeps a layer that differs from its archive.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::allowance::Allowance;
use crate::compress::Plain;
use crate::digest::{Digest, Hashing, ImageId};
use crate::error::{Doing, Result};
use crate::layers::{LayerFacts, set_open_mode};
use crate::store::{Images, Store};
use crate::unpack::{self, Policy, Quota};

/// Something damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A blob is gone.
    BlobMissing {
        /// Its digest.
        digest: Digest,
    },
    /// A blob is not what its digest promises.
    BlobAltered {
        /// What it should be.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// An archive does not hold the layer the configuration names, or cannot be unpacked.
    LayerUnreadable {
        /// The blob.
        digest: Digest,
        /// Why.
        why: String,
    },
    /// An unpacked layer differs from its archive.
    LayerAltered {
        /// The layer.
        diff_id: Digest,
        /// First path that differs.
        path: String,
    },
}

impl Images {
    /// Reads the whole image and names what is damaged; changes nothing.
    pub fn verify(&self, id: ImageId) -> Result<Vec<Fault>> {
        self.store.examine(id, Store::leave)
    }

    /// As `verify`, and unpacks damaged layers again from their archives. Altered blobs are removed, so that the next
    /// pull or import of the image brings them again; what is unpacked serves on.
    pub fn repair(&self, id: ImageId) -> Result<Vec<Fault>> {
        let faults = self.store.examine(id, Store::replace)?;
        for fault in &faults {
            if let Fault::BlobAltered { digest, .. } = fault {
                let path = self.store.blob_path(*digest);
                fs::remove_file(&path).doing("remove", path)?;
            }
        }
        Ok(faults)
    }
}

/// What to do with a fresh copy of a layer that turned out damaged.
type Cure = fn(&Store, fresh: &Path, Digest, &LayerFacts) -> Result<()>;

impl Store {
    fn leave(&self, _fresh: &Path, _diff_id: Digest, _facts: &LayerFacts) -> Result<()> {
        Ok(())
    }

    fn replace(&self, fresh: &Path, diff_id: Digest, facts: &LayerFacts) -> Result<()> {
        let old = self.temporary();
        fs::rename(self.layer_path(diff_id), &old.path).doing("remove", self.layer_path(diff_id))?;
        self.place_layer(fresh, diff_id, facts)
    }

    fn examine(&self, id: ImageId, cure: Cure) -> Result<Vec<Fault>> {
        self.known(id)?;
        let _pin = self.pin(id.0);
        if let Some(fault) = self.blob_fault(id.0)? {
            return Ok(vec![fault]);
        }
        let manifest =
            crate::oci::Manifest::read("the image", &self.read_blob(id.0, crate::oci::MANIFEST_LIMIT)?)?;
        if let Some(fault) = self.blob_fault(manifest.config.digest)? {
            return Ok(vec![fault]);
        }
        let (manifest, config) = self.image(id)?;
        let mut faults = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let _pins = (self.pin(layer.digest), self.pin(*diff_id));
            match self.blob_fault(layer.digest)? {
                Some(fault) => faults.push(fault),
                None => faults.extend(self.layer_fault(layer.digest, *diff_id, cure)?),
            }
        }
        Ok(faults)
    }

    fn blob_fault(&self, digest: Digest) -> Result<Option<Fault>> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Fault::BlobMissing { digest }));
            }
            Err(cause) => return Err(cause).doing("open", path),
        };
        let mut hashing = Hashing::new(file);
        io::copy(&mut hashing, &mut io::sink()).doing("read", &path)?;
        let (found, _, _) = hashing.finish();
        Ok((found != digest).then_some(Fault::BlobAltered { digest, found }))
    }

    /// Unpacks the archive beside the layer and compares: the same code says what a layer should look like.
    fn layer_fault(&self, blob: Digest, diff_id: Digest, cure: Cure) -> Result<Option<Fault>> {
        let _alone = self.alone_with(format!("layer {diff_id}"));
        let fresh = self.temporary_directory()?;
        set_open_mode(&fresh.path)?;
        let unreadable = |why: String| Ok(Some(Fault::LayerUnreadable { digest: blob, why }));
        let plain = Plain::new("the layer", self.open_blob(blob)?)?;
        let quota = Quota::default();
        let unpacking = unpack::unpack(
            Hashing::new(plain),
            &fresh.path,
            &Allowance::new("the layer", &quota),
            Policy::Layer,
        );
        let (unpacked, found) = match unpacking {
            Ok((unpacked, rest)) => (unpacked, rest.finish().0),
            Err(cause) => return unreadable(cause.to_string()),
        };
        if found != diff_id {
            return unreadable(format!("it has the diff-id {found} instead of {diff_id}"));
        }
        let layer = self.layer_path(diff_id);
        if !layer.exists() {
            return Ok(None);
        }
        let Some(path) = first_difference(&fresh.path, &layer, &fresh.path)? else {
            return Ok(None);
        };
        cure(self, &fresh.path, diff_id, &LayerFacts { unpacked })?;
        Ok(Some(Fault::LayerAltered { diff_id, path }))
    }
}

/// The first path at which two trees differ in name, kind, owner, mode, link, attributes or content.
fn first_difference(a: &Path, b: &Path, root: &Path) -> Result<Option<String>> {
    let differs = || Ok(Some(format!("/{}", a.strip_prefix(root).unwrap_or(a).display())));
    let found_a = fs::symlink_metadata(a).doing("read", a)?;
    let found_b = match fs::symlink_metadata(b) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return differs(),
        Err(cause) => return Err(cause).doing("read", b),
    };
    let facts = |found: &Metadata| {
        let length = if found.is_file() { found.len() } else { 0 };
        (found.mode(), found.uid(), found.gid(), found.rdev(), length)
    };
    if facts(&found_a) != facts(&found_b) {
        return differs();
    }
    if found_a.is_symlink() {
        return if fs::read_link(a).doing("read", a)? == fs::read_link(b).doing("read", b)? {
            Ok(None)
        } else {
            differs()
        };
    }
    if (found_a.is_file() || found_a.is_dir()) && crate::pack::attributes(a)? != crate::pack::attributes(b)? {
        return differs();
    }
    if found_a.is_file() {
        return if same_content(a, b)? { Ok(None) } else { differs() };
    }
    if found_a.is_dir() {
        let (names_a, names_b) = (names(a)?, names(b)?);
        if let Some(odd) = names_a.symmetric_difference(&names_b).next() {
            return Ok(Some(format!(
                "/{}",
                a.strip_prefix(root).unwrap_or(a).join(odd).display()
            )));
        }
        for name in &names_a {
            if let Some(path) = first_difference(&a.join(name), &b.join(name), root)? {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn names(dir: &Path) -> Result<std::collections::BTreeSet<std::ffi::OsString>> {
    fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect()
        })
        .doing("read", dir)
}

fn same_content(a: &Path, b: &Path) -> Result<bool> {
    debug_assert!(a.as_os_str().as_bytes() != b.as_os_str().as_bytes());
    let (mut left, mut right) = (
        BufReader::new(File::open(a).doing("open", a)?),
        BufReader::new(File::open(b).doing("open", b)?),
    );
    let (mut one, mut other) = ([0; 1 << 14], [0; 1 << 14]);
    loop {
        let count = left.read(&mut one).doing("read", a)?;
        if count == 0 {
            return Ok(right.read(&mut other).doing("read", b)? == 0);
        }
        match right.read_exact(&mut other[..count]) {
            Ok(()) if one[..count] == other[..count] => {}
            Ok(()) => return Ok(false),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(cause) => return Err(cause).doing("read", b),
        }
    }
}
