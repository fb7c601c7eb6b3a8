//! `stoa doctor` on a store that is not as it was written.

use std::process::Command;

use anyhow::{Result, ensure};
use journeys::Stoa;

/// Runs one statement upon the store's file, as a failing disk or a curious hand would.
fn damage(stoa: &Stoa, statement: &str) -> Result<()> {
    const CODE: &str = "\
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
changed = db.execute(sys.argv[2]).rowcount
db.commit(); db.close()
sys.exit(0 if changed > 0 else 'nothing to damage')
";
    let store = stoa.data_dir().join("store/stoa.db");
    let status = Command::new("python3")
        .args(["-c", CODE])
        .arg(store)
        .arg(statement)
        .status()?;
    ensure!(status.success(), "the store could not be altered");
    Ok(())
}

#[test]
fn a_damaged_row_is_named_and_restored() -> Result<()> {
    let mut stoa = Stoa::start("doctor-store")?;
    stoa.cli(&["apps", "create", "kept"])?.ok()?;
    let data = stoa.data_dir().to_string_lossy().into_owned();
    let doctor = ["doctor", "--data-dir", &data];
    let repair = ["doctor", "--repair", "--data-dir", &data];
    // While it runs, nothing of the store is touched.
    stoa.cli(&repair)?
        .exits(1)?
        .says("already in use")?
        .has_next_step()?;
    stoa.interrupt()?;
    stoa.cli(&doctor)?.ok()?.says("as they were written")?;
    damage(
        &stoa,
        "UPDATE object SET generation = generation + 7 WHERE kind = 'app'",
    )?;
    stoa.cli(&doctor)?
        .exits(1)?
        .says("damaged")?
        .says("stoa doctor --repair")?;
    stoa.up()?;
    // The others are listed, and what is damaged is named as the log has it last.
    stoa.cli(&["apps", "create", "whole"])?.ok()?;
    let listed = stoa.cli(&["apps", "ls"])?.ok()?;
    let line = |name: &str| {
        listed
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
    };
    ensure!(
        line("kept").contains("damaged") && !line("whole").contains("damaged") && !line("whole").is_empty(),
        "{}",
        listed.stdout
    );
    listed.says("stoa doctor --repair")?;
    stoa.cli(&["ps"])?.says("stoa doctor --repair")?.has_next_step()?;
    let refused = stoa.cli(&["apps", "destroy", "kept", "--confirm", "kept"])?;
    ensure!(refused.code != 0, "a damaged row was changed: {}", refused.stdout);
    stoa.interrupt()?;
    stoa.cli(&repair)?
        .ok()?
        .says("restored app")?
        .says("store-before-repair")?;
    stoa.cli(&doctor)?.ok()?.says("as they were written")?;
    // The second run finds nothing to do.
    stoa.cli(&repair)?.ok()?.says("0 restored, 0 lost")?;
    stoa.up()?;
    stoa.cli(&["apps", "ls"])?.ok()?.says("kept")?;
    stoa.finish()
}

/// Reads, refusals and checks are in the log; who alters a row of it is found by the server and by the doctor.
#[test]
fn an_altered_row_of_the_audit_log_is_named() -> Result<()> {
    let mut stoa = Stoa::start("doctor-audit")?;
    stoa.cli(&["apps", "create", "kept"])?.ok()?;
    stoa.cli(&["apps", "create", "kept"])?.exits(6)?;
    stoa.cli(&["audit", "verify"])?
        .ok()?
        .says("as they were written")?;
    stoa.cli(&["audit", "ls", "-n", "20"])?
        .ok()?
        .says("app.create")?
        .says("refused")?
        .says("name_taken")?
        .says("audit.verify")?;
    let export = stoa.cli(&["audit", "export"])?.ok()?.stdout;
    let rows = export
        .lines()
        .map(serde_json::from_str::<serde_json::Value>)
        .collect::<Result<Vec<_>, _>>()?;
    let numbers: Vec<u64> = rows.iter().filter_map(|row| row["number"].as_u64()).collect();
    ensure!(
        numbers.last() == Some(&1) && numbers.windows(2).all(|pair| pair[0] == pair[1] + 1),
        "rows are missing: {numbers:?}"
    );
    stoa.interrupt()?;
    let data = stoa.data_dir().to_string_lossy().into_owned();
    let doctor = ["doctor", "--data-dir", &data];
    stoa.cli(&doctor)?.ok()?.says("audit log")?;
    damage(
        &stoa,
        "UPDATE audit SET record = replace(record, 'actor', 'aktor') WHERE seq = 1",
    )?;
    stoa.cli(&doctor)?.says("row 1 is not as it was written")?;
    stoa.up()?;
    stoa.cli(&["audit", "verify"])?
        .exits(1)?
        .says("row 1 is not as it was written")?
        .has_next_step()?;
    stoa.cli(&["apps", "ls"])?.ok()?.says("kept")?;
    stoa.finish()
}
