//! Firewalls of others that would drop our traffic.
//!
//! Lives here: the one pair of accepting rules in Docker's user chain, or in FORWARD where its policy drops.
//! Does not live here: our own rules (`firewall`), which still decide what is allowed: a packet must pass both.
//! Invariant: only rules carrying our comment are added or removed; nothing foreign is changed or flushed.

use std::process::{Command, Output, Stdio};

use crate::state::Mark;

/// The chain our accepts go to, when one is needed.
fn chain() -> Option<&'static str> {
    if iptables(&["-S", "DOCKER-USER"]).is_some_and(|o| o.status.success()) {
        return Some("DOCKER-USER");
    }
    let forward = iptables(&["-S", "FORWARD"])?;
    String::from_utf8_lossy(&forward.stdout)
        .lines()
        .any(|l| l.trim() == "-P FORWARD DROP")
        .then_some("FORWARD")
}

/// Add our accepts where a foreign drop would hit our networks. Best effort: a host without iptables needs none, and a
/// failure is logged because the networks themselves still work.
pub(crate) fn accept(mark: &Mark) {
    let Some(chain) = chain() else { return };
    for direction in ["-i", "-o"] {
        let rule = rule(mark, direction);
        if run("-C", chain, &rule) {
            continue;
        }
        if !run("-I", chain, &rule) {
            tracing::warn!(
                chain,
                "could not add an accepting rule for our bridges; egress may be dropped"
            );
        }
    }
}

/// Remove our accepts from wherever they may be.
pub(crate) fn withdraw(mark: &Mark) {
    for chain in ["DOCKER-USER", "FORWARD"] {
        for direction in ["-i", "-o"] {
            while run("-D", chain, &rule(mark, direction)) {}
        }
    }
}

fn rule(mark: &Mark, direction: &str) -> [String; 8] {
    let bridges = format!("{}+", mark.bridge_prefix());
    [
        "-m",
        "comment",
        "--comment",
        &mark.table(),
        direction,
        &bridges,
        "-j",
        "ACCEPT",
    ]
    .map(str::to_owned)
}

fn run(action: &str, chain: &str, rule: &[String]) -> bool {
    let mut arguments = vec![action, chain];
    arguments.extend(rule.iter().map(String::as_str));
    iptables(&arguments).is_some_and(|o| o.status.success())
}

/// Nothing when the host has no iptables.
fn iptables(arguments: &[&str]) -> Option<Output> {
    // `-w 5`: wait for the lock of a Docker that is busy, but not for ever.
    Command::new("iptables")
        .args(["-w", "5"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()
}
