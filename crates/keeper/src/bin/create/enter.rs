//! Starting a further process in a running container.
//!
//! Lives here: entering, and the same confinement as the first process has.
//! Does not live here: waiting for it (the keeper, which becomes its parent).
//! Invariant: the process is in all namespaces and the control group of the instance, has its capabilities, filter and
//! `no_new_privs`, and inherits neither our environment nor a descriptor but its standard three.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keeper::cgroup::Group;
use keeper::message;
use keeper::spec::ExecSpec;
use rustix::pipe::PipeFlags;

use crate::failure::{Failure, Stage};
use crate::{Started, confine, program, seccomp, sys};

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Starts it.
pub fn run(spec: &ExecSpec, group: &Group) -> Result<Started, Failure> {
    let [instance] = sys::inherited([8]);
    let filter = seccomp::Filter::compile().map_err(|why| Failure::new(Stage::Container, why))?;
    sys::hide_from_instance();
    let pid =
        pid_behind(instance.as_fd()).map_err(Failure::with(Stage::Container, "the instance has ended"))?;
    sys::limit_like(pid, libc::RLIMIT_NOFILE).map_err(Failure::at(Stage::Limits))?;
    sys::limit(libc::RLIMIT_CORE, 0).map_err(Failure::at(Stage::Limits))?;
    for mut door in group.doors().map_err(Failure::at(Stage::Limits))? {
        door.write_all(b"0")
            .map_err(Failure::with(Stage::Limits, "joining the control group"))?;
    }
    sys::enter(instance.as_fd(), NAMESPACES)
        .map_err(Failure::with(Stage::Container, "entering the instance"))?;
    sys::become_user(0, 0, &[]).map_err(Failure::with(Stage::Container, "becoming its root"))?;
    let terminal = match spec.tty {
        Some(size) => {
            Some(sys::terminal(size.rows, size.cols).map_err(Failure::with(Stage::Container, "terminal"))?)
        }
        None => None,
    };
    if let Some((_, slave)) = &terminal {
        let owner = Some(rustix::fs::Uid::from_raw(spec.user.uid));
        // The group stays the terminal group; without this a plain user could not open its own terminal again.
        rustix::fs::fchown(slave, owner, None).map_err(Failure::with(Stage::Container, "terminal"))?;
    }
    let (status, told) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Failure::at(Stage::Helper))?;
    let Some(child) =
        sys::fork().map_err(|cause| Failure::new(Stage::Limits, message::fork_failure(&cause)))?
    else {
        let why = become_program(spec, &filter, terminal.as_ref().map(|(_, slave)| slave.as_fd()));
        let _ = File::from(told).write_all(why.as_bytes());
        sys::leave(127);
    };
    drop(told);
    let mut said = String::new();
    let _ = File::from(status).read_to_string(&mut said);
    if !said.is_empty() {
        return Err(Failure::new(Stage::Program, said));
    }
    let pid = u32::try_from(child).map_err(Failure::at(Stage::Helper))?;
    Ok(Started {
        pid,
        terminal: terminal.map(|(master, _)| master),
    })
}

fn pid_behind(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    use std::os::fd::AsRawFd;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Only returns on failure, with the reason.
fn become_program(spec: &ExecSpec, filter: &seccomp::Filter, terminal: Option<BorrowedFd<'_>>) -> String {
    match prepare(spec, terminal) {
        Ok(()) => {}
        Err(error) => return error.to_string(),
    }
    let path = spec
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(confine::DEFAULT_PATH, |(_, value)| value);
    let name = spec.argv.first().map(String::as_str).unwrap_or_default();
    let file = match program::find(name, path) {
        Ok(file) => file,
        Err(why) => return why,
    };
    let argv: Vec<CString> = spec
        .argv
        .iter()
        .filter_map(|arg| CString::new(arg.as_str()).ok())
        .collect();
    let mut env: Vec<CString> = spec
        .env
        .iter()
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect();
    if !spec.env.iter().any(|(name, _)| name == "PATH") {
        env.extend(CString::new(format!("PATH={}", confine::DEFAULT_PATH)));
    }
    if let Err(error) = filter.install() {
        return error;
    }
    program::explain(name, &sys::execute(&file, &argv, &env))
}

fn prepare(spec: &ExecSpec, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match terminal {
        Some(slave) => {
            (0..3).try_for_each(|number| sys::place(slave, number))?;
            sys::control_terminal()?;
        }
        None => {
            for (source, number) in [(5, 0), (6, 1), (7, 2)] {
                if sys::is_open(source) {
                    let [fd]: [OwnedFd; 1] = sys::inherited([source]);
                    sys::place(fd.as_fd(), number)?;
                }
            }
        }
    }
    confine::drop_to(&spec.user)?;
    std::env::set_current_dir(&spec.cwd).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("working directory {}: {error}", spec.cwd.display()),
        )
    })
}
