//! The headers of an IP packet, as far as a flow is told apart by them.

use std::net::IpAddr;

use crate::buffer;
use crate::conntrack::{Layer4, Tuple};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// IPv6 extension headers that others follow (RFC 8200 section 4.1, RFC 4302).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What a packet that begins with its IP header says of its flow; it may be cut off anywhere behind
/// that. None if it is no IP packet, or its IP header is not whole. [`Layer4::None`] where the ports
/// are not there: in a later fragment, in what was cut off, in other protocols.
pub fn tuple(packet: &[u8]) -> Option<Tuple> {
    parts(packet).map(|(tuple, _)| tuple)
}

/// What a packet of UDP or TCP carries, as far as it is there; and its flow. None if it is of another
/// protocol, a later fragment, or cut off in its headers.
pub fn carried(packet: &[u8]) -> Option<(Tuple, &[u8])> {
    let (tuple, rest) = parts(packet)?;
    let data = match tuple.protocol {
        UDP => {
            let length = usize::from(buffer::be16(rest.get(4..)?)?);
            rest.get(8..length.min(rest.len()))?
        }
        TCP => rest.get(usize::from(rest.get(12)? >> 4).max(5) * 4..)?,
        _ => return None,
    };
    Some((tuple, data))
}

/// The flow, and what begins with the header of its protocol: nothing, in a later fragment.
fn parts(packet: &[u8]) -> Option<(Tuple, &[u8])> {
    match packet.first()? >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => None,
    }
}

fn v4(packet: &[u8]) -> Option<(Tuple, &[u8])> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet.get(..length)?;
    let address = |at: usize| header.get(at..at + 4).and_then(buffer::ip);
    let (source, destination) = (address(12)?, address(16)?);
    let protocol = *header.get(9)?;
    let is_first = buffer::be16(header.get(6..)?)? & 0x1fff == 0;
    let rest = if is_first { packet.get(length..).unwrap_or_default() } else { &[] };
    Some((Tuple { source, destination, protocol, layer4: layer4(protocol, rest) }, rest))
}

fn v6(packet: &[u8]) -> Option<(Tuple, &[u8])> {
    let header = packet.get(..40)?;
    let address = |at: usize| -> Option<IpAddr> { header.get(at..at + 16).and_then(buffer::ip) };
    let (source, destination) = (address(8)?, address(24)?);
    let (mut protocol, mut rest) = (*header.get(6)?, packet.get(40..)?);
    let mut is_first = true;
    // Each turn takes at least eight bytes away.
    loop {
        let length = match (protocol, rest) {
            (HOP_BY_HOP | ROUTING | DESTINATION, [_, length, ..]) => (usize::from(*length) + 1) * 8,
            (AUTHENTICATION, [_, length, ..]) => (usize::from(*length) + 2) * 4,
            (FRAGMENT, [_, _, high, low, ..]) => {
                is_first &= u16::from_be_bytes([*high, *low]) >> 3 == 0;
                8
            }
            _ => break,
        };
        let Some(next) = rest.first().copied().filter(|_| is_first || protocol == FRAGMENT) else {
            break;
        };
        protocol = next;
        rest = rest.get(length..).unwrap_or_default();
    }
    let rest = if is_first { rest } else { &[] };
    Some((Tuple { source, destination, protocol, layer4: layer4(protocol, rest) }, rest))
}

fn layer4(protocol: u8, header: &[u8]) -> Layer4 {
    let number = |at: usize| header.get(at..).and_then(buffer::be16);
    match protocol {
        TCP | UDP | DCCP | SCTP | UDPLITE => match (number(0), number(2)) {
            (Some(source), Some(destination)) => Layer4::Ports { source, destination },
            _ => Layer4::None,
        },
        ICMP | ICMPV6 => match header {
            // What has no identifier has something else there; nobody asks then.
            [kind, code, ..] => {
                Layer4::Icmp { id: number(4).unwrap_or(0), kind: *kind, code: *code }
            }
            _ => Layer4::None,
        },
        _ => Layer4::None,
    }
}

#[cfg(test)]
mod tests;
