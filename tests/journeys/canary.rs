//! N74: two hundred secrets through every door there is, a day's work with crashes and mistakes, and then nobody but the
//! instance that was given them shows one: no file, output, log, event, metric, command line or environment.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::canary::{Canaries, Seen};
use journeys::http::Connection;
use journeys::process::Process;
use journeys::{Answer, Application, ENVIRONMENT, PATIENCE, Stoa, repository, until};
use serde_json::{Value, json};

/// Values set as secrets; tokens, passwords and what is only ever sent by mistake come on top.
const SECRETS: usize = 160;
const MISTAKES: usize = 24;
const TOKENS: usize = 14;

/// What was planted, and all that was said meanwhile.
struct Day {
    stoa: Stoa,
    app: Application,
    texts: BTreeMap<String, String>,
    said: Vec<(String, String)>,
}

/// A value with letters that URLs and JSON escape, the same in each run.
fn canary(number: usize) -> String {
    let mut text = format!("cAnarY/{number:03}+");
    let mut seed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..20 {
        seed ^= seed >> 29;
        seed = seed.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        text.push(char::from(b'a' + (seed >> 32).to_le_bytes()[0] % 26));
    }
    text
}

impl Day {
    fn plant(&mut self, what: &str, number: usize) -> String {
        let text = canary(number);
        self.texts.insert(what.to_owned(), text.clone());
        text
    }

    /// A verb; whatever it says is looked through in the end.
    fn cli(&mut self, arguments: &[&str], input: &str) -> Result<Answer> {
        let answer = self.stoa.cli_in(self.app.folder(), arguments, input.as_bytes())?;
        self.said.push((
            answer.line.clone(),
            format!("{}\n{}", answer.stdout, answer.stderr),
        ));
        Ok(answer)
    }

    fn call(&mut self, method: &str, path: &str, body: &str) -> Result<u16> {
        let token = format!("Bearer {}", self.stoa.api()?.token());
        let headers = [
            ("Authorization", token.as_str()),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        ];
        let answer = Connection::open(self.stoa.listeners().api)?.request(
            method,
            "localhost",
            path,
            &headers,
            body.as_bytes(),
        )?;
        let heads = format!("{:?}", answer.headers);
        self.said
            .push((format!("{method} {path}"), format!("{heads}\n{}", answer.text())));
        Ok(answer.status)
    }

    /// Through `secrets import` and `secrets set`, then a deploy that delivers them all.
    fn secrets(&mut self) -> Result<()> {
        let mut lines = String::new();
        let mut keys = Vec::new();
        for number in 0..SECRETS {
            let text = self.plant(&format!("secret {number}"), number);
            keys.push(format!("\"KEY_{number}\""));
            if number >= 10 {
                lines.push_str(&format!("KEY_{number}={text}\n"));
            }
        }
        self.cli(&["apps", "create", "probe"], "")?.ok()?;
        self.cli(&["secrets", "import"], &lines)?.ok()?;
        for number in 0..10 {
            let text = canary(number);
            self.cli(&["secrets", "set", &format!("KEY_{number}")], &text)?
                .ok()?;
        }
        self.app.replace(
            "stoa.toml",
            "port = 8080",
            &format!("port = 8080\nuses = [\"main\"]\nsecrets = [{}]", keys.join(", ")),
        )?;
        self.app.write(
            "stoa.toml",
            &format!(
                "{}\n[databases]\nmain = {{ engine = \"postgres\" }}\n",
                fs::read_to_string(self.app.folder().join("stoa.toml"))?
            ),
        )?;
        self.cli(&["deploy"], "")?.ok()?;
        Ok(())
    }

    /// Access tokens and the passwords of a database: made by Stoa, shown once or on request.
    fn made_by_stoa(&mut self) -> Result<()> {
        let api = self.stoa.api()?;
        for number in 0..TOKENS {
            let body = json!({ "name": format!("token-{number}"), "role": "viewer" });
            let made = api.call("POST", "/v1/tokens", Some(&body))?;
            let text = made.body["token"].as_str().context("a token")?.to_owned();
            // Used, so that what notes its use is looked through, too.
            ensure!(api.with_token(&text).call("GET", "/v1/whoami", None)?.status == 200);
            self.texts.insert(format!("token {number}"), text);
        }
        self.texts
            .insert("token of the owner".to_owned(), api.token().to_owned());
        let shown = api.get(&format!("{ENVIRONMENT}/databases/main/credentials"))?;
        let password = shown["variables"]["PGPASSWORD"]
            .as_str()
            .context("a password")?
            .to_owned();
        self.texts.insert("password of the database".to_owned(), password);
        self.cli(&["db", "rotate", "main"], "")?.ok()?;
        let shown = api.get(&format!("{ENVIRONMENT}/databases/main/credentials"))?;
        let password = shown["variables"]["PGPASSWORD"]
            .as_str()
            .context("a password")?
            .to_owned();
        self.texts
            .insert("new password of the database".to_owned(), password);
        Ok(())
    }

    /// Values that are refused, each in another way: what refuses them must not repeat them.
    fn mistakes(&mut self) -> Result<()> {
        let secret = format!("{ENVIRONMENT}/apps/probe/secrets");
        for number in 0..MISTAKES {
            let text = self.plant(&format!("mistake {number}"), 500 + number);
            let quoted = Value::String(text.clone()).to_string();
            let status = match number % 12 {
                0 => self.call(
                    "PUT",
                    &format!("{secret}/KEY_1"),
                    &format!("{{\"value\":[{quoted}]}}"),
                )?,
                1 => self.call(
                    "PUT",
                    &format!("{secret}/KEY_1"),
                    &format!("{{\"value\":{quoted}"),
                )?,
                2 => self.call(
                    "PUT",
                    &format!("{secret}/KEY_1"),
                    &format!("{{\"value\":{quoted},\"value\":1}}"),
                )?,
                3 => self.call(
                    "PUT",
                    &format!("{secret}/PORT"),
                    &format!("{{\"value\":{quoted}}}"),
                )?,
                4 => self.call(
                    "PUT",
                    &format!("{secret}/KEY_1"),
                    &format!("{{\"value\":\"{text}\\u0000\"}}"),
                )?,
                5 => self.call(
                    "PUT",
                    &format!("{ENVIRONMENT}/apps/nothing/secrets/A"),
                    &format!("{{\"value\":{quoted}}}"),
                )?,
                6 => self.call(
                    "PUT",
                    &format!("{secret}/KEY_1"),
                    &format!("{{\"value\":\"{}\"}}", text.repeat(5000)),
                )?,
                7 => self.call("POST", "/v1/claim", &format!("{{\"token\":{quoted}}}"))?,
                8 => self.call(
                    "GET",
                    &format!("/v1/orgs?token={}", text.replace('/', "%2F").replace('+', "%2B")),
                    "",
                )?,
                9 => {
                    let api = self.stoa.api()?.with_token(&format!("stoa_pat_{text}"));
                    let reply = api.call("GET", "/v1/whoami", None)?;
                    self.said
                        .push(("a wrong token".to_owned(), reply.body.to_string()));
                    reply.status
                }
                10 => {
                    let answer = self.cli(&["secrets", "import"], &format!("A B={text}\n"))?;
                    if answer.code == 0 { 200 } else { 400 }
                }
                _ => {
                    let api = self.stoa.api()?;
                    let mut stream = TcpStream::connect(self.stoa.listeners().api)?;
                    let head = format!(
                        "PUT {secret}/KEY_1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{{\"value\":{quoted}",
                        api.token()
                    );
                    stream.write_all(head.as_bytes())?;
                    400
                }
            };
            ensure!(
                (400..500).contains(&status),
                "mistake {number} was answered {status}"
            );
        }
        Ok(())
    }

    /// What an operator does, crashes included.
    fn work(&mut self) -> Result<()> {
        let data = self.stoa.data_dir().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(self.app.folder().join("stoa.toml"))?;
        self.app.write(
            "stoa.toml",
            &manifest.replace("VERSION = \"1\"", "VERSION = \"2\"\nBROKEN = \"1\""),
        )?;
        ensure!(self.cli(&["deploy"], "")?.code != 0, "a broken release was taken");
        self.app.write("stoa.toml", &manifest)?;
        self.cli(&["db", "branch", "main", "--as", "copy"], "")?.ok()?;
        self.stoa.part("control")?.signal(libc::SIGKILL)?;
        self.ready()?;
        self.cli(&["server", "rotate-key", "--data-dir", &data], "")?
            .ok()?;
        self.cli(&["restart"], "")?.ok()?;
        for workload in self.stoa.members("python3 server.py") {
            workload.signal(libc::SIGKILL)?;
        }
        self.stoa.part("edge")?.signal(libc::SIGKILL)?;
        until("the app to answer again", PATIENCE, || {
            Ok(self
                .stoa
                .get(&self.app.host(), "/")
                .ok()
                .filter(|answer| answer.status == 200))
        })?;
        self.cli(&["rollback"], "")?;
        for arguments in [
            &["status"][..],
            &["ps"],
            &["releases", "--json"],
            &["logs"],
            &["env", "ls"],
            &["secrets", "ls", "--json"],
            &["deploy", "--plan"],
            &["op", "ls", "--json"],
            &["tokens", "ls", "--json"],
            &["audit", "ls", "--json"],
            &["audit", "export"],
            &["audit", "verify"],
            &["db", "ls", "--json"],
            &["db", "info", "main", "--json"],
            &["image", "ls", "--json"],
            &["doctor", "--json", "--data-dir", &data],
            &["api", "GET", "/v1/server"],
            &["api", "GET", "/metrics"],
        ] {
            self.cli(arguments, "")?;
        }
        self.everything_that_can_be_read()
    }

    fn ready(&self) -> Result<()> {
        let api = self.stoa.api()?;
        until("control to be back", PATIENCE, || {
            Ok(api
                .call("GET", "/readyz", None)
                .ok()
                .filter(|reply| reply.status == 200))
        })?;
        Ok(())
    }

    /// Every GET of the document, with every id there is, but the one whose purpose is to show a password.
    fn everything_that_can_be_read(&mut self) -> Result<()> {
        let document: Value =
            serde_json::from_str(&fs::read_to_string(repository().join("openapi/v1.json"))?)?;
        let api = self.stoa.api()?;
        let ids = |list: &str| -> Result<Vec<String>> {
            let items = api.get(&format!("{list}?limit=20"))?["items"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            Ok(items
                .iter()
                .filter_map(|item| item["id"].as_str().map(str::to_owned))
                .collect())
        };
        let operations = ids(&format!("{ENVIRONMENT}/operations"))?;
        let releases = ids(&format!("{ENVIRONMENT}/apps/probe/releases"))?;
        for (path, operation) in document["paths"].as_object().context("paths")? {
            if operation["get"].is_null() || path.ends_with("/credentials") || path == "/v1/events" {
                continue;
            }
            let path = [
                ("org", "default"),
                ("project", "default"),
                ("environment", "production"),
                ("app", "probe"),
                ("database", "main"),
                ("image", "host"),
            ]
            .iter()
            .fold(path.clone(), |path, (name, value)| {
                path.replace(&format!("{{{name}}}"), value)
            });
            let all = match (path.contains("{operation}"), path.contains("{release}")) {
                (true, _) => operations
                    .iter()
                    .map(|id| path.replace("{operation}", id))
                    .collect(),
                (_, true) => releases.iter().map(|id| path.replace("{release}", id)).collect(),
                _ => vec![path],
            };
            for path in all {
                self.call("GET", &path, "")?;
            }
        }
        // All events from the first that is kept.
        self.call("GET", "/v1/events?since=0&follow=false", "")?;
        let told = self
            .said
            .last()
            .map(|(_, text)| text.as_str())
            .unwrap_or_default();
        ensure!(
            told.contains("\"name\":\"probe\"") && !told.contains("\"kind\":\"secret\""),
            "the app is news, its secrets are nobody's: {told}"
        );
        Ok(())
    }

    /// Everything that can be looked through now.
    fn look(&self, canaries: &Canaries) -> Result<(Vec<Seen>, u64)> {
        let (mut seen, bytes) = canaries.below(&self.stoa.data_dir())?;
        seen.extend(canaries.of("the log of stoa up", self.stoa.log().as_bytes()));
        for (line, text) in &self.said {
            seen.extend(canaries.of(line, text.as_bytes()));
        }
        // Only what is inside an instance was given any: its programs, and the first process, which hands them on.
        let mark = self.stoa.marks().pop().context("a mark")?;
        let is_inside = |process: &Process| {
            let is_ours = process.line.starts_with("stoa-") && !process.line.starts_with("stoa-init ");
            process.cgroups().contains(&format!("stoa-{mark}/")) && !is_ours
        };
        seen.extend(canaries.in_processes(is_inside));
        Ok((seen, bytes))
    }
}

#[test]
fn n74_no_planted_secret_is_seen_anywhere() -> Result<()> {
    let stoa = Stoa::start("canary")?;
    let app = Application::copy("probe", stoa.root())?;
    let mut day = Day {
        stoa,
        app,
        texts: BTreeMap::new(),
        said: Vec::new(),
    };
    day.secrets()?;
    day.made_by_stoa()?;
    day.mistakes()?;
    day.work()?;
    ensure!(day.texts.len() >= 200, "only {} were planted", day.texts.len());
    // They did get where they should: else there would be nothing to find.
    let environment: Value = serde_json::from_str(&day.stoa.get(&day.app.host(), "/environment")?.text())?;
    for number in 0..SECRETS {
        ensure!(
            environment[format!("KEY_{number}")] == canary(number),
            "KEY_{number} was not delivered"
        );
    }
    let canaries = Canaries::new(&day.texts);
    let (seen, bytes) = day.look(&canaries)?;
    ensure!(seen.is_empty(), "{} finds: {seen:#?}", seen.len());
    println!(
        "{} texts, {} outputs, {} MiB of files: none seen",
        day.texts.len(),
        day.said.len(),
        bytes >> 20
    );
    leaks_are_found(&mut day, &canaries)?;
    no_core_files(&day.stoa)?;
    day.stoa.finish()
}

/// N79: what holds keys in memory leaves no core file.
fn no_core_files(stoa: &Stoa) -> Result<()> {
    for part in ["control", "edge"] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", stoa.part(part)?.pid))?;
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        let words: Vec<&str> = line.context("a limit")?.split_whitespace().collect();
        ensure!(words[4..6] == ["0", "0"], "{part}: {words:?}");
    }
    Ok(())
}

/// The control: a leak of each sort is found, and nothing else.
fn leaks_are_found(day: &mut Day, canaries: &Canaries) -> Result<()> {
    let folder = day.stoa.data_dir().join("operations");
    let text = canary(7);
    let encode = |form: &str| -> Result<String> {
        let code = match form {
            "base64" => "import sys,base64;print('x:'+base64.b64encode(b'ab'+sys.argv[1].encode()).decode())",
            "hex" => "import sys;print(sys.argv[1].encode().hex())",
            "URL-encoded" => "import sys,urllib.parse as u;print('q='+u.quote(sys.argv[1],safe=''))",
            _ => "import sys;print(list(sys.argv[1].encode()))",
        };
        let made = Command::new("python3").args(["-c", code, &text]).output()?;
        Ok(String::from_utf8(made.stdout)?)
    };
    for form in ["base64", "hex", "URL-encoded", "list of numbers"] {
        let leak = folder.join("leak.log");
        // Across the border of two pieces, where a careless search is blind.
        let before = "-".repeat((1 << 20) - 10);
        fs::write(&leak, format!("{before}{}", encode(form)?))?;
        let (seen, _) = day.look(canaries)?;
        fs::remove_file(&leak)?;
        let found = Seen {
            place: leak.display().to_string(),
            what: "secret 7".to_owned(),
            form,
        };
        ensure!(seen == [found], "{form}: {seen:#?}");
    }
    for (place, argument, variable) in [("argv", text.as_str(), ""), ("environ", "600", text.as_str())] {
        let mut sleeper = Command::new("python3")
            .args(["-c", "import time; time.sleep(600)", argument])
            .env("LEAK", variable)
            .stdin(Stdio::null())
            .spawn()?;
        let seen = until("the program to run", PATIENCE, || {
            let (seen, _) = day.look(canaries)?;
            Ok(Some(seen).filter(|seen| !seen.is_empty()))
        });
        sleeper.kill()?;
        sleeper.wait()?;
        ensure!(seen?.iter().all(|seen| seen.place.starts_with(place)), "{place}");
    }
    day.said.push(("an output".to_owned(), format!("value: {text}")));
    let (seen, _) = day.look(canaries)?;
    day.said.pop();
    ensure!(seen.len() == 1 && seen[0].place == "an output", "{seen:#?}");
    Ok(())
}
