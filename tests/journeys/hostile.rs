//! Hostile requests against the real server, a short run of `cargo xtask soak hostile`; that its judge sees a fault; and what
//! a stranger learns.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::http::Response;
use journeys::soak::api;
use journeys::soak::hostile::{self, After, Judge, Options, Request};
use journeys::{Application, ENVIRONMENT, Stoa, repository};
use serde_json::json;

/// `cargo xtask soak hostile` sends more.
const REQUESTS: u64 = 4000;

#[test]
fn hostile_requests_are_refused_with_a_code() -> Result<()> {
    let outcome = hostile::run(Options {
        requests: REQUESTS,
        seed: 4,
        first: 0,
    })?;
    println!("{outcome}");
    ensure!(outcome.findings.is_empty(), "{}", outcome.findings.join("\n"));
    ensure!(outcome.panics == 0, "{} panics", outcome.panics);
    // Each kind came to its word, and each was understood well enough to be refused for a reason of its own.
    ensure!(outcome.kinds.len() == 13, "{:?}", outcome.kinds);
    for code in [
        "bad_request",
        "invalid",
        "sign_in",
        "denied",
        "not_found",
        "method_not_allowed",
        "too_large",
    ] {
        ensure!(
            outcome.codes.contains_key(code),
            "nothing was refused as {code}: {:?}",
            outcome.codes
        );
    }
    Ok(())
}

/// By each operation of the document: what is another org's is to a stranger as what is not there.
#[test]
fn a_stranger_learns_nothing_by_any_operation() -> Result<()> {
    let outcome = api::strangers(&repository().join("openapi/v1.json"))?;
    ensure!(outcome.asked_by_a_stranger >= 100, "{outcome}");
    ensure!(outcome.findings.is_empty(), "{}", outcome.findings.join("\n"));
    Ok(())
}

/// Names with what shells understand.
const STRINGS: [&str; 12] = [
    "$(id)",
    "`id`",
    "a;id",
    "a|id",
    "a&&id",
    "a>b",
    "a\nid",
    "$HOME",
    "../a",
    "-a",
    "'",
    "\u{1b}[31m",
];

/// N1: whatever a name holds, control starts no program for it.
#[test]
fn n01_no_program_begins_for_a_name() -> Result<()> {
    let stoa = Stoa::start("exec-trace")?;
    let app = Application::copy("probe", stoa.root())?;
    let trace = stoa.root().join("trace");
    let mut tracer = Command::new("strace")
        .args(["-f", "-e", "trace=execve,execveat", "-o"])
        .arg(&trace)
        .args(["-p", &stoa.part("control")?.pid.to_string()])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(tracer.stderr.take().context("its talk")?).lines();
    let attached = said.next().context("strace ended")??;
    ensure!(attached.contains("attached"), "{attached}");
    let api = stoa.api()?;
    for text in STRINGS {
        for (method, path, body) in [
            ("POST", "/apps", json!({ "name": text })),
            ("POST", "/databases", json!({ "name": text })),
            ("PATCH", "/apps/probe/env", json!({ "set": { text: "x" } })),
        ] {
            let status = api
                .call(method, &format!("{ENVIRONMENT}{path}"), Some(&body))?
                .status;
            ensure!((400..500).contains(&status), "{method} {path} {text:?}: {status}");
        }
    }
    let begun = std::fs::read_to_string(&trace)?;
    ensure!(!begun.contains("exec"), "{begun}");
    // The control: the trace sees the programs of a deploy, and none of them is a shell.
    stoa.deploy(&app)?.ok()?;
    let begun = std::fs::read_to_string(&trace)?;
    let programs: Vec<&str> = begun.lines().filter(|line| line.contains("exec")).collect();
    ensure!(!programs.is_empty(), "the trace sees nothing");
    let shells = ["/sh\"", "/bash\"", "\"sh\"", "\"bash\"", "\"-c\""];
    let is_shell = |line: &&&str| shells.iter().any(|shell| line.contains(shell));
    ensure!(programs.iter().find(is_shell).is_none(), "{programs:#?}");
    tracer.kill()?;
    tracer.wait()?;
    stoa.finish()
}

/// Hashing a password takes 19 MiB for a moment, also for who has none: strangers must not make control heavy for good.
#[test]
fn sign_ins_leave_no_memory_behind() -> Result<()> {
    const ROOM: u64 = 8 << 20;
    let stoa = Stoa::start("sign-ins")?;
    let (api, control) = (stoa.api()?, stoa.part("control")?);
    let guess = |number: u64| {
        let body = json!({"email": format!("nobody-{number}@example.org"), "password": "correct horse"});
        Ok::<_, anyhow::Error>(api.call("POST", "/v1/sessions", Some(&body))?.status)
    };
    ensure!(api.call("GET", "/v1/whoami", None)?.status == 200);
    let before = control.private_dirty_bytes();
    for number in 0..4 {
        let status = guess(number)?;
        ensure!(status == 401, "a stranger was answered {status}");
    }
    let after = control.private_dirty_bytes();
    ensure!(
        before > 0 && after < before + ROOM,
        "{before} bytes before, {after} after"
    );
    stoa.finish()
}

/// The control: each thing that an answer must not be is found.
#[test]
fn a_fault_would_be_found() -> Result<()> {
    let judge = Judge::new()?;
    let request = |may_be_cut| Request {
        kind: "json",
        bytes: Vec::new(),
        answers: 1,
        may_be_cut,
        may_be_page: false,
        is_head: false,
        pause: std::time::Duration::ZERO,
        after: After::Read,
    };
    let answer = |status, kind: &str, body: &str| Response {
        status,
        headers: vec![
            ("content-type".to_owned(), kind.to_owned()),
            ("x-request-id".to_owned(), "req_1".to_owned()),
        ],
        body: body.as_bytes().to_vec(),
    };
    let problem = "application/problem+json";
    let body = |code: &str, id: &str, next: &str| {
        format!("{{\"status\":400,\"code\":\"{code}\",\"request_id\":\"{id}\",\"next_step\":\"{next}\"}}")
    };
    let good = answer(400, problem, &body("bad_request", "req_1", "see"));
    ensure!(judge.code(&request(false), &good) == Ok(Some("bad_request".to_owned())));
    ensure!(judge.code(&request(true), &answer(400, "", "")) == Ok(None));
    for (what, bad) in [
        ("5xx", answer(500, problem, &body("internal", "req_1", "see"))),
        ("not ready", answer(503, problem, &body("busy", "req_1", "see"))),
        ("plain text", answer(400, "text/plain", "Bad Request")),
        ("empty", answer(400, "", "")),
        (
            "unknown code",
            answer(400, problem, &body("made_up", "req_1", "see")),
        ),
        (
            "another id",
            answer(400, problem, &body("bad_request", "req_2", "see")),
        ),
        (
            "no next step",
            answer(400, problem, &body("bad_request", "req_1", "")),
        ),
        (
            "another status",
            answer(404, problem, &body("bad_request", "req_1", "see")),
        ),
        ("no JSON", answer(400, problem, "<html>")),
    ] {
        ensure!(judge.code(&request(false), &bad).is_err(), "{what} passed");
    }
    Ok(())
}
