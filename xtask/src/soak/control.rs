//! `cargo xtask soak control`.

use anyhow::{Result, ensure};
use journeys::soak::control::{self, Options};
use journeys::traffic::Load;

use super::{Words, binary};

const KILLS: u64 = 1000;

pub fn run(words: &Words<'_>) -> Result<()> {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let options = Options {
        kills: words.get("kills", KILLS)?,
        seed: words.get("seed", time.as_secs())?,
        load: Load::times(words.get("load", 1.0)?),
    };
    println!("seed {}", options.seed);
    binary()?;
    let outcome = control::run(options)?;
    println!("{outcome}");
    ensure!(outcome.findings.is_empty(), "{:#?}", outcome.findings);
    Ok(())
}
