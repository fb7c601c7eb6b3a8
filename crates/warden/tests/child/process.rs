//! Plays the warden or one of its children in the warden's tests. Not shipped.
//!
//! `warden DIR PORT MODE` runs a warden on DIR that keeps one or two children; the other words are the children.
//! Everything that happens is appended to `DIR/journal`, which the tests wait on.
#![allow(clippy::unwrap_used)] // A test: a panic is its way to say that the world is not as assumed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use warden::{Backoff, Bound, Child, Options, Upgrades, Wanted};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["warden", dir, port, mode] => run_warden(Path::new(dir), port.parse().unwrap(), mode),
        ["server", dir] => serve(Path::new(dir)),
        ["tied", dir] => {
            // A test that is over may have killed the warden already.
            if warden::die_with_parent().is_err() {
                return;
            }
            note(Path::new(dir), &format!("tied {}", std::process::id()));
            std::thread::sleep(Duration::from_secs(600));
        }
        ["crash", dir] => {
            note(Path::new(dir), "crash");
            std::process::exit(1);
        }
        ["fails-later", dir] => {
            // The first life is long; later ones find that they cannot work.
            note(Path::new(dir), &format!("life {}", std::process::id()));
            if count(Path::new(dir), "life ") > 1 {
                std::process::exit(warden::NO_RESTART);
            }
            std::thread::sleep(Duration::from_secs(600));
        }
        ["useless"] => std::process::exit(warden::NO_RESTART),
        other => panic!("unknown words {other:?}"),
    }
}

fn note(dir: &Path, line: &str) {
    let mut journal = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("journal"))
        .unwrap();
    journal.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn count(dir: &Path, start: &str) -> usize {
    let journal = std::fs::read_to_string(dir.join("journal")).unwrap();
    journal.lines().filter(|line| line.starts_with(start)).count()
}

fn run_warden(dir: &Path, port: u16, mode: &str) {
    let (journal, described) = (dir.to_owned(), dir.to_owned());
    let mode = mode.to_owned();
    let outcome = warden::run(Options {
        data_dir: dir.to_owned(),
        sockets: vec![Wanted {
            name: "http0".to_owned(),
            candidates: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        }],
        adopt: Box::new(|| None),
        children: Box::new(move |bound| children(&described, bound, &mode)),
        upgrades: Upgrades {
            wanted: Box::new(|| None),
            is_healthy: Box::new(|_| false),
            healthy_within: Duration::from_secs(20),
        },
        report: Box::new(move |event| note(&journal, &format!("warden: {event}"))),
    });
    match outcome {
        Ok(reason) => note(dir, &format!("ended {reason:?}")),
        Err(error) => {
            eprintln!("{error}\n{}", error.next());
            std::process::exit(1);
        }
    }
}

fn children(dir: &Path, bound: &[Bound], mode: &str) -> Vec<Child> {
    note(dir, &format!("address {}", bound[0].address));
    let path = dir.to_str().unwrap();
    let server = Child {
        sockets: vec!["http0".to_owned()],
        ..Child::of_this_binary("server", &["server", path])
    };
    let tied = Child::of_this_binary("tied", &["tied", path]);
    let quick = Backoff {
        first: Duration::from_millis(50),
        cap: Duration::from_millis(100),
        stable: Duration::from_secs(60),
    };
    match mode {
        "both" => vec![server, tied],
        "hasty" => vec![
            Child {
                stop_grace: Duration::from_millis(50),
                ..server
            },
            tied,
        ],
        "crash" => vec![Child {
            restart: quick,
            ..Child::of_this_binary("crash", &["crash", path])
        }],
        "fails-later" => vec![
            server,
            Child {
                restart: Backoff {
                    stable: Duration::from_millis(100),
                    ..quick
                },
                ..Child::of_this_binary("fails-later", &["fails-later", path])
            },
        ],
        "useless" => vec![server, Child::of_this_binary("useless", &["useless"])],
        "missing" => {
            let program = PathBuf::from("/nonexistent/program");
            vec![Child {
                program,
                restart: quick,
                ..Child::of_this_binary("missing", &[])
            }]
        }
        other => panic!("unknown mode {other}"),
    }
}

/// Answers each connection with its own pid.
fn serve(dir: &Path) {
    let sockets = warden::inherited_fds().unwrap();
    let (name, socket) = sockets.into_iter().next().unwrap();
    assert_eq!(name, "http0");
    note(dir, &format!("server {}", std::process::id()));
    let listener = TcpListener::from(socket);
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0u8; 4];
        if stream.read_exact(&mut word).is_ok() {
            stream
                .write_all(format!("{}\n", std::process::id()).as_bytes())
                .unwrap();
        }
    }
}
