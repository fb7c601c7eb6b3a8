//! The JSON Schema of `stoa.toml` against its parser, judged by Python's `jsonschema`.
//!
//! What the parser takes, the schema takes; what the parser refuses for a reason that a schema can tell, it refuses too.

use std::io::Write as _;
use std::process::{Command, Stdio};

use model::manifest::{Manifest, schema};
use serde_json::{Value, json};

/// One line in: the schema. Then one document a line; `true` or `false` out for each.
const JUDGE: &str = "\
import json, sys
from jsonschema import Draft7Validator
schema = json.loads(sys.stdin.readline())
Draft7Validator.check_schema(schema)
validator = Draft7Validator(schema)
for line in sys.stdin:
    print(json.dumps(validator.is_valid(json.loads(line))))
";

fn judge(documents: &[Value]) -> Vec<bool> {
    let mut input = format!("{}\n", schema());
    for document in documents {
        input.push_str(&format!("{document}\n"));
    }
    let mut python = Command::new("python3")
        .args(["-c", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs (cargo xtask packages)");
    let mut stdin = python.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = python.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads all");
    assert!(
        output.status.success(),
        "python3-jsonschema is there and the schema is one"
    );
    let text = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<bool> = text.lines().map(|line| line == "true").collect();
    assert_eq!(answers.len(), documents.len());
    answers
}

fn value(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

const FULL: &str = r#"
schema = 1
app = "shop"
[build]
base = "debian:12"
packages = ["libpq5", "g++"]
command = [["make"], ["make", "assets"]]
start = "bin/shop serve"
[env]
LOG_LEVEL = "info"
[services.web]
port = 3000
scale = { min = 2, max = 2 }
resources = { cpu = 0.5, memory = "512Mi", pids = 64 }
health = { path = "/healthz?deep=1", grace = "10s", interval = "2s", timeout = "1s", failures = 5 }
routes = [{ host = "shop.example.org", path = "/" }, { path = "/api" }]
uses = ["main", "mail"]
secrets = ["STRIPE_KEY"]
stop_grace = "5s"
[services.mail]
image = "registry.example.org:5000/mailer:4.2"
port = 25
scale = 3
expose = "private"
[jobs.migrate]
command = "bin/shop migrate --to 'latest one'"
on = "release"
uses = ["main"]
timeout = "1h"
[databases]
main = { engine = "postgres", version = "15", size = "10Gi", memory = "256Mi" }
[rollout]
surge = { over = 1, under = 0 }
[environments.staging]
services.web.scale = 1
jobs.migrate.timeout = "5m"
rollout = { strategy = "canary", steps = ["5%:2m", "100%"] }
"#;

#[test]
fn what_the_parser_takes_the_schema_takes() {
    let texts = [
        FULL,
        "schema = 1\napp = 'a'",
        "schema = 1\napp = 'a'\n[build]\noutput = 'dist'\ncommand = 'make'\n[rollout]\nstrategy = 'recreate'",
        "schema = 1\napp = 'a'\n[services.web]\ncommand = ['a', 'b c', '$PORT']\nroutes = []\n[environments.x]",
    ];
    for text in texts {
        Manifest::parse(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    }
    let documents: Vec<Value> = texts.iter().map(|text| value(text)).collect();
    for (text, taken) in texts.iter().zip(judge(&documents)) {
        assert!(taken, "{text}");
    }
}

/// Every table of a document, as JSON Pointers.
fn tables(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            found.push(at.to_owned());
            for (key, value) in entries {
                tables(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                tables(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A key or value that is none, put into every table: the schema and the parser refuse each.
#[test]
fn a_wrong_key_is_refused_by_both_in_every_table() {
    let whole = value(FULL);
    let mut places = Vec::new();
    tables(&whole, "", &mut places);
    assert_eq!(places.len(), 24, "{places:?}");
    let mut documents = Vec::new();
    for place in &places {
        for (key, wrong) in [("zzz", json!(1)), ("Z Z", json!({}))] {
            let mut document = whole.clone();
            document.pointer_mut(place).expect("there")[key] = wrong;
            let text = toml::to_string(&document).expect("TOML");
            assert!(
                Manifest::parse(&text).is_err(),
                "the parser takes {key} in {place}"
            );
            documents.push(document);
        }
    }
    for (index, taken) in judge(&documents).into_iter().enumerate() {
        assert!(!taken, "the schema takes a wrong key in {}", places[index / 2]);
    }
}

/// What the committed answers of the parser call a wrong key, a wrong type or something missing.
#[test]
fn refused_manifests_are_refused_by_the_schema_where_it_can_tell() {
    let cases = include_str!("../src/manifest/tests/bad.txt");
    let mut titles = Vec::new();
    let mut documents = Vec::new();
    for case in cases.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (text, answer) = rest.split_once("---\n").expect("a separator");
        let is_told = [
            "is not a known key",
            "not supported by this version",
            " must be a",
            "engine is missing",
        ]
        .iter()
        .any(|words| answer.contains(words));
        if let (true, Ok(document)) = (is_told, toml::from_str::<Value>(text)) {
            titles.push(title);
            documents.push(document);
        }
    }
    assert!(titles.len() >= 8, "{titles:?}");
    for (title, taken) in titles.iter().zip(judge(&documents)) {
        assert!(!taken, "the schema takes: {title}");
    }
}
