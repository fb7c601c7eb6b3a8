//! What a source is, by its files.
//!
//! Lives here: the order in which signs are believed. Does not live here: what one language's files say (`python`, `node`,
//! `rust`, `executable`), what is done about it (`plan`).
//!
//! | sign | taken as | started by |
//! |---|---|---|
//! | `[build] output` in `stoa.toml` | a static site, after the build | our file server |
//! | `requirements.txt`, `pyproject.toml`, `main.py`, `app.py` | Python | a known web framework, else the file |
//! | `package.json` | Node | `scripts.start`, `main`, `server.js` |
//! | `Cargo.toml` | Rust; an executable named like the package is taken as built | the executable |
//! | one ELF executable | that | itself |
//! | `index.html` | a static site | our file server |
//!
//! Several languages may apply: all are installed, the first that knows a start gives it. A `Procfile` overrules starts, and
//! `stoa.toml` overrules everything.

mod executable;
mod node;
mod procfile;
mod python;
mod rust;
#[cfg(test)]
mod tests;

use std::path::Path;

use model::Name;
use model::manifest::{Found, Manifest};

pub(crate) use node::Node;
pub(crate) use python::{Python, Requirements};
pub(crate) use rust::Crate;

use crate::error::BuildError;

/// What was found in a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Detected {
    pub(crate) python: Option<Python>,
    pub(crate) node: Option<Node>,
    pub(crate) rust: Option<Crate>,
    pub(crate) site: Option<Site>,
    /// A file that is run as it is; it gets the permission to.
    pub(crate) executable: Option<String>,
    /// Commands, as far as the source says them.
    pub(crate) found: Found,
}

/// A directory that is served as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Site {
    /// The source itself.
    Source,
    /// A directory of it, perhaps made by the build.
    Directory(String),
}

impl Detected {
    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.python.as_ref().map(|_| "Python"));
        words.extend(self.node.as_ref().map(|_| "Node"));
        words.extend(self.rust.as_ref().map(|_| "Rust"));
        words.extend(self.executable.as_ref().map(|_| "an executable"));
        words.extend(self.site.as_ref().map(|_| "a static site"));
        if words.is_empty() {
            "a plain directory".to_owned()
        } else {
            words.join(" and ")
        }
    }
}

const LOOKED: &str = "stoa.toml, Procfile, requirements.txt, pyproject.toml, main.py, app.py, package.json, Cargo.toml, \
                      one executable, index.html";

/// Looks at a source.
///
/// # Errors
/// When nothing says what it is, or what says so is wrong.
pub(crate) fn detect(dir: &Path, manifest: &Manifest) -> Result<Detected, BuildError> {
    let mut detected = Detected {
        python: python::look(dir)?,
        node: node::look(dir)?,
        rust: rust::look(dir)?,
        ..Detected::default()
    };
    detected.site = site(dir, manifest, &detected);
    if detected.site == Some(Site::Source) {
        // Its package.json, if any, is for the author's tools.
        detected.node = None;
    }
    let is_program = detected.python.is_some() || detected.node.is_some() || detected.rust.is_some();
    if !is_program && detected.site.is_none() {
        let files = executable::look(dir)?;
        if let [file] = files.as_slice() {
            executable::fits(dir, file)?;
            detected.executable = Some(file.clone());
        } else if !files.is_empty() && !says_what_to_run(manifest) && !has(dir, "Procfile") {
            return Err(BuildError::Several {
                files: files.join(", "),
            });
        }
    }
    if let Some(built) = detected.rust.as_ref().and_then(|krate| krate.built.clone()) {
        detected.executable = Some(built);
    }
    let procfile = procfile::read(dir)?;
    let start = start(&detected);
    if let (Some(start), Ok(web)) = (start, "web".parse::<Name>()) {
        detected.found.commands.insert(web, start);
    }
    let has_procfile = procfile.is_some();
    if let Some(procfile) = procfile {
        detected.found.release = procfile.release;
        detected.found.commands.extend(procfile.commands);
    }
    let is_something = is_program || detected.site.is_some() || detected.executable.is_some() || has_procfile;
    if !is_something && !says_what_to_run(manifest) {
        return Err(BuildError::Nothing {
            looked: LOOKED.to_owned(),
        });
    }
    all_start(manifest, &detected)?;
    Ok(detected)
}

fn site(dir: &Path, manifest: &Manifest, detected: &Detected) -> Option<Site> {
    if let Some(output) = &manifest.build.output {
        return Some(Site::Directory(output.trim_end_matches('/').to_owned()));
    }
    let is_free = detected.python.is_none() && detected.rust.is_none();
    match &detected.node {
        Some(node) if is_free && node.start.is_none() => match &node.output {
            Some(output) => Some(Site::Directory(output.clone())),
            None => (!node.has_build && has(dir, "index.html")).then_some(Site::Source),
        },
        Some(_) => None,
        None => (is_free && has(dir, "index.html")).then_some(Site::Source),
    }
}

fn start(detected: &Detected) -> Option<Vec<String>> {
    if let Some(site) = &detected.site {
        let directory = match site {
            Site::Source => crate::plan::SITE.to_owned(),
            Site::Directory(directory) => format!("{}/{directory}", crate::plan::APP),
        };
        return Some(vec![crate::plan::FILES.to_owned(), directory]);
    }
    let python = detected.python.as_ref().and_then(|python| python.start.clone());
    let node = detected.node.as_ref().and_then(|node| node.start.clone());
    let executable = detected
        .executable
        .as_ref()
        .map(|file| vec![format!("{}/{file}", crate::plan::APP)]);
    let rust = detected.rust.as_ref().map(|krate| vec![krate.binary.clone()]);
    python.or(node).or(executable).or(rust)
}

/// Whether the manifest alone names something to run.
fn says_what_to_run(manifest: &Manifest) -> bool {
    manifest.build.start.is_some()
        || manifest
            .services
            .values()
            .any(|service| service.command.is_some() || service.image.is_some())
}

/// Finds out now, rather than by a crash later, that a service has nothing to run.
fn all_start(manifest: &Manifest, detected: &Detected) -> Result<(), BuildError> {
    let resolved = manifest.resolve(&detected.found);
    let idle = resolved
        .services
        .iter()
        .find(|(_, service)| service.command.is_empty() && service.image.is_none());
    let service = match idle {
        Some((name, _)) => name.to_string(),
        None if resolved.services.is_empty() => "web".to_owned(),
        None => return Ok(()),
    };
    let mut looked = vec![
        "stoa.toml ([build] start, [services] command)".to_owned(),
        "Procfile".to_owned(),
    ];
    if detected.python.is_some() {
        looked.push("a Django, FastAPI or Flask app, main.py and app.py".to_owned());
    }
    if detected.node.is_some() {
        looked.push("scripts.start and main in package.json, server.js, index.js".to_owned());
    }
    Err(BuildError::NoStart {
        what: detected.describe(),
        service,
        looked: looked.join(", "),
    })
}

/// A plain file of the source.
fn has(dir: &Path, file: &str) -> bool {
    dir.join(file).is_file()
}

/// Larger files are not the small text that is looked for in them.
const TEXT_MAX: u64 = 4 << 20;

/// The text of a file of the source, if it is there. Links may not lead out of the source.
fn text(dir: &Path, file: &str) -> Result<Option<String>, BuildError> {
    let path = dir.join(file);
    let inside = match (path.canonicalize(), dir.canonicalize()) {
        (Ok(path), Ok(dir)) => path.starts_with(dir),
        (Err(_), _) | (_, Err(_)) => return Ok(None),
    };
    if !inside || !path.is_file() {
        return Ok(None);
    }
    let length = path.metadata().map_err(BuildError::disk(&path))?.len();
    if length > TEXT_MAX {
        return Err(BuildError::file(
            file,
            "it is larger than 4 MiB",
            "check that it is what its name says",
        ));
    }
    let bytes = std::fs::read(&path).map_err(BuildError::disk(&path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
