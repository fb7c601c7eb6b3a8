//! The S3 server that the journeys of backups elsewhere write to: s3s-fs from crates.io, pinned, below the target directory.

use anyhow::{Context as _, Result};

use crate::repository;
use crate::step::Step;

/// The last that Rust 1.92 builds.
const VERSION: &str = "0.14.1";

/// Installs it when it is not there in that version: about two minutes on two cores, once.
///
/// # Errors
/// When crates.io does not give it or it does not build.
pub fn install() -> Result<()> {
    let root = repository::target().join("s3s-fs");
    let mark = root.join("version");
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == VERSION) {
        return Ok(());
    }
    Step::cargo("s3s-fs")
        .args(["install", "s3s-fs", "--version", VERSION, "--features", "binary"])
        .args(["--locked", "--debug", "--force", "--root"])
        .args([&root])
        .args(["--target-dir"])
        .args([root.join("build")])
        .run()
        .context("the S3 server of the journeys could not be installed; is crates.io reachable?")?;
    // What it was built of takes ten times the room.
    let _kept = std::fs::remove_dir_all(root.join("build"));
    std::fs::write(&mark, VERSION).context("could not note the version of s3s-fs")
}
