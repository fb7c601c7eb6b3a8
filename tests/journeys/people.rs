//! People come in: a machine without a browser by a code that is approved elsewhere.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::Stoa;

const PASSWORD: &[u8] = b"a long enough secret\n";

/// `stoa login` on another machine: it runs until somebody decides, and has said its code.
struct Machine {
    child: Child,
    talk: BufReader<std::process::ChildStderr>,
    code: String,
}

impl Machine {
    fn begin(stoa: &Stoa, context: &str) -> Result<Self> {
        let mut command = stoa.person(&["login", "--api", &stoa.api_url(), "--context", context]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut talk = BufReader::new(child.stderr.take().context("piped")?);
        let mut line = String::new();
        talk.read_line(&mut line)?;
        let code = line.trim().rsplit(' ').next().context("a code")?.to_owned();
        ensure!(code.len() == 9 && code.contains('-'), "no code: {line}");
        Ok(Self { child, talk, code })
    }

    /// How it ends: its exit code, and what it said.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let mut said = String::new();
        self.talk.read_to_string(&mut said)?;
        Ok((self.child.wait()?.code(), said))
    }
}

#[test]
fn a_machine_is_signed_in_by_its_code() -> Result<()> {
    let mut stoa = Stoa::prepare("people-device")?;
    stoa.up()?;
    let api = stoa.api_url();
    let person = |arguments: &[&str]| stoa.cli_of_person(arguments);
    // Nobody could approve it yet.
    person(&["login", "--api", &api, "--context", "early"])?
        .exits(6)?
        .says("no users")?
        .has_next_step()?;
    let claim = stoa.claim_token()?;
    let claiming = [
        "login",
        "--api",
        &api,
        "--claim",
        &claim,
        "--as",
        "ada@example.org",
        "--name",
        "Ada",
    ];
    stoa.person_types(&claiming, PASSWORD)?.ok()?;

    let laptop = Machine::begin(&stoa, "laptop")?;
    // What is not confirmed does nothing, and what is to be confirmed says who asks and from where.
    person(&["login", "approve", &laptop.code])?
        .exits(2)?
        .says("login on ")?
        .says("asking from 127.0.0.1")?;
    person(&["login", "approve", "BBBB-BBBB", "--yes"])?
        .exits(3)?
        .has_next_step()?;
    let typed = laptop.code.to_lowercase().replace('-', "");
    let approved = person(&["login", "approve", &typed, "--yes", "--json"])?
        .ok()?
        .json()?;
    ensure!(approved["approved"] == true, "{approved}");
    person(&["login", "approve", &laptop.code, "--yes"])?
        .exits(6)?
        .has_next_step()?;
    let (code, said) = laptop.end()?;
    ensure!(code == Some(0), "the laptop was not signed in: {said}");
    let who = person(&["whoami", "--context", "laptop", "--json"])?
        .ok()?
        .json()?;
    ensure!(who["user"]["email"] == "ada@example.org", "{who}");

    let stranger = Machine::begin(&stoa, "stranger")?;
    person(&["login", "approve", &stranger.code, "--deny"])?.ok()?;
    let (code, said) = stranger.end()?;
    ensure!(code == Some(5) && said.contains("refused"), "{code:?}: {said}");
    person(&["whoami", "--context", "stranger"])?.exits(3)?;

    let audit = person(&["audit", "ls", "--json"])?.ok()?.items()?;
    for action in ["device.approve", "device.deny"] {
        let is_told = audit.iter().any(|row| {
            let object = row["object"].as_str().unwrap_or_default();
            row["action"] == action && object.ends_with("from 127.0.0.1") && row["decision"] == "allowed"
        });
        ensure!(is_told, "{action} is not in the audit log: {audit:#?}");
    }
    stoa.finish()
}
