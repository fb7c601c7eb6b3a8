//! Making and starting a container: the whole sequence.
//!
//! Lives here: the order of steps.
//! Does not live here: each step (`mounts`, `network`, `oci`, `executor`).
//! Invariant: when this returns an error, the keeper kills the instance's group; nothing else is left but the
//! directories the caller gave.
//!
//! Process 1 joins its v1 control groups last, just before it may execute the program: a grace period that the keeper
//! began earlier is then over (see `bin/keeper/start.rs`). On v2 the keeper's clone3 put us in the group already.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use keeper::cgroup::Group;
use keeper::spec::ContainerSpec;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::pipe::PipeFlags;

use crate::executor::Confined;
use crate::failure::{Failure, Stage};
use crate::{Started, mounts, network, oci, program, seccomp, sys};

/// Makes and starts it.
pub fn run(spec: &ContainerSpec, group: &Group) -> Result<Started, Failure> {
    let [stdout, stderr, reaper] = sys::inherited([6, 7, 8]);
    let filter = seccomp::Filter::compile().map_err(|why| Failure::new(Stage::Container, why))?;
    limits(spec)?;
    let doors = group.doors().map_err(Failure::at(Stage::Limits))?;
    mounts::isolate()?;
    let trees = mounts::open(spec)?;
    network::enter(spec.netns.as_deref())?;
    mounts::hide_cgroups()?;
    mounts::arrange(spec, &trees)?;
    drop(trees);
    check_cwd(spec)?;
    let config = oci::config(spec, doors.is_empty());
    let path = Path::new(mounts::BUNDLE).join("config.json");
    std::fs::write(&path, config.to_string()).map_err(Failure::with(Stage::Container, "config.json"))?;
    let (status, told) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Failure::at(Stage::Helper))?;
    let executor = Confined {
        filter,
        status: told.as_raw_fd(),
        reaper: spec.init.then_some(reaper.as_raw_fd()),
    };
    let built = build(spec, executor, stdout, stderr);
    drop(told);
    let mut container = match built {
        Ok(container) => container,
        Err(error) => return Err(why(status, spec).unwrap_or(error)),
    };
    let pid = container
        .pid()
        .ok_or_else(|| Failure::new(Stage::Container, "it has no process"))?;
    for mut door in doors {
        door.write_all(pid.to_string().as_bytes())
            .map_err(Failure::with(Stage::Limits, "joining the control group"))?;
    }
    container.start().map_err(Failure::at(Stage::Container))?;
    if let Some(failure) = why(status, spec) {
        return Err(failure);
    }
    let pid = u32::try_from(pid.as_raw()).map_err(Failure::at(Stage::Container))?;
    Ok(Started { pid, terminal: None })
}

fn limits(spec: &ContainerSpec) -> Result<(), Failure> {
    let limit =
        |resource, value, what: &str| sys::limit(resource, value).map_err(Failure::with(Stage::Limits, what));
    limit(libc::RLIMIT_NOFILE, spec.nofile, "open files")?;
    // Processes are bounded by the pids controller; this one counts per user over the whole machine.
    limit(libc::RLIMIT_NPROC, libc::RLIM_INFINITY, "processes")?;
    limit(libc::RLIMIT_CORE, 0, "core files")
}

fn build(
    spec: &ContainerSpec,
    executor: Confined,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<libcontainer::container::Container, Failure> {
    let stdin = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::with(Stage::Container, "/dev/null"))?;
    ContainerBuilder::new(spec.id.clone(), SyscallType::default())
        .with_executor(executor)
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .with_root_path(mounts::STATE)
        .map_err(Failure::at(Stage::Container))?
        .as_init(mounts::BUNDLE)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(Failure::at(Stage::Container))
}

/// What the first process had to say before it ended; nothing when it became the program.
fn why(status: OwnedFd, spec: &ContainerSpec) -> Option<Failure> {
    let mut said = Vec::new();
    let _ = File::from(status).read_to_end(&mut said);
    let reason = match <[u8; 4]>::try_from(said.as_slice()) {
        // From the reaper, which only knows an errno.
        Ok(errno) => {
            let name = spec.argv.first().map(String::as_str).unwrap_or_default();
            program::explain(
                name,
                &std::io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
            )
        }
        Err(_) if said.is_empty() => return None,
        Err(_) => String::from_utf8_lossy(&said).into_owned(),
    };
    Some(Failure::new(Stage::Program, reason))
}

/// libcontainer would only say "no such file".
fn check_cwd(spec: &ContainerSpec) -> Result<(), Failure> {
    let mounted = ["/proc", "/dev", "/sys", "/run/secrets", "/tmp"]
        .iter()
        .map(Path::new);
    let mounted = mounted.chain(spec.mounts.iter().map(|m| m.target.as_path()));
    if mounted.into_iter().any(|target| spec.cwd.starts_with(target)) {
        return Ok(());
    }
    let missing = |what: &str| {
        Failure::new(
            Stage::Program,
            format!("working directory {}: {what}", spec.cwd.display()),
        )
    };
    if !spec.cwd.is_absolute() {
        return Err(missing("must be an absolute path"));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, mounts::ROOT, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(Failure::at(Stage::Container))?;
    let opened = rustix::fs::openat2(
        &root,
        &spec.cwd,
        flags | OFlags::DIRECTORY,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    opened.map(drop).map_err(|error| match error {
        rustix::io::Errno::NOENT => missing("does not exist in the image"),
        other => missing(&other.to_string()),
    })
}
