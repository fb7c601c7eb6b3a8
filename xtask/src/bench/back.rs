//! How soon control is back after `kill -9` with 200 instances. There is no peer to beat but the promise itself.

use anyhow::Result;
use journeys::back::{Crowd, Victim};

use super::{Figure, Pairs, Rounds, noise};

const INSTANCES: usize = 200;
/// Enough to show that it still measures.
const FEW: usize = 20;
/// What is promised, in milliseconds.
const WRITE_MS: f64 = 1000.0;
const ADOPTED_MS: f64 = 3000.0;

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let count = if rounds.noise_counts { FEW } else { INSTANCES };
    let mut crowd = Crowd::start(count)?;
    let mut figures = Vec::new();
    for (victim, name) in [
        (Victim::Control, "control"),
        (Victim::Warden, "warden, then stoa up"),
    ] {
        let (mut write, mut adopted) = (Pairs::default(), Pairs::default());
        noise::quiet_rounds(
            rounds,
            |_| crowd.kill(victim),
            |back| {
                write.add(back.write.as_secs_f64() * 1000.0, WRITE_MS);
                adopted.add(back.adopted.as_secs_f64() * 1000.0, ADOPTED_MS);
            },
        )?;
        for (what, pairs) in [("first acknowledged write", write), ("all adopted", adopted)] {
            figures.push(Figure {
                what: format!("{what} after kill -9 of {name}, {count} instances"),
                peer: "the promise".into(),
                unit: "ms",
                pairs,
                goal: 1.0,
            });
        }
    }
    crowd.finish()?;
    Ok(figures)
}
