//! The embedded programs, each in a sealed memfd.
//!
//! Lives here: turning bytes into something to execute.
//! Does not live here: building them (`build.rs`).
//! Invariant: sealed against writing, so that an instance which reopens the file it was started from cannot change it
//! (the class of CVE-2019-5736); made once per process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, SealFlags};

static KEEPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stoa-keeper"));
static CREATE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stoa-create"));

/// The per-instance parent.
pub fn keeper() -> io::Result<&'static OwnedFd> {
    static FD: OnceLock<OwnedFd> = OnceLock::new();
    once(&FD, "stoa-keeper", KEEPER)
}

/// The helper.
pub fn create() -> io::Result<&'static OwnedFd> {
    static FD: OnceLock<OwnedFd> = OnceLock::new();
    once(&FD, "stoa-create", CREATE)
}

fn once(cell: &'static OnceLock<OwnedFd>, name: &str, bytes: &[u8]) -> io::Result<&'static OwnedFd> {
    if let Some(fd) = cell.get() {
        return Ok(fd);
    }
    let fd = sealed(name, bytes, true)?;
    // Another thread may have been faster; its copy is as good.
    Ok(cell.get_or_init(|| fd))
}

/// An unchangeable file in memory.
pub fn sealed(name: &str, bytes: &[u8], executable: bool) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let kind = if executable {
        MemfdFlags::EXEC
    } else {
        MemfdFlags::NOEXEC_SEAL
    };
    // Before 6.3 the kernel knows neither flag and makes all of them executable.
    let fd =
        rustix::fs::memfd_create(name, flags | kind).or_else(|_| rustix::fs::memfd_create(name, flags))?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(fd)
}
