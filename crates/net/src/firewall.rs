//! Our nftables ruleset: one atomic replacement of our own tables.
//!
//! Lives here: the text of the rules, made from facts alone; handing it to `nft`; noticing that somebody changed
//! something.
//! Does not live here: foreign firewalls (`foreign`), the state it is made from (`state`).
//! Invariants: instances reach their own network, DNS on their gateway and, where allowed, the outside; never another
//! environment, an address of the host, link-local or metadata addresses. A frame leaves an instance only with its own
//! MAC (the bridge port is locked to it, see `links`) and the address that MAC was made from.
//! Other tables are never named here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::netlink::Socket;
use crate::state::{Egress, HostPort, Mark, Neighbours, NetworkRules, Transport};
use crate::{NetError, Subnet};

/// What the rules need to know of one network.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Its bridge.
    pub bridge: String,
    /// Its subnet.
    pub subnet: Subnet,
    /// The host's address in it.
    pub gateway: Ipv4Addr,
    /// Further addresses of the host in it, each with the port that is knocked at.
    pub doors: Vec<(Ipv4Addr, u16)>,
    /// What its instances may reach.
    pub rules: NetworkRules,
}

/// Never reached from an instance: this host's own ranges, multicast, and the addresses where clouds serve machine
/// credentials (link-local for most, 168.63.129.16 Azure, 100.100.100.200 Alibaba, 192.0.0.192 Oracle).
const FORBIDDEN: &str = "0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 192.0.0.192/32, 100.100.100.200/32, \
                         168.63.129.16/32, 224.0.0.0/3";

/// Where whoever keeps the doors listens, whatever port is knocked at: a server of the host's own may listen at that one on
/// all addresses. What listens so is never reached by a door either.
pub(crate) const LISTENS_AT: u16 = 15_432;

/// Bridges of other container systems on this host, and of other Stoas: private networks, not the outside.
const OTHER_BRIDGES: [&str; 9] = [
    "st", "docker", "br-", "virbr", "podman", "cni", "lxcbr", "lxdbr", "incusbr",
];

/// Everything the rules are made from.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Whose rules these are.
    pub mark: &'a Mark,
    /// Where all subnets come from.
    pub pool: Subnet,
    /// The link of the default route: never taken for a private bridge, whatever its name.
    pub uplink: Option<&'a str>,
    /// The networks.
    pub zones: &'a [Zone],
}

/// The whole ruleset of these networks, replacing our tables in one transaction.
pub fn ruleset(facts: &Facts<'_>) -> String {
    let table = facts.mark.table();
    let mut text = String::new();
    for family in ["inet", "bridge"] {
        // Declared before it is deleted: deleting what is absent would fail the transaction.
        let _infallible = writeln!(text, "table {family} {table} {{}}\ndelete table {family} {table}");
    }
    text.push_str(&reach(facts));
    text.push_str(&anti_spoofing(facts.mark));
    text
}

/// The text that removes our tables, present or not.
fn removal(mark: &Mark) -> String {
    let table = mark.table();
    ["inet", "bridge"]
        .map(|family| format!("table {family} {table} {{}}\ndelete table {family} {table}\n"))
        .concat()
}

fn reach(facts: &Facts<'_>) -> String {
    let Facts {
        mark,
        pool,
        uplink,
        zones,
    } = *facts;
    let (table, ours) = (mark.table(), format!("{}*", mark.bridge_prefix()));
    // Neighbours that are kept apart on the bridge must not meet by way of the gateway either.
    let joined = zones
        .iter()
        .filter(|z| z.rules.neighbours == Neighbours::Reachable);
    let same = set(joined.map(|z| format!("\"{0}\" . \"{0}\"", z.bridge)));
    let doors = set(zones.iter().flat_map(|z| {
        doors(z).map(|d| {
            let (ip, transport) = (z.gateway, d.transport.as_str());
            format!("\"{}\" . {ip} . {transport} . {}", z.bridge, d.port)
        })
    }));
    let knocks = || {
        let all = zones.iter();
        all.flat_map(|z| z.doors.iter().map(move |(ip, port)| (&z.bridge, ip, port)))
    };
    let listening = set(knocks().map(|(bridge, ip, _)| format!("\"{bridge}\" . {ip} . tcp . {LISTENS_AT}")));
    // Kernels that cannot tell who listens need not as long as there are no doors.
    let kept = match listening.as_str() {
        "" => "",
        _ => "    iifname . ip daddr . meta l4proto . th dport @listening socket wildcard 0 accept\n",
    };
    let led: String = knocks()
        .map(|(bridge, ip, port)| {
            format!("    iifname \"{bridge}\" ip daddr {ip} tcp dport {port} dnat ip to {ip}:{LISTENS_AT}\n")
        })
        .collect();
    let outgoing = || zones.iter().filter(|z| z.rules.egress == Egress::Allowed);
    let egress = set(outgoing().map(|z| format!("\"{}\"", z.bridge)));
    let masqueraded = set(outgoing().map(|z| z.subnet.to_string()));
    let others: String = OTHER_BRIDGES
        .iter()
        .filter(|prefix| !uplink.is_some_and(|name| name.starts_with(**prefix)))
        .map(|prefix| format!("    oifname \"{prefix}*\" counter reject with icmpx admin-prohibited\n"))
        .collect();
    format!(
        r#"table inet {table} {{
  set same_network {{
    type ifname . ifname
{same}  }}
  set doors {{
    type ifname . ipv4_addr . inet_proto . inet_service
{doors}  }}
  set listening {{
    type ifname . ipv4_addr . inet_proto . inet_service
{listening}  }}
  set egress {{
    type ifname
{egress}  }}
  set masqueraded {{
    type ipv4_addr
    flags interval
{masqueraded}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{led}  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname "{ours}" jump to_host
  }}
  chain to_host {{
    ct state established,related accept
    iifname . ip daddr . meta l4proto . th dport @doors accept
{kept}    counter reject with icmpx admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname "{ours}" jump from_instance
    oifname "{ours}" jump to_instance
  }}
  chain from_instance {{
    iifname . oifname @same_network accept
    meta nfproto != ipv4 counter drop
    ct state invalid counter drop
{others}    ip daddr {{ {FORBIDDEN} }} counter reject with icmpx admin-prohibited
    ip daddr {pool} counter reject with icmpx admin-prohibited
    iifname != @egress counter reject with icmpx admin-prohibited
    accept
  }}
  chain to_instance {{
    ct state established,related accept
    counter drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {{ "lo", "{ours}" }} accept
    ip saddr @masqueraded masquerade
  }}
}}
"#
    )
}

/// A frame may carry only the address its MAC was made from (`subnet::mac_of`): 02:57 and the four octets.
///
/// nft cannot compare two fields, so each octet pair is looked up among the 256 equal pairs. The rules therefore name
/// no network and no instance: attaching one changes nothing here. IPv6, VLAN tags and everything else are dropped.
fn anti_spoofing(mark: &Mark) -> String {
    let (table, ports) = (mark.table(), format!("{}*", mark.port_prefix()));
    // Bit offsets: the Ethernet source begins at 48 of the link header, the IPv4 source at 96, the ARP sender's
    // hardware address at 64 and its protocol address at 112 of the network header.
    let pairs = |left: &str, from: u32, right: u32| -> String {
        (0..4)
            .map(|n| {
                format!(
                    "@{left},{},8 . @nh,{},8 @same_octet ",
                    from + 16 + n * 8,
                    right + n * 8
                )
            })
            .collect()
    };
    let (ip_source, arp_source, arp_sender) =
        (pairs("ll", 48, 96), pairs("ll", 48, 112), pairs("nh", 64, 112));
    let octets = set((0..=255).map(|n| format!("{n} . {n}")));
    format!(
        r#"table bridge {table} {{
  set same_octet {{
    typeof @ll,64,8 . @nh,96,8
{octets}  }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{ports}" jump from_port
  }}
  chain from_port {{
    @ll,48,16 != 0x0257 counter drop
    ether type ip {ip_source}accept
    ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 @nh,64,16 0x0257 {arp_source}{arp_sender}accept
    counter drop
  }}
}}
"#
    )
}

/// The ports of the gateway that instances may reach: DNS always.
fn doors(zone: &Zone) -> impl Iterator<Item = HostPort> {
    const DNS: u16 = 53;
    let dns = [Transport::Tcp, Transport::Udp].map(|transport| HostPort { transport, port: DNS });
    let further = zone.rules.host_ports.iter().copied().filter(|p| p.port != DNS);
    dns.into_iter().chain(further)
}

/// The elements line; none at all for an empty set, which nft requires.
fn set(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    if elements.is_empty() {
        String::new()
    } else {
        format!("    elements = {{ {} }}\n", elements.join(", "))
    }
}

/// Which ruleset is in force, told apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

/// The kernel counts every change of any rule in this network namespace.
pub(crate) fn generation(socket: &mut Socket) -> Option<Generation> {
    // NFT_MSG_GETGEN of the nf_tables subsystem; the body is an empty nfgenmsg; the number is attribute 1, big endian.
    const GET_GENERATION: u16 = (10 << 8) | 16;
    let answer = socket.get_raw(GET_GENERATION, &[0; 4]).ok()??;
    let number = answer.attribute(4, 1)?.try_into().ok()?;
    Some(Generation(u32::from_be_bytes(number)))
}

/// Put a ruleset in force. The generation it made, unless somebody else changed rules at the same time: then whoever
/// compares later must not believe that nothing happened since.
pub(crate) fn apply(socket: &mut Socket, rules: &str) -> Result<Option<Generation>, NetError> {
    let before = generation(socket);
    nft(rules)?;
    let after = generation(socket);
    Ok(after.filter(|after| before.is_some_and(|before| before.0.wrapping_add(1) == after.0)))
}

/// Remove our tables.
pub(crate) fn remove(mark: &Mark) -> Result<(), NetError> {
    nft(&removal(mark))
}

/// Do our tables exist?
pub(crate) fn is_present(socket: &mut Socket, mark: &Mark) -> bool {
    // NFT_MSG_GETTABLE with the table's name as attribute 1; NFPROTO_INET is 1, NFPROTO_BRIDGE 7.
    const GET_TABLE: u16 = (10 << 8) | 1;
    let name = mark.table();
    [1u8, 7].into_iter().all(|family| {
        let mut body = vec![family, 0, 0, 0];
        let length = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        matches!(socket.get_raw(GET_TABLE, &body), Ok(Some(_)))
    })
}

fn nft(rules: &str) -> Result<(), NetError> {
    let missing = |cause| NetError::Tool { tool: "nft", cause };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    // nft reads everything before it says anything, so writing first cannot block on its output.
    let written = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() && matches!(written, Some(Ok(()))) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said
        .lines()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("nft ended early")
        .to_owned();
    Err(NetError::Firewall { reason })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn zone(number: u8, rules: NetworkRules) -> Zone {
        Zone {
            bridge: format!("stm-{number}"),
            subnet: Subnet::containing(Ipv4Addr::new(10, 80, number, 0), 24).unwrap(),
            gateway: Ipv4Addr::new(10, 80, number, 1),
            doors: vec![(Ipv4Addr::new(10, 80, number, 254), 5432)],
            rules,
        }
    }

    fn rules(uplink: Option<&str>, zones: &[Zone]) -> String {
        let (mark, pool) = ("m".parse().unwrap(), "10.80.0.0/12".parse().unwrap());
        ruleset(&Facts {
            mark: &mark,
            pool,
            uplink,
            zones,
        })
    }

    /// The whole text is reviewed: `tests/firewall.nft`. To accept a change, write what the failure prints there.
    #[test]
    fn the_rules_of_two_networks_are_as_reviewed() {
        let closed = NetworkRules {
            egress: Egress::Denied,
            host_ports: BTreeSet::from([HostPort {
                transport: Transport::Tcp,
                port: 8080,
            }]),
            ..NetworkRules::default()
        };
        let text = rules(Some("eth0"), &[zone(0, NetworkRules::default()), zone(1, closed)]);
        // The 256 pairs are left out of the snapshot.
        let octets = text.lines().find(|l| l.contains("255 . 255")).unwrap();
        let text = text.replace(octets, "    elements = { 0 . 0, ..., 255 . 255 }");
        assert_eq!(text, include_str!("../tests/firewall.nft"), "{text}");
    }

    #[test]
    fn neighbours_kept_apart_do_not_meet_by_way_of_the_gateway() {
        let apart = NetworkRules {
            neighbours: Neighbours::Apart,
            ..NetworkRules::default()
        };
        let text = rules(None, &[zone(0, NetworkRules::default()), zone(1, apart)]);
        assert!(text.contains("\"stm-0\" . \"stm-0\""), "{text}");
        assert!(!text.contains("\"stm-1\" . \"stm-1\""), "{text}");
    }

    #[test]
    fn without_networks_no_set_has_an_elements_line() {
        let text = rules(None, &[]);
        assert_eq!(text.matches("elements").count(), 1, "only the octets:\n{text}");
    }

    #[test]
    fn the_uplink_is_the_outside_whatever_its_name() {
        assert!(rules(None, &[]).contains("oifname \"br-*\""));
        assert!(!rules(Some("br-lan"), &[]).contains("oifname \"br-*\""));
        assert!(rules(Some("br-lan"), &[]).contains("oifname \"docker*\""));
    }

    #[test]
    fn attaching_never_changes_the_rules_for_frames() {
        let mark = "m".parse().unwrap();
        assert!(rules(None, &[zone(7, NetworkRules::default())]).ends_with(&anti_spoofing(&mark)));
        assert!(!anti_spoofing(&mark).contains("10.80"));
    }
}
