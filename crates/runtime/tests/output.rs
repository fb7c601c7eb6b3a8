//! Output of instances: order, rotation, floods, a full disk.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Bed, wait_for};
use runtime::logs::{Kind, Query, Reader, Stream};
use runtime::{ContainerSpec, LogSpec};

fn with_log(bed: &Bed, spec: ContainerSpec, segment_bytes: u64, max_bytes: u64) -> ContainerSpec {
    let log = LogSpec {
        dir: bed.path("log"),
        segment_bytes,
        max_bytes,
        ..spec.log.clone()
    };
    ContainerSpec { log, ..spec }
}

fn size_of(dir: &std::path::Path) -> u64 {
    fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| e.metadata().map_or(0, |m| m.len()))
        .sum()
}

#[test]
fn both_streams_keep_their_order_and_long_lines_are_split() {
    let bed = Bed::new("order");
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; head -c 40000 /dev/zero | tr '\\0' x; echo; printf end";
    bed.run(&bed.spec("a", script));
    let records = bed.records("a");
    let of = |stream: Stream| -> Vec<String> {
        let lines = records.iter().filter(|r| r.kind == Kind::Line(stream));
        lines
            .map(|r| String::from_utf8_lossy(&r.text).into_owned())
            .filter(|t| t.len() < 100)
            .collect()
    };
    assert_eq!(of(Stream::Stdout), ["out 1", "out 2", "out 3", "end"]);
    assert_eq!(of(Stream::Stderr), ["err 1", "err 2", "err 3"]);
    let x: usize = records
        .iter()
        .map(|r| r.text.iter().filter(|b| **b == b'x').count())
        .sum();
    assert_eq!(x, 40_000);
    assert!(
        records
            .iter()
            .any(|r| matches!(r.kind, Kind::Piece(Stream::Stdout)))
    );
    assert!(
        records
            .windows(2)
            .all(|w| w[0].sequence + 1 == w[1].sequence && w[0].time_us <= w[1].time_us)
    );
}

#[test]
fn a_prompt_without_a_line_break_is_seen() {
    let bed = Bed::new("prompt");
    bed.runtime
        .start(&bed.spec("a", "printf 'password: '; sleep 1000"))
        .unwrap();
    bed.wait_line("a", "password: ");
}

#[test]
fn a_program_may_reopen_its_output_by_name() {
    let bed = Bed::new("reopen");
    let user = runtime::User {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    let script = "echo one > /dev/stdout; echo two > /dev/stderr; echo three >> /proc/self/fd/1";
    let (exit, mut lines) = bed.run(&ContainerSpec {
        user,
        ..bed.spec("a", script)
    });
    lines.sort();
    assert_eq!(
        (exit.code, lines),
        (0, vec!["one".to_owned(), "three".to_owned(), "two".to_owned()])
    );
}

#[test]
fn a_flood_is_capped_and_a_follower_misses_nothing() {
    let bed = Bed::new("flood");
    let script = "i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done";
    bed.runtime
        .start(&with_log(&bed, bed.spec("a", script), 64 << 10, 8 << 20))
        .unwrap();
    let mut reader = Reader::open(&bed.path("log"), Query::default()).unwrap();
    let mut next = 0;
    while next < 20_000 {
        let batch = reader.read(1000).unwrap();
        if batch.is_empty() {
            reader.wait(Duration::from_secs(1)).unwrap();
        }
        for record in batch {
            assert_eq!(
                String::from_utf8_lossy(&record.text),
                format!("line number {next}")
            );
            next += 1;
        }
    }
    assert_eq!(bed.wait("a").code, 0);
    // A larger flood than the ring holds: the ring stays within its bound and the program ends well.
    let script = "yes 0123456789012345678901234567890123456789 | head -c 60000000";
    let (exit, _) = bed.run(&with_log(&bed, bed.spec("b", script), 1 << 20, 4 << 20));
    assert_eq!(exit.code, 0);
    assert!(
        size_of(&bed.path("log")) < (4 << 20) + (2 << 20),
        "{}",
        size_of(&bed.path("log"))
    );
}

#[test]
fn over_the_rate_is_dropped_told_and_does_not_block() {
    let bed = Bed::new("rate");
    let spec = bed.spec("a", "yes 0123456789 | head -c 30000000; echo; sleep 3; echo end");
    let log = LogSpec {
        rate_bytes_per_s: 1 << 20,
        ..spec.log.clone()
    };
    let (exit, lines) = bed.run(&ContainerSpec { log, ..spec });
    assert_eq!(exit.code, 0);
    assert!(exit.error.is_some_and(|e| e.contains("bytes of output")));
    let records = bed.records("a");
    let lost: u64 = records
        .iter()
        .map(|r| {
            if let Kind::Gap { bytes, .. } = r.kind {
                bytes
            } else {
                0
            }
        })
        .sum();
    assert!(lost > 1_000_000, "{lost}");
    assert_eq!(lines.last().unwrap(), "end");
}

#[test]
fn a_full_disk_costs_lines_not_the_program() {
    let bed = Bed::new("full");
    let tiny = bed.path("tiny");
    fs::create_dir(&tiny).unwrap();
    let mounted = Mounted::tmpfs(&tiny, "size=512k");
    fs::write(tiny.join("filler"), vec![0; 400 << 10]).unwrap();
    let script = "yes 0123456789 | head -c 3000000; echo flooded > /dev/shm/done; \
                  while [ ! -e /go ]; do sleep 0.05; done; echo; for i in 1 2 3 4 5; do sleep 0.1; echo after; done";
    let go = bed.path("go");
    fs::create_dir(&go).unwrap();
    let mut spec = bed.spec("a", &script.replace("/go", "/go/now"));
    spec.log.dir = tiny.join("log");
    spec.log.segment_bytes = 64 << 10;
    spec.log.max_bytes = 10 << 20;
    spec.mounts = vec![runtime::Mount {
        source: go.clone(),
        target: "/go".into(),
        read_only: true,
        owner: runtime::Owner::Instance,
    }];
    let record = bed.runtime.start(&spec).unwrap();
    let done = format!("/proc/{}/root/dev/shm/done", record.pid);
    wait_for("the program to write all it wanted", || {
        std::path::Path::new(&done).exists()
    });
    fs::remove_file(tiny.join("filler")).unwrap();
    fs::write(go.join("now"), "").unwrap();
    let exit = bed.wait("a");
    assert_eq!(exit.code, 0);
    assert!(exit.error.is_some_and(|e| e.contains("bytes of output")));
    let mut reader = Reader::open(&tiny.join("log"), Query::default()).unwrap();
    let (mut gap, mut last) = (0, String::new());
    loop {
        let batch = reader.read(10_000).unwrap();
        if batch.is_empty() {
            break;
        }
        for record in batch {
            if let Kind::Gap { bytes, .. } = record.kind {
                gap += bytes;
            }
            last = String::from_utf8_lossy(&record.text).into_owned();
        }
    }
    assert!(gap > 1_000_000, "{gap}");
    assert_eq!(last, "after");
    drop(mounted);
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(path: &std::path::Path, options: &str) -> Mounted {
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount(
            "tmpfs",
            path,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(&*options),
        )
        .unwrap();
        Mounted(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
