//! Which requests reach which instances: the table the edge obeys, in control's words.
//!
//! Lives here: the table, its making from facts, and the face of whoever publishes it.
//! Does not live here: matching and forwarding (`edge`), which instances are fit (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use model::{AppId, Condition, Database, DatabaseState, Instance, InstanceId, Millis, Name, Purpose};

use crate::reconcile::{Facts, Routed};
use crate::{Control, hosts};

/// Everything the edge serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTable {
    /// Services with their routes and targets, in a stable order.
    pub services: Vec<RoutedService>,
}

/// One service that answers requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutedService {
    /// Stable id: the app's id and the service's name.
    pub id: String,
    /// Name of the app, for metrics.
    pub app: String,
    /// `v3`: the release that serves, for metrics.
    pub release: String,
    /// Host and path prefix of each route.
    pub routes: Vec<(String, String)>,
    /// Instances that may get requests.
    pub targets: Vec<Target>,
    /// How long a request waits while there are none.
    pub hold: Millis,
}

/// A restart of the only instance, say. Whoever waits longer would rather be told.
const HOLD: Millis = Millis::seconds(10);
/// Where one release has to end before the other starts, that takes until its requests and WebSockets are through: a while
/// that was asked for.
const HOLD_IN_GAP: Millis = Millis::seconds(40);

/// One instance that may get requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub id: InstanceId,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// `v3`: its own release.
    pub release: String,
    /// Its share of the requests relative to its siblings.
    pub weight: u32,
}

/// Requests of one service and release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// Name of the app.
    pub app: String,
    /// The service's id.
    pub service: String,
    /// `v3`.
    pub release: String,
    /// By status: 1xx to 5xx.
    pub statuses: [u64; 5],
    /// Of these, answered by the edge itself: no instance was ready, or it took too long.
    pub answered_by_edge: u64,
    /// Answers that broke off.
    pub cut: u64,
    /// Requests sent to an instance a second time.
    pub retries: u64,
}

/// What the edge counted of each service and release since it started.
///
/// # Errors
/// A sentence, when the edge could not be asked.
pub fn requests(control: &Control) -> Result<Vec<Requests>, String> {
    control.edge.requests()
}

/// Whoever answers requests from outside. The binary connects it with the edge process; tests with a simulated one.
pub trait EdgeLink: Send + Sync {
    /// Publishes the table whole. Returns when every thread of the edge obeys it.
    ///
    /// # Errors
    /// A sentence, when the edge could not be reached or refused the table; it keeps its last good one.
    fn publish(&self, table: &RouteTable) -> Result<(), String>;

    /// Of these instances, those with requests under way.
    ///
    /// # Errors
    /// A sentence, when the edge could not be asked.
    fn busy(&self, instances: &[InstanceId]) -> Result<BTreeSet<InstanceId>, String>;

    /// What the edge counted of each service and release since it started.
    ///
    /// # Errors
    /// A sentence, when the edge could not be asked.
    fn requests(&self) -> Result<Vec<Requests>, String>;

    /// Grows whenever the edge process is another one, so that it is told again.
    fn generation(&self) -> u64;
}

/// The table for what may get requests now. One app's mistake is its own: a host and path that an older app has is left
/// out, because the edge refuses a contradictory table whole.
pub(crate) fn table(domain: &str, facts: &Facts, routed: &BTreeMap<AppId, Routed>) -> RouteTable {
    let mut services = Vec::new();
    let mut taken: BTreeSet<(String, String)> = BTreeSet::new();
    for app in facts.apps.values().filter(|app| !app.deleting) {
        // Nothing of a release is routed before it serves, though its instances may be ready.
        let Some(routed) = routed.get(&app.id).filter(|routed| routed.serves) else {
            continue;
        };
        let Some(release) = routed.release.and_then(|id| facts.releases.get(&id)) else {
            continue;
        };
        let Some(environment) = facts.environments.get(&app.environment) else {
            continue;
        };
        let own = hosts::own(&app.name, &environment.name, domain);
        let hold = if plan::app::has_gap(app, &facts.releases) {
            HOLD_IN_GAP
        } else {
            HOLD
        };
        let mut routes: BTreeMap<&Name, Vec<(String, String)>> = BTreeMap::new();
        for (host, path, name) in hosts::of(&release.services, &own) {
            let route = (host.to_owned(), path.to_owned());
            if taken.insert(route.clone()) {
                routes.entry(name).or_default().push(route);
            } else {
                tracing::error!(app = %app.name, host, path, "this route already leads elsewhere and is left out");
            }
        }
        for (name, routes) in routes {
            let instances = facts.of_app(app.id).iter();
            let targets = instances.filter_map(|instance| {
                let weight = *routed.weights.get(&instance.id)?;
                target(facts, instance, name, weight)
            });
            services.push(RoutedService {
                id: format!("{}/{name}", app.id),
                app: app.name.to_string(),
                release: format!("v{}", release.number),
                routes,
                targets: targets.collect(),
                hold,
            });
        }
    }
    RouteTable { services }
}

fn target(facts: &Facts, instance: &Instance, name: &Name, weight: u32) -> Option<Target> {
    let Purpose::Service { release, service, .. } = &instance.purpose else {
        return None;
    };
    let release = facts.releases.get(release)?;
    let port = release.services.get(name).filter(|_| service == name)?.port?;
    Some(Target {
        id: instance.id,
        address: SocketAddrV4::new(instance.address?, port),
        release: format!("v{}", release.number),
        weight,
    })
}

/// Whether a service's name leads to an instance: not to one on trial, unless nothing else answers.
fn is_named(siblings: &[Instance], routed: &Routed, id: InstanceId, name: &Name) -> bool {
    if !routed.tried.contains(&id) {
        return routed.weights.contains_key(&id);
    }
    !siblings.iter().any(|sibling| {
        matches!(&sibling.purpose, Purpose::Service { service, .. } if service == name)
            && routed.weights.contains_key(&sibling.id)
            && !routed.tried.contains(&sibling.id)
    })
}

/// The name of a database's server.
pub(crate) fn server_name(database: &Database) -> String {
    format!("{}.{}", database.name, crate::workload::DATABASE_DOMAIN)
}

/// The name of its pooler: below that of the server, where nothing else has names.
pub(crate) fn pooler_name(database: &Database) -> String {
    format!("pool.{}", server_name(database))
}

/// The name under which its pooler knows its server, whatever that is called.
pub(crate) fn lasting_name(database: &Database) -> String {
    format!(
        "{}.id.{}",
        database.id.short(26),
        crate::workload::DATABASE_DOMAIN
    )
}

/// What leads to a server of a database: its names, and that of its pooler as long as none takes clients.
fn names_of(facts: &Facts, database: &Database) -> Vec<String> {
    let mut names = vec![server_name(database)];
    if database.pooled || database.pooler.is_some() {
        names.push(lasting_name(database));
    }
    // Who was given it once keeps it: one that is not pooled any more has it, too.
    if crate::reconcile::pooler_of(facts, database).is_none() {
        names.push(pooler_name(database));
    }
    names
}

/// Names on the environments' networks: services by app, and databases. Only what may get connections is named, and a
/// new release's instances do not get any before they may.
pub(crate) fn names(facts: &Facts, routed: &BTreeMap<AppId, Routed>) -> Vec<engine::NetworkNames> {
    let mut networks: BTreeMap<String, BTreeMap<String, Vec<Ipv4Addr>>> = BTreeMap::new();
    let mut doors = doors(facts);
    for instance in facts.instances.values() {
        let Some(address) = instance.address else { continue };
        let (environment, names) = match &instance.purpose {
            Purpose::Service { app, service, .. } => {
                let is_routed = routed
                    .get(app)
                    .is_some_and(|known| is_named(facts.of_app(*app), known, instance.id, service));
                match facts.apps.get(app).filter(|_| is_routed) {
                    Some(app) => (app.environment, vec![format!("{service}.{}", app.name)]),
                    None => continue,
                }
            }
            Purpose::Database { database } => {
                match facts
                    .databases
                    .get(database)
                    .filter(|database| instance.condition.is_live() && database.idle_stop.is_none())
                {
                    Some(database) => (database.environment, names_of(facts, database)),
                    None => continue,
                }
            }
            Purpose::Pooler { database, .. } => {
                let is_named = |database: &&Database| {
                    crate::reconcile::pooler_of(facts, database).is_some_and(|one| one.id == instance.id)
                };
                match facts.databases.get(database).filter(is_named) {
                    Some(database) => (database.environment, vec![pooler_name(database)]),
                    None => continue,
                }
            }
            Purpose::Job { .. } | Purpose::Receiver { .. } => continue,
        };
        let known = networks.entry(environment.to_string()).or_default();
        for name in names {
            known.entry(name).or_default().push(address);
        }
    }
    let without_names: Vec<String> = doors
        .keys()
        .filter(|network| !networks.contains_key(*network))
        .cloned()
        .collect();
    networks.extend(
        without_names
            .into_iter()
            .map(|network| (network, BTreeMap::new())),
    );
    networks
        .into_iter()
        .map(|(network, names)| engine::NetworkNames {
            doors: doors.remove(&network).unwrap_or_default(),
            network,
            names: names.into_iter().collect(),
        })
        .collect()
}

/// Doors of the databases that may sleep, by network. Nobody is let in to one that is about to, and one that was ended
/// keeps its door until its server is gone: whoever is inside hears it from him.
fn doors(facts: &Facts) -> BTreeMap<String, Vec<engine::Door>> {
    let mut networks: BTreeMap<String, Vec<engine::Door>> = BTreeMap::new();
    for database in facts.databases.values().filter(|one| one.idle_stop.is_some()) {
        let mut mine = facts.instances.values().filter(|instance| {
            let of = Purpose::Database {
                database: database.id,
            };
            instance.purpose == of && instance.condition.is_live()
        });
        let server = mine.next();
        let is_there = match &database.state {
            DatabaseState::Creating | DatabaseState::Active => true,
            DatabaseState::Failed { .. } | DatabaseState::Destroyed { .. } => server.is_some(),
        };
        if !is_there {
            continue;
        }
        let is_open = |server: &&Instance| matches!(server.condition, Condition::Ready { .. });
        let door = engine::Door {
            key: database.id.to_string(),
            name: server_name(database),
            port: ::databases::PORT,
            target: server
                .filter(is_open)
                .filter(|_| database.asleep.is_none())
                .and_then(|server| server.address),
        };
        networks
            .entry(database.environment.to_string())
            .or_default()
            .push(door);
    }
    networks
}
