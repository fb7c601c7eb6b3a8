//! A deploy never fails a request: fifty of them under constant load.

use anyhow::{Result, ensure};
use journeys::load::Load;
use journeys::{Application, Stoa};

const DEPLOYS: usize = 50;
/// Each client must have been at work all the time, or nothing is proven.
const ANSWERS_AT_LEAST: u64 = 5;

#[test]
fn fifty_deploys_under_load_fail_no_request() -> Result<()> {
    let stoa = Stoa::start("fifty")?;
    let app = Application::copy("probe", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    let load = Load::start(stoa.listeners().http, &app.host());
    for version in 1..=DEPLOYS {
        app.replace(
            "stoa.toml",
            &format!("VERSION = \"{version}\""),
            &format!("VERSION = \"{}\"", version + 1),
        )?;
        stoa.deploy(&app)?.ok()?;
        let now = stoa.get(&app.host(), "/")?.text();
        ensure!(
            now == (version + 1).to_string(),
            "after deploy {version} the edge still gives {now}"
        );
    }
    let tallies = load.stop();
    for tally in &tallies {
        println!(
            "{}: {} answered, {} failed, {} cut",
            tally.client,
            tally.answered,
            tally.failures.len(),
            tally.cuts
        );
    }
    for tally in &tallies {
        ensure!(
            tally.failures.is_empty(),
            "{} failed: {:#?}",
            tally.client,
            tally.failures
        );
        ensure!(
            tally.cuts == 0,
            "{}: {} connections were cut",
            tally.client,
            tally.cuts
        );
        ensure!(
            tally.answered >= ANSWERS_AT_LEAST,
            "{} hardly worked: {}",
            tally.client,
            tally.answered
        );
    }
    let seen: usize = tallies.iter().map(|tally| tally.bodies.len()).max().unwrap_or(0);
    ensure!(seen > DEPLOYS / 2, "the load saw only {seen} releases");
    stoa.finish()
}
