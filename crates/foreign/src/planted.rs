//! A key that nobody knows, planted into each table of a file in turn: its importer must say so.

use std::path::Path;

use crate::emit::{Yaml, document};
use crate::tree::{Node, Value};
use crate::{Beside, Form, ImportError, Kind, Remark, import};

const KEY: &str = "planted";

/// The tree as it can be written, with the key in its table number `at`; the path of that table.
fn planted(node: &Node, path: &str, at: &mut Option<usize>, place: &mut String) -> Yaml {
    match &node.value {
        Value::Null => Yaml::Map(Vec::new()),
        Value::Text(text) => Yaml::Text(text.clone()),
        Value::List(nodes) => {
            let numbered = nodes.iter().enumerate();
            let items = numbered.map(|(index, node)| planted(node, &format!("{path}[{index}]"), at, place));
            Yaml::List(items.collect())
        }
        Value::Map(entries) => {
            let is_here = *at == Some(0);
            *at = at.and_then(|left| left.checked_sub(1));
            let mut written: Vec<(String, Yaml)> = entries
                .iter()
                .map(|entry| {
                    let path = crate::keys::join(path, &entry.key);
                    (entry.key.clone(), planted(&entry.node, &path, at, place))
                })
                .collect();
            if is_here {
                path.clone_into(place);
                written.push((KEY.to_owned(), Yaml::Map(vec![("x".to_owned(), "y".into())])));
            }
            Yaml::Map(written)
        }
    }
}

/// Whether a remark is about the key, or about all that stands in a table around it.
fn tells(remark: &Remark, place: &str) -> bool {
    let around = place.strip_prefix(&remark.path);
    let is_around =
        !remark.path.is_empty() && around.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    // What becomes of a whole service says nothing of its keys.
    let of_service = remark.path.strip_prefix("services.");
    let is_service = of_service.is_some_and(|name| !name.contains('.'));
    let is_whole = is_around && remark.kind != Kind::Changed && !is_service;
    is_whole || remark.path.starts_with(&crate::keys::join(place, KEY))
}

/// How many tables the text has; each that passes a key over in silence.
fn tried(form: Form, root: &Node, render: impl Fn(&Yaml) -> String) -> (usize, Vec<String>) {
    let app = "app".parse().expect("a name");
    let mut silent = Vec::new();
    for number in 0.. {
        let (mut at, mut place) = (Some(number), "?".to_owned());
        let yaml = planted(root, "", &mut at, &mut place);
        if place == "?" {
            return (number, silent);
        }
        let text = render(&yaml);
        let remarks = match import(form, &text, &app, &Beside::default()) {
            Ok(imported) => imported.remarks,
            Err(ImportError::Nothing { remarks }) => remarks,
            Err(ImportError::Unreadable(why)) => panic!("{place}: {why}\n{text}"),
        };
        if !remarks.iter().any(|remark| tells(remark, &place)) {
            silent.push(format!("{form:?}: {place}.{KEY}"));
        }
    }
    unreachable!("a file has an end")
}

/// The same as TOML, a line for each value.
fn toml(yaml: &Yaml) -> String {
    fn value(yaml: &Yaml) -> toml::Value {
        match yaml {
            Yaml::Text(text) => toml::Value::String(text.clone()),
            Yaml::Number(number) => toml::Value::Integer(i64::try_from(*number).expect("small")),
            Yaml::Flag(flag) => toml::Value::Boolean(*flag),
            Yaml::List(items) => toml::Value::Array(items.iter().map(value).collect()),
            Yaml::Map(entries) => toml::Value::Table(
                entries
                    .iter()
                    .map(|(key, yaml)| (key.clone(), value(yaml)))
                    .collect(),
            ),
        }
    }
    toml::to_string(&value(yaml)).expect("TOML")
}

#[test]
fn no_table_of_any_form_passes_a_key_over() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files: Vec<_> = std::fs::read_dir(folder.join("compose"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files.push(folder.join("other/every.yaml"));
    let (mut tables, mut silent) = (0, Vec::new());
    let mut add = |(number, found): (usize, Vec<String>), file: &Path| {
        tables += number;
        silent.extend(found.into_iter().map(|key| format!("{}: {key}", file.display())));
    };
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a file");
        let root = crate::yaml::tree(&text).expect("YAML");
        add(tried(Form::Compose, &root, document), &file);
    }
    for name in ["app.json", "every.json"] {
        let file = folder.join("other").join(name);
        let text = std::fs::read_to_string(&file).expect("a file");
        let root = crate::yaml::tree(&text).expect("JSON");
        add(tried(Form::AppJson, &root, document), &file);
    }
    for name in ["fly.toml", "every.toml"] {
        let file = folder.join("other").join(name);
        let text = std::fs::read_to_string(&file).expect("a file");
        let root = crate::tree::of_toml(&text).expect("TOML");
        add(tried(Form::Fly, &root, toml), &file);
    }
    assert!(silent.is_empty(), "passed over:\n{}", silent.join("\n"));
    assert!(tables > 200, "only {tables} tables");
}
