//! Limits hold, and exceeding them hurts nobody else.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use common::{Bed, wait_for};
use runtime::{ContainerSpec, Limits, State};

fn limited(bed: &Bed, id: &str, script: &str, change: impl FnOnce(&mut Limits)) -> ContainerSpec {
    let mut spec = bed.spec(id, script);
    change(&mut spec.limits);
    spec
}

#[test]
fn exceeding_the_memory_limit_ends_only_that_instance_and_is_named() {
    let bed = Bed::new("oom");
    bed.runtime
        .start(&bed.spec("neighbour", "echo up; sleep 1000"))
        .unwrap();
    for (id, init) in [("hog", true), ("bare", false)] {
        let hog = limited(&bed, id, "exec tail /dev/zero", |limits| {
            limits.memory_bytes = 32 << 20;
        });
        let (exit, _) = bed.run(&ContainerSpec { init, ..hog });
        assert!(exit.oom && exit.oom_kills > 0 && exit.code == 137, "{exit:?}");
    }
    assert!(matches!(bed.state("neighbour"), State::Running { .. }));
    // The control: enough memory, the same program, no kill.
    let (exit, _) = bed.run(&limited(
        &bed,
        "fits",
        "head -c 20000000 /dev/zero | tail >/dev/null",
        |_| {},
    ));
    assert!(!exit.oom && exit.code == 0, "{exit:?}");
    // A kill of ours is not taken for one.
    bed.runtime.kill("neighbour").unwrap();
    assert!(!bed.wait("neighbour").oom);
}

#[test]
fn a_fork_bomb_is_contained() {
    let bed = Bed::new("forks");
    let script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo all";
    bed.runtime
        .start(&limited(&bed, "bomb", script, |limits| limits.pids = 20))
        .unwrap();
    wait_for("the limit to be reached", || {
        bed.runtime.stats("bomb").unwrap().pids >= 19 || bed.lines("bomb").iter().any(|l| l.contains("fork"))
    });
    assert!(bed.runtime.stats("bomb").unwrap().pids <= 20);
    bed.runtime.remove("bomb").unwrap();
    let (exit, lines) = bed.run(&limited(
        &bed,
        "control",
        "for i in 1 2 3; do sleep 0.01 & done; wait; echo all",
        |_| {},
    ));
    assert_eq!((exit.code, lines), (0, vec!["all".to_owned()]));
}

#[test]
fn the_cpu_limit_throttles() {
    let bed = Bed::new("cpu");
    let busy = "while :; do :; done";
    bed.runtime
        .start(&limited(&bed, "slow", busy, |limits| limits.cpu_millis = 50))
        .unwrap();
    bed.runtime
        .start(&limited(&bed, "control", busy, |limits| {
            limits.cpu_millis = 64_000;
        }))
        .unwrap();
    wait_for("throttling", || {
        bed.runtime.stats("slow").unwrap().cpu_throttled_ns > 200_000_000
    });
    let (slow, free) = (
        bed.runtime.stats("slow").unwrap(),
        bed.runtime.stats("control").unwrap(),
    );
    assert_eq!(free.cpu_throttled_ns, 0);
    assert!(slow.cpu_ns < free.cpu_ns, "{slow:?} {free:?}");
}

#[test]
fn use_is_told() {
    let bed = Bed::new("stats");
    let script = "head -c 20000000 /dev/zero > /dev/shm/x; echo up; sleep 1000";
    let mut spec = bed.spec("a", script);
    spec.shm_bytes = 64 << 20;
    bed.runtime.start(&spec).unwrap();
    bed.wait_line("a", "up");
    let usage = bed.runtime.stats("a").unwrap();
    assert!(
        usage.memory_bytes >= 20_000_000 && usage.working_set_bytes <= usage.memory_bytes,
        "{usage:?}"
    );
    assert!(
        usage.pids >= 2 && usage.cpu_ns > 0 && usage.oom_kills == 0,
        "{usage:?}"
    );
    bed.runtime.remove("a").unwrap();
    assert_eq!(bed.runtime.stats("a").unwrap(), runtime::Usage::default());
}

#[test]
fn open_files_are_limited() {
    let bed = Bed::new("nofile");
    let (_, lines) = bed.run(&ContainerSpec {
        nofile: 99,
        ..bed.spec("a", "ulimit -n; ulimit -c")
    });
    assert_eq!(lines, ["99", "0"]);
}
