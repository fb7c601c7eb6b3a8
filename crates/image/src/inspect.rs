//! Asking what there is: resolving names, listing, inspecting, and the root file system of an image.
//!
//! Lives here: reading images that are in the store, naming and removing them.
//! Does not live here: bringing images in (`import`, `pull`, `commit`), collecting them (`gc`).
//! Invariant: a manifest or configuration is checked against its digest each time it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::allowance::Allowance;
use crate::digest::{Digest, ImageId};
use crate::error::{Doing, ImageError, Result};
use crate::names::{Bind, Known, Names, Origin, check_name};
use crate::oci::{self, ConfigFile, ImageConfig, Manifest};
use crate::reference::Reference;
use crate::store::{Images, Store, locked};
use crate::unpack::{Quota, Unpacked};

/// Everything needed to mount and start an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Directories for overlay, the lowest first. Owners in them are the ids of the image, 0 to 65535.
    pub layers: Vec<PathBuf>,
    /// Directories of the host to mount read-only over the layers.
    pub binds: Vec<Bind>,
    /// How the image wants to be run.
    pub config: ImageConfig,
}

/// One line of the list of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Digest of the manifest.
    pub id: ImageId,
    /// What it is called.
    pub names: BTreeSet<String>,
    /// Where it came from.
    pub origin: Origin,
    /// Facts for people, such as the packages of a base.
    pub notes: BTreeMap<String, String>,
    /// Bytes of its blobs; those it shares with others are counted here too.
    pub stored_bytes: u64,
    /// When it came into the store, in milliseconds since 1970; 0 when its manifest is not there.
    pub stored_at_ms: u64,
    /// Why its documents cannot be read, when they cannot: the list shows it all the same.
    pub damage: Option<String>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Digest of the plain archive, and name of the unpacked directory.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub stored_bytes: u64,
    /// What unpacking made; nothing while it is not unpacked.
    pub unpacked: Option<Unpacked>,
}

/// Everything known of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The line of the list.
    pub summary: Summary,
    /// Platform, as `linux/amd64`.
    pub platform: String,
    /// When it was made, in the image's own words.
    pub created: Option<String>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Host directories mounted over them.
    pub binds: Vec<Bind>,
}

impl Images {
    /// Finds an image by name, reference or digest. What comes back never changes, whatever happens to the name.
    pub fn resolve(&self, name: &str) -> Result<ImageId> {
        let names = locked(&self.store.names);
        let absent = || ImageError::NotFound {
            name: name.chars().take(255).collect(),
        };
        if let Ok(id) = name.parse::<ImageId>() {
            return names.images.contains_key(&id).then_some(id).ok_or_else(absent);
        }
        if let Some(id) = names.find(name) {
            return Ok(id);
        }
        let reference: Reference = name.parse().map_err(|_| absent())?;
        if let Some(digest) = reference.digest() {
            return names
                .images
                .contains_key(&ImageId(digest))
                .then_some(ImageId(digest))
                .ok_or_else(absent);
        }
        names.find(&reference.to_string()).ok_or_else(absent)
    }

    /// Gives an image a name; whichever image had it before loses it.
    pub fn tag(&self, name: &str, id: ImageId) -> Result<()> {
        check_name(name)?;
        self.store.change_names(|names| {
            if !names.images.contains_key(&id) {
                return Err(ImageError::NotFound { name: id.to_string() });
            }
            names.name(name, id);
            Ok(())
        })
    }

    /// Forgets a name; forgets the image when a digest is given. Its bytes go with the next `gc`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let id = self.resolve(name)?;
        self.store.change_names(|names| {
            if name.parse::<ImageId>().is_ok() {
                names.images.remove(&id);
            } else if let Some(known) = names.images.get_mut(&id) {
                let canonical = name
                    .parse::<Reference>()
                    .map(|reference| reference.to_string())
                    .ok();
                known
                    .names
                    .retain(|kept| kept != name && Some(kept) != canonical.as_ref());
            }
            Ok(())
        })
    }

    /// All images, by digest.
    pub fn list(&self) -> Vec<Summary> {
        let names = locked(&self.store.names).clone();
        names
            .images
            .into_iter()
            .map(|(id, known)| self.store.summary(id, known))
            .collect()
    }

    /// Everything known of one image.
    pub fn inspect(&self, id: ImageId) -> Result<Inspection> {
        let known = self.store.known(id)?;
        let (manifest, config) = self.store.image(id)?;
        let layers = manifest
            .layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .map(|(layer, diff_id)| Layer {
                digest: layer.digest,
                diff_id: *diff_id,
                stored_bytes: layer.size,
                unpacked: self.store.layer_facts(*diff_id).ok().map(|facts| facts.unpacked),
            })
            .collect();
        Ok(Inspection {
            binds: known.binds.clone(),
            summary: self.store.summary(id, known),
            platform: format!("{}/{}", config.os, config.architecture),
            created: config.created,
            config: config.config,
            layers,
        })
    }

    /// How an image wants to be run.
    pub fn image_config(&self, id: ImageId) -> Result<ImageConfig> {
        self.store.known(id)?;
        Ok(self.store.image(id)?.1.config)
    }

    /// What to mount for an image; layers that are not unpacked yet are unpacked now.
    ///
    /// The caller holds the image, or names it in `gc`'s keep list, for as long as it uses what it gets.
    pub fn root(&self, id: ImageId) -> Result<Root> {
        let known = self.store.known(id)?;
        let _pin = self.store.pin(id.0);
        self.store.touch(id);
        let (manifest, config) = self.store.image(id)?;
        let quota = Quota::default();
        let allowance = Allowance::new("the image", &quota);
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let _pins = (self.store.pin(layer.digest), self.store.pin(*diff_id));
            // What is there is not measured again: it was let in.
            if !self.store.has_layer(*diff_id) {
                self.store.ensure_layer(*diff_id, layer.digest, &allowance)?;
            }
            if self.store.layer_facts(*diff_id)?.unpacked.is_opaque {
                layers.clear();
            }
            layers.push(self.store.layer_path(*diff_id));
        }
        Ok(Root {
            layers,
            binds: known.binds,
            config: config.config,
        })
    }
}

impl Store {
    pub(crate) fn known(&self, id: ImageId) -> Result<Known> {
        let names = locked(&self.names);
        names
            .images
            .get(&id)
            .cloned()
            .ok_or_else(|| ImageError::NotFound { name: id.to_string() })
    }

    /// The two documents of an image, checked.
    pub(crate) fn image(&self, id: ImageId) -> Result<(Manifest, ConfigFile)> {
        let what = format!("image {id}");
        let manifest = Manifest::read(&what, &self.read_blob(id.0, oci::MANIFEST_LIMIT)?)?;
        let config: ConfigFile =
            oci::read(&what, &self.read_blob(manifest.config.digest, oci::CONFIG_LIMIT)?)?;
        check_layer_count(&what, &manifest, &config)?;
        Ok((manifest, config))
    }

    fn summary(&self, id: ImageId, known: Known) -> Summary {
        let (parts, damage) = match self.image(id) {
            Ok((manifest, _)) => (
                manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<u64>(),
                None,
            ),
            Err(cause) => (0, Some(cause.to_string())),
        };
        let (names, origin, notes) = (known.names, known.origin, known.notes);
        Summary {
            id,
            names,
            origin,
            notes,
            stored_bytes: known.size + parts,
            stored_at_ms: self.stored_at_ms(id),
            damage,
        }
    }

    /// A blob is written once and never again.
    fn stored_at_ms(&self, id: ImageId) -> u64 {
        let written = std::fs::metadata(self.path(format!("blobs/sha256/{}", id.0.hex())))
            .and_then(|blob| blob.modified())
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        written.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Changes the index durably, or not at all.
    pub(crate) fn change_names(&self, change: impl FnOnce(&mut Names) -> Result<()>) -> Result<()> {
        let mut names = locked(&self.names);
        let mut changed = names.clone();
        change(&mut changed)?;
        self.write_durably(&self.path("index.json"), &changed.to_bytes())?;
        *names = changed;
        Ok(())
    }

    /// Enters an image whose blobs are all there.
    pub(crate) fn enter(&self, id: ImageId, name: Option<&str>, new: Known) -> Result<()> {
        if let Some(name) = name {
            check_name(name)?;
        }
        self.touch(id);
        self.change_names(|names| {
            match names.images.entry(id) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(new);
                }
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    // Host directories were granted by us to this very content; bringing it in again changes nothing.
                    let known = known.get_mut();
                    known.notes.extend(new.notes);
                    if new.origin == Origin::Imported {
                        known.origin = Origin::Imported;
                    }
                }
            }
            if let Some(name) = name {
                names.name(name, id);
            }
            Ok(())
        })
    }

    /// Notes that an image was asked for: what was not for longest goes first.
    pub(crate) fn touch(&self, id: ImageId) {
        let path = self.used_path(id.0);
        let now = File::create(&path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
        if let Err(cause) = now.doing("note the use of", &path) {
            tracing::debug!(%cause, "an image will look older than it is");
        }
    }
}

pub(crate) fn check_layer_count(what: &str, manifest: &Manifest, config: &ConfigFile) -> Result<()> {
    if manifest.layers.len() == config.rootfs.diff_ids.len() {
        return Ok(());
    }
    Err(ImageError::refused(
        what,
        "its manifest and its configuration have different numbers of layers",
    ))
}
