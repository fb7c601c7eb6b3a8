//! schemathesis against a real Stoa: what it sends, what the server made of it, what it weighed before and after. And what
//! a stranger learns of another org's things, by each operation of the document.
//!
//! Lives here: a Stoa of its own, the run, reading the report, the stranger's walk. Does not live here: installing
//! schemathesis and saying how many cases (`xtask`), what its tool must be told about this API (`xtask/judges/hooks.py`).
//! Invariant: every answer is counted from the report; a case without an answer is a finding.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::{Api, Reply, Stoa};

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// The program.
    pub schemathesis: PathBuf,
    /// The document to generate from.
    pub document: PathBuf,
    /// Python that tells it what a schema cannot say.
    pub hooks: PathBuf,
    /// Goes on, with the next seed each time, until that many requests were answered.
    pub cases: u64,
    /// Generated cases for each operation and phase in one run, besides those that cover the document's bounds.
    pub cases_each: u64,
    /// Repeats a run.
    pub seed: u64,
    /// What is made of control's memory.
    pub memory: Memory,
}

/// What is made of control's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Runs that are not counted warm up; what memory gains after them is growth.
    Compared,
    /// A short run cannot tell growth from a first use.
    PassedOver,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were sent.
    pub cases: u64,
    /// Requests that follow from the answers of earlier ones.
    pub stateful: u64,
    /// The seeds of the runs.
    pub seeds: Vec<u64>,
    /// How many answers had each class of status.
    pub classes: BTreeMap<u64, u64>,
    /// How often each check was made.
    pub checks: BTreeMap<String, u64>,
    /// What it objected to: its own words.
    pub findings: Vec<String>,
    /// Requests by which a stranger asked for another org's things.
    pub asked_by_a_stranger: u64,
    /// Memory of control's own before, in bytes.
    pub before: u64,
    /// The same after.
    pub after: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, stateful, .. } = self;
        writeln!(
            f,
            "{cases} cases ({stateful} of them stateful), seeds {:?}, {} findings",
            self.seeds,
            self.findings.len()
        )?;
        for (class, count) in &self.classes {
            writeln!(f, "  {class}xx: {count}")?;
        }
        for (check, count) in &self.checks {
            writeln!(f, "  {check}: {count}")?;
        }
        writeln!(f, "  asked by a stranger: {}", self.asked_by_a_stranger)?;
        let kib = |bytes: u64| bytes >> 10;
        write!(
            f,
            "  control's own memory: {} KiB before, {} KiB after ({:+.1} %)",
            kib(self.before),
            kib(self.after),
            self.growth() * 100.0
        )
    }
}

impl Outcome {
    /// Answers that say the server is at fault.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.classes.get(&5).copied().unwrap_or_default()
    }

    /// How much control's own memory grew, as a share of what it was.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "for people; a double holds a petabyte exactly"
    )]
    pub fn growth(&self) -> f64 {
        (self.after as f64 - self.before as f64) / (self.before as f64).max(1.0)
    }
}

/// Runs before memory is compared. After one of them it still rose by up to 9 %, and then no more in 30,000 cases: the
/// store's page caches fill with the first objects.
const WARMING: u32 = 2;

/// Runs it.
///
/// # Errors
/// When Stoa or schemathesis does not run; findings are no error.
pub fn run(options: &Options) -> Result<Outcome> {
    let stoa = Stoa::start("judged")?;
    let control = stoa.part("control")?;
    let document: Value = serde_json::from_slice(&fs::read(&options.document)?)?;
    let people = People::of(&stoa)?;
    let config = people.configure(&stoa)?;
    let (mut outcome, mut seed) = (Outcome::default(), options.seed);
    people.walk(&document, &mut outcome)?;
    if options.memory == Memory::Compared {
        // Caches, connections of the store and threads come with the first requests: not growth.
        let mut warming = Outcome::default();
        for _ in 0..WARMING {
            once(options, &stoa, &config, seed, &mut warming)?;
            seed += 1;
        }
        outcome.findings.append(&mut warming.findings);
    }
    outcome.before = control.private_dirty_bytes();
    while outcome.cases < options.cases.max(1) {
        once(options, &stoa, &config, seed, &mut outcome)?;
        println!(
            "  seed {seed}: {} cases, {} findings, control's own memory {} KiB",
            outcome.cases,
            outcome.findings.len(),
            control.private_dirty_bytes() >> 10
        );
        seed += 1;
    }
    ensure!(control.is_alive(), "control did not outlive it");
    outcome.after = control.private_dirty_bytes();
    stoa.finish()?;
    Ok(outcome)
}

/// What a stranger learns by each operation on something of an org, and no more: the part that needs no schemathesis.
///
/// # Errors
/// When Stoa does not run; findings are no error.
pub fn strangers(document: &Path) -> Result<Outcome> {
    let stoa = Stoa::start("strangers")?;
    let mut outcome = Outcome::default();
    People::of(&stoa)?.walk(&serde_json::from_slice(&fs::read(document)?)?, &mut outcome)?;
    stoa.finish()?;
    Ok(outcome)
}

/// Two orgs, the owner of each, who must not see the other's things, and the owner of all, for what only that one may do.
struct People {
    root: Api,
    ours: Api,
    theirs: Api,
}

const ORGS: [&str; 2] = ["ours", "theirs"];
/// The project and the environment in each.
const INSIDE: &str = "main";
/// What no schema can say, so that a request which follows it is refused all the same.
///
/// RFC 8628, section 3.5: what asks for a token by a code that is unknown, pending or ended is answered 400, however well
/// formed it is; the rest is what schemathesis itself takes for an answer to a valid request.
/// Who an identity provider is, it is asked itself, and of those that a schema makes up none answers; nor is there such a
/// directory, such a bucket, or such a key: 422.
const EXPECTED: &str = "\
[[operations]]
include-operation-id = \"device_token\"
[operations.checks.positive_data_acceptance]
expected-statuses = [\"2xx\", \"3xx\", \"400\", \"401\", \"403\", \"404\", \"409\", \"429\", \"5xx\"]
[[operations]]
include-operation-id = [\"identity_provider_put\", \"backup_target_put\", \"backup_key_check\"]
[operations.checks.positive_data_acceptance]
expected-statuses = [\"2xx\", \"400\", \"401\", \"403\", \"404\", \"409\", \"422\", \"429\"]
";
/// An org that nobody has.
const NOBODYS: &str = "nobodys";
/// The app in each, so that there is something to see.
const APP: &str = "shop";

impl People {
    fn of(stoa: &Stoa) -> Result<Self> {
        let root = stoa.api()?;
        let mut owners = Vec::new();
        for name in ORGS {
            let named = json!({ "name": name });
            root.created("/v1/orgs", &named)?;
            let inside = json!({ "name": INSIDE });
            root.created(&format!("/v1/orgs/{name}/projects"), &inside)?;
            let environments = format!("/v1/orgs/{name}/projects/{INSIDE}/environments");
            root.created(&environments, &inside)?;
            root.created(&format!("{environments}/{INSIDE}/apps"), &json!({ "name": APP }))?;
            let wanted = json!({"name": name, "role": "owner", "org": name});
            let token = root.created("/v1/tokens", &wanted)?;
            owners.push(root.with_token(token["token"].as_str().context("a token without text")?));
        }
        let [ours, theirs]: [Api; 2] = owners.try_into().map_err(|_| anyhow!("two owners"))?;
        Ok(Self { root, ours, theirs })
    }

    /// They, as schemathesis is told of them.
    fn configure(&self, stoa: &Stoa) -> Result<PathBuf> {
        let [ours, theirs] = ORGS;
        let users = [
            user(ours, self.ours.token()),
            user(theirs, self.theirs.token()),
            user("root", self.root.token()),
        ];
        let people = stoa.root().join("users.json");
        fs::write(&people, json!({ "auth": users }).to_string())?;
        let config = stoa.root().join("schemathesis.toml");
        let text = format!(
            "[auth.wfc]\npath = {:?}\npeers = {ORGS:?}\n{EXPECTED}",
            people.to_string_lossy()
        );
        fs::write(&config, text)?;
        Ok(config)
    }

    /// By each operation on something of an org, its stranger must learn what is to be learnt of an org that is not there,
    /// while its owner is answered.
    fn walk(&self, document: &Value, outcome: &mut Outcome) -> Result<()> {
        let mut seen_by_owner = 0;
        for (template, methods) in document["paths"].as_object().into_iter().flatten() {
            if !template.starts_with("/v1/orgs/{org}") {
                continue;
            }
            for method in methods
                .as_object()
                .into_iter()
                .flatten()
                .map(|(method, _)| method)
            {
                let method = method.to_ascii_uppercase();
                if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str()) {
                    continue;
                }
                let body = (method != "GET").then(|| json!({}));
                let ask = |api: &Api, org: &str| api.call(&method, &path_in(template, org), body.as_ref());
                let foreign = ask(&self.theirs, ORGS[0])?;
                let absent = ask(&self.theirs, NOBODYS)?;
                outcome.asked_by_a_stranger += 2;
                if foreign.status != 404 || told(&foreign, ORGS[0]) != told(&absent, NOBODYS) {
                    outcome.findings.push(format!(
                        "{method} {template}: a stranger was told {} {}, and of what is not there {} {}",
                        foreign.status, foreign.body, absent.status, absent.body
                    ));
                }
                if method == "GET" {
                    seen_by_owner += u64::from(ask(&self.ours, ORGS[0])?.status == 200);
                }
            }
        }
        ensure!(
            seen_by_owner >= SEEN_AT_LEAST,
            "its owner saw only {seen_by_owner} things"
        );
        Ok(())
    }
}

/// An org, its projects, environments, apps, and the lists of what is in them: fewer, and the walk asked for what is not there.
const SEEN_AT_LEAST: u64 = 12;

/// The path of an operation on what is in that org.
fn path_in(template: &str, org: &str) -> String {
    let segments = template.split('/').map(|segment| match segment {
        "{org}" => org,
        "{project}" | "{environment}" => INSIDE,
        "{app}" => APP,
        parameter if parameter.starts_with('{') => "x1",
        word => word,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// What an answer tells but for the request's own name, and the org's, which the caller knows.
fn told(reply: &Reply, org: &str) -> String {
    let mut body = reply.body.clone();
    if let Some(members) = body.as_object_mut() {
        members.remove("request_id");
    }
    format!("{} {body}", reply.status).replace(org, "ORG")
}

/// A user as schemathesis reads it. As a credential and not as a header of every request: it must be able to leave it out.
fn user(name: &str, token: &str) -> Value {
    json!({"name": name, "fixedHeaders": [{"name": "Authorization", "value": format!("Bearer {token}")}]})
}

/// One run of schemathesis.
fn once(options: &Options, stoa: &Stoa, config: &Path, seed: u64, outcome: &mut Outcome) -> Result<()> {
    let report = stoa.root().join(format!("report-{seed}.ndjson"));
    let said = Command::new(&options.schemathesis)
        .current_dir(stoa.root())
        .args(["--config-file", &config.to_string_lossy()])
        .arg("run")
        .arg(&options.document)
        .args(["--url", &stoa.api_url()])
        .args(["--seed", &seed.to_string()])
        .args(["--max-examples", &options.cases_each.to_string()])
        .args(["--checks", "all"])
        .args(["--generation-database", "none"])
        .args(["--continue-on-failure", "--no-shrink", "--no-color"])
        .args(["--request-timeout", "60"])
        // Ends only when the reader goes away: a request that waits for its end never would.
        .args(["--exclude-operation-id", "event_watch"])
        // Hands the connection over, which schemathesis cannot take.
        .args(["--exclude-operation-id", "instance_exec"])
        .args(["--exclude-operation-id", "database_exec"])
        .args(["--exclude-operation-id", "database_tunnel"])
        .args(["--report-ndjson-path", &report.to_string_lossy()])
        .env("SCHEMATHESIS_HOOKS", &options.hooks)
        .output()
        .with_context(|| format!("could not start {}", options.schemathesis.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        matches!(said.status.code(), Some(0 | 1)),
        "schemathesis ended with {}:\n{text}{}",
        said.status,
        String::from_utf8_lossy(&said.stderr)
    );
    let found = outcome.findings.len();
    let lines = BufReader::new(File::open(&report).context("schemathesis left no report")?);
    for line in lines.lines() {
        count(&serde_json::from_str(&line?)?, outcome);
    }
    fs::remove_file(&report)?;
    outcome.seeds.push(seed);
    ensure!(
        said.status.success() || outcome.findings.len() > found,
        "schemathesis failed without a finding:\n{text}"
    );
    Ok(())
}

/// Adds what one line of the report says: a scenario holds its requests, their answers and what each check said.
fn count(line: &Value, outcome: &mut Outcome) {
    let recorder = &line["ScenarioFinished"]["recorder"];
    let label = recorder["label"].as_str().unwrap_or_default();
    for (case, interaction) in recorder["interactions"].as_object().into_iter().flatten() {
        outcome.cases += 1;
        outcome.stateful += u64::from(line["ScenarioFinished"]["phase"] == "stateful");
        match interaction["response"]["status_code"].as_u64() {
            Some(status) => *outcome.classes.entry(status / 100).or_default() += 1,
            None => outcome
                .findings
                .push(format!("{label}: case {case} got no answer")),
        }
    }
    for (case, checks) in recorder["checks"].as_object().into_iter().flatten() {
        for check in checks.as_array().into_iter().flatten() {
            let name = check["name"].as_str().unwrap_or_default();
            *outcome.checks.entry(name.to_owned()).or_default() += 1;
            if check["status"] == "success" {
                continue;
            }
            let sent = &recorder["cases"][case]["value"];
            outcome.findings.push(format!(
                "{label}: {name} ({}): query {}, body {}",
                recorder["interactions"][case]["response"]["status_code"],
                short(&sent["query"]),
                short(&sent["body"])
            ));
        }
    }
}

/// Enough to see what it was.
fn short(value: &Value) -> String {
    const SHOWN: usize = 200;
    value.to_string().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_told_the_same_but_for_the_name_of_the_org() {
        let reply = |status, detail: &str| Reply {
            status,
            body: json!({"detail": detail, "request_id": format!("req_{detail}")}),
        };
        let foreign = told(&reply(404, "no org ours"), "ours");
        assert_eq!(foreign, told(&reply(404, "no org nobodys"), "nobodys"));
        assert_ne!(foreign, told(&reply(403, "no org nobodys"), "nobodys"));
        assert_ne!(foreign, told(&reply(404, "no app of nobodys"), "nobodys"));
        assert_eq!(
            path_in("/v1/orgs/{org}/projects/{project}/apps/{app}/env", "ours"),
            "/v1/orgs/ours/projects/main/apps/shop/env"
        );
    }

    #[test]
    fn answers_and_objections_are_counted() {
        let mut outcome = Outcome::default();
        count(&json!({"EngineStarted": {}}), &mut outcome);
        let line = json!({"ScenarioFinished": {"recorder": {
            "label": "GET /v1/whoami",
            "cases": {"a": {"value": {"query": {"x": "1"}}}},
            "checks": {"a": [{"name": "not_a_server_error", "status": "failure"}, {"name": "x", "status": "success"}]},
            "interactions": {"a": {"response": {"status_code": 500}}, "b": {"response": null}},
        }}});
        count(&line, &mut outcome);
        assert_eq!(
            (outcome.cases, outcome.faults(), outcome.findings.len()),
            (2, 1, 2)
        );
    }
}
