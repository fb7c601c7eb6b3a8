//! From what was written, and what the source says about itself, to services and jobs with all defaults.

use std::collections::{BTreeMap, BTreeSet};

use super::{Declared, Expose, Manifest};
use crate::name::Name;
use crate::spec::{Health, Job, JobTrigger, Resources, Route, STOP_GRACE, Service};
use crate::units::Millis;

/// The process type that gets the traffic, by everybody's convention.
const WEB: &str = "web";
/// The port of `web` when nobody says another: it is handed to it as `PORT`, so programs need not agree.
const WEB_PORT: u16 = 8080;
/// The job made of a Procfile's `release:` line.
const RELEASE: &str = "release";
const RELEASE_TIMEOUT: Millis = Millis::seconds(600);

/// What the source says by itself, without `stoa.toml`: `build` detects it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Process types and their commands; an empty command means what the image says.
    pub commands: BTreeMap<Name, Vec<String>>,
    /// What runs before a release gets traffic.
    pub release: Option<Vec<String>>,
    /// Where `web` listens when it does not obey `PORT`.
    pub port: Option<u16>,
}

/// What a release runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Process types.
    pub services: BTreeMap<Name, Service>,
    /// Jobs.
    pub jobs: BTreeMap<Name, Job>,
}

impl Manifest {
    /// Services and jobs with all defaults. A manifest that declares services is the whole truth about them; one that
    /// declares none takes what the source says, and lets it use every database of the manifest.
    #[must_use]
    pub fn resolve(&self, found: &Found) -> Resolved {
        let mut services: BTreeMap<Name, Service> = if self.services.is_empty() {
            let mut commands = found.commands.clone();
            if let (Some(start), Ok(web)) = (&self.build.start, WEB.parse()) {
                commands.insert(web, start.clone());
            }
            let of_source =
                |(name, command): (&Name, &Vec<String>)| (name.clone(), self.found(name, command, found));
            commands.iter().map(of_source).collect()
        } else {
            let declared =
                |(name, service): (&Name, &Declared)| (name.clone(), self.declared(name, service, found));
            self.services.iter().map(declared).collect()
        };
        self.default_route(&mut services);
        let mut jobs = self.jobs.clone();
        if let (true, Some(command)) = (jobs.is_empty(), &found.release)
            && let Ok(name) = RELEASE.parse::<Name>()
            && !services.contains_key(&name)
        {
            jobs.insert(name, self.release_job(command));
        }
        Resolved { services, jobs }
    }

    fn declared(&self, name: &Name, service: &Declared, found: &Found) -> Service {
        let own_image = service.image.is_some();
        let detected = || {
            found
                .commands
                .get(name)
                .or_else(|| self.only_command(found))
                .cloned()
        };
        let command = match (&service.command, own_image) {
            (Some(command), _) => Some(command.clone()),
            (None, true) => None,
            (None, false) => self.build.start.clone().or_else(detected),
        };
        Service {
            command: command.unwrap_or_default(),
            image: service.image.clone(),
            port: service
                .port
                .or_else(|| (name.as_str() == WEB).then(|| found.port.unwrap_or(WEB_PORT))),
            count: service.count,
            resources: service.resources,
            health: service.health.clone(),
            routes: service.routes.clone().unwrap_or_default(),
            uses: service.uses.clone(),
            secrets: service.secrets.clone(),
            stop_grace: service.stop_grace,
        }
    }

    /// A single service is what the source starts, whatever it is called here.
    fn only_command<'f>(&self, found: &'f Found) -> Option<&'f Vec<String>> {
        let is_single = self.services.len() == 1 && found.commands.len() == 1;
        found.commands.values().next().filter(|_| is_single)
    }

    fn found(&self, name: &Name, command: &[String], found: &Found) -> Service {
        let is_web = name.as_str() == WEB;
        Service {
            command: command.to_vec(),
            image: None,
            port: is_web.then(|| found.port.unwrap_or(WEB_PORT)),
            count: 1,
            resources: Resources::default(),
            health: Health::default(),
            routes: Vec::new(),
            uses: self.databases.keys().cloned().collect(),
            secrets: BTreeSet::new(),
            stop_grace: STOP_GRACE,
        }
    }

    fn release_job(&self, command: &[String]) -> Job {
        let of_services = self.services.values().flat_map(|service| &service.uses);
        let uses = if self.services.is_empty() {
            self.databases.keys().cloned().collect()
        } else {
            of_services
                .filter(|name| self.databases.contains_key(*name))
                .cloned()
                .collect()
        };
        let secrets = self
            .services
            .values()
            .flat_map(|service| service.secrets.iter().cloned())
            .collect();
        Job {
            command: command.to_vec(),
            on: JobTrigger::Release,
            resources: Resources::default(),
            uses,
            secrets,
            timeout: RELEASE_TIMEOUT,
        }
    }

    /// `web`, or the only service with a port, answers at `APP.DOMAIN/` unless somebody decided about routes.
    fn default_route(&self, services: &mut BTreeMap<Name, Service>) {
        if services.values().any(|service| !service.routes.is_empty()) {
            return;
        }
        let with_port: Vec<&Name> = services
            .iter()
            .filter(|(_, service)| service.port.is_some())
            .map(|(name, _)| name)
            .collect();
        let chosen = match with_port.as_slice() {
            [only] => Some((*only).clone()),
            several => several
                .iter()
                .find(|name| name.as_str() == WEB)
                .map(|name| (*name).clone()),
        };
        let is_open = |name: &Name| {
            self.services
                .get(name)
                .is_none_or(|service| service.expose == Expose::Public && service.routes.is_none())
        };
        if let Some(service) = chosen.filter(is_open).and_then(|name| services.get_mut(&name)) {
            service.routes.push(Route {
                host: None,
                path: "/".to_owned(),
            });
        }
    }
}

/// The port a declared service will have, as far as the manifest alone tells.
pub(super) fn port_of(name: &Name, service: &Declared) -> Option<u16> {
    service
        .port
        .or_else(|| (name.as_str() == WEB).then_some(WEB_PORT))
}
