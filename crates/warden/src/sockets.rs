//! Listening sockets: bound once, kept for the life of the warden, handed to children.
//!
//! Lives here: binding the first free candidate, using a socket a living edge handed over, and finding who holds a port.
//! Does not live here: accepting (the children do), which ports are candidates (the caller).
//! Invariant: a socket is never closed and bound again while the warden lives, so a connection waits but is not refused.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::inherit;

/// Connections that may wait while a child restarts; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long a holder on its way out may take; a control that had much to give back took 0.2 s on a loaded machine.
const HOLDER_ENDS_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Processes looked at to find who holds a port: beyond that the answer is not worth the time.
const PROCESSES_LOOKED_AT: usize = 20_000;

/// A listening socket somebody needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name for the children (`api`, `http0`).
    pub name: String,
    /// Addresses in order of preference; the first free one is taken.
    pub candidates: Vec<SocketAddr>,
}

/// Where a bound socket came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Bound by this process.
    Bound,
    /// Taken over from a living edge: it never stopped listening.
    Adopted,
}

/// A listening socket the warden holds.
#[derive(Debug)]
pub struct Bound {
    /// Its name for the children.
    pub name: String,
    /// The address it listens on.
    pub address: SocketAddr,
    /// Bound here or taken over.
    pub origin: Origin,
    socket: OwnedFd,
}

impl Bound {
    /// A second handle of the same socket.
    pub fn duplicate(&self) -> std::io::Result<OwnedFd> {
        inherit::duplicate(&self.socket)
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name as the kernel knows it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Why no candidate could be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Every candidate failed; the reasons stand in the order of the candidates.
    #[error("no address for {name}: {}", reasons.join("; "))]
    NoneFree {
        /// The socket's name.
        name: String,
        /// One reason per candidate.
        reasons: Vec<String>,
    },
}

impl SocketError {
    /// What the user can do.
    pub fn next(&self) -> String {
        match self {
            Self::NoneFree { name, .. } => {
                let option = name.trim_end_matches(|c: char| c.is_ascii_digit());
                format!(
                    "stop the program that holds the port, or choose another with --{option} ADDRESS:PORT"
                )
            }
        }
    }
}

/// Opens every wanted socket, preferring those a living edge handed over.
pub(crate) fn open(
    wanted: &[Wanted],
    handed_over: Vec<(String, OwnedFd)>,
) -> Result<Vec<Bound>, SocketError> {
    let mut handed_over = handed_over;
    wanted
        .iter()
        .map(|want| adopt(want, &mut handed_over).map_or_else(|| bind(want), Ok))
        .collect()
}

/// Uses a handed-over socket only when it listens where the caller wants it: the flags may have changed since.
fn adopt(want: &Wanted, handed_over: &mut Vec<(String, OwnedFd)>) -> Option<Bound> {
    let position = handed_over.iter().position(|(name, _)| *name == want.name)?;
    let (name, socket) = handed_over.swap_remove(position);
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().ok()?;
    let listening = rustix::net::sockopt::socket_acceptconn(&listener).ok()?;
    let fits = want
        .candidates
        .iter()
        .any(|c| c.ip() == address.ip() && (c.port() == 0 || c.port() == address.port()));
    (listening && fits).then(|| Bound {
        name,
        address,
        origin: Origin::Adopted,
        socket: listener.into(),
    })
}

fn bind(want: &Wanted) -> Result<Bound, SocketError> {
    let mut reasons = Vec::new();
    for candidate in &want.candidates {
        match listen_patiently(*candidate) {
            Ok((address, listener)) => {
                let (name, socket) = (want.name.clone(), listener.into());
                return Ok(Bound {
                    name,
                    address,
                    origin: Origin::Bound,
                    socket,
                });
            }
            Err(cause) => reasons.push(explain(*candidate, &cause)),
        }
    }
    Err(SocketError::NoneFree {
        name: want.name.clone(),
        reasons,
    })
}

/// Listens; waits a moment for a port whose holder is on its way out. After `kill -9` of a warden its control dies too,
/// but the kernel closes what it had only after a new `stoa up` may have begun.
fn listen_patiently(candidate: SocketAddr) -> std::io::Result<(SocketAddr, TcpListener)> {
    let until = Instant::now() + HOLDER_ENDS_WITHIN;
    loop {
        let bound = TcpListener::bind(candidate).and_then(|listener| {
            // A listening socket may be told a new backlog: the standard library's 128 is short for a restart under load.
            rustix::net::listen(&listener, BACKLOG)?;
            Ok((listener.local_addr()?, listener))
        });
        match bound {
            Err(cause)
                if cause.kind() == std::io::ErrorKind::AddrInUse
                    && Instant::now() < until
                    && holder_of_port(candidate.port()).is_none_or(|holder| is_ours(&holder)) =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            other => return other,
        }
    }
}

/// Whether the holder runs this same program.
fn is_ours(holder: &Holder) -> bool {
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let theirs = program(&holder.pid.to_string());
    // Without a program to compare, it is ending already.
    theirs.is_none() || theirs == program("self")
}

fn explain(candidate: SocketAddr, cause: &std::io::Error) -> String {
    if cause.kind() != std::io::ErrorKind::AddrInUse {
        return format!("{candidate}: {cause}");
    }
    match holder_of_port(candidate.port()) {
        Some(holder) => format!("{candidate} is in use by {holder}"),
        None => format!("{candidate} is in use by a process that cannot be named from here"),
    }
}

/// Who listens on a TCP port of this network namespace, as far as `/proc` tells.
pub fn holder_of_port(port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    });
    for (pid, path) in processes.take(PROCESSES_LOOKED_AT) {
        let Ok(descriptors) = std::fs::read_dir(path.join("fd")) else {
            continue;
        };
        let holds = descriptors
            .filter_map(|d| std::fs::read_link(d.ok()?.path()).ok())
            .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()));
        if holds {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            return Some(Holder {
                pid,
                name: name.trim().to_owned(),
            });
        }
    }
    None
}

/// Inodes of the sockets in state LISTEN (0A) on `port`, from the text of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (local.ends_with(&suffix) && *state == "0A").then(|| (*inode).to_owned())
    };
    table.lines().filter_map(listening).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(candidates: &[SocketAddr]) -> Wanted {
        Wanted {
            name: "http0".to_owned(),
            candidates: candidates.to_vec(),
        }
    }

    #[test]
    fn a_taken_port_is_explained_and_the_next_candidate_used() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let refused = open(&[want(&[address])], Vec::new()).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains(&format!("(process {})", std::process::id())),
            "{text}"
        );
        assert!(refused.next().contains("--http "), "{}", refused.next());

        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let bound = open(&[want(&[address, free])], Vec::new()).unwrap();
        assert_ne!(bound[0].address, address);
    }

    #[test]
    fn a_handed_over_socket_is_used_only_where_it_fits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handed: OwnedFd = listener.try_clone().unwrap().into();
        let bound = open(&[want(&[address])], vec![("http0".to_owned(), handed)]).unwrap();
        assert_eq!((bound[0].address, bound[0].origin), (address, Origin::Adopted));

        let elsewhere: SocketAddr = "127.0.0.2:0".parse().unwrap();
        let handed: OwnedFd = listener.into();
        let bound = open(&[want(&[elsewhere])], vec![("http0".to_owned(), handed)]).unwrap();
        assert_eq!(bound[0].origin, Origin::Bound);
    }
}
