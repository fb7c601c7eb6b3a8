//! Tables of keys: what a form has, and what becomes of each.
//!
//! Lives here: walking a table of a file by such a list, so that no key is passed over. Does not live here: the lists.
//! Invariant: every key that stands in a walked table is either read by its importer or gets a remark.

use crate::remark::{At, Kind, Report};
use crate::tree::{Entry, Node, Value};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Its importer takes it over, or says itself what it could not.
    Taken,
    /// Nothing is lost without it.
    Ignored,
    /// The application may rely on it, and has to do without.
    Unsupported,
}

/// A key of a form.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The key.
    pub key: &'static str,
    /// What becomes of it.
    pub support: Support,
    /// What it becomes, or why it is not taken over: for the remark and for `docs/compose.md`.
    pub about: &'static str,
    /// An example of its value.
    pub sample: &'static str,
}

pub(crate) const fn taken(key: &'static str, sample: &'static str, about: &'static str) -> Row {
    Row {
        key,
        support: Support::Taken,
        about,
        sample,
    }
}

pub(crate) const fn ignored(key: &'static str, sample: &'static str, about: &'static str) -> Row {
    Row {
        key,
        support: Support::Ignored,
        about,
        sample,
    }
}

pub(crate) const fn unsupported(key: &'static str, sample: &'static str, about: &'static str) -> Row {
    Row {
        key,
        support: Support::Unsupported,
        about,
        sample,
    }
}

/// Beyond this distance a suggestion confuses more than it helps.
const FAR: usize = 2;

/// Gives every key its remark that its importer does not take.
pub(crate) fn walk(report: &Report, path: &str, node: &Node, form: &str, rows: &[Row]) {
    let Some(entries) = node.map() else {
        if node.value != Value::Null {
            let message = format!("must be a table, but is {}", node.kind());
            report.unsupported(node.at, path, message);
        }
        return;
    };
    for entry in entries {
        match rows.iter().find(|row| row.key == entry.key) {
            Some(Row {
                support: Support::Taken,
                ..
            }) => {}
            Some(row) => {
                let kind = match row.support {
                    Support::Unsupported => Kind::Unsupported,
                    Support::Ignored | Support::Taken => Kind::Ignored,
                };
                report.add(kind, entry.at, &join(path, &entry.key), row.about);
            }
            None => unknown(report, path, entry, form, rows),
        }
    }
}

fn unknown(report: &Report, path: &str, entry: &Entry, form: &str, rows: &[Row]) {
    let path = join(path, &entry.key);
    if entry.key.starts_with("x-") {
        report.ignored(entry.at, &path, format!("means nothing to {form} either"));
        return;
    }
    let near = rows
        .iter()
        .map(|row| (strsim::osa_distance(&entry.key, row.key), row.key))
        .filter(|(distance, _)| *distance <= FAR)
        .min()
        .map_or_else(String::new, |(_, near)| format!("; did you mean {near}?"));
    report.unsupported(entry.at, &path, format!("is not a key of {form}{near}"));
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A value in a table: where it is and what it is called.
pub(crate) struct Found<'t> {
    pub(crate) path: String,
    pub(crate) at: At,
    pub(crate) node: &'t Node,
}

/// The value of a key, when the table has it.
pub(crate) fn find<'t>(path: &str, node: &'t Node, key: &str) -> Option<Found<'t>> {
    let entry = node.map()?.iter().find(|entry| entry.key == key)?;
    Some(Found {
        path: join(path, key),
        at: entry.at,
        node: &entry.node,
    })
}

impl<'t> Found<'t> {
    /// The entries of a table; what is none gets a remark.
    pub(crate) fn entries(&self, report: &Report) -> &'t [Entry] {
        self.not(report, "a table", self.node.map())
    }

    /// The items of a list with their places; what is none gets a remark.
    pub(crate) fn items(&self, report: &Report) -> Vec<(String, &'t Node)> {
        let items = self.not(report, "a list", self.node.list()).iter().enumerate();
        items
            .map(|(index, node)| (format!("{}[{index}]", self.path), node))
            .collect()
    }

    fn not<T>(&self, report: &Report, wanted: &str, is: Option<&'t [T]>) -> &'t [T] {
        if is.is_none() && self.node.value != Value::Null {
            let message = format!("must be {wanted}, but is {}; it is left out", self.node.kind());
            report.unsupported(self.at, &self.path, message);
        }
        is.unwrap_or_default()
    }

    /// Its text; what is none gets a remark.
    pub(crate) fn text(&self, report: &Report) -> Option<&'t str> {
        let text = self.node.text();
        if text.is_none() {
            let message = format!("must be a text, but is {}; it is left out", self.node.kind());
            report.unsupported(self.at, &self.path, message);
        }
        text
    }
}
