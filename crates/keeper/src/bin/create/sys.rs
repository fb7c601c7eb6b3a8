//! System calls that neither `std` nor `rustix` offers safely.
//!
//! Lives here: every `unsafe` of the helper but the seccomp filter's installation (`seccompiler`'s).
//! Does not live here: decisions.
//! Invariant: this process has one thread.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Takes over descriptors our parent put at fixed numbers.
pub fn inherited<const N: usize>(numbers: [i32; N]) -> [OwnedFd; N] {
    numbers.map(|number| {
        // SAFETY: the keeper opened these numbers for us and nothing else in this process owns them.
        unsafe {
            libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
            OwnedFd::from_raw_fd(number)
        }
    })
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes a detached mount show the ids of `userns`, if one is given, and be read-only, if asked.
pub fn set_mount(tree: BorrowedFd<'_>, userns: Option<BorrowedFd<'_>>, read_only: bool) -> io::Result<()> {
    let mapped = if userns.is_some() {
        libc::MOUNT_ATTR_IDMAP
    } else {
        0
    };
    let attr = MountAttr {
        attr_set: mapped | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.map_or(0, |userns| userns.as_raw_fd() as u64),
    };
    // SAFETY: the structure lives across the call and has the size we tell; the path is empty by the flag.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// A user namespace mapping 0.. to `base`.. for `count` ids, held by its descriptor only.
pub fn user_namespace(base: u32, count: u32) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: clone without CLONE_VM is a fork; the single-threaded child only reads from a pipe and ends.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        // SAFETY: plain system calls; the write end is closed so that our parent's end is the only one.
        unsafe {
            libc::close(write.as_raw_fd());
            let mut byte = 0u8;
            libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
    let namespace = map_and_open(pid, base, count);
    drop(write);
    // SAFETY: waits for the child just made; a null status is allowed.
    unsafe {
        libc::waitpid(i32::try_from(pid).unwrap_or(-1), std::ptr::null_mut(), 0);
    }
    namespace
}

fn map_and_open(pid: i64, base: u32, count: u32) -> io::Result<OwnedFd> {
    let map = format!("0 {base} {count}\n");
    std::fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    std::fs::write(format!("/proc/{pid}/gid_map"), &map)?;
    Ok(std::fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// Runs `act` with file system ids `id`, keeping all capabilities.
pub fn with_fs_ids<T>(id: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: plain numbers; one thread.
    unsafe {
        libc::setfsgid(id);
        libc::setfsuid(id);
    }
    // Leaving file system id 0 drops the file capabilities from the effective set only.
    let result = raise_capabilities().and_then(|()| act());
    // SAFETY: as above; going back to 0 restores the effective set.
    unsafe {
        libc::setfsuid(0);
        libc::setfsgid(0);
    }
    result
}

fn raise_capabilities() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Sets a limit, clamped to the hard limit we may not raise.
pub fn limit(resource: libc::__rlimit_resource_t, wanted: u64) -> io::Result<()> {
    let exact = libc::rlimit {
        rlim_cur: wanted,
        rlim_max: wanted,
    };
    // SAFETY: the structures live across the calls.
    unsafe {
        if libc::setrlimit(resource, &exact) == 0 {
            return Ok(());
        }
        let mut now = std::mem::zeroed::<libc::rlimit>();
        check(libc::getrlimit(resource, &mut now).into())?;
        let soft = wanted.min(now.rlim_max);
        check(
            libc::setrlimit(
                resource,
                &libc::rlimit {
                    rlim_cur: soft,
                    rlim_max: now.rlim_max,
                },
            )
            .into(),
        )
        .map(drop)
    }
}

/// Takes over the limit of another process.
pub fn limit_like(pid: i32, resource: libc::__rlimit_resource_t) -> io::Result<()> {
    // SAFETY: the structure lives across the calls.
    unsafe {
        let mut theirs = std::mem::zeroed::<libc::rlimit>();
        check(libc::prlimit(pid, resource, std::ptr::null(), &mut theirs).into())?;
        check(libc::setrlimit(resource, &theirs).into()).map(drop)
    }
}

/// Switches the loopback interface of the current network namespace on.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the request is zeroed, names "lo" with its terminator and lives across the call.
    unsafe {
        let mut request = std::mem::zeroed::<libc::ifreq>();
        for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request).into()).map(drop)
    }
}

/// Moves this process into namespaces of the process behind `pidfd`; a new pid namespace holds for children.
pub fn enter(pidfd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::setns(pidfd.as_raw_fd(), kinds) }.into()).map(drop)
}

/// Forks: the child's pid, or `None` in the child.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: one thread, so the child may go on as if nothing had happened.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok((pid != 0).then(|| i32::try_from(pid).unwrap_or(-1)))
}

/// Ends a forked child without running what belongs to its parent.
pub fn leave(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Puts `fd` in place of descriptor `number`.
pub fn place(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: `number` is one of 0 to 2, owned by nobody.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Whether a descriptor number is open.
pub fn is_open(number: i32) -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Lets a descriptor survive the next exec.
pub fn keep_over_exec(number: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into()).map(drop)
}

/// A terminal made in the current mount namespace: master, slave.
pub fn terminal(rows: u16, cols: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: opened descriptors are owned at once; the integers and the size live across their calls.
    unsafe {
        // Not /dev/ptmx, which the instance may have replaced by anything; and whatever it is, it must not hold us up.
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let master = check(libc::open(c"/dev/pts/ptmx".as_ptr(), flags).into())?;
        let master = OwnedFd::from_raw_fd(i32::try_from(master).unwrap_or(-1));
        let device = rustix::fs::fstat(&master)?.st_rdev;
        if (rustix::fs::major(device), rustix::fs::minor(device)) != (5, 2) {
            return Err(io::Error::other("/dev/pts/ptmx is not a terminal multiplexer"));
        }
        rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::empty())?;
        let unlock: libc::c_int = 0;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock).into())?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let slave = check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags).into())?;
        let slave = OwnedFd::from_raw_fd(i32::try_from(slave).unwrap_or(-1));
        let size = libc::winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size).into())?;
        Ok((master, slave))
    }
}

/// Makes the terminal on descriptor 0 the controlling one of our session.
pub fn control_terminal() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Not dumpable: what we enter may neither trace us nor read our memory.
pub fn hide_from_instance() {
    // SAFETY: plain numbers.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
}

/// Becomes `path`. Only returns on failure.
pub fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays are null-terminated and live across the call.
    unsafe {
        libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr());
    }
    io::Error::last_os_error()
}

/// Becomes the program behind `fd`. Only returns on failure.
pub fn execute_descriptor(fd: i32, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: as above.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Leaves namespaces for new ones.
pub fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: one thread; no descriptor table or file system state is unshared.
    check(unsafe { libc::unshare(flags.bits().cast_signed()) }.into()).map(drop)
}

/// Changes user, group and supplementary groups for good.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the array lives across the call; one thread, so the C library has nobody to keep in step.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()).into())?;
        check(libc::setresgid(gid, gid, gid).into())?;
        check(libc::setresuid(uid, uid, uid).into()).map(drop)
    }
}

/// Writes to a descriptor known by number only; its failure has nobody to be told to.
pub fn write_to(number: i32, bytes: &[u8]) {
    // SAFETY: the buffer lives across the call.
    unsafe {
        libc::write(number, bytes.as_ptr().cast(), bytes.len());
    }
}
