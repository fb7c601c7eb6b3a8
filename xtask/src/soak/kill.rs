//! `cargo xtask soak kill`.

use anyhow::{Result, bail, ensure};
use journeys::soak::kill::{self, Aim, Options};
use journeys::traffic::Load;

use super::{Words, binary};

const TRIALS: u64 = 500;

pub fn run(words: &Words<'_>) -> Result<()> {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let options = Options {
        trials: words.get("trials", TRIALS)?,
        seed: words.get("seed", time.as_secs())?,
        databases: match words.get("databases", "yes".to_owned())?.as_str() {
            "yes" => true,
            "no" => false,
            other => bail!("--databases is yes or no, not {other}"),
        },
        load: Load::times(words.get("load", 1.0)?),
        aim: match words.get("aim", "anything".to_owned())?.as_str() {
            "anything" => Aim::Anything,
            "movements" => Aim::Movements,
            other => bail!("--aim is anything or movements, not {other}"),
        },
    };
    println!("seed {}", options.seed);
    binary()?;
    let outcome = kill::run(options)?;
    println!("{outcome}");
    ensure!(
        outcome.findings.is_empty(),
        "{} trials found something",
        outcome.findings.len()
    );
    Ok(())
}
