//! A canary gets its share under load, and fails no request on its way to everything.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use journeys::traffic::{Load, Traffic};
use journeys::{Application, PATIENCE, Stoa, until};

/// Requests on connections of their own while the canary has its 20 %: 40 are expected, with a deviation of 6.
const REQUESTS: usize = 200;
const EXPECTED: std::ops::RangeInclusive<usize> = 10..=80;

#[test]
fn a_canary_under_load_fails_no_request() -> Result<()> {
    let stoa = Stoa::start("canary")?;
    let app = Application::copy("probe", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    let text = std::fs::read_to_string(app.folder().join("stoa.toml"))?;
    let text = text.replace("VERSION = \"1\"", "VERSION = \"2\"");
    app.write(
        "stoa.toml",
        &format!("{text}\n[rollout]\nstrategy = \"canary\"\nsteps = [\"20%:20s\"]\n"),
    )?;
    let plan = stoa.cli_in(app.folder(), &["deploy", "--plan"], b"")?.ok()?;
    let plan = plan.says("give 20% of the requests to v2 for 20s")?;
    plan.says("variable VERSION changed")?;
    let traffic = Traffic::start(stoa.listeners().http, &app.host(), "1", Load::usual())?;
    let answer = || Ok::<_, anyhow::Error>(stoa.get(&app.host(), "/")?.text());
    ensure!(answer()? == "1", "a plan changes nothing");
    traffic.may("2");
    let tried = thread::scope(|scope| {
        let deploy = scope.spawn(|| stoa.deploy(&app)?.ok());
        let tried = (|| {
            until("the canary answers", PATIENCE, || {
                Ok((answer()? == "2").then_some(()))
            })?;
            let mut tried = 0;
            for _ in 0..REQUESTS {
                tried += usize::from(answer()? == "2");
            }
            ensure!(
                !deploy.is_finished(),
                "the trial was over before it was looked at"
            );
            Ok(tried)
        })();
        let end = deploy.join().ok().context("the deploy panicked")?;
        end.and(tried)
    })?;
    println!("{tried} of {REQUESTS} requests reached a canary of 20%");
    ensure!(answer()? == "2", "the canary was not promoted");
    traffic.only("2");
    let report = traffic.stop();
    println!("{report}");
    ensure!(report.faults() == 0, "{:#?}", report.troubles);
    ensure!(report.cuts() == 0, "{} connections were cut", report.cuts());
    ensure!(EXPECTED.contains(&tried), "{tried} of {REQUESTS} are not 20%");
    stoa.finish()
}
