//! F3: control dies at each step of a work, and again at the steps of its recovery.
//!
//! Lives here: which steps. Does not live here: what a step is (`nerves`), what must hold (`rules`).
//! A step is a write to the store, a call of the engine or a publication: what lies between two of them has no effect
//! outside of control's memory.

use std::time::Instant;

use crate::PROCESS;
use crate::fleet::{Work, scripted};

const WORKS: [Work; 6] = [
    Work::Deploy(""),
    Work::Deploy("[rollout]\nstrategy = \"blue-green\"\n"),
    Work::Deploy("[rollout]\nstrategy = \"canary\"\nsteps = [\"50%:3s\", \"100%\"]\n"),
    Work::BadDeploy,
    Work::Rollback,
    Work::Delete,
];
/// Of the steps of a recovery, every so manieth is a second death in the short run, each time others.
const STRIDE: u64 = 17;

/// Control dies at each step; answers how many deaths that were.
fn at_each_step(work: Work, stride: u64) -> Result<(u64, u64), String> {
    let steps = scripted(work, &[])?.unwrap_or_default();
    let (mut reached, mut again) = (0, 0);
    for first in 1..=steps {
        let told =
            |second: u64, why: String| format!("{work:?}, deaths at steps {first} and {second}: {why}");
        let Some(recovery) = scripted(work, &[first]).map_err(|why| told(0, why))? else {
            continue;
        };
        reached += 1;
        let mut second = 1 + first % stride;
        while second <= recovery {
            again += u64::from(
                scripted(work, &[first, second])
                    .map_err(|why| told(second, why))?
                    .is_some(),
            );
            second += stride;
        }
    }
    println!("{work:?}: {steps} steps, died at {reached} of them, and {again} times again in the recovery");
    assert!(
        reached >= steps.saturating_sub(2) && steps > 10,
        "too few were reached"
    );
    Ok((reached, again))
}

fn at_each_step_of_all(stride: u64) {
    let _shared = PROCESS.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let begin = Instant::now();
    let (mut reached, mut again) = (0, 0);
    for work in WORKS {
        match at_each_step(work, stride) {
            Ok(counts) => {
                reached += counts.0;
                again += counts.1;
            }
            Err(why) => panic!("{why}"),
        }
    }
    println!(
        "{reached} deaths, {again} pairs of them, 0 broken rules, {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

#[test]
fn f03_control_dies_at_each_step_and_again_in_its_recovery() {
    at_each_step_of_all(STRIDE);
}

/// The long run: `cargo xtask soak sim`.
#[test]
#[ignore = "each step with each step of its recovery"]
fn soak_failpoints() {
    at_each_step_of_all(1);
}
