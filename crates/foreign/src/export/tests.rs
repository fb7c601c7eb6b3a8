//! What is written is read back, and what people read is kept as reviewed snapshots.

use std::collections::BTreeSet;
use std::path::Path;

use model::manifest::{DatabaseWish, Expose};
use model::{Bytes, CpuMillis};

use super::*;
use crate::draft::bare_service;
use crate::{Beside, Form, import};

fn options() -> Options {
    Options {
        image: "registry.example.org/shop:8".to_owned(),
        domain: "apps.example.org".to_owned(),
        environment: "production".parse().expect("a name"),
    }
}

/// Compares with the committed text, or writes it.
fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/export")
        .join(name);
    if std::env::var_os("STOA_WRITE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, text).expect("written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        known,
        text,
        "{}: review, then STOA_WRITE_SNAPSHOTS=1",
        path.display()
    );
}

const FULL: &str = r#"
schema = 1
app    = "shop"

[env]
LOG_LEVEL = "info"
PRICE     = "5$ $(x) ${y}"

[services.web]
command    = ["bin/shop", "serve", "--port=$PORT", "$LOG_LEVEL-$STRIPE_KEY", "${NONE:-x}", "$$HOME"]
port       = 3000
scale      = 2
resources  = { cpu = 0.5, memory = "256Mi" }
health     = { path = "/healthz?deep=1", grace = "10s", interval = "500ms", failures = 5 }
routes     = [{ host = "shop.example.org" }, { path = "/api" }]
uses       = ["main", "mail"]
secrets    = ["STRIPE_KEY"]
stop_grace = "5s"

[services.worker]
command = "bin/shop work"
uses    = ["main", "other"]

[services.mail]
image  = "registry.example.org:5000/mailer:4.2"
port   = 25
expose = "private"

[jobs.migrate]
command = "bin/shop migrate --to 'latest one'"
on      = "release"
uses    = ["main"]

[databases]
main  = { engine = "postgres", version = "18", size = "20Gi", memory = "256Mi" }
other = { engine = "postgres" }

[rollout]
strategy = "canary"
steps    = ["5%:2m"]
"#;

#[test]
fn a_full_manifest_in_both_forms() {
    let manifest = Manifest::parse(FULL).expect("a good manifest");
    for (target, file) in [
        (Target::Compose, "compose.yaml"),
        (Target::Kubernetes, "kubernetes.yaml"),
    ] {
        let exported = export(target, &manifest, &options()).expect("services");
        check(file, &exported.text);
        let notes: String = exported.notes.iter().map(|note| format!("{note}\n")).collect();
        check(&format!("{file}.txt"), &notes);
    }
    let empty = Manifest::named("a".parse().expect("a name"));
    assert_eq!(export(Target::Compose, &empty, &options()), Err(NothingDeclared));
}

fn exported(target: Target, text: &str, environment: &str) -> Exported {
    let manifest = Manifest::parse(text).expect("a good manifest");
    let options = Options {
        environment: environment.parse().expect("a name"),
        ..options()
    };
    export(target, &manifest, &options).expect("services")
}

fn told(exported: &Exported) -> String {
    exported.notes.iter().map(|note| format!("{note}\n")).collect()
}

#[test]
fn commands_hold_no_secrets_and_what_is_empty_has_its_default() {
    let text = "schema = 1\napp = \"a\"\nenv = { EMPTY = \"\", LEVEL = \"\\u0001API_KEY\\u0002\" }\n[services.web]\n\
                command = [\"run\", \"--key=${API_KEY:-none}\", \"$EMPTY\", \"${EMPTY:-x}\", \"$LEVEL\"]\nsecrets = [\"API_KEY\"]\n";
    let compose = exported(Target::Compose, text, "production").text;
    assert!(
        compose.contains("[run, \"--key=none\", x, \"\\u0001API_KEY\\u0002\"]"),
        "{compose}"
    );
    let kubernetes = exported(Target::Kubernetes, text, "production").text;
    assert!(
        kubernetes.contains("[run, \"--key=none\", x, \"$(LEVEL)\"]"),
        "{kubernetes}"
    );
}

#[test]
fn each_instance_has_a_port_of_the_host() {
    let text = "schema = 1\napp = \"a\"\n[services.web]\nimage = \"x\"\nport = 80\nscale = 3\n[services.api]\nimage = \"x\"\nport = 82\n\
                routes = [{ host = \"api.example.org\" }]\n[services.last]\nimage = \"x\"\nport = 65535\nscale = 2\n\
                routes = [{ host = \"last.example.org\" }]\n";
    let text = text.replace("port = 80\n", "port = 80\nroutes = [{ path = \"/\" }]\n");
    let exported = exported(Target::Compose, &text, "production");
    for ports in ["[\"82:82\"]", "[\"83-85:80\"]", "[\"65535\"]"] {
        assert!(
            exported.text.contains(&format!("ports: {ports}")),
            "{ports}\n{}",
            exported.text
        );
    }
    assert!(told(&exported).contains("the ports 83 to 85, one for each instance"));
}

#[test]
fn kubernetes_makes_one_dollar_of_two() {
    let text = "schema = 1\napp = \"a\"\nenv = { A = \"5$$ $(B) $x\" }\n[services.web]\ncommand = [\"run\", \"$$$$\", \"$$(A)\", \"$A\"]\n";
    let text = exported(Target::Kubernetes, text, "production").text;
    assert!(text.contains("value: \"5$$$$ $$(B) $$x\""), "{text}");
    assert!(
        text.contains("command: [run, \"$$$$\", \"$$(A)\", \"$(A)\"]"),
        "{text}"
    );
}

#[test]
fn beside_production_the_host_names_the_environment() {
    let text = "schema = 1\napp = \"shop\"\n[services.web]\ncommand = \"run\"\n";
    for (environment, host) in [
        ("production", "shop.apps.example.org"),
        ("staging", "shop-staging.apps.example.org"),
    ] {
        let kubernetes = exported(Target::Kubernetes, text, environment).text;
        assert!(kubernetes.contains(&format!("host: {host}")), "{kubernetes}");
        let compose = exported(Target::Compose, text, environment).text;
        assert!(
            compose.contains(&format!("as the app is in {environment}")),
            "{compose}"
        );
    }
}

#[test]
fn what_a_form_does_not_say_is_noted() {
    let text = "schema = 1\napp = \"a\"\n[services.web]\ncommand = \"run\"\nsecrets = [\"KEY\"]\nuses = [\"main\"]\nstop_grace = \"1500ms\"\n\
                health = { path = \"/\", interval = \"500ms\" }\n[jobs.up]\ncommand = \"up\"\non = \"release\"\n\
                [databases]\nmain = { engine = \"postgres\", size = \"1Gi\" }\n";
    for (target, paths) in [
        (
            Target::Compose,
            &[
                "env",
                "secrets",
                "resources.disk",
                "uses",
                "jobs.up.timeout",
                "databases.main.size",
            ][..],
        ),
        (
            Target::Kubernetes,
            &[
                "env",
                "secrets",
                "services.web.stop_grace",
                "services.web.health.interval",
            ],
        ),
    ] {
        let exported = exported(target, text, "production");
        for path in paths {
            assert!(
                exported.notes.iter().any(|note| note.path == *path),
                "{path}: {}",
                told(&exported)
            );
        }
        assert!(exported.text.contains("DATABASE_URL_DIRECT"), "{}", exported.text);
    }
}

/// A generator without a crate: the seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        let at = self.below(of.len() as u64);
        &of[usize::try_from(at).expect("small")]
    }

    fn is(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// A manifest of what both forms can say.
fn any(dice: &mut Dice) -> Manifest {
    const WORDS: [&str; 9] = ["serve", "--a=b c", "'", "\"", "$$HOME", "", "ü", "#x", "a:b"];
    let mut manifest = Manifest::named("shop".parse().expect("a name"));
    for key in ["MODE", "Title", "_x"] {
        if dice.is() {
            let value = *dice.one(&[
                "",
                "yes",
                "1.10",
                "a $b ${c} $$",
                "two\nlines",
                "# no: comment",
                "null",
            ]);
            manifest.env.insert(key.parse().expect("a key"), value.to_owned());
        }
    }
    for name in ["main", "other"] {
        if dice.is() {
            let version = Some((*dice.one(&["15", "17", "18"])).to_owned());
            let wish = DatabaseWish {
                engine: model::EngineWish::Postgres,
                version,
                size: None,
                memory: None,
                backup_level: None,
                pooled: None,
            };
            manifest.databases.insert(name.parse().expect("a name"), wish);
        }
    }
    for name in ["api", "web", "worker", "mail-2"] {
        if !dice.is() && name != "worker" {
            continue;
        }
        let mut service = bare_service();
        service.image =
            Some((*dice.one(&["x/y:1", "registry.example.org:5000/a/b@sha256:00", "nothing"])).to_owned());
        if dice.is() {
            let count = dice.below(4);
            let more = (0..count).map(|_| (*dice.one(&WORDS)).to_owned());
            service.command = Some(std::iter::once("bin/run".to_owned()).chain(more).collect());
        }
        service.count = 1 + u16::try_from(dice.below(9)).expect("small");
        service.resources.cpu = CpuMillis::new(*dice.one(&[10, 500, 1000, 1500, 2000]));
        service.resources.memory = *dice.one(&[
            Bytes::mi(4),
            Bytes::mi(512),
            Bytes::mi(2048),
            Bytes::mi(1 << 20),
            Bytes::new(5_000_001),
        ]);
        service.resources.pids = *dice.one(&[8, 512, 32_768]);
        service.stop_grace = *dice.one(&[0, 500, 10_000, 30_000, 90_000, 600_000].map(model::Millis::new));
        if dice.is() {
            service.port = Some(*dice.one(&[80, 3000, 8080]));
            if dice.is() {
                service.health.path = Some((*dice.one(&["/", "/up", "/up?a=b&c=$d"])).to_owned());
                service.health.interval = *dice.one(&[100, 2000, 300_000].map(model::Millis::new));
                service.health.grace = *dice.one(&[1000, 30_000, 1_800_000].map(model::Millis::new));
                service.health.failures = *dice.one(&[1, 3, 100]);
            }
        }
        if dice.is() {
            service.secrets.insert("STRIPE_KEY".parse().expect("a key"));
        }
        manifest.services.insert(name.parse().expect("a name"), service);
    }
    publish(&mut manifest, dice.is());
    let reachable = manifest
        .services
        .iter()
        .filter(|(_, service)| service.port.is_some());
    let reachable: BTreeSet<Name> = reachable
        .map(|(name, _)| name.clone())
        .chain(manifest.databases.keys().cloned())
        .collect();
    for (name, service) in &mut manifest.services {
        let chosen = reachable.iter().filter(|other| *other != name && dice.is());
        service.uses = chosen.cloned().collect();
    }
    manifest
}

/// One service at most answers the public; the others with a port are private.
fn publish(manifest: &mut Manifest, anybody: bool) {
    let with_port: Vec<Name> = manifest
        .services
        .iter()
        .filter(|(_, service)| service.port.is_some())
        .map(|(name, _)| name.clone())
        .collect();
    let web = with_port.iter().find(|name| name.as_str() == "web");
    let public = web.or(with_port.first()).filter(|_| anybody).cloned();
    for name in &with_port {
        let service = manifest.services.get_mut(name).expect("there");
        if Some(name) != public.as_ref() {
            service.expose = Expose::Private;
        } else if with_port.len() > 1 && name.as_str() != "web" {
            service.routes = Some(vec![model::Route {
                host: None,
                path: "/".to_owned(),
            }]);
        }
    }
    // `web` has a port by convention, said or not; compose says it.
    let web: Name = "web".parse().expect("a name");
    if !with_port.contains(&web) {
        manifest.services.remove(&web);
    }
}

/// What compose can say of a manifest comes back unchanged.
#[test]
fn compose_and_back_is_the_same_manifest() {
    for seed in 0..1_000 {
        let manifest = any(&mut Dice(seed));
        let text = manifest.to_toml();
        let manifest = Manifest::parse(&text).unwrap_or_else(|why| panic!("seed {seed}: {why:?}\n{text}"));
        let exported = export(Target::Compose, &manifest, &options()).expect("services");
        let other = "other-name".parse().expect("a name");
        let back = import(Form::Compose, &exported.text, &other, &Beside::default())
            .unwrap_or_else(|error| panic!("seed {seed}: {error:?}\n{}", exported.text));
        assert_eq!(
            back.manifest,
            manifest,
            "seed {seed}:\n{text}\n{}\n{}",
            exported.text,
            back.manifest.to_toml()
        );
    }
}
