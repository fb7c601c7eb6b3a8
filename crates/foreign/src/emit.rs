//! Writing YAML: tables in the order given, texts quoted wherever anybody could read them otherwise.
//!
//! Lives here: the spelling. Does not live here: what is written.
//! Invariant: any YAML 1.1 or 1.2 reader gets back what was put in.

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Yaml {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A table of these entries.
pub(crate) fn map<const N: usize>(entries: [(&str, Yaml); N]) -> Yaml {
    Yaml::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

pub(crate) fn texts(list: impl IntoIterator<Item = String>) -> Yaml {
    Yaml::List(list.into_iter().map(Yaml::Text).collect())
}

/// A document.
pub(crate) fn document(value: &Yaml) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Yaml, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Yaml::Map(entries) => {
            for (key, value) in entries {
                text.push_str(&format!("{indent}{}:", scalar(key)));
                below(value, depth, text);
            }
        }
        Yaml::List(items) => {
            for item in items {
                text.push_str(&format!("{indent}-"));
                match item {
                    Yaml::Map(entries) if !entries.is_empty() => {
                        // The first key stands beside the dash, the others below it.
                        let mut inside = String::new();
                        block(item, depth + 1, &mut inside);
                        text.push(' ');
                        text.push_str(inside.trim_start_matches(' '));
                    }
                    Yaml::Text(_) | Yaml::Number(_) | Yaml::Flag(_) | Yaml::List(_) | Yaml::Map(_) => {
                        below(item, depth, text);
                    }
                }
            }
        }
        Yaml::Text(_) | Yaml::Number(_) | Yaml::Flag(_) => text.push_str(&inline(value)),
    }
}

/// What stands behind a colon or a dash.
fn below(value: &Yaml, depth: usize, text: &mut String) {
    let is_short = |items: &[Yaml]| {
        items
            .iter()
            .all(|item| matches!(item, Yaml::Text(_) | Yaml::Number(_) | Yaml::Flag(_)))
    };
    match value {
        Yaml::Map(entries) if !entries.is_empty() => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        Yaml::List(items) if !is_short(items) => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        Yaml::Text(_) | Yaml::Number(_) | Yaml::Flag(_) | Yaml::List(_) | Yaml::Map(_) => {
            text.push_str(&format!(" {}\n", inline(value)));
        }
    }
}

fn inline(value: &Yaml) -> String {
    match value {
        Yaml::Text(text) => scalar(text),
        Yaml::Number(number) => number.to_string(),
        Yaml::Flag(flag) => flag.to_string(),
        Yaml::List(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Yaml::Map(entries) => {
            let entry = |(key, value): &(String, Yaml)| format!("{}: {}", scalar(key), inline(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Words that some reader takes for something else than a text.
const WORDS: [&str; 11] = [
    "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf",
];

fn scalar(text: &str) -> String {
    let is_plain = text
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_./-".contains(&b))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || matches!(u32::from(c), 0x2028 | 0x2029 | 0xFEFF | 0xFFFE | 0xFFFF) => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Node, Value};

    fn same(yaml: &Yaml, node: &Node) -> bool {
        match (yaml, &node.value) {
            (Yaml::Text(text), Value::Text(read)) => text == read,
            (Yaml::Number(number), Value::Text(read)) => number.to_string() == *read,
            (Yaml::Flag(flag), Value::Text(read)) => flag.to_string() == *read,
            (Yaml::List(items), Value::List(nodes)) => {
                items.len() == nodes.len() && items.iter().zip(nodes).all(|(item, node)| same(item, node))
            }
            (Yaml::Map(entries), Value::Map(read)) => {
                entries.len() == read.len()
                    && entries
                        .iter()
                        .zip(read)
                        .all(|((key, value), entry)| *key == entry.key && same(value, &entry.node))
            }
            _ => false,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let hard = [
            "",
            "a",
            "yes",
            "1.0",
            "~",
            "null",
            "a: b",
            "# c",
            "- x",
            "a\nb",
            "\u{7f}\u{85}\u{2028}\u{feff}",
            "it's \"q\" \\",
            "${X:-y}",
            "{a}",
            "[b]",
            "*c",
            "&d",
            "!e",
            "%f",
            "@g",
            "`h",
            " i ",
            "ü€😀",
            "0x1f",
            "1_000",
            "2026-01-01",
            "=",
            "<<",
        ];
        let value = Yaml::Map(vec![
            ("texts".to_owned(), texts(hard.map(str::to_owned))),
            (
                "keys".to_owned(),
                Yaml::Map(
                    hard.iter()
                        .map(|key| ((*key).to_owned(), Yaml::Flag(true)))
                        .filter(|(key, _)| key != "<<")
                        .collect(),
                ),
            ),
            (
                "empty".to_owned(),
                map([("l", Yaml::List(vec![])), ("m", Yaml::Map(vec![]))]),
            ),
            (
                "nested".to_owned(),
                Yaml::List(vec![
                    map([
                        ("a", Yaml::Number(1)),
                        ("b", map([("c", "d".into())])),
                        ("e", Yaml::List(vec![map([("f", "g".into())])])),
                    ]),
                    Yaml::List(vec![Yaml::List(vec![map([("x", "y".into())])]), "z".into()]),
                    Yaml::Map(vec![]),
                ]),
            ),
        ]);
        let text = document(&value);
        let read = crate::yaml::tree(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
        assert!(same(&value, &read), "{text}");
    }
}
