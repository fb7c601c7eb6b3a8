//! From start to removal: exit codes, signals, stopping, idempotence, what a failed start says.

mod common;

use std::time::Duration;

use common::{Bed, LONG, wait_for};
use runtime::{Error, Stage, State, User};

#[test]
fn a_program_runs_and_its_end_is_known() {
    let bed = Bed::new("run");
    let (exit, lines) = bed.run(&bed.spec("a", "echo hello; id -u; hostname; echo bad >&2; exit 7"));
    assert_eq!(
        (exit.code, exit.signal, exit.oom, exit.error),
        (7, None, false, None)
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(
        (lines[0].as_str(), lines[1].as_str(), lines[2].as_str()),
        ("hello", "0", "a")
    );
    assert!(bed.runtime.get("a").unwrap().is_none());
}
