//! From a manifest to the files of other platforms.
//!
//! Lives here: what both forms need: the options, the notes, variables. Does not live here: the forms themselves.
//! Invariant: no value of a secret is written, only its name; what cannot be said in a form is noted.

mod compose;
mod kubernetes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use model::manifest::{Found, Manifest, Resolved};
use model::{EnvKey, Name, Service};
use serde::Serialize;

use crate::emit::{Yaml, texts};
use crate::remark::Kind;

/// A form that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `compose.yaml`.
    Compose,
    /// Kubernetes objects.
    Kubernetes,
}

/// What a manifest does not say.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image of services that have none of their own.
    pub image: String,
    /// Apps without a host of their own answer at `APP.DOMAIN`, and beside production at `APP-ENVIRONMENT.DOMAIN`.
    pub domain: String,
    /// The environment that the manifest was read for.
    pub environment: Name,
}

/// The environment whose apps have the plain names.
const PRODUCTION: &str = "production";

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub text: String,
    /// What it does not say, or says otherwise.
    pub notes: Vec<Note>,
}

/// One thing that is not said there as it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How much it matters.
    pub kind: Kind,
    /// The key of the manifest.
    pub path: String,
    /// What became of it, and what to do.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kind, self.path, self.message)
    }
}

/// The manifest declares nothing that runs: what the source says is known to the server only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it declares no services: what runs is known only from the source")]
pub struct NothingDeclared;

/// Writes a manifest in another form.
///
/// # Errors
/// When it declares no services.
pub fn export(target: Target, manifest: &Manifest, options: &Options) -> Result<Exported, NothingDeclared> {
    let resolved = manifest.resolve(&Found::default());
    if resolved.services.is_empty() {
        return Err(NothingDeclared);
    }
    let mut writer = Writer {
        manifest,
        resolved: &resolved,
        options,
        notes: Vec::new(),
    };
    writer.mention_detected();
    writer.mention_instances();
    let text = match target {
        Target::Compose => compose::write(&mut writer),
        Target::Kubernetes => kubernetes::write(&mut writer),
    };
    Ok(Exported {
        text,
        notes: writer.notes,
    })
}

struct Writer<'m> {
    manifest: &'m Manifest,
    resolved: &'m Resolved,
    options: &'m Options,
    notes: Vec<Note>,
}

/// Where the value of a variable comes from.
enum Origin<'m> {
    Value(String),
    Secret(&'m EnvKey),
    /// The address of a database, as `DATABASE_URL` and the like.
    Database {
        database: &'m Name,
        part: &'static str,
    },
}

impl<'m> Writer<'m> {
    fn note(&mut self, kind: Kind, path: impl Into<String>, message: impl Into<String>) {
        self.notes.push(Note {
            kind,
            path: path.into(),
            message: message.into(),
        });
    }

    fn mention_detected(&mut self) {
        let built = |service: &&Name| {
            let service = self.resolved.services.get(*service);
            service.is_some_and(|service| service.image.is_none())
        };
        if let Some(name) = self.resolved.services.keys().find(built) {
            let message = format!(
                "runs the image that Stoa builds from the source; put it into a registry as {}, or name another with --image",
                self.options.image
            );
            self.note(Kind::Changed, format!("services.{name}"), message);
        }
    }

    /// What each instance has here without a word in the manifest.
    fn mention_instances(&mut self) {
        let message = "STOA_APP, STOA_SERVICE, STOA_RELEASE and STOA_INSTANCE are not set there";
        self.note(Kind::Changed, "env", message);
        let mut services = self.resolved.services.values();
        let mut jobs = self.resolved.jobs.values();
        if services.any(|service| !service.secrets.is_empty()) || jobs.any(|job| !job.secrets.is_empty()) {
            let message = "are variables there; the files in /run/secrets are not made";
            self.note(Kind::Changed, "secrets", message);
        }
    }

    /// The app in this environment, as one label: what its own host begins with.
    fn label(&self) -> String {
        let (app, environment) = (&self.manifest.app, &self.options.environment);
        match environment.as_str() {
            PRODUCTION => app.to_string(),
            other => format!("{app}-{other}"),
        }
    }

    fn image(&self, service: &Service) -> String {
        service
            .image
            .clone()
            .unwrap_or_else(|| self.options.image.clone())
    }

    /// Every variable of a service or job, in the order of their names.
    fn variables(
        &self,
        uses: impl Iterator<Item = &'m Name>,
        secrets: impl Iterator<Item = &'m EnvKey>,
        port: Option<u16>,
    ) -> BTreeMap<String, Origin<'m>> {
        let mut all = BTreeMap::new();
        let mut databases = Vec::new();
        for name in uses {
            let prefix = name.as_str().to_ascii_uppercase().replace('-', "_");
            if self.manifest.databases.contains_key(name) {
                databases.push(name);
                let origin = Origin::Database {
                    database: name,
                    part: "uri",
                };
                all.insert(format!("{prefix}_URL"), origin);
            } else if let Some(port) = self.resolved.services.get(name).and_then(|used| used.port) {
                all.insert(
                    format!("{prefix}_URL"),
                    Origin::Value(format!("http://{name}:{port}")),
                );
            }
        }
        // The only database, or of several the one named main.
        let main = match databases.as_slice() {
            [only] => Some(*only),
            several => several.iter().find(|name| name.as_str() == "main").copied(),
        };
        if let Some(database) = main {
            for (key, part) in [
                ("DATABASE_URL", "uri"),
                ("DATABASE_URL_DIRECT", "uri"),
                ("PGDATABASE", "dbname"),
                ("PGHOST", "host"),
                ("PGPASSWORD", "password"),
                ("PGPORT", "port"),
                ("PGUSER", "username"),
            ] {
                all.insert(key.to_owned(), Origin::Database { database, part });
            }
        }
        for (key, value) in &self.manifest.env {
            all.insert(key.to_string(), Origin::Value(value.clone()));
        }
        for key in secrets {
            all.insert(key.to_string(), Origin::Secret(key));
        }
        if let Some(port) = port {
            all.insert("PORT".to_owned(), Origin::Value(port.to_string()));
        }
        all
    }
}

/// Words of a command, with `$NAME` as the form has it. As here, values of secrets get into none, and a variable that is
/// empty counts as none.
fn words(
    command: &[String],
    variables: &BTreeMap<String, Origin<'_>>,
    literal: impl Fn(&str) -> String,
    named: impl Fn(&str, &Origin<'_>) -> String,
) -> Yaml {
    // No word and no value has a NUL.
    let is_told = |origin: &Origin<'_>| match origin {
        Origin::Value(value) => !value.is_empty(),
        Origin::Secret(_) => false,
        Origin::Database { .. } => true,
    };
    let marks: BTreeMap<&str, String> = variables
        .iter()
        .filter(|(_, origin)| is_told(origin))
        .map(|(key, _)| (key.as_str(), format!("\0{key}\0")))
        .collect();
    let expanded = model::manifest::command::expand(command, |name| marks.get(name).map(String::as_str));
    texts(expanded.iter().map(|word| {
        let pieces = word.split('\0').enumerate();
        let told = pieces.map(|(index, piece)| match variables.get(piece) {
            Some(origin) if index % 2 == 1 => named(piece, origin),
            Some(_) | None => literal(piece),
        });
        told.collect()
    }))
}
