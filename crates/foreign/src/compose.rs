//! `compose.yaml` into a manifest.
//!
//! Lives here: which services become services, databases or jobs, who uses whom, and who answers the public.
//! Does not live here: what becomes of each key (`keys`), one service (`service`), its ports and limits.
//! Invariant: as everywhere in this crate, each key has an effect or a remark; `docs/compose.md` is written from the list.

mod environment;
mod keys;
mod limits;
mod ports;
mod published;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use model::Name;
use model::manifest::{DatabaseWish, Declared, Manifest};
use model::spec::{Job, JobTrigger};

use crate::draft::Draft;
use crate::interpolate::{self, Variables};
use crate::keys::{Support, find, join, walk};
use crate::remark::{At, Report, Unreadable};
use crate::tree::{Entry, Node};
use crate::yaml;

/// What a service of the file became.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    Service(Name),
    Database(Name),
    Job(Name),
    /// Left out, with a remark.
    None,
}

/// The services of the file by their names there.
type Roles = BTreeMap<String, Role>;

pub(crate) fn import(
    text: &str,
    app: &Name,
    variables: &Variables,
    report: &Report,
) -> Result<Option<Manifest>, Unreadable> {
    let mut root = yaml::tree(text)?;
    interpolate::tree(&mut root, variables, report);
    if root.map().is_none() {
        let message = format!(
            "a compose file is a table with services, but this is {}",
            root.kind()
        );
        return Err(Unreadable::new(root.at, message));
    }
    walk(report, "", &root, keys::FORM, keys::TOP);
    let mut draft = Draft::new(app.clone(), report);
    if let Some(found) = find("", &root, "name")
        && let Some(name) = found
            .text(report)
            .and_then(|text| draft.name(found.at, "name", text))
    {
        draft.manifest.app = name;
    }
    if let Some(found) = find("", &root, "name") {
        let missing = [found.node.unset(), found.node.secret()].concat();
        if !missing.is_empty() {
            let message = format!("{} has no value that could stand here", missing.join(", "));
            report.unsupported(found.at, "name", message);
        }
    }
    let Some(services) = root
        .get("services")
        .and_then(Node::map)
        .filter(|all| !all.is_empty())
    else {
        return Err(Unreadable::new(root.at, "there are no services in it"));
    };
    Ok(Reader::new(&mut draft, services)
        .read()
        .then(|| draft.finish())
        .flatten())
}

struct Reader<'d, 'r, 't> {
    draft: &'d mut Draft<'r>,
    services: &'t [Entry],
    roles: Roles,
    /// What uses whom, by the names of the file.
    uses: BTreeMap<String, BTreeSet<String>>,
    published: Vec<published::Candidate>,
}

impl<'d, 'r, 't> Reader<'d, 'r, 't> {
    fn new(draft: &'d mut Draft<'r>, services: &'t [Entry]) -> Self {
        Self {
            draft,
            services,
            roles: Roles::new(),
            uses: BTreeMap::new(),
            published: Vec::new(),
        }
    }

    /// Reads all; `false` when nothing is left of it.
    fn read(mut self) -> bool {
        self.assign_roles();
        for entry in self.services {
            let path = join("services", &entry.key);
            match self.roles.get(&entry.key).cloned() {
                Some(Role::Service(name)) => {
                    let service = self.service(&entry.key, &name, &path, entry);
                    self.draft.manifest.services.insert(name, service);
                }
                Some(Role::Job(name)) => self.job(&entry.key, &name, &path, entry),
                Some(Role::Database(name)) => self.database(name, &path, entry),
                Some(Role::None) | None => {}
            }
        }
        if self.draft.manifest.services.is_empty() {
            let at = self.services.first().map_or(At::new(1, 1), |entry| entry.at);
            self.draft
                .report
                .unsupported(at, "services", "nothing is left that could run as a service");
            return false;
        }
        self.connect();
        published::settle(self.draft, &self.published);
        self.mention_limits();
        true
    }

    /// Compose sets no limits by itself; here there is no instance without.
    fn mention_limits(&self) {
        let usual = model::Resources::default();
        let has_usual = |name: &Name| {
            let service = self.draft.manifest.services.get(name);
            service.is_some_and(|service| service.resources.memory == usual.memory)
        };
        let first = self
            .services
            .iter()
            .find(|entry| matches!(self.roles.get(&entry.key), Some(Role::Service(name)) if has_usual(name)));
        if let Some(entry) = first {
            let message = "an instance has one processor, 512Mi of memory and 512 processes unless its resources say otherwise";
            self.draft
                .report
                .changed(entry.at, &join("services", &entry.key), message);
        }
    }

    fn assign_roles(&mut self) {
        let awaited = self.awaited();
        let mut taken = BTreeSet::new();
        for entry in self.services {
            let path = join("services", &entry.key);
            let role = self.role(entry, &path, awaited.contains(&entry.key));
            let role = match &role {
                Role::Service(name) | Role::Database(name) | Role::Job(name)
                    if !taken.insert(name.clone()) =>
                {
                    let message = format!("another is called {name} here, too: this one is left out");
                    self.draft.report.unsupported(entry.at, &path, message);
                    Role::None
                }
                _ => role,
            };
            self.roles.insert(entry.key.clone(), role);
        }
    }

    /// Services of which another waits until they have ended well: they are jobs.
    fn awaited(&self) -> BTreeSet<String> {
        let depends = |entry: &'t Entry| entry.node.get("depends_on").and_then(Node::map);
        self.services
            .iter()
            .filter_map(depends)
            .flatten()
            .filter(|on| {
                on.node.get("condition").and_then(Node::text) == Some("service_completed_successfully")
            })
            .map(|on| on.key.clone())
            .collect()
    }

    fn role(&self, entry: &Entry, path: &str, is_awaited: bool) -> Role {
        let report = self.draft.report;
        if entry.node.map().is_none() {
            let message = format!("must be a table, but is {}: it is left out", entry.node.kind());
            report.unsupported(entry.at, path, message);
            return Role::None;
        }
        if let Some(profiles) = find(path, &entry.node, "profiles")
            && profiles.node.list().is_some_and(|list| !list.is_empty())
        {
            let message = "the service is left out, as compose up does without --profile";
            report.ignored(profiles.at, &profiles.path, message);
            return Role::None;
        }
        let Some(name) = self.draft.name(entry.at, path, &entry.key) else {
            return Role::None;
        };
        if postgres(&entry.node).is_some() {
            return Role::Database(name);
        }
        if !is_awaited {
            return Role::Service(name);
        }
        if entry.node.get("image").is_some() && entry.node.get("build").is_none() {
            let message = "another service waits until it has ended, so it is a job; a job with an image of its own is \
                           not supported by this version: it is left out";
            report.unsupported(entry.at, path, message);
            return Role::None;
        }
        Role::Job(name)
    }

    /// `image: postgres`: a managed database.
    fn database(&mut self, name: Name, path: &str, entry: &Entry) {
        let report = self.draft.report;
        let version = postgres(&entry.node).flatten();
        let wanted = version.as_ref().map_or_else(String::new, |version| {
            format!(" of version {version} (leave version out to take what the server has)")
        });
        let message = format!(
            "becomes the managed database {name}{wanted}; logins, password and volume are made by Stoa, and its data \
             begins empty: bring it with stoa db connect {name}"
        );
        report.changed(entry.at, path, message);
        for below in entry.node.map().unwrap_or_default() {
            let place = join(path, &below.key);
            let known = keys::SERVICE.iter().find(|row| row.key == below.key);
            match (below.key.as_str(), known.map(|row| row.support)) {
                ("image", _) => {}
                ("command" | "configs" | "entrypoint" | "shm_size" | "build", _) => {
                    let message = "settings of a managed database are Stoa's";
                    report.unsupported(below.at, &place, message);
                }
                (_, Some(Support::Taken | Support::Ignored)) => {
                    report.ignored(below.at, &place, "Stoa looks after the managed database itself");
                }
                (_, Some(Support::Unsupported) | None) => {
                    report.unsupported(below.at, &place, "a managed database has no such setting");
                }
            }
        }
        let wish = DatabaseWish {
            engine: model::EngineWish::Postgres,
            version,
            size: None,
            memory: None,
            backup_level: None,
            pooled: None,
        };
        self.draft.manifest.databases.insert(name, wish);
    }

    fn service(&mut self, key: &str, name: &Name, path: &str, entry: &Entry) -> Declared {
        let mut reading = service::Reading {
            draft: &mut *self.draft,
            roles: &self.roles,
            path,
            name,
            node: &entry.node,
            uses: BTreeSet::new(),
            published: Vec::new(),
        };
        let service = reading.read();
        let (uses, published) = (reading.uses, reading.published);
        self.uses.insert(key.to_owned(), uses);
        self.published.extend(published);
        service
    }

    fn job(&mut self, key: &str, name: &Name, path: &str, entry: &Entry) {
        let service = self.service(key, name, path, entry);
        let report = self.draft.report;
        let Some(command) = service.command else {
            let message = "another service waits until it has ended, so it is a job, and a job needs a command: it is left out";
            report.unsupported(entry.at, path, message);
            self.roles.insert(key.to_owned(), Role::None);
            return;
        };
        let message =
            "another service waits until it has ended, so it is a job that runs before each release";
        report.changed(entry.at, path, message);
        self.published.retain(|candidate| candidate.service != *name);
        let job = Job {
            command,
            on: JobTrigger::Release,
            resources: service.resources,
            uses: BTreeSet::new(),
            secrets: service.secrets,
            timeout: crate::procfile::JOB_TIMEOUT,
        };
        self.draft.manifest.jobs.insert(name.clone(), job);
    }

    /// `uses`: whom a service names in `depends_on`, `links` or its variables, as far as that can be reached.
    fn connect(&mut self) {
        let manifest = &mut self.draft.manifest;
        let reachable = |role: Option<&Role>| match role {
            Some(Role::Database(name)) => Some(name.clone()),
            Some(Role::Service(name)) => manifest
                .services
                .get(name)
                .is_some_and(|service| service.port.is_some())
                .then(|| name.clone()),
            Some(Role::Job(_) | Role::None) | None => None,
        };
        let mut found = Vec::new();
        for other in self.uses.values().flatten().collect::<BTreeSet<_>>() {
            let is_service = matches!(self.roles.get(other), Some(Role::Service(_)));
            if is_service
                && reachable(self.roles.get(other)).is_none()
                && let Some(entry) = self.services.iter().find(|entry| entry.key == *other)
            {
                let message =
                    "another service names it, but no port is said: nobody reaches it until you write port";
                self.draft
                    .report
                    .unsupported(entry.at, &join("services", other), message);
            }
        }
        for (user, used) in &self.uses {
            let names: BTreeSet<Name> = used
                .iter()
                .filter_map(|other| reachable(self.roles.get(other)))
                .collect();
            found.push((self.roles.get(user).cloned(), names));
        }
        for (role, mut names) in found {
            match role {
                Some(Role::Service(name)) => {
                    names.remove(&name);
                    if let Some(service) = manifest.services.get_mut(&name) {
                        service.uses = names;
                    }
                }
                Some(Role::Job(name)) => {
                    if let Some(job) = manifest.jobs.get_mut(&name) {
                        job.uses = names;
                    }
                }
                Some(Role::Database(_) | Role::None) | None => {}
            }
        }
    }
}

/// What becomes of each key of the Compose Specification: the text of `docs/compose.md`.
#[must_use]
pub fn matrix() -> String {
    let mut text = String::from(MATRIX);
    for (title, rows) in [
        ("The file", keys::TOP),
        ("services.NAME", keys::SERVICE),
        ("services.NAME.build", keys::BUILD),
        ("services.NAME.deploy", keys::DEPLOY),
        ("services.NAME.deploy.resources", keys::RESOURCES),
        ("services.NAME.deploy.resources.limits", keys::LIMITS),
        ("services.NAME.deploy.resources.reservations", keys::RESERVATIONS),
        ("services.NAME.depends_on.NAME", keys::DEPENDENCY),
        ("services.NAME.healthcheck", keys::HEALTHCHECK),
        ("services.NAME.ports[]", keys::PORT),
        ("services.NAME.secrets[]", keys::SECRET),
    ] {
        text.push_str(&format!(
            "\n## {title}\n\n| key | | what becomes of it |\n|---|---|---|\n"
        ));
        for row in rows {
            let support = match row.support {
                Support::Taken => "taken over",
                Support::Ignored => "ignored",
                Support::Unsupported => "**unsupported**",
            };
            text.push_str(&format!("| `{}` | {support} | {} |\n", row.key, row.about));
        }
    }
    text
}

const MATRIX: &str = "# compose.yaml

`stoa init --from compose.yaml` writes a `stoa.toml` and lists everything that is not taken over as it stands: as comments in the
file, on the terminal, and with `--json` as objects. Three words say how much it matters: **unsupported** (the application may rely on
it, and has to do without), *changed* (it was taken over in another form: have a look), *ignored* (it means nothing here, and nothing
is lost). Values that look like secrets are never written: their names are listed, and `stoa secrets set` takes the values.

`$NAME`, `${NAME:-default}` and the other substitutions are made with `.env` beside the file; anchors, aliases and `<<` are resolved.
A service that runs the official `postgres` image becomes a managed database; one of which another waits until it has ended well
becomes a job. What `.env` gives to a text is told; where it looks like a secret, a variable becomes a secret, and in a command its name
stands instead of the value (commands get no secrets, since they show in lists of processes).

This page is written from the importer's own list: `STOA_WRITE_SNAPSHOTS=1 cargo test -p stoa-foreign`.
";

/// Whether it runs the official PostgreSQL image; then its major version, as far as the tag tells.
fn postgres(node: &Node) -> Option<Option<String>> {
    if node.get("build").is_some() {
        return None;
    }
    let image = node.get("image")?.text()?;
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let (repository, tag) = image
        .rsplit_once(':')
        .map_or((image, ""), |(name, tag)| (name, tag));
    let official = [
        "postgres",
        "library/postgres",
        "docker.io/postgres",
        "docker.io/library/postgres",
    ];
    if !official.contains(&repository) {
        return None;
    }
    let digits: String = tag.chars().take_while(char::is_ascii_digit).collect();
    Some((1..=2).contains(&digits.len()).then_some(digits))
}
