//! People come in: a machine without a browser by a code that is approved elsewhere; with a browser, by a provider of
//! OpenID Connect.

#[path = "../../crates/oidc/tests/provider/mod.rs"]
mod provider;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::Stoa;
use provider::{Running, browse, parameter};

const PASSWORD: &[u8] = b"a long enough secret\n";

/// `stoa login` on another machine: it runs until somebody decides, and has said its code.
struct Machine {
    child: Child,
    talk: BufReader<std::process::ChildStderr>,
    code: String,
    /// Where a browser lets it in.
    page: String,
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
        line.clear();
        while !line.contains("in a browser: ") {
            line.clear();
            ensure!(talk.read_line(&mut line)? > 0, "no page for browsers");
        }
        let page = line.trim().rsplit(' ').next().context("a page")?.to_owned();
        Ok(Self {
            child,
            talk,
            code,
            page,
        })
    }

    /// How it ends: its exit code, and what it said.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let mut said = String::new();
        self.talk.read_to_string(&mut said)?;
        Ok((self.child.wait()?.code(), said))
    }
}

/// A browser on the page that a machine names: somebody signs in there, reads, and says yes.
fn approve_on_page(machine: &Machine) -> Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    let (page, _) = machine.page.split_once('?').context("a code in its address")?;
    let send = |path: &str, cookie: &str, form: &str| {
        agent
            .post(format!("{page}{path}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin")
            .header("cookie", cookie)
            .send(form)
    };
    let nobody = agent.get(&machine.page).call()?.body_mut().read_to_string()?;
    ensure!(
        nobody.contains("name=\"password\"") && !nobody.contains("login on"),
        "{nobody}"
    );
    let code = &machine.code;
    let form = format!("email=ada%40example.org&password=a+long+enough+secret&user_code={code}");
    let signed_in = send("/sign-in", "", &form)?;
    let header = |name: &str| {
        signed_in
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    ensure!(
        header("location") == Some(format!("/device?user_code={code}").as_str()),
        "{signed_in:?}"
    );
    let cookie = header("set-cookie").and_then(|value| value.split(';').next());
    let cookie = cookie.context("a session")?;
    let seen = agent.get(&machine.page).header("cookie", cookie).call()?;
    let seen = seen.into_body().read_to_string()?;
    ensure!(seen.contains("login on ") && seen.contains("127.0.0.1"), "{seen}");
    let done = send("", cookie, &format!("user_code={code}&decision=approve"))?;
    ensure!(done.status().as_u16() == 200, "{done:?}");
    Ok(())
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

    let tablet = Machine::begin(&stoa, "tablet")?;
    approve_on_page(&tablet)?;
    let (code, said) = tablet.end()?;
    ensure!(code == Some(0), "the tablet was not signed in: {said}");

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

/// `stoa` waits for its browser: what it says until then, what the browser does, and how it ends.
fn by_browser(stoa: &Stoa, arguments: &[&str], login: &str) -> Result<(Option<i32>, String)> {
    let mut command = stoa.person(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut talk = BufReader::new(child.stderr.take().context("piped")?);
    let mut said = String::new();
    while !said.lines().last().is_some_and(|line| line.starts_with("http")) {
        ensure!(talk.read_line(&mut said)? > 0, "it waits for no browser: {said}");
    }
    let address = said.lines().last().context("an address")?.to_owned();
    let port = parameter(&address, "port").context("a port")?;
    let program = format!("http://127.0.0.1:{port}/");
    // Somebody else's page is not heard.
    let stray = ureq::get(format!("{program}?code=0f1e")).call();
    ensure!(stray.is_err(), "a stray browser is heard");
    let back = browse(&address, &program, login);
    let page = ureq::get(back).call()?.body_mut().read_to_string()?;
    ensure!(page.contains("terminal"), "{page}");
    let mut input = child.stdin.take().context("piped")?;
    // Who asks for no password does not read it.
    drop(input.write_all(PASSWORD));
    drop(input);
    talk.read_to_string(&mut said)?;
    Ok((child.wait()?.code(), said))
}

#[test]
fn somebody_signs_in_at_an_identity_provider() -> Result<()> {
    let mut stoa = Stoa::prepare("people-oidc")?;
    stoa.up()?;
    let api = stoa.api_url();
    let person = |arguments: &[&str]| stoa.cli_of_person(arguments);
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
        "--context",
        "mine",
    ];
    stoa.person_types(&claiming, PASSWORD)?.ok()?;
    let running = Running::start("0", &format!("{api}/v1/oidc/home/callback"), "one");
    let set = [
        "providers",
        "set",
        "home",
        "--issuer",
        &running.issuer,
        "--client-id",
        "stoa",
        "--origin",
        &api,
    ];
    stoa.person_types(&set, b"secret of stoa\n")?
        .ok()?
        .says("/v1/oidc/home/callback")?;
    let home = person(&["providers", "info", "home", "--json"])?.ok()?.json()?;
    ensure!(
        home["issuer"] == running.issuer && home["has_secret"] == true,
        "{home}"
    );
    let page = person(&["providers", "info", "home"])?.ok()?.stdout;
    ensure!(
        page.contains("sealed") && page.contains(&running.issuer),
        "{page}"
    );
    person(&["login", "--api", &api, "--provider", "nowhere"])?
        .exits(3)?
        .has_next_step()?;

    // Bob has an account there; that makes him nobody here until he is invited.
    let login = ["login", "--api", &api, "--provider", "home", "--context", "bob"];
    let (code, said) = by_browser(&stoa, &login, "bob")?;
    ensure!(code == Some(5) && said.contains("invit"), "{code:?}: {said}");
    person(&["members", "invite", "bob@example.org", "--role", "developer"])?.ok()?;
    let (code, said) = by_browser(&stoa, &login, "bob")?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let who = person(&["whoami", "--context", "bob", "--json"])?.ok()?.json()?;
    ensure!(who["user"]["email"] == "bob@example.org", "{who}");

    // Ada, who has a password, links her account, and comes in by it.
    let login = ["login", "--api", &api, "--provider", "home", "--context", "ada"];
    let (code, said) = by_browser(&stoa, &login, "ada")?;
    ensure!(code == Some(5), "an address alone let her in: {said}");
    let link = ["identities", "link", "home", "--context", "mine"];
    let (code, said) = by_browser(&stoa, &link, "ada")?;
    ensure!(code == Some(0) && said.contains("linked ada"), "{code:?}: {said}");
    let (code, said) = by_browser(&stoa, &login, "ada")?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let own = person(&["identities", "ls", "--json"])?.ok()?.items()?;
    let id = own[0]["id"].as_str().context("an id")?;
    person(&["identities", "rm", id])?.ok()?;
    person(&["providers", "rm", "home"])?.ok()?;
    let secrets = stoa.log() + &person(&["audit", "ls", "--json"])?.ok()?.stdout;
    ensure!(!secrets.contains("secret of stoa"), "the secret is shown");
    stoa.finish()
}
