//! Control dies before its n-th system call of a deploy or rollback, or the call fails: some points of many.

use anyhow::{Result, ensure};
use journeys::soak::syscall::{self, Fault, Options, What};
use journeys::traffic::Load;

const SEED: u64 = 5;

/// `cargo xtask soak syscall` tries them all.
fn some(what: What, fault: Fault, stride: u64, least: u64) -> Result<()> {
    let outcome = syscall::run(Options {
        seed: SEED,
        from: 1,
        to: None,
        stride,
        what,
        fault,
        load: Load::times(0.3),
    })?;
    println!("{outcome}");
    ensure!(outcome.findings().is_empty(), "{}", outcome.findings().join("\n"));
    ensure!(
        outcome.reached() >= least,
        "only {} points were reached",
        outcome.reached()
    );
    Ok(())
}

#[test]
fn a_deploy_survives_a_kill_at_its_system_calls() -> Result<()> {
    some(What::Deploy, Fault::Kill, 130, 3)
}

#[test]
fn a_rollback_survives_a_kill_at_its_system_calls() -> Result<()> {
    some(What::Rollback, Fault::Kill, 130, 3)
}

#[test]
fn a_deploy_survives_calls_that_fail() -> Result<()> {
    some(What::Deploy, Fault::Error, 90, 3)
}
