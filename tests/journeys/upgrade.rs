//! The platform itself is replaced while it serves: no failed request, no workload that notices, and a way back.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::platform::Platform;
use journeys::process;
use journeys::traffic::{Load, Traffic};
use journeys::{PATIENCE, Stoa, holds, until};

const UPGRADES: usize = 3;
/// Each kind must have been at work all the time, or nothing is proven.
const EXCHANGES_AT_LEAST: u64 = 3;
/// The load goes on for so long before each upgrade and after the last: a slow answer (2.5 s) then spans each of them.
const WORK: Duration = Duration::from_secs(2);

/// No exchange failed, and every kind was at work.
fn nothing_failed(traffic: Traffic) -> Result<()> {
    traffic.go_on(EXCHANGES_AT_LEAST)?;
    let report = traffic.stop();
    println!("{report}");
    ensure!(report.faults() == 0, "{:#?}", report.troubles);
    for (kind, tally) in &report.tallies {
        ensure!(
            tally.answered >= EXCHANGES_AT_LEAST,
            "{} hardly worked: {}",
            kind.name(),
            tally.answered
        );
    }
    Ok(())
}

#[test]
fn the_platform_is_upgraded_under_load_without_a_failed_request() -> Result<()> {
    let world = Platform::start("upgrade")?;
    let warden = world.stoa.warden()?;
    let real = world.binary()?;
    let traffic = world.traffic(Load::usual())?;
    for number in 1..=UPGRADES {
        let copy = world.stoa.root().join(format!("stoa-{number}"));
        fs::copy(&real, &copy)?;
        thread::sleep(WORK);
        world.becomes(&copy)?;
    }
    thread::sleep(WORK);
    nothing_failed(traffic)?;
    // What was replaced is gone when its connections are.
    holds("one edge and one control", || {
        Ok(process::children(warden.pid).len() == 2)
    })?;
    // The new warden keeps its children: a killed one comes back, from the new binary.
    for role in ["control", "edge"] {
        let before = world.stoa.part(role)?;
        before.signal(libc::SIGKILL)?;
        until("its successor", PATIENCE, || {
            Ok(world
                .stoa
                .part(role)
                .ok()
                .filter(|now| now.pid != before.pid)
                .map(|_| ()))
        })?;
    }
    holds("requests to be served again", || {
        Ok(world
            .stoa
            .get(&world.app.host(), "/")
            .is_ok_and(|answer| answer.status == 200))
    })?;
    holds("the API to answer", || Ok(world.stoa.cli(&["status"])?.code == 0))?;
    let last = world.stoa.root().join(format!("stoa-{UPGRADES}"));
    ensure!(
        world.runs_from(&last)?,
        "not everything runs from {}",
        last.display()
    );
    world.nothing_noticed()?;
    world.deploys()?;
    world.stoa.finish()
}

#[test]
fn a_binary_that_does_not_work_is_not_kept() -> Result<()> {
    let world = Platform::start("upgrade-broken")?;
    let real = world.binary()?;
    let traffic = world.traffic(Load::usual())?;
    let text = world.stoa.root().join("text");
    fs::write(&text, "not a program")?;
    let missing = world.stoa.root().join("missing");
    let refused = [
        (missing, "there is no"),
        (text, "not an executable file"),
        (world.stoa.root().to_owned(), "not an executable file"),
        (PathBuf::from("/bin/false"), "is not a Stoa"),
        (PathBuf::from("/bin/echo"), "is not a Stoa"),
        (
            world.broken("__check-store", "echo error: the store is too new >&2; exit 78")?,
            "cannot use this store (exit status: 78): the store is too new",
        ),
        (
            world.broken("up", "exit 2")?,
            "does not start with the arguments of this one",
        ),
        (
            world.broken("__edge", "exit 3")?,
            "the new edge ended with exit status: 3",
        ),
        (
            world.broken("__control", "exit 78")?,
            "the new control ended with exit status: 78",
        ),
    ];
    for (binary, why) in &refused {
        thread::sleep(WORK);
        let answer = world.upgrade(binary)?;
        ensure!(answer.code == 1, "{} was taken: {answer:?}", binary.display());
        answer.says(why)?.says("next:")?;
        ensure!(
            world.runs_from(&real)?,
            "after {} something else runs",
            binary.display()
        );
        world.nothing_noticed()?;
    }
    thread::sleep(WORK);
    nothing_failed(traffic)?;
    world.deploys()?;
    world.stoa.finish()
}

/// What the control of a newer Stoa does to the store before it fails: a copy, then another schema.
const MIGRATES: &str = r#"exec python3 -c 'import sqlite3, sys
path = sys.argv[1] + "/store/stoa.db"
store = sqlite3.connect(path)
store.execute("VACUUM INTO ?", (path + ".before-v2",))
store.execute("PRAGMA user_version = 2")
store.execute("DROP TABLE audit")
store.close()
sys.exit(4)' "$2""#;

#[test]
fn a_migration_by_a_binary_that_does_not_work_is_undone() -> Result<()> {
    let world = Platform::start("upgrade-undone")?;
    let real = world.binary()?;
    let traffic = world.traffic(Load::usual())?;
    thread::sleep(WORK);
    let answer = world.upgrade(&world.broken("__control", MIGRATES)?)?;
    ensure!(answer.code == 1, "it was taken: {answer:?}");
    answer.says("the new control ended with exit status: 4")?;
    ensure!(
        world
            .stoa
            .log()
            .contains("the store goes back to before the upgrade"),
        "nothing was undone"
    );
    ensure!(world.runs_from(&real)?, "something else runs");
    world.nothing_noticed()?;
    thread::sleep(WORK * 2);
    nothing_failed(traffic)?;
    world.deploys()?;
    world.stoa.finish()
}

#[test]
fn nothing_to_upgrade_is_said() -> Result<()> {
    let stoa = Stoa::prepare("upgrade-nothing")?;
    let data = stoa.data_dir();
    let arguments = [
        "server",
        "upgrade",
        "--to",
        "/bin/true",
        "--data-dir",
        data.to_str().context("a path")?,
    ];
    let answer = stoa.cli(&arguments)?;
    ensure!(answer.code == 1, "it upgraded nothing: {answer:?}");
    answer.says("there is no Stoa in")?;
    fs::create_dir_all(&data)?;
    let answer = stoa.cli(&arguments)?;
    ensure!(answer.code == 1, "it upgraded nothing: {answer:?}");
    answer.says("no Stoa runs on")?;
    Ok(())
}
