//! Why a command failed, as people and scripts see it.
//!
//! Invariant: each failure has an exit code that says what kind it is, and a next step.

use std::process::ExitCode;

use serde_json::json;

/// The exit codes of `stoa`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It could not be done.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// Nobody is signed in.
    SignIn = 4,
    /// Signed in, but not allowed.
    Denied = 5,
    /// It conflicts with what is there.
    Conflict = 6,
    /// The release was rejected; what served before still serves.
    Rejected = 7,
    /// It is still running; we stopped waiting.
    StillRunning = 8,
    /// Interrupted.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// More lines: fields to blame, last log lines.
    pub details: Vec<String>,
    /// One command or link that leads on; may be empty.
    pub next: String,
    /// The server's own account, for `--json`.
    pub problem: Option<Box<serde_json::Value>>,
    /// The request, for the server's log.
    pub request_id: Option<String>,
    /// For a command that ran elsewhere: its own exit code, which is ours then.
    pub ended_with: Option<u8>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            next: next.into(),
            problem: None,
            request_id: None,
            ended_with: None,
        }
    }

    /// Arguments that make no sense.
    pub(crate) fn of_usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let mut parts = text.split("\n\n");
        let message = parts.next().unwrap_or_default();
        let mut failure = Self::new(
            Code::Usage,
            message.trim_start_matches("error: ").trim(),
            "see how it is used: the same command with --help",
        );
        let more = parts.flat_map(str::lines).map(str::trim);
        failure.details = more.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        failure
    }

    /// What we exit with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        self.ended_with.map_or_else(|| self.code.into(), ExitCode::from)
    }

    /// A failure of this machine: a file, a terminal.
    pub(crate) fn local(what: impl Into<String>, cause: &std::io::Error) -> Self {
        let next = match cause.kind() {
            std::io::ErrorKind::NotFound => "name one that is there",
            std::io::ErrorKind::PermissionDenied => "do it as somebody who may, or name another",
            std::io::ErrorKind::StorageFull => "make room on this machine's disk, then again",
            _ => "mend that on this machine, then again",
        };
        Self::new(Code::Failed, format!("{}: {cause}", what.into()), next)
    }

    /// Tells people (or, as JSON, scripts) on stderr.
    pub fn report(&self, as_json: bool) {
        if as_json {
            let value = self.problem.clone().unwrap_or_else(|| {
                Box::new(json!({"title": "stoa", "detail": self.message, "code": format!("{:?}", self.code).to_lowercase(),
                    "errors": self.details, "next_step": self.next}))
            });
            eprintln!("{value}");
        } else {
            eprint!("{}", self.text());
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for line in &self.details {
            text.push_str(&format!("  {line}\n"));
        }
        if let Some(id) = &self.request_id {
            text.push_str(&format!("request: {id}\n"));
        }
        if !self.next.is_empty() {
            text.push_str(&format!("next: {}\n", self.next));
        }
        text
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let next = error.next();
        let Some(problem) = error.problem() else {
            let mut message = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                message.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            return Self::new(Code::Failed, message, next);
        };
        let details = problem
            .errors
            .iter()
            .map(|error| match error.pointer.as_str() {
                "" | "/" => error.message.clone(),
                pointer => format!("{}: {}", pointer.trim_start_matches('/'), error.message),
            })
            .collect();
        Self {
            code: code_of(problem.status),
            message: problem.detail.clone(),
            details,
            next,
            // Only what went wrong inside the server is worth looking up in its log.
            request_id: (problem.status >= 500).then(|| problem.request_id.clone()),
            problem: serde_json::to_value(problem).ok().map(Box::new),
            ended_with: None,
        }
    }
}

fn code_of(status: u16) -> Code {
    match status {
        401 => Code::SignIn,
        403 => Code::Denied,
        404 => Code::NotFound,
        409 | 412 | 428 => Code::Conflict,
        _ => Code::Failed,
    }
}
