//! The few system calls that neither `std` nor `rustix` offers safely.
//!
//! Lives here: every `unsafe` of the keeper.
//! Does not live here: decisions.
//! Invariant: this process has one thread, so a forked child may do what it likes before exec; it still allocates nothing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// As in the kernel's headers; libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Blocks every signal; those worth reading arrive through the returned descriptor.
pub fn signal_descriptor() -> io::Result<OwnedFd> {
    block_signals();
    // SAFETY: the set is initialised by sigemptyset before use; the calls have no other preconditions.
    unsafe {
        let mut wanted = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut wanted);
        libc::sigaddset(&mut wanted, libc::SIGCHLD);
        libc::sigaddset(&mut wanted, libc::SIGTERM);
        let fd = libc::signalfd(-1, &wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Blocks every signal, so that none is lost between the start of a child and the first [`wait_signal`].
pub fn block_signals() {
    // SAFETY: the set is initialised by sigfillset before use.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

/// Waits for any signal, all of which must be blocked: its number.
pub fn wait_signal() -> i32 {
    // SAFETY: as above; a null siginfo is allowed.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigwaitinfo(&all, std::ptr::null_mut())
    }
}

/// Closes everything from `first` on: whatever our starter forgot to mark close-on-exec.
pub fn close_from(first: u32) {
    // SAFETY: nothing in this process owns a descriptor in that range yet; called first thing in main.
    unsafe {
        libc::close_range(first, u32::MAX, 0);
    }
}

/// Goes on in a child while this process ends, so that our starter has nobody to reap and nobody waits for us.
pub fn detach() -> io::Result<()> {
    // SAFETY: one thread; the parent leaves at once without running destructors.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            _ => libc::_exit(0),
        }
    }
}

/// Takes descriptor 0, which our starter made the socket it talks to us on.
pub fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is open (our starter's promise; a wrong one fails at the first receive) and nobody else owns it.
    unsafe {
        let copy = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// Runs a program from a descriptor with an empty environment and exactly the given descriptors.
///
/// The child is born inside `cgroup` when one is given and the kernel can (5.7).
pub fn spawn(
    program: BorrowedFd<'_>,
    args: &[&str],
    fds: &[(BorrowedFd<'_>, i32)],
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Pid> {
    let args: Vec<CString> = args.iter().filter_map(|a| CString::new(*a).ok()).collect();
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    let pairs: Vec<(i32, i32)> = fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
    let mut moved = vec![0i32; pairs.len()];
    match fork_into(cgroup)? {
        Some(pid) => Ok(pid),
        None => {
            // SAFETY: we are the child, single-threaded, and only make system calls on memory prepared before.
            unsafe { become_program(program.as_raw_fd(), &argv, &pairs, &mut moved) }
        }
    }
}

fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Pid>> {
    // SAFETY: clone3 without CLONE_VM is a fork; the arguments live across the call and have the size we tell.
    let mut result = unsafe {
        let mut args = std::mem::zeroed::<libc::clone_args>();
        args.exit_signal = libc::SIGCHLD as u64;
        if let Some(cgroup) = cgroup {
            args.flags = CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        libc::syscall(libc::SYS_clone3, &mut args, size_of::<libc::clone_args>())
    };
    if result < 0 {
        // SAFETY: plain fork in a single-threaded process.
        result = i64::from(unsafe { libc::fork() });
    }
    match result {
        0 => Ok(None),
        pid if pid > 0 => Ok(i32::try_from(pid).ok().and_then(Pid::from_raw)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The child's side of [`spawn`].
///
/// # Safety
/// Only in a freshly forked single-threaded child; `argv` must be a null-terminated array of C strings.
unsafe fn become_program(
    program: i32,
    argv: &[*const libc::c_char],
    pairs: &[(i32, i32)],
    moved: &mut [i32],
) -> ! {
    // SAFETY: system calls on plain numbers and on arrays that the caller keeps alive.
    unsafe {
        // First out of the way, then into place: a target number may be another one's source.
        let program = libc::fcntl(program, libc::F_DUPFD_CLOEXEC, 100);
        for (slot, (from, _)) in moved.iter_mut().zip(pairs) {
            *slot = libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, 100);
        }
        for (slot, (_, to)) in moved.iter().zip(pairs) {
            libc::dup2(*slot, *to);
        }
        // std ignores SIGPIPE; a program inside must not inherit that, nor our mask.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        let environment: [*const libc::c_char; 1] = [std::ptr::null()];
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(126)
    }
}

/// Forks and executes `path` with our environment and a clean signal state; for process 1 mode. On failure the errno is
/// written to `report`.
pub fn spawn_child(path: &CString, args: &[CString], report: i32) -> io::Result<Pid> {
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: fork in a single-threaded process; the child only makes system calls on memory prepared before. `environ`
    // is not changed by anybody in this process.
    unsafe {
        let pid = libc::fork();
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::execv(path.as_ptr(), argv.as_ptr());
            let errno = *libc::__errno_location();
            libc::write(report, (&raw const errno).cast(), size_of::<i32>());
            libc::_exit(127);
        }
        Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork"))
    }
}

/// Marks a descriptor that an exec left open as close-on-exec.
pub fn set_close_on_exec(fd: i32) {
    // SAFETY: changes a flag of a descriptor number; a closed one is answered by an error we may ignore.
    unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
    }
}

/// Closes a descriptor known by number only.
pub fn close(fd: i32) {
    // SAFETY: the caller names a descriptor handed over to it by exec, owned by nobody else.
    unsafe {
        libc::close(fd);
    }
}

/// Becomes the new parent of orphaned descendants.
pub fn become_subreaper() {
    // SAFETY: plain numbers.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"stoa-keeper".as_ptr());
        // Not dumpable: nobody of lesser rights may look at what passes through us.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
}

/// Asks for a larger pipe; a smaller one works too.
pub fn widen_pipe(fd: BorrowedFd<'_>, bytes: i32) {
    // SAFETY: plain numbers on an open descriptor.
    unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes);
    }
}

/// Puts `fd` in place of standard input, output and error.
pub fn replace_stdio(fd: BorrowedFd<'_>) {
    // SAFETY: nobody owns descriptors 0 to 2 as values; std treats them as always open, which they stay.
    unsafe {
        for number in 0..3 {
            libc::dup2(fd.as_raw_fd(), number);
        }
    }
}
