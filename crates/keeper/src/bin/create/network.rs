//! The instance's network namespace, as far as it is ours to enter.
//!
//! Lives here: joining a given one or making an empty one, and two settings in it.
//! Does not live here: interfaces, addresses, rules (the `net` crate made them).
//! Invariant: the namespace belongs to the host's user namespace, so the instance can never reconfigure it, whatever
//! capabilities it holds inside.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::failure::{Failure, Stage};
use crate::sys;

/// Joins `netns`, or a new namespace with only loopback.
pub fn enter(netns: Option<&Path>) -> Result<(), Failure> {
    match netns {
        Some(path) => {
            let file = File::open(path).map_err(Failure::with(Stage::Network, path.display().to_string()))?;
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(Failure::with(Stage::Network, path.display().to_string()))?;
        }
        None => {
            sys::unshare(UnshareFlags::NEWNET).map_err(Failure::at(Stage::Network))?;
            sys::loopback_up().map_err(Failure::with(Stage::Network, "loopback"))?;
        }
    }
    // A capability over a foreign namespace counts for nothing, so ports below 1024 must be free for all in it; and
    // ping sockets replace the raw sockets that the seccomp filter and the missing capability refuse.
    let settings = [
        ("ip_unprivileged_port_start", "0"),
        ("ping_group_range", "0 2147483647"),
    ];
    for (name, value) in settings {
        let path = format!("/proc/sys/net/ipv4/{name}");
        std::fs::write(&path, value).map_err(Failure::with(Stage::Network, path.clone()))?;
    }
    Ok(())
}
