//! Starting an instance.
//!
//! Lives here: checking the specification, the control group, spawning the keeper, its one answer.
//! Does not live here: the container itself (`stoa-create`).
//! Invariant: after an error nothing of the instance is left but the directories the caller gave; a second start of a
//! living id answers with its record.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keeper::cgroup::Bounds;
use keeper::message::{ANOTHER_KEEPER, FENCED, Reply, Request, Start};
use keeper::record::Running;
use keeper::spec::{ContainerSpec, ID_RANGE, Task};
use keeper::wire;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::instance::{Lock, Make, check_name};
use crate::{Error, Result, Runtime, Stage, State, programs};

/// Longer than the keeper's own bound on its helper.
const ANSWER_LIMIT: Duration = Duration::from_secs(75);
/// Least memory with which a container can be set up at all.
const LEAST_MEMORY_BYTES: u64 = 4 << 20;

impl Runtime {
    /// Starts an instance and returns once its program has been executed. The record of one that runs already is
    /// returned as it is; one that has ended must be removed first.
    pub fn start(&self, spec: &ContainerSpec) -> Result<Running> {
        check(spec)?;
        let dir = self.dir(&spec.id);
        self.owned()?;
        let lock = Lock::take(&dir, Make::Directory).map_err(Error::io(&dir))?;
        let result = loop {
            if let Some(record) = self.present(&spec.id, &dir)? {
                return Ok(record);
            }
            match self.start_new(spec, &dir) {
                // One that an earlier, killed starter had spawned was faster: look again.
                Ok(None) => {}
                Ok(Some(record)) => break Ok(record),
                Err(error) => break Err(error),
            }
        };
        if result.is_err() {
            self.clear(&spec.id, &dir);
            remove_empty_parts(&spec.writable);
        }
        drop(lock);
        result
    }

    /// The record when it runs; an error when it cannot be started anew; `None` when there is nothing.
    fn present(&self, id: &str, dir: &Path) -> Result<Option<Running>> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let (state, record) = self.state(dir)?;
            let id = id.to_owned();
            match state {
                State::Running { .. } => return Ok(record),
                State::Exited(_) => return Err(Error::Ended { id }),
                State::Lost if record.is_some() => return Err(Error::Lost { id }),
                State::Lost => return Ok(None),
                // We hold the lock, so "starting" can mean two things: a keeper whose starter died is at it; or nothing
                // but our own lock.
                State::Starting => {
                    if !crate::instance::is_locked(&dir.join(keeper::record::KEEPER_LOCK))
                        .map_err(Error::io(dir))?
                    {
                        return Ok(None);
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(Error::Late {
                    id,
                    what: "an earlier start",
                    limit_s: ANSWER_LIMIT.as_secs(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `None` when there turns out to be a keeper already.
    fn start_new(&self, spec: &ContainerSpec, dir: &Path) -> Result<Option<Running>> {
        let group = self.hierarchies.group(&self.mark, &spec.id);
        let keepers = self.hierarchies.keepers(&self.mark);
        let limits = |cause: io::Error| Error::Start {
            id: spec.id.clone(),
            stage: Stage::Limits,
            reason: cause.to_string(),
        };
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|cause| Error::io("a socket")(cause.into()))?;
        let mut child = spawn(theirs).map_err(Error::io("the keeper program"))?;
        // The groups while the keeper comes up. It detaches, so its first process ends at once.
        let made = keepers
            .create()
            .and_then(|()| group.create())
            .and_then(|()| group.limit(&bounds(spec)));
        let task = serde_json::to_vec(&Task::Create(Box::new(spec.clone())))
            .map_err(io::Error::other)
            .and_then(|json| programs::sealed("stoa-task", &json, false))
            .map_err(Error::io("the task"))?;
        let waited = child.wait();
        made.map_err(limits)?;
        waited.map_err(Error::io("the keeper program"))?;
        let start = Start {
            id: spec.id.clone(),
            dir: dir.to_owned(),
            group,
            keepers,
            owner: (spec.uid_base + spec.user.uid, spec.uid_base + spec.user.gid),
            uid_base: spec.uid_base,
            netns: spec.netns.clone(),
            log_dir: spec.log.dir.clone(),
            log_label: spec.log.label.clone(),
            segment_bytes: spec.log.segment_bytes,
            max_bytes: spec.log.max_bytes,
            rate_bytes_per_s: spec.log.rate_bytes_per_s,
            stop_signal: spec.stop_signal,
        };
        let helper = programs::create().map_err(Error::io("the helper program"))?;
        let frame = Request::Start(Box::new(start)).to_frame_of(self.epoch());
        wire::send(&ours, &frame, &[task.as_fd(), helper.as_fd()]).map_err(Error::io("the keeper"))?;
        if !self.answer(&spec.id, &ours)? {
            return Ok(None);
        }
        let record = Running::load(dir).map_err(Error::io(dir))?;
        record
            .map(Some)
            .ok_or_else(|| Error::Lost { id: spec.id.clone() })
    }

    /// Removes what a failed start made.
    fn clear(&self, id: &str, dir: &Path) {
        let group = self.hierarchies.group(&self.mark, id);
        group.kill_and_wait(Duration::from_secs(5));
        let _ = group.remove(Duration::from_secs(5));
        let _ = fs::remove_dir_all(dir);
    }

    /// True: started; false: there is a keeper already.
    fn answer(&self, id: &str, socket: &OwnedFd) -> Result<bool> {
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(socket, timeout, Some(ANSWER_LIMIT))
            .map_err(|cause| Error::io("the keeper")(cause.into()))?;
        let failed = |stage, reason: &str| Error::Start {
            id: id.to_owned(),
            stage,
            reason: reason.to_owned(),
        };
        let reply = match wire::receive(socket) {
            Ok(Some((frame, _))) => Reply::from_frame(&frame),
            Ok(None) => return Err(failed(Stage::Helper, "the keeper ended without a word")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Late {
                    id: id.to_owned(),
                    what: "starting",
                    limit_s: ANSWER_LIMIT.as_secs(),
                });
            }
            Err(cause) => return Err(Error::io("the keeper")(cause)),
        };
        match reply {
            Some(Reply::Started { .. }) => Ok(true),
            Some(Reply::Failed { stage, .. }) if stage == ANOTHER_KEEPER => Ok(false),
            Some(Reply::Failed { stage, reason }) if stage == FENCED => self
                .accept(id, Some(Reply::Failed { stage, reason }))
                .map(|()| false),
            Some(Reply::Failed { stage, reason }) => Err(failed(Stage::from_name(&stage), &reason)),
            Some(Reply::Ok | Reply::Ended { .. } | Reply::Unsupported { .. }) | None => {
                Err(failed(Stage::Helper, "the keeper answered something unexpected"))
            }
        }
    }
}

fn bounds(spec: &ContainerSpec) -> Bounds {
    let limits = &spec.limits;
    Bounds {
        memory_bytes: limits.memory_bytes,
        cpu_millis: limits.cpu_millis,
        cpu_weight: limits.cpu_weight,
        pids: limits.pids,
    }
}

/// Starts the keeper's program by `posix_spawn` (no `pre_exec`, so this many-threaded process is never forked), with the
/// socket as its standard input and nothing else.
fn spawn(socket: OwnedFd) -> io::Result<std::process::Child> {
    let program = programs::keeper()?;
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("stoa-keeper")
        .env_clear()
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// What cannot work is refused before anything is made.
fn check(spec: &ContainerSpec) -> Result<()> {
    check_name("the id", &spec.id)?;
    check_name("the log label", &spec.log.label)?;
    check_name("the host name", &spec.hostname)?;
    let refuse = |what: &str, why: &str| {
        Err(Error::Invalid {
            what: what.to_owned(),
            why: why.to_owned(),
        })
    };
    if spec.argv.first().is_none_or(String::is_empty) {
        return refuse("argv", "there is no program");
    }
    let texts = spec
        .argv
        .iter()
        .chain(spec.env.iter().flat_map(|(name, value)| [name, value]));
    if texts.into_iter().any(|text| text.contains('\0')) {
        return refuse("argv and env", "a NUL character cannot be passed to a program");
    }
    if spec
        .env
        .iter()
        .any(|(name, _)| name.is_empty() || name.contains('='))
    {
        return refuse("env", "a name is empty or holds =");
    }
    if spec.uid_base < ID_RANGE || spec.uid_base.checked_add(ID_RANGE).is_none() {
        return refuse("uid_base", "the range must not touch the host's own users");
    }
    let ids = [spec.user.uid, spec.user.gid];
    if ids.iter().chain(&spec.user.groups).any(|id| *id >= ID_RANGE) {
        return refuse("user", "ids inside are below 65536");
    }
    if spec.limits.memory_bytes < LEAST_MEMORY_BYTES {
        return refuse(
            "limits.memory_bytes",
            "at least 4 MiB is needed to start anything",
        );
    }
    if spec.limits.cpu_millis == 0 || spec.limits.pids == 0 {
        return refuse("limits", "cpu and pids must not be 0");
    }
    if spec.log.segment_bytes == 0 || spec.log.max_bytes < spec.log.segment_bytes {
        return refuse("log", "max_bytes must hold at least one segment");
    }
    let targets = spec
        .mounts
        .iter()
        .map(|m| &m.target)
        .chain(spec.files.iter().map(|f| &f.path));
    for target in targets {
        let plain = target
            .components()
            .all(|part| !matches!(part, std::path::Component::ParentDir));
        if !target.is_absolute() || target == Path::new("/") || !plain {
            return refuse(
                &target.display().to_string(),
                "a mount's place inside is an absolute path without ..",
            );
        }
    }
    Ok(())
}

/// What a failed start made in the caller's directory.
fn remove_empty_parts(writable: &Path) {
    for part in ["work/work", "work", "upper"] {
        let _ = fs::remove_dir(writable.join(part));
    }
}
