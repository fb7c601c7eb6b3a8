//! Every verb of the CLI, taken from its own tree: wrong input to it gives a message with the next step and leaves nothing
//! behind, and `--json` gives JSON and nothing else.
//!
//! Invariant: a verb without a row here fails, so no verb is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use cli::Cli;
use journeys::{Answer, Application, Stoa};
use serde_json::Value;

/// The verbs that do something, as they are typed: `db create`.
fn verbs() -> BTreeSet<String> {
    fn walk(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        let below: Vec<&clap::Command> = command.get_subcommands().collect();
        // `login` does something by itself, too.
        let is_verb = below.is_empty() || !command.is_subcommand_required_set();
        if is_verb && !path.is_empty() {
            found.insert(path.to_owned());
        }
        for one in below {
            let path = format!("{path} {}", one.get_name());
            walk(one, path.trim_start(), found);
        }
    }
    let mut found = BTreeSet::new();
    walk(&<Cli as clap::CommandFactory>::command(), "", &mut found);
    found
}

/// Which verb an invocation is of.
fn verb_of(arguments: &[&str], verbs: &BTreeSet<String>) -> Result<String> {
    (1..=3.min(arguments.len()))
        .rev()
        .map(|words| arguments[..words].join(" "))
        .find(|verb| verbs.contains(verb))
        .with_context(|| format!("{arguments:?} is no verb"))
}

fn all_are_there<'a>(rows: impl Iterator<Item = &'a [&'a str]>) -> Result<()> {
    let verbs = verbs();
    let tried = rows
        .map(|arguments| verb_of(arguments, &verbs))
        .collect::<Result<BTreeSet<_>>>()?;
    let missing: Vec<_> = verbs.difference(&tried).collect();
    ensure!(
        missing.is_empty(),
        "verbs without a row in this file: {missing:?}"
    );
    Ok(())
}

/// Wrong input, its exit code, and what is said about it. `DATA` stands for the data directory.
const WRONG: &[(&[&str], i32, &str)] = &[
    (
        &["up", "--data-dir", "DATA", "--api", "127.0.0.1:0"],
        1,
        "already",
    ),
    (&["up", "--api", "everywhere"], 2, "127.0.0.1:7070"),
    (&["up", "--domain", "http://x"], 2, "host name"),
    (&["down", "--data-dir", "nowhere"], 1, "nowhere"),
    (&["doctor", "--repair", "--data-dir", "DATA"], 1, "already in use"),
    (
        &["server", "upgrade", "--data-dir", "DATA", "--to", "/bin/true"],
        1,
        "/bin/true",
    ),
    (
        &["server", "upgrade", "--data-dir", "DATA", "--to", "nowhere"],
        1,
        "nowhere",
    ),
    (&["server", "rotate-key", "--data-dir", "nowhere"], 1, "nowhere"),
    (
        &[
            "server",
            "backup-target",
            "set",
            "--directory",
            "nowhere",
            "--data-dir",
            "DATA",
        ],
        1,
        "nowhere",
    ),
    (
        &["server", "backup-target", "set", "--data-dir", "DATA"],
        2,
        "--directory",
    ),
    (
        &["server", "backup-target", "view", "--data-dir", "DATA"],
        3,
        "backup target",
    ),
    (
        &["server", "backup-target", "verify", "--data-dir", "DATA"],
        3,
        "backup target",
    ),
    (
        &["server", "backup-target", "remove", "--data-dir", "DATA"],
        3,
        "backup target",
    ),
    (
        &["server", "backup-key", "check", "--data-dir", "DATA"],
        3,
        "backup target",
    ),
    (&["db", "backups", "--target"], 3, "backup target"),
    (&["login", "--claim", "stoa_claim_nonsense"], 4, "claim token"),
    (&["login"], 6, "no users"),
    (&["login", "--local", "--token"], 2, "--token"),
    (&["login", "approve", "BCDF-GHJK", "--yes"], 5, "right"),
    (&["login", "--local", "approve", "BCDF-GHJK"], 2, "approving"),
    (&["login", "--provider", "nowhere"], 3, "nowhere"),
    (&["providers", "ls", "everything"], 2, "everything"),
    (
        &[
            "providers",
            "set",
            "home",
            "--issuer",
            "http://id.example.org",
            "--client-id",
            "stoa",
            "--origin",
            "https://stoa.example.org",
            "--public",
        ],
        1,
        "https://",
    ),
    (&["providers", "info", "nowhere"], 3, "nowhere"),
    (&["providers", "rm", "nowhere"], 3, "nowhere"),
    (&["identities", "ls", "everything"], 2, "everything"),
    (&["identities", "link", "nowhere"], 5, "password"),
    (&["identities", "rm", "nowhere"], 3, "nowhere"),
    (&["logout", "--context", "nowhere"], 3, "nowhere"),
    (&["whoami", "--context", "nowhere"], 3, "nowhere"),
    (&["whoami", "--api", "ftp://x"], 1, "ftp://x"),
    (&["status", "--env", "nowhere"], 3, "nowhere"),
    (&["init", "nowhere"], 1, "nowhere"),
    (&["init", "--app", "No Such Name"], 2, "name"),
    (&["deploy", "nowhere"], 1, "nowhere"),
    (&["deploy", "empty"], 1, "nothing to deploy"),
    (&["deploy", "app", "--env", "nowhere"], 3, "nowhere"),
    (&["deploy", "app", "--timeout", "soon"], 2, "soon"),
    (&["releases", "--app", "nowhere"], 3, "nowhere"),
    (&["releases"], 2, "--app"),
    (&["rollback", "--app", "nowhere"], 3, "nowhere"),
    (&["rollback", "--app", "idle"], 6, "no earlier release"),
    (&["rollback", "v9", "--app", "idle"], 3, "v9"),
    (&["open", "--app", "nowhere"], 3, "nowhere"),
    (&["open", "--app", "idle"], 1, "no address"),
    (&["apps", "ls", "--env", "nowhere"], 3, "nowhere"),
    (&["apps", "create", "No_Such"], 2, "name"),
    (&["apps", "create", "db"], 1, "kept for databases"),
    (&["apps", "create", "idle"], 6, "already"),
    (&["apps", "destroy", "nowhere"], 3, "nowhere"),
    (&["apps", "destroy", "idle"], 2, "--confirm"),
    (
        &["apps", "destroy", "idle", "--confirm", "other"],
        2,
        "nothing was done",
    ),
    (&["ps", "--app", "nowhere"], 3, "nowhere"),
    (&["scale", "--app", "nowhere", "web=2"], 3, "nowhere"),
    (&["scale", "--app", "idle", "web=2"], 6, "no release that serves"),
    (&["scale", "--app", "idle", "web=many"], 2, "web=3"),
    (&["restart", "--app", "nowhere"], 3, "nowhere"),
    (&["restart", "--app", "idle"], 6, "no release that serves"),
    (&["exec", "--app", "nowhere", "--", "ls"], 3, "nowhere"),
    (&["exec", "--app", "idle", "--", "ls"], 3, "no instance"),
    (&["run", "--app", "nowhere", "--", "ls"], 3, "nowhere"),
    (&["run", "--app", "idle", "--", "ls"], 6, "no release that serves"),
    (&["run", "--app", "idle"], 2, "COMMAND"),
    (&["logs", "--app", "nowhere"], 3, "nowhere"),
    (&["logs", "--app", "idle", "--since", "yesterday"], 1, "since"),
    (&["logs", "--app", "idle", "--instance", "none"], 1, "instance"),
    (&["events", "--context", "nowhere"], 3, "nowhere"),
    (&["events", "--since", "yesterday"], 2, "yesterday"),
    (&["events", "--since", "999999999"], 1, "no longer kept"),
    (
        &["events", "--follow", "--since", "999999999"],
        1,
        "no longer kept",
    ),
    (&["metrics", "--app", "nowhere"], 3, "nowhere"),
    (&["metrics"], 2, "--app"),
    (&["env", "set", "--app", "nowhere", "A=1"], 3, "nowhere"),
    (&["env", "set", "--app", "idle", "A"], 2, "KEY=VALUE"),
    (&["env", "set", "--app", "idle", "PORT=1"], 1, "set by Stoa"),
    (&["env", "set", "--app", "idle", "1A=1"], 1, "1A"),
    (&["env", "unset", "--app", "nowhere", "A"], 3, "nowhere"),
    (&["env", "ls", "--app", "nowhere"], 3, "nowhere"),
    (&["secrets", "set", "KEY", "--app", "nowhere"], 3, "nowhere"),
    (&["secrets", "set", "1KEY", "--app", "idle"], 1, "1KEY"),
    (&["secrets", "unset", "KEY", "--app", "idle"], 3, "KEY"),
    (&["secrets", "ls", "--app", "nowhere"], 3, "nowhere"),
    (&["secrets", "import", "half.env", "--app", "idle"], 1, "line 2"),
    (
        &["secrets", "import", "reserved.env", "--app", "idle"],
        1,
        "set by Stoa",
    ),
    (
        &["secrets", "import", "nowhere.env", "--app", "idle"],
        1,
        "could not read",
    ),
    (&["db", "create", "No_Such"], 2, "name"),
    (&["db", "create", "small", "--size", "1Ki"], 1, "size"),
    (&["db", "create", "small", "--memory", "1Mi"], 1, "memory"),
    (&["db", "create", "new", "--version", "99"], 1, "99"),
    (&["db", "connect", "nowhere", "--", "-l"], 3, "nowhere"),
    (&["db", "settings", "nowhere"], 3, "nowhere"),
    (&["db", "top", "nowhere"], 3, "nowhere"),
    (&["db", "top", "nowhere", "--statements"], 3, "nowhere"),
    (&["db", "logs", "nowhere"], 3, "nowhere"),
    (&["db", "logs", "main", "--tail", "10001"], 2, "10000"),
    (&["db", "tunnel", "nowhere"], 3, "nowhere"),
    (&["db", "tunnel", "main", "--port", "65536"], 2, "65535"),
    (&["db", "ls", "--env", "nowhere"], 3, "nowhere"),
    (&["db", "info", "nowhere"], 3, "nowhere"),
    (
        &["db", "update", "nowhere", "--backup-level", "sync"],
        3,
        "nowhere",
    ),
    (&["db", "update", "main", "--backup-level", "archive"], 2, "sync"),
    (&["db", "url", "nowhere"], 3, "nowhere"),
    (&["db", "update", "main", "--pooled", "perhaps"], 2, "yes"),
    (
        &["db", "restart", "nowhere", "--confirm", "nowhere"],
        3,
        "nowhere",
    ),
    (&["db", "rotate", "nowhere"], 3, "nowhere"),
    (&["db", "branch", "nowhere", "--as", "copy"], 3, "nowhere"),
    (&["db", "reset", "nowhere"], 3, "nowhere"),
    (&["db", "backup", "nowhere"], 3, "nowhere"),
    (&["db", "backups", "nowhere"], 3, "nowhere"),
    (&["db", "drill", "nowhere"], 3, "nowhere"),
    (&["db", "drill", "nowhere", "--from-target"], 3, "nowhere"),
    (&["db", "drills", "nowhere"], 3, "nowhere"),
    (
        &["db", "restore", "nowhere", "--as", "copy", "--latest"],
        3,
        "nowhere",
    ),
    (&["db", "restore", "nowhere", "--as", "copy"], 2, "--latest"),
    (
        &["db", "restore", "nowhere", "--as", "copy", "--lsn", "here"],
        2,
        "0/3000060",
    ),
    (&["db", "promote", "before", "--of", "nowhere"], 3, "nowhere"),
    (&["db", "promote", "nowhere"], 2, "--of"),
    (
        &["db", "upgrade", "nowhere", "--to", "18", "--confirm", "nowhere"],
        3,
        "nowhere",
    ),
    (&["db", "upgrade", "nowhere"], 2, "--to"),
    (&["db", "engines", "nowhere"], 2, "nowhere"),
    (
        &["image", "add", "x", "/nowhere", "--over", "host"],
        1,
        "/nowhere",
    ),
    (&["db", "destroy", "nowhere"], 3, "nowhere"),
    (&["image", "ls", "--context", "nowhere"], 3, "nowhere"),
    (&["image", "import", "nowhere.tar"], 1, "nowhere.tar"),
    (&["image", "import", "garbage.tar", "--name", "x"], 1, "archive"),
    (&["image", "pull", "Not A Reference"], 1, "name"),
    (&["image", "base", "create", "base"], 2, "--suite"),
    (
        &["image", "base", "create", "x", "--suite", "no-such-suite"],
        1,
        "no-such-suite",
    ),
    (&["image", "inspect", "nowhere"], 3, "nowhere"),
    (&["image", "rm", "nowhere"], 3, "nowhere"),
    (&["op", "ls", "--env", "nowhere"], 3, "nowhere"),
    (&["op", "ls", "-n", "0"], 2, "1..=500"),
    (&["op", "show", "op_nowhere"], 3, "op_nowhere"),
    (&["op", "follow", "op_nowhere"], 3, "op_nowhere"),
    (&["op", "cancel", "op_nowhere"], 3, "op_nowhere"),
    (&["environments", "ls", "--project", "nowhere"], 3, "nowhere"),
    (&["environments", "create", "No_Such"], 2, "name"),
    (&["environments", "create", "production"], 6, "already"),
    (&["environments", "rm", "nowhere"], 3, "nowhere"),
    (&["orgs", "ls", "--context", "nowhere"], 3, "nowhere"),
    (&["orgs", "create", "default"], 6, "already"),
    (&["orgs", "rename", "nowhere", "other"], 3, "nowhere"),
    (&["orgs", "rm", "nowhere"], 3, "nowhere"),
    (&["projects", "ls", "--context", "nowhere"], 3, "nowhere"),
    (&["projects", "create", "default"], 6, "already"),
    (&["projects", "rename", "nowhere", "other"], 3, "nowhere"),
    (&["projects", "rm", "nowhere"], 3, "nowhere"),
    (&["members", "ls", "--org", "nowhere"], 3, "nowhere"),
    (&["members", "invite", "nobody"], 2, "nobody"),
    (
        &["members", "set", "no@example.org", "--role", "viewer"],
        3,
        "no@example.org",
    ),
    (&["members", "rm", "no@example.org"], 3, "no@example.org"),
    (&["members", "invitations", "--org", "nowhere"], 3, "nowhere"),
    (&["members", "uninvite", "nowhere"], 3, "nowhere"),
    (&["users", "ls", "--context", "nowhere"], 3, "nowhere"),
    (&["users", "invite", "nobody", "--role", "viewer"], 2, "nobody"),
    (
        &["users", "set", "no@example.org", "--role", "viewer"],
        3,
        "no@example.org",
    ),
    (&["users", "reset", "no@example.org"], 3, "no@example.org"),
    (
        &["users", "rm", "no@example.org", "--confirm", "no@example.org"],
        3,
        "no@example.org",
    ),
    (&["sessions", "ls", "--context", "nowhere"], 3, "nowhere"),
    (&["sessions", "revoke", "nowhere"], 3, "nowhere"),
    (&["tokens", "ls", "--context", "nowhere"], 3, "nowhere"),
    (
        &["tokens", "create", "ci", "--role", "god"],
        2,
        "viewer, developer",
    ),
    (
        &["tokens", "create", "ci", "--bound", "--org", "nowhere"],
        3,
        "nowhere",
    ),
    (&["tokens", "create", "ci", "--expires", "0s"], 1, "lifetime"),
    (&["tokens", "revoke", "nowhere"], 3, "nowhere"),
    (&["audit", "ls", "-n", "0"], 2, "1..=500"),
    (&["audit", "verify", "--context", "nowhere"], 3, "nowhere"),
    (&["audit", "export", "--context", "nowhere"], 3, "nowhere"),
    (&["api", "FETCH", "/v1/server"], 2, "GET /v1/server"),
    (&["api", "GET", "/v1/nowhere"], 3, "path"),
    (&["api", "POST", "/v1/tokens", "--data", "{"], 1, "JSON"),
    (
        &["api", "POST", "/v1/tokens", "--data", "@nowhere.json"],
        1,
        "nowhere.json",
    ),
    (&["completion", "tcsh"], 2, "bash"),
    (&["context", "ls", "everything"], 2, "everything"),
    (&["context", "use", "nowhere"], 3, "nowhere"),
    (&["context", "rm", "nowhere"], 3, "nowhere"),
    (&["export", "nowhere", "--compose"], 3, "nowhere"),
    (&["man", "nowhere"], 3, "nowhere"),
];

/// What a person can list, so that something made by mistake is seen.
fn listed(stoa: &Stoa) -> Result<Vec<String>> {
    let lists: [&[&str]; 6] = [
        &["status"],
        &["image", "ls"],
        &["environments", "ls"],
        &["env", "ls", "--app", "idle"],
        &["secrets", "ls", "--app", "idle"],
        &["releases", "--app", "idle"],
    ];
    let lists = lists.map(|list| Ok(stoa.cli(&[list, &["--json"]].concat())?.ok()?.stdout));
    let mut all: Vec<String> = lists.into_iter().collect::<Result<_>>()?;
    // Tokens without the time of their last use.
    for token in stoa.cli(&["tokens", "ls", "--json"])?.ok()?.items()? {
        all.push(token["id"].to_string());
    }
    Ok(all)
}

/// The error as a program reads it.
fn has_json_error(answer: &Answer) -> Result<()> {
    let last = answer.stderr.lines().rfind(|line| !line.trim().is_empty());
    let last = last.with_context(|| format!("`{}` said nothing", answer.line))?;
    let error: Value = serde_json::from_str(last)
        .with_context(|| format!("`{}` did not end with a JSON error: {last}", answer.line))?;
    let steps = [&error["next_step"], &error["error"]["next_step"]];
    let has_next = steps
        .iter()
        .any(|step| step.as_str().is_some_and(|step| !step.is_empty()));
    ensure!(has_next, "`{}` gives no next step: {error:#}", answer.line);
    Ok(())
}

#[test]
fn wrong_input_leads_on_and_leaves_nothing() -> Result<()> {
    all_are_there(WRONG.iter().map(|(arguments, _, _)| *arguments))?;
    let stoa = Stoa::start("verbs-wrong")?;
    let folder = stoa.root().join("work");
    fs::create_dir_all(folder.join("empty"))?;
    for (file, text) in [
        ("garbage.tar", "this is no archive"),
        ("half.env", "A=1\nnonsense\n"),
        ("reserved.env", "A=1\nPORT=1\n"),
        ("app/index.html", "a page"),
    ] {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        fs::write(path, text)?;
    }
    stoa.cli(&["apps", "create", "idle"])?.ok()?;
    let data = stoa.data_dir().to_string_lossy().into_owned();
    let mut before = (stoa.census(), listed(&stoa)?);
    let mut wrong: Vec<String> = Vec::new();
    for (arguments, code, says) in WRONG {
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|word| if *word == "DATA" { data.as_str() } else { word })
            .collect();
        let tried = (|| {
            let answer = stoa.cli_in(&folder, &arguments, b"")?.exits(*code)?.says(says)?;
            // Usage errors come with the usage.
            if *code == 2 {
                let leads_on = answer.stderr.contains("--help") || answer.stderr.contains("next:");
                ensure!(leads_on, "no way on: {}", answer.stderr);
            } else {
                answer.has_next_step()?;
            }
            let as_json = [&arguments[..1], &["--json"], &arguments[1..]].concat();
            has_json_error(&stoa.cli_in(&folder, &as_json, b"")?.exits(*code)?)
        })();
        if let Err(why) = tried {
            wrong.push(format!("{why:#}"));
        }
        let after = (stoa.census(), listed(&stoa)?);
        if after != before {
            wrong.push(format!(
                "`{}` left something behind: {after:#?}\nbefore: {before:#?}",
                arguments.join(" ")
            ));
            before = after;
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    ensure!(!folder.join("nowhere").exists() && !folder.join("empty/stoa.toml").exists());
    stoa.finish()
}

/// How `--json` answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One value.
    One,
    /// A value a line.
    Lines,
}

/// A life with every verb. `{NAME}` stands for what an earlier answer said.
const RIGHT: &[(&[&str], Form)] = &[
    (&["doctor", "--data-dir", "DATA"], Form::One),
    (&["login", "--local", "--data-dir", "DATA"], Form::One),
    (&["whoami"], Form::One),
    (&["init", "fresh"], Form::One),
    (&["init", "--schema"], Form::One),
    (&["deploy", "probe", "--plan"], Form::One),
    (&["deploy", "probe"], Form::One),
    (&["deploy", "probe", "--plan"], Form::One),
    (&["status"], Form::One),
    (&["releases", "-a", "probe"], Form::One),
    (&["open", "-a", "probe"], Form::One),
    (&["apps", "ls"], Form::One),
    (&["apps", "create", "other"], Form::One),
    (&["ps"], Form::One),
    (&["ps", "-a", "probe"], Form::One),
    (&["scale", "-a", "probe", "web=2"], Form::One),
    (&["restart", "-a", "probe"], Form::One),
    (
        &["exec", "-a", "probe", "--", "python3", "-c", "print(1)"],
        Form::Lines,
    ),
    (
        &["run", "-a", "probe", "--", "python3", "-c", "print(1)"],
        Form::Lines,
    ),
    (&["logs", "-a", "probe"], Form::Lines),
    (&["events", "--kind", "app"], Form::Lines),
    (&["metrics", "-a", "probe"], Form::One),
    (&["env", "set", "-a", "probe", "A=1"], Form::One),
    (&["env", "unset", "-a", "probe", "A"], Form::One),
    (&["env", "ls", "-a", "probe"], Form::One),
    (&["secrets", "set", "KEY", "-a", "probe"], Form::One),
    (&["secrets", "import", "secrets.env", "-a", "probe"], Form::One),
    (&["secrets", "unset", "KEY", "-a", "probe"], Form::One),
    (&["secrets", "ls", "-a", "probe"], Form::One),
    (&["rollback", "-a", "probe"], Form::One),
    (&["db", "create", "main"], Form::One),
    (&["db", "connect", "main", "--", "-Atc", "SELECT 1"], Form::Lines),
    (&["db", "ls"], Form::One),
    (&["db", "info", "main"], Form::One),
    (&["db", "update", "main", "--backup-level", "stream"], Form::One),
    (&["db", "settings", "main"], Form::One),
    (&["db", "top", "main"], Form::One),
    (&["db", "top", "main", "--statements"], Form::One),
    (&["db", "logs", "main"], Form::Lines),
    (&["db", "url", "main"], Form::One),
    (&["db", "restart", "main", "--confirm", "main"], Form::One),
    (&["db", "rotate", "main"], Form::One),
    (&["db", "backup", "main"], Form::One),
    (&["db", "backups", "main"], Form::One),
    (&["db", "drill", "main"], Form::One),
    (&["db", "drills", "main"], Form::One),
    (&["db", "drills", "main", "last"], Form::One),
    (&["db", "restore", "main", "--as", "back", "--latest"], Form::One),
    (
        &["db", "promote", "back", "--of", "main", "--confirm", "main"],
        Form::One,
    ),
    (
        &[
            "image",
            "add",
            "postgres:16",
            "postgres-16",
            "--over",
            "postgres:15",
        ],
        Form::One,
    ),
    (&["db", "engines"], Form::One),
    (&["db", "create", "old", "--version", "16"], Form::One),
    (
        &[
            "image",
            "add",
            "postgres:18",
            "postgres-18",
            "--over",
            "postgres:15",
        ],
        Form::One,
    ),
    (
        &[
            "db",
            "upgrade",
            "old",
            "--to",
            "18",
            "--max-pause",
            "10m",
            "--confirm",
            "old",
        ],
        Form::One,
    ),
    (&["db", "branch", "main", "--as", "copy"], Form::One),
    (&["db", "reset", "copy", "--confirm", "copy"], Form::One),
    (&["db", "destroy", "copy", "--confirm", "copy"], Form::One),
    (&["image", "base", "create", "host-again", "--host"], Form::One),
    (&["image", "import", "image.tar", "--name", "imported"], Form::One),
    (&["image", "ls"], Form::One),
    (&["image", "inspect", "host-again"], Form::One),
    (&["image", "rm", "host-again"], Form::One),
    // All there were: what only some have must be among them.
    (&["op", "ls", "--limit", "500"], Form::One),
    (&["op", "show", "OPERATION"], Form::One),
    (&["op", "follow", "OPERATION"], Form::One),
    (&["environments", "create", "staging"], Form::One),
    (&["environments", "ls"], Form::One),
    (&["environments", "rm", "staging"], Form::One),
    (&["orgs", "create", "team"], Form::One),
    (&["orgs", "ls"], Form::One),
    (&["orgs", "rename", "team", "crew"], Form::One),
    (&["orgs", "rm", "crew"], Form::One),
    (&["projects", "create", "side"], Form::One),
    (&["projects", "ls"], Form::One),
    (&["projects", "rename", "side", "aside"], Form::One),
    (&["projects", "rm", "aside"], Form::One),
    (&["members", "ls"], Form::One),
    (&["members", "invite", "ann@example.org"], Form::One),
    (&["members", "invitations"], Form::One),
    (&["users", "ls"], Form::One),
    (
        &["users", "invite", "bob@example.org", "--role", "viewer"],
        Form::One,
    ),
    (&["providers", "ls"], Form::One),
    (&["identities", "ls"], Form::One),
    (&["sessions", "ls"], Form::One),
    (&["tokens", "create", "ci"], Form::One),
    (&["tokens", "revoke", "TOKEN"], Form::One),
    (&["tokens", "ls"], Form::One),
    (&["audit", "ls"], Form::One),
    (&["audit", "verify"], Form::One),
    (&["audit", "export"], Form::Lines),
    (&["api", "GET", "/v1/server"], Form::One),
    (&["api", "GET", "/metrics"], Form::One),
    (&["server", "rotate-key", "--data-dir", "DATA"], Form::One),
    (
        &[
            "server",
            "backup-target",
            "set",
            "--directory",
            "fresh",
            "--data-dir",
            "DATA",
        ],
        Form::One,
    ),
    (
        &["server", "backup-target", "view", "--data-dir", "DATA"],
        Form::One,
    ),
    (
        &["server", "backup-target", "verify", "--data-dir", "DATA"],
        Form::One,
    ),
    (&["completion", "bash"], Form::One),
    (&["context", "ls"], Form::One),
    (&["context", "use", "default"], Form::One),
    (&["export", "probe", "--compose"], Form::One),
    (&["man", "db", "create"], Form::One),
    (&["apps", "destroy", "other", "--confirm", "other"], Form::One),
    (&["logout"], Form::One),
];

/// Verbs whose success is shown elsewhere, with the reason. What they refuse as JSON is shown above.
const ELSEWHERE: &[&[&str]] = &[
    // Needs a user and another machine (journeys/people.rs).
    &["login", "approve"],
    // They need a provider, and a browser (journeys/people.rs).
    &["providers", "info"],
    &["providers", "set"],
    &["providers", "rm"],
    &["identities", "link"],
    &["identities", "rm"],
    // As `logout`, which is above.
    &["context", "rm"],
    // They need users, who come in by invitations that they take themselves.
    &["members", "set"],
    &["members", "rm"],
    &["members", "uninvite"],
    &["users", "set"],
    &["users", "reset"],
    &["users", "rm"],
    &["sessions", "revoke"],
    // Below, by hand: it does not end by itself.
    &["up"],
    // It does not end by itself either (journeys/looking.rs).
    &["db", "tunnel"],
    // At the end, below.
    &["down"],
    // Its progress and end are those of `deploy`; it needs a registry (journeys/images.rs).
    &["image", "pull"],
    // Needs an operation that takes its time.
    &["op", "cancel"],
    // They need the key, which is shown once (journeys/elsewhere.rs).
    &["server", "backup-key", "check"],
    &["server", "backup-target", "remove"],
    // Replaces the program under all others (journeys/upgrade.rs).
    &["server", "upgrade"],
];

/// The smallest image there is: an OCI layout without layers.
fn image(folder: &std::path::Path) -> Result<()> {
    const MAKE: &str = "\
import hashlib, io, json, sys, tarfile
blobs = {}
def blob(value, kind):
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    blobs['blobs/sha256/' + digest] = data
    return {'mediaType': kind, 'digest': 'sha256:' + digest, 'size': len(data)}
config = blob({'architecture': 'amd64', 'os': 'linux', 'config': {}, 'rootfs': {'type': 'layers', 'diff_ids': []}},
    'application/vnd.oci.image.config.v1+json')
kind = 'application/vnd.oci.image.manifest.v1+json'
manifest = blob({'schemaVersion': 2, 'mediaType': kind, 'config': config, 'layers': []}, kind)
blobs['index.json'] = json.dumps({'schemaVersion': 2, 'manifests': [manifest]}).encode()
blobs['oci-layout'] = json.dumps({'imageLayoutVersion': '1.0.0'}).encode()
with tarfile.open(sys.argv[1], 'w') as out:
    for name, data in blobs.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        out.addfile(entry, io.BytesIO(data))
";
    let status = std::process::Command::new("python3")
        .args(["-c", MAKE])
        .arg(folder.join("image.tar"))
        .status()?;
    ensure!(status.success(), "no image was made");
    for version in ["16", "18"] {
        journeys::postgres::install(folder, version)?;
    }
    Ok(())
}

/// Insists that standard output is JSON and nothing else.
fn is_json(answer: &Answer, form: Form) -> Result<Value> {
    match form {
        Form::One => answer.json(),
        Form::Lines => {
            let mut last = None;
            for line in answer.lines() {
                let value = serde_json::from_str(line);
                last = Some(value.with_context(|| format!("`{}` printed {line:?}", answer.line))?);
            }
            last.with_context(|| format!("`{}` printed nothing", answer.line))
        }
    }
}

/// What a program finds in the JSON of each verb: a line `VERB PLACE KINDS` for each value, `[]` for each item of a list,
/// and a question mark where it is not always there. What stands here is promised: additions pass, nothing else does.
/// `STOA_WRITE_SNAPSHOTS=1` takes additions into it.
const PROMISED: &str = "tests/journeys/json.txt";

/// Places of values with the kinds they have.
type Shape = BTreeMap<String, BTreeSet<&'static str>>;

/// Answers of which nothing of the kind is promised: the keys of variables are data, a schema and the API's own answers
/// have promises of their own, and so do statements, which `db top` shows instead of sessions.
const OTHERWISE: &[&[&str]] = &[
    &["env", "ls"],
    &["init", "--schema"],
    &["api"],
    &["db", "top", "main", "--statements"],
];

fn shape_of(value: &Value, place: &str, shape: &mut Shape) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "flag",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(items) => {
            for item in items {
                shape_of(item, &format!("{place}[]"), shape);
            }
            "list"
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                shape_of(value, &format!("{place}.{key}"), shape);
            }
            "table"
        }
    };
    shape.entry(place.to_owned()).or_default().insert(kind);
}

/// The line of a value: its place, whether it is always there, its kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Promise {
    is_always: bool,
    kinds: BTreeSet<String>,
}

fn promises(text: &str) -> Result<BTreeMap<String, Promise>> {
    let mut promises = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (place, kinds) = line
            .rsplit_once(' ')
            .with_context(|| format!("{line:?} is no promise"))?;
        let (place, is_always) = match place.strip_suffix('?') {
            Some(place) => (place, false),
            None => (place, true),
        };
        let kinds = kinds.split('|').map(str::to_owned).collect();
        promises.insert(place.to_owned(), Promise { is_always, kinds });
    }
    Ok(promises)
}

/// The verb of a place: `db create` of `db create .id`.
fn verb_at(place: &str) -> &str {
    let end = [" .", " ["].iter().filter_map(|begin| place.find(begin)).min();
    place[..end.unwrap_or(place.len())].trim_end()
}

/// Where a value is: `VERB .a.b` is in `VERB .a`.
fn around(place: &str) -> Option<&str> {
    let cut = place.rfind(['.', '['])?;
    Some(&place[..cut])
}

/// What was promised and does not hold.
fn broken(promised: &BTreeMap<String, Promise>, found: &Shape) -> Vec<String> {
    let mut broken = Vec::new();
    for (place, promise) in promised {
        let Some(kinds) = found.get(place) else {
            // In a table that is there something is missing; a list may be empty, and what is null has nothing in it.
            let is_missing = match around(place) {
                Some(around) => {
                    let is_item = place.ends_with("[]");
                    !is_item && found.get(around).is_some_and(|kinds| kinds.contains("table"))
                }
                None => true,
            };
            if is_missing && promise.is_always {
                broken.push(format!("{place} is gone"));
            }
            continue;
        };
        for kind in kinds.iter().filter(|kind| !promise.kinds.contains(**kind)) {
            broken.push(format!("{place} is a {kind} now"));
        }
    }
    broken
}

/// The promises with what was found added; what is not in both is not always there.
fn extended(promised: &BTreeMap<String, Promise>, found: &Shape) -> String {
    let mut text = String::from(
        "# What programs may rely on in the JSON of each verb (tests/journeys/every_verb.rs says how to read it).\n",
    );
    let verbs: BTreeSet<&str> = promised.keys().map(|place| verb_at(place)).collect();
    let mut all = promised.clone();
    for (place, kinds) in found {
        let promise = all.entry(place.clone()).or_insert_with(|| Promise {
            is_always: !verbs.contains(verb_at(place)),
            kinds: BTreeSet::new(),
        });
        promise.kinds.extend(kinds.iter().map(|kind| (*kind).to_owned()));
    }
    for (place, promise) in &all {
        let mark = if promise.is_always { "" } else { "?" };
        let kinds: Vec<&str> = promise.kinds.iter().map(String::as_str).collect();
        text.push_str(&format!("{place}{mark} {}\n", kinds.join("|")));
    }
    text
}

#[test]
fn what_is_promised_of_the_json_is_held_against_it() -> Result<()> {
    let found = |value: Value| {
        let mut shape = Shape::new();
        shape_of(&value, "ps ", &mut shape);
        shape
    };
    let old =
        found(serde_json::json!({"items": [{"id": "a", "port": 1}, {"id": "b", "port": null}], "next": ""}));
    let promised = promises(&extended(&BTreeMap::new(), &old))?;
    for (value, expected) in [
        (
            serde_json::json!({"items": [{"id": "a", "port": 1}], "next": ""}),
            "",
        ),
        (serde_json::json!({"items": [], "next": "", "more": {"x": 1}}), ""),
        (
            serde_json::json!({"items": [{"id": "a"}], "next": ""}),
            "ps .items[].port is gone",
        ),
        (serde_json::json!({"items": []}), "ps .next is gone"),
        (
            serde_json::json!({"items": [], "next": 1}),
            "ps .next is a number now",
        ),
        (serde_json::json!([]), "ps  is a list now"),
    ] {
        assert_eq!(
            broken(&promised, &found(value.clone())).join(", "),
            expected,
            "{value}"
        );
    }
    let more = promises(&extended(
        &promised,
        &found(serde_json::json!({"items": [], "next": "", "x": 1})),
    ))?;
    ensure!(!more["ps .x"].is_always && more["ps .next"].is_always);
    Ok(())
}

#[test]
fn every_verb_speaks_json() -> Result<()> {
    let rows = RIGHT.iter().map(|(arguments, _)| *arguments);
    all_are_there(rows.chain(ELSEWHERE.iter().copied()))?;
    let mut stoa = Stoa::prepare("verbs-json")?;
    stoa.up_with(&["--json"]);
    stoa.up()?;
    stoa.sign_in()?;
    let folder = stoa.root().join("apps");
    Application::copy("probe", stoa.root())?;
    fs::create_dir_all(folder.join("fresh"))?;
    fs::write(folder.join("secrets.env"), "ONE=1\nTWO=2\n")?;
    image(&folder)?;
    let data = stoa.data_dir().to_string_lossy().into_owned();
    let mut known: BTreeMap<&str, String> = [("DATA", data.clone())].into();
    let (all_verbs, mut found) = (verbs(), Shape::new());
    for (arguments, form) in RIGHT {
        let words = arguments
            .iter()
            .map(|word| known.get(word).map_or(*word, String::as_str));
        let mut all: Vec<&str> = words.collect();
        all.insert(1, "--json");
        let answer = stoa.cli_in(&folder, &all, b"value\n")?.ok()?;
        let value = is_json(&answer, *form)?;
        let verb = verb_of(arguments, &all_verbs)?;
        if !OTHERWISE.iter().any(|other| arguments.starts_with(other)) {
            shape_of(&value, &format!("{verb} "), &mut found);
        }
        if let Some(id) = value["id"].as_str().filter(|id| id.starts_with("op_")) {
            known.insert("OPERATION", id.to_owned());
        }
        if let Some(id) = value["about"]["id"].as_str() {
            known.insert("TOKEN", id.to_owned());
        }
    }
    stoa.interrupt()?;
    let log = stoa.log();
    for line in log.lines() {
        serde_json::from_str::<Value>(line).with_context(|| format!("stoa up printed {line:?}"))?;
    }
    ensure!(log.contains("\"login\":\"stoa login"), "no way in: {log}");
    let down = stoa.cli(&["down", "--json", "--data-dir", &data])?.ok()?;
    ensure!(down.json()?["state"] == "down", "{}", down.stdout);
    shape_of(&down.json()?, "down ", &mut found);
    let file = journeys::repository().join(PROMISED);
    let text = fs::read_to_string(&file).unwrap_or_default();
    let promised = promises(&text)?;
    let broken = broken(&promised, &found);
    ensure!(
        broken.is_empty(),
        "programs rely on what {PROMISED} says:\n{}",
        broken.join("\n")
    );
    if std::env::var_os("STOA_WRITE_SNAPSHOTS").is_some() {
        fs::write(&file, extended(&promised, &found))?;
    }
    let without: BTreeSet<&str> = found
        .keys()
        .map(|place| verb_at(place))
        .filter(|verb| !promised.keys().any(|place| verb_at(place) == *verb))
        .collect();
    ensure!(
        without.is_empty() || std::env::var_os("STOA_WRITE_SNAPSHOTS").is_some(),
        "nothing is promised yet of {without:?}: STOA_WRITE_SNAPSHOTS=1"
    );
    stoa.finish()
}
