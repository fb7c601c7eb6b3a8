//! Two controllers of the same instances: the older one was stopped, wakes up late, and does no harm.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Bed, EPOCH, wait_for};
use runtime::{ContainerSpec, Runtime, State};

const DIR: &str = "STOA_TEST_FENCE_DIR";
const MARK: &str = "STOA_TEST_FENCE_MARK";
const UNFENCED: &str = "STOA_TEST_FENCE_OFF";

/// Not a test of its own: the older controller. What it decided before it was stopped, it does after it wakes up.
#[test]
fn older_controller() {
    let (Some(dir), Ok(mark)) = (std::env::var_os(DIR), std::env::var(MARK)) else {
        return;
    };
    if std::env::var_os(UNFENCED).is_some() {
        runtime::planted::unfence();
    }
    let dir = Path::new(&dir);
    let spec: ContainerSpec = serde_json::from_slice(&std::fs::read(dir.join("spec")).unwrap()).unwrap();
    let runtime = Runtime::open(&dir.join("instances"), &mark, EPOCH).unwrap();
    println!("decided");
    wait_for("the newer one", || dir.join("go").exists());
    let told = [
        ("signal", runtime.signal("old", 15)),
        ("stop", runtime.stop("old", Duration::ZERO)),
        ("kill", runtime.kill("old")),
        ("start", runtime.start(&spec).map(drop)),
        ("remove", runtime.remove("old")),
    ];
    for (what, result) in told {
        let word = match result {
            Ok(()) => "done",
            Err(runtime::Error::Fenced { .. }) => "refused",
            Err(_) => "failed",
        };
        println!("{what} {word}");
    }
}

struct Older {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Older {
    fn start(bed: &Bed, is_fenced: bool) -> Older {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "older_controller", "--nocapture"])
            .env(DIR, bed.dir.path())
            .env(MARK, &bed.mark)
            .stdout(Stdio::piped());
        if !is_fenced {
            command.env(UNFENCED, "1");
        }
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("decided")));
        Older { process, lines }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// What it told about each of its orders.
    fn told(mut self) -> Vec<(String, String)> {
        let orders = ["signal", "stop", "kill", "start", "remove"];
        let told = self.lines.by_ref().map_while(Result::ok).filter_map(|line| {
            let (what, word) = line.split_once(' ')?;
            orders.contains(&what).then(|| (what.to_owned(), word.to_owned()))
        });
        let told = told.collect();
        self.process.wait().unwrap();
        told
    }
}

/// What the older one was told, and whether the instance of the newer one lives and is the only one.
fn late_orders(name: &str, is_fenced: bool) -> (Vec<(String, String)>, bool) {
    let mut bed = Bed::new(name);
    bed.runtime
        .start(&bed.spec("old", "echo up; sleep 1000"))
        .unwrap();
    bed.wait_line("old", "up");
    let spec = bed.spec("new", "sleep 1000");
    std::fs::write(bed.path("spec"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let older = Older::start(&bed, is_fenced);
    older.signal(rustix::process::Signal::STOP);
    bed.runtime = Runtime::open(&bed.path("instances"), &bed.mark, EPOCH + 1).unwrap();
    let before = bed.state("old");
    std::fs::write(bed.path("go"), "").unwrap();
    older.signal(rustix::process::Signal::CONT);
    let told = older.told();
    let there = bed.runtime.list().unwrap();
    let is_unharmed = there.len() == 1 && there[0].id == "old" && there[0].state == before;
    if is_fenced {
        // Its successor is obeyed.
        bed.runtime.stop("old", Duration::ZERO).unwrap();
        bed.runtime.wait_exit("old", common::LONG).unwrap().unwrap();
    }
    (told, is_unharmed && matches!(before, State::Running { .. }))
}

#[test]
fn a_controller_that_wakes_up_late_does_no_harm() {
    let (told, is_unharmed) = late_orders("fence", true);
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told.iter().all(|(_, word)| word == "refused"), "{told:?}");
    assert!(is_unharmed);
}

/// The control of the test above: without the fence the same orders are obeyed, and it sees the harm.
#[test]
fn without_the_fence_the_late_controller_does_harm() {
    let (told, is_unharmed) = late_orders("nofence", false);
    assert!(told.iter().any(|(_, word)| word == "done"), "{told:?}");
    assert!(!is_unharmed, "{told:?}");
}
