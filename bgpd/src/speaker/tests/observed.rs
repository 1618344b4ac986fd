//! Tables and streams of what happens as MRT, read back.

use std::collections::BTreeMap;

use super::*;
use crate::mrt::{Body, record};
use crate::speaker::dump::Dump;
use crate::wire::attributes::{as_path, find, kind};
use crate::wire::{MessageType, frame, path};

fn dump(network: &mut Network, at: usize) -> (Vec<u8>, usize) {
    let (now, mut out, mut slices) = (network.now, Vec::new(), 0);
    let mut next = Some(Box::new(Dump::new(1_000_000)));
    while let Some(dump) = next {
        let (records, more) = network.core(at).dump_slice(now, dump);
        out.extend(records);
        next = more;
        slices += 1;
    }
    (out, slices)
}

#[test]
fn a_dump_holds_every_path_as_it_was_received() {
    let mut network = mesh(3, &[65001, 65002, 65003]);
    let many: Vec<String> = (0..3000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    network.change(1, |c| {
        c.networks = own(&many);
        c.networks.extend(own(&["fd00:1::/32"]));
    });
    network.change(2, |c| c.networks = own(&["10.0.0.0/24"]));
    network.change(0, |c| {
        c.networks = own(&["172.16.0.0/12"]);
        c.peers[0].import = Some(crate::policy::Policy::reject());
    });
    network.run_for(MINUTE);
    let (octets, slices) = dump(&mut network, 0);
    assert!(slices > 1, "{slices}");
    let mut rest = &octets[..];
    let mut peers = Vec::new();
    let mut found: BTreeMap<IpNet, Vec<(IpAddr, Vec<u32>)>> = BTreeMap::new();
    let mut sequence = 0;
    while !rest.is_empty() {
        let (record, len) = record(rest).unwrap().unwrap();
        rest = &rest[len..];
        assert_eq!(record.timestamp, 1_000_000);
        match record.body {
            Body::PeerIndexTable(table) => {
                assert_eq!(IpAddr::from(table.collector), address(0));
                peers = table.peers;
            }
            Body::Rib(rib) => {
                assert_eq!(rib.sequence, sequence);
                sequence += 1;
                assert!(!rib.add_path);
                let paths = rib.entries.iter().map(|entry| {
                    assert!((1_000_000 - 60..=1_000_000).contains(&entry.originated));
                    let hop = if rib.prefix.addr().is_ipv4() {
                        kind::NEXT_HOP
                    } else {
                        kind::MP_REACH_NLRI
                    };
                    assert!(find(entry.attributes, hop).is_some());
                    let numbers = path::numbers(as_path(entry.attributes)).collect();
                    (peers[usize::from(entry.peer)].address, numbers)
                });
                let mut paths: Vec<_> = paths.collect();
                paths.sort();
                found.insert(rib.prefix, paths);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(peers.iter().map(|p| p.asn).collect::<Vec<_>>(), [65001, 65002, 65003]);
    assert_eq!(found.len(), 3002);
    let (one, two) = (address(1), address(2));
    assert_eq!(found[&net("172.16.0.0/12")], [("0.0.0.0".parse().unwrap(), vec![])]);
    // Also what the import policy refuses.
    assert_eq!(found[&net("10.1.0.0/24")], [(one, vec![65002]), (two, vec![65003, 65002])]);
    assert_eq!(found[&net("fd00:1::/32")][0], (one, vec![65002]));
    assert_eq!(found[&net("10.0.0.0/24")].len(), 2);
}

#[test]
fn what_happens_is_written_down_in_order_and_within_bounds() {
    let mut network = mesh(4, &[65001, 65002]);
    let wall = Duration::from_secs(1_000_000);
    network.core(0).observe(Some(wall));
    network.run_for(MINUTE);
    network.change(1, |c| c.networks = own(&["10.0.0.0/8"]));
    network.run_for(MINUTE);
    let (octets, dropped) = network.core(0).take_observed().unwrap();
    assert_eq!(dropped, 0);
    assert!(network.core(0).take_observed().is_none());
    let (mut rest, mut last) = (&octets[..], (0, 0));
    let (mut states, mut kinds) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (record, len) = record(rest).unwrap().unwrap();
        rest = &rest[len..];
        let at = (record.timestamp, record.microseconds.unwrap());
        assert!(at >= last && at.0 >= 1_000_000);
        last = at;
        match record.body {
            Body::StateChange(session, old, new) => {
                assert_eq!((session.peer, session.peer_asn), (address(1), 65002));
                assert!(states.last().is_none_or(|s| *s == old));
                states.push(new);
            }
            Body::Message(session, message) => {
                assert_eq!((session.local, session.local_asn), (address(0), 65001));
                assert!(message.four_octet_as && !message.sent && !message.add_path);
                let read = frame(message.octets, 4096).unwrap().unwrap();
                assert_eq!(read.len, message.octets.len());
                kinds.push(read.kind);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(states.last(), Some(&State::Established));
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert!(count(MessageType::Open) >= 1 && count(MessageType::Update) >= 3, "{kinds:?}");
    let counters = network.neighbor(0, 1).counters;
    assert!(kinds.len() as u64 <= counters.messages_received);

    // Nobody takes it: it ends at its bound, and what is lost is counted.
    let now = network.now;
    let mut lost = 0;
    for n in 0..200_000_u32 {
        let mut out = Vec::new();
        crate::wire::encode_keepalive(&mut out);
        if n % 10_000 == 0 && lost > 0 {
            break;
        }
        let conn = network.core(0).connections_of("n1")[0];
        network.core(0).received(now, conn, &out);
        lost = network.core(0).tap.as_ref().unwrap().lost();
    }
    let (octets, dropped) = network.core(0).take_observed().unwrap();
    assert!(octets.len() < 5 << 20 && dropped == lost && lost > 0);
}
