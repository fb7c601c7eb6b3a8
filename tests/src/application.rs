//! An application's directory, copied so that a journey may change it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A copy of an application that goes away with its owner.
#[derive(Debug)]
pub struct Application {
    folder: PathBuf,
    name: String,
}

/// Root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map(Path::to_owned).unwrap_or(tests)
}

/// The program of `examples/rust-api`, built as its README says.
///
/// # Errors
/// When it does not build.
pub fn rust_api() -> Result<PathBuf> {
    // Below the target directory of the test itself; cargo locks it, and all journeys share what is built.
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .nth(3)
        .context("a test lives in a target directory")?
        .join("examples");
    let output = Command::new("cargo")
        .args(["build", "--release", "--manifest-path"])
        .arg(repository().join("examples/rust-api/Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .context("could not run cargo")?;
    ensure!(
        output.status.success(),
        "rust-api does not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join("release/rust-api"))
}

impl Application {
    /// A copy of `examples/NAME` or `tests/apps/NAME` inside `root`.
    ///
    /// # Errors
    /// When there is none.
    pub fn copy(name: &str, root: &Path) -> Result<Self> {
        let places = ["examples", "tests/apps"].map(|place| repository().join(place).join(name));
        let source = places
            .iter()
            .find(|place| place.is_dir())
            .with_context(|| format!("no application {name}"))?;
        let folder = root.join("apps").join(name);
        copy(source, &folder)?;
        Ok(Self {
            folder,
            name: name.to_owned(),
        })
    }

    /// Its directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name in its manifest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host its default route answers for.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.localhost", self.name)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    }

    /// Replaces a text in a file; it must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn replace(&self, file: &str, old: &str, new: &str) -> Result<()> {
        let text = fs::read_to_string(self.folder.join(file))?;
        ensure!(
            text.contains(old),
            "{file} of {} does not contain {old:?}",
            self.name
        );
        self.write(file, &text.replace(old, new))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            let built = ["target", "node_modules", "__pycache__", ".venv"];
            if !built.iter().any(|name| entry.file_name() == *name) {
                copy(&entry.path(), &target)?;
            }
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
