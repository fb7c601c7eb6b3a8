//! A network namespace made by somebody else: joined, usable, never changed.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::process::Command;

use common::Bed;
use runtime::{ContainerSpec, User};

/// Removed whatever happens.
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        let name = format!("stoa-test-{}", std::process::id());
        let namespace = Namespace(name.clone());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&[
            "-n", &name, "link", "add", "outer0", "type", "veth", "peer", "name", "inner0",
        ]);
        ip(&["-n", &name, "addr", "add", "10.99.0.1/24", "dev", "inner0"]);
        namespace
    }

    fn path(&self) -> std::path::PathBuf {
        format!("/run/netns/{}", self.0).into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {output:?}");
}

#[test]
fn a_given_namespace_is_joined_and_cannot_be_changed() {
    let bed = Bed::new("netns");
    let namespace = Namespace::new();
    // The listener's input is a pipe that never ends: at the end of its input nc closes what it has not yet answered.
    let script = "ip -o addr show dev inner0; ip link set inner0 up; ip addr add 10.98.0.1/24 dev inner0; \
                  mkfifo /tmp/open; nc -l -p 80 <>/tmp/open & \
                  until echo hello | nc 127.0.0.1 80 2>/dev/null; do sleep 0.05; done; wait";
    for (id, uid) in [("root", 0), ("user", 1000)] {
        let user = User {
            uid,
            gid: uid,
            groups: vec![],
        };
        let netns = Some(namespace.path());
        let (_, lines) = bed.run(&ContainerSpec {
            netns,
            user,
            ..bed.spec(id, script)
        });
        assert!(lines.iter().any(|l| l.contains("10.99.0.1/24")), "{lines:?}");
        assert_eq!(
            lines.iter().filter(|l| l.contains("not permitted")).count(),
            2,
            "{lines:?}"
        );
        assert!(lines.contains(&"hello".to_owned()), "{lines:?}");
    }
    // The control: from the host's side the same namespace can be changed, and what it has is untouched.
    let shown = Command::new("ip")
        .args(["-n", &namespace.0, "-o", "addr"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("10.99.0.1/24") && !shown.contains("10.98.0.1"),
        "{shown}"
    );
    ip(&["-n", &namespace.0, "addr", "add", "10.98.0.1/24", "dev", "inner0"]);
}

#[test]
fn without_one_there_is_only_loopback() {
    let bed = Bed::new("nonet");
    let (_, lines) = bed.run(&bed.spec(
        "a",
        "ip -o link | wc -l; ip -o addr show dev lo | grep -c 127.0.0.1",
    ));
    assert_eq!(lines, ["1", "1"]);
}
