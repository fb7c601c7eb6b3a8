//! Whether a branch of what a drill left takes longer of a larger database.
//!
//! Both are ours, in one Stoa, each from the call to the API until the operation has succeeded and `stoa db connect` has
//! answered a query. The peer is the smaller one. Both copies must hold every row, which is looked at outside of what is timed.

use anyhow::Result;
use journeys::Stoa;

use super::branch::{drilled, ours};
use super::filled::Filled;
use super::{Figure, Pairs, Rounds, noise};

/// The promise.
const GOAL: f64 = 1.3;
/// Of the smaller one.
const GIGABYTES: u64 = 1;
/// The larger one is so many times as large.
const FACTOR: u64 = 10;

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let small = Filled::of(rounds, GIGABYTES);
    let large = small.times(FACTOR);
    let stoa = Stoa::start("bench-growth")?;
    drilled(&stoa, "small", small)?;
    drilled(&stoa, "large", large)?;
    let mut pairs = Pairs::default();
    noise::quiet_rounds(
        rounds,
        |round| {
            let branch = |parent: &str, filled: Filled| -> Result<f64> {
                let name = format!("{parent}-{round}");
                Ok(ours(&stoa, parent, &name, "drilled", filled.rows, || Ok(()))?.took_ms())
            };
            if round % 2 == 0 {
                let of_large = branch("large", large)?;
                Ok((of_large, branch("small", small)?))
            } else {
                let of_small = branch("small", small)?;
                Ok((branch("large", large)?, of_small))
            }
        },
        |(of_large, of_small): (f64, f64)| pairs.add(of_large, of_small),
    )?;
    stoa.finish()?;
    Ok(vec![Figure {
        what: format!("branch of what a drill left to first answer, {}", large.size()),
        peer: small.size(),
        unit: "ms",
        pairs,
        goal: GOAL,
    }])
}
