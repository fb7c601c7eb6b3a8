//! `cargo xtask soak db-rpo`.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use journeys::soak::rpo::{self, Level, Options};

use super::{Words, binary};

const TRIALS: u64 = 500;
/// What `stream` may lose at the worst of a hundred trials.
const STREAM_MOST: Duration = Duration::from_secs(1);

pub fn run(words: &Words<'_>) -> Result<()> {
    let options = Options {
        trials: words.get("trials", TRIALS)?,
        level: match words.get("level", "stream".to_owned())?.as_str() {
            "stream" => Level::Stream,
            "sync" => Level::Sync,
            other => bail!("--level is stream or sync, not {other}"),
        },
        seed: words.get("seed", 1)?,
    };
    binary()?;
    let outcome = rpo::run(options)?;
    println!("{outcome}");
    ensure!(outcome.holes.is_empty(), "{}", outcome.holes.join("\n"));
    match options.level {
        Level::Sync => ensure!(outcome.lost == 0, "{} rows were lost", outcome.lost),
        Level::Stream => ensure!(
            outcome.rpo_p99() <= STREAM_MOST,
            "a row of {} ms before was lost",
            outcome.rpo_p99().as_millis()
        ),
    }
    Ok(())
}
