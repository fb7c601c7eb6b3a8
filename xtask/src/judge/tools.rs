//! The judges' programs: pinned in `xtask/judges`, installed once below the target directory.
//!
//! Lives here: installing by npm and pip. Does not live here: asking them.
//! Invariant: what is installed is what the lock files say; a changed lock file installs anew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::repository;
use crate::step::Step;

const NODE_PINS: [&str; 2] = ["package.json", "package-lock.json"];

/// Where they are.
pub struct Tools(PathBuf);

impl Tools {
    /// A program that came by npm.
    pub fn node(&self, name: &str) -> PathBuf {
        self.0.join("node/node_modules/.bin").join(name)
    }

    /// A program that came by pip.
    pub fn python(&self, name: &str) -> PathBuf {
        self.0.join("python/bin").join(name)
    }
}

/// Installs what is missing or pinned otherwise by now.
///
/// # Errors
/// When a registry does not give it.
pub fn install() -> Result<Tools> {
    let pins = repository::root().join("xtask/judges");
    let tools = Tools(repository::target().join("judges"));
    installed(&tools.0.join("node"), &pins, &NODE_PINS, |folder| {
        npm(&pins, folder)
    })?;
    // Not a judge, but a stranger to be tried against, too: the provider of OpenID Connect in the tests of signing in.
    let provider = pins.join("oidc");
    installed(&tools.0.join("oidc"), &provider, &NODE_PINS, |folder| {
        npm(&provider, folder)
    })?;
    installed(
        &tools.0.join("python"),
        &pins,
        &["requirements.txt", "constraints.txt"],
        |folder| {
            Step::new("judges-venv", "python3")
                .args(["-m", "venv"])
                .args([folder])
                .run()?;
            Step::new("judges-pip", folder.join("bin/pip"))
                .args(["install", "--disable-pip-version-check", "--only-binary", ":all:"])
                .args(["--requirement"])
                .args([pins.join("requirements.txt")])
                .args(["--constraint"])
                .args([pins.join("constraints.txt")])
                .run()
                .context("pip could not install the judges; is its index reachable?")?;
            Ok(())
        },
    )?;
    Ok(tools)
}

fn npm(pins: &Path, folder: &Path) -> Result<()> {
    for file in NODE_PINS {
        fs::copy(pins.join(file), folder.join(file))?;
    }
    Step::new("judges-npm", "npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
        .args([folder])
        .run()
        .context("npm could not install what is pinned; is its registry reachable?")
        .map(drop)
}

/// Does it unless what was done last has the same pins.
fn installed(
    folder: &Path,
    pins: &Path,
    files: &[&str],
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let mut wanted = String::new();
    for file in files {
        let path = pins.join(file);
        wanted += &fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    }
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    install(folder)?;
    fs::write(&stamp, wanted).with_context(|| format!("could not write {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::installed;
    use std::cell::Cell;
    use std::fs;

    #[test]
    fn the_same_pins_install_once_and_a_failure_counts_for_nothing() {
        let root = std::env::temp_dir().join(format!("xtask-judges-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a folder");
        let (folder, times) = (root.join("tools"), Cell::new(0));
        let go = |works: bool| {
            installed(&folder, &root, &["pins"], |_| {
                times.set(times.get() + 1);
                anyhow::ensure!(works, "the registry is away");
                Ok(())
            })
        };
        assert!(go(true).is_err(), "no pins");
        fs::write(root.join("pins"), "a 1").expect("pins");
        assert!(go(false).is_err());
        assert!(go(true).is_ok() && go(true).is_ok());
        assert_eq!(times.get(), 2);
        fs::write(root.join("pins"), "a 2").expect("pins");
        assert!(go(true).is_ok());
        assert_eq!(times.get(), 3);
        fs::remove_dir_all(&root).expect("removed");
    }
}
