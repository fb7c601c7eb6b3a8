//! `fly.toml` into a manifest.

use std::collections::BTreeSet;

use model::manifest::{Declared, Manifest};
use model::{EnvKey, Millis, Name, Strategy};

use crate::draft::{Draft, Kept, bare_service};
use crate::keys::{Found, Row, find, ignored, join, taken, unsupported, walk};
use crate::procfile::release_job;
use crate::remark::{At, Report, Unreadable};
use crate::tree::{self, Node, Value};

const FORM: &str = "fly.toml";
const TEXT_MAX: usize = 256 << 10;
const ONE: &str = "there is one machine";
const DOCKERFILE: &str = "the source is built by detection or [build]; a Dockerfile is not read yet";
const TO_ZERO: &str = "scaling by itself is not supported by this version";
const MADE: &str = "the edge looks after connections itself";
const PUBLIC: &str = "only HTTP and HTTPS are answered for the public";
const PLAIN: &str =
    "HTTP is answered as well, without a redirect: let the program look at X-Forwarded-Proto and redirect";

const ROOT: &[Row] = &[
    taken("app", "'shop'", "the app's name"),
    taken("build", "{}", "an image, or the source"),
    unsupported("checks", "{}", "give the service a health path"),
    unsupported("compute", "{}", "the same as [[vm]]; write that"),
    ignored("console_command", "'bin/console'", "stoa exec -- COMMAND"),
    taken("deploy", "{}", "release_command becomes a job"),
    taken("env", "{}", "[env]"),
    unsupported(
        "experimental",
        "{}",
        "only what fly itself promises is taken over",
    ),
    unsupported("files", "[]", "files are not handed in: put them into the image"),
    ignored("host_dedication_id", "'x'", ONE),
    taken("http_service", "{}", "a service with a route"),
    taken("kill_signal", "'SIGTERM'", "an instance gets SIGTERM"),
    taken("kill_timeout", "5", "services.NAME.stop_grace"),
    unsupported(
        "metrics",
        "[]",
        "metrics of programs are not collected by this version",
    ),
    unsupported("mount", "{}", "volumes are not supported by this version"),
    unsupported(
        "mounts",
        "[]",
        "volumes are not supported by this version: what is written there ends with the instance",
    ),
    taken("processes", "{}", "services"),
    ignored("primary_region", "'ams'", ONE),
    ignored(
        "restart",
        "[]",
        "what should run is started again, with growing pauses",
    ),
    taken("services", "[]", "services with a port"),
    unsupported(
        "statics",
        "[]",
        "let the program serve them, or write [build] output",
    ),
    unsupported("swap_size_mb", "512", "limits are cpu, memory and pids"),
    taken("vm", "[]", "resources"),
];

const BUILD: &[Row] = &[
    taken("image", "'nginx:1'", "the image of each service"),
    unsupported("args", "{}", DOCKERFILE),
    unsupported("build-target", "'x'", DOCKERFILE),
    unsupported("builder", "'x'", DOCKERFILE),
    unsupported("buildpacks", "[]", DOCKERFILE),
    unsupported("builtin", "'x'", DOCKERFILE),
    unsupported("dockerfile", "'Dockerfile'", DOCKERFILE),
    unsupported("ignorefile", "'x'", "write .stoaignore"),
    unsupported("settings", "{}", DOCKERFILE),
];

const DEPLOY: &[Row] = &[
    ignored("max_unavailable", "1", "write [rollout] surge"),
    taken("release_command", "'x'", "jobs.release"),
    taken("release_command_timeout", "'5m'", "jobs.release.timeout"),
    ignored("release_command_vm", "{}", "the job has the usual limits"),
    taken("strategy", "'rolling'", "rollout.strategy"),
    ignored(
        "wait_timeout",
        "'5m'",
        "health.grace says how long a start may take",
    ),
];

/// `[http_service]` and `[[services]]`.
const SERVICE: &[Row] = &[
    ignored("auto_start_machines", "true", TO_ZERO),
    taken("auto_stop_machines", "'off'", TO_ZERO),
    taken("checks", "[]", "health"),
    ignored("concurrency", "{}", MADE),
    taken("force_https", "false", PLAIN),
    taken("http_checks", "[]", "health"),
    unsupported("http_options", "{}", MADE),
    taken("internal_port", "8080", "services.NAME.port"),
    unsupported("machine_checks", "[]", "commands are not run as checks"),
    taken("min_machines_running", "1", "services.NAME.scale"),
    taken("ports", "[]", "HTTP and HTTPS answer at the routes"),
    taken("processes", "['app']", "which process it is"),
    taken("protocol", "'tcp'", "TCP"),
    unsupported("script_checks", "[]", "commands are not run as checks"),
    ignored("tcp_checks", "[]", "an accepted connection counts as ready"),
    unsupported("tls_options", "{}", MADE),
];

/// `ports` of a service.
const PORT: &[Row] = &[
    unsupported("end_port", "80", PUBLIC),
    taken("force_https", "false", PLAIN),
    taken("handlers", "['http']", "HTTP and HTTPS answer at the routes"),
    unsupported("http_options", "{}", MADE),
    taken("port", "80", "HTTP and HTTPS answer at the routes"),
    unsupported("proxy_proto_options", "{}", MADE),
    unsupported("start_port", "80", PUBLIC),
    unsupported("tls_options", "{}", MADE),
];

const CHECK: &[Row] = &[
    taken("grace_period", "'10s'", "health.grace"),
    unsupported("headers", "{}", "a check has no headers of its own"),
    taken("interval", "'15s'", "health.interval"),
    taken("method", "'GET'", "GET"),
    taken("path", "'/'", "health.path"),
    ignored("protocol", "'http'", "HTTP"),
    ignored("restart_limit", "0", "health.failures"),
    taken("timeout", "'2s'", "health.timeout"),
    ignored("tls_server_name", "'x'", "checks speak HTTP"),
    ignored("tls_skip_verify", "true", "checks speak HTTP"),
    ignored("type", "'http'", "HTTP"),
];

const VM: &[Row] = &[
    ignored("cpu_kind", "'shared'", ONE),
    taken("cpus", "1", "resources.cpu"),
    unsupported(
        "gpu_kind",
        "'a10'",
        "nothing of the host is handed to an instance",
    ),
    unsupported("gpus", "1", "nothing of the host is handed to an instance"),
    ignored("host_dedication_id", "'x'", ONE),
    unsupported("kernel_args", "'x'", "instances share the machine's kernel"),
    taken("memory", "'1gb'", "resources.memory"),
    taken("memory_mb", "512", "resources.memory"),
    taken("processes", "['app']", "which process it is"),
    unsupported(
        "size",
        "'shared-cpu-1x'",
        "sizes of fly mean nothing here: write resources, for example { cpu = 1, memory = \"256Mi\" }",
    ),
];

/// What fly calls the process of an app that names none.
const APP: &str = "app";

pub(crate) fn import(text: &str, app: &Name, report: &Report) -> Result<Option<Manifest>, Unreadable> {
    if text.len() > TEXT_MAX {
        let message = format!("is longer than {} KiB", TEXT_MAX >> 10);
        return Err(Unreadable::new(At::new(1, 1), message));
    }
    let root = tree::of_toml(text)?;
    walk(report, "", &root, FORM, ROOT);
    let mut reader = Reader {
        draft: Draft::new(app.clone(), report),
        root: &root,
        processes: Vec::new(),
        public: Vec::new(),
    };
    reader.read();
    Ok(reader.draft.finish())
}

struct Reader<'r, 't> {
    draft: Draft<'r>,
    root: &'t Node,
    /// Processes by their names there and here.
    processes: Vec<(String, Name)>,
    /// Which of them the public reaches, and where that is said.
    public: Vec<(Name, At, String)>,
}

impl<'t> Reader<'_, 't> {
    fn read(&mut self) {
        let report = self.draft.report;
        if let Some(found) = find("", self.root, "app")
            && let Some(text) = found.text(report)
            && let Some(name) = self.draft.name(found.at, "app", text)
        {
            self.draft.manifest.app = name;
        }
        self.name_processes();
        let secrets = self.env();
        for service in self.draft.manifest.services.values_mut() {
            service.secrets.clone_from(&secrets);
        }
        self.build();
        self.deploy(&secrets);
        self.connections();
        self.publish();
        for (path, node) in self.tables("vm") {
            walk(report, &path, node, FORM, VM);
            self.vm(&path, node);
        }
        self.stop();
    }

    /// A table, or each of a list of tables.
    fn tables(&self, key: &str) -> Vec<(String, &'t Node)> {
        match find("", self.root, key) {
            None => Vec::new(),
            Some(found) => tables(self.draft.report, &found),
        }
    }

    fn name_processes(&mut self) {
        let (report, named) = (self.draft.report, find("", self.root, "processes"));
        let mut services = Vec::new();
        for entry in named.iter().flat_map(|found| found.entries(report)) {
            let path = join("processes", &entry.key);
            let Some(name) = self.draft.name(entry.at, &path, &entry.key) else {
                continue;
            };
            let mut service = bare_service();
            let line = Found {
                path: path.clone(),
                at: entry.at,
                node: &entry.node,
            };
            let line = line.text(self.draft.report).unwrap_or_default();
            if !line.is_empty() {
                service.command = self.draft.line(entry.at, &path, line);
            }
            if let Some(words) = &service.command {
                self.draft.mention_words(entry.at, &path, words);
            }
            services.push((entry.key.clone(), name, service));
        }
        // `web` has a port by convention, which one that serves nobody never opens.
        let serves = ["http_service", "services"]
            .iter()
            .any(|key| self.root.get(key).is_some());
        if services.is_empty()
            && let Ok(name) = if serves { "web" } else { APP }.parse()
        {
            services.push((APP.to_owned(), name, bare_service()));
        }
        for (key, name, service) in services {
            self.processes.push((key, name.clone()));
            self.draft.manifest.services.insert(name, service);
        }
    }

    fn env(&mut self) -> BTreeSet<EnvKey> {
        let mut secrets = BTreeSet::new();
        let (report, found) = (self.draft.report, find("", self.root, "env"));
        for entry in found.iter().flat_map(|found| found.entries(report)) {
            let path = join("env", &entry.key);
            let value = Found {
                path: path.clone(),
                at: entry.at,
                node: &entry.node,
            };
            let Some(value) = value.text(self.draft.report) else {
                continue;
            };
            match self.draft.variable(entry.at, &path, &entry.key, Some(value)) {
                Kept::Secret(key) => {
                    secrets.insert(key);
                }
                Kept::Plain | Kept::Not => {}
            }
        }
        secrets
    }

    fn build(&mut self) {
        let Some(found) = find("", self.root, "build") else {
            return;
        };
        walk(self.draft.report, &found.path, found.node, FORM, BUILD);
        let Some(image) = find(&found.path, found.node, "image") else {
            return;
        };
        match image.text(self.draft.report) {
            Some(text) if model::manifest::is_image_reference(text) => {
                for service in self.draft.manifest.services.values_mut() {
                    service.image = Some(text.to_owned());
                }
            }
            Some(text) => self
                .draft
                .not_understood(image.at, &image.path, text, "an image reference"),
            None => {}
        }
    }

    fn deploy(&mut self, secrets: &BTreeSet<EnvKey>) {
        let Some(found) = find("", self.root, "deploy") else {
            return;
        };
        let report = self.draft.report;
        walk(report, &found.path, found.node, FORM, DEPLOY);
        let get = |key: &str| find(&found.path, found.node, key);
        if let Some(strategy) = get("strategy") {
            match strategy.text(report).unwrap_or_default() {
                "bluegreen" => self.draft.manifest.rollout = Strategy::BlueGreen,
                "rolling" => {}
                other => {
                    let message =
                        format!("{other:?} becomes rolling; a canary here needs steps: see [rollout]");
                    report.changed(strategy.at, &strategy.path, message);
                }
            }
        }
        let Some(command) = get("release_command") else {
            return;
        };
        if let Some(line) = command.text(report)
            && let Some(words) = self.draft.line(command.at, &command.path, line)
            && let Ok(name) = "release".parse::<Name>()
        {
            self.draft.mention_words(command.at, &command.path, &words);
            let mut job = release_job(words);
            job.secrets.clone_from(secrets);
            if let Some(limit) = get("release_command_timeout")
                && let Some(text) = limit.text(report)
            {
                let range = Millis::seconds(1)..=Millis::seconds(24 * 3600);
                if let Some(time) = self.draft.time(limit.at, &limit.path, text, range) {
                    job.timeout = time;
                }
            }
            if self.draft.manifest.services.contains_key(&name) {
                let message = "a process has the name release already: it is left out";
                report.unsupported(command.at, &command.path, message);
            } else {
                self.draft.manifest.jobs.insert(name, job);
            }
        }
    }

    fn connections(&mut self) {
        let mut found = self.tables("http_service");
        found.extend(self.tables("services"));
        for (path, node) in found {
            walk(self.draft.report, &path, node, FORM, SERVICE);
            self.mention_plain(find(&path, node, "force_https"));
            let names = self.processes_of(&path, node);
            for name in names {
                self.connection(&path, node, &name);
            }
        }
    }

    /// Which processes a table is about: those it names, or the first.
    fn processes_of(&self, path: &str, node: &'t Node) -> Vec<Name> {
        let report = self.draft.report;
        let found = find(path, node, "processes");
        let mut names = Vec::new();
        for (path, node) in found.iter().flat_map(|found| found.items(report)) {
            let key = node.text().unwrap_or_default();
            match self.processes.iter().find(|(known, _)| known == key) {
                Some((_, name)) => names.push(name.clone()),
                None => report.unsupported(node.at, &path, "there is no process of that name"),
            }
        }
        if found.is_none() {
            names.extend(self.processes.first().map(|(_, name)| name.clone()));
        }
        names
    }

    fn connection(&mut self, path: &str, node: &'t Node, name: &Name) {
        let report = self.draft.report;
        let get = |key: &str| find(path, node, key);
        if let Some(protocol) = get("protocol")
            && protocol.node.text() != Some("tcp")
        {
            let message = "only TCP reaches an instance: it is left out";
            report.unsupported(protocol.at, &protocol.path, message);
            return;
        }
        if let Some(stop) = get("auto_stop_machines")
            && !(stop.node.is_false() || stop.node.text() == Some("off"))
        {
            report.unsupported(stop.at, &stop.path, TO_ZERO);
        }
        let mut is_public = path == "http_service";
        for (path, port) in get("ports").iter().flat_map(|found| tables(report, found)) {
            walk(report, &path, port, FORM, PORT);
            self.mention_plain(find(&path, port, "force_https"));
            if matches!(port.get("port").and_then(Node::text), Some("80" | "443")) {
                is_public = true;
            } else {
                report.unsupported(port.at, &path, PUBLIC);
            }
        }
        if is_public {
            self.public.push((name.clone(), node.at, path.to_owned()));
        }
        let Some(service) = self.draft.manifest.services.get(name).cloned() else {
            return;
        };
        let service = self.ported(path, node, service);
        self.draft.manifest.services.insert(name.clone(), service);
    }

    /// Nothing redirects by itself.
    fn mention_plain(&self, found: Option<Found<'t>>) {
        if let Some(found) = found
            && !found.node.is_false()
        {
            self.draft.report.unsupported(found.at, &found.path, PLAIN);
        }
    }

    /// The app's own host leads to one service: `web`, or else the first that the public reaches there. Others are
    /// private until somebody gives them a host.
    fn publish(&mut self) {
        let is_web = |(name, ..): &&(Name, At, String)| name.as_str() == "web";
        let chosen = self.public.iter().find(is_web).or(self.public.first());
        let chosen = chosen.map(|(name, ..)| name.clone());
        self.draft.publish(chosen.as_ref());
        for (name, at, path) in self
            .public
            .iter()
            .filter(|(name, ..)| Some(name) != chosen.as_ref())
        {
            let message = format!(
                "the app's own host leads to another service: {name} is private until you give it a host instead of expose, for \
                 example routes = [{{ host = \"{name}.example.org\" }}]"
            );
            self.draft.report.unsupported(*at, path, message);
        }
    }

    fn ported(&self, path: &str, node: &'t Node, mut service: Declared) -> Declared {
        let report = self.draft.report;
        let get = |key: &str| find(path, node, key);
        if let Some(found) = get("internal_port")
            && let Some(text) = found.text(report)
        {
            match text.parse::<u16>() {
                Ok(port) if port > 0 && service.port.is_none_or(|other| other == port) => {
                    service.port = Some(port);
                }
                Ok(port) if port > 0 => {
                    let message = format!("a service has one port: {port} is not reached");
                    report.unsupported(found.at, &found.path, message);
                }
                Ok(_) | Err(_) => self.draft.not_understood(found.at, &found.path, text, "a port"),
            }
        }
        if let Some(found) = get("min_machines_running")
            && let Some(text) = found.text(report)
            && let Some(count) = self.draft.scale(found.at, &found.path, text)
        {
            service.count = count;
        }
        let checks = ["checks", "http_checks"];
        let mut checks = checks
            .iter()
            .filter_map(|key| get(key))
            .flat_map(|found| tables(report, &found));
        if let Some((path, check)) = checks.next().filter(|_| service.port.is_some()) {
            self.check(&path, check, &mut service);
        }
        for (path, check) in checks {
            report.unsupported(check.at, &path, "a service has one check");
        }
        service
    }

    fn check(&self, path: &str, node: &'t Node, service: &mut Declared) {
        let report = self.draft.report;
        walk(report, path, node, FORM, CHECK);
        let get = |key: &str| find(path, node, key);
        if let Some(method) = get("method")
            && !method
                .node
                .text()
                .is_some_and(|text| text.eq_ignore_ascii_case("get"))
        {
            report.changed(method.at, &method.path, "checks are made with GET");
        }
        if let Some(found) = get("path")
            && let Some(text) = found.text(report)
        {
            if model::manifest::is_health_path(text) {
                service.health.path = Some(text.to_owned());
            } else {
                self.draft.not_understood(found.at, &found.path, text, "a path");
            }
        }
        let health = &mut service.health;
        for (key, least, most, into) in [
            ("interval", 100, 300_000, &mut health.interval),
            ("timeout", 50, 60_000, &mut health.timeout),
            ("grace_period", 1000, 1_800_000, &mut health.grace),
        ] {
            if let Some(found) = get(key)
                && let Some(text) = found.text(report)
                && let Some(time) = self.draft.time(
                    found.at,
                    &found.path,
                    text,
                    Millis::new(least)..=Millis::new(most),
                )
            {
                *into = time;
            }
        }
    }

    fn vm(&mut self, path: &str, node: &'t Node) {
        let report = self.draft.report;
        let names = match node.get("processes") {
            Some(_) => self.processes_of(path, node),
            None => self.processes.iter().map(|(_, name)| name.clone()).collect(),
        };
        let cpu = find(path, node, "cpus")
            .and_then(|found| self.draft.cpu(found.at, &found.path, found.text(report)?));
        let whole = find(path, node, "memory");
        let megabytes = find(path, node, "memory_mb");
        let memory = match (whole, megabytes) {
            (Some(found), _) => found.text(report).and_then(|text| {
                // A plain number is megabytes there.
                let is_plain = text.bytes().all(|b| b.is_ascii_digit());
                let text = if is_plain {
                    format!("{text}m")
                } else {
                    text.to_owned()
                };
                self.draft.memory(found.at, &found.path, &text)
            }),
            (None, Some(found)) => found
                .text(report)
                .and_then(|text| self.draft.memory(found.at, &found.path, &format!("{text}m"))),
            (None, None) => None,
        };
        for name in names {
            if let Some(service) = self.draft.manifest.services.get_mut(&name) {
                service.resources.cpu = cpu.unwrap_or(service.resources.cpu);
                service.resources.memory = memory.unwrap_or(service.resources.memory);
            }
        }
    }

    fn stop(&mut self) {
        let report = self.draft.report;
        if let Some(found) = find("", self.root, "kill_signal")
            && found.node.text() != Some("SIGTERM")
        {
            report.unsupported(found.at, &found.path, "an instance gets SIGTERM");
        }
        if let Some(found) = find("", self.root, "kill_timeout")
            && let Some(text) = found.text(report)
            && let Some(time) =
                self.draft
                    .time(found.at, &found.path, text, Millis::new(0)..=Millis::seconds(600))
        {
            for service in self.draft.manifest.services.values_mut() {
                service.stop_grace = time;
            }
        }
    }
}

/// A table, or each of a list of tables, with its place.
fn tables<'t>(report: &Report, found: &Found<'t>) -> Vec<(String, &'t Node)> {
    match &found.node.value {
        Value::List(_) | Value::Null | Value::Text(_) => found.items(report),
        Value::Map(_) => vec![(found.path.clone(), found.node)],
    }
}

#[cfg(test)]
mod tests {
    use model::manifest::Found;

    use crate::{Beside, Form, Imported, import};

    fn good(text: &str) -> Imported {
        let app = "app".parse().expect("a name");
        import(Form::Fly, text, &app, &Beside::default()).unwrap_or_else(|why| panic!("{text}: {why:?}"))
    }

    /// Services with what leads to them.
    fn reached(imported: &Imported) -> Vec<String> {
        let resolved = imported.manifest.resolve(&Found::default());
        let told = resolved.services.iter().map(|(name, service)| {
            let reach = match (service.port, service.routes.is_empty()) {
                (None, _) => "nobody",
                (Some(_), true) => "private",
                (Some(_), false) => "public",
            };
            format!("{name} {reach}")
        });
        told.collect()
    }

    #[test]
    fn what_the_public_reaches_is_not_lost() {
        const TWO: &str = "[processes]\nfront = 'a'\nback = 'b'\n";
        let service = |process: &str, internal: u16, port: u16| {
            format!(
                "[[services]]\nprocesses = ['{process}']\ninternal_port = {internal}\nports = [{{ port = {port} }}]\n"
            )
        };
        for (text, expected) in [
            (
                "[http_service]\ninternal_port = 9000\n".to_owned(),
                vec!["web public"],
            ),
            ("[env]\nA = 'b'\n".to_owned(), vec!["app nobody"]),
            (
                format!("{TWO}{}", service("back", 9000, 443)),
                vec!["back public", "front nobody"],
            ),
            (
                format!(
                    "{TWO}{}{}",
                    service("front", 8000, 443),
                    service("back", 9000, 80)
                ),
                vec!["back private", "front public"],
            ),
            (
                format!(
                    "{TWO}{}{}",
                    service("front", 8000, 443),
                    service("back", 9000, 5432)
                ),
                vec!["back private", "front public"],
            ),
            (
                format!("[processes]\nweb = 'a'\napi = 'b'\n{}", service("api", 9000, 443)),
                vec!["api public", "web private"],
            ),
        ] {
            let imported = good(&text);
            assert_eq!(reached(&imported), expected, "{text}");
        }
        let both = good(&format!(
            "{TWO}{}{}",
            service("front", 8000, 443),
            service("back", 9000, 80)
        ));
        let told = both.remarks.iter().any(|remark| {
            remark.path == "services[1]"
                && remark
                    .message
                    .contains("back is private until you give it a host")
        });
        assert!(told, "{:?}", both.remarks);
    }

    #[test]
    fn sizes_redirects_and_strangers_are_told_as_unsupported() {
        let imported = good(
            "[http_service]\ninternal_port = 80\nforce_https = true\nprocesses = ['gone']\n[[vm]]\nsize = 'shared-cpu-1x'\n\
             [[services]]\ninternal_port = 80\n[[services.ports]]\nport = 80\nforce_https = false\n",
        );
        let told: Vec<String> = imported
            .remarks
            .iter()
            .filter(|remark| remark.kind == crate::Kind::Unsupported)
            .map(|remark| remark.path.clone())
            .collect();
        for path in [
            "http_service.force_https",
            "http_service.processes[0]",
            "vm[0].size",
        ] {
            assert!(
                told.iter().any(|known| known == path),
                "{path} is not in {told:?}"
            );
        }
        assert!(!told.iter().any(|path| path.starts_with("services")), "{told:?}");
    }
}
