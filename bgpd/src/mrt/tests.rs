//! What is written reads back, and what is no MRT does no harm.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::transport::memory::Random;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128_u8).prop_map(|(address, len)| {
        let len = if address.is_ipv4() { len.min(32) } else { len };
        IpNet::new(address, len).unwrap().trunc()
    })
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![Just(State::Idle), Just(State::Active), Just(State::Established)]
}

fn session() -> impl Strategy<Value = Session> {
    (any::<u16>(), any::<u16>(), any::<u16>(), address(), any::<[u8; 16]>()).prop_map(
        |(peer_asn, local_asn, interface, peer, local)| {
            let local = match peer {
                IpAddr::V4(_) => IpAddr::from([local[0], local[1], local[2], local[3]]),
                IpAddr::V6(_) => IpAddr::from(local),
            };
            let (peer_asn, local_asn) = (peer_asn.into(), local_asn.into());
            Session { peer_asn, local_asn, interface, peer, local }
        },
    )
}

/// A record in values of its own.
#[derive(Clone, Debug)]
enum Plain {
    Peers(Vec<(u32, IpAddr, u32)>, Vec<u8>),
    Rib(u32, IpNet, bool, Vec<(u16, u32, u32, Vec<u8>)>),
    State(Session, State, State),
    Message(Session, [bool; 3], Vec<u8>),
    Unknown(u16, Vec<u8>),
}

fn plain() -> impl Strategy<Value = Plain> {
    let octets = || vec(any::<u8>(), 0..40);
    prop_oneof![
        (vec((any::<u32>(), address(), any::<u32>()), 0..5), octets())
            .prop_map(|(peers, view)| Plain::Peers(peers, view)),
        (
            any::<u32>(),
            net(),
            any::<bool>(),
            vec((any::<u16>(), any::<u32>(), any::<u32>(), octets()), 0..4)
        )
            .prop_map(|(sequence, net, add_path, mut entries)| {
                for entry in entries.iter_mut().filter(|_| !add_path) {
                    entry.2 = 0;
                }
                Plain::Rib(sequence, net, add_path, entries)
            }),
        (session(), state(), state()).prop_map(|(s, a, b)| Plain::State(s, a, b)),
        (session(), any::<[bool; 3]>(), octets()).prop_map(|(s, f, o)| Plain::Message(s, f, o)),
        (50..60_u16, octets()).prop_map(|(kind, body)| Plain::Unknown(kind, body)),
    ]
}

impl Plain {
    fn body(&self) -> Body<'_> {
        match self {
            Self::Peers(peers, view) => Body::PeerIndexTable(PeerIndexTable {
                collector: Ipv4Addr::new(192, 0, 2, 1),
                view,
                peers: peers
                    .iter()
                    .map(|(id, address, asn)| Peer {
                        router_id: Ipv4Addr::from(*id),
                        address: *address,
                        asn: *asn,
                    })
                    .collect(),
            }),
            Self::Rib(sequence, prefix, add_path, entries) => Body::Rib(Rib {
                sequence: *sequence,
                prefix: *prefix,
                add_path: *add_path,
                entries: entries
                    .iter()
                    .map(|(peer, originated, path_id, attributes)| Entry {
                        peer: *peer,
                        originated: *originated,
                        path_id: *path_id,
                        attributes,
                    })
                    .collect(),
            }),
            Self::State(session, old, new) => Body::StateChange(*session, *old, *new),
            Self::Message(session, [four_octet_as, add_path, sent], octets) => {
                let (four_octet_as, add_path, sent) = (*four_octet_as, *add_path, *sent);
                Body::Message(*session, Message { four_octet_as, add_path, sent, octets })
            }
            Self::Unknown(kind, body) => Body::Unknown { kind: *kind, subtype: 3, body },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn records_read_back(
        plain in vec(plain(), 1..4),
        timestamp: u32,
        micro in prop::option::of(0..1_000_000_u32),
    ) {
        let records: Vec<Record<'_>> = plain
            .iter()
            .map(|plain| {
                let body = plain.body();
                let timed = matches!(body, Body::StateChange(..) | Body::Message(..));
                Record { timestamp, microseconds: micro.filter(|_| timed), body }
            })
            .collect();
        let mut octets = Vec::new();
        for record in &records {
            record.encode(&mut octets);
        }
        let mut rest = &octets[..];
        for wanted in &records {
            let (found, len) = record(rest).unwrap().unwrap();
            prop_assert_eq!(&found, wanted);
            // A record that is not all there yet is waited for.
            prop_assert_eq!(record(&rest[..len - 1]), Ok(None));
            rest = &rest[len..];
        }
        prop_assert!(rest.is_empty());
    }
}

#[test]
fn mutated_records_do_no_harm() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seeds = Vec::new();
    for _ in 0..300 {
        let plain = plain().new_tree(&mut runner).unwrap().current();
        let mut octets = Vec::new();
        Record { timestamp: 1, microseconds: Some(2), body: plain.body() }.encode(&mut octets);
        seeds.push(octets);
    }
    let mut random = Random::new(5);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let mut octets = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(octets.len());
            match random.below(4) {
                0 => octets[at] = random.next().to_be_bytes()[0],
                1 => octets[at] ^= 1 << random.below(8),
                2 => octets.insert(at, 0),
                _ => octets.truncate(at.max(1)),
            }
        }
        crate::fuzz::mrt(&octets);
        match record(&octets) {
            Ok(Some(_)) => read += 1,
            Ok(None) => {}
            Err(_) => refused += 1,
        }
    }
    assert!(read > 10_000 && refused > 1_000, "{read} {refused}");
    let length = [&[0_u8; 8][..], &u32::MAX.to_be_bytes()].concat();
    assert_eq!(record(&length), Err(MrtError::TooLong(u32::MAX as usize)));
}

#[test]
fn the_next_hop_has_its_place_among_the_attributes() {
    use crate::wire::attributes::{iter, kind, push};
    let mut block = Vec::new();
    push(&mut block, 0x40, kind::ORIGIN, &[0]);
    push(&mut block, 0x40, kind::AS_PATH, &[]);
    push(&mut block, 0x40, kind::LOCAL_PREF, &[0, 0, 0, 100]);
    push(&mut block, 0xc0, kind::LARGE_COMMUNITIES, &[0; 12]);
    let kinds = |hop: &str| -> Vec<u8> {
        let mut out = Vec::new();
        let hop = crate::wire::NextHop::new(hop.parse().unwrap());
        rib_attributes(&block, hop, &mut out);
        iter(&out).map(|a| a.kind).collect()
    };
    assert_eq!(kinds("192.0.2.1"), [1, 2, 3, 5, 32]);
    assert_eq!(kinds("fd00::1"), [1, 2, 5, 14, 32]);
}
