//! Control's line to the edge: routes in the edge's words.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use control::routes::{EdgeLink, Requests, RouteTable};
use edge::control::Client;
use edge::table::{Certificate, Route, Service, Table, Target, VERSION};
use model::{InstanceId, Timestamp};

use crate::chain;

/// How long a request waits while no instance is ready (a restart), before it is told so.
const HOLD_MS: u64 = 10_000;
/// How long an instance may take to begin its answer.
const REQUEST_TIMEOUT_MS: u64 = 60_000;
/// How long a body may stand still.
const IDLE_TIMEOUT_MS: u64 = 60_000;
/// How long a WebSocket may stay on an instance that is being replaced.
const UPGRADE_DRAIN_MS: u64 = 60_000;
/// Shares are equal until canaries exist.
const WEIGHT: u32 = 100;

/// The edge behind its control socket. A connection per question: the edge may be another process the next time.
pub(crate) struct Link {
    socket: PathBuf,
    certificates: PathBuf,
    generation: AtomicU64,
}

impl Link {
    /// `certificates` is where the operator puts `HOST.crt` and `HOST.key`.
    pub(crate) fn new(socket: PathBuf, certificates: PathBuf) -> Self {
        Self {
            socket,
            certificates,
            generation: AtomicU64::new(0),
        }
    }

    fn client(&self) -> Result<Client, String> {
        Client::connect(&self.socket).map_err(|cause| chain(&cause))
    }
}

impl EdgeLink for Link {
    fn publish(&self, table: &RouteTable) -> Result<(), String> {
        // Grows over restarts of control too, because the clock does; never falls back if the clock does.
        let last = self.generation.load(Ordering::Relaxed);
        let generation = Timestamp::now().as_ms().max(last + 1);
        let document = document(table, generation, certificates(&self.certificates));
        self.client()?.publish(&document).map_err(|cause| chain(&cause))?;
        self.generation.store(generation, Ordering::Relaxed);
        Ok(())
    }

    fn busy(&self, instances: &[InstanceId]) -> Result<BTreeSet<InstanceId>, String> {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let loads = self.client()?.in_flight(&names).map_err(|cause| chain(&cause))?;
        let is_busy = |id: &InstanceId| {
            loads
                .get(&id.to_string())
                .is_some_and(|load| load.requests > 0 || load.upgrades > 0)
        };
        Ok(instances.iter().filter(|id| is_busy(id)).copied().collect())
    }

    fn requests(&self) -> Result<Vec<Requests>, String> {
        let metrics = self.client()?.metrics().map_err(|cause| chain(&cause))?;
        let translate = |one: edge::ServiceMetrics| Requests {
            app: one.app,
            service: one.service,
            release: one.release,
            statuses: one.statuses,
            answered_by_edge: one.answered_by_edge,
            cut: one.cut,
            retries: one.retries,
        };
        Ok(metrics.services.into_iter().map(translate).collect())
    }

    fn generation(&self) -> u64 {
        // Another process is another generation, and so are other certificates; an edge that cannot be asked is not
        // told anything either.
        let status = self.client().ok().and_then(|mut client| client.status().ok());
        let changed = std::fs::metadata(&self.certificates)
            .and_then(|meta| meta.modified())
            .ok();
        let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or_default());
        status.map_or(0, |status| (changed << 22) ^ u64::from(status.pid))
    }
}

/// Certificates given by the operator: `HOST.crt` (chain, leaf first) beside `HOST.key`; `_.example.org` stands for `*`.
fn certificates(dir: &Path) -> Vec<Certificate> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<Certificate> = entries
        .filter_map(|entry| {
            let cert_file = entry.path();
            let key_file = cert_file.with_extension("key");
            let host = cert_file.file_stem()?.to_str()?.replacen('_', "*", 1);
            let is_pair = cert_file.extension().is_some_and(|kind| kind == "crt") && key_file.is_file();
            is_pair.then(|| Certificate {
                hosts: vec![host],
                cert_file,
                key_file,
            })
        })
        .collect();
    found.sort_by(|one, other| one.cert_file.cmp(&other.cert_file));
    found
}

fn document(table: &RouteTable, generation: u64, certificates: Vec<Certificate>) -> Table {
    let mut routes = Vec::new();
    let mut services = Vec::new();
    for service in &table.services {
        routes.extend(service.routes.iter().map(|(host, path)| Route {
            host: host.clone(),
            path_prefix: path.clone(),
            strip: false,
            service: service.id.clone(),
        }));
        services.push(Service {
            id: service.id.clone(),
            app: service.app.clone(),
            release: service.release.clone(),
            targets: service
                .targets
                .iter()
                .map(|target| Target {
                    id: target.id.to_string(),
                    addr: SocketAddr::from(target.address),
                    weight: WEIGHT,
                    draining: false,
                    release: (target.release != service.release).then(|| target.release.clone()),
                })
                .collect(),
            hold_ms: HOLD_MS,
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            max_body_bytes: None,
            upgrade_drain_ms: UPGRADE_DRAIN_MS,
        });
    }
    Table {
        version: VERSION,
        generation,
        routes,
        services,
        certificates,
    }
}
