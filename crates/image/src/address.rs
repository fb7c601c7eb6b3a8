//! Which network addresses a registry may make us talk to (N26).
//!
//! Lives here: classes of addresses, and a resolver that refuses at connect time, so that a name which changes its
//! address between check and use gains nothing.
//! Does not live here: HTTP (`registry`).
//! Invariant: a redirect leads to a public address, or to the class of address where the registry itself is; never to link-local
//! ones, where clouds keep their metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::store::locked;

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Public,
    Private,
    Loopback,
    /// Link-local, unspecified, multicast, reserved: no registry is there.
    Never,
}

pub(crate) fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (127, _, _) => Class::Loopback,
        (10, _, _) | (192, 168, _) => Class::Private,
        (172, 16..=31, _) | (100, 64..=127, _) | (198, 18..=19, _) => Class::Private,
        (0, _, _) | (169, 254, _) | (192, 0, 0) | (224..=255, _, _) => Class::Never,
        (_, _, _) => Class::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    let segments = address.segments();
    let embedded = match segments {
        // Mapped, NAT64, 6to4: the address inside is where the packet ends up.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    };
    if let Some(v4) = embedded {
        return class_v4(v4);
    }
    match segments[0] {
        _ if address.is_loopback() => Class::Loopback,
        0 | 0xff00..=0xffff | 0xfe80..=0xfebf | 0xfec0..=0xfeff => Class::Never,
        0xfc00..=0xfdff => Class::Private,
        _ => Class::Public,
    }
}

/// The class the registry turned out to be in; shared between its resolver and the one for other hosts.
pub(crate) type Home = Arc<Mutex<Option<Class>>>;

/// Whom a resolver is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The registry that was asked for, wherever it is.
    Registry,
    /// The registry that was asked for, if it is public.
    PublicRegistry,
    /// A host the registry sent us to.
    Elsewhere,
}

/// Resolves names and refuses what may not be talked to.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) whose: Whose,
    pub(crate) home: Home,
}

/// Travels inside the resolver's error.
#[derive(Debug, thiserror::Error)]
#[error("its address {address} may not be talked to")]
pub(crate) struct Refused {
    address: IpAddr,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        let mut home = locked(&self.home);
        for address in addresses.iter() {
            let found = class(address.ip());
            let is_allowed = match self.whose {
                Whose::Registry => found != Class::Never,
                Whose::PublicRegistry => found == Class::Public,
                Whose::Elsewhere => found == Class::Public || (found != Class::Never && *home == Some(found)),
            };
            if !is_allowed {
                let refused = Refused {
                    address: address.ip(),
                };
                return Err(ureq::Error::Io(std::io::Error::other(refused)));
            }
            if self.whose != Whose::Elsewhere && home.is_none() {
                *home = Some(found);
            }
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_inner_address_is_seen() {
        for (address, expected) in [
            ("8.8.8.8", Class::Public),
            ("127.0.0.1", Class::Loopback),
            ("127.9.9.9", Class::Loopback),
            ("10.1.2.3", Class::Private),
            ("172.16.0.1", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.1.1", Class::Private),
            ("100.64.0.1", Class::Private),
            ("169.254.169.254", Class::Never),
            ("0.0.0.0", Class::Never),
            ("255.255.255.255", Class::Never),
            ("224.0.0.1", Class::Never),
            ("::1", Class::Loopback),
            ("::", Class::Never),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:169.254.169.254", Class::Never),
            ("64:ff9b::7f00:1", Class::Loopback),
            ("2002:7f00:1::", Class::Loopback),
            ("fe80::1", Class::Never),
            ("fd00:ec2::254", Class::Private),
            ("2606:4700::1", Class::Public),
        ] {
            assert_eq!(class(address.parse().unwrap()), expected, "{address}");
        }
    }
}
