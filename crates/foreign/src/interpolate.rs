//! `$NAME` and `${NAME:-default}` in a compose file.
//!
//! Lives here: what compose itself replaces before it reads anything. Does not live here: variables of a running program.
//! Invariant: what is replaced is not looked at again.

use std::collections::BTreeMap;

use crate::keys::join;
use crate::remark::Report;
use crate::tree::{Node, Value};

/// Values for the names, as `.env` beside the file gives them.
pub(crate) type Variables = BTreeMap<String, String>;

/// Bytes that all replacements of a file may come to: a long value may be named often.
const BYTES_MAX: usize = 1 << 20;
/// Defaults within defaults; nobody writes three.
const DEPTH_MAX: usize = 8;

/// Replaces in every text below; a name without a value is noted at its node.
pub(crate) fn tree(node: &mut Node, variables: &Variables, report: &Report) {
    let mut replacer = Replacer {
        variables,
        left: BYTES_MAX,
    };
    replacer.tree(node, "", report);
}

struct Replacer<'v> {
    variables: &'v Variables,
    left: usize,
}

impl Replacer<'_> {
    fn tree(&mut self, node: &mut Node, path: &str, report: &Report) {
        match &mut node.value {
            Value::Null => {}
            Value::Text(text) => {
                if !text.contains('$') {
                    return;
                }
                match self.replace(text, &mut node.unset, 0) {
                    Some(replaced) => *text = replaced,
                    None => {
                        // The text itself is not shown: it may be a password with a dollar sign.
                        let message =
                            "holds a $ that is no substitution: it stays as it is; $$ is a dollar sign";
                        report.unsupported(node.at, path, message);
                    }
                }
            }
            Value::List(nodes) => {
                for (index, below) in nodes.iter_mut().enumerate() {
                    self.tree(below, &format!("{path}[{index}]"), report);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    self.tree(&mut entry.node, &join(path, &entry.key), report);
                }
            }
        }
    }

    fn push(&mut self, text: &str, done: &mut String) -> Option<()> {
        self.left = self.left.checked_sub(text.len())?;
        done.push_str(text);
        Some(())
    }

    /// The text with all replaced; `None` when it is malformed or grows beyond measure.
    fn replace(&mut self, text: &str, unset: &mut Vec<String>, depth: usize) -> Option<String> {
        if depth > DEPTH_MAX {
            return None;
        }
        let mut done = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            self.push(&rest[..dollar], &mut done)?;
            let tail = &rest[dollar + 1..];
            if let Some(after) = tail.strip_prefix('$') {
                self.push("$", &mut done)?;
                rest = after;
            } else if let Some(inside) = tail.strip_prefix('{') {
                let end = closing(inside)?;
                self.braced(&inside[..end], unset, depth, &mut done)?;
                rest = &inside[end + 1..];
            } else {
                let end = name_end(tail);
                if end == 0 {
                    return None;
                }
                self.bare(&tail[..end], unset, &mut done)?;
                rest = &tail[end..];
            }
        }
        self.push(rest, &mut done)?;
        Some(done)
    }

    fn bare(&mut self, name: &str, unset: &mut Vec<String>, done: &mut String) -> Option<()> {
        match self.variables.get(name) {
            Some(value) => self.push(value, done),
            None => {
                unset.push(name.to_owned());
                Some(())
            }
        }
    }

    /// `NAME`, or `NAME` with one of `:-`, `-`, `:?`, `?`, `:+`, `+` and a word.
    fn braced(
        &mut self,
        inside: &str,
        unset: &mut Vec<String>,
        depth: usize,
        done: &mut String,
    ) -> Option<()> {
        let end = name_end(inside);
        if end == 0 {
            return None;
        }
        let (name, operator) = inside.split_at(end);
        let value = self.variables.get(name);
        let filled = value.filter(|value| !value.is_empty());
        let (counts, kind, word) = match operator.as_bytes() {
            [] => return self.bare(name, unset, done),
            [b':', kind @ (b'-' | b'?' | b'+'), ..] => (filled, kind, &operator[2..]),
            [kind @ (b'-' | b'?' | b'+'), ..] => (value, kind, &operator[1..]),
            _ => return None,
        };
        match (kind, counts) {
            (b'+', Some(_)) | (b'-', None) => {
                let word = self.replace(word, unset, depth + 1)?;
                done.push_str(&word);
            }
            (b'+', None) => {}
            (_, Some(value)) => self.push(value, done)?,
            (_, None) => unset.push(name.to_owned()),
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

    #[test]
    fn names_get_their_values_and_defaults() {
        let variables: Variables = [("A", "1"), ("E", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for (text, expected, missing) in [
            ("x${A}y$A-z", Some("x1y1-z"), ""),
            ("${N:-two}${N-3}${E:-4}${E-5}", Some("two34"), ""),
            ("${N}$N", Some(""), "N N"),
            ("${N:?must be}${E:?must be}", Some(""), "N E"),
            ("${A:+yes}${N:+no}${E+set}", Some("yesset"), ""),
            ("${N:-${A}}${N:-$$}", Some("1$"), ""),
            ("$$A $${A}", Some("$A ${A}"), ""),
            ("$1", None, ""),
            ("${A", None, ""),
            ("${A%x}", None, ""),
            ("a$", None, ""),
        ] {
            let mut unset = Vec::new();
            let mut replacer = Replacer {
                variables: &variables,
                left: BYTES_MAX,
            };
            let replaced = replacer.replace(text, &mut unset, 0);
            assert_eq!(replaced.as_deref(), expected, "{text}");
            assert_eq!(unset.join(" "), missing, "{text}");
        }
    }

    #[test]
    fn growth_and_depth_are_bounded() {
        let variables: Variables = [("A".to_owned(), "x".repeat(1000))].into();
        let mut replacer = Replacer {
            variables: &variables,
            left: BYTES_MAX,
        };
        let mut unset = Vec::new();
        assert_eq!(replacer.replace(&"$A".repeat(2_000), &mut unset, 0), None);
        let deep = format!("{}{}", "${N:-".repeat(50_000), "}".repeat(50_000));
        assert_eq!(replacer.replace(&deep, &mut unset, 0), None);
    }
}
