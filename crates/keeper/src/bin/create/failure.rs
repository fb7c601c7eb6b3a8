//! Why something did not start.
//!
//! Lives here: the steps and the reason.
//! Does not live here: what the user reads (`runtime::Error`).
//! Invariant: stage names are part of the protocol; `runtime` knows them by name.

use std::error::Error;

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The helper itself.
    Helper,
    /// A layer directory or the writable directory.
    Layers,
    /// A volume.
    Volumes,
    /// The network namespace.
    Network,
    /// Control groups and resource limits.
    Limits,
    /// Secrets and synthesised files.
    Files,
    /// Namespaces, mounts and everything libcontainer does.
    Container,
    /// The program: missing, not executable, wrong format.
    Program,
}

impl Stage {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Helper => "helper",
            Stage::Layers => "layers",
            Stage::Volumes => "volumes",
            Stage::Network => "network",
            Stage::Limits => "limits",
            Stage::Files => "files",
            Stage::Container => "container",
            Stage::Program => "program",
        }
    }
}

/// A step and a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub stage: Stage,
    /// The whole chain of causes in one line.
    pub reason: String,
}

impl Failure {
    /// With a text of our own.
    pub fn new(stage: Stage, reason: impl Into<String>) -> Failure {
        Failure {
            stage,
            reason: reason.into(),
        }
    }

    /// Turns an error into a failure of `stage`.
    pub fn at<E: Error>(stage: Stage) -> impl FnOnce(E) -> Failure {
        move |error| Failure {
            stage,
            reason: chain(&error),
        }
    }

    /// The same, saying with what.
    pub fn with<E: Error>(stage: Stage, what: impl Into<String>) -> impl FnOnce(E) -> Failure {
        let what = what.into();
        move |error| Failure {
            stage,
            reason: format!("{what}: {}", chain(&error)),
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent wrappers repeat their cause.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
