//! `stoa doctor` on a store that is not as it was written.

use std::process::Command;

use anyhow::{Result, ensure};
use journeys::Stoa;

/// Alters one column of every app, as a failing disk or a curious hand would.
fn damage(stoa: &Stoa) -> Result<()> {
    const CODE: &str = "\
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
changed = db.execute(\"UPDATE object SET generation = generation + 7 WHERE kind = 'app'\").rowcount
db.commit(); db.close()
sys.exit(0 if changed > 0 else 'no app to damage')
";
    let store = stoa.data_dir().join("store/stoa.db");
    let status = Command::new("python3").args(["-c", CODE]).arg(store).status()?;
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
    damage(&stoa)?;
    stoa.cli(&doctor)?
        .exits(1)?
        .says("damaged")?
        .says("stoa doctor --repair")?;
    stoa.up()?;
    let refused = stoa.cli(&["apps", "ls"])?;
    ensure!(refused.code != 0, "a damaged row was served: {}", refused.stdout);
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
