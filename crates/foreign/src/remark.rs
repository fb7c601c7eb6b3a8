//! What was not taken over as it stood, and where it stood.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct At {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl At {
    pub(crate) fn new(line: usize, column: usize) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: count(line),
            column: count(column),
        }
    }
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The application may rely on it, and has to do without.
    Unsupported,
    /// It was taken over in another form: have a look.
    Changed,
    /// It means nothing here, and nothing is lost.
    Ignored,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "unsupported",
            Self::Changed => "changed",
            Self::Ignored => "ignored",
        })
    }
}

/// One thing that was not taken over as it stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// How much it matters.
    pub kind: Kind,
    /// Where it stood.
    #[serde(flatten)]
    pub at: At,
    /// The key, for example `services.web.volumes`.
    pub path: String,
    /// What became of it, and what to do.
    pub message: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let At { line, column } = self.at;
        write!(f, "{line}:{column}: {}: {}", self.kind, self.path)?;
        if !self.path.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// The text is not even of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", at.line, at.column)]
pub struct Unreadable {
    /// Where.
    pub at: At,
    /// Why.
    pub message: String,
}

impl Unreadable {
    pub(crate) fn new(at: At, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }
}

/// Collects remarks while a file is read.
#[derive(Default)]
pub(crate) struct Report(RefCell<Vec<Remark>>);

impl Report {
    pub(crate) fn add(&self, kind: Kind, at: At, path: &str, message: impl Into<String>) {
        self.0.borrow_mut().push(Remark {
            kind,
            at,
            path: path.to_owned(),
            message: message.into(),
        });
    }

    pub(crate) fn unsupported(&self, at: At, path: &str, message: impl Into<String>) {
        self.add(Kind::Unsupported, at, path, message);
    }

    pub(crate) fn changed(&self, at: At, path: &str, message: impl Into<String>) {
        self.add(Kind::Changed, at, path, message);
    }

    pub(crate) fn ignored(&self, at: At, path: &str, message: impl Into<String>) {
        self.add(Kind::Ignored, at, path, message);
    }

    /// The remarks in the order of the text, each once.
    pub(crate) fn into_remarks(self) -> Vec<Remark> {
        let mut remarks = self.0.into_inner();
        remarks.sort_by(|a, b| (a.at, &a.path, a.kind, &a.message).cmp(&(b.at, &b.path, b.kind, &b.message)));
        remarks.dedup();
        remarks
    }
}
