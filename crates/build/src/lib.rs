//! Source to image: detection and bounded build steps.
//!
//! LEAD'S INTERFACE for `control` (crates/control/src/reconcile/deploy.rs calls exactly this; keep names and shapes,
//! replace the body, split into modules): `build::build(engine, &Request, lines) -> Result<Built, BuildError>`.

use std::path::Path;

use engine::{Engine, LineSink};
use model::ImageDigest;
use model::manifest::{Found, Manifest};

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The unpacked source.
    pub source: &'a Path,
    /// What `stoa.toml` says; what it leaves out is detected.
    pub manifest: &'a Manifest,
    /// The image that builds and runs what names no base.
    pub default_base: &'a str,
}

/// What a build gave.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image with the app in it.
    pub image: ImageDigest,
    /// What the source says by itself.
    pub found: Found,
    /// One line for the release: what was built from what.
    pub note: String,
}

/// Why a source could not be built.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    message: String,
    next_step: String,
}

impl BuildError {
    /// What leads on.
    #[must_use]
    pub fn next(&self) -> String {
        self.next_step.clone()
    }
}

/// Builds a source.
///
/// # Errors
/// When nothing to build is found, or a step fails.
pub fn build(engine: &dyn Engine, request: &Request<'_>, lines: LineSink<'_>) -> Result<Built, BuildError> {
    let _ = (engine, request, lines);
    Err(BuildError {
        message: "building is being written".to_owned(),
        next_step: String::new(),
    })
}

#[cfg(test)]
mod files;
