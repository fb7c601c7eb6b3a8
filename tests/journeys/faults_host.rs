//! Faults of the whole host (F9 of the reliability note): a reboot.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use journeys::{Fleet, Instance, PATIENCE, Stoa, Tiny, holds, reboot, until};

/// Copies of the app without a database.
const COPIES: usize = 3;

#[test]
fn f09_after_a_reboot_everything_desired_returns_databases_before_apps() -> Result<()> {
    let mut stoa = Stoa::start("faults-reboot")?;
    let fleet = Fleet::new(&stoa)?;
    fleet.deploy("plain", &Tiny::version(1).with(&format!("scale = {COPIES}")))?;
    let uses = "uses = [\"main\"]\n\n[databases]\nmain = { engine = \"postgres\" }";
    fleet.deploy("guest", &Tiny::version(2).with(uses))?;
    query(&stoa, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (41)")?;
    let serving = fleet.serving("guest")?;
    let before = ids(&fleet)?;

    reboot(&mut stoa)?;
    ensure!(
        stoa.get("plain.localhost", "/").is_err(),
        "something still serves"
    );
    let begin = Instant::now();
    stoa.up()?;
    // Until control has looked, the API tells of what was before.
    until("other instances than before", PATIENCE, || {
        Ok(ids(&fleet)?.is_disjoint(&before).then_some(()))
    })?;
    println!(
        "everything is ready {:.1} s after stoa up",
        begin.elapsed().as_secs_f64()
    );

    // All of it anew and once, and nothing that nobody asked for.
    let after = ids(&fleet)?;
    ensure!(fleet.serving("guest")? == serving, "another release serves");
    for (app, answer) in [("plain", "1"), ("guest", "2")] {
        holds("it to answer", || {
            Ok(stoa.get(&format!("{app}.localhost"), "/")?.text() == answer)
        })?;
    }
    ensure!(
        query(&stoa, "SELECT n + 1 FROM kept")? == "42",
        "the database lost a row"
    );
    let guest = fleet.ready("guest")?.pop().context("a guest")?;
    let guest_began = began(&stoa, Instance::of(&stoa, &guest)?.name())?;
    let databases: Vec<String> = stoa
        .instance_folders()
        .into_iter()
        .filter(|name| !after.iter().any(|id| id.replace('_', "-") == *name))
        .collect();
    until("the former instances to be gone", PATIENCE, || {
        let left = stoa.instance_folders();
        Ok((left.len() == COPIES + 2).then_some(()))
    })?;
    for database in &databases {
        if let Ok(database_began) = began(&stoa, database) {
            ensure!(
                database_began < guest_began,
                "the app began {guest_began}, its database {database_began}"
            );
        }
    }
    stoa.finish()
}

fn query(stoa: &Stoa, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", "main", "--", "-Atc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

fn ids(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let mut ids: BTreeSet<String> = fleet.wait_ready("plain", COPIES)?.into_iter().collect();
    ids.extend(fleet.wait_ready("guest", 1)?);
    Ok(ids)
}

/// When the program of an instance began, as its keeper wrote it down.
fn began(stoa: &Stoa, name: &str) -> Result<u64> {
    let record = fs::read_to_string(stoa.data_dir().join("instances").join(name).join("record"))?;
    let line = record
        .lines()
        .find_map(|line| line.strip_prefix("started_at_ms "));
    Ok(line.context("no start in the record")?.trim().parse()?)
}
