//! The list of keys against what the importer does, and the cases that published files do not show.

use std::collections::BTreeMap;
use std::path::Path;

use super::keys;
use crate::keys::{Row, Support};
use crate::{Form, ImportError, Imported, Kind, import};

fn read(text: &str) -> Result<Imported, ImportError> {
    let variables = BTreeMap::from([("TAG".to_owned(), "1.2".to_owned())]);
    import(Form::Compose, text, &"app".parse().expect("a name"), &variables)
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
