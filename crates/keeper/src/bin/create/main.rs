//! `stoa-create`: makes and starts a container, or starts a further process in one; then ends.
//!
//! Lives here: reading the task, answering the keeper.
//! Does not live here: supervision (`stoa-keeper`, our parent, which becomes the parent of what we start).
//! Invariant: one thread (libcontainer must never run beside others: a heap lock copied by clone hangs the child);
//! exactly one answer: started or failed, with the step and the reason. Everything made on the way (mounts, namespaces,
//! files on a private tmpfs) belongs to this process's mount namespace and vanishes with it on failure.

mod confine;
mod create;
mod enter;
mod executor;
mod failure;
mod mounts;
mod network;
mod oci;
mod program;
mod seccomp;
mod sys;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use keeper::cgroup::Group;
use keeper::message::Reply;
use keeper::spec::Task;
use keeper::wire;

use failure::{Failure, Stage};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(2);
    let group = Group::from_text(&args.next().unwrap_or_default());
    let [task, report] = sys::inherited([3, 4]);
    report_panics(&report);
    // The keeper's strict umask would end up in the instance, and on its mount points.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let answer = read_task(task).and_then(|task| match task {
        Task::Create(spec) => create::run(&spec, &group),
        Task::Exec(spec) => enter::run(&spec, &group),
    });
    let (reply, terminal) = match answer {
        Ok(started) => (
            Reply::Started {
                pid: started.pid,
                pid_start: 0,
            },
            started.terminal,
        ),
        Err(failure) => (
            Reply::Failed {
                stage: failure.stage.name().to_owned(),
                reason: failure.reason,
            },
            None,
        ),
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    match wire::send(&report, &reply.to_frame(), &fds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What runs now.
pub struct Started {
    /// As the host counts.
    pub pid: u32,
    /// Master side of its terminal.
    pub terminal: Option<OwnedFd>,
}

fn read_task(task: OwnedFd) -> Result<Task, Failure> {
    let mut bytes = Vec::new();
    let mut file = File::from(task);
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(Failure::at(Stage::Helper))?;
    serde_json::from_slice(&bytes).map_err(Failure::at(Stage::Helper))
}

fn report_panics(report: &OwnedFd) {
    let Ok(report) = report.try_clone() else { return };
    std::panic::set_hook(Box::new(move |info| {
        let reply = Reply::Failed {
            stage: Stage::Helper.name().to_owned(),
            reason: info.to_string(),
        };
        let _ = wire::send(&report, &reply.to_frame(), &[]);
    }));
}
