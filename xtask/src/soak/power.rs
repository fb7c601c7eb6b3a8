//! `cargo xtask soak power`.

use anyhow::{Result, bail, ensure};
use journeys::soak::power::{self, FileSystem, Options, Syncs};

use super::{Words, binary};

const TRIALS: u64 = 200;

pub fn run(words: &Words<'_>) -> Result<()> {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let options = Options {
        trials: words.get("trials", TRIALS)?,
        seed: words.get("seed", time.as_secs())?,
        file_system: match words.get("fs", "ext4".to_owned())?.as_str() {
            "ext4" => FileSystem::Ext4,
            "xfs" => FileSystem::Xfs,
            other => bail!("--fs is ext4 or xfs, not {other}"),
        },
        syncs: Syncs::Kept,
    };
    println!("seed {}", options.seed);
    binary()?;
    let outcome = power::run(options)?;
    println!("{outcome}");
    ensure!(
        outcome.findings.is_empty(),
        "{} trials found something",
        outcome.findings.len()
    );
    Ok(())
}
