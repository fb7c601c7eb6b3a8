//! Names of the private networks, handed to the discovery DNS as one file.
//!
//! Invariants: a new process changes nothing before it knows all names; every network that an instance is on has its zone before the instance starts, named or not: its instances
//! also ask for names outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use engine::{Door, EngineError, NetworkNames};
use net::Network;
use net::dns::{Service, Zone, Zones, publish as publish_zones, read as read_zones};

use crate::{Host, doors, error};

/// What was last published.
#[derive(Default)]
pub(crate) struct Published(Mutex<Last>);

#[derive(Default)]
struct Last {
    /// Networks that have their zone.
    covered: BTreeSet<String>,
    /// The doors of each network.
    doors: BTreeMap<String, BTreeMap<String, u16>>,
}

/// Publishes these names for all networks there are.
pub(crate) fn publish(host: &Host, names: &[NetworkNames]) -> Result<(), EngineError> {
    let mut last = host.names.0.lock().unwrap_or_else(PoisonError::into_inner);
    last.covered = write(host, names, &last.doors)?;
    last.doors = names
        .iter()
        .map(|one| (one.network.clone(), ports(&one.doors)))
        .collect();
    let kept = names
        .iter()
        .flat_map(|one| &one.doors)
        .map(|door| door.key.as_str());
    if let Err(cause) = doors::forget(&host.options.doors, &kept.collect()) {
        tracing::warn!(%cause, "doors that are no more could not be forgotten");
    }
    Ok(())
}

/// Sees that a network has its zone. All others stay as they were published, by whichever process.
pub(crate) fn cover(host: &Host, network: &str) -> Result<(), EngineError> {
    let mut last = host.names.0.lock().unwrap_or_else(PoisonError::into_inner);
    if last.covered.contains(network) {
        return Ok(());
    }
    let inventory = host.networks.list().map_err(error::host("list the networks"))?;
    let file = &host.options.zones;
    let known = read_zones(file).unwrap_or_else(|cause| {
        tracing::warn!(%cause, "the names that were published cannot be read; they are published anew");
        None
    });
    let mut zones = known.unwrap_or_default();
    for network in &inventory.networks {
        if !zones.networks.iter().any(|zone| zone.gateway == network.gateway) {
            zones.networks.push(Zone::of(network));
        }
    }
    publish_zones(file, &zones).map_err(error::host("publish the names"))?;
    last.covered = inventory
        .networks
        .into_iter()
        .map(|network| network.key)
        .collect();
    Ok(())
}

fn ports(doors: &[Door]) -> BTreeMap<String, u16> {
    doors.iter().map(|door| (door.key.clone(), door.port)).collect()
}

/// The doors of a network and the addresses they have; when it is full, some have none. The addresses of those that were there
/// `before` go with the next change: whoever is inside is still to hear that it is over.
fn doors_of<'a>(
    host: &Host,
    network: &Network,
    doors: &'a [Door],
    before: Option<&BTreeMap<String, u16>>,
) -> Result<Vec<(&'a Door, Ipv4Addr)>, EngineError> {
    let mut wanted = before.cloned().unwrap_or_default();
    wanted.extend(ports(doors));
    let given = host.networks.ensure_doors(&network.key, &wanted);
    let given = given.map_err(error::host("make the doors of a network"))?;
    let place = |door: &'a Door| {
        let ip = given.get(&door.key);
        if ip.is_none() {
            tracing::warn!(network = %network.key, name = door.name, "its network is full: it is not reached by its name");
        }
        Some((door, *ip?))
    };
    Ok(doors.iter().filter_map(place).collect())
}

fn write(
    host: &Host,
    names: &[NetworkNames],
    before: &BTreeMap<String, BTreeMap<String, u16>>,
) -> Result<BTreeSet<String>, EngineError> {
    let inventory = host.networks.list().map_err(error::host("list the networks"))?;
    let zone = |network: &Network| -> Result<Zone, EngineError> {
        let mine = names.iter().find(|one| one.network == network.key);
        let doors = mine.map_or(&[][..], |one| &one.doors);
        let doors = doors_of(host, network, doors, before.get(&network.key))?;
        let led = doors.iter().map(|(door, ip)| (&door.name, vec![*ip]));
        let named = mine.iter().flat_map(|one| &one.names);
        let services = named
            .map(|(name, addresses)| (name, addresses.clone()))
            .chain(led)
            .filter_map(|(name, ips)| {
                let (service, app) = name.split_once('.')?;
                Some(Service {
                    app: app.to_owned(),
                    service: service.to_owned(),
                    ips,
                })
            });
        let kept = doors.iter().map(|(door, ip)| net::dns::Door {
            key: door.key.clone(),
            ip: *ip,
            port: door.port,
            target: door.target.map(|target| SocketAddrV4::new(target, door.port)),
        });
        Ok(Zone {
            services: services.collect(),
            doors: kept.collect(),
            ..Zone::of(network)
        })
    };
    let zones = Zones {
        networks: inventory.networks.iter().map(zone).collect::<Result<_, _>>()?,
    };
    publish_zones(&host.options.zones, &zones).map_err(error::host("publish the names"))?;
    Ok(inventory
        .networks
        .into_iter()
        .map(|network| network.key)
        .collect())
}
