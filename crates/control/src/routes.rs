//! Which requests reach which instances: the table the edge obeys, in control's words.
//!
//! Lives here: the table, its making from facts, and the face of whoever publishes it.
//! Does not live here: matching and forwarding (`edge`), which instances are fit (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use model::{App, Condition, Instance, InstanceId, Purpose, Release};

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
}

/// One instance that may get requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub id: InstanceId,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// `v3`: its own release.
    pub release: String,
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

    /// Grows whenever the edge process is another one, so that it is told again.
    fn generation(&self) -> u64;
}

/// The table for what is ready now.
#[must_use]
pub fn table(
    domain: &str,
    apps: &[App],
    releases: &BTreeMap<model::ReleaseId, Release>,
    instances: &[Instance],
    routed: &BTreeSet<InstanceId>,
) -> RouteTable {
    let mut services = Vec::new();
    for app in apps.iter().filter(|app| !app.deleting) {
        let Some(release) = app.serving.and_then(|serving| releases.get(&serving.release)) else {
            continue;
        };
        for (name, service) in release
            .services
            .iter()
            .filter(|(_, service)| !service.routes.is_empty())
        {
            let routes = service.routes.iter().map(|route| {
                (
                    route
                        .host
                        .clone()
                        .unwrap_or_else(|| format!("{}.{domain}", app.name)),
                    route.path.clone(),
                )
            });
            let targets = instances.iter().filter_map(|instance| {
                let Purpose::Service {
                    app: of,
                    release,
                    service: serves,
                    ..
                } = &instance.purpose
                else {
                    return None;
                };
                if *of != app.id || serves != name || !routed.contains(&instance.id) {
                    return None;
                }
                let release = releases.get(release)?;
                let port = release.services.get(name)?.port?;
                let address = SocketAddrV4::new(instance.address?, port);
                Some(Target {
                    id: instance.id,
                    address,
                    release: format!("v{}", release.number),
                })
            });
            services.push(RoutedService {
                id: format!("{}/{name}", app.id),
                app: app.name.to_string(),
                release: format!("v{}", release.number),
                routes: routes.collect(),
                targets: targets.collect(),
            });
        }
    }
    RouteTable { services }
}

/// Names on the environments' networks: services by app, and databases. Only what may get connections is named.
#[must_use]
pub fn names(
    apps: &[App],
    databases: &[model::Database],
    instances: &[Instance],
) -> Vec<engine::NetworkNames> {
    let mut networks: BTreeMap<String, BTreeMap<String, Vec<Ipv4Addr>>> = BTreeMap::new();
    for instance in instances {
        let Some(address) = instance.address else { continue };
        let (environment, name) = match &instance.purpose {
            Purpose::Service { app, service, .. } => {
                let Condition::Ready { .. } = instance.condition else {
                    continue;
                };
                let Some(app) = apps.iter().find(|known| known.id == *app) else {
                    continue;
                };
                (app.environment, format!("{service}.{}", app.name))
            }
            Purpose::Database { database } => {
                if !instance.condition.is_live() {
                    continue;
                }
                let Some(database) = databases.iter().find(|known| known.id == *database) else {
                    continue;
                };
                let name = format!("{}.{}", database.name, crate::workload::DATABASE_DOMAIN);
                (database.environment, name)
            }
            Purpose::Job { .. } => continue,
        };
        networks
            .entry(environment.to_string())
            .or_default()
            .entry(name)
            .or_default()
            .push(address);
    }
    networks
        .into_iter()
        .map(|(network, names)| engine::NetworkNames {
            network,
            names: names.into_iter().collect(),
        })
        .collect()
}
