//! Making networks and attachments real on this host.
//!
//! Lives here: the order in which bridge, settings, namespace and link are made, repaired and removed; what on the
//! host bears our mark.
//! Does not live here: what is remembered (`state`), who may call when (`networks`), single messages (`links`).
//! Invariant: everything here may be called again and then only repairs what differs.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use crate::firewall::{self, Facts, Generation, Zone};
use crate::links::{self, Port};
use crate::namespace;
use crate::netlink::Socket;
use crate::networks::{Options, Repaired};
use crate::state::{AttachmentRecord, AttachmentTable, NetworkRecord, NetworkTable};
use crate::{NetError, Subnet, foreign};

/// The usual size; never above it, for a jumbo uplink says nothing about what lies behind.
const USUAL_MTU: u32 = 1500;

/// Kernel settings of each bridge: no answer to ARP for addresses of other networks (which would tell that they
/// exist), no redirects, sources checked, and no IPv6, which the networks do not carry.
const BRIDGE_SETTINGS: [(&str, &str, &str); 5] = [
    ("ipv4", "arp_ignore", "1"),
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "send_redirects", "0"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv6", "disable_ipv6", "1"),
];

/// The host as one Stoa sees it.
#[derive(Debug)]
pub(crate) struct World {
    pub options: Options,
    namespaces: PathBuf,
}

impl World {
    pub(crate) fn new(options: Options, namespaces: PathBuf) -> Self {
        Self { options, namespaces }
    }

    pub(crate) fn bridge_name(&self, network: &NetworkRecord) -> String {
        format!("{}{}", self.options.mark.bridge_prefix(), network.number)
    }

    /// In base 36: six characters are left of the kernel's fifteen, enough for two billion attachments.
    pub(crate) fn port_name(&self, number: u64) -> String {
        format!(
            "{}{}",
            self.options.mark.port_prefix(),
            base36(number % 36u64.pow(6))
        )
    }

    pub(crate) fn namespace_path(&self, instance: &str) -> PathBuf {
        self.namespaces.join(instance)
    }

    /// Subnets this host reaches otherwise than by our bridges.
    pub(crate) fn routed(&self) -> Result<Vec<Subnet>, NetError> {
        let mut socket = route_socket()?;
        let ours: BTreeSet<u32> = self
            .links(&mut socket)?
            .into_iter()
            .filter(|l| self.is_bridge(&l.name))
            .map(|l| l.index)
            .collect();
        let routes = links::routes(&mut socket).map_err(NetError::kernel("list routes"))?;
        Ok(routes
            .into_iter()
            .filter(|r| r.to.prefix() > 0 && !ours.contains(&r.link))
            .map(|r| r.to)
            .collect())
    }

    pub(crate) fn is_bridge_present(&self, network: &NetworkRecord) -> Result<bool, NetError> {
        let name = self.bridge_name(network);
        Ok(links::find(&mut route_socket()?, &name)
            .map_err(NetError::kernel("look for a bridge"))?
            .is_some())
    }

    /// Make or repair the network's bridge; its index.
    pub(crate) fn ensure_bridge(&self, network: &NetworkRecord, mtu: u32) -> Result<u32, NetError> {
        let mut socket = route_socket()?;
        let name = self.bridge_name(network);
        let doors: Vec<Ipv4Addr> = network.doors.values().map(|door| door.ip).collect();
        let index = links::ensure_bridge(&mut socket, &name, network.gateway(), network.subnet, &doors, mtu)?;
        let set = |path: String, value: &str| {
            namespace::set(&path, value).map_err(NetError::kernel(format!("set {path}")))
        };
        for (family, setting, value) in BRIDGE_SETTINGS {
            set(format!("/proc/sys/net/{family}/conf/{name}/{setting}"), value)?;
        }
        // Per host and shared with others: switched on, never off.
        const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
        if fs::read_to_string(FORWARD).is_ok_and(|v| v.trim() == "0") {
            set(FORWARD.into(), "1")?;
        }
        Ok(index)
    }

    pub(crate) fn delete_bridge(&self, network: &NetworkRecord) -> Result<(), NetError> {
        self.delete_link(&self.bridge_name(network))
    }

    /// Make or repair the instance's namespace and link.
    pub(crate) fn ensure_attachment(
        &self,
        home: &NetworkRecord,
        instance: &str,
        record: &AttachmentRecord,
    ) -> Result<(), NetError> {
        let mut socket = route_socket()?;
        let bridge_name = self.bridge_name(home);
        let found = links::find(&mut socket, &bridge_name).map_err(NetError::kernel("look for a bridge"))?;
        let (bridge, mtu) = match found {
            Some(link) => (link.index, link.mtu),
            None => {
                let mtu = self.mtu()?;
                (self.ensure_bridge(home, mtu)?, mtu)
            }
        };
        let path = self.namespace_path(instance);
        let name = self.port_name(record.number);
        let port = Port {
            name: &name,
            bridge,
            ip: record.ip,
            mtu,
            neighbours: home.rules.neighbours,
        };
        let failed = || format!("make the namespace of {instance}");
        let known = namespace::open(&path).map_err(NetError::kernel(failed()))?;
        let is_new = known.is_none();
        let mut inside = match known {
            Some(known) => known,
            None => {
                // A file may be left where a mount was (reboot), and the link of the old namespace beside it.
                namespace::release(&path).map_err(NetError::kernel(failed()))?;
                namespace::make(&path).map_err(NetError::kernel(failed()))?
            }
        };
        let outside =
            links::find(&mut socket, &name).map_err(NetError::kernel(format!("look for {name}")))?;
        let index = match outside {
            Some(link) if !is_new => link.index,
            known => {
                if let Some(link) = known {
                    links::delete(&mut socket, link.index, &name)?;
                }
                let index = links::make_port(&mut socket, &port, inside.fd.as_fd())?;
                // The host has nothing to say on this link; without this it would solicit routers inside.
                let setting = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
                namespace::set(&setting, "1").map_err(NetError::kernel(format!("set {setting}")))?;
                index
            }
        };
        links::bind_port(&mut socket, index, &port)?;
        links::set_up_inside(&mut inside.socket, record.ip, home.subnet, home.gateway())
    }

    /// Repair the instance's attachment if something of it is missing; what that was.
    pub(crate) fn repair_attachment(
        &self,
        home: &NetworkRecord,
        instance: &str,
        record: &AttachmentRecord,
    ) -> Result<Option<Repaired>, NetError> {
        let mut socket = route_socket()?;
        let mut find =
            |name: &str| links::find(&mut socket, name).map_err(NetError::kernel("look for a link"));
        let bridge = find(&self.bridge_name(home))?.map(|l| l.index);
        let port = find(&self.port_name(record.number))?;
        let path = self.namespace_path(instance);
        let is_mounted = namespace::is_mounted(&path).map_err(NetError::kernel("look for a namespace"))?;
        let is_joined = bridge.is_some() && port.is_some_and(|l| l.up && l.master == bridge);
        let what = match (is_mounted, is_joined) {
            (true, true) => return Ok(None),
            (true, false) => Repaired::Link {
                instance: instance.into(),
            },
            (false, true | false) => Repaired::Namespace {
                instance: instance.into(),
            },
        };
        self.ensure_attachment(home, instance, record)?;
        Ok(Some(what))
    }

    pub(crate) fn release_namespace(&self, instance: &str) -> Result<(), NetError> {
        namespace::release(&self.namespace_path(instance))
            .map_err(NetError::kernel(format!("release the namespace of {instance}")))
    }

    pub(crate) fn forget_neighbour(
        &self,
        home: &NetworkRecord,
        record: &AttachmentRecord,
    ) -> Result<(), NetError> {
        let mut socket = route_socket()?;
        let bridge = links::find(&mut socket, &self.bridge_name(home))
            .map_err(NetError::kernel("look for a bridge"))?;
        match bridge {
            Some(link) => links::forget_neighbour(&mut socket, link.index, record.ip),
            None => Ok(()),
        }
    }

    pub(crate) fn delete_port(&self, number: u64) -> Result<(), NetError> {
        self.delete_link(&self.port_name(number))
    }

    /// Names with our mark that no record names: links, and namespaces (as paths).
    pub(crate) fn strays(
        &self,
        networks: &NetworkTable,
        attachments: &AttachmentTable,
    ) -> Result<Vec<String>, NetError> {
        let bridges = networks.networks.values().map(|n| self.bridge_name(n));
        let ports = attachments.attachments.values().map(|a| self.port_name(a.number));
        let known: BTreeSet<String> = bridges.chain(ports).collect();
        let found = self.links(&mut route_socket()?)?.into_iter().map(|l| l.name);
        let mut strays: Vec<String> = found
            .filter(|name| self.is_bridge(name) || name.starts_with(&self.options.mark.port_prefix()))
            .filter(|name| !known.contains(name))
            .collect();
        let unreadable = |cause| NetError::File {
            what: "list",
            path: self.namespaces.clone(),
            cause,
        };
        for entry in fs::read_dir(&self.namespaces).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let is_known = entry
                .file_name()
                .to_str()
                .is_some_and(|n| attachments.attachments.contains_key(n));
            if !is_known {
                strays.push(entry.path().to_string_lossy().into_owned());
            }
        }
        Ok(strays)
    }

    /// Remove what `strays` named.
    pub(crate) fn remove_stray(&self, name: &str) -> Result<(), NetError> {
        if name.contains('/') {
            return namespace::release(name.as_ref()).map_err(NetError::kernel(format!("release {name}")));
        }
        self.delete_link(name)
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        firewall::generation(&mut Socket::netfilter().ok()?)
    }

    pub(crate) fn is_firewall_present(&self) -> bool {
        Socket::netfilter().is_ok_and(|mut socket| firewall::is_present(&mut socket, &self.options.mark))
    }

    pub(crate) fn apply_firewall(&self, zones: &[Zone]) -> Result<Option<Generation>, NetError> {
        let mut route = route_socket()?;
        let uplink = self.uplink(&mut route)?;
        let facts = Facts {
            mark: &self.options.mark,
            pool: self.options.pool,
            uplink: uplink.as_ref().map(|l| l.name.as_str()),
            zones,
        };
        let mut socket = Socket::netfilter().map_err(NetError::kernel("open a netfilter socket"))?;
        firewall::apply(&mut socket, &firewall::ruleset(&facts))
    }

    /// Have foreign firewalls let our traffic through to our own rules.
    pub(crate) fn pass_foreign_firewalls(&self) {
        foreign::accept(&self.options.mark);
    }

    pub(crate) fn remove_firewall(&self) -> Result<(), NetError> {
        foreign::withdraw(&self.options.mark);
        firewall::remove(&self.options.mark)
    }

    /// The size of packets in all networks: not more than the way out carries.
    pub(crate) fn mtu(&self) -> Result<u32, NetError> {
        Ok(self
            .uplink(&mut route_socket()?)?
            .map_or(USUAL_MTU, |l| l.mtu.min(USUAL_MTU)))
    }

    /// The link of the default route.
    fn uplink(&self, socket: &mut Socket) -> Result<Option<links::Link>, NetError> {
        let routes = links::routes(socket).map_err(NetError::kernel("list routes"))?;
        let Some(default) = routes.iter().find(|r| r.to.prefix() == 0) else {
            return Ok(None);
        };
        Ok(self.links(socket)?.into_iter().find(|l| l.index == default.link))
    }

    fn links(&self, socket: &mut Socket) -> Result<Vec<links::Link>, NetError> {
        links::list(socket).map_err(NetError::kernel("list links"))
    }

    fn is_bridge(&self, name: &str) -> bool {
        name.starts_with(&self.options.mark.bridge_prefix())
    }

    fn delete_link(&self, name: &str) -> Result<(), NetError> {
        let mut socket = route_socket()?;
        match links::find(&mut socket, name).map_err(NetError::kernel(format!("look for {name}")))? {
            Some(link) => links::delete(&mut socket, link.index, name),
            None => Ok(()),
        }
    }
}

fn route_socket() -> Result<Socket, NetError> {
    Socket::route().map_err(NetError::kernel("open a netlink socket"))
}

fn base36(mut number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = Vec::new();
    loop {
        text.push(DIGITS[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    text.iter().rev().map(|b| char::from(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_what_the_kernel_allows() {
        let world = World::new(
            Options::new("/nowhere", "abcdef".parse().unwrap()),
            PathBuf::new(),
        );
        for number in [0, 35, 36, 36u64.pow(6) - 1, 36u64.pow(6), u64::MAX] {
            assert!(world.port_name(number).len() <= 15, "{}", world.port_name(number));
        }
        assert_eq!(base36(36), "10");
    }
}
