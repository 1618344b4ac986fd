//! MRT out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Body, Record, Rib, Session, kind};
use crate::session::State;
use crate::wire::attributes::{self, flag, kind as attribute, push};
use crate::wire::{AS_TRANS, NextHop, Prefix, Prefix4, Prefix6};

impl Record<'_> {
    /// Appends the record. What does not fit the format is cut: more than 65535 peers or routes to
    /// one prefix, and attributes of more than 65535 octets with their route.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let sort = match (&self.body, self.microseconds) {
            (Body::PeerIndexTable(_) | Body::Rib(_), _) => kind::TABLE_DUMP_V2,
            (Body::StateChange(..) | Body::Message(..), None) => kind::BGP4MP,
            (Body::StateChange(..) | Body::Message(..), Some(_)) => kind::BGP4MP_ET,
            (Body::Unknown { kind, .. }, _) => *kind,
        };
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&sort.to_be_bytes());
        out.extend_from_slice(&self.body.subtype().to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        let from = out.len();
        if let (kind::BGP4MP_ET, Some(microseconds)) = (sort, self.microseconds)
            && !matches!(self.body, Body::Unknown { .. })
        {
            out.extend_from_slice(&microseconds.to_be_bytes());
        }
        self.body.encode(out);
        let len = u32::try_from(out.len() - from).unwrap_or(u32::MAX).to_be_bytes();
        out[start + 8..start + 12].copy_from_slice(&len);
    }
}

impl Body<'_> {
    fn subtype(&self) -> u16 {
        match self {
            Body::PeerIndexTable(_) => 1,
            Body::Rib(rib) => match (rib.prefix.addr(), rib.add_path) {
                (IpAddr::V4(_), false) => 2,
                (IpAddr::V6(_), false) => 4,
                (IpAddr::V4(_), true) => 8,
                (IpAddr::V6(_), true) => 10,
            },
            Body::StateChange(..) => 5,
            Body::Message(_, message) => match (message.four_octet_as, message.sent) {
                (false, false) if message.add_path => 8,
                (true, false) if message.add_path => 9,
                (false, true) if message.add_path => 10,
                (true, true) if message.add_path => 11,
                (false, false) => 1,
                (true, false) => 4,
                (false, true) => 6,
                (true, true) => 7,
            },
            Body::Unknown { subtype, .. } => *subtype,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Body::PeerIndexTable(table) => {
                out.extend_from_slice(&table.collector.octets());
                let view = &table.view[..table.view.len().min(usize::from(u16::MAX))];
                count(view.len(), out);
                out.extend_from_slice(view);
                let peers = &table.peers[..table.peers.len().min(usize::from(u16::MAX))];
                count(peers.len(), out);
                for peer in peers {
                    out.push(2 | u8::from(peer.address.is_ipv6()));
                    out.extend_from_slice(&peer.router_id.octets());
                    address(peer.address, out);
                    out.extend_from_slice(&peer.asn.to_be_bytes());
                }
            }
            Body::Rib(rib) => encode_rib(rib, out),
            Body::StateChange(session, old, new) => {
                encode_session(session, true, out);
                for state in [old, new] {
                    out.extend_from_slice(&state_number(*state).to_be_bytes());
                }
            }
            Body::Message(session, message) => {
                encode_session(session, message.four_octet_as, out);
                out.extend_from_slice(message.octets);
            }
            Body::Unknown { body, .. } => out.extend_from_slice(body),
        }
    }
}

fn encode_rib(rib: &Rib<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&rib.sequence.to_be_bytes());
    if let Some(prefix) = Prefix4::from_net(&rib.prefix) {
        prefix.encode(out);
    } else if let Some(prefix) = Prefix6::from_net(&rib.prefix) {
        prefix.encode(out);
    }
    let fits = |octets: &[u8]| u16::try_from(octets.len()).ok();
    let entries: Vec<_> = rib
        .entries
        .iter()
        .filter_map(|entry| Some((entry, fits(entry.attributes)?)))
        .take(usize::from(u16::MAX))
        .collect();
    count(entries.len(), out);
    for (entry, len) in entries {
        out.extend_from_slice(&entry.peer.to_be_bytes());
        out.extend_from_slice(&entry.originated.to_be_bytes());
        if rib.add_path {
            out.extend_from_slice(&entry.path_id.to_be_bytes());
        }
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(entry.attributes);
    }
}

fn count(n: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes());
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

fn encode_session(session: &Session, four_octet_as: bool, out: &mut Vec<u8>) {
    for asn in [session.peer_asn, session.local_asn] {
        if four_octet_as {
            out.extend_from_slice(&asn.to_be_bytes());
        } else {
            out.extend_from_slice(&u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes());
        }
    }
    out.extend_from_slice(&session.interface.to_be_bytes());
    let v6 = session.peer.is_ipv6();
    out.extend_from_slice(&[0, 1 + u8::from(v6)]);
    // Both are of one family; an address that is not, such as none at all, is the unspecified one.
    let local = match (session.local, v6) {
        (IpAddr::V6(_), false) => Ipv4Addr::UNSPECIFIED.into(),
        (IpAddr::V4(_), true) => Ipv6Addr::UNSPECIFIED.into(),
        (local, _) => local,
    };
    address(session.peer, out);
    address(local, out);
}

/// As RFC 6396 section 4.4.1 counts them.
const fn state_number(state: State) -> u16 {
    match state {
        State::Idle => 1,
        State::Connect => 2,
        State::Active => 3,
        State::OpenSent => 4,
        State::OpenConfirm => 5,
        State::Established => 6,
    }
}

/// The attributes of a route in a table: the block with the next hop in its place, in NEXT_HOP for
/// an IPv4 one and otherwise alone in MP_REACH_NLRI (RFC 6396 section 4.3.4).
pub(crate) fn rib_attributes(block: &[u8], next_hop: NextHop, out: &mut Vec<u8>) {
    let mut value = Vec::new();
    let (sort, flags) = match next_hop.addr {
        IpAddr::V4(v4) => {
            value.extend_from_slice(&v4.octets());
            (attribute::NEXT_HOP, flag::TRANSITIVE)
        }
        IpAddr::V6(v6) => {
            value.push(if next_hop.link_local.is_some() { 32 } else { 16 });
            value.extend_from_slice(&v6.octets());
            value.extend(next_hop.link_local.into_iter().flat_map(|a| a.octets()));
            (attribute::MP_REACH_NLRI, flag::OPTIONAL)
        }
    };
    let mut due = true;
    for attribute in attributes::iter(block) {
        if attribute.kind > sort && std::mem::take(&mut due) {
            push(out, flags, sort, &value);
        }
        push(out, attribute.flags, attribute.kind, attribute.value);
    }
    if due {
        push(out, flags, sort, &value);
    }
}
