//! Instances outlive whoever started them.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Bed, LONG};
use runtime::{Runtime, State};

const DIR: &str = "STOA_TEST_ADOPT_DIR";
const MARK: &str = "STOA_TEST_ADOPT_MARK";
const LINES: usize = 300;

/// Not a test of its own: what the process to be killed does.
#[test]
fn starter_process() {
    let (Some(dir), Ok(mark)) = (std::env::var_os(DIR), std::env::var(MARK)) else {
        return;
    };
    let text = std::fs::read(Path::new(&dir).join("spec")).unwrap();
    let spec = serde_json::from_slice(&text).unwrap();
    let runtime = Runtime::open(&Path::new(&dir).join("instances"), &mark, common::EPOCH).unwrap();
    println!("starting");
    runtime.start(&spec).unwrap();
    println!("started");
    std::thread::sleep(LONG);
}

fn starter(bed: &Bed) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starter_process", "--nocapture"])
        .env(DIR, bed.dir.path())
        .env(MARK, &bed.mark)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_word(child: &mut Child, word: &str) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains(word)),
        "the starter ended"
    );
}

#[test]
fn an_instance_survives_its_starter_and_is_adopted() {
    let bed = Bed::new("adopt");
    let script =
        format!("i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.005; done; exit 7");
    std::fs::write(
        bed.path("spec"),
        serde_json::to_vec(&bed.spec("a", &script)).unwrap(),
    )
    .unwrap();
    let mut child = starter(&bed);
    wait_word(&mut child, "started");
    child.kill().unwrap();
    child.wait().unwrap();
    let adopted = Runtime::open(&bed.path("instances"), &bed.mark, common::EPOCH).unwrap();
    let state = adopted.get("a").unwrap().unwrap().state;
    assert!(
        matches!(state, State::Running { .. } | State::Exited(_)),
        "{state:?}"
    );
    let exit = adopted.wait_exit("a", LONG).unwrap().unwrap();
    assert_eq!((exit.code, exit.signal), (7, None));
    let wanted: Vec<String> = (0..LINES).map(|n| format!("line {n}")).collect();
    assert_eq!(bed.lines("a"), wanted);
}

#[test]
fn a_starter_killed_at_any_moment_leaves_something_that_start_or_remove_can_finish() {
    let bed = Bed::new("cut");
    let spec = bed.spec("a", "echo up; sleep 1000");
    std::fs::write(bed.path("spec"), serde_json::to_vec(&spec).unwrap()).unwrap();
    for delay_ms in [0, 2, 5, 10, 15, 20, 30] {
        let mut child = starter(&bed);
        wait_word(&mut child, "starting");
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        if delay_ms % 2 == 0 {
            let record = bed.runtime.start(&spec);
            // A start cut off halfway may have failed by itself; then it says so and must be removed first.
            if let Err(error) = record {
                assert!(
                    matches!(error, runtime::Error::Ended { .. } | runtime::Error::Lost { .. }),
                    "{error}"
                );
                bed.runtime.remove("a").unwrap();
                bed.runtime.start(&spec).unwrap();
            }
            assert!(matches!(bed.state("a"), State::Running { .. }));
            assert_eq!(bed.runtime.list().unwrap().len(), 1);
        }
        bed.runtime.remove("a").unwrap();
        assert!(bed.runtime.list().unwrap().is_empty());
    }
}
