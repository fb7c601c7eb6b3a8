//! From a directory tree to the tar stream of a layer, the same bytes every time.
//!
//! Lives here: bringing an overlay upper directory into the form of a stored layer, and writing it as tar.
//! Does not live here: where the stream goes (`commit`).
//! Invariant: what `pack` writes, `unpack` turns into the same tree again; no symbolic link is followed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::unpack::{Unpacked, is_kept_attribute};

/// Deeper trees cannot be unpacked again.
const DEPTH_LIMIT: usize = 256;
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
/// Attributes by which overlay refers to other layers: a tree that has them is not complete by itself.
const INCOMPLETE: [&str; 4] = [
    "trusted.overlay.redirect",
    "trusted.overlay.metacopy",
    "user.overlay.redirect",
    "user.overlay.metacopy",
];

/// What times the files of a layer get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Times {
    /// The times they have, in whole seconds. Python's compiled files stay valid.
    #[default]
    Keep,
    /// One time for all, in seconds since 1970: the same content gives the same layer.
    Set(i64),
}

/// How a tree becomes a layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    /// Subtracted from every owner.
    pub(crate) uid_shift: u32,
    pub(crate) times: Times,
    /// Paths below the root that do not belong into the layer.
    pub(crate) exclude: Vec<PathBuf>,
}

/// Brings a tree into the form of a stored layer: owners, modes, attributes and times as `unpack` would make them.
pub(crate) fn normalise(root: &Path, shape: &Shape) -> Result<Unpacked> {
    let mut normaliser = Normaliser {
        shape,
        done: Unpacked::default(),
        seen: HashSet::new(),
    };
    for excluded in &shape.exclude {
        remove_excluded(root, excluded)?;
    }
    normaliser.one(root, &fs::symlink_metadata(root).doing("read", root)?)?;
    normaliser.below(root, 0)?;
    settle_times(root, shape)?;
    Ok(normaliser.done)
}

/// Removes a path below the root without following links on the way.
fn remove_excluded(root: &Path, excluded: &Path) -> Result<()> {
    let mut here = root.to_path_buf();
    for part in excluded.components() {
        let std::path::Component::Normal(part) = part else {
            continue;
        };
        if !fs::symlink_metadata(&here).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        here.push(part);
    }
    if here == root {
        Ok(())
    } else {
        disk::remove_tree(&here)
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).doing("read", dir)? {
        names.push(entry.doing("read", dir)?.path());
    }
    names.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(names)
}

struct Normaliser<'a> {
    shape: &'a Shape,
    done: Unpacked,
    seen: HashSet<(u64, u64)>,
}

impl Normaliser<'_> {
    fn below(&mut self, dir: &Path, depth: usize) -> Result<()> {
        if depth >= DEPTH_LIMIT {
            let what = "the tree".into();
            return Err(ImageError::Quota {
                what,
                limit: DEPTH_LIMIT as u64,
                unit: "directories above one another",
            });
        }
        for path in children(dir)? {
            if path
                .file_name()
                .is_some_and(|name| name.as_bytes().starts_with(b".wh."))
            {
                return Err(ImageError::refused(
                    format!("{path:?}"),
                    "names that begin with .wh. mean removal in layers",
                ));
            }
            let found = fs::symlink_metadata(&path).doing("read", &path)?;
            let kind = found.file_type();
            let is_whiteout = kind.is_char_device() && found.rdev() == 0;
            let is_node =
                kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device();
            if is_node && !is_whiteout {
                fs::remove_file(&path).doing("remove", &path)?;
                self.done.dropped_nodes += 1;
                continue;
            }
            self.done.entries += 1;
            self.one(&path, &found)?;
            if kind.is_dir() {
                self.below(&path, depth + 1)?;
            } else if kind.is_file() {
                self.done.bytes += found.size();
            }
        }
        Ok(())
    }

    fn one(&mut self, path: &Path, found: &Metadata) -> Result<()> {
        // A file with several names comes by several times; its owner must be shifted once.
        if found.nlink() > 1 && !found.is_dir() && !self.seen.insert((found.dev(), found.ino())) {
            return Ok(());
        }
        let mut unshifted = |id: u32| {
            id.checked_sub(self.shape.uid_shift)
                .filter(|id| *id <= u32::from(u16::MAX))
                .unwrap_or_else(|| {
                    self.done.dropped_owners += 1;
                    65534
                })
        };
        let (uid, gid) = (unshifted(found.uid()), unshifted(found.gid()));
        let mut mode = found.mode() & 0o7777;
        if (uid, gid) != (found.uid(), found.gid()) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .doing("change the owner of", path)?;
        }
        let kind = found.file_type();
        if kind.is_symlink() || kind.is_char_device() {
            return Ok(());
        }
        if kind.is_file() && mode & 0o6000 != 0 {
            mode &= !0o6000;
            self.done.dropped_set_id += 1;
        }
        rustix::fs::chmodat(CWD, path, Mode::from(mode), AtFlags::empty())
            .doing("change the mode of", path)?;
        for name in attributes(path)? {
            let bytes = name.as_bytes();
            if INCOMPLETE.iter().any(|incomplete| incomplete.as_bytes() == bytes) {
                return Err(ImageError::Unsupported {
                    what: "the upper directory".into(),
                    why: "mount the overlay with redirect_dir=off,metacopy=off".into(),
                });
            }
            let is_opaque = kind.is_dir() && OPAQUE.iter().any(|opaque| opaque.as_bytes() == bytes);
            if is_opaque && bytes != OPAQUE[0].as_bytes() {
                rustix::fs::lsetxattr(path, OPAQUE[0], b"y", rustix::fs::XattrFlags::empty())
                    .doing("mark", path)?;
            }
            if is_opaque && bytes == OPAQUE[0].as_bytes() || is_kept_attribute(bytes) {
                continue;
            }
            rustix::fs::lremovexattr(path, name.as_c_str()).doing("remove an attribute of", path)?;
            self.done.dropped_attributes +=
                u64::from(!bytes.starts_with(b"trusted.overlay.") && !bytes.starts_with(b"user.overlay."));
        }
        Ok(())
    }
}

/// The times on disk become those in the archive; children first, since changing one changes its directory.
fn settle_times(path: &Path, shape: &Shape) -> Result<()> {
    let found = fs::symlink_metadata(path).doing("read", path)?;
    if found.is_dir() {
        for child in children(path)? {
            settle_times(&child, shape)?;
        }
    }
    let seconds = match shape.times {
        Times::Keep => found.mtime(),
        Times::Set(seconds) => seconds,
    };
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).doing("set the time of", path)
}

pub(crate) fn attributes(path: &Path) -> Result<Vec<CString>> {
    let mut list = vec![0_u8; 1 << 16];
    let length = match rustix::fs::llistxattr(path, list.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(cause) => return Err(ImageError::io("read the attributes of", path, cause)),
    };
    let names = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

/// Writes a tree in stored form as a layer's tar stream.
pub(crate) fn pack(root: &Path, out: &mut dyn Write) -> Result<()> {
    let mut packer = Packer {
        root,
        out,
        first_names: HashMap::new(),
    };
    packer.entry(root)?;
    packer.below(root)?;
    packer.out.write_all(&[0; 1024]).doing("write", "the layer")
}

struct Packer<'a> {
    root: &'a Path,
    out: &'a mut dyn Write,
    /// Files with several names, by device and inode.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Packer<'_> {
    fn below(&mut self, dir: &Path) -> Result<()> {
        for path in children(dir)? {
            if self.entry(&path)? {
                self.below(&path)?;
            }
        }
        Ok(())
    }

    /// Writes one entry and says whether it is a directory.
    fn entry(&mut self, path: &Path) -> Result<bool> {
        let found = fs::symlink_metadata(path).doing("read", path)?;
        let kind = found.file_type();
        let mut name = path
            .strip_prefix(self.root)
            .unwrap_or(path)
            .as_os_str()
            .as_bytes()
            .to_vec();
        let mut header = tar::Header::new_ustar();
        header.set_mode(found.mode() & 0o7777);
        header.set_uid(found.uid().into());
        header.set_gid(found.gid().into());
        header.set_size(0);
        header.set_mtime(found.mtime().max(0) as u64);
        let mut extra = self.kept_attributes(path, &found)?;
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            let is_root = name.is_empty();
            name.extend_from_slice(if is_root { b"./" } else { b"/" });
            self.write_header(&mut header, &name, b"", &mut extra)?;
            if !is_root && is_opaque(path)? {
                name.extend_from_slice(b".wh..wh..opq");
                self.write_mark(&name)?;
            }
            return Ok(true);
        }
        if kind.is_char_device() {
            let start = name.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
            name.splice(start..start, *b".wh.");
            self.write_mark(&name)?;
        } else if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = fs::read_link(path)
                .doing("read", path)?
                .into_os_string()
                .into_vec();
            self.write_header(&mut header, &name, &target, &mut extra)?;
        } else {
            self.file(path, &found, header, &name, extra)?;
        }
        Ok(false)
    }

    fn file(
        &mut self,
        path: &Path,
        found: &Metadata,
        mut header: tar::Header,
        name: &[u8],
        mut extra: Pax,
    ) -> Result<()> {
        if found.nlink() > 1 {
            if let Some(first) = self.first_names.get(&(found.dev(), found.ino())) {
                header.set_entry_type(tar::EntryType::Link);
                let first = first.clone();
                return self.write_header(&mut header, name, &first, &mut extra);
            }
            self.first_names.insert((found.dev(), found.ino()), name.to_vec());
        }
        header.set_entry_type(tar::EntryType::Regular);
        if found.size() > 0o777_7777_7777 {
            extra.insert("size".into(), found.size().to_string().into_bytes());
        } else {
            header.set_size(found.size());
        }
        self.write_header(&mut header, name, b"", &mut extra)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty()).doing("open", path)?);
        let copied = std::io::copy(&mut std::io::Read::take(&mut file, found.size()), &mut self.out)
            .doing("pack", path)?;
        if copied != found.size() {
            return Err(ImageError::refused(
                format!("{path:?}"),
                "it changed while it was packed",
            ));
        }
        self.pad(copied)
    }

    fn kept_attributes(&self, path: &Path, found: &Metadata) -> Result<Pax> {
        let mut extra = Pax::new();
        if found.is_file() || found.is_dir() {
            for name in attributes(path)?
                .into_iter()
                .filter(|name| is_kept_attribute(name.as_bytes()))
            {
                let mut value = vec![0_u8; 1 << 16];
                let length = rustix::fs::lgetxattr(path, name.as_c_str(), value.as_mut_slice())
                    .doing("read an attribute of", path)?;
                value.truncate(length);
                let mut key = b"SCHILY.xattr.".to_vec();
                key.extend_from_slice(name.as_bytes());
                extra.insert(key, value);
            }
        }
        if found.mtime() < 0 {
            extra.insert(b"mtime".to_vec(), found.mtime().to_string().into_bytes());
        }
        Ok(extra)
    }

    /// An empty file whose name is its meaning.
    fn write_mark(&mut self, name: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Regular);
        self.write_header(&mut header, name, b"", &mut Pax::new())
    }

    /// A header; what its fields cannot hold goes into an extended header before it.
    fn write_header(
        &mut self,
        header: &mut tar::Header,
        name: &[u8],
        link: &[u8],
        extra: &mut Pax,
    ) -> Result<()> {
        for (text, field, key) in [(name, 0..100, "path"), (link, 157..257, "linkpath")] {
            let room = &mut header.as_mut_bytes()[field];
            let fits = text.len() <= room.len();
            let shortened = &text[..text.len().min(room.len())];
            room[..shortened.len()].copy_from_slice(shortened);
            if !fits {
                extra.insert(key.into(), text.to_vec());
            }
        }
        if !extra.is_empty() {
            self.write_extended(extra)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes()).doing("write", "the layer")
    }

    fn write_extended(&mut self, extra: &Pax) -> Result<()> {
        let mut records = Vec::new();
        for (key, value) in extra {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            records.extend_from_slice(length.to_string().as_bytes());
            records.push(b' ');
            records.extend_from_slice(key);
            records.push(b'=');
            records.extend_from_slice(value);
            records.push(b'\n');
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.as_mut_bytes()[..9].copy_from_slice(b"PaxHeader");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.out
            .write_all(header.as_bytes())
            .and_then(|()| self.out.write_all(&records))
            .doing("write", "the layer")?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, written: u64) -> Result<()> {
        let padding = (512 - written % 512) % 512;
        self.out
            .write_all(&[0; 512][..padding as usize])
            .doing("write", "the layer")
    }
}

/// Records of an extended header, in the order they are written.
type Pax = BTreeMap<Vec<u8>, Vec<u8>>;

fn is_opaque(path: &Path) -> Result<bool> {
    let mut value = [0_u8; 1];
    match rustix::fs::lgetxattr(path, OPAQUE[0], value.as_mut_slice()) {
        Ok(1) => Ok(value[0] == b'y'),
        Ok(_) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(cause) => Err(ImageError::io("read an attribute of", path, cause)),
    }
}
