//! Drills: a backup that brings its database back protects it; each damage that a backup can have is caught, and the check
//! that caught it is named; a kill of control in the middle changes nothing.

use std::fs;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use journeys::damage::{self, FAULTS, Fault, Places, as_root, failed, last, prepare};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::Value;

/// What drills left of `main`.
fn makings(stoa: &Stoa) -> Result<Vec<std::path::PathBuf>> {
    damage::volumes(stoa, "main", "making-")
}

fn protection(stoa: &Stoa) -> Result<Value> {
    let shown = stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()?;
    Ok(shown["protection"].clone())
}

#[test]
fn a_drill_protects() -> Result<()> {
    let stoa = Stoa::start("drill")?;
    prepare(&stoa)?;
    stoa.cli(&["db", "info", "main"])?
        .ok()?
        .says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["db", "ls"])?.ok()?.says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["status"])?.ok()?.says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["db", "drills", "main", "last"])?
        .exits(3)?
        .has_next_step()?;

    // Nobody is in the network of what is drilled: not even its environment.
    let (done, seen) = thread::scope(|scope| {
        let drill = scope.spawn(|| stoa.cli(&["db", "drill", "main"]));
        let seen = until("the instance of a drill", PATIENCE, || {
            let lonely = |process: &journeys::process::Process| {
                let devices = fs::read_to_string(format!("/proc/{}/net/dev", process.pid)).ok()?;
                let names: Vec<String> = devices
                    .lines()
                    .skip(2)
                    .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
                    .filter(|name| !name.starts_with("sit") && !name.starts_with("tunl"))
                    .collect();
                (names == ["lo"]).then_some(())
            };
            Ok(stoa.members("postgres -D").iter().find_map(lonely))
        });
        (drill.join().expect("no panic"), seen)
    });
    done?.ok()?.says("brings it back")?;
    seen?;

    let drill = last(&stoa)?;
    println!(
        "drill: rto {} ms, {} rows of {} tables",
        drill["rto_ms"], drill["rows"], drill["tables"]
    );
    ensure!(drill["state"] == "passed", "{drill:#}");
    let results: Vec<String> = drill["checks"]
        .as_array()
        .context("no checks")?
        .iter()
        .map(|check| format!("{}={}", check["check"], check["result"]).replace('"', ""))
        .collect();
    ensure!(
        results
            == [
                "log=passed",
                "manifest=passed",
                "start=passed",
                "place=passed",
                "canary=passed",
                "amcheck=passed",
                "read=passed",
                "rows=passed"
            ],
        "{results:?}: {drill:#}"
    );
    ensure!(
        drill["rows"].as_u64() >= Some(21_501) && drill["rto_ms"].as_u64() > Some(0),
        "{drill:#}"
    );
    ensure!(
        protection(&stoa)?["state"] == "protected",
        "{}",
        protection(&stoa)?
    );
    stoa.cli(&["db", "ls"])?.ok()?.says("protected")?;
    stoa.cli(&["db", "drills", "main", "last"])?
        .ok()?
        .says("amcheck")?;
    let id = drill["id"].as_str().context("no id")?;
    let one = stoa
        .api()?
        .get(&format!("{ENVIRONMENT}/databases/main/drills/{id}"))?;
    ensure!(one == drill, "{one:#}");
    let counters = stoa.cli(&["api", "GET", "/metrics"])?.ok()?;
    counters
        .says("stoa_database_protected{database=\"main\"")?
        .says("stoa_database_drill_rto_seconds")?;

    // It left nothing behind, and changed nothing in the database.
    ensure!(makings(&stoa)?.is_empty(), "{:?}", makings(&stoa)?);
    let extensions = as_root(
        &stoa,
        &["SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'"],
    )?;
    ensure!(extensions == "0", "amcheck was left in the database");

    stoa.cli(&["db", "branch", "main", "--as", "try"])?.ok()?;
    stoa.cli(&["db", "drill", "try"])?
        .exits(6)?
        .says("branch")?
        .has_next_step()?;
    stoa.cli(&["db", "drills", "try"])?.exits(6)?.says("branch")?;
    stoa.cli(&["db", "drill", "nowhere"])?.exits(3)?.has_next_step()?;

    // What was restored is to be proven anew.
    stoa.cli(&["db", "restore", "main", "--as", "back", "--latest"])?
        .ok()?;
    stoa.cli(&["db", "info", "back"])?
        .ok()?
        .says("UNPROTECTED: no drill yet")?;
    stoa.cli(&["db", "drill", "back"])?.ok()?.says("brings it back")?;
    stoa.finish()
}

#[test]
fn each_damage_is_caught_and_named() -> Result<()> {
    let stoa = Stoa::start("drill-damage")?;
    prepare(&stoa)?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    stoa.cli(&["db", "create", "other"])?.ok()?;
    damage::with_base(&stoa, "other")?;
    let at = Places::of(&stoa, "other")?;
    for Fault {
        what,
        happen,
        caught_by,
    } in FAULTS
    {
        let undo = happen(&at).with_context(|| format!("could not do: {what}"))?;
        let done = stoa.cli(&["db", "drill", "main"]);
        undo().with_context(|| format!("could not undo: {what}"))?;
        let drill = last(&stoa)?;
        let caught = failed(&drill);
        println!("{what}: {caught:?}");
        ensure!(drill["state"] == "failed", "{what} was not caught: {drill:#}");
        let missed: Vec<_> = caught_by.iter().filter(|check| !caught.contains(check)).collect();
        ensure!(missed.is_empty(), "{what} was missed by {missed:?}: {drill:#}");
        let first = caught.first().copied().unwrap_or_default();
        done?
            .exits(1)?
            .says(&format!("failed at the check {first}"))?
            .says("unprotected")?
            .has_next_step()?;
        let state = protection(&stoa)?;
        let why = state["why"].as_str().unwrap_or_default();
        ensure!(
            state["state"] == "unprotected" && why.contains(first),
            "{what}: {state}"
        );
        ensure!(makings(&stoa)?.is_empty(), "{what}: {:?}", makings(&stoa)?);
    }
    // Nothing was wrong but what was done to it.
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    ensure!(
        protection(&stoa)?["state"] == "protected",
        "{}",
        protection(&stoa)?
    );
    let all = stoa.cli(&["db", "drills", "main"])?.ok()?;
    all.says("FAILED at manifest")?
        .says("FAILED at log")?
        .says("passed")?;
    stoa.finish()
}

#[test]
fn a_kill_in_the_middle_changes_nothing() -> Result<()> {
    let stoa = Stoa::start("drill-kill")?;
    prepare(&stoa)?;
    let path = format!("{ENVIRONMENT}/databases/main/drills");
    for step in ["asking", "comparing", "replaying"] {
        let operation = stoa.api()?.begin("POST", &path, None)?;
        until(step, PATIENCE, || {
            let now = stoa.api()?.get(&format!("/v1/operations/{operation}"))?;
            let is_there = now["step"].as_str().is_some_and(|now| now.contains(step));
            if !is_there && now["state"] == "succeeded" {
                return Ok(Some(()));
            }
            Ok(is_there.then_some(()))
        })?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = stoa.api()?.settled(&operation)?;
        ensure!(settled["state"] == "succeeded", "{step}: {settled:#}");
        ensure!(last(&stoa)?["state"] == "passed", "{step}: {:#}", last(&stoa)?);
    }
    // One that is given up tells nothing.
    let operation = stoa.api()?.begin("POST", &path, None)?;
    let again = stoa.api()?.call("POST", &path, None)?;
    ensure!(again.status == 409, "two at once: {}", again.body);
    stoa.cli(&["op", "cancel", &operation])?;
    let settled = stoa.api()?.settled(&operation)?;
    match settled["state"].as_str() {
        Some("canceled") => ensure!(last(&stoa)?["state"] == "undone", "{:#}", last(&stoa)?),
        // It was done before.
        Some("succeeded") => {}
        _ => bail!("{settled:#}"),
    }
    ensure!(
        protection(&stoa)?["state"] == "protected",
        "{}",
        protection(&stoa)?
    );
    holds("nothing of it is left", || Ok(makings(&stoa)?.is_empty()))?;
    stoa.finish()
}
