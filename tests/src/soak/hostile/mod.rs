//! Hostile requests against a real server, each from a seed: none is answered 5xx, each error has a code that has a page,
//! nothing panics, and control weighs afterwards what it weighed before.
//!
//! Lives here: the run, judging answers. Does not live here: what is sent (`request`).
//! Invariant: request N of a seed is the same whatever came before, so one finding can be sent again alone.

mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Chance;
use crate::http::{Connection, Response};
use crate::{Application, ENVIRONMENT, Stoa, repository};

pub use request::{After, Request, Targets};

/// Connections at once.
const CLIENTS: u64 = 4;
/// What takes longer is told: the server waits for the rest of something.
const SLOW: Duration = Duration::from_secs(10);
/// Findings told one by one.
const TOLD: usize = 20;
/// Memory is compared after so many requests of the same kinds: threads, pools and the store's page caches are there then.
const WARM_UP: u64 = 10_000;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Requests that count, after those that warm up.
    pub requests: u64,
    /// Repeats a run.
    pub seed: u64,
    /// The first one; others than the usual send one finding again.
    pub first: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests sent, those that warmed up left out.
    pub requests: u64,
    /// How many were of each kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// How many answers had each status.
    pub statuses: BTreeMap<u16, u64>,
    /// How many answers had each code.
    pub codes: BTreeMap<String, u64>,
    /// Connections that were ended without an answer, where that is an answer.
    pub ended: u64,
    /// What is wrong.
    pub findings: Vec<String>,
    /// Memory of control's own after the warm-up, in bytes: without the pages of its program, which come as they are used.
    pub before: u64,
    /// The same at the end.
    pub after: u64,
    /// Panics that the server counted.
    pub panics: u64,
}

impl Outcome {
    /// Growth of control's memory in percent.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a percentage for people")]
    pub fn growth_percent(&self) -> f64 {
        (self.after as f64 / self.before.max(1) as f64 - 1.0) * 100.0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests, {} findings, {} panics",
            self.requests,
            self.findings.len(),
            self.panics
        )?;
        writeln!(f, "  kinds: {:?}", self.kinds)?;
        writeln!(
            f,
            "  statuses: {:?}, ended without one: {}",
            self.statuses, self.ended
        )?;
        writeln!(f, "  codes: {:?}", self.codes)?;
        let kib = |bytes: u64| bytes >> 10;
        write!(
            f,
            "  control's own memory: {} KiB before, {} KiB after ({:+.1} %)",
            kib(self.before),
            kib(self.after),
            self.growth_percent()
        )
    }
}

/// Runs it.
///
/// # Errors
/// When Stoa does not run; findings are no error.
pub fn run(options: Options) -> Result<Outcome> {
    let mut stoa = Stoa::prepare("hostile")?;
    // The bound on requests would answer instead of what it bounds; it has tests of its own.
    stoa.up_with(&["--api-rate", "0"]);
    stoa.up()?;
    stoa.sign_in()?;
    let judge = Judge::new()?;
    let targets = targets(&stoa)?;
    let control = stoa.part("control")?;
    let warm = Mutex::new(Outcome::default());
    let warm_up = Options {
        requests: WARM_UP.min(options.requests),
        first: u64::MAX / 2,
        ..options
    };
    send_all(&stoa, &targets, &judge, warm_up, &warm)?;
    let before = settled_memory(&control);
    let outcome = Mutex::new(Outcome::default());
    send_all(&stoa, &targets, &judge, options, &outcome)?;
    let mut outcome = outcome
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a client panicked"))?;
    // What a warm-up finds is a finding, too.
    let warm = warm
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a client panicked"))?;
    outcome.findings.extend(warm.findings);
    (outcome.before, outcome.after) = (before, settled_memory(&control));
    ensure!(control.is_alive(), "control did not outlive it");
    let api = stoa.api()?;
    ensure!(
        api.call("GET", "/v1/whoami", None)?.status == 200,
        "its owner is shut out"
    );
    let metrics = Connection::open(stoa.listeners().api)?.request(
        "GET",
        "localhost",
        "/metrics",
        &[
            ("Authorization", &format!("Bearer {}", api.token())),
            ("Connection", "close"),
        ],
        b"",
    )?;
    outcome.panics = counter(&metrics.text(), "stoa_api_panics_total")?;
    if stoa.log().contains("panicked at") {
        outcome
            .findings
            .push("something panicked: see the log of stoa up".to_owned());
    }
    stoa.finish()?;
    Ok(outcome)
}

/// The value of a counter without labels.
fn counter(text: &str, name: &str) -> Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line
        .with_context(|| format!("no {name} in the metrics"))?
        .trim()
        .parse()?)
}

/// Memory when threads of a burst are gone and nothing is in the middle of an answer.
fn settled_memory(control: &crate::process::Process) -> u64 {
    let least = (0..8).map(|_| {
        thread::sleep(Duration::from_millis(500));
        control.private_dirty_bytes()
    });
    least.min().unwrap_or_default()
}

/// Things of each kind, so that real ids stand where they do not belong.
fn targets(stoa: &Stoa) -> Result<Targets> {
    let app = Application::copy("probe", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    stoa.cli_in(
        app.folder(),
        &["secrets", "set", "HOSTILE", "--detach"],
        b"hostile-secret",
    )?;
    let api = stoa.api()?;
    let viewer = api.call(
        "POST",
        "/v1/tokens",
        Some(&json!({ "name": "viewer", "role": "viewer" })),
    )?;
    let mut ids = vec!["default".to_owned(), "production".to_owned(), "probe".to_owned()];
    for path in [
        "/v1/orgs".to_owned(),
        "/v1/orgs/default/projects".to_owned(),
        "/v1/orgs/default/projects/default/environments".to_owned(),
        format!("{ENVIRONMENT}/apps"),
        format!("{ENVIRONMENT}/apps/probe/releases"),
        format!("{ENVIRONMENT}/apps/probe/instances"),
        format!("{ENVIRONMENT}/operations"),
        "/v1/tokens".to_owned(),
    ] {
        let page = api.get(&path)?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        ids.extend(
            items
                .iter()
                .filter_map(|item| item["id"].as_str().map(str::to_owned)),
        );
    }
    let text = fs::read_to_string(repository().join("openapi/v1.json"))?;
    Targets::new(
        &serde_json::from_str(&text)?,
        ids,
        api.token().to_owned(),
        viewer.body["token"].as_str().context("no token")?.to_owned(),
    )
}

fn send_all(
    stoa: &Stoa,
    targets: &Targets,
    judge: &Judge,
    options: Options,
    into: &Mutex<Outcome>,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let address = stoa.listeners().api;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= options.requests {
                            return;
                        }
                        let number = options.first + at;
                        let request = targets.request(&mut Chance::of(options.seed, number));
                        let began = Instant::now();
                        let seen = exchange(address, &request);
                        if began.elapsed() > SLOW {
                            let text = String::from_utf8_lossy(&request.bytes);
                            let start: String = text.chars().take(120).collect();
                            println!(
                                "   slow: request {number}, {}, {:?}: {start:?}",
                                request.kind,
                                began.elapsed()
                            );
                        }
                        let mut outcome = into.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        judge.note(&mut outcome, &request, seen, number);
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        }
        Ok(())
    })
}

/// What came back: the answers, until the connection ended or all were there.
fn exchange(address: SocketAddr, request: &Request) -> Result<Vec<Response>> {
    let mut connection = Connection::open(address)?;
    // The server may answer and close before it has read everything: that is no fault, its answer counts.
    let half = if request.pause.is_zero() {
        request.bytes.len()
    } else {
        request.bytes.len() / 2
    };
    let sent = connection.send(&request.bytes[..half]);
    if !request.pause.is_zero() {
        thread::sleep(request.pause);
    }
    let _sent = sent.and_then(|()| connection.send(&request.bytes[half..]));
    let mut answers = Vec::new();
    if request.after == After::Leave {
        return Ok(answers);
    }
    // As many as were asked for, or fewer when the server ends the connection.
    for _ in 0..request.answers {
        let answer = connection.head().and_then(|(status, headers)| {
            // Its end may never come: its head is the answer.
            let is_stream = headers
                .iter()
                .any(|(name, value)| name == "content-type" && value == "text/event-stream");
            if is_stream {
                let body = Vec::new();
                return Ok((
                    Response {
                        status,
                        headers,
                        body,
                    },
                    true,
                ));
            }
            Ok((connection.body(status, headers, request.is_head)?, false))
        });
        match answer {
            Ok((answer, is_stream)) => {
                answers.push(answer);
                if is_stream {
                    break;
                }
            }
            Err(why) if answers.is_empty() => return Err(why),
            Err(_) => break,
        }
        if !connection.is_open() {
            break;
        }
    }
    Ok(answers)
}

/// Knows what an answer must be like.
#[derive(Debug)]
pub struct Judge {
    codes: BTreeSet<String>,
}

impl Judge {
    /// With the codes that have a page.
    ///
    /// # Errors
    /// When the pages cannot be listed.
    pub fn new() -> Result<Self> {
        let pages = fs::read_dir(repository().join("docs/errors"))?;
        let codes = pages.flatten().filter_map(|page| {
            let name = page.file_name().to_string_lossy().into_owned();
            Some(name.strip_suffix(".md")?.to_owned())
        });
        Ok(Self {
            codes: codes.collect(),
        })
    }

    fn note(&self, outcome: &mut Outcome, request: &Request, seen: Result<Vec<Response>>, number: u64) {
        outcome.requests += 1;
        *outcome.kinds.entry(request.kind).or_default() += 1;
        let mut wrong = Vec::new();
        match seen {
            Ok(answers) => {
                for answer in &answers {
                    *outcome.statuses.entry(answer.status).or_default() += 1;
                    match self.code(request, answer) {
                        Ok(Some(code)) => *outcome.codes.entry(code).or_default() += 1,
                        Ok(None) => {}
                        Err(why) => wrong.push(why),
                    }
                }
            }
            Err(_) if request.may_be_cut => outcome.ended += 1,
            Err(why) => wrong.push(format!("no answer: {why:#}")),
        }
        for why in wrong {
            if outcome.findings.len() < TOLD {
                let text = String::from_utf8_lossy(&request.bytes);
                let start: String = text.chars().take(300).collect();
                outcome
                    .findings
                    .push(format!("request {number}, {}: {why}\n{start:?}", request.kind));
            }
        }
    }

    /// The code of an answer, or what is wrong with it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn code(&self, request: &Request, answer: &Response) -> Result<Option<String>, String> {
        let status = answer.status;
        if status >= 500 {
            return Err(format!("answered {status}: {}", answer.text()));
        }
        if status < 400 {
            return Ok(None);
        }
        // What cannot be read as HTTP is answered before there is a request: by a status alone.
        if request.may_be_cut && answer.body.is_empty() && matches!(status, 400 | 405 | 414 | 431) {
            return Ok(None);
        }
        if request.is_head {
            return Ok(None);
        }
        let kind = answer.header("content-type").unwrap_or_default();
        if request.may_be_page && kind.starts_with("text/html") {
            return Ok(None);
        }
        if kind != "application/problem+json" {
            return Err(format!("answered {status} as {kind:?}: {}", answer.text()));
        }
        let problem: Value = serde_json::from_slice(&answer.body)
            .map_err(|why| format!("answered {status}, no JSON: {why}"))?;
        let code = problem["code"].as_str().unwrap_or_default();
        if !self.codes.contains(code) {
            return Err(format!(
                "answered {status} with the code {code:?}, which has no page"
            ));
        }
        let named = answer.header("x-request-id").unwrap_or_default();
        if named.is_empty() || problem["request_id"] != named || problem["status"] != status {
            return Err(format!(
                "answered {status} with another request id or status: {problem}"
            ));
        }
        if problem["next_step"].as_str().is_none_or(str::is_empty) {
            return Err(format!("answered {status} without a next step: {problem}"));
        }
        Ok(Some(code.to_owned()))
    }
}
