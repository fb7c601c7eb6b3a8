//! Further processes in a running instance.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::{Bed, LONG, wait_for};
use runtime::{Error, ExecExit, ExecSpec, Stage, Stdio, TtySize, User};

fn spec(script: &str) -> ExecSpec {
    ExecSpec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![
            ("PATH".to_owned(), "/bin".to_owned()),
            ("GIVEN".to_owned(), "yes".to_owned()),
        ],
        cwd: "/".into(),
        user: User::default(),
        tty: None,
    }
}

struct Ends {
    input: File,
    output: File,
}

/// One pipe in, one pipe out for both outputs.
fn pipes() -> (Stdio, Ends) {
    let (stdin, input) = std::io::pipe().unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let stderr = stdout.try_clone().unwrap();
    let ends = Ends {
        input: OwnedFd::from(input).into(),
        output: OwnedFd::from(output).into(),
    };
    (
        Stdio {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        },
        ends,
    )
}

fn run(bed: &Bed, spec: &ExecSpec, input: &str) -> (ExecExit, String) {
    let (stdio, mut ends) = pipes();
    let mut session = bed
        .runtime
        .exec("a", spec, Some(stdio))
        .unwrap_or_else(|error| panic!("{error}"));
    ends.input.write_all(input.as_bytes()).unwrap();
    drop(ends.input);
    let mut text = String::new();
    ends.output.read_to_string(&mut text).unwrap();
    (session.wait(LONG).unwrap().unwrap(), text)
}

#[test]
fn a_process_enters_with_its_input_output_and_code() {
    let bed = Bed::new("exec");
    let mut instance = bed.spec("a", "echo up; sleep 1000");
    instance
        .env
        .push(("SECRET_OF_INSTANCE".to_owned(), "x".to_owned()));
    bed.runtime.start(&instance).unwrap();
    let (exit, text) = run(&bed, &spec("cat; hostname; exit 9"), "fed\n");
    assert_eq!(
        (exit, text.as_str()),
        (
            ExecExit {
                code: 9,
                signal: None
            },
            "fed\na\n"
        )
    );
    // Only what was given: nothing of ours (cargo sets a lot) and nothing of the instance.
    let (_, env) = run(&bed, &spec("env"), "");
    let mut names: Vec<&str> = env
        .lines()
        .filter_map(|l| l.split('=').next())
        .filter(|n| !["PWD", "SHLVL", "OLDPWD"].contains(n))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["GIVEN", "PATH"]);
    let app = ExecSpec {
        user: User {
            uid: 1000,
            gid: 1000,
            groups: vec![5],
        },
        cwd: "/home/app".into(),
        ..spec("id; pwd")
    };
    let (_, text) = run(&bed, &app, "");
    assert!(
        text.contains("uid=1000(app) gid=1000(app) groups=5") && text.contains("/home/app"),
        "{text}"
    );
    let (exit, _) = run(&bed, &spec("kill -9 $$"), "");
    assert_eq!(
        exit,
        ExecExit {
            code: 137,
            signal: Some(9)
        }
    );
}

#[test]
fn it_is_confined_like_the_first_process() {
    let bed = Bed::new("confined");
    let facts = "grep -E '^(Cap|NoNewPrivs|Seccomp)' /proc/$1/status; for n in user pid mnt net ipc uts; do readlink /proc/$1/ns/$n; done; ulimit -n";
    bed.runtime
        .start(&bed.spec("a", &format!("set -- $$; {facts}; echo end; sleep 1000")))
        .unwrap();
    bed.wait_line("a", "end");
    let mut first = bed.lines("a");
    first.pop();
    let (_, text) = run(&bed, &spec(&format!("set -- $$; {facts}")), "");
    assert_eq!(text.lines().collect::<Vec<_>>(), first);
    assert!(
        first
            .iter()
            .any(|l| l.starts_with("Seccomp:") && l.ends_with('2')),
        "{first:?}"
    );
    assert!(
        first
            .iter()
            .any(|l| l.starts_with("NoNewPrivs:") && l.ends_with('1')),
        "{first:?}"
    );
    let (_, text) = run(
        &bed,
        &spec("mount -t tmpfs x /tmp; unshare -U true; ls /proc/self/fd"),
        "",
    );
    assert!(
        text.contains("mount: permission denied") && text.contains("not permitted"),
        "{text}"
    );
    // Standard three and the directory ls reads.
    assert_eq!(
        text.lines().filter(|l| l.parse::<u32>().is_ok()).count(),
        4,
        "{text}"
    );
    // In the instance's group: the whole of it dies with the instance.
    let (stdio, _ends) = pipes();
    let mut session = bed.runtime.exec("a", &spec("sleep 1000"), Some(stdio)).unwrap();
    assert!(bed.runtime.stats("a").unwrap().pids >= 3);
    bed.runtime.kill("a").unwrap();
    assert_eq!(session.wait(LONG).unwrap().unwrap().code, 137);
}

/// A program that neither reads nor writes would never notice that nobody is there any more.
#[test]
fn a_session_that_is_let_go_ends_its_process_and_whoever_waits() {
    let bed = Bed::new("hold");
    bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    for tty in [None, Some(TtySize { rows: 24, cols: 80 })] {
        let (stdio, _ends) = pipes();
        let stdio = tty.is_none().then_some(stdio);
        let exec = ExecSpec {
            tty,
            ..spec("trap '' HUP; sleep 2000")
        };
        let mut session = bed.runtime.exec("a", &exec, stdio).unwrap();
        let process = format!("/proc/{}", session.pid());
        let hold = session.hold().unwrap();
        let waiting = std::thread::spawn(move || session.wait(LONG));
        assert!(std::path::Path::new(&process).exists());
        drop(hold);
        assert!(
            !matches!(waiting.join().unwrap(), Ok(None)),
            "the waiter was not woken"
        );
        wait_for("the process to end", || !std::path::Path::new(&process).exists());
    }
}

#[test]
fn an_instance_at_its_limit_of_processes_says_so() {
    let bed = Bed::new("pids");
    let mut full = bed.spec("a", "for i in 1 2 3 4; do sleep 1000 & done; wait");
    full.limits.pids = 6;
    bed.runtime.start(&full).unwrap();
    wait_for("the limit to be reached", || {
        bed.runtime.stats("a").unwrap().pids >= 6
    });
    let (stdio, _ends) = pipes();
    let refused = bed.runtime.exec("a", &spec("true"), Some(stdio)).map(|_| ());
    let refused = refused.expect_err("there is no room for a process");
    assert!(
        matches!(&refused, Error::Exec { stage: Stage::Limits, reason, .. } if reason.contains("pids limit")),
        "{refused}"
    );
}

/// The class of CVE-2024-21626: a working directory that is a descriptor left open by the runtime.
#[test]
fn a_working_directory_cannot_be_a_descriptor_of_the_runtime() {
    let bed = Bed::new("cwd");
    std::fs::write(bed.path("host-only"), "outside").unwrap();
    let up = "../".repeat(12);
    let look = format!("cat {up}{}/host-only; echo looked", bed.dir.path().display());
    bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    for number in 3..24 {
        let cwd: std::path::PathBuf = format!("/proc/self/fd/{number}").into();
        let (stdio, mut ends) = pipes();
        if let Ok(mut session) = bed.runtime.exec(
            "a",
            &ExecSpec {
                cwd: cwd.clone(),
                ..spec(&look)
            },
            Some(stdio),
        ) {
            session.wait(LONG).unwrap().unwrap();
            let mut text = String::new();
            ends.output.read_to_string(&mut text).unwrap();
            assert!(!text.contains("outside"), "exec {number}");
        }
        let id = format!("i{number}");
        if bed
            .runtime
            .start(&runtime::ContainerSpec {
                cwd,
                ..bed.spec(&id, &look)
            })
            .is_ok()
        {
            bed.wait(&id);
            assert!(
                !bed.lines(&id).iter().any(|line| line.contains("outside")),
                "start {number}"
            );
        }
        bed.runtime.remove(&id).unwrap();
    }
}

#[test]
fn a_terminal_is_a_terminal_and_can_be_resized() {
    let bed = Bed::new("tty");
    bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    let tty = Some(TtySize { rows: 40, cols: 100 });
    let app = User {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    let script = "tty; stty size; read line; stty size; echo got $line > /dev/tty; exit 3";
    let mut session = bed
        .runtime
        .exec(
            "a",
            &ExecSpec {
                tty,
                user: app,
                ..spec(script)
            },
            None,
        )
        .unwrap();
    let mut terminal = session.terminal().unwrap().try_clone().unwrap();
    let seen = std::cell::RefCell::new(String::new());
    let mut reader = terminal.try_clone().unwrap();
    let read_until = |reader: &mut File, words: &str| {
        let mut bytes = [0u8; 1024];
        while !seen.borrow().contains(words) {
            let count = reader.read(&mut bytes).unwrap();
            seen.borrow_mut()
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    read_until(&mut reader, "40 100");
    assert!(seen.borrow().contains("/dev/pts/0"), "{}", seen.borrow());
    session.resize(TtySize { rows: 20, cols: 50 }).unwrap();
    terminal.write_all(b"hello\n").unwrap();
    read_until(&mut reader, "got hello");
    assert!(seen.borrow().contains("20 50"), "{}", seen.borrow());
    assert_eq!(session.wait(LONG).unwrap().unwrap().code, 3);
}

#[test]
fn failures_are_told_and_sessions_end_with_their_holder() {
    let bed = Bed::new("execfail");
    bed.runtime.start(&bed.spec("a", "sleep 1000")).unwrap();
    let (stdio, _ends) = pipes();
    let missing = ExecSpec {
        argv: vec!["nothere".to_owned()],
        ..spec("")
    };
    let error = bed.runtime.exec("a", &missing, Some(stdio)).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Exec {
                stage: Stage::Program,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("nothere was not found"), "{error}");
    let (stdio, _ends) = pipes();
    let nowhere = ExecSpec {
        cwd: "/nowhere".into(),
        ..spec("true")
    };
    assert!(
        bed.runtime
            .exec("a", &nowhere, Some(stdio))
            .unwrap_err()
            .to_string()
            .contains("/nowhere")
    );
    assert!(matches!(
        bed.runtime.exec("a", &spec("true"), None),
        Err(Error::Invalid { .. })
    ));
    // Signals go to the process; dropping the session kills it.
    let (stdio, _ends) = pipes();
    let mut session = bed
        .runtime
        .exec(
            "a",
            &spec("trap 'exit 8' USR1; while :; do sleep 0.05; done"),
            Some(stdio),
        )
        .unwrap();
    wait_for("the trap", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", session.pid())).unwrap_or_default();
        let caught = status
            .lines()
            .find_map(|l| l.strip_prefix("SigCgt:"))
            .map(|m| u64::from_str_radix(m.trim(), 16).unwrap());
        caught.is_some_and(|mask| mask & (1 << 9) != 0)
    });
    session.signal(10).unwrap();
    assert_eq!(session.wait(LONG).unwrap().unwrap().code, 8);
    let (stdio, _ends) = pipes();
    let mut held = bed.runtime.exec("a", &spec("sleep 1000"), Some(stdio)).unwrap();
    assert_eq!(held.wait(Duration::from_millis(20)).unwrap(), None);
    let pid = held.pid();
    drop(held);
    wait_for("the process to be killed", || {
        !std::path::Path::new(&format!("/proc/{pid}/cwd")).exists()
    });
    bed.runtime.kill("a").unwrap();
    bed.wait("a");
    let (stdio, _ends) = pipes();
    assert!(matches!(
        bed.runtime.exec("a", &spec("true"), Some(stdio)),
        Err(Error::Ended { .. })
    ));
    let (stdio, _ends) = pipes();
    assert!(matches!(
        bed.runtime.exec("nobody", &spec("true"), Some(stdio)),
        Err(Error::NotFound { .. })
    ));
}
