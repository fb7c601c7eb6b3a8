//! Bridges, instance links, addresses, neighbours and routes, as netlink requests.
//!
//! Lives here: what exactly a bridge and an instance's link are made of.
//! Does not live here: when they are made (`networks`), the socket (`netlink`), the firewall.
//! Invariant: every function may be called again; what is already as wanted stays untouched.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Answer, Request, Socket, is_absent};
use crate::state::Neighbours;
use crate::subnet::mac_of;
use crate::{NetError, Subnet};

/// Name of the link inside every instance.
pub(crate) const INSIDE: &str = "eth0";
const LOOPBACK_INDEX: u32 = 1;

// Fixed parts and attribute numbers of the answers we read (linux/rtnetlink.h, linux/if_link.h).
const LINK_FIXED: usize = 16;
const LINK_INDEX_AT: usize = 4;
const LINK_FLAGS_AT: usize = 8;
const FLAG_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const ROUTE_FIXED: usize = 12;
const ROUTE_TYPE_AT: usize = 7;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const ADDRESS_FIXED: usize = 8;
const ADDRESS_LINK_AT: usize = 4;
const IFA_LOCAL: u16 = 2;
/// The network part of an address that stands for itself only.
const ALONE: u8 = 32;

/// What we need to know of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub master: Option<u32>,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub up: bool,
}

/// A unicast route of the main table: where to, and through which link.
pub(crate) struct Route {
    pub to: Subnet,
    pub link: u32,
}

/// How the link of an instance is to be.
pub(crate) struct Port<'a> {
    pub name: &'a str,
    pub bridge: u32,
    pub ip: Ipv4Addr,
    pub mtu: u32,
    pub neighbours: Neighbours,
}

/// The link of this name.
pub(crate) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    Ok(socket
        .get(RouteNetlinkMessage::GetLink(message))?
        .as_ref()
        .and_then(link_of))
}

/// All links of the namespace.
pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let found = socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(found.iter().filter_map(link_of).collect())
}

/// All IPv4 unicast routes of the namespace.
pub(crate) fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let found = socket.dump(RouteNetlinkMessage::GetRoute(message))?;
    Ok(found.iter().filter_map(route_of).collect())
}

/// Make the bridge, or repair what differs; its index. Besides its gateway's it has the addresses of `doors`, and no other.
pub(crate) fn ensure_bridge(
    socket: &mut Socket,
    name: &str,
    gateway: Ipv4Addr,
    subnet: Subnet,
    doors: &[Ipv4Addr],
    mtu: u32,
) -> Result<u32, NetError> {
    let mac = mac_of(gateway).to_vec();
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.into()),
        // Fixed: a bridge otherwise takes the lowest MAC of its ports and changes it as they come and go, and every
        // neighbour entry of it goes stale.
        LinkAttribute::Address(mac.clone()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::ForwardDelay(0),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    let index = match find(socket, name).map_err(NetError::kernel(format!("look for bridge {name}")))? {
        Some(known) if known.mac == mac && known.up && known.mtu == mtu => known.index,
        Some(known) => {
            let mut repair = LinkMessage::default();
            repair.header.index = known.index;
            repair.attributes = vec![LinkAttribute::Address(mac), LinkAttribute::Mtu(mtu)];
            run(
                socket,
                vec![request(
                    format!("repair bridge {name}"),
                    RouteNetlinkMessage::SetLink(repair),
                    0,
                )],
            )?;
            known.index
        }
        None => {
            let make = RouteNetlinkMessage::NewLink(link);
            run(
                socket,
                vec![request(
                    format!("make bridge {name}"),
                    make,
                    NLM_F_CREATE | NLM_F_EXCL,
                )],
            )?;
            index_of(socket, name)?
        }
    };
    let mut batch = vec![
        address(
            index,
            gateway,
            subnet.prefix(),
            format!("give {gateway} to bridge {name}"),
        ),
        set_up(index, format!("bring up bridge {name}")),
    ];
    let give = |ip: &Ipv4Addr| address(index, *ip, ALONE, format!("give {ip} to bridge {name}"));
    batch.extend(doors.iter().map(give));
    run(socket, batch)?;
    let had = addresses(socket, index).map_err(NetError::kernel(format!("list addresses of {name}")))?;
    for (ip, prefix) in had {
        if ip != gateway && !doors.contains(&ip) && subnet.contains(ip) {
            let message = RouteNetlinkMessage::DelAddress(address_message(index, ip, prefix));
            run_unless_absent(
                socket,
                request(format!("take {ip} from bridge {name}"), message, 0),
            )?;
        }
    }
    Ok(index)
}

/// The addresses of a link, each with the length of its network part.
fn addresses(socket: &mut Socket, link: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let found = socket.dump(RouteNetlinkMessage::GetAddress(message))?;
    let of = |answer: &Answer| {
        let [_, prefix, ..] = *answer.body.as_slice() else {
            return None;
        };
        let octets: [u8; 4] = answer.attribute(ADDRESS_FIXED, IFA_LOCAL)?.try_into().ok()?;
        (answer.fixed_u32(ADDRESS_LINK_AT)? == link).then_some((Ipv4Addr::from(octets), prefix))
    };
    Ok(found.iter().filter_map(of).collect())
}

/// Make the pair whose inner end is born inside the instance's namespace; the index of the outer end, which is up.
pub(crate) fn make_port(
    socket: &mut Socket,
    port: &Port<'_>,
    inside: BorrowedFd<'_>,
) -> Result<u32, NetError> {
    let Port {
        name,
        bridge,
        mtu,
        ip,
        neighbours: _,
    } = *port;
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(INSIDE.into()),
        LinkAttribute::Address(mac_of(ip).to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NetNsFd(inside.as_raw_fd()),
    ];
    let mut pair = LinkMessage::default();
    // The outer end comes up first, in the same message; the inner one when its address is set. The other order made
    // most first requests wait a second.
    pair.header.flags = LinkFlags::Up;
    pair.header.change_mask = LinkFlags::Up;
    pair.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let make = RouteNetlinkMessage::NewLink(pair);
    run(
        socket,
        vec![request(
            format!("make link {name}"),
            make,
            NLM_F_CREATE | NLM_F_EXCL,
        )],
    )?;
    index_of(socket, name)
}

/// Bind the outer end to its one address: the bridge learns nothing from it and takes frames from its own MAC only;
/// neither bridge nor host ever has to ask who holds the address. Frames between two isolated ports never pass.
pub(crate) fn bind_port(socket: &mut Socket, index: u32, port: &Port<'_>) -> Result<(), NetError> {
    let Port {
        name,
        bridge,
        ip,
        mtu: _,
        neighbours,
    } = *port;
    let mut enslave = LinkMessage::default();
    enslave.header.index = index;
    enslave.header.flags = LinkFlags::Up;
    enslave.header.change_mask = LinkFlags::Up;
    enslave.attributes.push(LinkAttribute::Controller(bridge));
    let mut lock = LinkMessage::default();
    lock.header.index = index;
    lock.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Learning(false),
            InfoBridgePort::Locked(true),
            InfoBridgePort::UnicastFlood(false),
            InfoBridgePort::HairpinMode(false),
            InfoBridgePort::Isolated(neighbours == Neighbours::Apart),
        ])),
    ])];
    let mut forward = NeighbourMessage::default();
    forward.header.family = AddressFamily::Bridge;
    forward.header.ifindex = index;
    // NOARP is what `bridge fdb add ... static` sets: it does not age and is not the bridge's own.
    forward.header.state = NeighbourState::Noarp;
    forward.header.flags = NeighbourFlags::Controller;
    forward.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac_of(ip).to_vec())];
    let replace = NLM_F_CREATE | NLM_F_REPLACE;
    run(
        socket,
        vec![
            request(
                format!("join {name} to its bridge"),
                RouteNetlinkMessage::SetLink(enslave),
                0,
            ),
            request(
                format!("lock {name} to its address"),
                RouteNetlinkMessage::NewLink(lock),
                0,
            ),
            request(
                format!("direct frames to {name}"),
                RouteNetlinkMessage::NewNeighbour(forward),
                replace,
            ),
            neighbour(bridge, ip, format!("remember who holds {ip}")),
        ],
    )
}

/// Set up the inside; `socket` speaks for the instance's namespace.
pub(crate) fn set_up_inside(
    socket: &mut Socket,
    ip: Ipv4Addr,
    subnet: Subnet,
    gateway: Ipv4Addr,
) -> Result<(), NetError> {
    let index = index_of(socket, INSIDE)?;
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(index),
    ];
    run(
        socket,
        vec![
            set_up(LOOPBACK_INDEX, "bring up lo inside".into()),
            address(index, ip, subnet.prefix(), format!("give {ip} to the instance")),
            set_up(index, format!("bring up {INSIDE} inside")),
            neighbour(index, gateway, "remember the gateway inside".into()),
            request(
                "route by the gateway inside".into(),
                RouteNetlinkMessage::NewRoute(route),
                NLM_F_CREATE | NLM_F_REPLACE,
            ),
        ],
    )
}

/// Forget who held an address; nothing to do when it is not known.
pub(crate) fn forget_neighbour(socket: &mut Socket, bridge: u32, ip: Ipv4Addr) -> Result<(), NetError> {
    let what = format!("forget who held {ip}");
    let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(bridge, ip));
    run_unless_absent(socket, request(what, message, 0))
}

/// Delete a link; nothing to do when it is gone.
pub(crate) fn delete(socket: &mut Socket, index: u32, name: &str) -> Result<(), NetError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    run_unless_absent(
        socket,
        request(format!("delete {name}"), RouteNetlinkMessage::DelLink(message), 0),
    )
}

fn neighbour(link: u32, ip: Ipv4Addr, what: String) -> Request {
    let message = RouteNetlinkMessage::NewNeighbour(neighbour_message(link, ip));
    request(what, message, NLM_F_CREATE | NLM_F_REPLACE)
}

fn neighbour_message(link: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)),
        NeighbourAttribute::LinkLayerAddress(mac_of(ip).to_vec()),
    ];
    message
}

fn address(link: u32, ip: Ipv4Addr, prefix: u8, what: String) -> Request {
    request(
        what,
        RouteNetlinkMessage::NewAddress(address_message(link, ip, prefix)),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

fn address_message(link: u32, ip: Ipv4Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(ip)),
        AddressAttribute::Address(IpAddr::V4(ip)),
    ];
    message
}

fn set_up(link: u32, what: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request(what, RouteNetlinkMessage::SetLink(message), 0)
}

fn request(what: String, message: RouteNetlinkMessage, flags: u16) -> Request {
    Request { what, message, flags }
}

/// Perform a batch; the first refusal is the error.
fn run(socket: &mut Socket, batch: Vec<Request>) -> Result<(), NetError> {
    let outcomes = socket
        .perform(&batch)
        .map_err(NetError::kernel("answer a network request"))?;
    for (request, outcome) in batch.into_iter().zip(outcomes) {
        outcome.map_err(NetError::kernel(request.what))?;
    }
    Ok(())
}

fn run_unless_absent(socket: &mut Socket, request: Request) -> Result<(), NetError> {
    match run(socket, vec![request]) {
        Err(NetError::Kernel { cause, .. }) if cause.raw_os_error().is_some_and(is_absent) => Ok(()),
        other => other,
    }
}

fn index_of(socket: &mut Socket, name: &str) -> Result<u32, NetError> {
    let what = || format!("find {name} just made");
    match find(socket, name).map_err(NetError::kernel(what()))? {
        Some(link) => Ok(link.index),
        None => Err(NetError::kernel(what())(io::Error::from(io::ErrorKind::NotFound))),
    }
}

fn link_of(answer: &Answer) -> Option<Link> {
    let text = answer.attribute(LINK_FIXED, IFLA_IFNAME)?;
    Some(Link {
        index: answer.fixed_u32(LINK_INDEX_AT)?,
        name: String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned(),
        master: number(answer.attribute(LINK_FIXED, IFLA_MASTER)),
        mac: answer.attribute(LINK_FIXED, IFLA_ADDRESS).unwrap_or_default(),
        mtu: number(answer.attribute(LINK_FIXED, IFLA_MTU)).unwrap_or(0),
        up: answer.fixed_u32(LINK_FLAGS_AT)? & FLAG_UP != 0,
    })
}

fn route_of(answer: &Answer) -> Option<Route> {
    let [family, prefix, ..] = *answer.body.as_slice() else {
        return None;
    };
    let is_unicast = answer.body.get(ROUTE_TYPE_AT) == Some(&RTN_UNICAST);
    if family != rustix::net::AddressFamily::INET.as_raw() as u8 || !is_unicast {
        return None;
    }
    let octets: [u8; 4] = match answer.attribute(ROUTE_FIXED, RTA_DST) {
        Some(bytes) => bytes.try_into().ok()?,
        None => [0; 4],
    };
    let to = Subnet::containing(Ipv4Addr::from(octets), prefix)?;
    Some(Route {
        to,
        link: number(answer.attribute(ROUTE_FIXED, RTA_OIF))?,
    })
}

fn number(bytes: Option<Vec<u8>>) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes?.try_into().ok()?))
}
