//! Making images here: from the upper directory of a build step, or from a plain directory.
//!
//! Lives here: tree -> layer -> image.
//! Does not live here: running the step (`build`), the form of a layer's archive (`pack`).
//! Invariant: the same tree, configuration and parent give the same image id.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::compress;
use crate::digest::{Digest, Hashing, ImageId};
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::layers::{LayerFacts, set_open_mode};
use crate::names::{Bind, Known, Origin};
use crate::oci::{self, ConfigFile, Descriptor, ImageConfig, Manifest};
use crate::pack::{self, Shape, Times};
use crate::store::{Images, Pin, Store};
use crate::unpack::{Quota, unpack_source};

/// How an upper directory becomes a layer.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// What the instance's user-id range begins with on disk; subtracted from every owner.
    pub uid_shift: u32,
    /// Times of the files.
    pub times: Times,
    /// Paths below the root that were only needed while building, such as mount points and caches.
    pub exclude: Vec<PathBuf>,
    /// Facts for people.
    pub notes: BTreeMap<String, String>,
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self {
            uid_shift: 0,
            times: Times::Keep,
            exclude: Vec::new(),
            notes: BTreeMap::new(),
        }
    }
}

/// How a plain directory becomes an image.
#[derive(Clone, Debug, Default)]
pub struct DirectoryOptions {
    /// The image below; none for a static executable or site.
    pub parent: Option<ImageId>,
    /// Where in the image the directory appears; empty or `/` for the root.
    pub at: PathBuf,
    /// Owner of everything in it.
    pub owner: (u16, u16),
    /// Times of the files.
    pub times: Times,
    /// Facts for people.
    pub notes: BTreeMap<String, String>,
}

/// A layer that is stored and unpacked, protected while the image that needs it is written.
pub(crate) struct StoredLayer<'s> {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    _pins: [Pin<'s>; 2],
}

impl StoredLayer<'_> {
    /// As a manifest and a configuration name it.
    pub(crate) fn parts(&self) -> (Descriptor, Digest) {
        (self.descriptor.clone(), self.diff_id)
    }
}

impl Images {
    /// Turns the upper directory of an unmounted overlay into a layer on top of `parent`, and that into an image.
    ///
    /// The directory is moved away where it lies on the store's file system, else copied and removed.
    /// An empty upper directory adds no layer.
    pub fn commit_layer(
        &self,
        parent: Option<ImageId>,
        upper: &Path,
        config: ImageConfig,
        options: &CommitOptions,
    ) -> Result<ImageId> {
        let tree = self.store.temporary();
        match fs::rename(upper, &tree.path) {
            Ok(()) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::CrossesDevices => {
                copy_tree(upper, &tree.path, None)?;
                disk::remove_tree(upper)?;
            }
            Err(cause) => return Err(ImageError::io("take", upper, cause)),
        }
        let shape = Shape {
            uid_shift: options.uid_shift,
            times: options.times,
            exclude: options.exclude.clone(),
        };
        let layer = self.store.layer_from_tree(&tree.path, &shape)?;
        self.store.compose(
            parent,
            layer.iter().map(StoredLayer::parts),
            config,
            Origin::Built,
            Vec::new(),
            options.notes.clone(),
        )
    }

    /// An image that holds a copy of a directory: a static executable, a static site, or a source over a base.
    pub fn image_from_dir(
        &self,
        dir: &Path,
        config: ImageConfig,
        options: &DirectoryOptions,
    ) -> Result<ImageId> {
        let tree = self.store.temporary_directory()?;
        set_open_mode(&tree.path)?;
        let mut at = tree.path.clone();
        for part in options.at.components() {
            match part {
                std::path::Component::Normal(name) => {
                    at.push(name);
                    fs::create_dir(&at).doing("create directory", &at)?;
                    set_open_mode(&at)?;
                }
                std::path::Component::RootDir | std::path::Component::CurDir => {}
                std::path::Component::ParentDir | std::path::Component::Prefix(_) => {
                    return Err(ImageError::refused(
                        format!("{:?}", options.at),
                        "it is no plain path",
                    ));
                }
            }
        }
        copy_tree(dir, &at, Some(options.owner))?;
        if let Some(parent) = options.parent {
            refuse_hidden_links(&tree.path, &self.root(parent)?.layers, Path::new(""))?;
        }
        // The directories above have no time of their own: two copies of one directory are one layer.
        let found = fs::symlink_metadata(dir).doing("read", dir)?;
        let mut above = at.as_path();
        while above != tree.path {
            above = above.parent().unwrap_or(&tree.path);
            set_time(above, &found)?;
        }
        let shape = Shape {
            times: options.times,
            ..Shape::default()
        };
        let layer = self.store.layer_from_tree(&tree.path, &shape)?;
        self.store.compose(
            options.parent,
            layer.iter().map(StoredLayer::parts),
            config,
            Origin::Built,
            Vec::new(),
            options.notes.clone(),
        )
    }
}

impl Images {
    /// The same of a directory that somebody sent as an archive (tar, tar.gz, tar.zst).
    pub fn image_from_source(
        &self,
        from: &mut dyn Read,
        quota: &Quota,
        config: ImageConfig,
        options: &DirectoryOptions,
    ) -> Result<ImageId> {
        let tree = self.store.temporary();
        unpack_source(from, &tree.path, quota)?;
        self.image_from_dir(&tree.path, config, options)
    }

    /// An image with the files of both: those of `above` over those of `below`. It wants to be run as `above` does.
    ///
    /// Where `above` was made over `below` it is the answer itself. A layer that both have is there once, below: overlay
    /// takes none twice.
    pub fn combine(&self, below: ImageId, above: ImageId) -> Result<ImageId> {
        let (under, (_, lower)) = (self.store.known(below)?, self.store.image(below)?);
        let (over, (manifest, upper)) = (self.store.known(above)?, self.store.image(above)?);
        if upper.rootfs.diff_ids.starts_with(&lower.rootfs.diff_ids) && over.binds.starts_with(&under.binds) {
            return Ok(above);
        }
        let _above = self.store.pin(above.0);
        // Unpacked, so that what is stored of a layer is what its digest says.
        self.root(above)?;
        let mut pins = Vec::new();
        let mut added = Vec::new();
        let layers = manifest.layers.into_iter().zip(upper.rootfs.diff_ids);
        for (layer, diff_id) in layers.filter(|(_, diff_id)| !lower.rootfs.diff_ids.contains(diff_id)) {
            pins.extend([self.store.pin(layer.digest), self.store.pin(diff_id)]);
            added.push((layer, diff_id));
        }
        self.store.compose(
            Some(below),
            added,
            upper.config,
            Origin::Built,
            over.binds,
            over.notes,
        )
    }
}

impl Store {
    /// Stores a tree as a layer: archive into the blobs, tree into the layers. Nothing for an empty tree.
    pub(crate) fn layer_from_tree(&self, tree: &Path, shape: &Shape) -> Result<Option<StoredLayer<'_>>> {
        let facts = LayerFacts {
            unpacked: pack::normalise(tree, shape)?,
        };
        if facts.unpacked.entries == 0 {
            return Ok(None);
        }
        let blob = self.blob_writer()?;
        let mut plain = Hashing::new(compress::zstd_writer(blob).doing("write", "the layer")?);
        pack::pack(tree, &mut plain)?;
        let (diff_id, _, zstd) = plain.finish();
        let (blob, size) = zstd.finish().doing("write", "the layer")?.commit()?;
        let unpacked = self.pin(diff_id);
        let _alone = self.alone_with(format!("layer {diff_id}"));
        if !self.layer_path(diff_id).exists() {
            self.place_layer(tree, diff_id, &facts)?;
        }
        let descriptor = Descriptor::new(oci::LAYER_ZSTD, blob.digest, size);
        Ok(Some(StoredLayer {
            descriptor,
            diff_id,
            _pins: [blob, unpacked],
        }))
    }

    /// Writes the documents of an image made of `parent` and more layers, and enters it.
    pub(crate) fn compose(
        &self,
        parent: Option<ImageId>,
        added: impl IntoIterator<Item = (Descriptor, Digest)>,
        config: ImageConfig,
        origin: Origin,
        mut binds: Vec<Bind>,
        notes: BTreeMap<String, String>,
    ) -> Result<ImageId> {
        let _parent_pin = parent.map(|parent| self.pin(parent.0));
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        if let Some(parent) = parent {
            binds.splice(0..0, self.known(parent)?.binds);
            let (manifest, below) = self.image(parent)?;
            (layers, diff_ids) = (manifest.layers, below.rootfs.diff_ids);
        }
        let _below: Vec<Pin<'_>> = layers
            .iter()
            .map(|layer| layer.digest)
            .chain(diff_ids.iter().copied())
            .map(|digest| self.pin(digest))
            .collect();
        for (layer, diff_id) in added {
            layers.push(layer);
            diff_ids.push(diff_id);
        }
        if layers.len() > oci::LAYERS_LIMIT {
            return Err(ImageError::Quota {
                what: "the image".into(),
                limit: oci::LAYERS_LIMIT as u64,
                unit: "layers",
            });
        }
        let config = oci::write(&ConfigFile::new(config, diff_ids));
        let config_pin = self.put_blob(&config)?;
        // Binds take part in the identity: without this line two images with different binds would be one.
        let mut annotations = notes.clone();
        if !binds.is_empty() {
            annotations.insert(
                "dev.stoa.host-directories".into(),
                String::from_utf8_lossy(&oci::write(&binds)).into_owned(),
            );
        }
        let manifest = oci::write(&Manifest {
            schema_version: 2,
            media_type: oci::MANIFEST.into(),
            config: Descriptor::new(oci::CONFIG, config_pin.digest, config.len() as u64),
            layers,
            annotations,
        });
        let manifest_pin = self.put_blob(&manifest)?;
        let id = ImageId(manifest_pin.digest);
        let known = Known {
            size: manifest.len() as u64,
            names: std::collections::BTreeSet::new(),
            origin,
            binds,
            notes,
        };
        self.enter(id, None, known)?;
        Ok(id)
    }
}

/// Refuses a tree with a directory where what is below has a link: that would hide everything the link leads to, as `/lib` does
/// where it is a link to `/usr/lib`.
fn refuse_hidden_links(tree: &Path, below: &[PathBuf], at: &Path) -> Result<()> {
    for entry in fs::read_dir(tree.join(at)).doing("read", tree)? {
        let entry = entry.doing("read", tree)?;
        if !entry.file_type().doing("read", tree)?.is_dir() {
            continue;
        }
        let path = at.join(entry.file_name());
        // The topmost layer that has it says what it is.
        let found = below.iter().rev().find_map(|layer| {
            fs::symlink_metadata(layer.join(&path))
                .ok()
                .map(|found| (layer, found))
        });
        let Some((layer, found)) = found else { continue };
        if found.is_symlink() {
            let target = fs::read_link(layer.join(&path)).unwrap_or_default();
            return Err(ImageError::HidesLink { path, target });
        }
        if found.is_dir() {
            refuse_hidden_links(tree, below, &path)?;
        }
    }
    Ok(())
}

/// Copies a tree without following links. With an owner given, everything belongs to that; else owners stay.
pub(crate) fn copy_tree(from: &Path, to: &Path, owner: Option<(u16, u16)>) -> Result<()> {
    let found = fs::symlink_metadata(from).doing("read", from)?;
    if !found.is_dir() {
        return Err(ImageError::refused(format!("{from:?}"), "it is no directory"));
    }
    copy_directory(from, to, &found, owner, 0)
}

/// Deeper trees cannot become layers.
const DEPTH_LIMIT: usize = 256;

fn copy_directory(
    from: &Path,
    to: &Path,
    found: &fs::Metadata,
    owner: Option<(u16, u16)>,
    depth: usize,
) -> Result<()> {
    if depth > DEPTH_LIMIT {
        let what = format!("{from:?}");
        return Err(ImageError::Quota {
            what,
            limit: DEPTH_LIMIT as u64,
            unit: "directories above one another",
        });
    }
    match fs::create_dir(to) {
        Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(ImageError::io("create directory", to, cause));
        }
        Ok(()) | Err(_) => {}
    }
    for entry in fs::read_dir(from).doing("read", from)? {
        let entry = entry.doing("read", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let found = fs::symlink_metadata(&source).doing("read", &source)?;
        if found.is_dir() {
            copy_directory(&source, &target, &found, owner, depth + 1)?;
            continue;
        }
        if found.is_file() {
            copy_file(&source, &target)?;
        } else if found.is_symlink() {
            let link = fs::read_link(&source).doing("read", &source)?;
            std::os::unix::fs::symlink(link, &target).doing("create", &target)?;
        } else if owner.is_none()
            && found.rdev() == 0
            && rustix::fs::FileType::from_raw_mode(found.mode()) == rustix::fs::FileType::CharacterDevice
        {
            let mode = rustix::fs::Mode::empty();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &target,
                rustix::fs::FileType::CharacterDevice,
                mode,
                0,
            )
            .doing("create", &target)?;
        } else {
            continue;
        }
        copy_facts(&source, &target, &found, owner)?;
    }
    copy_facts(from, to, found, owner)
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = fs::File::from(rustix::fs::openat(CWD, from, flags, Mode::empty()).doing("open", from)?);
    let mut target = fs::File::create_new(to).doing("create", to)?;
    std::io::copy(&mut source, &mut target)
        .doing("copy", to)
        .map(drop)
}

fn copy_facts(from: &Path, to: &Path, found: &fs::Metadata, owner: Option<(u16, u16)>) -> Result<()> {
    use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, XattrFlags};
    let (uid, gid) = owner.map_or((found.uid(), found.gid()), |(uid, gid)| (uid.into(), gid.into()));
    rustix::fs::chownat(
        CWD,
        to,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .doing("change the owner of", to)?;
    if found.is_dir() || found.is_file() {
        rustix::fs::chmodat(CWD, to, Mode::from(found.mode() & 0o7777), AtFlags::empty())
            .doing("change the mode of", to)?;
        if owner.is_none() {
            for name in pack::attributes(from)? {
                let mut value = vec![0_u8; 1 << 16];
                let length =
                    rustix::fs::lgetxattr(from, name.as_c_str(), value.as_mut_slice()).doing("read", from)?;
                rustix::fs::lsetxattr(to, name.as_c_str(), &value[..length], XattrFlags::empty())
                    .doing("mark", to)?;
            }
        }
    }
    set_time(to, found)
}

fn set_time(path: &Path, found: &fs::Metadata) -> Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    let time = Timespec {
        tv_sec: found.mtime(),
        tv_nsec: found.mtime_nsec(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).doing("set the time of", path)
}
