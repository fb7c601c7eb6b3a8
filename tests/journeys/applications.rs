//! The life of an application, for three of ours and three published ones that know nothing about Stoa:
//! init, deploy, change, deploy, a broken release that never gets traffic, rollback, logs of all releases.

use anyhow::{Context as _, Result, ensure};
use journeys::http::{self, Connection};
use journeys::{Application, Stoa, holds};

/// One application, and what tells its releases apart.
struct Case {
    name: &'static str,
    /// Looks at the first release.
    first: fn(&Stoa) -> Result<()>,
    /// Makes the second release different.
    change: fn(&Application) -> Result<()>,
    /// Looks at the second release.
    second: fn(&Stoa) -> Result<()>,
    /// Makes a release that cannot serve.
    break_it: fn(&Application) -> Result<()>,
    /// What the rejection must say: the application's own words where it has any.
    reason: &'static str,
}

fn journey(case: &Case) -> Result<()> {
    let stoa = Stoa::start(&format!("app-{}", case.name))?;
    let app = Application::copy(case.name, stoa.root())?;
    if case.name == "etcd" {
        let packages = [
            "image",
            "base",
            "create",
            "etcd",
            "--suite",
            "bookworm",
            "--packages",
            "etcd-server",
        ];
        stoa.cli(&packages)?.ok()?;
    }

    init(&stoa, &app)?;

    stoa.deploy(&app)?.ok()?.says("v1")?.says(&app.host())?;
    (case.first)(&stoa).context("release v1")?;

    (case.change)(&app)?;
    stoa.deploy(&app)?.ok()?.says("v2")?;
    (case.second)(&stoa).context("release v2")?;

    (case.break_it)(&app)?;
    stoa.deploy(&app)?
        .exits(7)?
        .says("v3")?
        .says(case.reason)?
        .has_next_step()?;
    (case.second)(&stoa).context("v2 after the broken v3")?;

    stoa.cli(&["rollback", "--app", case.name])?.ok()?.says("v1")?;
    (case.first)(&stoa).context("v1 after the rollback")?;

    let releases = stoa
        .cli(&["releases", "--app", case.name, "--json"])?
        .ok()?
        .items()?;
    let states: Vec<(&str, bool)> = releases
        .iter()
        .filter_map(|release| Some((release["name"].as_str()?, release["serving"].as_bool()?)))
        .collect();
    ensure!(
        states == [("v3", false), ("v2", false), ("v1", true)],
        "{states:?}"
    );
    logs(&stoa, case)?;
    stoa.finish()
}

/// `stoa init` in a directory without a manifest writes one that names the app; ours is put back then.
fn init(stoa: &Stoa, app: &Application) -> Result<()> {
    let path = app.folder().join("stoa.toml");
    let ours = std::fs::read_to_string(&path)?;
    std::fs::remove_file(&path)?;
    stoa.cli_in(app.folder(), &["init", "--app", app.name()], b"")?
        .ok()?;
    let written = std::fs::read_to_string(&path)?;
    ensure!(
        written.contains("schema = 1") && written.contains(app.name()),
        "init wrote:\n{written}"
    );
    stoa.cli_in(app.folder(), &["init", "--app", app.name()], b"")?
        .exits(6)?
        .has_next_step()?;
    app.write("stoa.toml", &ours)
}

/// Lines of releases that ended are still there, the rejected one's with its reason.
fn logs(stoa: &Stoa, case: &Case) -> Result<()> {
    let lines = |release: &str| -> Result<String> {
        Ok(stoa
            .cli(&["logs", "--app", case.name, "--release", release, "--tail", "2000"])?
            .ok()?
            .stdout)
    };
    if case.name == "static" {
        // Files have no words of their own.
        return Ok(());
    }
    for release in ["v1", "v2"] {
        ensure!(
            !lines(release)?.trim().is_empty(),
            "release {release} has no log lines"
        );
    }
    let rejected = lines("v3")?;
    ensure!(
        rejected.contains(case.reason),
        "the log of v3 lacks {:?}:\n{rejected}",
        case.reason
    );
    Ok(())
}

/// The page at a path of an app contains a text.
fn page(stoa: &Stoa, app: &str, path: &str, text: &str) -> Result<()> {
    let response = stoa.get(&format!("{app}.localhost"), path)?;
    let body = response.text();
    ensure!(
        response.status == 200,
        "{path} answered {}: {body}",
        response.status
    );
    ensure!(body.contains(text), "{path} lacks {text:?}:\n{body}");
    Ok(())
}

#[test]
fn guestbook() -> Result<()> {
    journey(&Case {
        name: "guestbook",
        first: |stoa| {
            page(stoa, "guestbook", "/", "<h1>Guestbook</h1>")?;
            let mut connection = Connection::open(stoa.listeners().http)?;
            let answer =
                connection.post_form("guestbook.localhost", "/entries", "name=Ada&message=first+entry")?;
            ensure!(
                answer.status == 303,
                "writing answered {}: {}",
                answer.status,
                answer.text()
            );
            page(stoa, "guestbook", "/", "first entry")
        },
        change: |app| {
            app.replace(
                "stoa.toml",
                "[services.web]",
                "[env]\nTITLE = \"Our guests\"\n\n[services.web]",
            )
        },
        second: |stoa| {
            page(stoa, "guestbook", "/", "<h1>Our guests</h1>")?;
            page(stoa, "guestbook", "/", "first entry")
        },
        break_it: |app| app.replace("app.py", "import html\n", "import html\nimport no_such_module\n"),
        reason: "No module named 'no_such_module'",
    })
}

#[test]
fn static_site() -> Result<()> {
    journey(&Case {
        name: "static",
        first: |stoa| {
            page(stoa, "static", "/", "It serves files")?;
            page(stoa, "static", "/style.css", "color-scheme")?;
            let missing = stoa.get("static.localhost", "/missing")?;
            ensure!(
                missing.status == 404 && missing.text().contains("Not here"),
                "{}",
                missing.text()
            );
            Ok(())
        },
        change: |app| app.replace("index.html", "It serves files", "It serves other files"),
        second: |stoa| page(stoa, "static", "/", "It serves other files"),
        break_it: |app| {
            let gate = "[services.web]\nhealth = { path = \"/no-such-page\", grace = \"3s\", interval = \"200ms\" }\n";
            app.write("stoa.toml", &format!("schema = 1\napp = \"static\"\n{gate}"))
        },
        reason: "404",
    })
}

#[test]
fn rust_api() -> Result<()> {
    journey(&Case {
        name: "rust-api",
        first: |stoa| {
            page(stoa, "rust-api", "/", "\"greeting\":\"hello\"")?;
            let edge = stoa.listeners().http;
            let counted = Connection::open(edge)?.post_form("rust-api.localhost", "/counters/visits", "")?;
            ensure!(counted.text().contains("\"visits\""), "{}", counted.text());
            Ok(())
        },
        change: |app| {
            app.replace(
                "stoa.toml",
                "[services.web]",
                "[env]\nGREETING = \"good day\"\n\n[services.web]",
            )
        },
        second: |stoa| page(stoa, "rust-api", "/", "good day"),
        break_it: |app| {
            let begin = "fn main() -> std::io::Result<()> {\n";
            app.replace(
                "src/main.rs",
                begin,
                &format!("{begin}    assert!(IDLE.is_zero(), \"broken on purpose\");\n"),
            )
        },
        reason: "broken on purpose",
    })
}

#[test]
fn node_red() -> Result<()> {
    journey(&Case {
        name: "node-red",
        first: |stoa| {
            page(stoa, "node-red", "/", "Node-RED")?;
            page(stoa, "node-red", "/settings", "\"httpNodeRoot\":\"/\"")
        },
        change: |app| {
            app.replace(
                "stoa.toml",
                "\"node-red\"\nport",
                "\"node-red -D httpNodeRoot=/flows\"\nport",
            )
        },
        second: |stoa| page(stoa, "node-red", "/settings", "\"httpNodeRoot\":\"/flows/\""),
        break_it: |app| app.replace("stoa.toml", "-D httpNodeRoot=/flows", "--settings /nowhere.js"),
        reason: "Cannot find module '/nowhere.js'",
    })
}

#[test]
fn alerta() -> Result<()> {
    journey(&Case {
        name: "alerta",
        first: |stoa| {
            page(stoa, "alerta", "/config", "\"signup_enabled\": true")?;
            let alert = r#"{"environment":"Production","event":"down","resource":"journey","service":["web"],"severity":"major"}"#;
            let headers = [("Content-Type", "application/json")];
            let mut connection = Connection::open(stoa.listeners().http)?;
            let answer =
                connection.request("POST", "alerta.localhost", "/alert", &headers, alert.as_bytes())?;
            ensure!(
                answer.status == 201,
                "an alert was answered {}: {}",
                answer.status,
                answer.text()
            );
            page(stoa, "alerta", "/alerts", "\"resource\": \"journey\"")
        },
        change: |app| app.replace("stoa.toml", "[env]\n", "[env]\nSIGNUP_ENABLED = \"no\"\n"),
        second: |stoa| {
            page(stoa, "alerta", "/config", "\"signup_enabled\": false")?;
            page(stoa, "alerta", "/alerts", "\"resource\": \"journey\"")
        },
        break_it: |app| app.replace("stoa.toml", "--port $PORT", "--port $PORT --no-such"),
        reason: "No such option",
    })
}

#[test]
fn etcd() -> Result<()> {
    fn post(stoa: &Stoa, path: &str, body: &str) -> Result<http::Response> {
        let mut connection = Connection::open(stoa.listeners().http)?;
        connection.request("POST", "etcd.localhost", path, &[], body.as_bytes())
    }
    fn named(stoa: &Stoa, name: &str) -> Result<()> {
        // A fresh etcd elects itself before it lists its members.
        holds("the member list", || {
            let members = post(stoa, "/v3/cluster/member/list", "{}")?;
            Ok(members.status == 200 && members.text().contains(&format!("\"name\":\"{name}\"")))
        })
    }
    journey(&Case {
        name: "etcd",
        first: |stoa| {
            named(stoa, "node1")?;
            let put = post(stoa, "/v3/kv/put", r#"{"key":"YQ==","value":"c3RvYQ=="}"#)?;
            ensure!(put.status == 200, "put answered {}: {}", put.status, put.text());
            let got = post(stoa, "/v3/kv/range", r#"{"key":"YQ=="}"#)?;
            ensure!(got.text().contains("c3RvYQ=="), "{}", got.text());
            Ok(())
        },
        change: |app| app.replace("stoa.toml", "--name=node1", "--name=node2"),
        second: |stoa| named(stoa, "node2"),
        break_it: |app| app.replace("stoa.toml", "--data-dir=/tmp/etcd", "--data-dir=/proc/etcd"),
        reason: "cannot access data directory",
    })
}
