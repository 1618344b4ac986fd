use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn ipv4(protocol: u8, options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options).unwrap();
    let mut packet = vec![0x40 | words, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.resize(20 + options * 4, 1);
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend(Ipv6Addr::from_bits(1).octets());
    packet.extend(Ipv6Addr::from_bits(2).octets());
    packet.extend(payload);
    packet
}

const PORTS: [u8; 8] = [0x14, 0xe9, 0x1f, 0x90, 0, 8, 0, 0];

fn ports() -> Layer4 {
    Layer4::Ports { source: 5353, destination: 8080 }
}

#[test]
fn headers_of_both_families_are_read() {
    let four = |protocol, layer4| Tuple {
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        destination: Ipv4Addr::new(10, 0, 0, 2).into(),
        protocol,
        layer4,
    };
    for protocol in [TCP, UDP, SCTP] {
        for options in [0, 10] {
            let read = tuple(&ipv4(protocol, options, 0x2000, &PORTS));
            assert_eq!(read, Some(four(protocol, ports())), "{options} options");
        }
    }
    let icmp = Layer4::Icmp { id: 7, kind: 8, code: 1 };
    assert_eq!(tuple(&ipv4(ICMP, 0, 0, &[8, 1, 0, 0, 0, 7])), Some(four(ICMP, icmp)));
    assert_eq!(tuple(&ipv4(47, 0, 0, &PORTS)), Some(four(47, Layer4::None)));

    let read = tuple(&ipv6(UDP, &PORTS)).unwrap();
    assert_eq!((read.protocol, read.layer4), (UDP, ports()));
    assert_eq!(read.source, IpAddr::from(Ipv6Addr::from_bits(1)));
    assert_eq!(read.destination, IpAddr::from(Ipv6Addr::from_bits(2)));
}

#[test]
fn ports_are_read_from_first_fragments_only() {
    let later = tuple(&ipv4(UDP, 0, 3, &PORTS)).unwrap();
    assert_eq!((later.protocol, later.layer4), (UDP, Layer4::None));
    let fragment = |offset: u16| {
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        [&[UDP, 0, high, low, 0, 0, 0, 9], &PORTS[..]].concat()
    };
    let first = tuple(&ipv6(FRAGMENT, &fragment(0))).unwrap();
    assert_eq!((first.protocol, first.layer4), (UDP, ports()));
    let later = tuple(&ipv6(FRAGMENT, &fragment(4))).unwrap();
    assert_eq!((later.protocol, later.layer4), (UDP, Layer4::None));
}

#[test]
fn extension_headers_are_passed_over() {
    let hop = [DESTINATION, 0, 0, 0, 0, 0, 0, 0];
    let options = [AUTHENTICATION, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let authentication = [TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let packet = ipv6(HOP_BY_HOP, &[&hop[..], &options, &authentication, &PORTS].concat());
    let read = tuple(&packet).unwrap();
    assert_eq!((read.protocol, read.layer4), (TCP, ports()));
    // One that is cut off inside of them is of a protocol that nobody knows, and still of a flow.
    for length in 40..packet.len() - PORTS.len() {
        assert_eq!(tuple(&packet[..length]).map(|read| read.layer4), Some(Layer4::None));
    }
}

#[test]
fn what_is_no_packet_is_none() {
    for length in 0..20 {
        assert_eq!(tuple(&ipv4(TCP, 0, 0, &PORTS)[..length]), None);
    }
    for length in 0..40 {
        assert_eq!(tuple(&ipv6(TCP, &PORTS)[..length]), None);
    }
    assert_eq!(tuple(&[0x41; 64]), None, "a header of four bytes");
    assert_eq!(tuple(&[0x50; 64]), None, "version 5");
}

#[test]
fn what_is_carried_ends_where_its_header_says() {
    let data = |protocol, payload: &[u8]| {
        let packet = ipv4(protocol, 1, 0, payload);
        carried(&packet).map(|(tuple, data)| (tuple.layer4, data.to_vec()))
    };
    let datagram = [&PORTS[..4], &[0, 10, 0, 0, 1, 2, 3, 4]].concat();
    assert_eq!(data(UDP, &datagram), Some((ports(), vec![1, 2])), "and then padding");
    let cut = [&PORTS[..4], &[0, 99, 0, 0, 1, 2]].concat();
    assert_eq!(data(UDP, &cut), Some((ports(), vec![1, 2])), "as far as it is there");
    assert_eq!(data(UDP, &[&PORTS[..4], &[0, 7, 0, 0, 1, 2]].concat()), None);
    let mut segment = PORTS[..4].to_vec();
    segment.resize(12, 0);
    segment.extend([0x60, 0x18, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 7, 8]);
    assert_eq!(data(TCP, &segment), Some((ports(), vec![7, 8])), "behind the options");
    assert_eq!(data(TCP, &segment[..22]), None);
    assert_eq!(data(SCTP, &datagram), None);
    assert_eq!(carried(&ipv4(UDP, 0, 3, &datagram)), None, "a later fragment");
    let six = ipv6(UDP, &datagram);
    assert_eq!(carried(&six).unwrap().1, [1, 2]);
}

proptest! {
    /// Whatever it is given, it comes to an end without a panic.
    #[test]
    fn garbage_does_no_harm(version in 0u8..16, mut packet in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Some(first) = packet.first_mut() {
            *first = version << 4 | *first & 15;
        }
        if let Some(read) = tuple(&packet) {
            prop_assert_eq!(read.source.is_ipv4(), version == 4);
        }
        if let Some((read, _)) = carried(&packet) {
            prop_assert_eq!(Some(read), tuple(&packet));
        }
    }

    /// Chains of extension headers, cut off anywhere.
    #[test]
    fn chains_of_headers_come_to_an_end(
        kinds in prop::collection::vec(prop::sample::select(&[0u8, 43, 44, 51, 60, 6, 59][..]), 1..20),
        lengths in prop::collection::vec(0u8..3, 20),
        cut in 0usize..400,
    ) {
        let mut payload = Vec::new();
        for (number, length) in lengths.iter().enumerate().take(kinds.len()) {
            let next = kinds.get(number + 1).copied().unwrap_or(UDP);
            payload.extend([next, *length]);
            payload.resize(payload.len() + 6 + usize::from(*length) * 8, 0);
        }
        let packet = ipv6(kinds[0], &payload);
        prop_assert!(tuple(&packet[..packet.len().min(40 + cut)]).is_some());
    }
}
