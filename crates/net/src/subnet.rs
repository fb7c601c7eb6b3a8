//! IPv4 subnets and the hardware addresses derived from them.
//!
//! Lives here: parsing, splitting and comparing subnets; address to MAC.
//! Does not live here: which subnet or address is given to whom (`state`).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::NetError;

/// An IPv4 subnet; the host bits of its base are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The subnet of this prefix that holds `address`; `None` when the prefix is above 32.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self {
            base: u32::from(address) & mask(prefix),
            prefix,
        })
    }

    /// The length of the network part in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address, which names the subnet.
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// The address at this place in the subnet: 0 is the base.
    pub fn nth(self, place: u32) -> Option<Ipv4Addr> {
        (u64::from(place) < self.size()).then(|| Ipv4Addr::from(self.base + place))
    }

    /// How far this address is from the base; `None` when it is outside.
    pub fn place_of(self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| u32::from(address) - self.base)
    }

    /// How many addresses it spans.
    pub fn size(self) -> u64 {
        1u64 << (32 - self.prefix)
    }

    /// Is this address inside?
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// Do the two share an address?
    pub fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// How many subnets of `prefix` fit in.
    pub fn parts(self, prefix: u8) -> u32 {
        match prefix.checked_sub(self.prefix) {
            Some(bits) if prefix <= 32 && bits < 32 => 1 << bits,
            Some(_) | None => 0,
        }
    }

    /// The part number `index` of those.
    pub fn part(self, prefix: u8, index: u32) -> Option<Self> {
        (index < self.parts(prefix)).then(|| Self {
            base: self.base + (index << (32 - prefix)),
            prefix,
        })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// The hardware address of whoever holds this address.
///
/// Derived and never chosen by the kernel: with chosen ones 3 to 10 % of the first requests to a new instance took a
/// second, because a neighbour entry of the address's former holder was still around (`notes/runtime.md` section 4).
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x57, a, b, c, d]
}

/// The usual colon form.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::BadSubnet(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let subnet = Self::containing(address, prefix.parse().map_err(|_| bad())?).ok_or_else(bad)?;
        if subnet.base() == address {
            Ok(subnet)
        } else {
            Err(bad())
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = NetError;

    fn try_from(text: String) -> Result<Self, NetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn reads_only_what_is_a_subnet() {
        assert_eq!(net("10.80.0.0/12").to_string(), "10.80.0.0/12");
        for bad in [
            "10.80.0.0",
            "10.80.0.1/12",
            "10.80.0.0/33",
            "x/8",
            "10.80.0.0/",
            "10.80.0.0/-1",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_and_places() {
        let pool = net("10.80.0.0/12");
        assert_eq!(pool.parts(24), 4096);
        assert_eq!(pool.part(24, 4095).unwrap().to_string(), "10.95.255.0/24");
        assert_eq!(pool.part(24, 4096), None);
        assert_eq!(pool.parts(8), 0);
        assert_eq!(
            net("10.80.1.0/24").place_of("10.80.1.7".parse().unwrap()),
            Some(7)
        );
        assert_eq!(net("10.80.1.0/24").place_of("10.80.2.7".parse().unwrap()), None);
        assert_eq!(net("0.0.0.0/0").size(), 1 << 32);
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in [
            ("10.80.0.0/12", "10.81.3.0/24", true),
            ("10.81.3.0/24", "10.81.2.0/24", false),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("0.0.0.0/0", "192.0.2.0/24", true),
        ] {
            assert_eq!(net(a).overlaps(net(b)), expected, "{a} {b}");
            assert_eq!(net(b).overlaps(net(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn mac_is_local_unicast_and_follows_the_address() {
        let mac = mac_of("10.80.1.7".parse().unwrap());
        assert_eq!(mac_text(mac), "02:57:0a:50:01:07");
        assert_eq!(mac[0] & 3, 2);
    }
}
