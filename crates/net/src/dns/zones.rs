//! The zones file: which names exist in which network.
//!
//! Lives here: its format, writing it, and the index answers are looked up in.
//! Invariant: the file is replaced whole; what cannot be read leaves the last good zones in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::{self, Keep};
use crate::state::Egress;
use crate::{NetError, Network, Subnet};

/// The names of all networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zones {
    /// One zone per network.
    pub networks: Vec<Zone>,
}

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Where the server listens and is asked.
    pub gateway: Ipv4Addr,
    /// Who may ask.
    pub subnet: Subnet,
    /// May names of others be asked for? A resolver is a way out too.
    pub egress: Egress,
    /// `SERVICE.APP.internal`.
    pub services: Vec<Service>,
    /// Further names, as they stand; one without a dot also answers with `.internal`.
    pub aliases: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Where the host answers for what may not run just now.
    #[serde(default)]
    pub doors: Vec<Door>,
}

/// An address of the host that stands for a server, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Whose it is; also names the file that tells when it was last used.
    pub key: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// The port that is knocked at.
    pub port: u16,
    /// The server behind it, while it takes connections.
    pub target: Option<SocketAddrV4>,
}

/// The addresses of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name of its app.
    pub app: String,
    /// Its own name.
    pub service: String,
    /// Its instances that should get traffic; without any the name exists and has no address.
    pub ips: Vec<Ipv4Addr>,
}

impl Zone {
    /// An empty zone of this network.
    pub fn of(network: &Network) -> Self {
        Self {
            gateway: network.gateway,
            subnet: network.subnet,
            egress: network.rules.egress,
            services: Vec::new(),
            aliases: BTreeMap::new(),
            doors: Vec::new(),
        }
    }
}

/// Replace the zones file; the server sees it within milliseconds.
pub fn publish(path: &Path, zones: &Zones) -> Result<(), NetError> {
    let content = serde_json::to_vec(zones).map_err(|cause| NetError::Damaged {
        path: path.into(),
        cause,
    })?;
    durable::replace(path, &content, Keep::ThroughPowerCut).map_err(|cause| NetError::File {
        what: "write",
        path: path.into(),
        cause,
    })
}

/// Read the zones file; nothing when there is none yet.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read(path: &Path) -> io::Result<Option<Zones>> {
    match durable::read(path)? {
        Some(content) => serde_json::from_slice(&content)
            .map(Some)
            .map_err(io::Error::other),
        None => Ok(None),
    }
}

/// What we are the authority for.
pub(super) const DOMAIN: &str = "internal";

/// One network's names, ready to be looked up.
#[derive(Debug)]
pub(super) struct Index {
    pub subnet: Subnet,
    pub egress: Egress,
    names: HashMap<String, Vec<Ipv4Addr>>,
    /// Names that only have names below them: `APP.internal`, `internal`.
    between: BTreeSet<String>,
}

/// What is known about a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// It exists, with these addresses, perhaps none.
    Here(&'a [Ipv4Addr]),
    /// It would be ours, and does not exist.
    Absent,
    /// It is somebody else's.
    Foreign,
}

impl Index {
    pub(super) fn of(zone: &Zone) -> Self {
        let mut names: HashMap<String, Vec<Ipv4Addr>> = HashMap::new();
        let mut between = BTreeSet::from([DOMAIN.to_owned()]);
        for Service { app, service, ips } in &zone.services {
            let app = format!("{}.{DOMAIN}", app.to_ascii_lowercase());
            names
                .entry(format!("{}.{app}", service.to_ascii_lowercase()))
                .or_default()
                .extend(ips);
            between.insert(app);
        }
        for (alias, ips) in &zone.aliases {
            let alias = alias.trim_end_matches('.').to_ascii_lowercase();
            if !alias.contains('.') {
                names.entry(format!("{alias}.{DOMAIN}")).or_default().extend(ips);
            }
            names.entry(alias).or_default().extend(ips);
        }
        Self {
            subnet: zone.subnet,
            egress: zone.egress,
            names,
            between,
        }
    }

    /// Look up a name in lower case without its closing dot.
    pub(super) fn look_up(&self, name: &str) -> Known<'_> {
        if let Some(ips) = self.names.get(name) {
            return Known::Here(ips);
        }
        if self.between.contains(name) {
            return Known::Here(&[]);
        }
        let is_ours = name
            .strip_suffix(DOMAIN)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        // A name without a dot means something on this machine or nothing; asking others would only tell them.
        if is_ours || !name.contains('.') || is_private_reverse(name) {
            return Known::Absent;
        }
        Known::Foreign
    }
}

/// Reverse names of private addresses: nobody outside can know them.
fn is_private_reverse(name: &str) -> bool {
    let Some(reversed) = name.strip_suffix(".in-addr.arpa") else {
        return false;
    };
    let mut octets: Vec<u8> = Vec::new();
    for label in reversed.rsplit('.') {
        let Ok(octet) = label.parse() else { return false };
        octets.push(octet);
    }
    octets.resize(4, 0);
    let Ok(octets) = <[u8; 4]>::try_from(octets) else {
        return false;
    };
    let address = Ipv4Addr::from(octets);
    address.is_private() || address.is_loopback() || address.is_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone {
            gateway: "10.80.1.1".parse().unwrap(),
            subnet: "10.80.1.0/24".parse().unwrap(),
            egress: Egress::Allowed,
            services: vec![
                Service {
                    app: "Shop".into(),
                    service: "web".into(),
                    ips: vec!["10.80.1.2".parse().unwrap()],
                },
                Service {
                    app: "shop".into(),
                    service: "idle".into(),
                    ips: vec![],
                },
            ],
            aliases: BTreeMap::from([
                ("main".into(), vec!["10.80.1.9".parse().unwrap()]),
                ("db.example.com.".into(), vec!["10.80.1.8".parse().unwrap()]),
            ]),
            doors: vec![Door {
                key: "db-1".into(),
                ip: "10.80.1.254".parse().unwrap(),
                port: 5432,
                target: Some("10.80.1.7:5432".parse().unwrap()),
            }],
        }
    }

    #[test]
    fn names_are_found_where_they_belong() {
        let index = Index::of(&zone());
        let here = |ip: &str| vec![ip.parse::<Ipv4Addr>().unwrap()];
        for (name, expected) in [
            ("web.shop.internal", Some(here("10.80.1.2"))),
            ("idle.shop.internal", Some(vec![])),
            ("shop.internal", Some(vec![])),
            ("internal", Some(vec![])),
            ("main", Some(here("10.80.1.9"))),
            ("main.internal", Some(here("10.80.1.9"))),
            ("db.example.com", Some(here("10.80.1.8"))),
            ("db.example.com.internal", None),
            ("web.other.internal", None),
            ("x.web.shop.internal", None),
            ("web", None),
            ("2.1.80.10.in-addr.arpa", None),
            ("10.in-addr.arpa", None),
        ] {
            match (index.look_up(name), expected) {
                (Known::Here(ips), Some(expected)) => assert_eq!(ips, expected, "{name}"),
                (Known::Absent, None) => {}
                (known, expected) => panic!("{name}: {known:?}, expected {expected:?}"),
            }
        }
        for foreign in [
            "example.com",
            "notinternal.org",
            "xinternal.net",
            "8.8.8.8.in-addr.arpa",
            "a.b.c.d.e.in-addr.arpa",
        ] {
            assert_eq!(index.look_up(foreign), Known::Foreign, "{foreign}");
        }
        assert_eq!(index.look_up("notinternal"), Known::Absent);
    }

    #[test]
    fn the_file_comes_back_as_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zones.json");
        assert_eq!(read(&path).unwrap(), None);
        let zones = Zones {
            networks: vec![zone()],
        };
        publish(&path, &zones).unwrap();
        assert_eq!(read(&path).unwrap(), Some(zones));
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).is_err());
    }
}
