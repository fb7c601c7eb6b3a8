//! The edge's route table as it is published: which service answers a host and path, and where its instances are.
//!
//! Lives here: the wire form, its limits, and the checks that make a table fit to serve.
//! Does not live here: matching (`route`), certificates' contents (`certs`), where tables come from (`control`).
//! Invariant: a [`RouteTable`] is complete and consistent; a document with one bad line is refused whole, with every reason.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The version of the wire form this edge reads.
pub const VERSION: u32 = 1;

/// A path prefix, name or label longer than this is not something a person wrote.
const NAME_BYTES_MAX: usize = 256;

/// Reasons reported for one refused table: enough to fix it, bounded when it is garbage.
const PROBLEMS_MAX: usize = 50;

/// The published document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Version of this form, see [`VERSION`].
    pub version: u32,
    /// Grows with every change; what threads acknowledge.
    pub generation: u64,
    /// Host and path to service.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Services and their instances.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Certificates for hosts; hosts without one get a leaf of the local authority.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
}

/// Requests for a host below a path prefix go to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `app.example.com`, or `*.example.com` for every name below it that has no route of its own.
    pub host: String,
    /// `/` or `/api`: whole segments, `/api` does not match `/apifoo`.
    #[serde(default = "root")]
    pub path_prefix: String,
    /// Whether the instance sees the path without the prefix (told to it in X-Forwarded-Prefix).
    #[serde(default)]
    pub strip: bool,
    /// The service's id.
    pub service: String,
}

fn root() -> String {
    "/".to_owned()
}

/// A service: where its instances are and how patient the edge is with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique in the table.
    pub id: String,
    /// The app's name, for people and metrics.
    pub app: String,
    /// The release's label in metrics (`v3`); a target may name another during a rollout.
    pub release: String,
    /// Its instances.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// How long a request waits for an instance when none is ready.
    #[serde(default = "hold_ms")]
    pub hold_ms: u64,
    /// How long an instance may take to begin its answer.
    #[serde(default = "request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// How long a body may stand still, either way.
    #[serde(default = "idle_timeout_ms")]
    pub idle_timeout_ms: u64,
    /// Largest request body, if limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// How long an upgraded connection (WebSocket) may stay on a draining or removed instance.
    #[serde(default = "upgrade_drain_ms")]
    pub upgrade_drain_ms: u64,
}

fn hold_ms() -> u64 {
    10_000
}

fn request_timeout_ms() -> u64 {
    60_000
}

fn idle_timeout_ms() -> u64 {
    60_000
}

fn upgrade_drain_ms() -> u64 {
    60_000
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Unique in the table.
    pub id: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Share of the requests relative to its siblings; 0 gets none while others have more.
    #[serde(default = "weight")]
    pub weight: u32,
    /// Gets no new request.
    #[serde(default)]
    pub draining: bool,
    /// Its release when it differs from the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

fn weight() -> u32 {
    100
}

/// A certificate given by the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Hosts it is presented for; wildcards as in routes.
    pub hosts: Vec<String>,
    /// PEM chain, leaf first. Absolute path.
    pub cert_file: PathBuf,
    /// PEM private key. Absolute path.
    pub key_file: PathBuf,
}

/// What a table may contain at most.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Size of the document.
    pub bytes_max: usize,
    /// Routes in it.
    pub routes_max: usize,
    /// Services in it.
    pub services_max: usize,
    /// Targets in it, over all services.
    pub targets_max: usize,
    /// Networks in which instances may be: a route to the host's own loopback would expose its private doors.
    pub target_nets: Vec<Net>,
}

impl Default for Policy {
    fn default() -> Policy {
        let private = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "fd00::/8",
        ];
        Policy {
            bytes_max: 16 << 20,
            routes_max: 20_000,
            services_max: 10_000,
            targets_max: 50_000,
            target_nets: private.iter().filter_map(|net| net.parse().ok()).collect(),
        }
    }
}

/// A network: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    /// Whether the address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix);
                (net.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix);
                (net.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Text that is not a network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a network such as 10.0.0.0/8")]
pub struct NotANet(String);

impl FromStr for Net {
    type Err = NotANet;

    fn from_str(text: &str) -> Result<Net, NotANet> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (prefix <= most).then_some(Net { address, prefix })
        });
        parsed.ok_or_else(|| NotANet(text.to_owned()))
    }
}

/// One reason why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which part: `routes[3].host`.
    pub at: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// A table fit to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable(Table);

impl RouteTable {
    /// The table before the first publication: every host is unknown.
    pub fn empty() -> RouteTable {
        RouteTable(Table {
            version: VERSION,
            generation: 0,
            routes: Vec::new(),
            services: Vec::new(),
            certificates: Vec::new(),
        })
    }

    /// Reads and checks a document; refused whole, with the reasons.
    pub fn parse(bytes: &[u8], policy: &Policy) -> Result<RouteTable, Vec<Problem>> {
        if bytes.len() > policy.bytes_max {
            let what = format!("{} bytes, at most {} are taken", bytes.len(), policy.bytes_max);
            return Err(vec![Problem {
                at: "table".to_owned(),
                what,
            }]);
        }
        match serde_json::from_slice(bytes) {
            Ok(table) => RouteTable::new(table, policy),
            Err(cause) => Err(vec![Problem {
                at: "table".to_owned(),
                what: cause.to_string(),
            }]),
        }
    }

    /// Checks a table.
    pub fn new(table: Table, policy: &Policy) -> Result<RouteTable, Vec<Problem>> {
        let mut check = Check::default();
        check.sizes(&table, policy);
        // Beyond the limits the rest is not worth reading.
        if check.problems.is_empty() {
            check.services(&table, policy);
            check.routes(&table);
            check.certificates(&table);
        }
        if check.problems.is_empty() {
            Ok(RouteTable(table))
        } else {
            Err(check.problems)
        }
    }

    /// What is right in it. Nobody may serve that: see `planted`.
    pub(crate) fn in_part(mut table: Table, policy: &Policy) -> RouteTable {
        table.services.retain(|service| {
            let fits = |target: &Target| {
                policy
                    .target_nets
                    .iter()
                    .any(|net| net.contains(target.addr.ip()))
            };
            service.targets.iter().all(fits)
        });
        table
            .routes
            .retain(|route| table.services.iter().any(|service| service.id == route.service));
        RouteTable(table)
    }

    /// What it says.
    pub fn table(&self) -> &Table {
        &self.0
    }

    /// Its generation.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn add(&mut self, at: impl Into<String>, what: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                at: at.into(),
                what: what.into(),
            });
        }
    }

    fn sizes(&mut self, table: &Table, policy: &Policy) {
        if table.version != VERSION {
            self.add("version", format!("{}, this edge reads {VERSION}", table.version));
        }
        let targets = table.services.iter().map(|s| s.targets.len()).sum();
        for (name, count, most) in [
            ("routes", table.routes.len(), policy.routes_max),
            ("services", table.services.len(), policy.services_max),
            ("targets", targets, policy.targets_max),
            ("certificates", table.certificates.len(), policy.routes_max),
        ] {
            if count > most {
                self.add(name, format!("{count}, at most {most} are taken"));
            }
        }
    }

    fn services(&mut self, table: &Table, policy: &Policy) {
        let mut services = HashSet::new();
        let mut targets = HashSet::new();
        for (n, service) in table.services.iter().enumerate() {
            self.name(&format!("services[{n}].id"), &service.id);
            self.name(&format!("services[{n}].app"), &service.app);
            self.name(&format!("services[{n}].release"), &service.release);
            if !services.insert(service.id.as_str()) {
                self.add(
                    format!("services[{n}].id"),
                    format!("{:?} occurs twice", service.id),
                );
            }
            if service.request_timeout_ms == 0 || service.idle_timeout_ms == 0 {
                self.add(
                    format!("services[{n}]"),
                    "a timeout of 0 would fail every request",
                );
            }
            for (m, target) in service.targets.iter().enumerate() {
                let at = |field: &str| format!("services[{n}].targets[{m}].{field}");
                self.name(&at("id"), &target.id);
                if let Some(release) = &target.release {
                    self.name(&at("release"), release);
                }
                if !targets.insert(target.id.as_str()) {
                    self.add(at("id"), format!("{:?} occurs twice", target.id));
                }
                if target.addr.port() == 0
                    || !policy
                        .target_nets
                        .iter()
                        .any(|net| net.contains(target.addr.ip()))
                {
                    self.add(
                        at("addr"),
                        format!("{} is not where instances may be", target.addr),
                    );
                }
                if target.weight > 1_000_000 {
                    self.add(at("weight"), "more than 1000000");
                }
            }
        }
    }

    fn routes(&mut self, table: &Table) {
        let services: HashSet<&str> = table.services.iter().map(|s| s.id.as_str()).collect();
        let mut seen = HashMap::new();
        for (n, route) in table.routes.iter().enumerate() {
            if let Err(what) = host_pattern(&route.host) {
                self.add(format!("routes[{n}].host"), format!("{:?} {what}", route.host));
            }
            if let Err(what) = path_prefix(&route.path_prefix) {
                self.add(
                    format!("routes[{n}].path_prefix"),
                    format!("{:?} {what}", route.path_prefix),
                );
            }
            if !services.contains(route.service.as_str()) {
                self.add(
                    format!("routes[{n}].service"),
                    format!("there is no service {:?}", route.service),
                );
            }
            let key = (route.host.as_str(), route.path_prefix.trim_end_matches('/'));
            if let Some(first) = seen.insert(key, n) {
                self.add(
                    format!("routes[{n}]"),
                    format!("same host and path as routes[{first}]"),
                );
            }
        }
    }

    fn certificates(&mut self, table: &Table) {
        let mut seen = HashSet::new();
        for (n, certificate) in table.certificates.iter().enumerate() {
            for host in &certificate.hosts {
                if let Err(what) = host_pattern(host) {
                    self.add(format!("certificates[{n}].hosts"), format!("{host:?} {what}"));
                }
                if !seen.insert(host.as_str()) {
                    self.add(
                        format!("certificates[{n}].hosts"),
                        format!("{host:?} has two certificates"),
                    );
                }
            }
            for (field, path) in [
                ("cert_file", &certificate.cert_file),
                ("key_file", &certificate.key_file),
            ] {
                if !is_plain_absolute(path) {
                    self.add(
                        format!("certificates[{n}].{field}"),
                        "must be an absolute path without dots",
                    );
                }
            }
        }
    }

    fn name(&mut self, at: &str, name: &str) {
        let fits = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:/@+".contains(&b));
        if !fits {
            self.add(
                at,
                format!("{name:?} is not a name (letters, digits and -_.:/@+)"),
            );
        }
    }
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && path
            .components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

/// Whether this is a host as routes and certificates name it: canonical, so that matching can compare bytes. If not, why.
pub fn host_pattern(host: &str) -> Result<(), &'static str> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.len() != host.len() && !name.contains('.') && name != "localhost" {
        return Err("would match every name of a top-level domain");
    }
    if name.is_empty() || name.len() > 253 {
        return Err("is not a host name of 1 to 253 bytes");
    }
    for label in name.split('.') {
        let fits = !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !fits {
            return Err("is not a lower-case host name without port and final dot");
        }
    }
    Ok(())
}

fn path_prefix(prefix: &str) -> Result<(), &'static str> {
    if !prefix.starts_with('/') || prefix.len() > NAME_BYTES_MAX {
        return Err("must begin with / and be at most 256 bytes");
    }
    let segments_fit = prefix[1..]
        .trim_end_matches('/')
        .split('/')
        .all(|s| s != "." && s != "..");
    let plain = prefix
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-_.~!$&'()*+,;=:@".contains(&b));
    if !plain || !segments_fit || prefix.contains("//") {
        return Err("must be plain segments: no %, no dot segments, no empty segments");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            routes_max: 3,
            ..Policy::default()
        }
    }

    fn check(document: &str, expected: &[&str]) {
        let problems = match RouteTable::parse(document.as_bytes(), &policy()) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(|p| p.at.clone()).collect(),
        };
        assert_eq!(problems, expected, "{document}");
    }

    fn with(routes: &str, targets: &str) -> String {
        format!(
            r#"{{"version":1,"generation":1,"routes":[{routes}],
            "services":[{{"id":"s","app":"a","release":"v1","targets":[{targets}]}}]}}"#
        )
    }

    #[test]
    fn tables_are_checked_whole() {
        check(&with("", ""), &[]);
        check(
            &with(
                r#"{"host":"a.example","service":"s"}"#,
                r#"{"id":"t","addr":"10.1.2.3:80"}"#,
            ),
            &[],
        );
        check(
            &with(r#"{"host":"*.localhost","service":"s","path_prefix":"/a/b"}"#, ""),
            &[],
        );
        for host in [
            "",
            "A.example",
            "a.example:80",
            "a..b",
            "a.",
            "*.com",
            "*",
            "a/b",
            "a b",
            "-a.b",
            "é.fr",
        ] {
            check(
                &with(&format!(r#"{{"host":"{host}","service":"s"}}"#), ""),
                &["routes[0].host"],
            );
        }
        for prefix in ["", "a", "/a/../b", "/%61", "//a", "/a?b", "/."] {
            let route = format!(r#"{{"host":"a.b","service":"s","path_prefix":"{prefix}"}}"#);
            check(&with(&route, ""), &["routes[0].path_prefix"]);
        }
        check(
            &with(r#"{"host":"a.b","service":"x"}"#, ""),
            &["routes[0].service"],
        );
        let twice = r#"{"host":"a.b","service":"s","path_prefix":"/x"},{"host":"a.b","service":"s","path_prefix":"/x/"}"#;
        check(&with(twice, ""), &["routes[1]"]);
        for addr in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "10.0.0.1:0",
            "8.8.8.8:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            let target = format!(r#"{{"id":"t","addr":"{addr}"}}"#);
            check(&with("", &target), &["services[0].targets[0].addr"]);
        }
        let same = r#"{"id":"t","addr":"10.0.0.1:1"},{"id":"t","addr":"10.0.0.1:2"}"#;
        check(&with("", same), &["services[0].targets[1].id"]);
        check(
            &with(&[r#"{"host":"a.b","service":"s"}"#; 4].join(","), ""),
            &["routes"],
        );
        check("", &["table"]);
        check("{}", &["table"]);
        check(r#"{"version":2,"generation":1}"#, &["version"]);
        check(r#"{"version":1,"generation":1,"surprise":1}"#, &["table"]);
        check(r#"{"version":1,"generation":-1}"#, &["table"]);
        check(
            r#"{"version":1,"generation":1,"certificates":[{"hosts":["a.b"],"cert_file":"x","key_file":"/a/../b"}]}"#,
            &["certificates[0].cert_file", "certificates[0].key_file"],
        );
    }

    #[test]
    fn networks_contain_what_they_should() {
        let all: Net = "0.0.0.0/0".parse().unwrap();
        let ten: Net = "10.0.0.0/8".parse().unwrap();
        let one: Net = "10.1.2.3/32".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()));
        assert!(ten.contains("10.255.0.1".parse().unwrap()) && !ten.contains("11.0.0.1".parse().unwrap()));
        assert!(one.contains("10.1.2.3".parse().unwrap()) && !one.contains("10.1.2.4".parse().unwrap()));
        assert!(!ten.contains("::1".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert!(bad.parse::<Net>().is_err());
        }
    }
}
