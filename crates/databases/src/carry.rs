//! A base and segments of the log on their way to another machine, and back.
//!
//! Lives here: a base as a stream (a tar archive of its volume), and a volume made of such a stream.
//! Does not live here: sealing and where it goes (`backup`), which base and which log (`plan`).
//! Invariants: only directories and plain files are taken along, with their owner and mode; what comes back lies inside of
//! the volume and was not there before; all of it is on the disk before it counts.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;

use engine::Engine;
use model::Segment;
use rustix::fs::{Gid, Mode, Uid};

use crate::DatabaseError;
use crate::archive::OPEN;
use crate::inside::Inside;

/// Deeper than any cluster.
const DEEPEST: usize = 32;

/// Writes the whole volume of a base, which nobody uses, as a tar archive: the same volume gives the same bytes.
///
/// # Errors
/// When it has something else than directories and files; when it cannot be read or `to` fails.
pub fn pack(engine: &dyn Engine, volume: &str, to: &mut dyn Write) -> Result<(), DatabaseError> {
    let failed = || DatabaseError::file(volume);
    let dir = Inside::volume(&engine.volume_path(volume)?).map_err(failed())?;
    pack_volume(&dir, to).map_err(failed())
}

fn pack_volume(dir: &Inside, to: &mut dyn Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.mode(tar::HeaderMode::Complete);
    put_directory(&mut archive, dir, "./", 0)?;
    archive.finish()
}

fn header(facts: &Metadata, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(facts.mode() & 0o777);
    header.set_uid(facts.uid().into());
    header.set_gid(facts.gid().into());
    header.set_size(if facts.is_file() { facts.len() } else { 0 });
    header
}

fn put_directory(
    archive: &mut tar::Builder<&mut dyn Write>,
    dir: &Inside,
    path: &str,
    depth: usize,
) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("{path} lies too deep")));
    }
    let mut own = header(&dir.as_file().metadata()?, tar::EntryType::Directory);
    archive.append_data(&mut own, path, io::empty())?;
    for (name, is_directory) in dir.list()? {
        let below = format!("{path}{name}");
        if is_directory {
            put_directory(archive, &dir.below(&name)?, &format!("{below}/"), depth + 1)?;
        } else {
            let file = dir.read(&name)?;
            let facts = file.metadata()?;
            let mut own = header(&facts, tar::EntryType::Regular);
            archive.append_data(&mut own, below, file.take(facts.len()))?;
        }
    }
    Ok(())
}

/// Fills an empty volume with what [`pack`] wrote of another.
///
/// # Errors
/// When the stream has something that [`pack`] never writes, or fails; when the volume cannot be written.
pub fn unpack(engine: &dyn Engine, volume: &str, from: &mut dyn Read) -> Result<(), DatabaseError> {
    let failed = || DatabaseError::file(volume);
    let dir = Inside::volume(&engine.volume_path(volume)?).map_err(failed())?;
    unpack_volume(&dir, from).map_err(failed())
}

fn unpack_volume(root: &Inside, from: &mut dyn Read) -> io::Result<()> {
    let mut archive = tar::Archive::new(&mut *from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let odd = || io::Error::other(format!("{} is nothing that a base has", path.display()));
        let mut names = Vec::new();
        for part in path.components() {
            match part {
                std::path::Component::Normal(name) => names.push(name.to_str().ok_or_else(odd)?),
                std::path::Component::CurDir => {}
                _ => return Err(odd()),
            }
        }
        let head = entry.header();
        let (kind, mode) = (head.entry_type(), head.mode()?);
        let owner = (u32::try_from(head.uid()?), u32::try_from(head.gid()?));
        let (Ok(uid), Ok(gid)) = owner else {
            return Err(odd());
        };
        if !matches!(kind, tar::EntryType::Regular | tar::EntryType::Directory) || names.len() > DEEPEST {
            return Err(odd());
        }
        let mut dir = None;
        let last = names.pop();
        for name in names {
            dir = Some(dir.as_ref().unwrap_or(root).below(name)?);
        }
        let dir = dir.as_ref().unwrap_or(root);
        match (last, kind) {
            (Some(name), tar::EntryType::Regular) => {
                let mut file = dir.make(name)?;
                let expected = entry.header().size()?;
                if io::copy(&mut entry, &mut file)? != expected {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                own(&file, uid, gid, mode)?;
            }
            (Some(name), _) => own(dir.make_directory(name)?.as_file(), uid, gid, mode)?,
            (None, tar::EntryType::Directory) => own(root.as_file(), uid, gid, mode)?,
            (None, _) => return Err(odd()),
        }
    }
    // What is behind the archive's end is read as well: only the end of the stream says that it was whole.
    io::copy(from, &mut io::sink())?;
    rustix::fs::syncfs(root.as_file())?;
    Ok(())
}

fn own(file: &File, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o777))?;
    Ok(())
}

/// A segment of a stretch, to be read; the one that is still received when `is_open`.
///
/// # Errors
/// `Gap` when it is not there.
pub fn segment(
    engine: &dyn Engine,
    stretch: &str,
    segment: Segment,
    is_open: bool,
) -> Result<File, DatabaseError> {
    let dir = Inside::volume(&engine.volume_path(stretch)?).map_err(DatabaseError::file(stretch))?;
    let name = match is_open {
        true => format!("{segment}{OPEN}"),
        false => segment.to_string(),
    };
    dir.read(&name).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => DatabaseError::Gap { segment },
        _ => DatabaseError::file(&name)(cause),
    })
}

/// Puts a segment where the server of a stopped cluster looks for it.
///
/// # Errors
/// When `from` fails or gives something else than a segment, or the volume cannot be written.
pub fn put_segment(
    engine: &dyn Engine,
    volume: &str,
    segment: Segment,
    from: &mut dyn Read,
) -> Result<(), DatabaseError> {
    let name = segment.to_string();
    let mut put = || {
        let dir = Inside::cluster(&engine.volume_path(volume).map_err(io::Error::other)?)?.below("pg_wal")?;
        dir.remove(&name)?;
        let mut file = dir.make(&name)?;
        let bytes = io::copy(&mut from.take(model::backup::SEGMENT_BYTES + 1), &mut file)?;
        if bytes != model::backup::SEGMENT_BYTES {
            return Err(io::Error::other(format!(
                "it has {bytes} bytes, which no segment has"
            )));
        }
        file.sync_all()?;
        dir.sync()
    };
    put().map_err(DatabaseError::file(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(root: &std::path::Path, name: &str) -> Inside {
        std::fs::create_dir_all(root.join(name)).expect("made");
        Inside::volume(&root.join(name)).expect("opened")
    }

    #[test]
    fn a_volume_comes_back_as_it_was() {
        let root = tempfile::tempdir().expect("a directory");
        let (one, two) = (volume(root.path(), "one"), volume(root.path(), "two"));
        let place = root.path().join("one/pgdata");
        std::fs::create_dir_all(place.join("pg_wal/archive_status")).expect("made");
        std::fs::create_dir_all(place.join("base/1")).expect("made");
        for (name, text) in [("PG_VERSION", "15\n"), ("base/1/1259", "rows"), ("empty", "")] {
            std::fs::write(place.join(name), text).expect("written");
        }
        let long = format!("base/1/{}", "l".repeat(180));
        std::fs::write(place.join(&long), "long").expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(place.join("PG_VERSION"), mode).expect("set");
        let (mut packed, mut again) = (Vec::new(), Vec::new());
        pack_volume(&one, &mut packed).expect("packed");
        pack_volume(&one, &mut again).expect("packed");
        assert!(packed == again, "the same volume gave other bytes");
        unpack_volume(&two, &mut &packed[..]).expect("unpacked");
        let back = root.path().join("two/pgdata");
        for (name, text) in [
            ("PG_VERSION", "15\n"),
            ("base/1/1259", "rows"),
            ("empty", ""),
            (&long, "long"),
        ] {
            assert_eq!(std::fs::read_to_string(back.join(name)).expect(name), text);
        }
        assert!(back.join("pg_wal/archive_status").is_dir());
        let facts = std::fs::metadata(back.join("PG_VERSION")).expect("there");
        assert_eq!(facts.mode() & 0o777, 0o640);
        unpack_volume(&two, &mut &packed[..]).expect_err("something is there");
        let cut = &packed[..packed.len() / 2];
        unpack_volume(&volume(root.path(), "three"), &mut &*cut).expect_err("cut short");
    }

    #[test]
    fn nothing_but_files_and_directories_travels() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = volume(root.path(), "one");
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("one/link")).expect("linked");
        pack_volume(&dir, &mut Vec::new()).expect_err("a link");
        let with = |path: &str, kind| {
            let mut archive = tar::Builder::new(Vec::new());
            let mut head = tar::Header::new_gnu();
            head.set_entry_type(kind);
            head.as_gnu_mut().expect("gnu").name[..path.len()].copy_from_slice(path.as_bytes());
            head.set_mode(0o600);
            head.set_uid(0);
            head.set_gid(0);
            head.set_size(0);
            head.set_cksum();
            archive.append(&head, io::empty()).expect("appended");
            archive.into_inner().expect("finished")
        };
        for (path, kind) in [
            ("../out", tar::EntryType::Regular),
            ("/out", tar::EntryType::Regular),
            ("fifo", tar::EntryType::Fifo),
            ("link", tar::EntryType::Symlink),
            ("a/b", tar::EntryType::Regular),
        ] {
            let text = with(path, kind);
            unpack_volume(&volume(root.path(), "two"), &mut &text[..]).expect_err(path);
        }
        assert_eq!(
            std::fs::read_dir(root.path().join("two"))
                .expect("listed")
                .count(),
            0
        );
    }
}
