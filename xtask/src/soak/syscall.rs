//! `cargo xtask soak syscall`.

use anyhow::{Result, bail, ensure};
use journeys::soak::syscall::{self, Fault, Options, What};
use journeys::traffic::Load;

use super::{Words, binary};

pub fn run(words: &Words<'_>) -> Result<()> {
    let to = words.get("to", 0)?;
    let options = Options {
        seed: words.get("seed", 0)?,
        from: words.get("from", 1)?,
        to: (to > 0).then_some(to),
        stride: words.get("stride", 1)?,
        what: match words.get("operation", "deploy".to_owned())?.as_str() {
            "deploy" => What::Deploy,
            "rollback" => What::Rollback,
            other => bail!("--operation is deploy or rollback, not {other}"),
        },
        fault: match words.get("fault", "kill".to_owned())?.as_str() {
            "kill" => Fault::Kill,
            "eio" => Fault::Error,
            "eintr" => Fault::Interrupted,
            "short" => Fault::Short,
            other => bail!("--fault is kill, eio, eintr or short, not {other}"),
        },
        load: Load::times(words.get("load", 0.3)?),
    };
    binary()?;
    let outcome = syscall::run(options)?;
    println!("{outcome}");
    let wrong = outcome.findings().len();
    ensure!(wrong == 0, "{wrong} points found something");
    Ok(())
}
