//! Readers of strangers' texts, each as a function of bytes that must come back.
//!
//! Lives here: what is read, and what must hold of the answer. Does not live here: where the bytes come from
//! (`tests/corpus.rs`: the committed ones and seeded changes of them; `libfuzzer`: those that libFuzzer finds).
//! Invariant: what a target says of its bytes depends on nothing else, so that a finding is a file.

pub mod door;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use foreign::export::{self, Options};
use foreign::{Beside, Form, ImportError};
use model::manifest::{Found, Manifest, command};
use model::{AppId, Bytes, CpuMillis, EnvKey, ImageDigest, Millis, Name, ReleaseId};

/// A reader.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// Reads the bytes. Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("app-json", |data| imported(Form::AppJson, data)),
    target("claim", door::claim),
    target("command", commands),
    target("compose", |data| imported(Form::Compose, data)),
    target("dotenv", |data| imported(Form::Dotenv, data)),
    target("fly", |data| imported(Form::Fly, data)),
    target("manifest", manifest),
    target("names", names),
    target("page-token", door::page_token),
    target("procfile", |data| imported(Form::Procfile, data)),
    target("token", door::token),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target of a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A manifest that is accepted says the same when it is written and read again, and can be exported; one that is not
/// gets problems in the order of the text.
fn manifest(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Manifest::parse(text) {
        Ok(manifest) => {
            accepted(&manifest);
            let production: Name = "production".parse().expect("a name");
            let there = Manifest::parse_for(text, &production).expect("every overlay was checked");
            accepted(&there);
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let places: Vec<_> = problems
                .iter()
                .map(|problem| (problem.line, problem.column))
                .collect();
            assert!(places.is_sorted() && places.iter().all(|(line, column)| *line > 0 && *column > 0));
            assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
}

fn accepted(manifest: &Manifest) {
    let written = manifest.to_toml();
    let again = Manifest::parse(&written).unwrap_or_else(|why| panic!("{why:?}\n{written}"));
    assert_eq!(&again, manifest, "{written}");
    let resolved = manifest.resolve(&Found::default());
    for service in resolved.services.values() {
        let _words = command::expand(&service.command, |_| Some("$PORT"));
    }
    exported(manifest);
}

/// What is exported is of its form: our own reader of compose takes it.
fn exported(manifest: &Manifest) {
    let options = Options {
        image: "x/y:1".to_owned(),
        domain: "example.org".to_owned(),
        environment: "production".parse().expect("a name"),
    };
    if let Ok(kubernetes) = export::export(export::Target::Kubernetes, manifest, &options) {
        assert!(!kubernetes.text.is_empty());
    }
    let Ok(compose) = export::export(export::Target::Compose, manifest, &options) else {
        return;
    };
    let back = foreign::import(Form::Compose, &compose.text, &manifest.app, &Beside::default());
    if let Err(ImportError::Unreadable(why)) = back {
        // The bounds on what is read are tighter than those on what can be written.
        let is_bound = ["longer", "measure", "deeper"]
            .iter()
            .any(|word| why.message.contains(word));
        assert!(is_bound, "{why}\n{}", compose.text);
    }
}

/// What is imported is a manifest that its own parser takes, with the remarks as comments; what is not says why.
fn imported(form: Form, data: &[u8]) {
    let Some(text) = text(data) else { return };
    let app: Name = "app".parse().expect("a name");
    let variables = [
        ("TAG", "1.2"),
        ("EMPTY", ""),
        ("API_KEY", "sk_live_1"),
        ("ARGS", "-a 'b"),
    ];
    let beside = Beside {
        variables: variables
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        procfile: Some("web: bin/web\nrelease: bin/up\n".to_owned()),
    };
    match foreign::import(form, text, &app, &beside) {
        Ok(imported) => {
            let file = imported.text("a file\nof two lines");
            let again = Manifest::parse(&file).unwrap_or_else(|why| panic!("{why:?}\n{file}"));
            assert_eq!(again, imported.manifest, "{file}");
            assert!(
                !file.contains("sk_live_1") || text.contains("sk_live_1"),
                "{file}"
            );
            let _lines = imported.would_run();
            exported(&imported.manifest);
        }
        Err(ImportError::Unreadable(why)) => assert!(!why.message.is_empty() && why.at.line > 0),
        Err(ImportError::Nothing { remarks }) => assert!(!remarks.is_empty(), "refused without a reason"),
    }
}

/// Words that are accepted are accepted again, and no value makes two words of one.
fn commands(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match command::split(text) {
        Ok(words) => {
            assert_eq!(command::check(&words), Ok(()));
            let expanded = command::expand(&words, |_| Some("a b; c"));
            assert!(expanded.len() <= words.len());
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// Whatever has the form of a name, an id or a quantity is the same when it is written and read again.
fn names(data: &[u8]) {
    let Some(text) = text(data) else { return };
    same::<Name>(text);
    same::<EnvKey>(text);
    same::<ImageDigest>(text);
    same::<AppId>(text);
    same::<ReleaseId>(text);
    same::<Bytes>(text);
    same::<Millis>(text);
    if let Ok(name) = text.parse::<Name>() {
        assert!(model::is_host_name(name.as_str()), "{name} is no DNS label");
    }
    if model::is_host_name(text) {
        assert!(text.len() <= 253 && !text.contains(['/', ':', ' ', '\0']) && !text.contains(".."));
    }
    if let Ok(share) = text.parse::<f64>() {
        let cpu = CpuMillis::from_processors(share);
        assert!(cpu.is_err() || (0.0..=1025.0).contains(&share));
    }
}

fn same<T>(text: &str)
where
    T: FromStr + Display + PartialEq + Debug,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            let again = written.parse::<T>().ok();
            assert_eq!(again, Some(value), "{written}");
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}
