//! The warden as real processes: refusals, restarts, backoff, deaths, order of stopping.
#![allow(clippy::unwrap_used)] // A test: a panic is its verdict.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Generous: the machine is shared, and no test measures time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running warden; whatever is left of it and its children is killed at the end of the test.
struct Running {
    dir: tempfile::TempDir,
    process: Child,
}

impl Running {
    fn start(mode: &str) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let process = command(dir.path(), 0, mode).spawn().unwrap();
        Running { dir, process }
    }

    fn journal(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("journal")).unwrap_or_default()
    }

    /// Waits for the `n`th line that begins with `start`, and returns what follows it.
    fn nth(&self, start: &str, n: usize) -> String {
        wait_for(|| {
            self.journal()
                .lines()
                .filter_map(|l| l.strip_prefix(start))
                .nth(n - 1)
                .map(str::to_owned)
        })
    }

    fn kill_warden(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn address(&self) -> SocketAddr {
        self.nth("address ", 1).parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _dead = self.process.kill();
        let _reaped = self.process.wait();
        for line in self.journal().lines() {
            if let Some(pid) = line
                .strip_prefix("server ")
                .or_else(|| line.strip_prefix("tied "))
                .or_else(|| line.strip_prefix("life "))
            {
                let still_ours = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|c| c.contains(self.dir.path().to_str().unwrap()));
                if still_ours {
                    signal(pid, Signal::KILL);
                }
            }
        }
    }
}

fn command(dir: &Path, port: u16, mode: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden-test-process"));
    command.args(["warden", dir.to_str().unwrap(), &port.to_string(), mode]);
    command
}

fn signal(pid: &str, signal: Signal) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let _gone = rustix::process::kill_process(pid, signal);
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

fn wait_for<T>(mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Connects, asks, and returns the pid that answered; `None` when the one that accepted died with the question.
fn ask(address: SocketAddr) -> Option<String> {
    // Only this is promised while a child is away: the connection is never refused.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    stream
        .write_all(b"who?")
        .and_then(|()| BufReader::new(stream).read_line(&mut line))
        .ok()?;
    Some(line.trim().to_owned()).filter(|pid| !pid.is_empty())
}

#[test]
fn a_second_warden_refuses_and_names_the_first() {
    let first = Running::start("both");
    first.nth("server ", 1);
    let Output { status, stderr, .. } = command(first.dir.path(), 0, "both").output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success());
    assert!(
        said.contains(&format!("process {}", first.process.id())),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_refused_with_its_holder_and_starts_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), taken.local_addr().unwrap().port(), "both")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        said.contains(&format!("(process {})", std::process::id())),
        "{said}"
    );
    assert!(!dir.path().join("journal").exists());
}

#[test]
fn a_killed_child_is_back_and_no_connection_is_refused_meanwhile() {
    let warden = Running::start("both");
    let first = warden.nth("server ", 1);
    let address = warden.address();
    assert_eq!(ask(address), Some(first));
    for round in 2..6 {
        let before = warden.nth("server ", round - 1);
        signal(&before, Signal::KILL);
        // Connects while nobody accepts: the warden's handle keeps the socket listening.
        let answered_by = wait_for(|| ask(address).filter(|pid| *pid != before));
        assert_eq!(answered_by, warden.nth("server ", round));
    }
}

#[test]
fn a_child_that_keeps_dying_waits_longer_each_time() {
    let warden = Running::start("crash");
    warden.nth("crash", 5);
    let delays: Vec<String> = (1..5)
        .map(|n| {
            warden
                .nth("warden: crash (process", n)
                .rsplit_once("next start in ")
                .unwrap()
                .1
                .to_owned()
        })
        .collect();
    assert_eq!(delays, ["0ns", "50ms", "100ms", "100ms"]);
}

#[test]
fn a_program_that_is_not_there_is_tried_again_without_spinning() {
    let warden = Running::start("missing");
    assert!(
        warden
            .nth("warden: missing could not be started", 2)
            .contains("next try in 100ms")
    );
}

#[test]
fn a_child_that_cannot_work_ends_the_warden() {
    let mut warden = Running::start("useless");
    assert!(warden.nth("ended ", 1).contains("useless"));
    assert!(warden.process.wait().unwrap().success());
    assert!(!is_alive(&warden.nth("warden: server started as process ", 1)));
}

#[test]
fn a_child_that_has_worked_and_cannot_any_more_leaves_the_others_alone() {
    let warden = Running::start("fails-later");
    let (server, first) = (warden.nth("server ", 1), warden.nth("life ", 1));
    // Longer than `stable` of this mode: from here on it has worked.
    std::thread::sleep(Duration::from_millis(300));
    signal(&first, Signal::KILL);
    // Each later life says that it cannot work.
    warden.nth("life ", 4);
    let died = warden.nth("warden: fails-later (process", 2);
    assert!(died.ends_with("next start in 100ms"), "{died}");
    assert!(is_alive(&server));
    assert_eq!(ask(warden.address()), Some(server));
}

#[test]
fn signals_that_nohup_has_ignored_stay_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let process = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_warden-test-process"))
        .args(["warden", dir.path().to_str().unwrap(), "0", "both"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut warden = Running { dir, process };
    warden.nth("server ", 1);
    let pid = warden.process.id().to_string();
    signal(&pid, Signal::HUP);
    // Of two that wait, the lower number is read first: had the hang-up been kept, it would be the reason.
    signal(&pid, Signal::TERM);
    assert!(warden.process.wait().unwrap().success());
    assert_eq!(warden.nth("ended ", 1), "Signal(15)");
}

#[test]
fn control_dies_with_the_warden_and_the_edge_lives_on() {
    let mut warden = Running::start("both");
    let (server, tied, address) = (warden.nth("server ", 1), warden.nth("tied ", 1), warden.address());
    warden.kill_warden();
    wait_for(|| (!is_alive(&tied)).then_some(()));
    assert_eq!(ask(address), Some(server));
    // The lock died with its holder: nothing has to be cleaned up before the next start.
    let lock = warden::Lock::take(warden.dir.path(), warden::Taker::Warden).unwrap();
    drop(lock);
}

#[test]
fn a_stop_signal_stops_the_children_in_order() {
    for number in [Signal::TERM, Signal::INT] {
        let mut warden = Running::start("both");
        let (server, tied) = (warden.nth("server ", 1), warden.nth("tied ", 1));
        signal(&warden.process.id().to_string(), number);
        assert!(warden.process.wait().unwrap().success());
        let journal = warden.journal();
        let position = |text: &str| {
            journal
                .find(text)
                .unwrap_or_else(|| panic!("no {text} in {journal}"))
        };
        assert!(position("warden: server stopped") < position("warden: tied stopped"));
        assert!(!is_alive(&server) && !is_alive(&tied));
        assert_eq!(warden.nth("ended ", 1), format!("Signal({})", number.as_raw()));
    }
}

#[test]
fn a_child_that_does_not_stop_is_killed() {
    let mut warden = Running::start("hasty");
    let (server, _tied) = (warden.nth("server ", 1), warden.nth("tied ", 1));
    signal(&server, Signal::STOP);
    // Stopped for certain: with both signals pending the kernel would deliver SIGTERM first.
    wait_for(|| {
        std::fs::read_to_string(format!("/proc/{server}/stat"))
            .ok()
            .filter(|s| s.contains(") T "))
    });
    signal(&warden.process.id().to_string(), Signal::TERM);
    assert!(warden.process.wait().unwrap().success());
    warden.nth("warden: server did not stop within 50ms and was killed", 1);
    assert!(!is_alive(&server));
}
