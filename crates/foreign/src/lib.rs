//! Other platforms' files: compose.yaml, Procfile, app.json, fly.toml and .env in; compose and Kubernetes out.
//!
//! Lives here: from a text to a manifest and the list of what was not taken over; from a manifest to a text.
//! Does not live here: files (`cli` reads and writes them), what a manifest means (`model`), running anything.
//! Invariant: nothing is passed over in silence: each key of a file is taken over or has a remark. No value that looks
//! like a secret gets into a manifest or into what is written, but for words that a command has in the file itself: those
//! are told.

mod app_json;
pub mod compose;
mod dotenv;
mod draft;
mod emit;
pub mod export;
mod fly;
mod interpolate;
pub mod keys;
#[cfg(test)]
mod planted;
mod procfile;
mod remark;
mod tree;
mod yaml;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::Name;
use model::manifest::{Found, Manifest};

pub use dotenv::Line;
pub use draft::fitting;
pub use remark::{At, Kind, Remark, Unreadable};

use remark::Report;

/// The files that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `compose.yaml`, `docker-compose.yml`.
    Compose,
    /// `Procfile`.
    Procfile,
    /// Heroku's `app.json`.
    AppJson,
    /// `fly.toml`.
    Fly,
    /// `.env`.
    Dotenv,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Compose,
        Self::Procfile,
        Self::AppJson,
        Self::Fly,
        Self::Dotenv,
    ];

    /// By the name of a file.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let small = name.to_ascii_lowercase();
        let is_yaml = small.ends_with(".yaml") || small.ends_with(".yml");
        match small.as_str() {
            "procfile" => Some(Self::Procfile),
            "app.json" => Some(Self::AppJson),
            _ if small.starts_with("fly.") && small.ends_with(".toml") => Some(Self::Fly),
            _ if is_yaml => Some(Self::Compose),
            _ if small == ".env" || small.starts_with(".env.") || small.ends_with(".env") => {
                Some(Self::Dotenv)
            }
            _ => None,
        }
    }
}

/// What came of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The manifest; its own parser accepts what [`Imported::text`] gives.
    pub manifest: Manifest,
    /// What was not taken over as it stood, in the order of the file.
    pub remarks: Vec<Remark>,
}

/// Why nothing came of a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// It is not of its form.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// What it asks for can not be one application here.
    #[error("no stoa.toml can be made of it")]
    Nothing {
        /// Why.
        remarks: Vec<Remark>,
    },
}

/// What stands beside a file and belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// The variables that compose replaces: those of `.env`.
    pub variables: BTreeMap<String, String>,
    /// The Procfile: what runs, where a file says something else about it.
    pub procfile: Option<String>,
}

/// Reads a file of another platform. `app` is the app's name unless the file has one.
///
/// # Errors
/// When it is not of its form, or nothing can be made of it.
pub fn import(form: Form, text: &str, app: &Name, beside: &Beside) -> Result<Imported, ImportError> {
    let report = Report::default();
    let procfile = beside.procfile.as_deref();
    let manifest = match form {
        Form::Compose => compose::import(text, app, &beside.variables, &report)?,
        Form::Procfile => procfile::import(text, app, &report)?,
        Form::AppJson => app_json::import(text, app, procfile, &report)?,
        Form::Fly => fly::import(text, app, &report)?,
        Form::Dotenv => dotenv::import(text, app, procfile, &report)?,
    };
    let remarks = report.into_remarks();
    match manifest {
        Some(manifest) => Ok(Imported { manifest, remarks }),
        None => Err(ImportError::Nothing { remarks }),
    }
}

/// The variables of a `.env` file, as compose replaces them.
///
/// # Errors
/// When a line is none.
pub fn variables(text: &str) -> Result<BTreeMap<String, String>, Unreadable> {
    Ok(interpolate::lines(dotenv::lines(text)?))
}

/// The lines of a `.env` file, values as they stand in it.
///
/// # Errors
/// When a line is none.
pub fn lines(text: &str) -> Result<Vec<Line>, Unreadable> {
    dotenv::lines(text)
}

impl Imported {
    /// What a deploy of the manifest would run, a line each; what the source itself declares comes on top.
    #[must_use]
    pub fn would_run(&self) -> Vec<String> {
        would_run(&self.manifest)
    }

    /// The text of `stoa.toml`: the manifest, and as comments what was not taken over.
    #[must_use]
    pub fn text(&self, source: &str) -> String {
        let source = one_line(source);
        let mut text = format!("# Made from {source} by stoa init.\n");
        let open: Vec<&Remark> = self
            .remarks
            .iter()
            .filter(|remark| remark.kind != Kind::Ignored)
            .collect();
        if !open.is_empty() {
            let _ = writeln!(text, "# What was not taken over as it stood there (line:column):");
        }
        for remark in open {
            let _ = writeln!(text, "#   {}", one_line(&remark.to_string()));
        }
        text.push('\n');
        text.push_str(&self.manifest.to_toml());
        text
    }
}

fn would_run(manifest: &Manifest) -> Vec<String> {
    let resolved = manifest.resolve(&Found::default());
    let databases = manifest.databases.iter().map(|(name, wish)| {
        let version = wish
            .version
            .as_ref()
            .map_or_else(String::new, |version| format!(" {version}"));
        format!("database {name}: postgres{version}")
    });
    let jobs = resolved
        .jobs
        .iter()
        .map(|(name, job)| format!("job {name}, before traffic: {}", job.command.join(" ")));
    let services = resolved.services.iter().map(|(name, service)| {
        let what = match (&service.image, service.command.as_slice()) {
            (Some(image), []) => format!("the image {image}"),
            (Some(image), command) => format!("the image {image} with {}", command.join(" ")),
            (None, []) => "what the source says".to_owned(),
            (None, command) => command.join(" "),
        };
        let port = service
            .port
            .map_or_else(String::new, |port| format!(", port {port}"));
        let routes: Vec<String> = service
            .routes
            .iter()
            .map(|route| format!("{}{}", route.host.as_deref().unwrap_or("APP.DOMAIN"), route.path))
            .collect();
        let answers = match (service.port, routes.as_slice()) {
            (None, _) => String::new(),
            (Some(_), []) => ", private".to_owned(),
            (Some(_), routes) => format!(", answers at {}", routes.join(" and ")),
        };
        format!("service {name}, {} x: {what}{port}{answers}", service.count)
    });
    databases.chain(jobs).chain(services).collect()
}

/// A comment ends with its line, and TOML allows no control characters in it.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
