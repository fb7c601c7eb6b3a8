//! Power cuts of the whole data directory: what was acknowledged is there, no file is torn, and the trials can tell.

use anyhow::{Result, ensure};
use journeys::soak::power::{self, FileSystem, Options, Syncs};

const SEED: u64 = 7;

fn cut(file_system: FileSystem, trials: u64) -> Result<()> {
    let outcome = power::run(Options {
        trials,
        seed: SEED,
        file_system,
        syncs: Syncs::Kept,
    })?;
    println!("{outcome}");
    ensure!(outcome.findings.is_empty(), "{}", outcome.findings.join("\n"));
    Ok(())
}

#[test]
fn power_cuts_on_ext4_lose_nothing() -> Result<()> {
    cut(FileSystem::Ext4, 4)
}

#[test]
fn power_cuts_on_xfs_lose_nothing() -> Result<()> {
    cut(FileSystem::Xfs, 3)
}

/// The safeguard switched off: were a sync left out somewhere, the trials above would show it.
#[test]
fn power_cuts_without_syncs_lose_acknowledged_writes() -> Result<()> {
    let outcome = power::run(Options {
        trials: 1,
        seed: SEED,
        file_system: FileSystem::Ext4,
        syncs: Syncs::Skipped,
    })?;
    println!("{outcome}");
    ensure!(
        outcome.lost() > 0,
        "writes that were never synced survived: {outcome}"
    );
    Ok(())
}
