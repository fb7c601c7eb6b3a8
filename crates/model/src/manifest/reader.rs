//! Typed access to spanned TOML: every method either answers with a value or adds a problem.
//!
//! Lives here: types, ranges, unknown keys. Does not live here: what a key means.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::command;
use super::keys::Table;
use super::problem::Report;
use crate::name::{EnvKey, Name};

/// A table of the text.
#[derive(Clone)]
pub(super) struct Section<'a> {
    pub(super) report: &'a Report<'a>,
    pub(super) path: String,
    pub(super) at: Range<usize>,
    pub(super) table: &'a DeTable<'a>,
}

/// A value of the text.
pub(super) struct Field<'a> {
    report: &'a Report<'a>,
    path: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Section<'a> {
    /// Complains about every key that is in neither list of its table. Keys of `later` get an answer of their own.
    pub(super) fn allow(&self, known: &Table) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            let path = join(&self.path, name);
            if known.later.contains(&name) {
                let message = "is not supported by this version yet".to_owned();
                let hint = Some("remove it".to_owned());
                self.report.add(&path, &key.span(), message, hint);
            } else if !known.names().any(|known| known == name) {
                let all = || known.names().collect::<Vec<_>>().join(", ");
                let hint = nearest(name, known.names())
                    .map(|near| format!("did you mean {near}?"))
                    .or_else(|| Some(format!("known here: {}", all())));
                self.report
                    .add(&path, &key.span(), "is not a known key".to_owned(), hint);
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Field<'a>> {
        let value = self.table.get(key)?;
        Some(Field {
            report: self.report,
            path: join(&self.path, key),
            value,
        })
    }

    /// Like `get`, but a missing key is a problem.
    pub(super) fn need(&self, key: &str, hint: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.problem(format!("{key} is missing"), Some(hint.to_owned()));
        }
        field
    }

    pub(super) fn section(&self, key: &str) -> Option<Section<'a>> {
        self.get(key)?.section()
    }

    /// Every entry whose key reads as a `K`.
    pub(super) fn entries<K>(&self) -> Vec<(K, Field<'a>)>
    where
        K: FromStr,
        K::Err: Display,
    {
        let read = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let text: &std::borrow::Cow<'a, str> = key.get_ref();
            let path = join(&self.path, text);
            match text.parse() {
                Ok(name) => Some((
                    name,
                    Field {
                        report: self.report,
                        path,
                        value,
                    },
                )),
                Err(error) => {
                    self.report.add(&path, &key.span(), format!("{error}"), None);
                    None
                }
            }
        };
        self.table.iter().filter_map(read).collect()
    }

    pub(super) fn problem(&self, message: String, hint: Option<String>) {
        self.report.add(&self.path, &self.at, message, hint);
    }
}

impl<'a> Field<'a> {
    pub(super) fn problem(&self, message: String, hint: Option<&str>) {
        self.report
            .add(&self.path, &self.value.span(), message, hint.map(str::to_owned));
    }

    fn wrong_type(&self, wanted: &str, hint: Option<&str>) {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.problem(format!("must be {wanted}, but is {found}"), hint);
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.get_ref().is_str()
    }

    pub(super) fn is_zero(&self) -> bool {
        let number = self.value.get_ref().as_integer();
        number.is_some_and(|number| number.as_str().bytes().all(|digit| digit == b'0'))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// The text if it is one, without a complaint if not.
    pub(super) fn plain(&self) -> Option<&'a str> {
        self.value.get_ref().as_str()
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            let quoted = match self.value.get_ref() {
                DeValue::Integer(number) => Some(format!("write \"{number}\"")),
                DeValue::Float(number) => Some(format!("write \"{number}\"")),
                DeValue::Boolean(flag) => Some(format!("write \"{flag}\"")),
                DeValue::String(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
            };
            self.wrong_type("a string", quoted.as_deref());
        }
        text
    }

    /// A string that reads as a `T`.
    pub(super) fn parsed<T>(&self) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(format!("{error}"), None);
                None
            }
        }
    }

    /// A string that reads as a `T` within bounds.
    pub(super) fn parsed_within<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
        T::Err: Display,
    {
        if !self.is_string() {
            self.wrong_type("a string", Some("with its unit, as in \"512Mi\" or \"10s\""));
            return None;
        }
        let value: T = self.parsed()?;
        if range.contains(&value) {
            return Some(value);
        }
        self.problem(
            format!("{value} is not between {} and {}", range.start(), range.end()),
            None,
        );
        None
    }

    /// A whole number within bounds.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let Some(number) = self.value.get_ref().as_integer() else {
            self.not_a_number("a whole number");
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|value| T::try_from(value).ok())
            .filter(|value| range.contains(value));
        if value.is_none() {
            let message = format!("{number} is not between {} and {}", range.start(), range.end());
            self.problem(message, None);
        }
        value
    }

    /// Yes or no.
    pub(super) fn flag(&self) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type("true or false", None);
        }
        flag
    }

    /// A number with or without a fraction.
    pub(super) fn fraction(&self) -> Option<f64> {
        let value = match self.value.get_ref() {
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        if value.is_none() {
            self.not_a_number("a number");
        }
        value
    }

    fn not_a_number(&self, wanted: &str) {
        let plain = self
            .value
            .get_ref()
            .as_str()
            .filter(|text| text.parse::<f64>().is_ok());
        self.wrong_type(wanted, plain.map(|text| format!("write {text}")).as_deref());
    }

    pub(super) fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.wrong_type("a table", None);
            return None;
        };
        Some(Section {
            report: self.report,
            path: self.path.clone(),
            at: self.value.span(),
            table,
        })
    }

    pub(super) fn list(&self) -> Option<Vec<Field<'a>>> {
        let Some(array) = self.value.get_ref().as_array() else {
            self.wrong_type("a list", None);
            return None;
        };
        let field = |(index, value)| Field {
            report: self.report,
            path: format!("{}[{index}]", self.path),
            value,
        };
        Some(array.iter().enumerate().map(field).collect())
    }

    /// A list of different texts that read as `T`.
    pub(super) fn set<T>(&self) -> Option<BTreeSet<T>>
    where
        T: FromStr + Ord + Display,
        T::Err: Display,
    {
        let mut set = BTreeSet::new();
        for field in self.list()? {
            if let Some(value) = field.parsed::<T>()
                && let Some(twice) = set.replace(value)
            {
                field.problem(format!("{twice} is listed twice"), None);
            }
        }
        Some(set)
    }

    pub(super) fn names(&self) -> BTreeSet<Name> {
        self.set().unwrap_or_default()
    }

    pub(super) fn env_keys(&self) -> BTreeSet<EnvKey> {
        self.set().unwrap_or_default()
    }

    /// A command: one line, split like a shell would but without one, or the words as a list.
    pub(super) fn command(&self) -> Option<Vec<String>> {
        self.command_or(None)
    }

    fn command_or(&self, hint: Option<&str>) -> Option<Vec<String>> {
        let words = if self.is_string() {
            command::split(self.text()?)
        } else if self.value.get_ref().is_array() {
            let words: Option<Vec<String>> = self
                .list()?
                .iter()
                .map(|field| field.text().map(str::to_owned))
                .collect();
            let words = words?;
            command::check(&words).map(|()| words)
        } else {
            self.wrong_type("a command line or a list of words", None);
            return None;
        };
        words.map_err(|error| self.problem(format!("{error}"), hint)).ok()
    }

    /// One command, or a list of commands that are lists of words.
    pub(super) fn commands(&self) -> Option<Vec<Vec<String>>> {
        let is_nested = self
            .value
            .get_ref()
            .as_array()
            .is_some_and(|array| array.iter().any(|inner| inner.get_ref().is_array()));
        if !is_nested {
            let hint = "several commands: [[\"npm\", \"ci\"], [\"npm\", \"run\", \"build\"]]";
            return self.command_or(Some(hint)).map(|command| vec![command]);
        }
        self.list()?.iter().map(Field::command).collect()
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Beyond this distance a suggestion confuses more than it helps.
const FAR: usize = 3;

/// The known word closest to what was written.
pub(super) fn nearest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|word| (strsim::osa_distance(written, word), word))
        .filter(|(distance, word)| *distance <= FAR && *distance * 2 <= word.len().max(2))
        .min()
        .map(|(_, word)| word)
}
