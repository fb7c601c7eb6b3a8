//! Rust: `Cargo.toml`.

use std::path::Path;

use super::executable;
use crate::error::BuildError;

/// A package with one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crate {
    /// There is a lock file, so exactly that is built.
    pub(crate) has_lock: bool,
    /// A file beside it that is the program already.
    pub(crate) built: Option<String>,
    /// Where the program will be.
    pub(crate) binary: String,
}

pub(super) fn look(dir: &Path) -> Result<Option<Crate>, BuildError> {
    const FILE: &str = "Cargo.toml";
    let Some(text) = super::text(dir, FILE)? else {
        return Ok(None);
    };
    let next = "check it: cargo check";
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| BuildError::file(FILE, error.message(), next))?;
    let name = |table: &toml::Table| Some(table.get("name")?.as_str()?.to_owned());
    let bins = table.get("bin").and_then(toml::Value::as_array);
    let first_bin = bins.and_then(|bins| name(bins.first()?.as_table()?));
    let package = table
        .get("package")
        .and_then(toml::Value::as_table)
        .and_then(name);
    let Some(name) = first_bin.or(package).filter(|name| is_name(name)) else {
        return Err(BuildError::file(
            FILE,
            "it has no package (a workspace?)",
            "deploy the directory of the package that has the program",
        ));
    };
    Ok(Some(Crate {
        has_lock: super::has(dir, "Cargo.lock"),
        built: executable::named(dir, &name)?,
        binary: format!("{}/bin/{name}", crate::plan::TOOLS),
    }))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
