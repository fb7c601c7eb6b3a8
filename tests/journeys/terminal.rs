//! What depends on where the CLI's input and output go: hidden typing, colours, prompts; and what it exits with.
//!
//! The terminal is a real one (`tests/clients/terminal/sit.py` sits at it).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, Stoa, repository};
use serde_json::{Value, json};

/// Where a stream of the program goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Terminal,
    Pipe,
}

impl To {
    fn word(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Pipe => "pipe",
        }
    }
}

/// What was seen of a program whose input is a terminal.
#[derive(Debug)]
struct Seen {
    code: i32,
    /// All that the terminal shows, echoes of what is typed among it.
    screen: String,
    stdout: String,
    stderr: String,
    /// Whether the terminal showed what is typed, at each question.
    echoes: Vec<bool>,
}

/// A person at a terminal.
struct Person {
    folder: std::path::PathBuf,
    env: BTreeMap<String, String>,
}

impl Person {
    fn new(folder: &std::path::Path, env: &[(&str, &str)]) -> Self {
        let mut all = BTreeMap::from([
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("TERM".to_owned(), "xterm".to_owned()),
            (
                "STOA_CONFIG_DIR".to_owned(),
                folder.join("config").display().to_string(),
            ),
        ]);
        all.extend(
            env.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        Self {
            folder: folder.to_owned(),
            env: all,
        }
    }

    fn runs(&self, arguments: &[&str], types: &[&str], stdout: To, stderr: To) -> Result<Seen> {
        let binary = Stoa::binary();
        let program = binary.to_string_lossy();
        let command: Vec<&str> = std::iter::once(program.as_ref())
            .chain(arguments.iter().copied())
            .collect();
        let plan = json!({
            "command": command,
            "folder": self.folder,
            "env": self.env,
            "types": types,
            "stdout": stdout.word(),
            "stderr": stderr.word(),
        });
        let mut child = Command::new("python3")
            .arg(repository().join("tests/clients/terminal/sit.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("a pipe")?;
        input.write_all(plan.to_string().as_bytes())?;
        drop(input);
        let said = child.wait_with_output()?;
        let seen: Value = serde_json::from_slice(&said.stdout).context("no account of the terminal")?;
        let text = |key: &str| seen[key].as_str().unwrap_or_default().to_owned();
        let code = seen["code"].as_i64().and_then(|code| i32::try_from(code).ok());
        let echoes = seen["echoes"].as_array().context("no echoes")?;
        Ok(Seen {
            code: code.context("no exit code")?,
            screen: text("screen"),
            stdout: text("stdout"),
            stderr: text("stderr"),
            echoes: echoes.iter().map(|echo| *echo == Value::Bool(true)).collect(),
        })
    }
}

/// A directory of a test that needs no Stoa.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("stoa-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Nobody listens there: what is tried begins and ends before the first connection, or with its refusal.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn a_password_is_never_shown_at_a_terminal() -> Result<()> {
    let folder = Folder::new("terminal-hidden")?;
    let person = Person::new(&folder.0, &[("STOA_API", NOBODY)]);
    let email: &[&str] = &["login", "--email", "a@example.org"];
    let invitation: &[&str] = &["login", "--invitation", "stoa_inv_x", "--name", "Ann"];
    let claim: &[&str] = &[
        "login",
        "--claim",
        "stoa_claim_x",
        "--as",
        "a@example.org",
        "--name",
        "Ann",
    ];
    let set: &[&str] = &["secrets", "set", "KEY", "--app", "x"];
    for stdout in [To::Terminal, To::Pipe] {
        for stderr in [To::Terminal, To::Pipe] {
            for (arguments, types, code) in [
                (email, &["hunter2"][..], 1),
                (invitation, &["hunter2", "hunter2"], 1),
                (claim, &["hunter2", "hunter2"], 1),
                // Nobody sees what is typed, so a slip must not become the password.
                (invitation, &["hunter2", "hunter3"], 2),
                (claim, &["hunter2", "hunter3"], 2),
                (&["login", "--token"], &["hunter2"], 1),
                (set, &["hunter2"], 1),
            ] {
                let seen = person.runs(arguments, types, stdout, stderr)?;
                let all = format!("{}{}{}", seen.screen, seen.stdout, seen.stderr);
                ensure!(
                    !all.contains("hunter"),
                    "{arguments:?} shows what is typed: {all}"
                );
                ensure!(seen.code == code, "{arguments:?}: {seen:?}");
                ensure!(
                    seen.echoes == vec![false; types.len()],
                    "{arguments:?} did not ask {} times with the echo off: {seen:?}",
                    types.len()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn what_may_be_seen_is_shown_and_asked_for_only_where_somebody_sits() -> Result<()> {
    let stoa = Stoa::start("terminal-asks")?;
    stoa.cli(&["apps", "create", "idle"])?.ok()?;
    let token = stoa.cli(&["tokens", "create", "person"])?.ok()?.stdout;
    let api = stoa.api_url();
    let person = Person::new(stoa.root(), &[("STOA_API", &api), ("STOA_TOKEN", token.trim())]);
    let destroy = &["apps", "destroy", "idle"];
    // The control of the test above: where nothing is hidden, it is seen.
    let wrong = person.runs(destroy, &["other"], To::Pipe, To::Terminal)?;
    ensure!(
        wrong.echoes == [true] && wrong.screen.contains("other"),
        "{wrong:?}"
    );
    ensure!(
        wrong.code == 2 && wrong.screen.contains("nothing was done"),
        "{wrong:?}"
    );
    // A question that nobody can read is none.
    let unseen = person.runs(destroy, &["idle"], To::Pipe, To::Pipe)?;
    ensure!(unseen.code == 2 && unseen.echoes.is_empty(), "{unseen:?}");
    ensure!(unseen.stderr.contains("--confirm idle"), "{unseen:?}");
    stoa.cli(destroy)?.exits(2)?.says("--confirm idle")?;
    let right = person.runs(destroy, &["idle"], To::Pipe, To::Terminal)?;
    ensure!(right.code == 0, "{right:?}");
    stoa.finish()
}

#[test]
fn colours_are_for_terminals_that_want_them() -> Result<()> {
    let folder = Folder::new("terminal-colours")?;
    let is_coloured = |env: &[(&str, &str)], arguments: &[&str], to: To| -> Result<bool> {
        let seen = Person::new(&folder.0, env).runs(arguments, &[], to, to)?;
        let all = format!("{}{}{}", seen.screen, seen.stdout, seen.stderr);
        ensure!(all.contains("stoa"), "{arguments:?} said nothing: {seen:?}");
        Ok(all.contains('\u{1b}'))
    };
    for arguments in [&["deplyo"][..], &["--help"]] {
        let with = |more: &[&'static str]| [arguments, more].concat();
        for (env, more, to, expected) in [
            (&[][..], &[][..], To::Terminal, true),
            (&[("NO_COLOR", "1")], &[], To::Terminal, false),
            (&[("NO_COLOR", "")], &[], To::Terminal, true),
            (&[("TERM", "dumb")], &[], To::Terminal, false),
            (&[], &["--color", "never"], To::Terminal, false),
            (&[], &["--color=always"], To::Pipe, true),
            (&[("NO_COLOR", "1")], &["--color", "always"], To::Terminal, true),
            (&[("TERM", "dumb")], &["--color", "always"], To::Pipe, true),
            (&[], &[], To::Pipe, false),
        ] {
            let found = is_coloured(env, &with(more), to)?;
            ensure!(found == expected, "{arguments:?} {more:?} with {env:?}: {found}");
        }
    }
    // As JSON there is nothing to colour, even when asked.
    ensure!(!is_coloured(
        &[],
        &["--json", "--color", "always", "deplyo", "--x-stoa"],
        To::Terminal
    )?);
    Ok(())
}

/// What the help promises of exit codes; 7 is a rejected release (`no_failed_request`), 130 an interrupted wait.
#[test]
fn every_exit_code_means_one_thing() -> Result<()> {
    let stoa = Stoa::start("exit-codes")?;
    let app = Application::copy("probe", stoa.root())?;
    let viewer = stoa
        .cli(&["tokens", "create", "eyes", "--role", "viewer"])?
        .ok()?
        .stdout;
    let api = stoa.api_url();
    let as_viewer = Person::new(stoa.root(), &[("STOA_API", &api), ("STOA_TOKEN", viewer.trim())]);
    let as_nobody = Person::new(
        stoa.root(),
        &[("STOA_API", &api), ("STOA_TOKEN", "stoa_pat_nobody")],
    );
    stoa.cli(&["status"])?.exits(0)?;
    stoa.cli(&["--version"])?.exits(0)?;
    stoa.cli(&["init", "--from", "stoa.json"])?.exits(2)?;
    stoa.cli(&["deplyo"])?.exits(2)?;
    stoa.cli(&["init", "--from", "gone.yaml"])?.exits(3)?;
    stoa.cli(&["apps", "create", "twice"])?.exits(0)?;
    stoa.cli(&["apps", "create", "twice"])?.exits(6)?;
    stoa.cli(&["status", "--api", NOBODY])?.exits(1)?;
    for (person, arguments, code) in [
        (&as_viewer, &["status"][..], 0),
        (&as_viewer, &["apps", "create", "mine"], 5),
        (&as_nobody, &["status"], 4),
    ] {
        let seen = person.runs(arguments, &[], To::Pipe, To::Pipe)?;
        ensure!(seen.code == code, "{arguments:?}: {seen:?}");
    }
    // It never gets ready, so that after a second it is still on its way.
    app.replace(
        "stoa.toml",
        "path = \"/healthz\"",
        "path = \"/never\", grace = \"600s\"",
    )?;
    let late = stoa.cli_in(app.folder(), &["deploy", "--timeout", "1s"], b"")?;
    late.exits(8)?.says("stoa op follow")?;
    stoa.finish()
}
