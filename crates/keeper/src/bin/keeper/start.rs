//! From being spawned to a running instance.
//!
//! Lives here: detaching, the lock, the socket, running the helper, the first answer to our starter.
//! Does not live here: the loop (`supervise`), the container itself (`stoa-create`).
//! Invariant: our starter hears exactly one answer, or our end closes its socket; after a failure no process of the
//! instance is left, and an exit record tells a later adopter why.
//!
//! On v1 the first write of a pid into a cgroup waits 13-16 ms for an RCU grace period, later ones soon after do not.
//! So the helper is started first, and while it works the keeper joins its own group: that wait runs beside the helper's
//! work, and when the helper finally puts process 1 in its group, the grace period is over. The kernel forgets it after
//! another one, so while we wait for the helper we join once more every few milliseconds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use keeper::message::{ANOTHER_KEEPER, Reply, Request, Start};
use keeper::record::{Exit, KEEPER_LOCK, Running, SOCKET, boot_id, start_time};
use keeper::wire;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::output::{Output, now_us};
use crate::supervise::Keeper;
use crate::sys;

/// A helper that has not finished by then never will.
const HELPER_LIMIT: Duration = Duration::from_secs(60);
/// Well below the time after which the kernel asks for a new grace period.
const WARM_EVERY: Duration = Duration::from_millis(5);
/// A checker holds the lock for an instant; another keeper holds it for its life.
const LOCK_LIMIT: Duration = Duration::from_millis(500);
/// Our starter sends at once.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// Exit code of an instance that never ran, in the manner of other runtimes.
const NEVER_RAN: i32 = 125;

/// Descriptor numbers of the helper.
pub mod helper_fd {
    /// The task.
    pub const TASK: i32 = 3;
    /// The report.
    pub const REPORT: i32 = 4;
    /// Standard input (exec only).
    pub const STDIN: i32 = 5;
    /// Standard output.
    pub const STDOUT: i32 = 6;
    /// Standard error.
    pub const STDERR: i32 = 7;
    /// Create: the reaper program. Exec: a pidfd of the instance's process 1.
    pub const SUBJECT: i32 = 8;
}

/// Runs a keeper's whole life.
pub fn run() -> io::Result<()> {
    sys::close_from(3);
    // Its own session first: a Ctrl-C or hangup meant for our starter must not reach us.
    rustix::process::setsid()?;
    sys::detach()?;
    sys::become_subreaper();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let signals = sys::signal_descriptor()?;
    let control = sys::take_stdin()?;
    silence_stdio()?;
    rustix::net::sockopt::set_socket_timeout(
        &control,
        rustix::net::sockopt::Timeout::Recv,
        Some(ORDER_LIMIT),
    )?;
    let Some((frame, fds)) = wire::receive(&control)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let Some(Request::Start(start)) = Request::from_frame(&frame) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "expected a start message",
        ));
    };
    let mut fds = fds.into_iter();
    let (Some(task), Some(helper)) = (fds.next(), fds.next()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "expected two descriptors",
        ));
    };
    std::env::set_current_dir(&start.dir)?;
    let Some(_lock) = take_lock()? else {
        // A start cut off by its starter's death may come to life again; whoever has the lock is the instance.
        let reply = Reply::Failed {
            stage: ANOTHER_KEEPER.to_owned(),
            reason: "another keeper is at it".to_owned(),
        };
        return wire::send(&control, &reply.to_frame(), &[]);
    };
    if let Some(refusal) = keeper::message::refusal(std::path::Path::new(".."), &frame) {
        return wire::send(&control, &refusal.to_frame(), &[]);
    }
    match begin(*start, signals, task, &helper, &control) {
        Ok(mut keeper) => {
            drop((helper, control));
            keeper.run()
        }
        Err(failure) => {
            let exit = Exit {
                code: NEVER_RAN,
                at_ms: now_us() / 1000,
                error: Some(format!("{}: {}", failure.stage, failure.reason)),
                ..Exit::default()
            };
            let _ = exit.save(std::path::Path::new("."));
            let reply = Reply::Failed {
                stage: failure.stage,
                reason: failure.reason,
            };
            wire::send(&control, &reply.to_frame(), &[])
        }
    }
}

struct Failure {
    stage: String,
    reason: String,
}

impl Failure {
    fn own(error: impl std::fmt::Display) -> Failure {
        Failure {
            stage: "keeper".to_owned(),
            reason: error.to_string(),
        }
    }
}

fn begin(
    start: Start,
    signals: OwnedFd,
    task: OwnedFd,
    helper: &OwnedFd,
    control: &OwnedFd,
) -> Result<Keeper, Failure> {
    let (output, out_end, err_end) = Output::open(&start).map_err(Failure::own)?;
    let (report, helper_pid) = launch(&start, &task, helper, &out_end, &err_end).map_err(Failure::own)?;
    // Or the pipes would never end.
    drop((task, out_end, err_end));
    // See the module's text: this wait overlaps with the helper's work. Failing costs accounting, not the instance.
    let _ = start.keepers.join(std::process::id());
    let listener = listen().map_err(Failure::own);
    let result = await_helper(&report, &start);
    if result.is_err() {
        // One that did not report in time may never end; on v1 it is in no group of the instance either.
        let _ = rustix::process::kill_process(helper_pid, rustix::process::Signal::KILL);
    }
    // The helper ends right after its report; its only other child is process 1.
    let _ = rustix::process::waitpid(Some(helper_pid), rustix::process::WaitOptions::empty());
    let started = result.and_then(|pid| {
        let raw = pid.as_raw_nonzero().get().cast_unsigned();
        let pidfd =
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(Failure::own)?;
        let running = running_record(&start, raw).map_err(Failure::own)?;
        running.save(std::path::Path::new(".")).map_err(Failure::own)?;
        let reply = Reply::Started {
            pid: raw,
            pid_start: running.pid_start,
        };
        // A starter that died meanwhile finds the record.
        let _ = wire::send(control, &reply.to_frame(), &[]);
        Ok((pid, pidfd, listener?))
    });
    match started {
        Ok((pid, pidfd, listener)) => Ok(Keeper::new(start, signals, listener, output, pid, pidfd)),
        Err(failure) => {
            start.group.kill_and_wait(Duration::from_secs(5));
            reap_all();
            Err(failure)
        }
    }
}

fn launch(
    start: &Start,
    task: &OwnedFd,
    helper: &OwnedFd,
    out_end: &OwnedFd,
    err_end: &OwnedFd,
) -> io::Result<(OwnedFd, Pid)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let ourselves = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let cgroup = start.group.unified().map(File::open).transpose()?;
    let fds = [
        (task.as_fd(), helper_fd::TASK),
        (theirs.as_fd(), helper_fd::REPORT),
        (out_end.as_fd(), helper_fd::STDOUT),
        (err_end.as_fd(), helper_fd::STDERR),
        (ourselves.as_fd(), helper_fd::SUBJECT),
    ];
    let group = start.group.to_text();
    let args = ["stoa-create", "create", &group];
    let pid = sys::spawn(helper.as_fd(), &args, &fds, cgroup.as_ref().map(AsFd::as_fd))?;
    Ok((ours, pid))
}

fn await_helper(report: &OwnedFd, start: &Start) -> Result<Pid, Failure> {
    let deadline = Instant::now() + HELPER_LIMIT;
    while !is_readable(report, WARM_EVERY).map_err(Failure::own)? {
        if Instant::now() >= deadline {
            return Err(Failure::own(format!(
                "not started within {} s",
                HELPER_LIMIT.as_secs()
            )));
        }
        start.keepers.keep_warm(std::process::id());
    }
    let silent = "the helper ended without a word; was it killed for memory?";
    match wire::receive(report) {
        Ok(Some((frame, _))) => match Reply::from_frame(&frame) {
            Some(Reply::Started { pid, .. }) => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                pid.ok_or_else(|| Failure::own("the helper reported no process"))
            }
            Some(Reply::Failed { stage, reason }) => Err(Failure { stage, reason }),
            Some(Reply::Ok | Reply::Ended { .. } | Reply::Unsupported { .. }) | None => Err(Failure::own(
                "the helper and the keeper do not understand each other",
            )),
        },
        Ok(None) if start.group.oom_kills() > 0 => Err(Failure {
            stage: "limits".to_owned(),
            reason: "the memory limit is too small to start".to_owned(),
        }),
        Ok(None) => Err(Failure::own(silent)),
        Err(error) => Err(Failure::own(error)),
    }
}

fn is_readable(fd: &OwnedFd, within: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: within.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn running_record(start: &Start, pid: u32) -> io::Result<Running> {
    let ourselves = std::process::id();
    Ok(Running {
        id: start.id.clone(),
        pid,
        // It may have ended already; then nobody will compare.
        pid_start: start_time(pid).unwrap_or(0),
        keeper_pid: ourselves,
        keeper_start: start_time(ourselves).unwrap_or(0),
        boot_id: boot_id()?,
        started_at_ms: now_us() / 1000,
        uid_base: start.uid_base,
        netns: start.netns.clone(),
        log_dir: start.log_dir.clone(),
        log_label: start.log_label.clone(),
        group: start.group.clone(),
    })
}

fn take_lock() -> io::Result<Option<File>> {
    let lock = File::create(KEEPER_LOCK)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // Held until this process ends.
            Ok(()) => return Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let _ = std::fs::remove_file(SOCKET);
    // Relative: the path of a data directory may exceed the 108 bytes of a socket address.
    rustix::net::bind(&listener, &SocketAddrUnix::new(SOCKET)?)?;
    rustix::net::listen(&listener, 16)?;
    Ok(listener)
}

fn silence_stdio() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::replace_stdio(null.as_fd());
    Ok(())
}

fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}
