//! Kubernetes objects of a manifest.

use std::collections::BTreeMap;

use model::manifest::DatabaseWish;
use model::spec::{Health, Job, Route, Service};
use model::{Name, Resources, Strategy};

use super::{Origin, Writer};
use crate::emit::{Yaml, document, map};
use crate::remark::Kind;

/// What CloudNativePG gives a database whose manifest says no size.
const DATABASE_SIZE: &str = "10Gi";

/// Where the objects are.
struct Place {
    app: Name,
    /// An app has one in each environment.
    namespace: String,
}

pub(super) fn write(writer: &mut Writer<'_>) -> String {
    let app = Place {
        app: writer.manifest.app.clone(),
        namespace: writer.label(),
    };
    let mut documents = vec![map([
        ("apiVersion", "v1".into()),
        ("kind", "Namespace".into()),
        ("metadata", map([("name", app.namespace.as_str().into())])),
    ])];
    mention(writer, &app);
    for (name, wish) in &writer.manifest.databases {
        match wish.engine {
            model::EngineWish::Postgres => documents.push(database(writer, &app, name, wish)),
            model::EngineWish::Valkey(_) => {
                let message = "is not in the file: run a Valkey there, and set its address as REDIS_URL";
                writer.note(Kind::Unsupported, format!("databases.{name}"), message);
            }
        }
    }
    for (name, job) in &writer.resolved.jobs {
        documents.push(of_job(writer, &app, name, job));
    }
    let mut rules = Vec::new();
    for (name, service) in &writer.resolved.services {
        documents.push(deployment(writer, &app, name, service));
        if let Some(port) = service.port {
            documents.push(of_service(&app, name, port));
            rules.extend(service.routes.iter().map(|route| (name, port, route)));
        }
    }
    if !rules.is_empty() {
        documents.push(ingress(writer, &app, &rules));
    }
    let texts: Vec<String> = documents.iter().map(document).collect();
    format!(
        "# Made by stoa export --kubernetes, as the app is in {}. Values of secrets are not in it.\n{}",
        writer.options.environment,
        texts.join("---\n")
    )
}

/// What holds for the whole app.
fn mention(writer: &mut Writer<'_>, place: &Place) {
    let services = writer.resolved.services.values().map(|service| &service.secrets);
    let jobs = writer.resolved.jobs.values().map(|job| &job.secrets);
    let keys: std::collections::BTreeSet<String> =
        services.chain(jobs).flatten().map(ToString::to_string).collect();
    if !keys.is_empty() {
        let Place { app, namespace } = place;
        let literals: Vec<String> = keys
            .iter()
            .map(|key| format!("--from-literal={key}=..."))
            .collect();
        let message = format!(
            "are read from the Secret {app}-secrets: kubectl create secret generic {app}-secrets -n {namespace} {}",
            literals.join(" ")
        );
        writer.note(Kind::Changed, "secrets", message);
    }
    match &writer.manifest.rollout {
        Strategy::Rolling { .. } | Strategy::Recreate => {}
        Strategy::BlueGreen | Strategy::Canary { .. } => {
            let message = "a Deployment knows no such strategy: it rolls";
            writer.note(Kind::Unsupported, "rollout.strategy", message);
        }
    }
    let has_uses = writer
        .resolved
        .services
        .values()
        .any(|service| !service.uses.is_empty());
    if has_uses {
        let message = "are addresses there, and close nothing: who may reach whom is for a NetworkPolicy";
        writer.note(Kind::Changed, "uses", message);
    }
    let message = "limits of processes are the node's there (podPidsLimit)";
    writer.note(Kind::Ignored, "resources.pids", message);
}

fn metadata(place: &Place, name: &str) -> Yaml {
    map([
        ("name", name.into()),
        ("namespace", place.namespace.as_str().into()),
        ("labels", labels(&place.app, name)),
    ])
}

fn labels(app: &Name, name: &str) -> Yaml {
    map([
        ("app.kubernetes.io/name", name.into()),
        ("app.kubernetes.io/part-of", app.as_str().into()),
    ])
}

fn deployment(writer: &mut Writer<'_>, place: &Place, name: &Name, service: &Service) -> Yaml {
    let app = &place.app;
    mention_seconds(writer, name, service);
    let variables = writer.variables(service.uses.iter(), service.secrets.iter(), service.port);
    let image = writer.image(service);
    let mut container = container(app, name, image, &service.command, &variables, &service.resources);
    if let Some(port) = service.port {
        let port = Yaml::Number(u64::from(port));
        container.push((
            "ports".to_owned(),
            Yaml::List(vec![map([("containerPort", port.clone())])]),
        ));
        container.extend(probes(&service.health, &port));
    }
    let strategy = match &writer.manifest.rollout {
        Strategy::Recreate => map([("type", "Recreate".into())]),
        Strategy::Rolling { surge: Some(surge) } => rolling(surge.over(), surge.under()),
        // As here: what is new gets ready before what serves is taken away.
        Strategy::Rolling { surge: None } | Strategy::BlueGreen | Strategy::Canary { .. } => rolling(1, 0),
    };
    let grace = service.stop_grace.as_ms().div_ceil(1000);
    let pod = map([
        ("automountServiceAccountToken", Yaml::Flag(false)),
        // Variables named after other services would come between: an app reads those that it is given.
        ("enableServiceLinks", Yaml::Flag(false)),
        ("terminationGracePeriodSeconds", Yaml::Number(grace)),
        ("containers", Yaml::List(vec![Yaml::Map(container)])),
    ]);
    map([
        ("apiVersion", "apps/v1".into()),
        ("kind", "Deployment".into()),
        ("metadata", metadata(place, name.as_str())),
        (
            "spec",
            map([
                ("replicas", Yaml::Number(u64::from(service.count))),
                ("selector", map([("matchLabels", labels(app, name.as_str()))])),
                ("strategy", strategy),
                (
                    "template",
                    map([
                        ("metadata", map([("labels", labels(app, name.as_str()))])),
                        ("spec", pod),
                    ]),
                ),
            ]),
        ),
    ])
}

/// Times are whole seconds there.
fn mention_seconds(writer: &mut Writer<'_>, name: &Name, service: &Service) {
    let health = &service.health;
    let mut times = vec![("stop_grace", service.stop_grace)];
    if service.port.is_some() {
        times.extend([
            ("health.interval", health.interval),
            ("health.timeout", health.timeout),
        ]);
    }
    for (key, time) in times {
        let ms = time.as_ms();
        if ms % 1000 != 0 {
            let message = format!("{time} becomes {} s there", ms.div_ceil(1000));
            writer.note(Kind::Changed, format!("services.{name}.{key}"), message);
        }
    }
}

fn rolling(over: u16, under: u16) -> Yaml {
    map([
        ("type", "RollingUpdate".into()),
        (
            "rollingUpdate",
            map([
                ("maxSurge", Yaml::Number(u64::from(over))),
                ("maxUnavailable", Yaml::Number(u64::from(under))),
            ]),
        ),
    ])
}

fn container(
    app: &Name,
    name: &Name,
    image: String,
    command: &[String],
    variables: &BTreeMap<String, Origin<'_>>,
    resources: &Resources,
) -> Vec<(String, Yaml)> {
    let mut entries = vec![
        ("name".to_owned(), name.as_str().into()),
        ("image".to_owned(), Yaml::Text(image)),
    ];
    if !command.is_empty() {
        entries.push(("command".to_owned(), words(command, variables)));
    }
    if !variables.is_empty() {
        let env = variables.iter().map(|(key, origin)| variable(app, key, origin));
        entries.push(("env".to_owned(), Yaml::List(env.collect())));
    }
    let limits = map([
        ("cpu", format!("{}m", resources.cpu.get()).into()),
        ("ephemeral-storage", resources.disk.to_string().into()),
        ("memory", resources.memory.to_string().into()),
    ]);
    entries.push(("resources".to_owned(), map([("limits", limits)])));
    let security = map([("allowPrivilegeEscalation", Yaml::Flag(false))]);
    entries.push(("securityContext".to_owned(), security));
    entries
}

fn variable(app: &Name, key: &str, origin: &Origin<'_>) -> Yaml {
    let from = |secret: String, key: &str| {
        let reference = map([("name", secret.into()), ("key", key.into())]);
        map([("secretKeyRef", reference)])
    };
    match origin {
        Origin::Value(value) => map([("name", key.into()), ("value", literal(value).into())]),
        Origin::Secret(secret) => map([
            ("name", key.into()),
            ("valueFrom", from(format!("{app}-secrets"), secret.as_str())),
        ]),
        Origin::Database { database, part } => map([
            ("name", key.into()),
            ("valueFrom", from(format!("{database}-app"), part)),
        ]),
    }
}

/// `$NAME` becomes Kubernetes' own `$(NAME)`.
fn words(command: &[String], variables: &BTreeMap<String, Origin<'_>>) -> Yaml {
    super::words(command, variables, literal, |name, _| format!("$({name})"))
}

/// Kubernetes makes one dollar sign of two, and replaces `$(NAME)`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// `grace` is how long a start may take; afterwards the readiness probe takes over.
fn probes(health: &Health, port: &Yaml) -> Vec<(String, Yaml)> {
    let seconds = |ms: u64| Yaml::Number(ms.div_ceil(1000).max(1));
    let interval = health.interval.as_ms();
    let probe = |failures: u64| {
        let ask = match &health.path {
            Some(path) => (
                "httpGet",
                map([("path", path.as_str().into()), ("port", port.clone())]),
            ),
            None => ("tcpSocket", map([("port", port.clone())])),
        };
        map([
            ask,
            ("periodSeconds", seconds(interval)),
            ("timeoutSeconds", seconds(health.timeout.as_ms())),
            ("failureThreshold", Yaml::Number(failures)),
        ])
    };
    let tries = health.grace.as_ms().div_ceil(interval.max(1000)).max(1);
    vec![
        ("startupProbe".to_owned(), probe(tries)),
        ("readinessProbe".to_owned(), probe(u64::from(health.failures))),
    ]
}

fn of_service(place: &Place, name: &Name, port: u16) -> Yaml {
    let port = Yaml::Number(u64::from(port));
    map([
        ("apiVersion", "v1".into()),
        ("kind", "Service".into()),
        ("metadata", metadata(place, name.as_str())),
        (
            "spec",
            map([
                ("selector", labels(&place.app, name.as_str())),
                (
                    "ports",
                    Yaml::List(vec![map([("port", port.clone()), ("targetPort", port)])]),
                ),
            ]),
        ),
    ])
}

fn ingress(writer: &mut Writer<'_>, place: &Place, rules: &[(&Name, u16, &Route)]) -> Yaml {
    let own = format!("{}.{}", writer.label(), writer.options.domain);
    let rule = |(name, port, route): &(&Name, u16, &Route)| {
        let backend = map([(
            "service",
            map([
                ("name", name.as_str().into()),
                ("port", map([("number", Yaml::Number(u64::from(*port)))])),
            ]),
        )]);
        let path = map([
            ("path", route.path.as_str().into()),
            ("pathType", "Prefix".into()),
            ("backend", backend),
        ]);
        map([
            ("host", route.host.as_deref().unwrap_or(&own).into()),
            ("http", map([("paths", Yaml::List(vec![path]))])),
        ])
    };
    let spec = map([("rules", Yaml::List(rules.iter().map(rule).collect()))]);
    let object = map([
        ("apiVersion", "networking.k8s.io/v1".into()),
        ("kind", "Ingress".into()),
        ("metadata", metadata(place, place.app.as_str())),
        ("spec", spec),
    ]);
    let message = "the cluster needs an ingress controller; certificates are its own affair";
    writer.note(Kind::Changed, "routes", message);
    object
}

fn of_job(writer: &mut Writer<'_>, place: &Place, name: &Name, job: &Job) -> Yaml {
    let message =
        "nothing waits for a Job there: apply it and wait until it is complete, then apply the rest";
    writer.note(Kind::Unsupported, format!("jobs.{name}.on"), message);
    let app = &place.app;
    let variables = writer.variables(job.uses.iter(), job.secrets.iter(), None);
    let image = writer.options.image.clone();
    let container = container(app, name, image, &job.command, &variables, &job.resources);
    let pod = map([
        ("automountServiceAccountToken", Yaml::Flag(false)),
        ("enableServiceLinks", Yaml::Flag(false)),
        ("restartPolicy", "Never".into()),
        ("containers", Yaml::List(vec![Yaml::Map(container)])),
    ]);
    map([
        ("apiVersion", "batch/v1".into()),
        ("kind", "Job".into()),
        ("metadata", metadata(place, name.as_str())),
        (
            "spec",
            map([
                (
                    "activeDeadlineSeconds",
                    Yaml::Number(job.timeout.as_ms().div_ceil(1000)),
                ),
                ("backoffLimit", Yaml::Number(0)),
                (
                    "template",
                    map([
                        ("metadata", map([("labels", labels(app, name.as_str()))])),
                        ("spec", pod),
                    ]),
                ),
            ]),
        ),
    ])
}

/// A cluster of CloudNativePG; it keeps address and login in the Secret `NAME-app`.
fn database(writer: &mut Writer<'_>, place: &Place, name: &Name, wish: &DatabaseWish) -> Yaml {
    let message = format!(
        "is a Cluster of the operator CloudNativePG, which must be installed; its data is not in the file: stoa db connect {name}"
    );
    writer.note(Kind::Changed, format!("databases.{name}"), message);
    let size = wish
        .size
        .map_or_else(|| DATABASE_SIZE.to_owned(), |size| size.to_string());
    if wish.backup_level == Some(model::Level::Sync) {
        let message = "needs a second instance and minSyncReplicas there: commits wait for nobody";
        writer.note(
            Kind::Unsupported,
            format!("databases.{name}.backup_level"),
            message,
        );
    }
    let mut spec = vec![
        ("instances".to_owned(), Yaml::Number(1)),
        ("storage".to_owned(), map([("size", size.into())])),
        (
            "bootstrap".to_owned(),
            map([(
                "initdb",
                map([
                    ("database", name.as_str().into()),
                    ("owner", name.as_str().into()),
                ]),
            )]),
        ),
    ];
    if let Some(version) = &wish.version {
        let image = format!("ghcr.io/cloudnative-pg/postgresql:{version}");
        spec.push(("imageName".to_owned(), image.into()));
    }
    if let Some(memory) = wish.memory {
        let limits = map([("memory", memory.to_string().into())]);
        spec.push(("resources".to_owned(), map([("limits", limits)])));
    }
    map([
        ("apiVersion", "postgresql.cnpg.io/v1".into()),
        ("kind", "Cluster".into()),
        ("metadata", metadata(place, name.as_str())),
        ("spec", Yaml::Map(spec)),
    ])
}
