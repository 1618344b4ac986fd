//! Packets: what each end of a flow sends, and what is heard of one.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    NetSlice, PacketBuilder, SlicedPacket,
};

use crate::engine::tests::world::{ICMP, ICMPV6, SCTP, TCP, UDP};

const TTL: u8 = 64;
/// Sequence numbers with which initiator and responder begin.
const BEGINS: [u32; 2] = [1_000, 5_000];
/// Verification tags by which SCTP knows initiator and responder.
const TAGS: [u32; 2] = [0x1111_1111, 0x2222_2222];
const RST: u8 = 0x04;

/// What tells a packet from those of other flows, and of the other direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Header {
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Of source and destination; of ICMP the identifier, and type and code.
    pub(super) ports: (u16, u16),
}

impl Header {
    /// Of what answers.
    pub(super) fn reply(self) -> Self {
        let Self { protocol, source, destination, ports } = self;
        let ports = match protocol {
            ICMP => (ports.0, ports.1 & 0xff),
            ICMPV6 => (ports.0, ports.1 | 0x0100),
            _ => (ports.1, ports.0),
        };
        Self { protocol, source: destination, destination: source, ports }
    }
}

/// A packet's place in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// From the initiator, then from the responder.
    First,
    Answer,
    /// From the initiator: the end of a handshake, where there is one.
    Third,
    /// Later, from the initiator and from the responder.
    More,
    MoreBack,
}

impl Part {
    pub(super) fn is_back(self) -> bool {
        matches!(self, Self::Answer | Self::MoreBack)
    }
}

/// The packet of this flow, from its IP header on.
pub(super) fn packet(flow: Header, part: Part) -> Vec<u8> {
    let of = if part.is_back() { flow.reply() } else { flow };
    let (from, to) = of.ports;
    let builder = PacketBuilder::ip(match (of.source, of.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header =
                Ipv4Header::new(0, TTL, IpNumber::UDP, source.octets(), destination.octets())
                    .unwrap();
            // Without it none is given a number of its own.
            header.dont_fragment = true;
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber::UDP,
                hop_limit: TTL,
                source: source.octets(),
                destination: destination.octets(),
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        families => panic!("{families:?}"),
    });
    let identifier = from.to_be_bytes();
    let [kind, code] = to.to_be_bytes();
    let rest = [identifier[0], identifier[1], 0, 1];
    let mut bytes = Vec::new();
    let payload = b"caracal!";
    match of.protocol {
        UDP => builder.udp(from, to).write(&mut bytes, payload).unwrap(),
        ICMP => builder.icmpv4_raw(kind, code, rest).write(&mut bytes, payload).unwrap(),
        ICMPV6 => builder.icmpv6_raw(kind, code, rest).write(&mut bytes, payload).unwrap(),
        TCP => {
            let [own, other] = if part.is_back() { [1, 0] } else { [0, 1] }.map(|of| BEGINS[of]);
            let window = u16::MAX;
            let begins = matches!(part, Part::First | Part::Answer);
            let builder = builder.tcp(from, to, own + u32::from(!begins), window);
            let builder = if begins { builder.syn() } else { builder };
            let builder = if part == Part::First { builder } else { builder.ack(other + 1) };
            let says = matches!(part, Part::More | Part::MoreBack);
            builder.write(&mut bytes, if says { payload } else { &[] }).unwrap();
        }
        SCTP => builder.write(&mut bytes, IpNumber::SCTP, &sctp(of, part)).unwrap(),
        other => panic!("protocol {other}"),
    }
    bytes
}

/// RFC 9260 section 3. Without the checksum, which nobody looks at on the way.
fn sctp(of: Header, part: Part) -> Vec<u8> {
    let [own, other] = if part.is_back() { [1, 0] } else { [0, 1] }.map(|of| TAGS[of]);
    let tag = if part == Part::First { 0 } else { other };
    // Initiate tag, window, streams out and in, first number.
    let begin = [&own.to_be_bytes()[..], &[0, 1, 0, 0], &[0, 1, 0, 1], &[0, 0, 0, 1]].concat();
    let (kind, flags, value) = match part {
        Part::First => (1, 0, begin),
        // With the cookie, which it must have.
        Part::Answer => (2, 0, [&begin[..], &[0, 7, 0, 8], b"cook"].concat()),
        Part::Third => (10, 0, b"cook".to_vec()),
        Part::More | Part::MoreBack => {
            // All of a message: number, stream, number within it, protocol, and what it says.
            (0, 3, [&[0, 0, 0, 1][..], &[0; 8], b"data"].concat())
        }
    };
    let length = u16::try_from(value.len() + 4).unwrap().to_be_bytes();
    let ports = [of.ports.0.to_be_bytes(), of.ports.1.to_be_bytes()].concat();
    [&ports[..], &tag.to_be_bytes(), &[0; 4], &[kind, flags], &length, &value].concat()
}

/// What was heard, from the IP header on; None: no packet of a flow, or one that only refuses it.
pub(super) fn heard(packet: &[u8]) -> Option<Header> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()))
        }
        NetSlice::Arp(_) => return None,
    };
    let ip = sliced.ip_payload()?;
    heard_of(ip.ip_number.0, (source, destination), ip.payload)
}

/// The same of what is after the IP header.
pub(super) fn heard_of(
    protocol: u8,
    (source, destination): (IpAddr, IpAddr),
    payload: &[u8],
) -> Option<Header> {
    let number = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let ports = match protocol {
        ICMP | ICMPV6 => (number(4)?, number(0)?),
        TCP if payload.get(13)? & RST != 0 => return None,
        TCP | UDP | SCTP => (number(0)?, number(2)?),
        _ => return None,
    };
    Some(Header { protocol, source, destination, ports })
}
