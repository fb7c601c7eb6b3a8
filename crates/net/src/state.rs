//! What is remembered about networks and attachments, and who gets which subnet and address.
//!
//! Lives here: the two state files, and the pure choices of subnet, bridge number and address.
//! Does not live here: making any of it real (`networks`, `links`).
//! Invariants: a subnet belongs to one network until that network is destroyed; an address belongs to one
//! attachment, and a freed one is given again only after all others had their turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable::{self, Keep};
use crate::{NetError, Subnet};

/// Short id of one Stoa data directory; part of every name made on the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mark(String);

impl Mark {
    /// The text of the mark.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the nftables tables.
    pub fn table(&self) -> String {
        format!("stoa_{}", self.0)
    }

    /// Every bridge of this mark begins so. The dash ends the mark: `st` + `a` must not match the bridges of `ab`.
    pub fn bridge_prefix(&self) -> String {
        format!("st{}-", self.0)
    }

    /// Every host side of an instance's link begins so.
    pub fn port_prefix(&self) -> String {
        format!("sv{}-", self.0)
    }
}

impl FromStr for Mark {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let fits = (1..=6).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(NetError::BadMark(text.into()))
        }
    }
}

impl TryFrom<String> for Mark {
    type Error = NetError;

    fn try_from(text: String) -> Result<Self, NetError> {
        text.parse()
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> Self {
        mark.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the gateway address that instances may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Its protocol.
    pub transport: Transport,
    /// Its number.
    pub port: u16,
}

/// What the instances of one network may reach besides DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRules {
    /// May they reach the outside, masqueraded?
    pub egress: Egress,
    /// Further ports of the gateway address.
    pub host_ports: BTreeSet<HostPort>,
    /// May they reach one another? Holds for what is attached from now on.
    #[serde(default)]
    pub neighbours: Neighbours,
}

/// May the instances of one network reach one another?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Neighbours {
    /// Yes: they belong together.
    #[default]
    Reachable,
    /// No: strangers that share nothing but the gateway.
    Apart,
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self {
            egress: Egress::Allowed,
            host_ports: BTreeSet::new(),
            neighbours: Neighbours::Reachable,
        }
    }
}

/// May instances reach what lies outside this machine?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Yes, masqueraded.
    Allowed,
    /// No.
    Denied,
}

/// One network as remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Number of its bridge.
    pub number: u32,
    pub subnet: Subnet,
    pub rules: NetworkRules,
    /// Addresses on the host that stand for what may not run just now, by whose they are.
    #[serde(default)]
    pub doors: BTreeMap<String, DoorRecord>,
}

/// One door as remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoorRecord {
    pub ip: Ipv4Addr,
    pub port: u16,
}

impl NetworkRecord {
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        // A subnet of at least four addresses is checked when a network is made.
        self.subnet.nth(1).unwrap_or_else(|| self.subnet.base())
    }

    /// Has the doors of exactly these, each with the port it is knocked at: who has one keeps its address, and a new one gets
    /// the highest that is neither another's nor in `held`. Where there is none it gets no door.
    pub(crate) fn set_doors(&mut self, wanted: &BTreeMap<String, u16>, held: &BTreeSet<Ipv4Addr>) {
        self.doors.retain(|whose, _| wanted.contains_key(whose));
        let size = u32::try_from(self.subnet.size()).unwrap_or(u32::MAX);
        for (whose, port) in wanted {
            if let Some(known) = self.doors.get_mut(whose) {
                known.port = *port;
                continue;
            }
            let is_free =
                |ip: &Ipv4Addr| !held.contains(ip) && self.doors.values().all(|door| door.ip != *ip);
            let ip = (0..size)
                .rev()
                .filter(|place| is_for_instances(self.subnet, *place))
                .filter_map(|place| self.subnet.nth(place))
                .find(is_free);
            if let Some(ip) = ip {
                self.doors.insert(whose.clone(), DoorRecord { ip, port: *port });
            }
        }
    }
}

/// The networks: outlives reboots, for addresses of services should not wander.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkTable {
    pub networks: BTreeMap<String, NetworkRecord>,
}

/// One attachment as remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachmentRecord {
    /// Key of its network.
    pub network: String,
    pub ip: Ipv4Addr,
    /// Names its host side; never given twice.
    pub number: u64,
}

/// The attachments, and where the choice of the next address stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachmentTable {
    pub next_number: u64,
    /// Place in its subnet of the address last given, per network.
    pub last_place: BTreeMap<String, u32>,
    /// By instance id.
    pub attachments: BTreeMap<String, AttachmentRecord>,
}

impl NetworkTable {
    /// The network of this key, made if absent. `routed` are subnets the host reaches otherwise.
    pub(crate) fn ensure(
        &mut self,
        key: &str,
        rules: &NetworkRules,
        pool: Subnet,
        prefix: u8,
        routed: &[Subnet],
    ) -> Result<(), NetError> {
        if let Some(known) = self.networks.get_mut(key) {
            known.rules = rules.clone();
            return Ok(());
        }
        let taken = |candidate: Subnet| {
            self.networks.values().any(|n| n.subnet.overlaps(candidate))
                || routed.iter().any(|r| r.overlaps(candidate))
        };
        let parts = pool.parts(prefix);
        let first = hash(key) % parts.max(1);
        let subnet = (0..parts)
            .filter_map(|step| pool.part(prefix, (first + step) % parts))
            .find(|candidate| !taken(*candidate))
            .ok_or_else(|| NetError::PoolExhausted {
                pool: pool.to_string(),
                key: key.into(),
            })?;
        let used: BTreeSet<u32> = self.networks.values().map(|n| n.number).collect();
        let number = (0..).find(|n| !used.contains(n)).unwrap_or(0);
        self.networks.insert(
            key.into(),
            NetworkRecord {
                number,
                subnet,
                rules: rules.clone(),
                doors: BTreeMap::new(),
            },
        );
        Ok(())
    }
}

impl AttachmentTable {
    /// The record of this instance, made if absent.
    pub(crate) fn ensure(
        &mut self,
        key: &str,
        network: &NetworkRecord,
        instance: &str,
        wanted: Option<Ipv4Addr>,
    ) -> Result<AttachmentRecord, NetError> {
        if let Some(known) = self.attachments.get(instance) {
            if known.network != key {
                return Err(NetError::AttachedElsewhere {
                    instance: instance.into(),
                    network: known.network.clone(),
                });
            }
            return match wanted {
                Some(ip) if ip != known.ip => Err(refused(
                    ip,
                    instance,
                    "the instance already holds another address",
                )),
                Some(_) | None => Ok(known.clone()),
            };
        }
        let ip = match wanted {
            Some(ip) => self.check_wanted(network, instance, ip)?,
            None => self.choose(key, network)?,
        };
        let record = AttachmentRecord {
            network: key.into(),
            ip,
            number: self.next_number,
        };
        self.next_number += 1;
        self.attachments.insert(instance.into(), record.clone());
        Ok(record)
    }

    /// How many instances a network has.
    pub(crate) fn count_in(&self, key: &str) -> usize {
        self.attachments.values().filter(|a| a.network == key).count()
    }

    fn check_wanted(
        &self,
        network: &NetworkRecord,
        instance: &str,
        ip: Ipv4Addr,
    ) -> Result<Ipv4Addr, NetError> {
        match network.subnet.place_of(ip) {
            None => Err(refused(ip, instance, "it lies outside the network")),
            Some(place) if !is_for_instances(network.subnet, place) => {
                Err(refused(ip, instance, "it is reserved"))
            }
            Some(_) if self.attachments.values().any(|a| a.ip == ip) => {
                Err(refused(ip, instance, "another instance holds it"))
            }
            Some(_) if network.doors.values().any(|door| door.ip == ip) => {
                Err(refused(ip, instance, "a door has it"))
            }
            Some(_) => Ok(ip),
        }
    }

    /// The free address after the one last given, so that a freed address rests as long as possible.
    fn choose(&mut self, key: &str, network: &NetworkRecord) -> Result<Ipv4Addr, NetError> {
        let doors = network.doors.values().map(|door| door.ip);
        let used: BTreeSet<Ipv4Addr> = self.attachments.values().map(|a| a.ip).chain(doors).collect();
        let size = u32::try_from(network.subnet.size()).unwrap_or(u32::MAX);
        let last = self.last_place.get(key).copied().unwrap_or(1);
        let place = (1..=size)
            .map(|step| last.wrapping_add(step) % size)
            .filter(|place| is_for_instances(network.subnet, *place))
            .find(|place| network.subnet.nth(*place).is_some_and(|ip| !used.contains(&ip)));
        let full = || NetError::NetworkFull { key: key.into() };
        let place = place.ok_or_else(full)?;
        self.last_place.insert(key.into(), place);
        network.subnet.nth(place).ok_or_else(full)
    }
}

/// Not the base, not the gateway, not the broadcast address.
pub(crate) fn is_for_instances(subnet: Subnet, place: u32) -> bool {
    place > 1 && u64::from(place) + 1 < subnet.size()
}

fn refused(ip: Ipv4Addr, instance: &str, why: &'static str) -> NetError {
    NetError::AddressRefused {
        ip,
        instance: instance.into(),
        why,
    }
}

/// FNV-1a: spreads networks over the pool, the same way on every machine and in every version.
fn hash(key: &str) -> u32 {
    key.bytes()
        .fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// Where the two tables are kept.
#[derive(Debug)]
pub(crate) struct StateFiles {
    networks: PathBuf,
    attachments: PathBuf,
}

impl StateFiles {
    pub(crate) fn within(dir: &Path) -> Self {
        Self {
            networks: dir.join("networks.json"),
            attachments: dir.join("attachments.json"),
        }
    }

    pub(crate) fn load(&self) -> Result<(NetworkTable, AttachmentTable), NetError> {
        Ok((load(&self.networks)?, load(&self.attachments)?))
    }

    pub(crate) fn save_networks(&self, table: &NetworkTable) -> Result<(), NetError> {
        save(&self.networks, table, Keep::ThroughPowerCut)
    }

    /// Not synced: attaching is on the path of every start, and what these records name ends with the boot anyway.
    pub(crate) fn save_attachments(&self, table: &AttachmentTable) -> Result<(), NetError> {
        save(&self.attachments, table, Keep::ThisBoot)
    }
}

fn load<T: DeserializeOwned + Default>(path: &Path) -> Result<T, NetError> {
    let content = durable::read(path).map_err(|cause| NetError::File {
        what: "read",
        path: path.into(),
        cause,
    })?;
    match content {
        // A file that was not synced may come back empty after a power cut: then nothing of it exists any more.
        None => Ok(T::default()),
        Some(content) if content.is_empty() => Ok(T::default()),
        Some(content) => serde_json::from_slice(&content).map_err(|cause| NetError::Damaged {
            path: path.into(),
            cause,
        }),
    }
}

fn save<T: Serialize>(path: &Path, table: &T, keep: Keep) -> Result<(), NetError> {
    let content = serde_json::to_vec(table).map_err(|cause| NetError::Damaged {
        path: path.into(),
        cause,
    })?;
    durable::replace(path, &content, keep).map_err(|cause| NetError::File {
        what: "write",
        path: path.into(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Subnet {
        "10.80.0.0/12".parse().unwrap()
    }

    fn ensured(table: &mut NetworkTable, key: &str, routed: &[Subnet]) -> NetworkRecord {
        table
            .ensure(key, &NetworkRules::default(), pool(), 24, routed)
            .unwrap();
        table.networks[key].clone()
    }

    #[test]
    fn marks() {
        assert!("abc123".parse::<Mark>().is_ok());
        for bad in ["", "abcdefg", "A", "a-b", "a b", "é"] {
            assert!(bad.parse::<Mark>().is_err(), "{bad}");
        }
        let (short, long): (Mark, Mark) = ("a".parse().unwrap(), "ab".parse().unwrap());
        assert!(!long.bridge_prefix().starts_with(&short.bridge_prefix()));
    }

    #[test]
    fn a_network_keeps_its_subnet_and_differs_from_others() {
        let mut table = NetworkTable::default();
        let first = ensured(&mut table, "env_1", &[]);
        let second = ensured(&mut table, "env_2", &[]);
        assert_eq!(ensured(&mut table, "env_1", &[]), first);
        assert!(!first.subnet.overlaps(second.subnet));
        assert_ne!(first.number, second.number);
    }

    #[test]
    fn a_subnet_routed_on_the_host_is_avoided() {
        let free = ensured(&mut NetworkTable::default(), "env_1", &[]).subnet;
        let moved = ensured(&mut NetworkTable::default(), "env_1", &[free]).subnet;
        assert!(!free.overlaps(moved));
        let mut table = NetworkTable::default();
        let error = table
            .ensure("x", &NetworkRules::default(), pool(), 24, &[pool()])
            .unwrap_err();
        assert!(matches!(error, NetError::PoolExhausted { .. }));
    }

    #[test]
    fn a_freed_address_rests_until_all_others_had_their_turn() {
        let mut networks = NetworkTable::default();
        let network = ensured(&mut networks, "e", &[]);
        let mut table = AttachmentTable::default();
        let first = table.ensure("e", &network, "i0", None).unwrap();
        assert_eq!(network.subnet.place_of(first.ip), Some(2));
        table.attachments.remove("i0");
        let mut seen = BTreeSet::new();
        for n in 1..=252 {
            let id = format!("i{n}");
            seen.insert(table.ensure("e", &network, &id, None).unwrap().ip);
            table.attachments.remove(&id);
        }
        assert_eq!(seen.len(), 252);
        assert!(!seen.contains(&first.ip));
        assert_eq!(table.ensure("e", &network, "again", None).unwrap().ip, first.ip);
    }

    #[test]
    fn a_full_network_says_so_and_numbers_are_never_given_twice() {
        let mut networks = NetworkTable::default();
        let network = ensured(&mut networks, "e", &[]);
        let mut table = AttachmentTable::default();
        for n in 0..253 {
            table.ensure("e", &network, &format!("i{n}"), None).unwrap();
        }
        assert!(matches!(
            table.ensure("e", &network, "more", None),
            Err(NetError::NetworkFull { .. })
        ));
        let numbers: BTreeSet<u64> = table.attachments.values().map(|a| a.number).collect();
        assert_eq!(numbers.len(), 253);
    }

    #[test]
    fn a_wanted_address_is_checked() {
        let mut networks = NetworkTable::default();
        let network = ensured(&mut networks, "e", &[]);
        let mut table = AttachmentTable::default();
        let ip = network.subnet.nth(9).unwrap();
        assert_eq!(table.ensure("e", &network, "a", Some(ip)).unwrap().ip, ip);
        assert_eq!(table.ensure("e", &network, "a", None).unwrap().ip, ip);
        assert!(table.ensure("e", &network, "b", Some(ip)).is_err());
        assert!(table.ensure("other", &network, "a", None).is_err());
        for place in [0, 1, 255] {
            assert!(
                table
                    .ensure("e", &network, "c", network.subnet.nth(place))
                    .is_err()
            );
        }
        assert!(
            table
                .ensure("e", &network, "c", Some(Ipv4Addr::LOCALHOST))
                .is_err()
        );
    }

    #[test]
    fn doors_keep_their_addresses_and_no_instance_gets_one() {
        let mut networks = NetworkTable::default();
        let mut network = ensured(&mut networks, "e", &[]);
        let mut table = AttachmentTable::default();
        let high = network.subnet.nth(254).unwrap();
        let held = BTreeSet::from([table.ensure("e", &network, "a", Some(high)).unwrap().ip]);
        let wanted = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), 5432)).collect();
        network.set_doors(&wanted(&["x", "y"]), &held);
        let (x, y) = (network.doors["x"].ip, network.doors["y"].ip);
        assert_eq!(network.subnet.place_of(x), Some(253));
        assert_eq!(network.subnet.place_of(y), Some(252));
        network.set_doors(&wanted(&["w", "y"]), &held);
        assert_eq!((network.doors["w"].ip, network.doors["y"].ip), (x, y));
        assert!(!network.doors.contains_key("x"));
        assert!(table.ensure("e", &network, "b", Some(y)).is_err());
        for n in 0..250 {
            let ip = table.ensure("e", &network, &format!("i{n}"), None).unwrap().ip;
            assert!(network.doors.values().all(|door| door.ip != ip));
        }
        assert!(table.ensure("e", &network, "more", None).is_err());
        let held = table.attachments.values().map(|a| a.ip).collect();
        network.set_doors(&wanted(&["v", "w", "y"]), &held);
        let left: Vec<&String> = network.doors.keys().collect();
        assert_eq!(
            left,
            ["w", "y"],
            "those that have one keep it, and there is none left"
        );
    }

    #[test]
    fn the_files_hold_what_was_saved_and_an_emptied_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::within(dir.path());
        let mut networks = NetworkTable::default();
        let network = ensured(&mut networks, "e", &[]);
        let mut attachments = AttachmentTable::default();
        attachments.ensure("e", &network, "i", None).unwrap();
        files.save_networks(&networks).unwrap();
        files.save_attachments(&attachments).unwrap();
        assert_eq!(files.load().unwrap(), (networks.clone(), attachments));
        std::fs::write(dir.path().join("attachments.json"), "").unwrap();
        assert_eq!(files.load().unwrap(), (networks, AttachmentTable::default()));
        std::fs::write(dir.path().join("networks.json"), "{").unwrap();
        assert!(matches!(files.load(), Err(NetError::Damaged { .. })));
    }
}
