//! The list of keys against what the importer does, and the cases that published files do not show.

use std::path::Path;

use super::keys;
use crate::keys::{Row, Support};
use crate::{Beside, Form, ImportError, Imported, Kind, import};

fn read(text: &str) -> Result<Imported, ImportError> {
    with(&[("TAG", "1.2")], text)
}

/// With these in `.env` beside it.
fn with(variables: &[(&str, &str)], text: &str) -> Result<Imported, ImportError> {
    let variables = variables
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let beside = Beside {
        variables: variables.collect(),
        procfile: None,
    };
    import(Form::Compose, text, &"app".parse().expect("a name"), &beside)
}

fn good(text: &str) -> Imported {
    read(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// Two services, of which `a` has these lines.
fn file(top: &[String], of_a: &[String]) -> String {
    format!(
        "{}\nservices:\n  b: {{image: 'x/b:1', ports: ['7000:7000']}}\n  a:\n    {}\n",
        top.join("\n"),
        of_a.join("\n    ")
    )
}

/// Each row is true: what is said to be taken changes the manifest or says why not; what is not gets its remark.
fn rows_are_true(rows: &[Row], place: &str, around: impl Fn(&[String]) -> String, base: &[(&str, &str)]) {
    for row in rows {
        let others = base.iter().filter(|(key, _)| *key != row.key);
        let mut lines: Vec<String> = others.map(|(key, value)| format!("{key}: {value}")).collect();
        let without = read(&around(&lines)).ok().map(|imported| imported.manifest);
        lines.push(format!("{}: {}", row.key, row.sample));
        let with = match read(&around(&lines)) {
            Ok(with) => with,
            Err(ImportError::Nothing { remarks }) => panic!("{}: {remarks:?}", row.key),
            // `services: {}` is all there is to say about the one key that cannot be tried like this.
            Err(ImportError::Unreadable(_)) if row.key == "services" => continue,
            Err(error) => panic!("{}: {error}", row.key),
        };
        let path = crate::keys::join(place, row.key);
        let about: Vec<Kind> = with
            .remarks
            .iter()
            .filter(|remark| remark.path.starts_with(&path))
            .map(|remark| remark.kind)
            .collect();
        let is_true = match row.support {
            Support::Taken => !about.is_empty() || Some(&with.manifest) != without.as_ref(),
            Support::Ignored => about == [Kind::Ignored],
            Support::Unsupported => about == [Kind::Unsupported],
        };
        assert!(is_true, "{path}: {:?}, but {about:?}", row.support);
    }
}

#[test]
fn the_list_of_keys_says_what_the_importer_does() {
    let base = [("image", "'x/a:1'"), ("expose", "['9000']")];
    let of_a = |lines: &[String]| file(&[], lines);
    let indented = |head: &str, lines: &[String]| {
        let mut all = vec![
            "image: 'x/a:1'".to_owned(),
            "expose: ['9000']".to_owned(),
            head.to_owned(),
        ];
        let depth = head.len() - head.trim_start().len();
        all.extend(lines.iter().map(|line| format!("{}  {line}", " ".repeat(depth))));
        file(&[], &all)
    };
    rows_are_true(keys::SERVICE, "services.a", of_a, &base);
    rows_are_true(
        keys::TOP,
        "",
        |lines| file(lines, &["image: 'x/a:1'".to_owned()]),
        &[],
    );
    rows_are_true(
        keys::DEPLOY,
        "services.a.deploy",
        |lines| indented("deploy:", lines),
        &[],
    );
    let health = |lines: &[String]| indented("healthcheck:", lines);
    rows_are_true(keys::HEALTHCHECK, "services.a.healthcheck", health, &[]);
    let build = |lines: &[String]| {
        file(
            &[],
            &[
                vec!["build:".to_owned()],
                lines.iter().map(|l| format!("  {l}")).collect(),
            ]
            .concat(),
        )
    };
    rows_are_true(keys::BUILD, "services.a.build", build, &[("context", ".")]);
    let resources = |lines: &[String]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
        indented("deploy:", &[vec!["resources:".to_owned()], lines].concat())
    };
    rows_are_true(keys::RESOURCES, "services.a.deploy.resources", resources, &[]);
    let limits = |lines: &[String]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("    {line}")).collect();
        let head = vec!["resources:".to_owned(), "  limits:".to_owned()];
        indented("deploy:", &[head, lines].concat())
    };
    rows_are_true(keys::LIMITS, "services.a.deploy.resources.limits", limits, &[]);
}

#[test]
fn the_matrix_of_the_docs_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compose.md");
    let text = super::matrix();
    if std::env::var_os("STOA_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        known == text,
        "docs/compose.md is not what STOA_WRITE_SNAPSHOTS=1 writes"
    );
}

#[test]
fn a_misspelt_key_is_told_with_its_place() {
    let imported = good("services:\n  web:\n    image: x\n    enviroment: {A: b}\n    x-mine: 1\n");
    let said: Vec<String> = imported.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "2:3: changed: services.web: an instance has one processor, 512Mi of memory and 512 processes unless its resources \
             say otherwise",
            "4:5: unsupported: services.web.enviroment: is not a key of compose; did you mean environment?",
            "5:5: ignored: services.web.x-mine: means nothing to compose either",
        ]
    );
}

#[test]
fn what_a_service_waits_for_becomes_a_job() {
    let imported = good(
        "services:\n  web: {build: ., ports: ['80:8000'], depends_on: {up: {condition: service_completed_successfully}}}\n  \
         up: {build: ., command: [bin/up, '$$HOME'], depends_on: [db]}\n  db: {image: 'postgres:17.2-alpine'}\n",
    );
    assert_eq!(
        imported.would_run(),
        [
            "database db: postgres 17",
            "job up, before traffic: bin/up $$HOME",
            "service web, 1 x: what the source says, port 8000, answers at APP.DOMAIN/",
        ]
    );
    let job = imported.manifest.jobs.values().next().expect("a job");
    assert_eq!(
        job.uses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["db"]
    );
}

#[test]
fn commands_images_and_variables_are_put_together() {
    let imported = good(
        "services:\n  Web_1:\n    image: 'x/y:${TAG}'\n    entrypoint: [/entry]\n    command: serve --name \"a b\" '$$x'\n    \
         environment: {PORT: 81, A: '${NO:-yes}', EMPTY: , URL: 'http://cache:6379/'}\n  cache: {image: 'redis:7'}\n",
    );
    let web = &imported.manifest.services[&"web-1".parse::<model::Name>().expect("a name")];
    assert_eq!(web.image.as_deref(), Some("x/y:1.2"));
    assert_eq!(
        web.command.as_deref(),
        Some(&["/entry", "serve", "--name", "a b", "$$x"].map(str::to_owned)[..])
    );
    assert_eq!(web.port, Some(81));
    assert_eq!(imported.manifest.env.len(), 2, "A and URL");
    assert!(web.secrets.iter().any(|key| key.as_str() == "EMPTY"));
    assert!(web.uses.iter().any(|name| name.as_str() == "cache"));
}

#[test]
fn what_can_not_be_an_application_says_why() {
    for (text, says) in [
        ("", "a compose file is a table"),
        ("[]", "a compose file is a table"),
        ("services: {}", "there are no services"),
        ("version: '3'", "there are no services"),
        ("services: {db: {image: postgres}}", "nothing is left"),
        ("services: {a: 5}", "must be a table"),
        ("services: {a: {image: x, profiles: [p]}}", "nothing is left"),
    ] {
        let error = read(text).expect_err(text);
        assert!(format!("{error} {error:?}").contains(says), "{text}: {error:?}");
    }
}

#[test]
fn two_services_may_not_disagree_in_silence() {
    let imported = good(
        "services:\n  a: {image: x, environment: {MODE: one}}\n  b: {image: y, environment: {MODE: two, TZ: UTC}}\n  \
         c_d: {image: z}\n  c.d: {image: z}\n",
    );
    let said: Vec<String> = imported.remarks.iter().map(ToString::to_string).collect();
    let told = said.join("\n");
    assert!(
        told.contains("services.b.environment.MODE: another service has MODE with another value"),
        "{told}"
    );
    assert!(
        told.contains("services.c.d: another is called c-d here, too"),
        "{told}"
    );
}

fn remarks(imported: &Imported) -> String {
    let told: Vec<String> = imported.remarks.iter().map(ToString::to_string).collect();
    told.join("\n")
}

fn service<'i>(imported: &'i Imported, name: &str) -> &'i model::manifest::Declared {
    let name: model::Name = name.parse().expect("a name");
    imported.manifest.services.get(&name).expect("the service")
}

#[test]
fn no_secret_of_the_variables_gets_into_the_manifest() {
    let variables = [
        ("API_KEY", "needle-1"),
        ("DBPASS", "needle-2"),
        ("DSN", "postgres://u:needle-3@elsewhere/x"),
        ("LEVEL", "info"),
    ];
    let text = "services:\n  web:\n    image: 'x:1'\n    ports: ['80']\n    entrypoint: [serve, '--key=${API_KEY}', '--level=$LEVEL']\n    \
                environment: {HEADER: 'Bearer ${API_KEY}', SITE: '${DSN}', MODE: '${LEVEL}', API_KEY: '${API_KEY}'}\n    \
                healthcheck: {test: 'curl http://localhost:80/up?k=${API_KEY}'}\n  \
                odd: {image: 'x:1', environment: ['${API_KEY}', '${API_KEY}=x', 'A=${API_KEY}']}\n  \
                work: {image: 'x:1', command: \"work --db 'postgres://u:${DBPASS}@elsewhere/x' '$API_KEY'\"}\n";
    let imported = with(&variables, text).expect("good");
    let all = format!("{}{}", imported.text("compose.yaml"), remarks(&imported));
    assert!(!all.contains("needle"), "{all}");
    let words = |name: &str| service(&imported, name).command.clone().unwrap_or_default();
    assert_eq!(words("web"), ["serve", "--key=${API_KEY}", "--level=info"]);
    assert_eq!(
        words("work"),
        ["work", "--db", "postgres://u:${DBPASS}@elsewhere/x", "${API_KEY}"]
    );
    let secrets = |name: &str| -> Vec<String> {
        let secrets = service(&imported, name).secrets.iter();
        secrets.map(ToString::to_string).collect()
    };
    assert_eq!(secrets("web"), ["API_KEY", "HEADER", "SITE"]);
    assert_eq!(secrets("work"), ["API_KEY", "DBPASS"]);
    for told in [
        "services.web.command: names the secret API_KEY, but a command",
        "services.web.environment.HEADER: holds API_KEY of .env, which looks like a secret",
        "services.web.environment.MODE: holds the value that LEVEL has in .env now",
        "services.web.entrypoint[2]: holds the value that LEVEL has in .env now",
        "services.web.healthcheck.test: API_KEY of .env looks like a secret",
        "services.work.command: the value of DBPASS looks like a secret",
    ] {
        assert!(all.contains(told), "{told} is not in\n{all}");
    }
}

#[test]
fn what_has_no_value_does_not_vanish() {
    let imported = good(
        "name: 'shop$NONE'\nservices:\n  web:\n    image: 'x:1'\n    command: \"serve '$LEVEL' --port=${PORT}\"\n    ports: ['${HOST_PORT}:80']\n    \
         scale: '$N'\n",
    );
    let words = service(&imported, "web").command.clone().unwrap_or_default();
    assert_eq!(words, ["serve", "${LEVEL}", "--port=${PORT}"]);
    let all = remarks(&imported);
    for told in [
        "name: NONE has no value",
        "services.web.command: LEVEL has no value, so the name stands there instead",
        "services.web.command: PORT has no value",
        "services.web.ports[0]: HOST_PORT has no value",
        "services.web.scale: N has no value",
    ] {
        assert!(all.contains(told), "{told} is not in\n{all}");
    }
}

#[test]
fn secrets_that_differ_are_told() {
    let imported = good(
        "services:\n  a: {image: x, environment: {DB_PASSWORD: one, API_KEY: same}}\n  \
         b: {image: y, environment: {DB_PASSWORD: two, API_KEY: same}}\n",
    );
    let all = remarks(&imported);
    assert!(
        all.contains("services.b.environment.DB_PASSWORD: DB_PASSWORD has another value elsewhere"),
        "{all}"
    );
    assert!(!all.contains("API_KEY has another value"), "{all}");
}

#[test]
fn a_secret_in_a_command_of_the_file_is_told() {
    let imported =
        good("services: {cache: {image: 'redis:7', command: redis-server --requirepass-secret hunter2}}");
    let all = remarks(&imported);
    assert!(
        all.contains("services.cache.command: holds what looks like a secret"),
        "{all}"
    );
}

#[test]
fn ports_of_the_host_alone_are_private() {
    for (ports, is_public) in [
        ("['8080:80']", true),
        ("['0.0.0.0:8080:80']", true),
        ("['127.0.0.1:8080:80']", false),
        ("['127.0.0.1::80']", false),
        ("['[::1]:8080:80']", false),
        ("[{target: 80, published: '8080', host_ip: 127.0.0.1}]", false),
        ("[{target: 80, published: '8080'}]", true),
        ("['127.0.0.1:9000:9000', '8080:80']", true),
    ] {
        let imported = good(&format!("services: {{web: {{image: x, ports: {ports}}}}}"));
        let resolved = imported.manifest.resolve(&model::manifest::Found::default());
        let web = resolved.services.values().next().expect("web");
        assert_eq!(
            (web.port, !web.routes.is_empty()),
            (Some(80), is_public),
            "{ports}"
        );
        let is_told = remarks(&imported).contains("only the host itself reaches it");
        assert_eq!(
            is_told,
            ports.contains("127.") || ports.contains("::1"),
            "{ports}"
        );
    }
}

#[test]
fn a_public_service_beside_web_keeps_the_host() {
    let imported = good("services: {web: {image: x}, api: {image: y, ports: ['80:9000']}}");
    let resolved = imported.manifest.resolve(&model::manifest::Found::default());
    let public = resolved
        .services
        .iter()
        .filter(|(_, service)| !service.routes.is_empty());
    assert_eq!(public.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["api"]);
}

#[test]
fn secrets_of_the_file_are_files_and_variables() {
    let imported = good(
        "services: {web: {image: x, secrets: [db_password, {source: my.key, target: /etc/key, uid: '1'}]}}\n\
         secrets: {db_password: {file: ./a}, my.key: {file: ./b}}",
    );
    let secrets: Vec<String> = service(&imported, "web")
        .secrets
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(secrets, ["db_password", "my_key"]);
    let all = remarks(&imported);
    for told in [
        "changed: services.web.secrets[0]: is the file /run/secrets/db_password and the variable db_password",
        "unsupported: services.web.secrets[1]: there the file is called /etc/key, and here my_key",
        "ignored: services.web.secrets[1].uid: ",
    ] {
        assert!(all.contains(told), "{told} is not in\n{all}");
    }
    assert!(!all.contains("unsupported: services.web.secrets[0]"), "{all}");
}
