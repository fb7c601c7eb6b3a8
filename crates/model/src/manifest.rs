//! `stoa.toml`, schema 1: what a team writes about an app.
//!
//! Lives here: the file's form, what is refused with which words, and the defaults it leaves to us.
//! Does not live here: what the source itself says (`build` detects it), releases (`control` freezes them).
//! Invariant: a [`Manifest`] that exists is free of contradictions; all problems of a text are told at once.
//!
//! ```toml
//! schema = 1                      # required
//! app    = "shop"                 # required; a name
//!
//! [build]                         # all optional: what is left out is detected from the source
//! base     = "debian:12"          # an image: "host", "debian:12", a name given to `stoa image`, or a registry reference
//! packages = ["libpq5"]           # Debian packages added to a Debian base
//! command  = "make assets"        # runs in the source directory; several as [["make"], ["make", "assets"]]
//! start    = "bin/shop serve"     # command of services that have none of their own
//! output   = "dist"               # serve this directory as a static site
//!
//! [env]                           # plain configuration for every service and job
//! LOG_LEVEL = "info"
//!
//! [services.web]                  # none at all: what the source says (Procfile, package.json, ...)
//! command    = "bin/shop serve"   # a line (no shell; $NAME is replaced) or a list of words; default: build.start, else the image's
//! image      = "example.org/i:1"  # runs this image instead of the built one
//! port       = 8080               # where it listens, given to it as PORT; `web` has 8080 unless it says otherwise
//! scale      = 2                  # instances, 1 to 100; default 1; { min = 2, max = 2 } says the same
//! resources  = { cpu = 0.5, memory = "512Mi", pids = 512 }
//! health     = { path = "/healthz", grace = "30s", interval = "2s", timeout = "2s", failures = 3 }
//! routes     = [{ host = "shop.example.org", path = "/" }]   # default for `web`, or the only service with a port: APP.DOMAIN/
//! expose     = "public"           # "private": reachable inside the environment only
//! uses       = ["main"]           # databases and services whose addresses it gets
//! secrets    = ["STRIPE_KEY"]     # names only, values never live in this file
//! stop_grace = "30s"              # between the polite and the hard stop
//!
//! [jobs.migrate]
//! command = "bin/shop migrate"    # required
//! on      = "release"             # required: before a release gets traffic; its failure keeps the old release
//! timeout = "10m"                 # and resources, uses, secrets as above
//!
//! [rollout]                       # how an app moves to a release of this file; also for `stoa rollback` to it
//! strategy = "rolling"            # a few instances at a time; "blue-green": a full new set, switched at once; "canary":
//!                                 # a growing share of the requests; "recreate": the old ends first, nobody answers meanwhile
//! surge    = { over = 1, under = 0 }        # rolling only: more, and fewer, instances than wanted
//! steps    = ["5%:2m", "50%:5m", "100%"]    # canary only: shares and how long each holds; the 100% may be left out
//!
//! [databases]
//! main = { engine = "postgres", version = "15", size = "1Gi", memory = "512Mi" }   # only engine is required
//!
//! [environments.staging]          # what differs there: tables are merged key by key, all else is replaced
//! env.LOG_LEVEL  = "debug"
//! services.web   = { scale = 1, routes = [{ host = "staging.example.org" }] }
//! ```

mod check;
pub mod command;
mod keys;
mod overlay;
mod part;
mod problem;
mod reader;
mod resolve;
mod rollout;
mod schema;
mod service;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeTable;

pub use problem::Problem;
pub use resolve::{Found, Resolved};
pub use schema::schema;
pub use service::{is_health_path, is_image_reference};

use crate::backup::Level;
use crate::name::{EnvKey, Name};
use crate::spec::{Health, Job, Resources, Route};
use crate::strategy::Strategy;
use crate::units::{Bytes, Millis};
use crate::valkey::EngineWish;
use problem::Report;
use reader::Section;

/// The name of the file.
pub const FILE: &str = "stoa.toml";

/// The one version of the form that exists.
const SCHEMA: i64 = 1;

/// A manifest beyond this is not one that somebody wrote; it bounds the work a stranger's file can cause.
const TEXT_MAX: usize = 256 << 10;

/// A checked `stoa.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The app's name.
    pub app: Name,
    /// How the image is made.
    pub build: Build,
    /// Plain configuration.
    pub env: BTreeMap<EnvKey, String>,
    /// Process types, as written.
    pub services: BTreeMap<Name, Declared>,
    /// Jobs.
    pub jobs: BTreeMap<Name, Job>,
    /// Databases the app needs to exist.
    pub databases: BTreeMap<Name, DatabaseWish>,
    /// How the app moves to a release of this file.
    pub rollout: Strategy,
}

/// `[build]`: what overrules detection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// The image below, as written.
    pub base: Option<String>,
    /// Debian packages added to a Debian base.
    pub packages: Vec<String>,
    /// Commands that run in the source directory, in this order.
    pub commands: Vec<Vec<String>>,
    /// The command of services that have none of their own.
    pub start: Option<Vec<String>>,
    /// A directory to serve as a static site, relative to the source.
    pub output: Option<String>,
}

/// `[services.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its command, when it has one.
    pub command: Option<Vec<String>>,
    /// An image of its own, as written.
    pub image: Option<String>,
    /// The port, when written.
    pub port: Option<u16>,
    /// Instances.
    pub count: u16,
    /// Limits.
    pub resources: Resources,
    /// The health check.
    pub health: Health,
    /// Its routes, when written.
    pub routes: Option<Vec<Route>>,
    /// Whether it may have public routes.
    pub expose: Expose,
    /// Databases and services it uses.
    pub uses: BTreeSet<Name>,
    /// Secrets delivered to it.
    pub secrets: BTreeSet<EnvKey>,
    /// Time between the polite and the hard stop.
    pub stop_grace: Millis,
}

/// Who may reach a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expose {
    /// The edge, when it has a route.
    Public,
    /// Only its own environment.
    Private,
}

/// `[databases]`: what the app needs to exist before it is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseWish {
    /// What it is.
    pub engine: EngineWish,
    /// Major version; none means what is there.
    pub version: Option<String>,
    /// Budget of its volume.
    pub size: Option<Bytes>,
    /// Memory limit of its instance.
    pub memory: Option<Bytes>,
    /// Level of its backup.
    pub backup_level: Option<Level>,
    /// Whether its address leads to a pooler.
    pub pooled: Option<bool>,
}

impl Manifest {
    /// Reads a manifest as it is where no overlay applies. Every overlay is checked, too.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        Self::read(text, None)
    }

    /// Reads a manifest as it is in that environment. The overlays of the others are checked, too.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text.
    pub fn parse_for(text: &str, environment: &Name) -> Result<Self, Vec<Problem>> {
        Self::read(text, Some(environment))
    }

    fn read(text: &str, environment: Option<&Name>) -> Result<Self, Vec<Problem>> {
        let report = Report::new(text);
        if text.len() > TEXT_MAX {
            report.add(
                "",
                &(0..0),
                format!("is longer than {} KiB", TEXT_MAX >> 10),
                None,
            );
            return Err(report.into_problems());
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in &errors {
                let at = error.span().unwrap_or_default();
                report.add("", &at, format!("this is not TOML: {}", error.message()), None);
            }
            return Err(report.into_problems());
        }
        let whole = root(&report, table.get_ref());
        whole.allow(&keys::ROOT);
        let base = overlay::base(table.get_ref());
        let mut manifest = checked(&root(&report, &base));
        for (name, merged) in overlay::all(&whole) {
            let mark = report.mark();
            let there = checked(&root(&report, &merged));
            report.place_new(mark, &format!("environments.{name}"));
            if Some(&name) == environment {
                manifest = there;
            }
        }
        match manifest {
            Some(manifest) if report.is_clean() => Ok(manifest),
            Some(_) | None => Err(report.into_problems()),
        }
    }

    /// The manifest of an app about which nothing but its name is known.
    #[must_use]
    pub fn named(app: Name) -> Self {
        Self {
            app,
            build: Build::default(),
            env: BTreeMap::new(),
            services: BTreeMap::new(),
            jobs: BTreeMap::new(),
            databases: BTreeMap::new(),
            rollout: Strategy::default(),
        }
    }
}

fn root<'a>(report: &'a Report<'a>, table: &'a DeTable<'a>) -> Section<'a> {
    Section {
        report,
        path: String::new(),
        at: 0..0,
        table,
    }
}

fn checked(root: &Section<'_>) -> Option<Manifest> {
    let manifest = read(root);
    if let Some(manifest) = &manifest {
        check::all(manifest, root);
    }
    manifest
}

fn read(root: &Section<'_>) -> Option<Manifest> {
    version(root);
    let app: Option<Name> = root
        .need("app", "name the app: app = \"shop\"")
        .and_then(|field| field.parsed());
    let part = |key| root.section(key);
    let manifest = Manifest {
        // A stand-in while the rest is read: with a problem reported the manifest is not handed out.
        app: app.or_else(|| "app".parse().ok())?,
        build: part("build")
            .map(|section| part::build(&section))
            .unwrap_or_default(),
        env: part("env").map(|section| part::env(&section)).unwrap_or_default(),
        services: part("services")
            .map(|section| service::all(&section))
            .unwrap_or_default(),
        jobs: part("jobs")
            .map(|section| part::jobs(&section))
            .unwrap_or_default(),
        databases: part("databases")
            .map(|section| part::databases(&section))
            .unwrap_or_default(),
        rollout: part("rollout")
            .and_then(|section| rollout::strategy(&section))
            .unwrap_or_default(),
    };
    Some(manifest)
}

fn version(root: &Section<'_>) {
    let Some(field) = root.need("schema", "begin the file with: schema = 1") else {
        return;
    };
    if let Some(number) = field.number(i64::MIN..=i64::MAX)
        && number != SCHEMA
    {
        let message = format!("schema {number} is not known: this version reads schema {SCHEMA}");
        field.problem(message, Some("write schema = 1"));
    }
}
