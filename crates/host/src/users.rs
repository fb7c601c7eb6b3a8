//! Who a program runs as: names of the image, looked up in its layers.
//!
//! Lives here: reading the two files that name users and groups, as a stranger wrote them; whether a file is there.
//! Does not live here: which user a workload asks for (`instances`, `builds`).
//! Invariant: nothing outside the layer is read, and never more than a bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use engine::EngineError;
use runtime::User;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Far above the users and groups of any image: every start and every step reads them.
const FILE_BYTES: u64 = 1 << 20;
/// Whatever it is, opening it neither waits nor makes a terminal ours.
const READS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// The kernel asks to try again when something on the machine is renamed while it walks a `..`.
const ATTEMPTS: usize = 1000;

/// The user that `spelled` (`name`, `uid`, `name:group`, `uid:gid`; empty is root) means in these layers.
pub(crate) fn resolve(layers: &[PathBuf], spelled: &str) -> Result<(User, Option<String>), EngineError> {
    let (user, group) = match spelled.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spelled, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let passwd = top(layers, "etc/passwd")?;
    let rows = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|row| row.len() >= 6);
    let row = rows.into_iter().find(|row| row[0] == user || row[2] == user);
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id < runtime::ID_RANGE);
    let uid = row.as_ref().map_or(user, |row| row[2]);
    let uid = number(uid).ok_or_else(|| unknown("user", user))?;
    let groups = top(layers, "etc/group")?;
    let gid = match group {
        Some(group) => {
            let row = groups
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .find(|row| row[0] == group);
            let text = row.and_then(|row| row.get(2).copied()).unwrap_or(group);
            number(text).ok_or_else(|| unknown("group", group))?
        }
        None => row.as_ref().and_then(|row| number(row[3])).unwrap_or(0),
    };
    let name = row.as_ref().map_or("", |row| row[0]);
    let supplementary = groups.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = !name.is_empty() && fields.get(3)?.split(',').any(|member| member == name);
        is_member.then(|| number(fields[2])).flatten()
    });
    let home = row.map(|row| row[5].to_owned());
    Ok((
        User {
            uid,
            gid,
            groups: supplementary.collect(),
        },
        home,
    ))
}

fn unknown(what: &str, name: &str) -> EngineError {
    EngineError::Image {
        image: "its configuration".to_owned(),
        why: format!("there is no {what} {name:?} in it"),
        next_step: "name a user of the image, or a number".to_owned(),
    }
}

/// A file as the highest layer that has it shows it.
fn top(layers: &[PathBuf], path: &str) -> Result<String, EngineError> {
    for layer in layers.iter().rev() {
        let Some(file) = open_within(layer, path, READS).ok().map(File::from) else {
            continue;
        };
        // A pipe or a device would answer for ever, or never.
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(crate::error::host("read the users of an image"))?;
        if bytes.len() as u64 > FILE_BYTES {
            return Err(EngineError::Image {
                image: "its file system".to_owned(),
                why: format!("/{path} is larger than {FILE_BYTES} bytes"),
                next_step: format!("build it again with an /{path} of the usual size"),
            });
        }
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(String::new())
}

/// Whether the highest layer that has something at a path has a file there.
pub(crate) fn is_file(layers: &[PathBuf], path: &str) -> bool {
    for layer in layers.iter().rev() {
        match open_within(layer, path, OFlags::PATH) {
            Ok(found) => return File::from(found).metadata().is_ok_and(|meta| meta.is_file()),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            // It hides a directory of the layers below.
            Err(_) => return false,
        }
    }
    false
}

/// Opens a file of a layer. Links lead where they would if the layer were the whole world, never out of it.
fn open_within(layer: &Path, path: &str, how: OFlags) -> io::Result<std::os::fd::OwnedFd> {
    let layer = rustix::fs::openat(CWD, layer, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut answer = Err(Errno::AGAIN);
    for _attempt in 0..ATTEMPTS {
        answer = rustix::fs::openat2(
            &layer,
            path,
            how | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        if !matches!(answer, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    Ok(answer?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_outside_a_layer_and_no_huge_file_is_read() {
        let home = std::env::temp_dir().join(format!("stoa-users-bound-{}", std::process::id()));
        for inside in ["host", "linked", "huge/etc", "own/usr/share"] {
            fs::create_dir_all(home.join(inside)).expect("a directory");
        }
        let line = "secret:x:5:5::/:/bin/sh\n";
        fs::write(home.join("host/passwd"), line).expect("written");
        fs::write(home.join("own/usr/share/passwd"), line).expect("written");
        std::os::unix::fs::symlink(home.join("host"), home.join("linked/etc")).expect("linked");
        std::os::unix::fs::symlink("/usr/share", home.join("own/etc")).expect("linked");
        let huge = File::create(home.join("huge/etc/passwd")).expect("made");
        huge.set_len(2 << 20).expect("stretched");
        let name = |layer: &str| resolve(&[home.join(layer)], "secret").map(|(user, _)| user.uid);
        assert!(name("linked").is_err(), "it read a file of the host");
        assert_eq!(name("own").expect("a link within the layer"), 5);
        let refused = resolve(&[home.join("huge")], "0").expect_err("read whole");
        assert!(format!("{refused:?}").contains("larger"), "{refused:?}");
        fs::remove_dir_all(home).expect("removed");
    }

    #[test]
    fn the_highest_layer_that_has_something_there_says_what_it_is() {
        let home = std::env::temp_dir().join(format!("stoa-users-file-{}", std::process::id()));
        for inside in ["low/usr/lib", "other/usr", "directory/usr/lib/x.so", "in_the_way"] {
            fs::create_dir_all(home.join(inside)).expect("a directory");
        }
        fs::write(home.join("low/usr/lib/x.so"), "").expect("written");
        // A whiteout is no directory either.
        fs::write(home.join("in_the_way/usr"), "").expect("written");
        for (layers, expected) in [
            (&["low"][..], true),
            (&["low", "other"], true),
            (&["other"], false),
            (&["low", "directory"], false),
            (&["low", "in_the_way"], false),
            (&["in_the_way", "low"], true),
        ] {
            let paths: Vec<PathBuf> = layers.iter().map(|layer| home.join(layer)).collect();
            assert_eq!(is_file(&paths, "usr/lib/x.so"), expected, "{layers:?}");
        }
        fs::remove_dir_all(home).expect("removed");
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        let dir = std::env::temp_dir().join(format!("stoa-users-{}", std::process::id()));
        fs::create_dir_all(dir.join("etc")).expect("a directory");
        fs::write(
            dir.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        )
        .expect("written");
        fs::write(dir.join("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:40:web,root\n").expect("written");
        let layers = [dir.clone()];
        for (spelled, uid, gid) in [
            ("", 0, 0),
            ("web", 33, 34),
            ("33", 33, 34),
            ("1000", 1000, 0),
            ("web:log", 33, 40),
            ("7:8", 7, 8),
        ] {
            let (user, _) = resolve(&layers, spelled).expect(spelled);
            assert_eq!((user.uid, user.gid), (uid, gid), "{spelled}");
        }
        assert_eq!(resolve(&layers, "web").expect("known").0.groups, [40]);
        for bad in ["nobody-here", "99999999", "-1", "web:none"] {
            assert!(resolve(&layers, bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(dir).expect("removed");
    }
}
