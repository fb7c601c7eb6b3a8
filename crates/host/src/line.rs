//! How an instance is connected: on its environment's network, or with nobody but itself.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use engine::{EngineError, Workload};
use net::NetworkRules;

use crate::{Host, error};

/// Where an instance is on a network, and what its resolver asks.
pub(crate) struct Line {
    pub(crate) address: Ipv4Addr,
    /// None: a fresh one with nobody in it.
    pub(crate) netns: Option<PathBuf>,
    /// Content of its `/etc/resolv.conf`.
    pub(crate) resolv: String,
}

/// The address of a workload that is on no network: it has only itself.
pub(crate) fn alone(workload: &Workload) -> Option<Ipv4Addr> {
    workload.network.is_empty().then_some(Ipv4Addr::LOCALHOST)
}

/// Gives a workload its place on its network, if it is to have one.
pub(crate) fn connect(host: &Host, workload: &Workload, name: &str) -> Result<Line, EngineError> {
    if let Some(address) = alone(workload) {
        return Ok(Line {
            address,
            netns: None,
            resolv: String::new(),
        });
    }
    let network = host
        .networks
        .ensure_network(&workload.network, &NetworkRules::default())
        .map_err(error::host("make the network"))?;
    crate::names::cover(host, &workload.network)?;
    let place = host
        .networks
        .attach(&workload.network, name, None)
        .map_err(error::host("attach to the network"))?;
    Ok(Line {
        address: place.ip,
        netns: Some(place.netns_path),
        resolv: format!(
            "nameserver {}\nsearch {}\noptions timeout:1 attempts:5\n",
            network.gateway, workload.search_domain
        ),
    })
}
