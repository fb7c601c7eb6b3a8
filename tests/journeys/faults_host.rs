//! Faults of the whole host (F9 of the reliability note): a reboot.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use journeys::{Fleet, PATIENCE, Stoa, Tiny, holds, reboot, until};

/// Copies of the app without a database.
const COPIES: usize = 3;

#[test]
fn f09_after_a_reboot_everything_desired_returns_databases_before_apps() -> Result<()> {
    let mut stoa = Stoa::start("faults-reboot")?;
    let fleet = Fleet::new(&stoa)?;
    fleet.deploy("plain", &Tiny::version(1).with(&format!("scale = {COPIES}")))?;
    let uses = "uses = [\"main\"]\n\n[databases]\nmain = { engine = \"postgres\" }";
    let guest = Tiny::version(2)
        .script("busybox nc -w 5 main.db.internal 5432 </dev/null >/dev/null || exit 9; SERVE")
        .with(uses);
    fleet.deploy("guest", &guest)?;
    query(&stoa, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (41)")?;
    let serving = fleet.serving("guest")?;
    let (before, former) = (ids(&fleet)?, stoa.instance_folders());
    ensure!(former.len() >= COPIES + 2, "only {former:?}");

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
    // It ends at once when its database does not listen, so another life would show that it came first.
    let seen = fleet.instances("guest")?;
    let guest = seen
        .iter()
        .find(|one| one["condition"] == "ready")
        .context("a guest")?;
    ensure!(
        guest["attempt"] == 1,
        "the app began before its database: {seen:#?}"
    );
    until("the former instances to be gone", PATIENCE, || {
        let folders = stoa.instance_folders();
        let left: Vec<_> = folders.intersection(&former).collect();
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(Some(()))
    })?;
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
