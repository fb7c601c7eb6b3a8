//! Where edges are found: the control socket's name, and one name for each process.
//!
//! Lives here: names, the order in which edges take the control socket, finding all that live.
//! Does not live here: what they are told (`hub`).
//! Invariant: one edge at a time takes the place, and it finds every edge that lives then, also one whose successor was
//! killed: an edge that nobody finds would answer its clients by an old table for as long as they stay.
//!
//! ```text
//! edge.sock        the edge that serves: control, the warden and people speak to it
//! edge.sock.4711   the edge with that process, for as long as it lives: the next ones speak to it
//! edge.sock.lock   held by an edge while it takes the place
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::control::client::{Client, ClientError};

/// The right to change who is where; the kernel takes it back when the process ends.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

/// Waits until nobody else takes the place.
pub(crate) fn turn(socket: &Path) -> io::Result<Turn> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(beside(socket, "lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    Ok(Turn { _lock: lock })
}

/// Every edge that answers, the one that serves among them. Names of those that are gone are removed.
pub fn living(socket: &Path) -> Vec<Client> {
    let names = own_names(socket);
    let clients = names.into_iter().filter_map(|path| match Client::connect(&path) {
        Ok(client) => Some(client),
        Err(ClientError::Absent { cause, .. }) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            // Best effort: it is in nobody's way.
            let _stays = std::fs::remove_file(&path);
            None
        }
        Err(_) => None,
    });
    clients.collect()
}

/// Opens the control socket of this process under both names, in place of whatever was there.
pub(crate) fn take(socket: &Path, _turn: &Turn) -> io::Result<UnixListener> {
    let own = own_name(socket);
    remove(&own)?;
    let listener = UnixListener::bind(&own)?;
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600))?;
    let unfinished = beside(socket, "new");
    remove(&unfinished)?;
    std::fs::hard_link(&own, &unfinished)?;
    std::fs::rename(&unfinished, socket)?;
    Ok(listener)
}

/// The name of this process goes with it.
pub(crate) fn leave(socket: &Path) {
    // The next edge removes what stays.
    let _stays = remove(&own_name(socket));
}

fn own_name(socket: &Path) -> PathBuf {
    beside(socket, &std::process::id().to_string())
}

fn beside(socket: &Path, suffix: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Names of processes, in the order of their numbers.
fn own_names(socket: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |path: &Path| -> Option<u32> {
        let file = path.file_name()?.to_str()?;
        file.strip_prefix(name)?.strip_prefix('.')?.parse().ok()
    };
    let numbered = entries.filter_map(|entry| Some((number(&entry.path())?, entry.path())));
    let mut numbered: Vec<(u32, PathBuf)> = numbered.collect();
    numbered.sort();
    numbered.into_iter().map(|(_, path)| path).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_found_and_the_dead_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("edge.sock");
        let other = UnixListener::bind(dir.path().join("edge.sock.7")).unwrap();
        drop(UnixListener::bind(dir.path().join("edge.sock.8")).unwrap());
        for name in ["edge.sock.lock", "edge.sock.x", "edge.sock.7.old", "other.sock.9"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let held = turn(&socket).unwrap();
        let _listener = take(&socket, &held).unwrap();
        assert_eq!(living(&socket).len(), 2);
        assert!(!dir.path().join("edge.sock.8").exists());
        leave(&socket);
        drop(other);
        assert!(living(&socket).is_empty());
        assert!(
            Client::connect(&socket).is_ok(),
            "the common name is the successor's to replace"
        );
    }
}
