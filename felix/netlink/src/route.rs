//! Routes (`RTM_*ROUTE`, `include/uapi/linux/rtnetlink.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::buffer::{self, Attrs, Batch, Message};
use crate::{Result, Socket};

const NEW: u16 = 24;
const DEL: u16 = 25;
const GET: u16 = 26;

const HEADER: usize = 12;
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const MULTIPATH: u16 = 9;
const TABLE: u16 = 15;
/// A gateway of the other family (`RTA_VIA`, RFC 8950 next hops).
const VIA: u16 = 18;
const HOP_HEADER: usize = 8;
/// Answer with the route itself, not with what it leads to for one packet.
const FIB_MATCH: u32 = 0x2000;
/// A clone made by the kernel (`RTM_F_CLONED`): of no routing table.
const CLONED: u32 = 0x200;

/// The multicast group of notifications about IPv4 routes (`RTNLGRP_IPV4_ROUTE`).
pub const NOTIFICATIONS_V4: u32 = 7;
/// The multicast group of notifications about IPv6 routes (`RTNLGRP_IPV6_ROUTE`).
pub const NOTIFICATIONS_V6: u32 = 11;
/// The table that packets are routed by (`RT_TABLE_MAIN`).
pub const MAIN: u32 = 254;

/// What becomes of packets to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// They are sent on.
    Unicast,
    /// They are dropped silently.
    Blackhole,
    /// Another kind, by its number (`RTN_*`).
    Other(u8),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => libc::RTN_UNICAST,
            Self::Blackhole => libc::RTN_BLACKHOLE,
            Self::Other(number) => number,
        }
    }
}

/// One way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// The next router; none: the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface; needed where there is no gateway, or a link-local one.
    pub interface: Option<u32>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The destination's address and length in bits.
    pub destination: (IpAddr, u8),
    /// Routing table.
    pub table: u32,
    /// Who wrote it (`RTPROT_*`).
    pub protocol: u8,
    /// Lower is better; IPv6 turns 0 into 1024.
    pub metric: u32,
    /// What becomes of packets.
    pub kind: Kind,
    /// Ways out; more than one: each flow takes one of them.
    pub hops: Vec<Hop>,
}

/// What a notification says of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It exists, and is now so.
    Changed(Route),
    /// It is gone.
    Removed(Route),
}

/// Writes a route, replacing one of the same destination, table and metric.
pub fn replace(batch: &mut Batch, route: &Route) {
    message(batch, NEW, buffer::CREATE | buffer::REPLACE, route);
}

/// Writes a route; `EEXIST` if there is one of the same destination, table and metric.
pub fn add(batch: &mut Batch, route: &Route) {
    message(batch, NEW, buffer::CREATE | buffer::EXCLUSIVE, route);
}

/// Deletes the route of this destination, table, protocol and metric, wherever it leads;
/// `ESRCH` if there is none.
pub fn delete(batch: &mut Batch, route: &Route) {
    batch.message(DEL, 0, |batch| {
        header(batch, route, libc::RT_SCOPE_NOWHERE, 0);
        key(batch, route);
    });
}

fn message(batch: &mut Batch, kind: u16, flags: u16, route: &Route) {
    let on_link = route.kind == Kind::Unicast
        && route.destination.0.is_ipv4()
        && route.hops.iter().all(|hop| hop.gateway.is_none());
    let scope = if on_link { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    batch.message(kind, flags, |batch| {
        header(batch, route, scope, route.kind.number());
        key(batch, route);
        match &route.hops[..] {
            [] => {}
            [hop] => {
                if let Some(index) = hop.interface {
                    batch.u32(INTERFACE, index);
                }
                gateway(batch, route, hop);
            }
            hops => batch.nest(MULTIPATH, |batch| {
                for hop in hops {
                    // struct rtnexthop: length, flags, weight - 1, interface
                    let start = batch.size();
                    batch.put(&[0; HOP_HEADER]);
                    gateway(batch, route, hop);
                    batch.patch_hop(start, hop.interface.unwrap_or(0));
                }
            }),
        }
    });
}

impl Batch {
    /// Fills in the `struct rtnexthop` that starts at `start` and ends where the batch does.
    fn patch_hop(&mut self, start: usize, interface: u32) {
        let len = u16::try_from(self.size() - start).unwrap_or(u16::MAX);
        let mut bytes = [0; HOP_HEADER];
        bytes[..2].copy_from_slice(&len.to_ne_bytes());
        bytes[4..].copy_from_slice(&interface.to_ne_bytes());
        self.overwrite(start, &bytes);
    }
}

fn header(batch: &mut Batch, route: &Route, scope: u8, kind: u8) {
    let (address, length) = route.destination;
    // Tables beyond 255 are only told by their attribute.
    let table = u8::try_from(route.table).unwrap_or(libc::RT_TABLE_COMPAT);
    let family = buffer::family(address);
    batch.put(&[family, length, 0, 0, table, route.protocol, scope, kind, 0, 0, 0, 0]);
}

fn key(batch: &mut Batch, route: &Route) {
    let (bytes, len) = buffer::octets(route.destination.0);
    batch.attr(DESTINATION, &bytes[..len]);
    batch.u32(TABLE, route.table);
    batch.u32(PRIORITY, route.metric);
}

fn gateway(batch: &mut Batch, route: &Route, hop: &Hop) {
    let Some(gateway) = hop.gateway else { return };
    let (bytes, len) = buffer::octets(gateway);
    if gateway.is_ipv4() == route.destination.0.is_ipv4() {
        batch.attr(GATEWAY, &bytes[..len]);
    } else {
        // struct rtvia: family, address
        let mut via = u16::from(buffer::family(gateway)).to_ne_bytes().to_vec();
        via.extend_from_slice(&bytes[..len]);
        batch.attr(VIA, &via);
    }
}

/// The routes of one protocol in one table, both families.
pub fn list(socket: &mut Socket, table: u32, protocol: u8) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for unspecified in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let mut request = Batch::new();
        request.message(GET, buffer::DUMP, |batch| {
            let table = u8::try_from(table).unwrap_or(libc::RT_TABLE_COMPAT);
            batch.put(&[buffer::family(unspecified), 0, 0, 0, table, protocol, 0, 0, 0, 0, 0, 0]);
            batch.u32(TABLE, u32::from(table));
        });
        let listed = socket.dump(&mut request, |message| {
            let route = parse(message, NEW)?;
            (route.table == table && route.protocol == protocol).then_some(route)
        });
        match listed {
            Ok(listed) => routes.extend(listed),
            // The kernel makes a table with its first route.
            Err(error) if error.is(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(routes)
}

/// The route that packets to `address` take now; `ENETUNREACH` if there is none.
pub fn lookup(socket: &mut Socket, address: IpAddr) -> Result<Route> {
    let mut request = Batch::new();
    request.message(GET, 0, |batch| {
        let (bytes, len) = buffer::octets(address);
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut header = [0; HEADER];
        header[0] = buffer::family(address);
        header[1] = bits;
        header[8..].copy_from_slice(&FIB_MATCH.to_ne_bytes());
        batch.put(&header);
        batch.attr(DESTINATION, &bytes[..len]);
    });
    socket.query(&mut request, |message| parse(message, NEW))
}

/// From a notification, if it is one about routes.
pub fn event(message: &Message<'_>) -> Option<Event> {
    match message.kind {
        NEW => parse(message, NEW).map(Event::Changed),
        DEL => parse(message, DEL).map(Event::Removed),
        _ => None,
    }
}

fn parse(message: &Message<'_>, kind: u16) -> Option<Route> {
    if message.kind != kind {
        return None;
    }
    let header: &[u8; HEADER] = message.payload.first_chunk()?;
    if buffer::ne32(&header[8..])? & CLONED != 0 {
        return None;
    }
    let attrs = message.attrs(HEADER);
    let number = |kind| attrs.find(kind).and_then(buffer::ne32);
    let address = match attrs.find(DESTINATION) {
        Some(bytes) => buffer::ip(bytes)?,
        None if i32::from(header[0]) == libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        None if i32::from(header[0]) == libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        None => return None,
    };
    let kind = match header[7] {
        libc::RTN_UNICAST => Kind::Unicast,
        libc::RTN_BLACKHOLE => Kind::Blackhole,
        other => Kind::Other(other),
    };
    let hops = match attrs.find(MULTIPATH) {
        Some(list) => parse_hops(list),
        // The interface that IPv6 gives a blackhole is not a way out.
        None if kind == Kind::Blackhole => Vec::new(),
        None => {
            let hop = Hop { gateway: parse_gateway(&attrs), interface: number(INTERFACE) };
            if hop.gateway.is_some() || hop.interface.is_some() { vec![hop] } else { Vec::new() }
        }
    };
    Some(Route {
        destination: (address, header[1]),
        table: number(TABLE).unwrap_or(u32::from(header[4])),
        protocol: header[5],
        metric: number(PRIORITY).unwrap_or(0),
        kind,
        hops,
    })
}

fn parse_gateway(attrs: &Attrs<'_>) -> Option<IpAddr> {
    match attrs.find(GATEWAY) {
        Some(bytes) => buffer::ip(bytes),
        None => buffer::ip(attrs.find(VIA)?.get(2..)?),
    }
}

fn parse_hops(mut list: &[u8]) -> Vec<Hop> {
    let mut hops = Vec::new();
    while let Some(header) = list.first_chunk::<HOP_HEADER>() {
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(attrs) = list.get(HOP_HEADER..len) else { break };
        let interface = buffer::ne32(&header[4..]).filter(|index| *index != 0);
        hops.push(Hop { gateway: parse_gateway(&Attrs(attrs)), interface });
        list = list.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}
