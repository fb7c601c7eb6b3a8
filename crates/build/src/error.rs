//! Why a source could not be built, and what to do about it.

use std::path::PathBuf;

use engine::EngineError;

/// Why a source could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nothing says what this is.
    #[error("nothing to build was found: looked for {looked}")]
    Nothing {
        /// What was looked for.
        looked: String,
    },
    /// Several executables, and nobody says which.
    #[error("there are several executables: {files}")]
    Several {
        /// Which.
        files: String,
    },
    /// It can be built, but nothing says how it is started.
    #[error("{what} was found, but nothing says how service {service} is started: looked for {looked}")]
    NoStart {
        /// What was found.
        what: String,
        /// The service without a command.
        service: String,
        /// Where a command could have been.
        looked: String,
    },
    /// A line of the Procfile is wrong.
    #[error("Procfile, line {line}: {why}")]
    Procfile {
        /// Which line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// A file of the source can not be understood.
    #[error("{file}: {why}")]
    File {
        /// Which, relative to the source.
        file: String,
        /// Why.
        why: String,
        /// What to do.
        next_step: String,
    },
    /// An executable for another kind of machine.
    #[error("{file} is an executable for {machine}, but this host is {host}")]
    Machine {
        /// Which.
        file: String,
        /// What it is for.
        machine: String,
        /// What this is.
        host: &'static str,
    },
    /// The source on disk could not be read or prepared.
    #[error("{path}: {cause}", path = path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The Rust toolchain failed, or is not there.
    #[error(transparent)]
    Cargo(EngineError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl BuildError {
    /// What leads on.
    #[must_use]
    pub fn next(&self) -> String {
        match self {
            Self::Nothing { .. } => {
                "say what to run in stoa.toml ([services.web] command = \"...\"), or deploy another directory: stoa deploy DIR"
                    .to_owned()
            }
            Self::Several { .. } => "say which one runs in stoa.toml: [services.web] command = \"./NAME\"".to_owned(),
            Self::NoStart { service, .. } => {
                format!("add to stoa.toml: [services.{service}] command = \"...\"")
            }
            Self::Procfile { .. } => {
                "write lines like: web: gunicorn app:app --bind 0.0.0.0:$PORT".to_owned()
            }
            Self::File { next_step, .. } => next_step.clone(),
            Self::Machine { .. } => "build it for this machine, or deploy its source".to_owned(),
            Self::Disk { .. } => "try again: stoa deploy; if it stays, check the host: stoa doctor".to_owned(),
            Self::Cargo(_) => "mend the source; when the base has no cargo: write [build] base = \"debian:12\" in stoa.toml, or \
                               deploy the executable"
                .to_owned(),
            Self::Engine(error) => error.next(),
        }
    }

    /// For `map_err` on something done with a path.
    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Disk { path, cause }
    }

    pub(crate) fn file(file: &str, why: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::File {
            file: file.to_owned(),
            why: why.into(),
            next_step: next_step.into(),
        }
    }
}
