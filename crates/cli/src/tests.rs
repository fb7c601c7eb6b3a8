//! Help and error texts are kept as reviewed snapshots: `STOA_WRITE_SNAPSHOTS=1 cargo test -p stoa-cli` writes them.

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};

use crate::Cli;
use crate::failure::{Code, Failure};

/// Compares with the committed text, or writes it.
fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots").join(name);
    if std::env::var_os("STOA_WRITE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, text).expect("written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        known,
        text,
        "{}: review, then STOA_WRITE_SNAPSHOTS=1",
        path.display()
    );
}

fn help_of(command: &mut clap::Command, path: &str, text: &mut String) {
    text.push_str(&format!(
        "##### {path}\n{}\n",
        command.clone().term_width(100).render_long_help()
    ));
    let names: Vec<String> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(below) = command.find_subcommand_mut(&name) {
            help_of(below, &format!("{path} {name}"), text);
        }
    }
}

#[test]
fn help() {
    let mut command = Cli::command();
    command.build();
    let mut text = String::new();
    help_of(&mut command, "stoa", &mut text);
    check("help.txt", &text);
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn up_has_its_own_api_option() {
    let of = |line: &str| Cli::try_parse_from(line.split(' ')).expect(line).command;
    let crate::Command::Up(up) = of("stoa up") else {
        panic!("up")
    };
    assert_eq!(up.api_listen().to_string(), "127.0.0.1:7070");
    let crate::Command::Up(up) = of("stoa up --api 127.0.0.1:0 --http 127.0.0.1:8080") else {
        panic!("up")
    };
    assert_eq!(up.api_listen().port(), 0);
    assert!(Cli::try_parse_from(["stoa", "up", "--api", "http://x"]).is_err());
    let status = Cli::try_parse_from(["stoa", "status", "--api", "http://x"]).expect("status");
    assert_eq!(status.globals.api.as_deref(), Some("http://x"));
}

#[test]
fn approving_takes_what_all_verbs_take_and_no_way_to_sign_in() {
    for (line, says_how) in [
        ("login --json approve BCDF-GHJK", false),
        ("login approve BCDF-GHJK --yes --json", false),
        ("login --local approve BCDF-GHJK", true),
        ("login --claim x approve BCDF-GHJK", true),
    ] {
        let words = std::iter::once("stoa").chain(line.split(' '));
        let parsed = Cli::try_parse_from(words).expect(line);
        let crate::Command::Remote(crate::args::Remote::Login(args)) = parsed.command else {
            panic!("{line}")
        };
        assert!(args.command.is_some(), "{line}");
        assert_eq!(args.says_how(), says_how, "{line}");
    }
}

#[test]
fn usage_errors() {
    let mut text = String::new();
    for line in [
        "deplyo",
        "secrets set",
        "secrets set KEY value",
        "scale web",
        "scale web=many",
        "db destory main",
        "db create Main",
        "logs --tail 99999999",
        "login --local --token",
        "deploy --timeout soon",
        "tokens create ci --role god",
        "deploy --detatch",
        "export",
        "export --compose --kubernetes",
        "context us here",
        "man --dri x",
        "status --color blue",
    ] {
        let arguments = std::iter::once("stoa").chain(line.split(' '));
        let error = Cli::try_parse_from(arguments).expect_err(line);
        text.push_str(&format!("##### stoa {line}\n{error}\n"));
    }
    check("usage.txt", &text);
}

/// The letter in the middle once more: what a finger does.
fn misspelt(word: &str) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    let at = letters.len() / 2;
    letters.insert(at, letters[at]);
    letters.into_iter().collect()
}

/// Every verb and flag that is misspelt gets the right one named, at every place of the tree.
#[test]
fn misspelt_verbs_and_flags_get_the_right_one_named() {
    fn walk(command: &clap::Command, path: &[String], tried: &mut u32, wrong: &mut Vec<String>) {
        let mut ask = |last: String, right: &str| {
            let words = path.iter().cloned().chain([last]);
            let line: Vec<String> = words.collect();
            let said = Cli::try_parse_from(&line).expect_err("misspelt").to_string();
            *tried += 1;
            if !said.contains(&format!("'{right}'")) {
                wrong.push(format!("{}: {said}", line.join(" ")));
            }
        };
        for below in command.get_subcommands() {
            ask(misspelt(below.get_name()), below.get_name());
        }
        for argument in command.get_arguments().filter_map(clap::Arg::get_long) {
            ask(format!("--{}", misspelt(argument)), &format!("--{argument}"));
        }
        for below in command.get_subcommands() {
            let path: Vec<String> = path
                .iter()
                .cloned()
                .chain([below.get_name().to_owned()])
                .collect();
            walk(below, &path, tried, wrong);
        }
    }
    let mut root = Cli::command();
    root.build();
    let (mut tried, mut wrong) = (0, Vec::new());
    walk(&root, &["stoa".to_owned()], &mut tried, &mut wrong);
    assert!(
        wrong.is_empty(),
        "{} of {tried}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(tried > 300, "only {tried}");
}

/// The flag that is looked for before the arguments are read.
#[test]
fn colour_is_chosen_before_anything_is_printed() {
    use crate::args::Color;
    for (line, color) in [
        ("stoa status", Color::Auto),
        ("stoa --color never status", Color::Never),
        ("stoa status --color=always", Color::Always),
        ("stoa status --color=blue", Color::Auto),
        ("stoa run --color never -- --color always", Color::Never),
        ("stoa --color", Color::Auto),
    ] {
        let words: Vec<std::ffi::OsString> = line.split(' ').map(Into::into).collect();
        assert_eq!(crate::color_of(&words), color, "{line}");
    }
}

#[test]
fn the_json_of_a_foreign_program_is_not_ours() {
    for (line, is_ours) in [
        ("stoa --json stauts", true),
        ("stoa stauts --json", true),
        ("stoa run -- prog --json", false),
        ("stoa --json run -- prog --json", true),
        ("stoa stauts", false),
    ] {
        let words: Vec<std::ffi::OsString> = line.split(' ').map(Into::into).collect();
        assert_eq!(crate::is_json(&words), is_ours, "{line}");
    }
}

#[test]
fn failures() {
    let problem = |status, code: &str, detail: &str, next: &str| {
        client::Error::Problem(Box::new(api::Problem {
            kind: "about:blank".to_owned(),
            title: String::new(),
            status,
            detail: detail.to_owned(),
            code: code.to_owned(),
            request_id: "req_1".to_owned(),
            errors: Vec::new(),
            next_step: next.to_owned(),
        }))
    };
    let mut invalid = problem(
        422,
        "invalid",
        "the request has 2 mistakes",
        "mend the values named above",
    );
    if let client::Error::Problem(problem) = &mut invalid {
        problem.errors = [("/name", "must be a text"), ("", "must be an object")]
            .map(|(pointer, message)| api::FieldError {
                pointer: pointer.to_owned(),
                message: message.to_owned(),
            })
            .to_vec();
    }
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let all: [(client::Error, Code); 7] = [
        (
            problem(
                404,
                "not_found",
                "there is no app \"shop\"",
                "see what is there: stoa status",
            ),
            Code::NotFound,
        ),
        (
            problem(401, "sign_in", "sign in first", "stoa login --local"),
            Code::SignIn,
        ),
        (
            problem(403, "denied", "this needs the right administer", "ask an admin"),
            Code::Denied,
        ),
        (
            problem(412, "stale", "it was changed meanwhile", "read it again"),
            Code::Conflict,
        ),
        (
            problem(
                500,
                "internal",
                "something broke inside Stoa",
                "look for the request in the log",
            ),
            Code::Failed,
        ),
        (invalid, Code::Failed),
        (
            client::Error::Connect {
                address: "http://127.0.0.1:7070".to_owned(),
                cause: refused,
            },
            Code::Failed,
        ),
    ];
    let mut text = String::new();
    for (error, code) in all {
        let failure = Failure::from(error);
        assert_eq!(failure.code, code, "{}", failure.message);
        text.push_str(&failure.text());
        text.push('\n');
    }
    check("failures.txt", &text);
}

/// What keys are derived for (`store`, `build`) begins with the name too.
const LABELS: &[&str] = &["stoa store: ", "stoa build 1"];

/// Every command that a message, a comment or a document of the repository names, with its place. The product is
/// written with a capital, so that what is not is a command.
fn commands_named() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for part in [
        "crates",
        "stoa/src",
        "docs",
        "examples",
        "tests/apps",
        "xtask/src",
        "README.md",
    ] {
        for entry in ignore::Walk::new(root.join(part)).filter_map(Result::ok) {
            let path = entry.path();
            let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let is_text = matches!(kind, "rs" | "md" | "toml")
                && !path.ends_with("cli/src/tests.rs")
                && !path.ends_with("cli/tests/shells.rs");
            // Decisions are history; they may name what is gone or still to come.
            if !is_text || path.components().any(|part| part.as_os_str() == "decisions") {
                continue;
            }
            let text = std::fs::read_to_string(path).expect("a source file");
            for (line, text) in text.lines().enumerate() {
                let place = format!("{}:{}", path.display(), line + 1);
                let commands = text.match_indices("stoa ").map(|(at, _)| &text[at..]);
                let commands = commands.filter(|text| !LABELS.iter().any(|label| text.starts_with(label)));
                found.extend(commands.map(|text| (place.clone(), text.to_owned())));
            }
        }
    }
    found
}

/// The words of a command at the beginning of `text`, up to the first that something else follows directly.
fn words_of(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in text.split(' ').skip(1) {
        // What stands for an argument: {name}, {}, NAME.
        if word.starts_with('{') && word.ends_with('}')
            || word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase())
        {
            continue;
        }
        let is_option = word.starts_with("--");
        let is_part = |c: char| c.is_ascii_lowercase() || c == '-' || is_option && c.is_ascii_digit();
        let end = word.find(|c: char| !is_part(c));
        words.push(&word[..end.unwrap_or(word.len())]);
        if end.is_some() {
            break;
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether these words lead to a command and its options; what follows them is arguments or prose.
fn leads_somewhere(cli: &clap::Command, words: &[&str]) -> bool {
    let mut command = cli;
    let mut is_value = false;
    for word in words {
        let was_option = std::mem::take(&mut is_value);
        if let Some(option) = word.strip_prefix("--") {
            let mut known = command.get_arguments().chain(cli.get_arguments());
            match known.find(|argument| argument.get_long() == Some(option)) {
                Some(found) => is_value = found.get_action().takes_values(),
                None if option.is_empty() => {}
                None => return false,
            }
        } else if was_option {
            // Its value: of `login`, which also has a verb below it.
        } else if command.has_subcommands() {
            match command.find_subcommand(word) {
                Some(below) => command = below,
                None => return false,
            }
        }
    }
    true
}

#[test]
fn every_command_that_is_named_exists() {
    let mut cli = Cli::command();
    cli.build();
    let named = commands_named();
    assert!(named.len() > 100, "found only {} commands", named.len());
    let wrong: Vec<String> = named
        .iter()
        .filter(|(_, text)| !leads_somewhere(&cli, &words_of(text)))
        .map(|(place, text)| format!("{place}: {text}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "there is no such command:\n{}",
        wrong.join("\n")
    );
    // The control: what does not exist is seen.
    for text in [
        "stoa image gc",
        "stoa frobnicate",
        "stoa doctor --mend",
        "stoa login frobnicate",
    ] {
        assert!(!leads_somewhere(&cli, &words_of(text)), "{text}");
    }
}

#[test]
fn a_plan_in_words() {
    let change = |what: &str, name: &str, change: &str, settings: &[&str]| api::ReleasePlanChange {
        what: what.to_owned(),
        name: name.to_owned(),
        change: change.to_owned(),
        settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
    };
    let lines = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| (*line).to_owned())
            .collect::<Vec<String>>()
    };
    let full = api::ReleasePlan {
        release: "v8".to_owned(),
        serving: Some("v7".to_owned()),
        strategy: "canary (5% for 2m, then all)".to_owned(),
        changes: vec![
            change("service", "web", "changed", &["scale", "routes"]),
            change("variable", "LOG_LEVEL", "changed", &[]),
            change("database", "main", "added", &[]),
            change("database", "old", "orphaned", &[]),
        ],
        steps: lines(&[
            "run the job migrate; if it fails, nothing else happens",
            "start 1 x web of v8 and wait until ready",
        ]),
        obstacles: lines(&["the secret KEY is not set; next: stoa secrets set KEY --app shop"]),
        unknown: lines(&["the image: it is built from the source"]),
    };
    let bare = api::ReleasePlan {
        release: "v1".to_owned(),
        serving: None,
        strategy: "rolling".to_owned(),
        changes: Vec::new(),
        steps: lines(&["start 1 x web of v1 and wait until ready"]),
        obstacles: Vec::new(),
        unknown: Vec::new(),
    };
    let text = format!(
        "{}\n=====\n\n{}",
        crate::deploy::told(&full),
        crate::deploy::told(&bare)
    );
    check("plan.txt", &text);
}
