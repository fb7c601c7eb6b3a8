//! Named network namespaces.
//!
//! Lives here: making one, opening it again, letting it go; and its few kernel settings.
//! Does not live here: links and addresses (`links`).
//! Invariant: only threads born and ended here change their network namespace, so no thread of the caller can be left
//! in the wrong one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::mount::UnmountFlags;
use rustix::thread::LinkNameSpaceType;

use crate::netlink::Socket;

/// Settings of each new namespace.
///
/// - No IPv6 on links made later (loopback keeps `::1`): the networks carry IPv4 only, and without it nothing waits
///   for duplicate address detection.
/// - Every port may be bound and ICMP echo sockets opened by anybody inside: the namespace belongs to the host's user
///   namespace, so root inside has no capability over it, and port 80 would be out of reach for every image.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// An open namespace and a socket that speaks for it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub fd: OwnedFd,
    pub socket: Socket,
}

/// Make a namespace and mount it on `path`.
pub(crate) fn make(path: &Path) -> io::Result<Namespace> {
    in_own_thread(|| {
        leave_for_new_namespace()?;
        for (setting, value) in SETTINGS {
            set(setting, value)?;
        }
        let socket = Socket::route()?;
        let fd = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
        OpenOptions::new().write(true).create_new(true).open(path)?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?;
        Ok(Namespace { fd, socket })
    })
}

/// Open the namespace mounted on `path`; nothing when there is none.
pub(crate) fn open(path: &Path) -> io::Result<Option<Namespace>> {
    let Some(file) = open_mounted(path)? else {
        return Ok(None);
    };
    in_own_thread(|| {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        let socket = Socket::route()?;
        Ok(Some(Namespace {
            fd: OwnedFd::from(file),
            socket,
        }))
    })
}

/// Is a namespace mounted on `path`?
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(open_mounted(path)?.is_some())
}

/// Unmount and remove; nothing to do when it is gone. The kernel ends the namespace once nothing runs in it.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Once more: a second mount on top of the first would otherwise stay.
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Set a kernel setting of the calling thread's namespace.
pub(crate) fn set(setting: &str, value: &str) -> io::Result<()> {
    match fs::write(setting, value) {
        // IPv6 may be absent from the kernel altogether: then there is nothing to switch off.
        Err(e) if e.kind() == io::ErrorKind::NotFound && setting.contains("/ipv6/") => Ok(()),
        other => other,
    }
}

fn open_mounted(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let is_namespace = rustix::fs::fstatfs(&file)?.f_type == NSFS_MAGIC;
    Ok(is_namespace.then_some(file))
}

const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// Run in a thread that ends afterwards, whatever namespace it went to.
fn in_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("stoa-netns".into())
            .spawn_scoped(scope, work)?;
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}

#[allow(unsafe_code)]
fn leave_for_new_namespace() -> rustix::io::Result<()> {
    // SAFETY: only CLONE_NEWNET is given, so no file descriptor table is unshared, and the calling thread is one of
    // `in_own_thread`, which ends right after.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}
