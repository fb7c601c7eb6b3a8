//! Bringing images in from files: OCI layouts (directory or archive) and what `docker save` writes.
//!
//! Lives here: telling the two apart, copying blobs in with their digests checked.
//! Does not live here: registries (`pull`), unpacking rules (`unpack`).
//! Invariant: a file of the archive is only opened beneath the archive, whatever links it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use crate::allowance::Allowance;
use crate::compress::{self, Plain};
use crate::digest::{Digest, Hashing, ImageId};
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::names::{Known, Origin};
use crate::oci::{self, ConfigFile, Descriptor, Index, Manifest};
use crate::progress::Progress;
use crate::store::{Images, Pin, Store, read_bounded};
use crate::unpack::{self, Policy, Quota};

/// Where an archive comes from.
pub enum Archive<'a> {
    /// An archive file, or the directory of an OCI layout.
    Path(&'a Path),
    /// A stream, such as an upload.
    Reader(&'a mut dyn Read),
}

/// One image in `docker save`'s own list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

impl Images {
    /// Imports one image under a name. Layers may be plain, gzip or zstd; so may the archive itself.
    ///
    /// An archive with several images gives the one for this machine, or is refused when that is not clear.
    pub fn import_archive(
        &self,
        archive: Archive<'_>,
        name: &str,
        progress: &dyn Fn(Progress),
    ) -> Result<ImageId> {
        crate::names::check_name(name)?;
        let quota = Quota::default();
        match archive {
            Archive::Path(path) if path.is_dir() => self.store.import_directory(path, name, &quota, progress),
            Archive::Path(path) => {
                let mut file = File::open(path).doing("open", path)?;
                self.import_stream(&mut file, name, &quota, progress)
            }
            Archive::Reader(reader) => self.import_stream(reader, name, &quota, progress),
        }
    }

    fn import_stream(
        &self,
        reader: &mut dyn Read,
        name: &str,
        quota: &Quota,
        progress: &dyn Fn(Progress),
    ) -> Result<ImageId> {
        progress(Progress::Step("reading the archive".into()));
        let place = self.store.temporary_directory()?;
        let plain = Plain::new("the archive", reader)?;
        // Sources may not lead out of their directory, which is what an image archive has to obey too.
        unpack::unpack(
            plain,
            &place.path,
            &Allowance::new("the archive", quota),
            Policy::Source,
        )?;
        self.store.import_directory(&place.path, name, quota, progress)
    }
}

/// The directory an archive was unpacked into.
struct Layout<'s> {
    store: &'s Store,
    dir: OwnedFd,
    pins: Vec<Pin<'s>>,
}

impl Store {
    fn import_directory(
        &self,
        path: &Path,
        name: &str,
        quota: &Quota,
        progress: &dyn Fn(Progress),
    ) -> Result<ImageId> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).doing("open", path)?;
        let mut layout = Layout {
            store: self,
            dir,
            pins: Vec::new(),
        };
        let (id, size, manifest) = if layout.has("index.json") {
            layout.oci_image()?
        } else if layout.has("manifest.json") {
            layout.saved_image(progress)?
        } else {
            return Err(ImageError::Unsupported {
                what: "the archive".into(),
                why: "it has neither index.json (OCI) nor manifest.json (docker save)".into(),
            });
        };
        let what = format!("image {id}");
        let config: ConfigFile =
            oci::read(&what, &self.read_blob(manifest.config.digest, oci::CONFIG_LIMIT)?)?;
        crate::inspect::check_layer_count(&what, &manifest, &config)?;
        let allowance = Allowance::new("the image", quota);
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            progress(Progress::Step(format!("unpacking layer {}", short(*diff_id))));
            layout.pins.push(self.pin(*diff_id));
            self.ensure_layer(*diff_id, layer.digest, &allowance)?;
        }
        let known = Known {
            size,
            names: BTreeSet::new(),
            origin: Origin::Imported,
            binds: Vec::new(),
            notes: BTreeMap::new(),
        };
        self.enter(id, Some(name), known)?;
        Ok(id)
    }
}

/// The first digits of a digest, for people.
pub(crate) fn short(digest: Digest) -> String {
    digest.hex()[..12].to_owned()
}

impl Layout<'_> {
    fn open(&self, path: &str) -> Result<File> {
        let is_plain = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !is_plain {
            return Err(ImageError::refused(
                format!("{path:?}"),
                "it leads out of the archive",
            ));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = disk::open_beneath(&self.dir, path, flags, ResolveFlags::empty()).map_err(|cause| {
            ImageError::refused(
                format!("{path:?} of the archive"),
                io::Error::from(cause).to_string(),
            )
        })?;
        let file = File::from(file);
        if !file.metadata().doing("read", path)?.is_file() {
            return Err(ImageError::refused(
                format!("{path:?} of the archive"),
                "it is no file",
            ));
        }
        Ok(file)
    }

    fn has(&self, path: &str) -> bool {
        self.open(path).is_ok()
    }

    fn document(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        read_bounded(&mut self.open(path)?, path, limit)
    }

    /// Copies a blob in, checking length and digest.
    fn blob(&mut self, wanted: &Descriptor) -> Result<()> {
        let pin = self.store.pin(wanted.digest);
        let path = format!("blobs/sha256/{}", wanted.digest.hex());
        if !self.store.has_blob(wanted.digest) {
            let mut file = self.open(&path)?;
            let found = file.metadata().doing("read", &path)?.len();
            if found != wanted.size {
                return Err(ImageError::SizeMismatch {
                    what: format!("blob {}", wanted.digest),
                    expected: wanted.size,
                    found,
                });
            }
            let mut hashing = Hashing::new(&mut file);
            let mut blob = self.store.blob_writer()?;
            io::copy(&mut hashing, &mut blob).doing("copy", &path)?;
            let (found, _, _) = hashing.finish();
            if found != wanted.digest {
                return Err(ImageError::DigestMismatch {
                    what: "a blob of the archive".into(),
                    expected: wanted.digest,
                    found,
                });
            }
            blob.commit()?;
        }
        self.pins.push(pin);
        Ok(())
    }

    fn oci_image(&mut self) -> Result<(ImageId, u64, Manifest)> {
        let mut index: Index = oci::read("index.json", &self.document("index.json", oci::MANIFEST_LIMIT)?)?;
        if let [only] = index.manifests.as_slice()
            && only.is_index()
        {
            let only = only.clone();
            self.blob(&only)?;
            index = oci::read(
                "the index",
                &self.store.read_blob(only.digest, oci::MANIFEST_LIMIT)?,
            )?;
        }
        let chosen = index.choose("the archive")?;
        self.blob(&chosen)?;
        let manifest = Manifest::read(
            "the manifest",
            &self.store.read_blob(chosen.digest, oci::MANIFEST_LIMIT)?,
        )?;
        self.blob(&manifest.config)?;
        for layer in &manifest.layers {
            self.blob(layer)?;
        }
        Ok((ImageId(chosen.digest), chosen.size, manifest))
    }

    /// `docker save` keeps layers plain and has no manifest: one is made, with the layers compressed.
    fn saved_image(&mut self, progress: &dyn Fn(Progress)) -> Result<(ImageId, u64, Manifest)> {
        let list: Vec<Saved> = oci::read(
            "manifest.json",
            &self.document("manifest.json", oci::MANIFEST_LIMIT)?,
        )?;
        let [saved] = list.as_slice() else {
            return Err(ImageError::refused(
                "the archive",
                "it holds several images; save one at a time",
            ));
        };
        if saved.layers.len() > oci::LAYERS_LIMIT {
            return Err(ImageError::Quota {
                what: "the archive".into(),
                limit: oci::LAYERS_LIMIT as u64,
                unit: "layers",
            });
        }
        let config = self.document(&saved.config, oci::CONFIG_LIMIT)?;
        let config_pin = self.store.put_blob(&config)?;
        let config = Descriptor::new(oci::CONFIG, config_pin.digest, config.len() as u64);
        self.pins.push(config_pin);
        let mut layers = Vec::new();
        for path in &saved.layers {
            progress(Progress::Step(format!(
                "reading layer {} of {}",
                layers.len() + 1,
                saved.layers.len()
            )));
            layers.push(self.saved_layer(path)?);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: oci::MANIFEST.into(),
            config,
            layers,
            annotations: BTreeMap::new(),
        };
        let bytes = oci::write(&manifest);
        let pin = self.store.put_blob(&bytes)?;
        let id = ImageId(pin.digest);
        self.pins.push(pin);
        Ok((id, bytes.len() as u64, manifest))
    }

    fn saved_layer(&mut self, path: &str) -> Result<Descriptor> {
        let what = format!("{path:?} of the archive");
        let mut blob = self.store.blob_writer()?;
        let mut plain = Plain::new(&what, self.open(path)?)?;
        let media_type = match &plain {
            Plain::Tar(_) => {
                let mut zstd = compress::zstd_writer(blob).doing("write", &what)?;
                io::copy(&mut plain, &mut zstd).map_err(|cause| ImageError::stream(&what, cause))?;
                blob = zstd.finish().doing("write", &what)?;
                oci::LAYER_ZSTD
            }
            Plain::Gzip(_) | Plain::Zstd(_) => {
                io::copy(&mut self.open(path)?, &mut blob).doing("copy", &what)?;
                if matches!(plain, Plain::Gzip(_)) {
                    oci::LAYER_GZIP
                } else {
                    oci::LAYER_ZSTD
                }
            }
        };
        let (pin, size) = blob.commit()?;
        let descriptor = Descriptor::new(media_type, pin.digest, size);
        self.pins.push(pin);
        Ok(descriptor)
    }
}

impl Images {
    /// Writes an image as an OCI archive that any tool can read.
    pub fn export_oci(&self, id: ImageId, path: &Path) -> Result<()> {
        let store = &self.store;
        let known = store.known(id)?;
        let _pin = store.pin(id.0);
        let (manifest, _) = store.image(id)?;
        let mut entry = Descriptor::new(oci::MANIFEST, id.0, known.size);
        entry.platform = Some(oci::Platform::here());
        if let Some(name) = known.names.first() {
            entry.annotations.insert(oci::REF_NAME.into(), name.clone());
        }
        let index = oci::write(&Index {
            schema_version: 2,
            media_type: oci::INDEX.into(),
            manifests: vec![entry],
        });
        let unfinished = path.with_extension("unfinished");
        let written = (|| {
            let mut archive = tar::Builder::new(io::BufWriter::new(
                File::create(&unfinished).doing("create", &unfinished)?,
            ));
            let mut append = |name: &str, size: u64, content: &mut dyn Read| {
                let mut header = tar::Header::new_ustar();
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                header.set_size(size);
                archive
                    .append_data(&mut header, name, content)
                    .doing("write", &unfinished)
            };
            append("oci-layout", 30, &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;
            append("index.json", index.len() as u64, &mut index.as_slice())?;
            let mut blobs: BTreeSet<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
            blobs.extend([id.0, manifest.config.digest]);
            for digest in blobs {
                let _pin = store.pin(digest);
                let mut blob = store.open_blob(digest)?;
                let size = blob.metadata().doing("read", store.blob_path(digest))?.len();
                append(&format!("blobs/sha256/{}", digest.hex()), size, &mut blob)?;
            }
            let file = archive
                .into_inner()
                .and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
            file.and_then(|file| file.sync_all())
                .doing("write", &unfinished)?;
            disk::rename_durably(&unfinished, path)
        })();
        if written.is_err() {
            let _never_made = fs::remove_file(&unfinished);
        }
        written
    }
}
