//! Which system calls are points at which a death can be told from outside.
//!
//! A process that dies before a call that changes nothing outside of it (reading, waiting, mapping memory, its own wake-ups)
//! has left the same world as one that dies before its next call that does. So only the latter are counted.
//! Lives here: that list. Does not live here: counting (`tracer`).

use std::fmt;
use std::fs;
use std::os::fd::RawFd;

/// What a call needs to count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// Always.
    Always,
    /// When its first argument is a file or socket: writes into an event counter only wake a thread of ours.
    Onto,
    /// When it is more than a setting of the descriptor itself: the request is the second argument.
    Asking,
    /// When it may make a file or cut one short: flags are the third argument.
    Opening,
}

/// Number, name, when it counts. What locks or closes is left out: a death does the same.
const CALLS: &[(libc::c_long, &str, Counts)] = &[
    (libc::SYS_write, "write", Counts::Onto),
    (libc::SYS_pwrite64, "pwrite64", Counts::Onto),
    (libc::SYS_writev, "writev", Counts::Onto),
    (libc::SYS_pwritev, "pwritev", Counts::Onto),
    (libc::SYS_pwritev2, "pwritev2", Counts::Onto),
    (libc::SYS_sendto, "sendto", Counts::Always),
    (libc::SYS_sendmsg, "sendmsg", Counts::Always),
    (libc::SYS_sendfile, "sendfile", Counts::Always),
    (libc::SYS_copy_file_range, "copy_file_range", Counts::Always),
    (libc::SYS_splice, "splice", Counts::Always),
    (libc::SYS_connect, "connect", Counts::Always),
    (libc::SYS_bind, "bind", Counts::Always),
    (libc::SYS_shutdown, "shutdown", Counts::Always),
    (libc::SYS_openat, "openat", Counts::Opening),
    (libc::SYS_mkdirat, "mkdirat", Counts::Always),
    (libc::SYS_mknodat, "mknodat", Counts::Always),
    (libc::SYS_renameat, "renameat", Counts::Always),
    (libc::SYS_renameat2, "renameat2", Counts::Always),
    (libc::SYS_linkat, "linkat", Counts::Always),
    (libc::SYS_symlinkat, "symlinkat", Counts::Always),
    (libc::SYS_unlinkat, "unlinkat", Counts::Always),
    (libc::SYS_truncate, "truncate", Counts::Always),
    (libc::SYS_ftruncate, "ftruncate", Counts::Always),
    (libc::SYS_fallocate, "fallocate", Counts::Always),
    (libc::SYS_fsync, "fsync", Counts::Always),
    (libc::SYS_fdatasync, "fdatasync", Counts::Always),
    (libc::SYS_syncfs, "syncfs", Counts::Always),
    (libc::SYS_sync_file_range, "sync_file_range", Counts::Always),
    (libc::SYS_fchmod, "fchmod", Counts::Always),
    (libc::SYS_fchmodat, "fchmodat", Counts::Always),
    (libc::SYS_fchown, "fchown", Counts::Always),
    (libc::SYS_fchownat, "fchownat", Counts::Always),
    (libc::SYS_utimensat, "utimensat", Counts::Always),
    (libc::SYS_setxattr, "setxattr", Counts::Always),
    (libc::SYS_lsetxattr, "lsetxattr", Counts::Always),
    (libc::SYS_fsetxattr, "fsetxattr", Counts::Always),
    (libc::SYS_ioctl, "ioctl", Counts::Asking),
    (libc::SYS_mount, "mount", Counts::Always),
    (libc::SYS_umount2, "umount2", Counts::Always),
    (libc::SYS_move_mount, "move_mount", Counts::Always),
    (libc::SYS_mount_setattr, "mount_setattr", Counts::Always),
    (libc::SYS_unshare, "unshare", Counts::Always),
    (libc::SYS_setns, "setns", Counts::Always),
    (libc::SYS_clone, "clone", Counts::Always),
    (libc::SYS_clone3, "clone3", Counts::Always),
    (libc::SYS_kill, "kill", Counts::Always),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, "chown", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, "lchown", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, "vfork", Counts::Always),
];

/// Those that a failing disk refuses.
const DISK: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "openat",
    "mkdirat",
    "mkdir",
    "renameat",
    "renameat2",
    "rename",
    "linkat",
    "unlink",
    "unlinkat",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "syncfs",
];

/// One call that counts.
pub(super) struct Call {
    name: &'static str,
    /// What its first argument is, when that is a descriptor.
    onto: Option<String>,
}

impl Call {
    /// The call with that number, if it counts.
    pub(super) fn of(pid: i32, number: u64, arguments: &[u64]) -> Option<Self> {
        let (_, name, counts) = CALLS.iter().find(|(known, ..)| known.cast_unsigned() == number)?;
        let argument = |place: usize| arguments.get(place).copied().unwrap_or_default();
        let descriptor = RawFd::try_from(argument(0)).ok();
        let onto = descriptor
            .and_then(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok())
            .map(|path| path.to_string_lossy().into_owned());
        let does = match counts {
            Counts::Always => true,
            Counts::Onto => onto.as_ref().is_some_and(|onto| !onto.starts_with("anon_inode:")),
            Counts::Asking => argument(1) != libc::FIONBIO,
            Counts::Opening => {
                let making = (libc::O_CREAT | libc::O_TRUNC).cast_unsigned();
                argument(2) & u64::from(making) != 0
            }
        };
        does.then_some(Self { name, onto })
    }

    /// Whether a failing disk can refuse it: names always, descriptors when they are files on one.
    pub(super) fn reaches_disk(&self) -> bool {
        let is_file = |onto: &String| {
            let elsewhere = ["/proc/", "/sys/", "/dev/"];
            onto.starts_with('/') && !elsewhere.iter().any(|place| onto.starts_with(place))
        };
        DISK.contains(&self.name) && self.onto.as_ref().is_none_or(is_file)
    }

    /// Whether it writes as many bytes as its third argument says, and may write fewer.
    pub(super) fn may_be_short(&self) -> bool {
        matches!(self.name, "write" | "pwrite64") && self.reaches_disk()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.onto {
            Some(onto) => write!(f, "{} on {onto}", self.name),
            None => f.write_str(self.name),
        }
    }
}
