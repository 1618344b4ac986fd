//! Tracked flows (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, Ipv4Addr};

use crate::buffer::{self, Attrs, Batch, Message};
use crate::{Result, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DEL: u16 = SUBSYSTEM | 2;

const FAMILY_HEADER: usize = 4;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SOURCE: u32 = 1;
/// Packets were seen in both directions (`IPS_SEEN_REPLY`).
const SEEN_REPLY: u32 = 2;

const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;
const PROTO_ICMP_ID: u16 = 4;
const PROTO_ICMPV6_ID: u16 = 7;

/// What a protocol's flows are told apart by, besides addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer4 {
    /// TCP, UDP, SCTP and alike.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP queries.
    Icmp {
        /// Identifier.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Nothing.
    None,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Ports or the like.
    pub layer4: Layer4,
}

/// A tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// As its initiator sends it, before NAT.
    pub original: Tuple,
    /// As the answers are, before NAT is undone: source and destination are those of the original
    /// after NAT, exchanged.
    pub reply: Tuple,
    /// Conntrack zone, if not the default one.
    pub zone: Option<u16>,
    /// `ct mark`.
    pub mark: u32,
    /// Whether packets were seen in both directions.
    pub replied: bool,
}

/// Which side of which direction an address is looked for on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It began the flow (source of the original direction).
    Initiator,
    /// It answers, after destination NAT (source of the reply direction).
    Responder,
}

fn header(batch: &mut Batch, address: IpAddr) {
    batch.put(&[buffer::family(address), 0, 0, 0]);
}

fn filter(batch: &mut Batch, address: Ipv4Addr, role: Role) {
    let (tuple, original, reply) = match role {
        Role::Initiator => (TUPLE_ORIGINAL, FILTER_IP_SOURCE, 0),
        Role::Responder => (TUPLE_REPLY, 0, FILTER_IP_SOURCE),
    };
    batch.nest(tuple, |batch| {
        let attribute = ip_attribute(address.into(), false);
        batch.nest(TUPLE_IP, |batch| batch.attr(attribute, &address.octets()));
    });
    batch.nest(FILTER, |batch| {
        batch.u32(FILTER_ORIGINAL_FLAGS, original);
        batch.u32(FILTER_REPLY_FLAGS, reply);
    });
}

fn ip_attribute(address: IpAddr, destination: bool) -> u16 {
    let first = if address.is_ipv4() { 1 } else { 3 };
    first + u16::from(destination)
}

/// The flows in which an address has this role. For IPv4 the kernel filters (Linux 5.8; an older
/// one answers with all). Its filter for IPv6 addresses is inverted (`ctnetlink_filter_match_tuple`
/// leaves out the entries that are equal), so for IPv6 all flows are read and filtered here.
pub fn of_address(socket: &mut Socket, address: IpAddr, role: Role) -> Result<Vec<Entry>> {
    let mut request = Batch::new();
    request.message(GET, buffer::DUMP, |batch| {
        header(batch, address);
        if let IpAddr::V4(v4) = address {
            filter(batch, v4, role);
        }
    });
    socket.dump(&mut request, |message| {
        let entry = parse(message)?;
        let source = match role {
            Role::Initiator => entry.original.source,
            Role::Responder => entry.reply.source,
        };
        (source == address).then_some(entry)
    })
}

/// What `parse_entry` makes of each flow of both families.
pub fn all<T>(
    socket: &mut Socket,
    mut parse_entry: impl FnMut(Entry) -> Option<T>,
) -> Result<Vec<T>> {
    let mut request = Batch::new();
    request.message(GET, buffer::DUMP, |batch| batch.put(&[0; FAMILY_HEADER]));
    socket.dump(&mut request, |message| parse_entry(parse(message)?))
}

/// Sets the bits of a flow's mark that `mask` has to those of `mark`; `ENOENT` if the flow ended.
pub fn set_mark(batch: &mut Batch, entry: &Entry, mark: u32, mask: u32) {
    batch.message(NEW, 0, |batch| {
        header(batch, entry.original.source);
        identify(batch, entry);
        batch.be32(MARK, mark & mask);
        batch.be32(MARK_MASK, mask);
    });
}

/// Forgets a flow; `ENOENT` if it ended.
pub fn delete(batch: &mut Batch, entry: &Entry) {
    batch.message(DEL, 0, |batch| {
        header(batch, entry.original.source);
        identify(batch, entry);
    });
}

/// Forgets all flows in which an address has this role. Linux 5.8. Only for IPv4: the kernel would
/// forget all other flows of an IPv6 address (see [`of_address`]).
pub fn delete_of_address(batch: &mut Batch, address: Ipv4Addr, role: Role) {
    batch.message(DEL, 0, |batch| {
        header(batch, address.into());
        filter(batch, address, role);
    });
}

fn identify(batch: &mut Batch, entry: &Entry) {
    if let Some(zone) = entry.zone {
        batch.be16(ZONE, zone);
    }
    let tuple = &entry.original;
    batch.nest(TUPLE_ORIGINAL, |batch| {
        batch.nest(TUPLE_IP, |batch| {
            for (address, destination) in [(tuple.source, false), (tuple.destination, true)] {
                let (bytes, len) = buffer::octets(address);
                batch.attr(ip_attribute(address, destination), &bytes[..len]);
            }
        });
        batch.nest(TUPLE_PROTO, |batch| {
            batch.u8(PROTO_NUMBER, tuple.protocol);
            match tuple.layer4 {
                Layer4::Ports { source, destination } => {
                    batch.be16(PROTO_SOURCE_PORT, source);
                    batch.be16(PROTO_DESTINATION_PORT, destination);
                }
                Layer4::Icmp { id, kind, code } => {
                    let first =
                        if tuple.source.is_ipv4() { PROTO_ICMP_ID } else { PROTO_ICMPV6_ID };
                    batch.be16(first, id);
                    batch.u8(first + 1, kind);
                    batch.u8(first + 2, code);
                }
                Layer4::None => {}
            }
        });
    });
}

pub(crate) fn parse(message: &Message<'_>) -> Option<Entry> {
    if message.kind != NEW {
        return None;
    }
    let attrs = message.attrs(FAMILY_HEADER);
    let number = |kind| attrs.find(kind).and_then(buffer::be32);
    Some(Entry {
        original: parse_tuple(attrs.find(TUPLE_ORIGINAL)?)?,
        reply: parse_tuple(attrs.find(TUPLE_REPLY)?)?,
        zone: attrs.find(ZONE).and_then(buffer::be16),
        mark: number(MARK).unwrap_or(0),
        replied: number(STATUS).unwrap_or(0) & SEEN_REPLY != 0,
    })
}

fn parse_tuple(tuple: &[u8]) -> Option<Tuple> {
    let ip = Attrs(Attrs(tuple).find(TUPLE_IP)?);
    let proto = Attrs(Attrs(tuple).find(TUPLE_PROTO)?);
    let address = |kinds: [u16; 2]| kinds.into_iter().find_map(|kind| buffer::ip(ip.find(kind)?));
    let port = |kind| proto.find(kind).and_then(buffer::be16);
    let byte = |kind| proto.find(kind).and_then(|value| value.first().copied());
    let icmp = |first| {
        Some(Layer4::Icmp { id: port(first)?, kind: byte(first + 1)?, code: byte(first + 2)? })
    };
    let layer4 = match (port(PROTO_SOURCE_PORT), port(PROTO_DESTINATION_PORT)) {
        (Some(source), Some(destination)) => Layer4::Ports { source, destination },
        _ => icmp(PROTO_ICMP_ID).or_else(|| icmp(PROTO_ICMPV6_ID)).unwrap_or(Layer4::None),
    };
    Some(Tuple {
        source: address([1, 3])?,
        destination: address([2, 4])?,
        protocol: byte(PROTO_NUMBER)?,
        layer4,
    })
}
