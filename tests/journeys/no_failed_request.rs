//! A deploy never fails a request: fifty of them, good and bad, under traffic of every kind.

use anyhow::{Context as _, Result, ensure};
use journeys::traffic::{Load, Traffic};
use journeys::{Application, Stoa};

const DEPLOYS: usize = 50;
/// Every fifth release is bad: by turns it ends at once, or never gets ready.
const BAD: [&str; 2] = ["BROKEN = \"1\"", "HEALTH = \"500\""];
const BAD_EACH: usize = 5;
/// Each kind must have been at work all the time, or nothing is proven.
const EXCHANGES_AT_LEAST: u64 = 20;

/// The release of a version; a bad one gets a second to get ready.
fn write(app: &Application, version: &str, bad: Option<&str>) -> Result<()> {
    let text = format!(
        "schema = 1\napp = \"probe\"\n\n[env]\nVERSION = \"{version}\"\n{}\n\n[services.web]\n\
         command = \"python3 server.py\"\nport = 8080\n\
         health = {{ path = \"/healthz\", interval = \"500ms\"{} }}\n",
        bad.unwrap_or_default(),
        if bad.is_some() { ", grace = \"1s\"" } else { "" },
    );
    app.write("stoa.toml", &text)
}

#[test]
fn fifty_deploys_good_and_bad_under_traffic_fail_no_request() -> Result<()> {
    let stoa = Stoa::start("fifty")?;
    let app = Application::copy("probe", stoa.root())?;
    let mut serving = "v0".to_owned();
    write(&app, &serving, None)?;
    stoa.deploy(&app)?.ok()?;
    let traffic = Traffic::start(stoa.listeners().http, &app.host(), &serving, Load::usual())?;
    for number in 1..=DEPLOYS {
        let version = format!("v{number}");
        let bad = (number % BAD_EACH == 0).then(|| BAD[number / BAD_EACH % BAD.len()]);
        write(&app, &version, bad)?;
        if bad.is_some() {
            // The traffic still allows only what served before.
            stoa.deploy(&app)?.exits(7)?.says("still serves")?;
        } else {
            traffic.may(&version);
            stoa.deploy(&app)?.ok()?;
            traffic.only(&version);
            serving = version;
        }
        let now = stoa.get(&app.host(), "/")?.text();
        ensure!(
            now == serving,
            "after deploy {number} the edge gives {now}, not {serving}"
        );
    }
    traffic.go_on(EXCHANGES_AT_LEAST)?;
    let report = traffic.stop();
    println!("{report}");
    ensure!(report.faults() == 0, "{:#?}", report.troubles);
    ensure!(report.cuts() == 0, "{} connections were cut", report.cuts());
    for (kind, tally) in &report.tallies {
        ensure!(
            tally.answered >= EXCHANGES_AT_LEAST,
            "{} hardly worked: {}",
            kind.name(),
            tally.answered
        );
    }
    let seen = report.releases.len();
    ensure!(seen > DEPLOYS / 2, "the traffic saw only {seen} releases");
    let releases = stoa
        .cli(&["releases", "--app", "probe", "--json"])?
        .ok()?
        .items()?;
    let states = releases.iter().map(|release| release["state"].as_str());
    let states: Vec<&str> = states
        .collect::<Option<_>>()
        .context("a release without a state")?;
    ensure!(
        states.contains(&"rejected"),
        "no release was rejected: {states:?}"
    );
    stoa.finish()
}
