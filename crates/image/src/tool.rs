//! Running the programs of the host that help to make a base.
//!
//! Lives here: starting one with a clean environment, following its output, ending it in time.
//! Does not live here: which programs (`debian`).
//! Invariant: arguments are passed as they are, no shell; the whole process group is gone when `run` returns.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::error::{ImageError, Result};
use crate::progress::Progress;

/// Enough of the end to see the cause, little enough to show.
const TAIL_LINES: usize = 30;
/// No honest line is longer.
const LINE_LIMIT: u64 = 8192;
/// Where programs are looked for.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// What the programs may know of our environment: how to reach the network, nothing else.
const PASSED_ON: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Prepares a program with a clean environment.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", "/root");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.envs(
        PASSED_ON
            .iter()
            .filter_map(|name| Some((*name, std::env::var_os(name)?))),
    );
    command
}

/// Whether there is such a program, for those that are started by another.
pub(crate) fn is_there(name: &str) -> bool {
    PATH.split(':').any(|dir| Path::new(dir).join(name).is_file())
}

/// Runs a program to its end or its limit; its lines become progress.
pub(crate) fn run(
    name: &'static str,
    mut command: Command,
    limit: Duration,
    progress: &dyn Fn(Progress),
) -> Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(ImageError::ToolMissing { tool: name });
        }
        Err(cause) => return Err(ImageError::io("start", name, cause)),
    };
    let deadline = Instant::now() + limit;
    let (lines, said) = channel();
    for pipe in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)]
        .into_iter()
        .flatten()
    {
        let lines = lines.clone();
        std::thread::spawn(move || forward(pipe, &lines));
    }
    drop(lines);
    let mut tail = VecDeque::new();
    let outcome = loop {
        match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line.clone());
                progress(Progress::Line(line));
            }
            Err(RecvTimeoutError::Disconnected) => break wait(&mut child, deadline),
            Err(RecvTimeoutError::Timeout) => break None,
        }
    };
    end_group(&mut child);
    let outcome = match outcome {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!("not done within {} s", limit.as_secs()),
    };
    Err(ImageError::Tool {
        tool: name.into(),
        outcome,
        log_tail: Vec::from(tail).join("\n"),
    })
}

fn boxed(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

fn forward(pipe: Box<dyn Read + Send>, lines: &Sender<String>) {
    let mut reader = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line)
            .trim_end()
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        if !text.is_empty() && lines.send(text).is_err() {
            return;
        }
    }
}

/// The pipes are closed: the program is about to end, or hides in the background until its limit.
fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => return None,
        }
    }
}

fn end_group(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Nobody left is the usual answer.
        let _nobody = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _already_reaped = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_the_last_lines_and_a_hang_is_ended() {
        let mut failing = command("ls");
        failing.arg("/definitely/not/here");
        let failure = run("ls", failing, Duration::from_secs(60), &|_| {}).unwrap_err();
        assert!(failure.to_string().contains("/definitely/not/here"), "{failure}");
        let mut hanging = command("sleep");
        hanging.arg("1000");
        let ended = run("sleep", hanging, Duration::from_millis(50), &|_| {}).unwrap_err();
        assert!(ended.to_string().contains("not done"), "{ended}");
        let missing = run(
            "x",
            command("no-such-program-anywhere"),
            Duration::from_secs(1),
            &|_| {},
        )
        .unwrap_err();
        assert!(matches!(missing, ImageError::ToolMissing { .. }));
    }
}
