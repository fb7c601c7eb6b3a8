//! Passing open sockets to a child through `exec`.
//!
//! Lives here: the format (`STOA_FDS=name:number,...`), the parent's half, the child's half, and dying with the parent.
//! Does not live here: what the sockets are for.
//! Invariant: a descriptor is inheritable only in the child, between fork and exec; both processes keep it closed on exec.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

/// Names the inherited descriptors: `api:3,http:4`.
pub const FDS_VARIABLE: &str = "STOA_FDS";

/// The pid of the warden that started the process.
pub const PARENT_VARIABLE: &str = "STOA_WARDEN_PID";

/// Why the inherited descriptors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The variable is not of the documented form.
    #[error("{FDS_VARIABLE} holds {entry:?}, expected name:number")]
    Malformed {
        /// The entry in question.
        entry: String,
    },
    /// The variable names a descriptor that is not open.
    #[error("{FDS_VARIABLE} names descriptor {fd} as {name}, which is not open")]
    NotOpen {
        /// Its name.
        name: String,
        /// Its number.
        fd: RawFd,
    },
    /// Descriptors have one owner, so they can be taken once.
    #[error("the inherited descriptors were already taken")]
    TakenTwice,
    /// The parent was gone before the child could tie itself to it.
    #[error("the warden that started this process is gone")]
    Orphaned,
    /// The kernel refused.
    #[error("could not tie this process to its parent")]
    Kernel(#[source] std::io::Error),
}

/// Makes `sockets` open in the child, under the same numbers, and names them in its environment.
pub(crate) fn pass(command: &mut Command, sockets: &[(&str, BorrowedFd<'_>)]) {
    command.env(FDS_VARIABLE, listed(sockets));
    command.env(PARENT_VARIABLE, std::process::id().to_string());
    let numbers: Vec<RawFd> = sockets.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    allow(command, numbers);
}

#[allow(unsafe_code)]
fn allow(command: &mut Command, numbers: Vec<RawFd>) {
    let clear = move || {
        for &number in &numbers {
            // SAFETY: runs in the forked child, whose descriptor table is a copy of the parent's, where the number was
            // open when the command was built; the warden never closes a socket while it starts a child.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only calls fcntl, which is async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(clear);
    }
}

/// Keeps descriptors open through an `exec` of this very process, or no longer.
pub(crate) fn keep_open(descriptors: &[BorrowedFd<'_>], keep: Keep) -> std::io::Result<()> {
    let flags = match keep {
        Keep::ThroughExec => FdFlags::empty(),
        Keep::ForUs => FdFlags::CLOEXEC,
    };
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, flags)?;
    }
    Ok(())
}

/// See [`keep_open`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep {
    ThroughExec,
    ForUs,
}

/// Names descriptors as [`FDS_VARIABLE`] does.
pub(crate) fn listed(descriptors: &[(&str, BorrowedFd<'_>)]) -> String {
    let each: Vec<String> = descriptors
        .iter()
        .map(|(name, fd)| format!("{name}:{}", fd.as_raw_fd()))
        .collect();
    each.join(",")
}

/// The sockets this process was started with, by name, closed on exec again. Can be called once.
#[allow(unsafe_code)]
pub fn inherited_fds() -> Result<Vec<(String, OwnedFd)>, InheritError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(InheritError::TakenTwice);
    }
    let listed = std::env::var(FDS_VARIABLE).unwrap_or_default();
    let mut found = Vec::new();
    for (name, number) in parse(&listed)? {
        // SAFETY: only asks the kernel whether the number is open; a wrong number is an error, not undefined behaviour.
        let probe = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_setfd(probe, FdFlags::CLOEXEC).is_err() {
            return Err(InheritError::NotOpen { name, fd: number });
        }
        // SAFETY: open (checked above), passed to this process for it alone, distinct (parse), and taken once (TAKEN).
        found.push((name, unsafe { OwnedFd::from_raw_fd(number) }));
    }
    Ok(found)
}

fn parse(listed: &str) -> Result<Vec<(String, RawFd)>, InheritError> {
    let mut entries: Vec<(String, RawFd)> = Vec::new();
    for entry in listed.split(',').filter(|e| !e.is_empty()) {
        let parsed = entry
            .rsplit_once(':')
            .and_then(|(name, number)| Some((name.to_owned(), number.parse::<RawFd>().ok()?)))
            .filter(|(name, number)| {
                !name.is_empty() && *number > 2 && entries.iter().all(|(_, n)| n != number)
            });
        let Some(parsed) = parsed else {
            return Err(InheritError::Malformed {
                entry: entry.to_owned(),
            });
        };
        entries.push(parsed);
    }
    Ok(entries)
}

/// Has the kernel kill this process when the warden dies, so that two controls never write one store.
///
/// Does nothing when no warden started the process.
pub fn die_with_parent() -> Result<(), InheritError> {
    let Some(parent) = std::env::var(PARENT_VARIABLE)
        .ok()
        .and_then(|p| p.parse::<i32>().ok())
    else {
        return Ok(());
    };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| InheritError::Kernel(e.into()))?;
    // The parent may have died before the line above: then nobody would ever send the signal.
    let alive = rustix::process::getppid().is_some_and(|p| p.as_raw_nonzero().get() == parent);
    if alive {
        Ok(())
    } else {
        Err(InheritError::Orphaned)
    }
}

/// A second handle of `socket`, closed on exec.
pub(crate) fn duplicate(socket: &impl AsFd) -> std::io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(socket, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_descriptors_is_read_strictly() {
        assert_eq!(parse("").unwrap(), vec![]);
        assert_eq!(
            parse("api:3,http:14").unwrap(),
            vec![("api".to_owned(), 3), ("http".to_owned(), 14)]
        );
        for bad in ["api", "api:", ":3", "api:x", "api:1", "api:-1", "a:3,b:3"] {
            assert!(parse(bad).is_err(), "{bad} was accepted");
        }
    }
}
