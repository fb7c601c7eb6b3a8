//! From start to removal: exit codes, signals, stopping, idempotence, and what a failed start says and leaves.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::{Bed, LONG, leftovers, wait_for};
use runtime::{ContainerSpec, Error, Mount, Stage, State, Tier, User};

#[test]
fn a_program_runs_and_its_end_is_known() {
    let bed = Bed::new("run");
    let (exit, lines) = bed.run(&bed.spec("a", "echo hello; id -u; hostname; echo bad >&2; exit 7"));
    assert_eq!(
        (exit.code, exit.signal, exit.oom, exit.error),
        (7, None, false, None)
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        ["hello", "0", "a", "bad"]
            .iter()
            .all(|line| lines.contains(&(*line).to_owned())),
        "{lines:?}"
    );
    assert!(bed.runtime.get("a").unwrap().is_none());
}

#[test]
fn a_program_may_be_process_one_or_have_a_reaper() {
    let bed = Bed::new("one");
    let bare = ContainerSpec {
        init: false,
        ..bed.spec("bare", "echo pid $$; exit 3")
    };
    let (exit, lines) = bed.run(&bare);
    assert_eq!((exit.code, lines), (3, vec!["pid 1".to_owned()]));
    // The orphan's parent becomes the reaper; no zombie may stay.
    let script = "echo pid $$; (sleep 0.1 &) ; sleep 1; ps -o stat | grep -c Z; exit 4";
    let (exit, lines) = bed.run(&bed.spec("reaped", script));
    assert_eq!((exit.code, lines), (4, vec!["pid 2".to_owned(), "0".to_owned()]));
}

#[test]
fn signals_arrive_and_death_by_signal_is_told() {
    let bed = Bed::new("signal");
    let bare = ContainerSpec {
        init: false,
        ..bed.spec("bare", "echo up; sleep 1000")
    };
    bed.runtime.start(&bare).unwrap();
    bed.wait_line("bare", "up");
    bed.runtime.signal("bare", 9).unwrap();
    let exit = bed.wait("bare");
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), false));
    bed.runtime
        .start(&bed.spec("b", "trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done"))
        .unwrap();
    bed.wait_line("b", "up");
    bed.runtime.signal("b", 1).unwrap();
    bed.wait_line("b", "hup");
    bed.runtime.kill("b").unwrap();
    assert_eq!(bed.wait("b").code, 137);
    assert!(matches!(bed.runtime.signal("b", 1), Err(Error::Ended { .. })));
    assert!(matches!(
        bed.runtime.signal("nobody", 1),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn stopping_asks_first_and_kills_after_the_grace() {
    let bed = Bed::new("stop");
    bed.runtime
        .start(&bed.spec(
            "polite",
            "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done",
        ))
        .unwrap();
    bed.wait_line("polite", "up");
    bed.runtime.stop("polite", LONG).unwrap();
    assert_eq!(bed.wait("polite").code, 5);
    bed.runtime
        .start(&bed.spec("deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
        .unwrap();
    bed.wait_line("deaf", "up");
    bed.runtime.stop("deaf", Duration::from_millis(200)).unwrap();
    assert_eq!(bed.wait("deaf").code, 137);
    // Asking again what has ended is no error.
    bed.runtime.stop("deaf", Duration::ZERO).unwrap();
    bed.runtime.kill("deaf").unwrap();
    let usr1 = ContainerSpec {
        stop_signal: 10,
        ..bed.spec(
            "usr1",
            "trap 'exit 6' USR1; echo up; while :; do sleep 0.05; done",
        )
    };
    bed.runtime.start(&usr1).unwrap();
    bed.wait_line("usr1", "up");
    bed.runtime.stop("usr1", LONG).unwrap();
    assert_eq!(bed.wait("usr1").code, 6);
}

#[test]
fn starting_and_removing_twice_is_starting_and_removing_once() {
    let bed = Bed::new("twice");
    let spec = bed.spec("a", "sleep 1000");
    let first = bed.runtime.start(&spec).unwrap();
    assert_eq!(bed.runtime.start(&spec).unwrap(), first);
    assert_eq!(
        bed.runtime.wait_exit("a", Duration::from_millis(50)).unwrap(),
        None
    );
    let ids: Vec<String> = bed.runtime.list().unwrap().into_iter().map(|c| c.id).collect();
    assert_eq!(ids, ["a"]);
    bed.runtime.kill("a").unwrap();
    bed.wait("a");
    assert!(matches!(bed.runtime.start(&spec), Err(Error::Ended { .. })));
    assert!(matches!(bed.state("a"), State::Exited(_)));
    bed.runtime.remove("a").unwrap();
    bed.runtime.remove("a").unwrap();
    assert!(bed.runtime.list().unwrap().is_empty());
    let again = bed.runtime.start(&spec).unwrap();
    assert_ne!(again.pid_start, first.pid_start);
    bed.runtime.remove("a").unwrap();
}

#[test]
fn threads_may_start_at_once() {
    let bed = Bed::new("threads");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let bed = &bed;
            scope.spawn(move || {
                let (exit, lines) =
                    bed.run(&bed.spec(&format!("i{number}"), &format!("echo {number}; exit {number}")));
                assert_eq!((exit.code, lines), (number, vec![number.to_string()]));
            });
        }
    });
    let spec = bed.spec("same", "sleep 1000");
    let pids: Vec<u32> = std::thread::scope(|scope| {
        let (bed, spec) = (&bed, &spec);
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(move || bed.runtime.start(spec).unwrap().pid))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pids.windows(2).all(|pair| pair[0] == pair[1]), "{pids:?}");
}

#[test]
fn a_failed_start_says_why_and_leaves_nothing() {
    let bed = Bed::new("fail");
    fs::write(bed.path("layer/bin/plain"), "text").unwrap();
    fs::write(bed.path("layer/bin/orphan"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(bed.path("layer/bin/orphan"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(bed.path("layer/bin/garbage"), [0x7f, b'E', b'L', b'F', 0, 0, 0]).unwrap();
    fs::set_permissions(bed.path("layer/bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    let base = || bed.spec("f", "true");
    let program = |name: &str, init| ContainerSpec {
        argv: vec![name.to_owned()],
        init,
        ..base()
    };
    let mount = Mount {
        source: "/no/such/volume".into(),
        target: "/data".into(),
        read_only: false,
        owner: runtime::Owner::Instance,
    };
    let cases: Vec<(ContainerSpec, Stage, &str)> = vec![
        (program("nothere", true), Stage::Program, "not found in the image"),
        (
            program("/bin/nothere", false),
            Stage::Program,
            "/bin/nothere is not there",
        ),
        (program("/bin", true), Stage::Program, "not a file"),
        (program("plain", true), Stage::Program, "may not be executed"),
        (program("orphan", true), Stage::Program, "interpreter"),
        (program("orphan", false), Stage::Program, "interpreter"),
        (program("garbage", true), Stage::Program, "not a program"),
        (
            ContainerSpec {
                layers: vec!["/no/such/layer".into()],
                ..base()
            },
            Stage::Layers,
            "/no/such/layer",
        ),
        (
            ContainerSpec {
                layers: vec![],
                ..base()
            },
            Stage::Layers,
            "no layers",
        ),
        (
            ContainerSpec {
                mounts: vec![mount],
                ..base()
            },
            Stage::Volumes,
            "/no/such/volume",
        ),
        (
            ContainerSpec {
                netns: Some("/no/such/netns".into()),
                ..base()
            },
            Stage::Network,
            "/no/such/netns",
        ),
        (
            ContainerSpec {
                netns: Some("/etc/passwd".into()),
                ..base()
            },
            Stage::Network,
            "/etc/passwd",
        ),
        (
            ContainerSpec {
                cwd: "/no/such/dir".into(),
                ..base()
            },
            Stage::Program,
            "working directory /no/such/dir",
        ),
    ];
    for (spec, stage, words) in cases {
        let error = bed.runtime.start(&spec).unwrap_err();
        let Error::Start {
            stage: failed,
            reason,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(*failed, stage, "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert!(!error.next().is_empty());
        assert!(bed.runtime.list().unwrap().is_empty(), "{words}");
        assert!(
            !bed.path("writable-f/work").exists() && !bed.path("writable-f/upper").exists(),
            "{words}"
        );
    }
    // The same id starts when corrected.
    assert_eq!(bed.run(&base()).0.code, 0);
}

#[test]
fn nonsense_is_refused_before_anything_is_made() {
    let bed = Bed::new("nonsense");
    let base = || bed.spec("n", "true");
    let file = |path: &str| runtime::SmallFile {
        path: path.into(),
        contents: vec![],
        mode: 0o644,
    };
    let cases = [
        ContainerSpec {
            id: "../x".to_owned(),
            ..base()
        },
        ContainerSpec {
            argv: vec![],
            ..base()
        },
        ContainerSpec {
            uid_base: 0,
            ..base()
        },
        ContainerSpec {
            user: User {
                uid: 70_000,
                ..User::default()
            },
            ..base()
        },
        ContainerSpec {
            env: vec![("A=B".to_owned(), String::new())],
            ..base()
        },
        ContainerSpec {
            files: vec![file("/etc/../../x")],
            ..base()
        },
        ContainerSpec {
            limits: runtime::Limits {
                memory_bytes: 1,
                ..base().limits
            },
            ..base()
        },
    ];
    for spec in cases {
        assert!(
            matches!(bed.runtime.start(&spec), Err(Error::Invalid { .. })),
            "{spec:?}"
        );
    }
    assert!(bed.runtime.list().unwrap().is_empty());
}

#[test]
fn a_killed_keeper_is_noticed_and_its_instance_removable() {
    let bed = Bed::new("lost");
    let record = bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    assert!(matches!(bed.state("a"), State::Running { .. }));
    let keeper = rustix::process::Pid::from_raw(record.keeper_pid.cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    wait_for("the loss to show", || bed.state("a") == State::Lost);
    assert!(matches!(
        bed.runtime.start(&bed.spec("a", "true")),
        Err(Error::Lost { .. })
    ));
    assert!(matches!(
        bed.runtime.wait_exit("a", LONG),
        Err(Error::Lost { .. })
    ));
    bed.runtime.remove("a").unwrap();
    assert!(!Path::new(&format!("/proc/{}/cwd", record.pid)).exists());
    assert_eq!(bed.run(&bed.spec("a", "exit 2")).0.code, 2);
}

/// What a power cut can leave, and what others may put there, hides no instance.
#[test]
fn a_damaged_neighbour_hides_nobody() {
    let bed = Bed::new("damaged");
    bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    for (name, record) in [
        ("empty", ""),
        ("rubbish", "stoa"),
        (".Trash-0", ""),
        ("lost+found", ""),
    ] {
        let dir = bed.path("instances").join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("record"), record).unwrap();
    }
    let seen = bed.runtime.list().unwrap();
    let states: Vec<_> = seen
        .iter()
        .map(|there| (there.id.as_str(), &there.state))
        .collect();
    assert!(
        matches!(
            states[..],
            [
                ("a", State::Running { .. }),
                ("empty", State::Lost),
                ("rubbish", State::Lost)
            ]
        ),
        "{states:?}"
    );
    bed.runtime.remove("empty").unwrap();
    bed.runtime.remove("rubbish").unwrap();
    assert_eq!(bed.runtime.list().unwrap().len(), 1);
}

#[test]
fn a_request_from_the_future_is_answered_with_the_versions_spoken() {
    use keeper::message::{OLDEST, Reply, VERSION};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let bed = Bed::new("future");
    bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    let keeper = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(
        &keeper,
        &SocketAddrUnix::new(bed.path("instances/a/keeper.sock")).unwrap(),
    )
    .unwrap();
    keeper::wire::send(&keeper, &keeper::wire::Frame::new(99, 999).text(77, "new"), &[]).unwrap();
    let (frame, _) = keeper::wire::receive(&keeper).unwrap().unwrap();
    assert_eq!(
        Reply::from_frame(&frame),
        Some(Reply::Unsupported {
            oldest: OLDEST,
            newest: VERSION
        })
    );
    // Garbage costs the connection, not the keeper.
    rustix::net::send(&keeper, b"GET / HTTP/1.1", rustix::net::SendFlags::empty()).unwrap();
    assert!(keeper::wire::receive(&keeper).unwrap().is_none());
    assert!(matches!(bed.state("a"), State::Running { .. }));
}

#[test]
fn records_of_another_boot_are_not_believed() {
    let bed = Bed::new("boot");
    let record = bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    let other = runtime::Record {
        boot_id: "another".to_owned(),
        ..record
    };
    other.save(&bed.path("instances/a")).unwrap();
    assert_eq!(bed.state("a"), State::Lost);
    bed.runtime.remove("a").unwrap();
    let left = leftovers(&bed.mark, &bed.path("instances/a").to_string_lossy());
    assert!(left.iter().all(|l| !l.starts_with("process")), "{left:?}");
}

#[test]
fn the_hardened_tier_has_a_read_only_root() {
    let bed = Bed::new("hardened");
    let script = "echo x > /file && echo written; echo y > /tmp/file && cat /tmp/file";
    let tmp_bytes = Some(1 << 20);
    let (_, standard) = bed.run(&ContainerSpec {
        tmp_bytes,
        ..bed.spec("s", script)
    });
    assert_eq!(standard, ["written", "y"]);
    let (_, hardened) = bed.run(&ContainerSpec {
        tier: Tier::Hardened,
        tmp_bytes,
        ..bed.spec("h", script)
    });
    assert!(
        hardened.iter().any(|line| line.contains("Read-only file system")),
        "{hardened:?}"
    );
    assert!(hardened.contains(&"y".to_owned()), "{hardened:?}");
}
