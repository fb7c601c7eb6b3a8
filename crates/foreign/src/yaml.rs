//! YAML, and JSON as its subset, into a bounded tree.
//!
//! Lives here: anchors, aliases, merge keys (`<<`), and the bounds on all of them.
//! Does not live here: the grammar (`saphyr-parser`), what keys mean.
//! Invariant: the work and the memory of a text are bounded by constants, whatever its aliases multiply to.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::remark::{At, Unreadable};
use crate::tree::{Entry, Node, Value};

/// A file beyond this is not one that somebody wrote.
const TEXT_MAX: usize = 256 << 10;
/// Nodes after all aliases: a "billion laughs" of nine lines stops here.
const NODES_MAX: usize = 20_000;
/// Bytes of keys and texts after all aliases.
const BYTES_MAX: usize = 4 << 20;
/// Compose needs eight; each level is a frame of ours later on.
const DEPTH_MAX: usize = 40;

/// The tree of a text.
pub(crate) fn tree(text: &str) -> Result<Node, Unreadable> {
    if text.len() > TEXT_MAX {
        let message = format!("is longer than {} KiB", TEXT_MAX >> 10);
        return Err(Unreadable::new(At::new(1, 1), message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Builder::default().build(text)
}

const DEEP: &str = "is nested deeper than anybody writes";

/// A list or table whose end has not come yet.
struct Open {
    at: At,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        known: BTreeSet<String>,
        merged: Vec<Node>,
        key: Option<(String, At)>,
    },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    root: Option<Node>,
}

fn at(span: &Span) -> At {
    At::new(span.start.line(), span.start.col() + 1)
}

impl Builder {
    fn build(mut self, text: &str) -> Result<Node, Unreadable> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let mark = error.marker();
                let at = At::new(mark.line(), mark.col() + 1);
                Unreadable::new(at, format!("this is not YAML: {}", error.info()))
            })?;
            self.take(event, at(&span))?;
        }
        Ok(self.root.unwrap_or_else(|| Node::new(At::new(1, 1), Value::Null)))
    }

    fn take(&mut self, event: Event<'_>, at: At) -> Result<(), Unreadable> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentEnd
            | Event::DocumentStart(_) => Ok(()),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Unreadable::new(at, "an alias stands before its anchor"));
                };
                let (nodes, bytes) = weight(&node);
                self.charge(nodes, bytes, at)?;
                self.put(node, at)
            }
            Event::Scalar(text, style, anchor, _) => {
                self.charge(1, text.len(), at)?;
                let plain = style == ScalarStyle::Plain;
                let value = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    text => Value::Text(text.to_owned()),
                };
                self.finish(Node::new(at, value), anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(at, anchor, Kind::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                let kind = Kind::Map {
                    entries: Vec::new(),
                    known: BTreeSet::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(at, anchor, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Err(Unreadable::new(at, "an end without a beginning"));
                };
                let value = match open.kind {
                    Kind::List(nodes) => Value::List(nodes),
                    Kind::Map {
                        entries,
                        known,
                        merged,
                        ..
                    } => Value::Map(self.merge(entries, known, &merged, at)?),
                };
                self.finish(Node::new(open.at, value), open.anchor)
            }
        }
    }

    fn charge(&mut self, nodes: usize, bytes: usize, at: At) -> Result<(), Unreadable> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > NODES_MAX || self.bytes > BYTES_MAX {
            return Err(Unreadable::new(
                at,
                "grows beyond all measure through its aliases",
            ));
        }
        Ok(())
    }

    fn begin(&mut self, at: At, anchor: usize, kind: Kind) -> Result<(), Unreadable> {
        self.charge(1, 0, at)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(Unreadable::new(at, DEEP));
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(Unreadable::new(at, SECOND));
        }
        self.open.push(Open { at, anchor, kind });
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Unreadable> {
        if anchor > 0 {
            let (nodes, bytes) = weight(&node);
            self.charge(nodes, bytes, node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        let at = node.at;
        self.put(node, at)
    }

    /// Puts a whole node where it belongs: into the list or table that is open, or at the top.
    fn put(&mut self, node: Node, at: At) -> Result<(), Unreadable> {
        let depth = self.open.len();
        let Some(open) = self.open.last_mut() else {
            if self.root.replace(node).is_some() {
                return Err(Unreadable::new(at, SECOND));
            }
            return Ok(());
        };
        // An alias brings a depth of its own.
        if depth + height(&node) > DEPTH_MAX {
            return Err(Unreadable::new(at, DEEP));
        }
        match &mut open.kind {
            Kind::List(nodes) => nodes.push(node),
            Kind::Map {
                entries,
                known,
                merged,
                key,
            } => match key.take() {
                None => {
                    let text = match node.value {
                        Value::Text(text) => text,
                        Value::Null => "null".to_owned(),
                        Value::List(_) | Value::Map(_) => {
                            return Err(Unreadable::new(at, "a key must be a text"));
                        }
                    };
                    *key = Some((text, at));
                }
                Some((text, _)) if text == "<<" => merged.push(node),
                Some((text, key_at)) => {
                    if !known.insert(text.clone()) {
                        return Err(Unreadable::new(key_at, format!("{text:?} is there twice")));
                    }
                    entries.push(Entry {
                        key: text,
                        at: key_at,
                        node,
                    });
                }
            },
        }
        Ok(())
    }

    /// `<<`: keys of the merged tables that the table has not itself; the first of several wins.
    fn merge(
        &mut self,
        mut entries: Vec<Entry>,
        mut known: BTreeSet<String>,
        merged: &[Node],
        at: At,
    ) -> Result<Vec<Entry>, Unreadable> {
        let tables = merged.iter().flat_map(|node| match &node.value {
            Value::List(nodes) => nodes.iter().collect(),
            Value::Null | Value::Text(_) | Value::Map(_) => vec![node],
        });
        for table in tables {
            let Some(more) = table.map() else {
                return Err(Unreadable::new(table.at, "<< takes a table, or a list of tables"));
            };
            for entry in more {
                let (nodes, bytes) = weight(&entry.node);
                self.charge(nodes, bytes, at)?;
                if known.insert(entry.key.clone()) {
                    entries.push(entry.clone());
                }
            }
        }
        Ok(entries)
    }
}

const SECOND: &str = "a second document begins here; one file describes one application";

/// Nodes and bytes of a tree.
fn weight(node: &Node) -> (usize, usize) {
    let add = |(nodes, bytes): (usize, usize), (more, text): (usize, usize)| (nodes + more, bytes + text);
    match &node.value {
        Value::Null => (1, 0),
        Value::Text(text) => (1, text.len()),
        Value::List(nodes) => nodes.iter().map(weight).fold((1, 0), add),
        Value::Map(entries) => entries
            .iter()
            .map(|entry| add(weight(&entry.node), (0, entry.key.len())))
            .fold((1, 0), add),
    }
}

fn height(node: &Node) -> usize {
    let below = match &node.value {
        Value::Null | Value::Text(_) => return 0,
        Value::List(nodes) => nodes.iter().map(height).max(),
        Value::Map(entries) => entries.iter().map(|entry| height(&entry.node)).max(),
    };
    1 + below.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        tree(text)
            .expect_err(&text.chars().take(60).collect::<String>())
            .to_string()
    }

    #[test]
    fn scalars_keep_their_text_and_know_their_place() {
        let root = tree("a: 1.10\nb:\n  - yes\n  - \"~\"\n  - ~\n").expect("good");
        assert_eq!(root.get("a").and_then(Node::text), Some("1.10"));
        let list = root.get("b").and_then(Node::list).expect("a list");
        assert_eq!(list[0].text(), Some("yes"));
        assert_eq!((list[1].text(), &list[2].value), (Some("~"), &Value::Null));
        assert_eq!((list[1].at.line, list[1].at.column), (4, 5));
    }

    #[test]
    fn json_with_tabs_is_yaml() {
        let root = tree("{\n\t\"a\": [1,\n\t\t{\"b\": null}],\n\t\"c\": \"x\\u0041\"\n}\n").expect("good");
        assert_eq!(root.get("c").and_then(Node::text), Some("xA"));
        assert_eq!(root.get("a").and_then(Node::list).map(<[Node]>::len), Some(2));
    }

    #[test]
    fn merge_keys_give_what_is_not_there() {
        let text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 0\n";
        let root = tree(text).expect("good");
        let z = root.get("z").expect("z");
        let of = |key| z.get(key).and_then(Node::text);
        assert_eq!((of("a"), of("b"), of("c")), (Some("0"), Some("2"), Some("4")));
    }

    #[test]
    fn what_multiplies_or_nests_without_end_is_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 9].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(refused(&laughs).contains("aliases"));
        // The parser has a bound of its own, and looks for the end of the first bracket before it tells us of any.
        for brackets in ["[", "{", "[{", "{a: ["] {
            let told = refused(&brackets.repeat(40_000));
            assert!(
                told.contains("deeper") || told.contains("recursion"),
                "{brackets}: {told}"
            );
        }
        assert!(refused(&format!("{}{}", "[".repeat(50), "]".repeat(50))).contains("deeper"));
        let mut steps = String::new();
        for depth in 0..200 {
            steps.push_str(&format!("{}a:\n", " ".repeat(depth)));
        }
        assert!(refused(&steps).contains("deeper"));
        assert!(refused(&" ".repeat(TEXT_MAX + 1)).contains("KiB"));
        let wide = format!(
            "a: &a \"{}\"\nb: [{}]",
            "x".repeat(100_000),
            vec!["*a"; 1000].join(",")
        );
        assert!(refused(&wide).contains("aliases"));
        let mut merges = "a: &a {k: v}\n".to_owned();
        for step in 0..5_000 {
            merges.push_str(&format!("m{step}: {{<<: [*a, *a, *a, *a]}}\n"));
        }
        assert!(refused(&merges).contains("aliases"));
        assert!(refused("a: *nobody").contains("not YAML"));
        assert!(
            refused("a: &a [*a]").contains("before its anchor") || refused("a: &a [*a]").contains("not YAML")
        );
    }

    #[test]
    fn brackets_within_texts_are_no_depth() {
        let texts = format!("a: '{0}'\nb: \"{0}\"\n# {0}\nc: |\n  {0}\n", "[{".repeat(200));
        assert!(tree(&texts).is_ok());
    }

    /// A key on a line of its own ends within 1024 characters (YAML 1.2.2, section 7.4.2); within brackets, as in JSON,
    /// there is no bound but ours.
    #[test]
    fn keys_may_be_long() {
        for length in [256, 257, 1000] {
            let key = "k".repeat(length);
            for text in [
                format!("{key}: v\n"),
                format!("\"{key}\": v\n"),
                format!("{{\"{key}\": \"v\"}}"),
            ] {
                let root = tree(&text).unwrap_or_else(|why| panic!("{length}: {why}"));
                assert_eq!(root.get(&key).and_then(Node::text), Some("v"), "{length}");
            }
        }
        let key = "k".repeat(5000);
        let root = tree(&format!("{{\"{key}\": \"v\"}}")).expect("JSON has no such bound");
        assert_eq!(root.get(&key).and_then(Node::text), Some("v"));
        assert!(refused(&format!("{key}: v\n")).contains("not YAML"));
    }

    #[test]
    fn what_is_not_one_document_is_refused_with_its_place() {
        for (text, says) in [
            ("a: 1\na: 2\n", "2:1: \"a\" is there twice"),
            ("a: 1\n---\nb: 2\n", "3:1: a second document"),
            ("a: [1\n", "not YAML"),
            ("[a]: b\n", "1:1: a key must be a text"),
            ("a: {<<: 5}\n", "<< takes a table"),
        ] {
            let told = refused(text);
            assert!(told.contains(says), "{text}: {told}");
        }
    }
}
