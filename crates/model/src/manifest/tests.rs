//! Tables of manifests: what good ones resolve to, and the exact words that bad ones get.

use super::*;
use crate::spec::Service;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn problems(text: &str) -> String {
    let problems = Manifest::parse(text).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The bad manifests and their answers: `=== title`, the manifest, `---`, the problems.
const BAD: &str = include_str!("tests/bad.txt");

#[test]
fn bad_manifests_get_all_their_problems_at_once() {
    let mut seen = String::new();
    for case in BAD.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (text, _) = rest.split_once("---\n").expect("a separator");
        seen.push_str(&format!("=== {title}\n{text}---\n{}", problems(text)));
    }
    // To review a change: STOA_BLESS=1 writes what is said now, and the diff shows it.
    if std::env::var_os("STOA_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manifest/tests/bad.txt");
        std::fs::write(path, &seen).expect("the snapshot is writable");
    }
    assert_eq!(seen, BAD);
    assert!(
        !seen.contains("---\n===") && !seen.ends_with("---\n"),
        "a bad manifest was accepted"
    );
}

const FULL: &str = r#"
#:schema https://stoa.example/schema/stoa-1.json
schema = 1
app    = "shop"

[build]
base     = "debian:12"
packages = ["libpq5", "g++"]
command  = [["make"], ["make", "assets"]]
start    = "bin/shop serve"

[env]
LOG_LEVEL = "info"

[services.web]
port       = 3000
scale      = { min = 2, max = 2 }
resources  = { cpu = 0.5, memory = "512Mi" }
health     = { path = "/healthz?deep=1", grace = "10s", interval = "2s", failures = 5 }
routes     = [{ host = "shop.example.org", path = "/" }, { path = "/api" }]
uses       = ["main", "mail"]
secrets    = ["STRIPE_KEY"]
stop_grace = "5s"

[services.worker]
command   = ["bin/shop", "work", "$QUEUE"]
resources = { cpu = 2, pids = 64 }

[services.mail]
image  = "registry.example.org:5000/mailer:4.2"
port   = 25
expose = "private"

[jobs.migrate]
command = "bin/shop migrate --to 'latest one'"
on      = "release"
uses    = ["main"]

[databases]
main = { engine = "postgres", version = "15", size = "10Gi", memory = "256Mi", backup_level = "sync", pooled = true }
"#;

#[test]
fn a_full_manifest_says_what_it_means() {
    let manifest = Manifest::parse(FULL).expect("a good manifest");
    assert_eq!(manifest.build.commands, [vec!["make"], vec!["make", "assets"]]);
    assert_eq!(manifest.databases[&name("main")].version.as_deref(), Some("15"));
    assert_eq!(manifest.databases[&name("main")].pooled, Some(true));
    assert_eq!(
        manifest.databases[&name("main")].backup_level,
        Some(crate::Level::Sync)
    );
    let resolved = manifest.resolve(&Found::default());
    let web = &resolved.services[&name("web")];
    assert_eq!(web.command, ["bin/shop", "serve"]);
    assert_eq!(
        (web.port, web.count, web.resources.cpu.get()),
        (Some(3000), 2, 500)
    );
    assert_eq!((web.health.failures, web.health.timeout), (5, Millis::seconds(2)));
    assert_eq!(web.stop_grace, Millis::seconds(5));
    let worker = &resolved.services[&name("worker")];
    assert_eq!((worker.port, worker.count, worker.resources.pids), (None, 1, 64));
    assert_eq!(worker.resources.memory, Bytes::mi(512));
    let mail = &resolved.services[&name("mail")];
    assert!(mail.command.is_empty() && mail.routes.is_empty() && mail.image.is_some());
    let migrate = &resolved.jobs[&name("migrate")];
    assert_eq!(migrate.command, ["bin/shop", "migrate", "--to", "latest one"]);
    assert_eq!(migrate.timeout, Millis::seconds(600));
}

/// `NAME:PORT command -> routes`, one service a line.
fn summary(services: &BTreeMap<Name, Service>) -> Vec<String> {
    let routes = |service: &Service| {
        let route = |route: &Route| format!("{}{}", route.host.as_deref().unwrap_or("APP"), route.path);
        service.routes.iter().map(route).collect::<Vec<_>>().join(" ")
    };
    let line = |(name, service): (&Name, &Service)| {
        let port = service.port.map_or("-".to_owned(), |port| port.to_string());
        format!(
            "{name}:{port} {} -> {}",
            service.command.join(" "),
            routes(service)
        )
        .trim_end()
        .to_owned()
    };
    services.iter().map(line).collect()
}

#[test]
fn routes_ports_and_commands_have_defaults() {
    let mut found = Found::default();
    found.commands.insert(name("web"), vec!["serve".to_owned()]);
    found.commands.insert(name("worker"), vec!["work".to_owned()]);
    for (text, expected) in [
        ("", &["web:8080 serve -> APP/", "worker:- work ->"][..]),
        (
            "[build]\nstart = 'other'",
            &["web:8080 other -> APP/", "worker:- work ->"],
        ),
        ("[services.web]", &["web:8080 serve -> APP/"]),
        (
            "[services.web]\nport = 99\ncommand = 'x y'",
            &["web:99 x y -> APP/"],
        ),
        ("[services.web]\nexpose = 'private'", &["web:8080 serve ->"]),
        ("[services.web]\nroutes = []", &["web:8080 serve ->"]),
        (
            "[services.front]\nport = 1\n[services.worker]",
            &["front:1  -> APP/", "worker:- work ->"],
        ),
        (
            "[services.a]\nport = 1\n[services.b]\nport = 2",
            &["a:1  ->", "b:2  ->"],
        ),
        (
            "[services.a]\nport = 1\n[services.web]",
            &["a:1  ->", "web:8080 serve -> APP/"],
        ),
        (
            "[services.a]\nport = 1\nroutes = [{path = '/a'}]\n[services.web]",
            &["a:1  -> APP/a", "web:8080 serve ->"],
        ),
        ("[services.web]\nimage = 'debian:12'", &["web:8080  -> APP/"]),
    ] {
        let text = format!("schema = 1\napp = 'a'\n{text}\n");
        let manifest = Manifest::parse(&text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!(summary(&manifest.resolve(&found).services), expected, "{text}");
    }
}

#[test]
fn a_start_alone_is_a_web_service() {
    let manifest = Manifest::parse("schema = 1\napp = 'a'\n[build]\nstart = 'serve'").expect("good");
    let resolved = manifest.resolve(&Found::default());
    assert_eq!(summary(&resolved.services), ["web:8080 serve -> APP/"]);
}

#[test]
fn what_the_source_says_gets_the_databases() {
    let mut found = Found {
        release: Some(vec!["migrate".to_owned()]),
        port: Some(3000),
        ..Found::default()
    };
    found.commands.insert(name("web"), vec!["serve".to_owned()]);
    let text = "schema = 1\napp = 'a'\n[databases]\nmain = { engine = 'postgres' }";
    let resolved = Manifest::parse(text).expect("good").resolve(&found);
    assert_eq!(summary(&resolved.services), ["web:3000 serve -> APP/"]);
    assert!(resolved.services[&name("web")].uses.contains("main"));
    assert!(resolved.jobs[&name("release")].uses.contains("main"));
    let declared = format!("{text}\n[jobs.seed]\ncommand = 'seed'\non = 'release'");
    let resolved = Manifest::parse(&declared).expect("good").resolve(&found);
    assert!(resolved.jobs.keys().map(Name::as_str).eq(["seed"]));
}

#[test]
fn a_written_manifest_is_read_back() {
    let text = "schema = 1\napp = 'a'\n[build]\ncommand = 'make'\n[env]\nQ = \"x\\\"y\\n\"\n\
        [services.web]\ncommand = 'a \"b c\" $PORT'\nport = 80\nuses = ['main']\nhealth = { path = '/up' }\n\
        [jobs.m]\ncommand = 'm'\non = 'release'\n[databases]\nmain = { engine = 'postgres' }";
    let manifest = Manifest::parse(text).expect("good");
    assert_eq!(
        Manifest::parse(&manifest.to_toml()),
        Ok(manifest.clone()),
        "{}",
        manifest.to_toml()
    );
    let mut short = Manifest::named(name("shop"));
    short
        .services
        .insert(name("web"), manifest.services[&name("web")].clone());
    short
        .services
        .values_mut()
        .for_each(|service| service.uses.clear());
    assert_eq!(
        short.to_toml(),
        "schema = 1\n\
         app    = \"shop\"   # its name: answers at shop.DOMAIN\n\
         \n\
         [services.web]\n\
         command = [\"a\", \"b c\", \"$PORT\"]   # no shell; $PORT is replaced\n\
         port    = 80   # given to it as PORT\n\
         health  = { path = \"/up\" }\n"
    );
}

#[test]
fn hostile_texts_are_refused_and_never_panic() {
    let deep = format!(
        "schema = 1\napp = 'a'\nx = {}{}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let wide = format!("schema = 1\napp = 'a'\n[env]\nA = '{}'", "x".repeat(TEXT_MAX));
    for text in [
        deep.as_str(),
        wide.as_str(),
        "\u{feff}",
        "\0",
        "é = 1",
        "[[services.web]]",
        "[services]\nweb = 1",
    ] {
        assert!(!problems(text).is_empty(), "{text:.40}");
    }
    // Cut anywhere, and with one byte changed, a good manifest is read or refused, never more.
    let mut refused = 0;
    for end in 0..FULL.len() {
        refused += usize::from(Manifest::parse(&FULL[..end]).is_err());
        let mut bytes = FULL.as_bytes().to_vec();
        bytes[end] = bytes[end].wrapping_add(13) & 0x7f;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            refused += usize::from(Manifest::parse(text).is_err());
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn every_part_of_a_manifest_is_written_and_read_back() {
    for text in [
        FULL.to_owned(),
        "schema = 1\napp = 'a'\n[rollout]\nstrategy = 'canary'\nsteps = ['5%:2m', '50%:90s', '100%']".to_owned(),
        "schema = 1\napp = 'a'\n[rollout]\nsurge = { over = 2, under = 1 }".to_owned(),
        "schema = 1\napp = 'a'\n[rollout]\nstrategy = 'blue-green'\n[services.web]\nscale = 3\nroutes = []\n\
         health = { timeout = '3s' }\n[services.b]\nexpose = 'private'\nport = 1\nresources = { cpu = 0.255 }\n\
         [jobs.j]\ncommand = 'j'\non = 'release'\ntimeout = '1h'\nsecrets = ['K']\nresources = { memory = '1Gi' }"
            .to_owned(),
    ] {
        let manifest = Manifest::parse(&text).expect("good");
        let written = manifest.to_toml();
        assert_eq!(Manifest::parse(&written), Ok(manifest), "{written}");
    }
}

const OVERLAYS: &str = r#"
schema = 1
app = "shop"
[env]
LEVEL = "info"
KEPT = "1"
[services.web]
port = 80
scale = 3
routes = [{ host = "shop.example.org" }]
secrets = ["A", "B"]
health = { path = "/up", failures = 5 }
[rollout]
strategy = "canary"
steps = ["5%:1m"]
[environments.staging]
env.LEVEL = "debug"
services.web = { scale = 1, routes = [], secrets = ["A"], health.failures = 9 }
services.extra = { command = "x" }
rollout.strategy = "recreate"
[environments.preview.databases]
main = { engine = "postgres" }
"#;

#[test]
fn an_environment_differs_key_by_key() {
    let of = |environment: &str| Manifest::parse_for(OVERLAYS, &name(environment)).expect("good");
    let base = Manifest::parse(OVERLAYS).expect("good");
    assert_eq!(of("production"), base, "without an overlay it is the file itself");
    assert_eq!(base.services[&name("web")].count, 3);
    assert!(base.databases.is_empty() && !base.services.contains_key(&name("extra")));
    let staging = of("staging");
    assert_eq!(staging.env["LEVEL"], "debug");
    assert_eq!(staging.env["KEPT"], "1");
    let web = &staging.services[&name("web")];
    assert_eq!(
        (web.count, web.port, web.routes.as_deref()),
        (1, Some(80), Some(&[][..]))
    );
    assert_eq!(
        (web.secrets.len(), web.health.failures),
        (1, 9),
        "lists are replaced"
    );
    assert_eq!(web.health.path.as_deref(), Some("/up"), "tables are merged");
    assert!(staging.services.contains_key(&name("extra")));
    assert_eq!(
        staging.rollout,
        Strategy::Recreate,
        "the steps of the canary are gone"
    );
    assert!(of("preview").databases.contains_key(&name("main")));
    assert_eq!(of("preview").rollout, base.rollout);
}

#[test]
fn many_environments_are_refused_not_worked_through() {
    let environments: String = (0..51).map(|at| format!("[environments.e{at}]\n")).collect();
    let text = format!("schema = 1\napp = 'a'\n{environments}");
    assert!(
        problems(&text).contains("more than 50 environments"),
        "{}",
        problems(&text)
    );
}
