//! What an instance's processes may do: capabilities.
//!
//! Lives here: the list, and dropping to it for a further process.
//! Does not live here: system calls (`seccomp`); the container's first process, whose capabilities libcontainer sets.
//! Invariant: both ways lead to the same sets.

use std::io;

use keeper::spec::User;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Enough to own files of several users, change to another user and signal it, and bind low ports. Not: chroot, mknod,
/// raw sockets, setpcap, setfcap, audit: rarely needed, each with a history of holes.
const CAPABILITIES: [(&str, CapabilitySet); 8] = [
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    ("CAP_FSETID", CapabilitySet::FSETID),
    ("CAP_KILL", CapabilitySet::KILL),
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_SETUID", CapabilitySet::SETUID),
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
];

/// When an image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Their names.
pub fn capability_names() -> Vec<&'static str> {
    CAPABILITIES.iter().map(|(name, _)| *name).collect()
}

/// Becomes `user` with the list above and no way to gain more.
pub fn drop_to(user: &User) -> io::Result<()> {
    let allowed = CAPABILITIES
        .iter()
        .fold(CapabilitySet::empty(), |all, (_, one)| all | *one);
    for capability in CapabilitySet::all().iter().filter(|c| !allowed.contains(*c)) {
        // Above the kernel's last capability there is nothing to drop.
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    crate::sys::become_user(user.uid, user.gid, &user.groups)?;
    let kept = if user.uid == 0 {
        allowed
    } else {
        CapabilitySet::empty()
    };
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}
