//! Waiting for facts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a fact may take on a loaded machine with two cores. A bound against hanging, not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(25);

/// Asks again until there is an answer; the last error or "not yet" is told when time runs out.
///
/// # Errors
/// When there is none within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let answer = ask();
        let trouble = match answer {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if begin.elapsed() > limit {
            bail!("waited {} s for: {what}; last: {trouble}", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// Like [`until`] for a yes or no.
///
/// # Errors
/// When it does not hold within [`PATIENCE`].
pub fn holds(what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, PATIENCE, || Ok(ask()?.then_some(())))
}
