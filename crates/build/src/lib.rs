//! Source to image: detection and bounded build steps.
//!
//! Lives here: what a directory is (`detect`), which steps make its image (`plan`), doing them (`run`), and the small server
//! that static sites run on (`files`).
//! Does not live here: confinement and caching of a step (the engine), uploads and their filters, releases (`control`).
//! Invariant: nothing of a source is ever run but inside a bounded, unprivileged instance.

mod detect;
mod digest;
mod error;
#[cfg(test)]
mod files;
mod plan;
mod registries;
mod run;

use std::path::Path;

use engine::{Engine, LineSink};
use model::ImageDigest;
use model::manifest::{Found, Manifest};

pub use error::BuildError;

/// What is to be built.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The unpacked source.
    pub source: &'a Path,
    /// What `stoa.toml` says; what it leaves out is detected.
    pub manifest: &'a Manifest,
    /// Whose build it is: steps are shared within a scope and never beyond.
    pub scope: &'a str,
    /// The image that builds and runs what names no base.
    pub default_base: &'a str,
    /// Whether an image that is there, and what it was asked for as, may be the base: it may be somebody else's. One that
    /// may not counts as absent.
    pub may_use: &'a dyn Fn(&str, &ImageDigest) -> bool,
}

/// What a build gave.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image with the app in it.
    pub image: ImageDigest,
    /// What it was built from: the name, and what that meant.
    pub base: (String, ImageDigest),
    /// What the source says by itself.
    pub found: Found,
    /// One line for the release: what was built from what.
    pub note: String,
}

/// Builds a source. Lines of progress and of the steps' output go to `lines` as they come.
///
/// # Errors
/// When nothing to build is found, or a step fails.
pub fn build(engine: &dyn Engine, request: &Request<'_>, lines: LineSink<'_>) -> Result<Built, BuildError> {
    let detected = detect::detect(request.source, request.manifest)?;
    let plan = plan::plan(&detected, request.manifest, request.default_base)?;
    lines(&format!("found {}", detected.describe()));
    let (image, base) = run::run(engine, request, &plan, lines)?;
    let note = format!("{} on {}", detected.describe(), base.0);
    Ok(Built {
        image,
        base,
        found: detected.found,
        note,
    })
}
