//! Directories, what they are taken for, and the steps that follow.

use std::fs;
use std::path::Path;

use model::manifest::Manifest;

use crate::plan::{Base, Inputs, Plan, plan};

/// `=== title`, then files as `@ NAME` and their lines, `---`, and the answer.
const CASES: &str = include_str!("tests/cases.txt");

#[test]
fn sources_are_recognised() {
    let mut seen = String::new();
    for case in CASES.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (files, _) = rest.split_once("---\n").expect("a separator");
        seen.push_str(&format!("=== {title}\n{files}---\n{}", answer(files)));
    }
    // To review a change: STOA_BLESS=1 writes what is said now, and the diff shows it.
    if std::env::var_os("STOA_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/detect/tests/cases.txt");
        fs::write(path, &seen).expect("the snapshot is writable");
    }
    assert_eq!(seen, CASES);
}

fn answer(files: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    for file in files.split("@ ").skip(1) {
        let (name, content) = file.split_once('\n').expect("a name");
        write(dir.path(), name, content);
    }
    let text = fs::read_to_string(dir.path().join("stoa.toml")).unwrap_or_default();
    let manifest = if text.is_empty() {
        Manifest::named("shop".parse().expect("a name"))
    } else {
        let text = format!("schema = 1\napp = \"shop\"\n{text}");
        Manifest::parse(&text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
    };
    let result = super::detect(dir.path(), &manifest)
        .and_then(|detected| Ok((plan(&detected, &manifest, "host")?, detected)));
    match result {
        Ok((plan, detected)) => {
            let mut text = format!("{}\n", detected.describe());
            for (name, service) in manifest.resolve(&detected.found).services {
                text.push_str(&format!("{name}: {}\n", service.command.join(" ")));
            }
            if let Some(release) = &detected.found.release {
                text.push_str(&format!("before traffic: {}\n", release.join(" ")));
            }
            text + &steps(&plan)
        }
        Err(error) => format!("{error}\nnext: {}\n", error.next()),
    }
}

fn write(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    let machine = match content.trim_end() {
        "ELF x86_64" => 62_u16,
        "ELF aarch64" => 183,
        _ => return fs::write(path, content).expect("a file"),
    };
    let mut bytes = b"\x7fELF".to_vec();
    bytes.resize(64, 0);
    bytes[16] = 2;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    fs::write(path, bytes).expect("a file");
}

fn steps(plan: &Plan) -> String {
    let mut text = match &plan.base {
        Base::Named(name) => format!("base {name}\n"),
        Base::Debian { suite, packages } => {
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            format!("base Debian {suite}: {}\n", packages.join(" "))
        }
    };
    for step in &plan.steps {
        let inputs = match &step.inputs {
            Inputs::Nothing => String::new(),
            Inputs::Files(files) => format!(" < {}", files.join(" ")),
            Inputs::Written { file, text } => format!(" < {file} ({})", text.trim_end().replace('\n', ", ")),
            Inputs::Source => " < source".to_owned(),
            Inputs::Site => " < site".to_owned(),
        };
        let server = if step.serves_files { " + file server" } else { "" };
        let network = if step.network { ", network" } else { "" };
        text.push_str(&format!(
            "- {}: {}{inputs}{server}{network}\n",
            step.name,
            step.argv.join(" ")
        ));
    }
    text
}

#[test]
fn links_do_not_lead_out_of_the_source() {
    let place = tempfile::tempdir().expect("a directory");
    let source = place.path().join("source");
    fs::create_dir(&source).expect("a directory");
    fs::write(place.path().join("secret.txt"), "web: secret").expect("a file");
    std::os::unix::fs::symlink("../secret.txt", source.join("Procfile")).expect("a link");
    assert_eq!(super::text(&source, "Procfile").expect("readable"), None);
}
