//! `$NAME` and `${NAME:-default}` in a compose file.
//!
//! Lives here: what compose itself replaces before it reads anything. Does not live here: variables of a running program.
//! Invariant: what is replaced is not looked at again.

use std::collections::BTreeMap;

use crate::dotenv::Line;
use crate::draft::looks_secret;
use crate::keys::join;
use crate::remark::Report;
use crate::tree::{Node, Part, Value};

/// Values for the names, as `.env` beside the file gives them.
pub(crate) type Variables = BTreeMap<String, String>;

/// Bytes that all replacements of a file may come to: a long value may be named often.
const BYTES_MAX: usize = 1 << 20;
/// Defaults within defaults; nobody writes three.
const DEPTH_MAX: usize = 8;

/// Replaces in every text below; what each was put together of is noted at its node.
pub(crate) fn tree(node: &mut Node, variables: &Variables, report: &Report) {
    let mut left = BYTES_MAX;
    below(node, "", report, &mut Replacer::new(variables, &mut left));
}

/// The lines of a `.env` file: each may name those before it. One that names what has no value has none.
pub(crate) fn lines(lines: Vec<Line>) -> Variables {
    let mut known = Variables::new();
    let mut left = BYTES_MAX;
    for line in lines {
        let value = match &line.template {
            None => Some(line.value),
            Some(template) => match Replacer::new(&known, &mut left).parts(template) {
                None => Some(line.value),
                Some(parts) => {
                    let is_whole = !parts.iter().any(|part| matches!(part, Part::Unset { .. }));
                    is_whole.then(|| parts.iter().map(Part::whole).collect())
                }
            },
        };
        match value {
            Some(value) => known.insert(line.key, value),
            None => known.remove(&line.key),
        };
    }
    known
}

fn below(node: &mut Node, path: &str, report: &Report, replacer: &mut Replacer<'_>) {
    match &mut node.value {
        Value::Null => {}
        Value::Text(text) => {
            if !text.contains('$') {
                return;
            }
            match replacer.parts(text) {
                Some(parts) => {
                    *text = parts.iter().map(Part::open).collect();
                    let is_plain = parts.iter().all(|part| matches!(part, Part::Text(_)));
                    node.parts = if is_plain { Vec::new() } else { parts };
                }
                None => {
                    // The text itself is not shown: it may be a password with a dollar sign.
                    let message = "holds a $ that is no substitution: it stays as it is; $$ is a dollar sign";
                    report.unsupported(node.at, path, message);
                }
            }
        }
        Value::List(nodes) => {
            for (index, node) in nodes.iter_mut().enumerate() {
                below(node, &format!("{path}[{index}]"), report, replacer);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                below(&mut entry.node, &join(path, &entry.key), report, replacer);
            }
        }
    }
}

struct Replacer<'v> {
    variables: &'v Variables,
    left: &'v mut usize,
}

impl<'v> Replacer<'v> {
    fn new(variables: &'v Variables, left: &'v mut usize) -> Self {
        Self { variables, left }
    }

    /// What the text is put together of; `None` when it is malformed or grows beyond measure.
    fn parts(&mut self, text: &str) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        self.replace(text, 0, &mut parts)?;
        Some(parts)
    }

    fn charge(&mut self, text: &str) -> Option<()> {
        *self.left = self.left.checked_sub(text.len())?;
        Some(())
    }

    fn push(&mut self, text: &str, parts: &mut Vec<Part>) -> Option<()> {
        self.charge(text)?;
        match parts.last_mut() {
            Some(Part::Text(last)) => last.push_str(text),
            _ => parts.push(Part::Text(text.to_owned())),
        }
        Some(())
    }

    fn replace(&mut self, text: &str, depth: usize, parts: &mut Vec<Part>) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            self.push(&rest[..dollar], parts)?;
            let tail = &rest[dollar + 1..];
            if let Some(after) = tail.strip_prefix('$') {
                self.push("$", parts)?;
                rest = after;
            } else if let Some(inside) = tail.strip_prefix('{') {
                let end = closing(inside)?;
                self.braced(&inside[..end], depth, parts)?;
                rest = &inside[end + 1..];
            } else {
                let end = name_end(tail);
                if end == 0 {
                    return None;
                }
                self.bare(&tail[..end], parts)?;
                rest = &tail[end..];
            }
        }
        self.push(rest, parts)
    }

    fn bare(&mut self, name: &str, parts: &mut Vec<Part>) -> Option<()> {
        match self.variables.get(name) {
            Some(value) => self.value(name, value, parts),
            None => {
                parts.push(Part::Unset {
                    name: name.to_owned(),
                });
                Some(())
            }
        }
    }

    fn value(&mut self, name: &str, value: &str, parts: &mut Vec<Part>) -> Option<()> {
        self.charge(value)?;
        let (name, value) = (name.to_owned(), value.to_owned());
        parts.push(if looks_secret(&name, &value) {
            Part::Secret { name, value }
        } else {
            Part::Given { name, value }
        });
        Some(())
    }

    /// `NAME`, or `NAME` with one of `:-`, `-`, `:?`, `?`, `:+`, `+` and a word.
    fn braced(&mut self, inside: &str, depth: usize, parts: &mut Vec<Part>) -> Option<()> {
        let end = name_end(inside);
        if end == 0 {
            return None;
        }
        let (name, operator) = inside.split_at(end);
        let variables = self.variables;
        let value = variables.get(name);
        let filled = value.filter(|value| !value.is_empty());
        let (counts, kind, word) = match operator.as_bytes() {
            [] => return self.bare(name, parts),
            [b':', kind @ (b'-' | b'?' | b'+'), ..] => (filled, kind, &operator[2..]),
            [kind @ (b'-' | b'?' | b'+'), ..] => (value, kind, &operator[1..]),
            _ => return None,
        };
        match (kind, counts) {
            (b'+', Some(_)) => self.replace(word, depth + 1, parts)?,
            (b'-', None) => {
                let mut default = Vec::new();
                self.replace(word, depth + 1, &mut default)?;
                // A default for a password is as much a secret as a value for it.
                match default.as_slice() {
                    [Part::Text(text)] if looks_secret(name, text) => parts.push(Part::Secret {
                        name: name.to_owned(),
                        value: text.clone(),
                    }),
                    _ => parts.append(&mut default),
                }
            }
            (b'+', None) => {}
            (_, Some(value)) => self.value(name, value, parts)?,
            (_, None) => parts.push(Part::Unset {
                name: name.to_owned(),
            }),
        }
        Some(())
    }
}

/// Where the brace that is open ends; defaults may hold braces of their own.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name_end(text: &str) -> usize {
    let is_digit_first = text.bytes().next().is_some_and(|b| b.is_ascii_digit());
    if is_digit_first {
        return 0;
    }
    text.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric())
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts in short: values of secrets in angle brackets, what has none with a question mark.
    fn told(variables: &Variables, text: &str) -> Option<String> {
        let mut left = BYTES_MAX;
        let parts = Replacer::new(variables, &mut left).parts(text)?;
        let told = parts.iter().map(|part| match part {
            Part::Text(text) | Part::Given { value: text, .. } => text.clone(),
            Part::Secret { name, value } => format!("<{name}={value}>"),
            Part::Unset { name } => format!("?{name}"),
        });
        Some(told.collect())
    }

    #[test]
    fn names_get_their_values_and_defaults() {
        let variables: Variables = [("A", "1"), ("E", ""), ("API_KEY", "k"), ("DSN", "x://u:p@h")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for (text, expected) in [
            ("x${A}y$A-z", Some("x1y1-z")),
            ("${N:-two}${N-3}${E:-4}${E-5}", Some("two34")),
            ("${N}$N", Some("?N?N")),
            ("${N:?must be}${E:?must be}", Some("?N?E")),
            ("${A:+yes}${N:+no}${E+set}", Some("yesset")),
            ("${N:-${A}}${N:-$$}", Some("1$")),
            ("$$A $${A}", Some("$A ${A}")),
            ("a $API_KEY b", Some("a <API_KEY=k> b")),
            ("${API_KEY:-x}${DSN}", Some("<API_KEY=k><DSN=x://u:p@h>")),
            ("${DB_PASSWORD:-hunter2}", Some("<DB_PASSWORD=hunter2>")),
            ("$1", None),
            ("${A", None),
            ("${A%x}", None),
            ("a$", None),
        ] {
            assert_eq!(told(&variables, text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn growth_and_depth_are_bounded() {
        let variables: Variables = [("A".to_owned(), "x".repeat(1000))].into();
        assert_eq!(told(&variables, &"$A".repeat(2_000)), None);
        let deep = format!("{}{}", "${N:-".repeat(50_000), "}".repeat(50_000));
        assert_eq!(told(&variables, &deep), None);
        let doubled: String = (1..10_000)
            .map(|step| format!("A{step}=$A{0}$A{0}\n", step - 1))
            .collect();
        let all = crate::variables(&format!("A0=xxxxxxxx\n{doubled}")).expect("good");
        let bytes: usize = all.values().map(String::len).sum();
        assert!(bytes < 2 * BYTES_MAX, "{bytes}");
    }
}
