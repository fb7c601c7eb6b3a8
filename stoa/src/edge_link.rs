//! Control's line to the edge: routes in the edge's words.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use control::routes::{EdgeLink, Requests, RouteTable};
use edge::control::Client;
use edge::table::{Certificate, Route, Service, Table, Target, VERSION, host_pattern};
use model::InstanceId;

use crate::chain;

/// How long an instance may take to begin its answer.
const REQUEST_TIMEOUT_MS: u64 = 60_000;
/// How long a body may stand still.
const IDLE_TIMEOUT_MS: u64 = 60_000;
/// How long a WebSocket may stay on an instance that is being replaced.
const UPGRADE_DRAIN_MS: u64 = 60_000;

/// The edge behind its control socket. A connection per question: the edge may be another process the next time.
pub(crate) struct Link {
    socket: PathBuf,
    certificates: PathBuf,
}

impl Link {
    /// `certificates` is where the operator puts `HOST.crt` and `HOST.key`.
    pub(crate) fn new(socket: PathBuf, certificates: PathBuf) -> Self {
        Self { socket, certificates }
    }

    fn client(&self) -> Result<Client, String> {
        Client::connect(&self.socket).map_err(|cause| chain(&cause))
    }
}

impl EdgeLink for Link {
    fn publish(&self, table: &RouteTable) -> Result<(), String> {
        let mut client = self.client()?;
        // After what is served, whoever published it: a clock may have been ahead then and right now.
        let served = client.status().map_err(|cause| chain(&cause))?.generation;
        let document = document(table, served.saturating_add(1), certificates(&self.certificates));
        client.publish(&document).map_err(|cause| chain(&cause))?;
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
        status.map_or(0, |status| {
            let mut seen = DefaultHasher::new();
            (status.pid, versions(&self.certificates)).hash(&mut seen);
            seen.finish()
        })
    }
}

/// The files of a directory, each with what changes when it is written, also in place: time and size.
fn versions(dir: &Path) -> BTreeSet<(PathBuf, i64, i64, u64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            // Followed: certbot keeps links to files that it replaces.
            let meta = std::fs::metadata(&path).ok()?;
            Some((path, meta.mtime(), meta.mtime_nsec(), meta.len()))
        })
        .collect()
}

/// Certificates given by the operator: `HOST.crt` (chain, leaf first) beside `HOST.key`; `_.example.org` stands for `*`. Names
/// that are no hosts are left out, for the edge refuses a table that has one.
fn certificates(dir: &Path) -> Vec<Certificate> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let mut hosts = BTreeSet::new();
    let pair = |cert_file: PathBuf| {
        let key_file = cert_file.with_extension("key");
        if cert_file.extension().is_none_or(|kind| kind != "crt") || !key_file.is_file() {
            return None;
        }
        let name = cert_file.file_stem()?.to_str()?.to_ascii_lowercase();
        let host = match name.strip_prefix("_.") {
            Some(parent) => format!("*.{parent}"),
            None => name,
        };
        let fits = match host_pattern(&host) {
            Ok(()) if hosts.insert(host.clone()) => Ok(()),
            Ok(()) => Err("has two certificates"),
            Err(why) => Err(why),
        };
        if let Err(why) = fits {
            tracing::warn!(file = %cert_file.display(), why, "this certificate is left out; its file must be named after its host");
            return None;
        }
        Some(Certificate {
            hosts: vec![host],
            cert_file,
            key_file,
        })
    };
    files.into_iter().filter_map(pair).collect()
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
                    weight: target.weight,
                    draining: false,
                    release: (target.release != service.release).then(|| target.release.clone()),
                })
                .collect(),
            hold_ms: service.hold.as_ms(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_named_after_their_hosts() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "Shop.Example.org",
            "_.example.org",
            "a_b.example.org",
            "shop.example.org",
            "copy of shop.example.org",
            "without-key",
        ] {
            std::fs::write(dir.path().join(format!("{name}.crt")), "").unwrap();
            if name != "without-key" {
                std::fs::write(dir.path().join(format!("{name}.key")), "").unwrap();
            }
        }
        let found = certificates(dir.path());
        let hosts: Vec<&str> = found
            .iter()
            .flat_map(|one| &one.hosts)
            .map(String::as_str)
            .collect();
        assert_eq!(hosts, ["shop.example.org", "*.example.org", "a_b.example.org"]);
        assert!(certificates(&dir.path().join("absent")).is_empty());
    }

    /// An edge, and control's line to it.
    fn linked() -> (edge::Running, Link, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("edge.sock");
        let options = edge::Options::new(Vec::new(), socket.clone(), dir.path().join("edge"));
        let running = edge::start(options).unwrap();
        (running, Link::new(socket, dir.path().join("certificates")), dir)
    }

    #[test]
    fn a_certificate_renewed_in_place_is_told_to_the_edge() {
        let (running, link, _dir) = linked();
        std::fs::create_dir(&link.certificates).unwrap();
        let file = link.certificates.join("a.crt");
        let mut before = link.generation();
        for content in ["old", "new, and longer"] {
            std::fs::write(&file, content).unwrap();
            let now = link.generation();
            assert_ne!(now, before, "{content}");
            assert_eq!(now, link.generation());
            before = now;
        }
        // Of the same size: its time tells.
        let another = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1);
        let file = std::fs::File::options().write(true).open(&file).unwrap();
        file.set_modified(another).unwrap();
        assert_ne!(link.generation(), before);
        running.stop();
    }

    #[test]
    fn a_table_follows_the_one_that_is_served_whatever_the_clock_says() {
        let (running, link, _dir) = linked();
        let table = RouteTable { services: Vec::new() };
        // As if published while the clock was ahead.
        let ahead = document(&table, u64::MAX / 2, Vec::new());
        link.client().unwrap().publish(&ahead).unwrap();
        link.publish(&table).unwrap();
        link.publish(&table).unwrap();
        let served = link.client().unwrap().status().unwrap().generation;
        assert_eq!(served, u64::MAX / 2 + 2);
        running.stop();
    }
}
