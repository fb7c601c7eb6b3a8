//! What YAML, JSON and TOML have in common: a tree whose nodes know where they stand.
//!
//! Lives here: the tree, and making one of TOML. Does not live here: YAML with its anchors (`yaml`), what keys mean.
//! Invariant: scalars keep the text they were written with: `1.10` stays `1.10`, `yes` stays `yes`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::remark::{At, Unreadable};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) value: Value,
    /// Of what its text was put together, when it named variables. The text itself is without values of secrets.
    pub(crate) parts: Vec<Part>,
}

/// A part of a text that named variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// It stood there.
    Text(String),
    /// The value of a variable.
    Given { name: String, value: String },
    /// The value of a variable that looks like a secret.
    Secret { name: String, value: String },
    /// A variable that has no value.
    Unset { name: String },
}

impl Part {
    /// Its text with everything in it.
    pub(crate) fn whole(&self) -> &str {
        match self {
            Self::Text(text) | Self::Given { value: text, .. } | Self::Secret { value: text, .. } => text,
            Self::Unset { .. } => "",
        }
    }

    /// Its text as far as it may be written.
    pub(crate) fn open(&self) -> &str {
        match self {
            Self::Text(text) | Self::Given { value: text, .. } => text,
            Self::Secret { .. } | Self::Unset { .. } => "",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: At,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn new(at: At, value: Value) -> Self {
        Self {
            at,
            value,
            parts: Vec::new(),
        }
    }

    /// Variables of its text that have no value, each once.
    pub(crate) fn unset(&self) -> Vec<&str> {
        self.named(|part| match part {
            Part::Unset { name } => Some(name),
            Part::Text(_) | Part::Given { .. } | Part::Secret { .. } => None,
        })
    }

    /// Variables of its text whose values look like secrets, each once.
    pub(crate) fn secret(&self) -> Vec<&str> {
        self.named(|part| match part {
            Part::Secret { name, .. } => Some(name),
            Part::Text(_) | Part::Given { .. } | Part::Unset { .. } => None,
        })
    }

    /// Variables whose values stand in its text, each once.
    pub(crate) fn given(&self) -> Vec<&str> {
        self.named(|part| match part {
            Part::Given { name, .. } => Some(name),
            Part::Text(_) | Part::Secret { .. } | Part::Unset { .. } => None,
        })
    }

    fn named<'n>(&'n self, of: impl Fn(&'n Part) -> Option<&'n String>) -> Vec<&'n str> {
        let names: BTreeSet<&str> = self.parts.iter().filter_map(of).map(String::as_str).collect();
        names.into_iter().collect()
    }

    /// Its text with the values of secrets: to compare, never to write.
    pub(crate) fn whole(&self) -> Option<Cow<'_, str>> {
        let text = self.text()?;
        Some(match self.parts.as_slice() {
            [] => Cow::Borrowed(text),
            parts => Cow::Owned(parts.iter().map(Part::whole).collect()),
        })
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub(crate) fn map(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            Value::Null | Value::Text(_) | Value::List(_) => None,
        }
    }

    pub(crate) fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(nodes) => Some(nodes),
            Value::Null | Value::Text(_) | Value::Map(_) => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.map()?.iter().find(|entry| entry.key == key)?;
        Some(&entry.node)
    }

    pub(crate) fn is_true(&self) -> bool {
        self.text() == Some("true")
    }

    pub(crate) fn is_false(&self) -> bool {
        self.text() == Some("false")
    }

    /// What the value is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a table",
        }
    }
}

/// The tree of a TOML text.
pub(crate) fn of_toml(text: &str) -> Result<Node, Unreadable> {
    let place = |at: usize| {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        At::new(
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.first() {
        let at = place(error.span().unwrap_or_default().start);
        return Err(Unreadable::new(
            at,
            format!("this is not TOML: {}", error.message()),
        ));
    }
    Ok(Node::new(
        At::new(1, 1),
        Value::Map(entries(table.get_ref(), &place)),
    ))
}

fn entries(table: &DeTable<'_>, place: &impl Fn(usize) -> At) -> Vec<Entry> {
    let mut entries: Vec<(usize, Entry)> = table
        .iter()
        .map(|(key, value)| {
            let entry = Entry {
                key: key.get_ref().to_string(),
                at: place(key.span().start),
                node: node(value, place),
            };
            (key.span().start, entry)
        })
        .collect();
    // A table sorts its keys; people read them as they were written.
    entries.sort_by_key(|(start, _)| *start);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn node(value: &Spanned<DeValue<'_>>, place: &impl Fn(usize) -> At) -> Node {
    let tree = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Text(number.to_string()),
        DeValue::Float(number) => Value::Text(number.to_string()),
        DeValue::Boolean(flag) => Value::Text(flag.to_string()),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(array) => Value::List(array.iter().map(|value| node(value, place)).collect()),
        DeValue::Table(table) => Value::Map(entries(table, place)),
    };
    Node::new(place(value.span().start), tree)
}
