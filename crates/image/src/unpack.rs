//! Unpacking archives without trusting them.
//!
//! Lives here: layers (whiteouts become overlay's own form) and uploaded sources, under a quota.
//! Does not live here: reading tar (`tarball`), which layer goes where (`layers`).
//! Invariant: nothing is made, changed or linked outside the directory given. Every name is taken apart here, every
//! parent is opened by `openat2` beneath the directory and without following any link, and the last step of
//! every path is made by a call that does not follow links either.
//!
//! Policy (N19). Layers: device nodes, FIFOs and sockets are dropped; set-user-id and set-group-id bits of
//! files are cleared (no instance may gain privileges, so they are good for nothing); of extended attributes
//! only `user.*` is kept; owners above 65535 become nobody. Sources: everything belongs to root, and devices, FIFOs
//! and links that lead out of the upload are refused. The counts of what was dropped are returned.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::allowance::{self, Allowance};
use crate::beneath::{Found, Place, as_path};
use crate::compress::Plain;
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::tarball::{Kind, Member, Tarball};

/// What may be kept in memory of the names of one archive until its end: half a million directories with names as
/// people give them. The count of entries alone would allow gigabytes of long names.
const REMEMBERED_BYTES: usize = 64 << 20;
/// What remembering a name takes besides the name.
const REMEMBERED_ENTRY: usize = 64;

/// Bounds on one archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Entries of any kind.
    pub entries: u64,
    /// Length of a path or link target.
    pub name_bytes: usize,
    /// Directories above one another.
    pub depth: usize,
}

impl Default for Quota {
    /// 20 GiB and 2 million entries: above every image we know, below what hurts a server.
    fn default() -> Self {
        Self {
            bytes: 20 << 30,
            entries: 2_000_000,
            name_bytes: 4096,
            depth: 256,
        }
    }
}

impl Quota {
    /// What the stream itself may hold besides content: headers, padding, the end.
    fn stream_bytes(&self) -> u64 {
        self.bytes
            .saturating_add(self.entries.saturating_mul(2048))
            .saturating_add(16 << 20)
    }
}

/// What an archive made, and what of it was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Entries read.
    pub entries: u64,
    /// Bytes of files written.
    pub bytes: u64,
    /// Device nodes, FIFOs and sockets dropped.
    pub dropped_nodes: u64,
    /// Files that lost a set-user-id or set-group-id bit.
    pub dropped_set_id: u64,
    /// Extended attributes dropped, file capabilities among them.
    pub dropped_attributes: u64,
    /// Owners that became nobody.
    pub dropped_owners: u64,
    /// Whether the layer hides everything below it.
    pub is_opaque: bool,
}

/// Unpacks an uploaded source (tar, tar.gz, tar.zst) into a directory that does not exist yet.
///
/// On any refusal the directory is gone again.
pub fn unpack_source(from: &mut dyn Read, into: &Path, quota: &Quota) -> Result<Unpacked> {
    disk::private_directory(into.parent().unwrap_or(Path::new("/")))?;
    rustix::fs::mkdir(into, Mode::from(0o755)).doing("create directory", into)?;
    let unpacked = Plain::new("the upload", from).and_then(|plain| {
        unpack(plain, into, &Allowance::new("the archive", quota), Policy::Source)
            .map(|(unpacked, _)| unpacked)
    });
    if unpacked.is_err() {
        disk::remove_tree(into)?;
    }
    unpacked
}

/// Whom the archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Layer,
    Source,
}

/// Unpacks a plain tar stream into an existing directory and gives the stream back, read to its end.
pub(crate) fn unpack<R: Read>(
    from: R,
    into: &Path,
    allowance: &Allowance<'_>,
    policy: Policy,
) -> Result<(Unpacked, R)> {
    let root = rustix::fs::openat(
        CWD,
        into,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing("open", into)?;
    let mut unpacker = Unpacker {
        place: Place::new(root),
        path: into,
        quota: allowance.quota,
        allowance,
        policy,
        done: Unpacked::default(),
        directory_times: BTreeMap::new(),
        links: BTreeSet::new(),
        remembered: 0,
        buffer: vec![0; 1 << 17],
    };
    let counted = Bounded {
        inner: from,
        left: allowance.quota.stream_bytes(),
    };
    let mut tarball = Tarball::new(counted);
    while let Some(member) = tarball.next()? {
        unpacker.member(&member, &mut tarball)?;
    }
    if policy == Policy::Source && !tarball.has_end_mark() {
        return Err(ImageError::refused("the archive", "it was cut off"));
    }
    let mut rest = tarball.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|cause| ImageError::stream("the archive", cause))?;
    unpacker.finish()?;
    Ok((unpacker.done, rest.inner))
}

/// Ends a stream that goes on for longer than any archive within the quota could.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            ImageError::refused("the archive", "it is longer than its entries may be").into_io()
        })?;
        Ok(count)
    }
}

struct Unpacker<'a> {
    place: Place,
    path: &'a Path,
    quota: &'a Quota,
    allowance: &'a Allowance<'a>,
    policy: Policy,
    done: Unpacked,
    /// Times of directories are set last: making something in one changes its time.
    directory_times: BTreeMap<Vec<u8>, (i64, u32)>,
    /// Symbolic links of a source, judged when everything is there.
    links: BTreeSet<Vec<u8>>,
    /// Bytes that the two above take, at most [`REMEMBERED_BYTES`].
    remembered: usize,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn member<R: Read>(&mut self, member: &Member, content: &mut Tarball<R>) -> Result<()> {
        self.done.entries += 1;
        self.allowance.take_entries(1)?;
        let parts = self.parts(&member.path)?;
        let Some((name, parents)) = parts.split_last() else {
            // The entry for the root itself: its facts count, its kind cannot.
            return if member.kind == Kind::Directory {
                self.root_facts(member)
            } else {
                Err(self.refuse(member, "it replaces the root"))
            };
        };
        let hidden = name.strip_prefix(b".wh.");
        if parents.iter().any(|part| part.starts_with(b".wh.")) {
            return Err(self.refuse(member, "a whiteout cannot hold anything"));
        }
        match (self.policy, hidden) {
            (Policy::Layer, Some(hidden)) => return self.whiteout(member, parents, hidden),
            (Policy::Source, Some(_)) => {
                return Err(self.refuse(member, "names that begin with .wh. mean removal in layers"));
            }
            (Policy::Layer | Policy::Source, None) => {}
        }
        match member.kind {
            Kind::Directory => self.directory(member, parents, name),
            Kind::File => self.file(member, parents, name, content),
            Kind::Symlink => self.symlink(member, parents, name),
            Kind::HardLink => self.hard_link(member, parents, name),
            Kind::Device | Kind::Fifo if self.policy == Policy::Layer => {
                self.done.dropped_nodes += 1;
                Ok(())
            }
            Kind::Device | Kind::Fifo => {
                Err(self.refuse(member, "devices and pipes have no place in a source"))
            }
        }
    }

    /// Takes a path apart. A leading slash means the root of the archive, as every image tool reads it.
    fn parts<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>> {
        if path.len() > self.quota.name_bytes {
            return Err(self.over(self.quota.name_bytes as u64, "bytes of name"));
        }
        let parts: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        if parts.contains(&&b".."[..]) {
            return Err(ImageError::refused(
                shown(path),
                "its name leads out of the archive",
            ));
        }
        if parts.len() > self.quota.depth {
            return Err(self.over(self.quota.depth as u64, "directories above one another"));
        }
        if parts.iter().any(|part| part.len() > 255) {
            return Err(self.over(255, "bytes of file name"));
        }
        Ok(parts)
    }

    fn refuse(&self, member: &Member, why: &str) -> ImageError {
        ImageError::refused(shown(&member.path), why)
    }

    fn over(&self, limit: u64, unit: &'static str) -> ImageError {
        ImageError::Quota {
            what: "the archive".into(),
            limit,
            unit,
        }
    }

    /// Says in the archive's terms why the system would not do it.
    fn failed(&self, member: &Member, cause: Errno) -> ImageError {
        match cause {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => self.refuse(
                member,
                "its name goes through something that is no directory of the archive",
            ),
            Errno::NOTEMPTY | Errno::EXIST => {
                self.refuse(member, "it replaces a directory that holds something")
            }
            Errno::NAMETOOLONG => self.over(255, "bytes of file name"),
            cause => ImageError::io("unpack into", self.path, cause),
        }
    }

    /// Removes what a later entry of the same name replaces; says what was there.
    fn make_room(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Found> {
        let found = Place::found(dir, name)?;
        match found {
            Found::Nothing => {}
            Found::Directory => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?,
            Found::Whiteout | Found::Other => rustix::fs::unlinkat(dir, name, AtFlags::empty())?,
        }
        Ok(found)
    }

    fn root_facts(&mut self, member: &Member) -> Result<()> {
        let root = rustix::io::dup(&*self.place.root).doing("open", self.path)?;
        self.facts(&root, member)?;
        self.directory_times
            .insert(Vec::new(), (member.mtime_s, member.mtime_ns));
        Ok(())
    }

    /// Counts a name that is kept until the end; the same name again replaces the earlier one.
    fn remember(&mut self, path: &[u8], is_known: bool) -> Result<()> {
        if !is_known {
            self.remembered += path.len() + REMEMBERED_ENTRY;
        }
        if self.remembered > REMEMBERED_BYTES {
            return Err(self.over(REMEMBERED_BYTES as u64, "bytes of directory and link names"));
        }
        Ok(())
    }

    fn remember_link(&mut self, path: Vec<u8>) -> Result<()> {
        self.remember(&path, self.links.contains(&path))?;
        self.links.insert(path);
        Ok(())
    }

    fn directory(&mut self, member: &Member, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        let dir = self
            .place
            .directory(parents)
            .map_err(|cause| self.failed(member, cause))?;
        let made = (|| {
            let found = Place::found(&dir, name)?;
            match found {
                Found::Directory => {}
                Found::Nothing => rustix::fs::mkdirat(&*dir, name, Mode::from(0o755))?,
                Found::Whiteout | Found::Other => {
                    rustix::fs::unlinkat(&*dir, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(&*dir, name, Mode::from(0o755))?;
                }
            }
            let opened = Place::beneath(&dir, as_path(name), OFlags::DIRECTORY)?;
            if found == Found::Whiteout {
                set_opaque(&opened)?;
            }
            Ok(opened)
        })();
        let opened = made.map_err(|cause| self.failed(member, cause))?;
        self.facts(&opened, member)?;
        let path = [parents, &[name]].concat().join(&b'/');
        self.remember(&path, self.directory_times.contains_key(&path))?;
        self.directory_times
            .insert(path, (member.mtime_s, member.mtime_ns));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        member: &Member,
        parents: &[&[u8]],
        name: &[u8],
        content: &mut Tarball<R>,
    ) -> Result<()> {
        self.allowance.take_bytes(member.size)?;
        allowance::check_room(&*self.place.root, self.path, member.size)?;
        let dir = self
            .place
            .directory(parents)
            .map_err(|cause| self.failed(member, cause))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = Self::make_room(&dir, name)
            .and_then(|_| rustix::fs::openat(&*dir, name, flags, Mode::from(0o600)))
            .map_err(|cause| self.failed(member, cause))?;
        let mut file = std::fs::File::from(opened);
        loop {
            let count = content
                .read(&mut self.buffer)
                .map_err(|cause| ImageError::stream("the archive", cause))?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count])
                .doing("unpack into", self.path)?;
        }
        self.done.bytes += member.size;
        let file = OwnedFd::from(file);
        self.facts(&file, member)?;
        rustix::fs::futimens(&file, &times(member.mtime_s, member.mtime_ns))
            .doing("unpack into", self.path)?;
        Ok(())
    }

    fn symlink(&mut self, member: &Member, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        if member.link.is_empty() || member.link.len() > self.quota.name_bytes {
            return Err(self.refuse(member, "its link target is empty or too long"));
        }
        let (uid, gid) = self.owner(member);
        let dir = self
            .place
            .directory(parents)
            .map_err(|cause| self.failed(member, cause))?;
        (|| {
            Self::make_room(&dir, name)?;
            rustix::fs::symlinkat(member.link.as_slice(), &*dir, name)?;
            rustix::fs::chownat(&*dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::utimensat(
                &*dir,
                name,
                &times(member.mtime_s, member.mtime_ns),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })()
        .map_err(|cause| self.failed(member, cause))?;
        let path = [parents, &[name]].concat().join(&b'/');
        if self.policy == Policy::Source {
            self.remember_link(path)?;
        }
        Ok(())
    }

    fn hard_link(&mut self, member: &Member, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        let target = self.parts(&member.link)?;
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(self.refuse(member, "it links to a directory"));
        };
        if target == [parents, &[name]].concat() {
            return Err(self.refuse(member, "it links to itself"));
        }
        let target_dir = if target_parents.is_empty() {
            rustix::io::dup(&*self.place.root)
        } else {
            Place::beneath(
                &self.place.root,
                as_path(&target_parents.join(&b'/')),
                OFlags::DIRECTORY,
            )
        };
        let target_dir = target_dir
            .map_err(|_| self.refuse(member, "it links to something that is not in the archive"))?;
        let stat = rustix::fs::statat(&target_dir, *target_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| self.refuse(member, "it links to something that is not in the archive"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink => {}
            _ => return Err(self.refuse(member, "it links to something that is no file")),
        }
        let dir = self
            .place
            .directory(parents)
            .map_err(|cause| self.failed(member, cause))?;
        Self::make_room(&dir, name)
            .and_then(|_| rustix::fs::linkat(&target_dir, *target_name, &*dir, name, AtFlags::empty()))
            .map_err(|cause| self.failed(member, cause))?;
        if self.policy == Policy::Source && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            self.remember_link([parents, &[name]].concat().join(&b'/'))?;
        }
        Ok(())
    }

    /// `.wh.NAME` hides NAME of the layers below; `.wh..wh..opq` hides everything they have in this directory.
    fn whiteout(&mut self, member: &Member, parents: &[&[u8]], hidden: &[u8]) -> Result<()> {
        if hidden == b".wh..opq" {
            if parents.is_empty() {
                self.done.is_opaque = true;
                return Ok(());
            }
            let dir = self
                .place
                .directory(parents)
                .map_err(|cause| self.failed(member, cause))?;
            return set_opaque(&*dir).map_err(|cause| self.failed(member, cause));
        }
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(self.refuse(member, "it hides its own directory or the one above"));
        }
        let dir = self
            .place
            .directory(parents)
            .map_err(|cause| self.failed(member, cause))?;
        (|| match Place::found(&dir, hidden)? {
            Found::Nothing => rustix::fs::mknodat(&*dir, hidden, FileType::CharacterDevice, Mode::empty(), 0),
            // The layer brings a new directory of that name: what is below it must not shine through.
            Found::Directory => set_opaque(Place::beneath(&dir, as_path(hidden), OFlags::DIRECTORY)?),
            Found::Whiteout | Found::Other => Ok(()),
        })()
        .map_err(|cause| self.failed(member, cause))
    }

    fn owner(&mut self, member: &Member) -> (Uid, Gid) {
        if self.policy == Policy::Source {
            return (Uid::ROOT, Gid::ROOT);
        }
        let mut within = |id: u64| {
            u32::from(u16::try_from(id).unwrap_or_else(|_| {
                self.done.dropped_owners += 1;
                65534
            }))
        };
        (
            Uid::from_raw(within(member.uid)),
            Gid::from_raw(within(member.gid)),
        )
    }

    /// Owner, then mode (a change of owner clears bits), then attributes.
    fn facts(&mut self, fd: &OwnedFd, member: &Member) -> Result<()> {
        let (uid, gid) = self.owner(member);
        let mode = match (self.policy, member.kind) {
            (Policy::Source, Kind::Directory) => member.mode & 0o777 | 0o700,
            (Policy::Source, _) => member.mode & 0o777,
            (Policy::Layer, Kind::Directory) => member.mode,
            (Policy::Layer, _) => {
                self.done.dropped_set_id += u64::from(member.mode & 0o6000 != 0);
                member.mode & !0o6000
            }
        };
        rustix::fs::fchown(fd, Some(uid), Some(gid))
            .and_then(|()| rustix::fs::fchmod(fd, Mode::from(mode)))
            .doing("unpack into", self.path)?;
        for (name, value) in &member.xattrs {
            let is_kept = self.policy == Policy::Layer && is_kept_attribute(name);
            // A file system without attributes is no reason to refuse an image.
            let is_set =
                is_kept && rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()).is_ok();
            self.done.dropped_attributes += u64::from(!is_set);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        for link in &self.links {
            // The kernel walks the link as a reader would; leaving the upload is an error of its own.
            match disk::open_beneath(
                &*self.place.root,
                as_path(link),
                OFlags::PATH,
                ResolveFlags::empty(),
            ) {
                Ok(_) | Err(Errno::NOENT) => {}
                Err(_) => return Err(ImageError::refused(shown(link), "it links out of the upload")),
            }
        }
        for (path, (seconds, nanos)) in self.directory_times.iter().rev() {
            let opened = if path.is_empty() {
                rustix::io::dup(&*self.place.root)
            } else {
                Place::beneath(&self.place.root, as_path(path), OFlags::DIRECTORY)
            };
            match opened {
                Ok(dir) => {
                    rustix::fs::futimens(&dir, &times(*seconds, *nanos)).doing("unpack into", self.path)?;
                }
                // A later entry of the archive replaced this directory by something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(cause) => return Err(ImageError::io("unpack into", self.path, cause)),
            }
        }
        Ok(())
    }
}

/// `user.*`, but not what overlay mounts inside an instance would obey.
pub(crate) fn is_kept_attribute(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

fn set_opaque(dir: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

fn times(seconds: i64, nanos: u32) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nanos),
        },
    }
}

/// A name from an archive, fit to be shown.
pub(crate) fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(120).collect();
    format!("{text:?}")
}
