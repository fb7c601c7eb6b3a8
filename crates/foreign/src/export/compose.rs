//! `compose.yaml` of a manifest.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use model::manifest::DatabaseWish;
use model::spec::{Job, Service};
use model::{Bytes, Millis, Name, Resources, Strategy};

use super::{Origin, Writer};
use crate::emit::{Yaml, document, map, texts};
use crate::remark::Kind;

/// What compose starts where a manifest leaves the version to the server.
const POSTGRES: &str = "17";

pub(super) fn write(writer: &mut Writer<'_>) -> String {
    let mut services = Vec::new();
    let mut volumes = Vec::new();
    let jobs: Vec<String> = writer.resolved.jobs.keys().map(ToString::to_string).collect();
    let mut host_port = HostPorts::default();
    for (name, service) in &writer.resolved.services {
        let written = of_service(writer, name, service, &jobs, &mut host_port);
        services.push((name.to_string(), written));
    }
    for (name, job) in &writer.resolved.jobs {
        services.push((name.to_string(), of_job(writer, name, job)));
    }
    for (name, wish) in &writer.manifest.databases {
        volumes.push((name.to_string(), Yaml::Map(Vec::new())));
        services.push((name.to_string(), of_database(writer, name, wish)));
    }
    mention(writer);
    let mut root = vec![
        ("name".to_owned(), Yaml::Text(writer.manifest.app.to_string())),
        ("services".to_owned(), Yaml::Map(services)),
    ];
    if !volumes.is_empty() {
        root.push(("volumes".to_owned(), Yaml::Map(volumes)));
    }
    format!(
        "# Made by stoa export --compose, as the app is in {}. Values of secrets are not in it: give them in .env beside it.\n{}",
        writer.options.environment,
        document(&Yaml::Map(root))
    )
}

/// What holds for the whole app.
fn mention(writer: &mut Writer<'_>) {
    if writer.manifest.rollout != Strategy::default() {
        let message = "compose has no rollouts: an update stops what runs before it starts anew";
        writer.note(Kind::Unsupported, "rollout", message);
    }
    let message = "what an instance writes outside of volumes has no bound there";
    writer.note(Kind::Unsupported, "resources.disk", message);
    let mut services = writer.resolved.services.values();
    if services.any(|service| !service.uses.is_empty()) {
        let message = "are addresses there, and close nothing: all services of the file reach each other";
        writer.note(Kind::Changed, "uses", message);
    }
}

/// Ports of the host, each given once.
#[derive(Default)]
struct HostPorts(std::collections::BTreeSet<u16>);

impl HostPorts {
    /// So many free ports in a row, from the wanted one on; none when there are none up to the last.
    fn take(&mut self, wanted: u16, count: u16) -> Option<RangeInclusive<u16>> {
        let beyond = count.checked_sub(1)?;
        let mut ranges = (wanted..=u16::MAX.checked_sub(beyond)?).map(|first| first..=first + beyond);
        let free = ranges.find(|range| range.clone().all(|port| !self.0.contains(&port)))?;
        self.0.extend(free.clone());
        Some(free)
    }
}

fn of_service(
    writer: &mut Writer<'_>,
    name: &Name,
    service: &Service,
    jobs: &[String],
    ports: &mut HostPorts,
) -> Yaml {
    let path = format!("services.{name}");
    let variables = writer.variables(service.uses.iter(), service.secrets.iter(), service.port);
    let mut entries = vec![("image".to_owned(), Yaml::Text(writer.image(service)))];
    if !service.command.is_empty() {
        entries.push(("entrypoint".to_owned(), words(&service.command, &variables)));
    }
    if !variables.is_empty() {
        entries.push(("environment".to_owned(), environment(&variables)));
    }
    if let Some(port) = service.port {
        if service.routes.is_empty() {
            entries.push(("expose".to_owned(), texts([port.to_string()])));
        } else {
            // A port of the host is one container's: each of several has its own.
            let (published, answers) = match ports.take(port, service.count).map(RangeInclusive::into_inner) {
                Some((first, last)) if first == last => (format!("{first}:{port}"), format!("port {first}")),
                Some((first, last)) => (
                    format!("{first}-{last}:{port}"),
                    format!("the ports {first} to {last}, one for each instance,"),
                ),
                None => (port.to_string(), "ports that docker chooses".to_owned()),
            };
            entries.push(("ports".to_owned(), texts([published])));
            let message =
                format!("answers at {answers} of the host: hosts, paths and TLS are for a proxy before it");
            writer.note(Kind::Changed, format!("{path}.routes"), message);
        }
        entries.extend(health(writer, &path, service, port));
    }
    let conditions = service
        .uses
        .iter()
        .map(|used| (used.to_string(), "service_started"));
    let awaited = jobs
        .iter()
        .map(|job| (job.clone(), "service_completed_successfully"));
    let depends: Vec<(String, Yaml)> = conditions
        .chain(awaited)
        .map(|(other, condition)| (other, map([("condition", condition.into())])))
        .collect();
    if !depends.is_empty() {
        entries.push(("depends_on".to_owned(), Yaml::Map(depends)));
    }
    entries.push(pids(&service.resources));
    let replicas = ("replicas".to_owned(), Yaml::Number(u64::from(service.count)));
    entries.push((
        "deploy".to_owned(),
        Yaml::Map(vec![
            replicas,
            ("resources".to_owned(), limits(&service.resources)),
        ]),
    ));
    entries.push(("stop_grace_period".to_owned(), time(service.stop_grace)));
    entries.push(("restart".to_owned(), "always".into()));
    Yaml::Map(entries)
}

fn health(writer: &mut Writer<'_>, path: &str, service: &Service, port: u16) -> Option<(String, Yaml)> {
    let health = &service.health;
    let Some(asked) = &health.path else {
        let message = "compose has no check by connection: a service counts as ready when it runs";
        writer.note(Kind::Unsupported, format!("{path}.health"), message);
        return None;
    };
    let message = "compose checks by a command: the image must have wget";
    writer.note(Kind::Changed, format!("{path}.health"), message);
    let address = format!("http://localhost:{port}{}", asked.replace('$', "$$"));
    let test = ["CMD", "wget", "-q", "-O", "/dev/null", &address].map(str::to_owned);
    let check = map([
        ("test", texts(test)),
        ("interval", time(health.interval)),
        ("timeout", time(health.timeout)),
        ("retries", Yaml::Number(u64::from(health.failures))),
        ("start_period", time(health.grace)),
    ]);
    Some(("healthcheck".to_owned(), check))
}

fn of_job(writer: &mut Writer<'_>, name: &Name, job: &Job) -> Yaml {
    let message = "compose runs it at each start of what waits for it, and not before a release";
    writer.note(Kind::Changed, format!("jobs.{name}"), message);
    let message = "compose waits for it without a bound";
    writer.note(Kind::Unsupported, format!("jobs.{name}.timeout"), message);
    let variables = writer.variables(job.uses.iter(), job.secrets.iter(), None);
    let depends: Vec<(String, Yaml)> = job
        .uses
        .iter()
        .filter(|used| writer.manifest.databases.contains_key(*used))
        .map(|used| (used.to_string(), map([("condition", "service_healthy".into())])))
        .collect();
    let mut entries = vec![
        ("image".to_owned(), Yaml::Text(writer.options.image.clone())),
        ("entrypoint".to_owned(), words(&job.command, &variables)),
    ];
    if !variables.is_empty() {
        entries.push(("environment".to_owned(), environment(&variables)));
    }
    if !depends.is_empty() {
        entries.push(("depends_on".to_owned(), Yaml::Map(depends)));
    }
    entries.push(pids(&job.resources));
    entries.push(("deploy".to_owned(), map([("resources", limits(&job.resources))])));
    entries.push(("restart".to_owned(), "no".into()));
    Yaml::Map(entries)
}

fn of_database(writer: &mut Writer<'_>, name: &Name, wish: &DatabaseWish) -> Yaml {
    let path = format!("databases.{name}");
    let password = password(name);
    let message = format!(
        "is a plain PostgreSQL there, without backup and branches; its password is {password} in .env, its data is not in the file: \
         stoa db connect {name}"
    );
    writer.note(Kind::Changed, &path, message);
    if wish.size.is_some() {
        let message = "volumes have no bounds there";
        writer.note(Kind::Unsupported, format!("{path}.size"), message);
    }
    let version = wish.version.clone().unwrap_or_else(|| POSTGRES.to_owned());
    // From 18 on the image keeps a directory for each version below this one.
    let is_new = version.parse::<u32>().is_ok_and(|version| version >= 18);
    let folder = if is_new {
        "/var/lib/postgresql"
    } else {
        "/var/lib/postgresql/data"
    };
    let mut entries = vec![
        ("image".to_owned(), Yaml::Text(format!("postgres:{version}"))),
        (
            "environment".to_owned(),
            map([
                ("POSTGRES_DB", name.as_str().into()),
                ("POSTGRES_PASSWORD", format!("${{{password}:?}}").into()),
                ("POSTGRES_USER", name.as_str().into()),
            ]),
        ),
        ("volumes".to_owned(), texts([format!("{name}:{folder}")])),
        (
            "healthcheck".to_owned(),
            map([
                (
                    "test",
                    texts(["CMD", "pg_isready", "-U", name.as_str()].map(str::to_owned)),
                ),
                ("interval", "5s".into()),
                ("retries", Yaml::Number(20)),
            ]),
        ),
    ];
    if let Some(memory) = wish.memory {
        let limits = map([("limits", map([("memory", size(memory))]))]);
        entries.push(("deploy".to_owned(), map([("resources", limits)])));
    }
    entries.push(("restart".to_owned(), "always".into()));
    Yaml::Map(entries)
}

/// The variable of `.env` that holds the password of a database.
fn password(database: &Name) -> String {
    format!(
        "{}_PASSWORD",
        database.as_str().to_ascii_uppercase().replace('-', "_")
    )
}

fn environment(variables: &BTreeMap<String, Origin<'_>>) -> Yaml {
    let entry = |(key, origin): (&String, &Origin<'_>)| (key.clone(), Yaml::Text(told(origin)));
    Yaml::Map(variables.iter().map(entry).collect())
}

/// A value as compose reads it: a dollar sign of ours is two there.
fn told(origin: &Origin<'_>) -> String {
    match origin {
        Origin::Value(value) => value.replace('$', "$$"),
        Origin::Secret(key) => format!("${{{key}:?}}"),
        Origin::Database { database, part } => match *part {
            "uri" => format!(
                "postgres://{database}:${{{}:?}}@{database}:5432/{database}",
                password(database)
            ),
            "password" => format!("${{{}:?}}", password(database)),
            "port" => "5432".to_owned(),
            _ => database.to_string(),
        },
    }
}

/// Nothing inside a container replaces `$NAME` there, so compose does it with the same values.
fn words(command: &[String], variables: &BTreeMap<String, Origin<'_>>) -> Yaml {
    super::words(
        command,
        variables,
        |text| text.replace('$', "$$"),
        |_, origin| told(origin),
    )
}

/// Beside the other limits older composes refuse it.
fn pids(resources: &Resources) -> (String, Yaml) {
    ("pids_limit".to_owned(), Yaml::Number(u64::from(resources.pids)))
}

fn limits(resources: &Resources) -> Yaml {
    let cpus = f64::from(resources.cpu.get()) / 1000.0;
    map([(
        "limits",
        map([
            ("cpus", cpus.to_string().into()),
            ("memory", size(resources.memory)),
        ]),
    )])
}

/// Compose writes `512m` for our `512Mi`.
fn size(bytes: Bytes) -> Yaml {
    let text = bytes.to_string();
    let short = text
        .strip_suffix('i')
        .map_or_else(|| format!("{text}b"), str::to_ascii_lowercase);
    // It knows no terabytes.
    Yaml::Text(
        match short
            .strip_suffix('t')
            .and_then(|count| count.parse::<u64>().ok())
        {
            Some(count) => format!("{}g", count * 1024),
            None => short,
        },
    )
}

fn time(span: Millis) -> Yaml {
    let text = span.to_string();
    // Go knows no days.
    Yaml::Text(
        match text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()) {
            Some(days) => format!("{}h", days * 24),
            None => text,
        },
    )
}
