//! Names of the private networks, handed to the discovery DNS as one file.
//!
//! Invariant: every network that an instance is on has its zone before the instance starts, named or not: its instances
//! also ask for names outside.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use engine::{EngineError, NetworkNames};
use net::dns::{Service, Zone, Zones, publish as publish_zones};

use crate::{Host, error};

/// What was last published.
#[derive(Default)]
pub(crate) struct Published(Mutex<(Vec<NetworkNames>, BTreeSet<String>)>);

/// Publishes these names for all networks there are.
pub(crate) fn publish(host: &Host, names: &[NetworkNames]) -> Result<(), EngineError> {
    let mut last = host.names.0.lock().unwrap_or_else(PoisonError::into_inner);
    last.1 = write(host, names)?;
    names.clone_into(&mut last.0);
    Ok(())
}

/// Sees that a network has its zone.
pub(crate) fn cover(host: &Host, network: &str) -> Result<(), EngineError> {
    let mut last = host.names.0.lock().unwrap_or_else(PoisonError::into_inner);
    if !last.1.contains(network) {
        last.1 = write(host, &last.0)?;
    }
    Ok(())
}

fn write(host: &Host, names: &[NetworkNames]) -> Result<BTreeSet<String>, EngineError> {
    let inventory = host.networks.list().map_err(error::host("list the networks"))?;
    let zones = inventory.networks.iter().map(|network| {
        let mine = names.iter().find(|one| one.network == network.key);
        let services = mine
            .iter()
            .flat_map(|one| &one.names)
            .filter_map(|(name, addresses)| {
                let (service, app) = name.split_once('.')?;
                Some(Service {
                    app: app.to_owned(),
                    service: service.to_owned(),
                    ips: addresses.clone(),
                })
            });
        Zone {
            services: services.collect(),
            ..Zone::of(network)
        }
    });
    let zones = Zones {
        networks: zones.collect(),
    };
    publish_zones(&host.options.zones, &zones).map_err(error::host("publish the names"))?;
    Ok(inventory
        .networks
        .into_iter()
        .map(|network| network.key)
        .collect())
}
