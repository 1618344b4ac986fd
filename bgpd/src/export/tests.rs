//! What groups are made of is tested through [`super::group`]'s users; here is what a route's
//! attributes become.

use super::transform::Origin;
use super::*;
use crate::config::NextHopMode;
use crate::policy::{Applied, Library, PeerType, Policy};
use crate::rib::AttrTable;
use crate::wire::attributes::{self, flag, kind, push};
use crate::wire::{Info, NextHop, UpdateEncoder};
use std::net::{IpAddr, Ipv4Addr};

/// Towards a peer of ours, AS 65000, by the address 192.0.2.1.
fn key(peer_type: PeerType) -> GroupKey {
    GroupKey {
        family: Family::Ipv4Unicast,
        peer_type,
        local_asn: 65000,
        next_hop_mode: NextHopMode::Auto,
        next_hop: Some(NextHop::new(IpAddr::from([192, 0, 2, 1]))),
        encoder: UpdateEncoder {
            four_octet_as: true,
            extended_messages: false,
            extended_next_hop: false,
            add_path: false,
        },
        interval: std::time::Duration::ZERO,
        policy: Library::default().policy(&Policy::accept()),
        client: false,
        cluster: Ipv4Addr::new(9, 9, 9, 9),
    }
}

const LEARNED: Origin = Origin { local: false, originator: None };

/// ORIGIN, this path in one sequence, and these attributes.
fn block(path: &[u32], others: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut octets = Vec::new();
    crate::wire::path::prepend(path, &[], &mut octets);
    push(&mut out, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    push(&mut out, flag::TRANSITIVE, kind::AS_PATH, &octets);
    for (flags, kind, value) in others {
        push(&mut out, *flags, *kind, value);
    }
    out
}

fn sent(key: &GroupKey, block: &[u8], origin: Origin) -> Vec<u8> {
    let mut attrs = AttrTable::default();
    let id = attrs.intern(block, NextHop::new(IpAddr::from([192, 0, 2, 9])));
    key.transform(attrs.get(id), origin, &Applied::default())
}

fn shown(block: &[u8]) -> String {
    crate::wire::path::display(attributes::as_path(block))
}

#[test]
fn what_leaves_the_as_says_nothing_of_its_inside() {
    let inside = block(
        &[65009],
        &[
            (flag::OPTIONAL, kind::MULTI_EXIT_DISC, &[0, 0, 0, 5]),
            (flag::TRANSITIVE, kind::LOCAL_PREF, &[0, 0, 0, 200]),
            (flag::OPTIONAL, kind::ORIGINATOR_ID, &[1, 1, 1, 1]),
            (flag::OPTIONAL, kind::CLUSTER_LIST, &[1, 1, 1, 1]),
            (0xe0, 99, &[1]),
        ],
    );
    let out = sent(&key(PeerType::External), &inside, LEARNED);
    assert_eq!(shown(&out), "65000 65009");
    let kinds: Vec<u8> = attributes::iter(&out).map(|a| a.kind).collect();
    assert_eq!(kinds, [1, 2, 99]);
    // The MED of a route of ours is for the other AS.
    let ours = sent(&key(PeerType::External), &inside, Origin { local: true, ..LEARNED });
    assert_eq!(Info::of(&ours).med, Some(5));
    assert_eq!(sent(&key(PeerType::Internal), &inside, LEARNED), inside);
    let bare = sent(&key(PeerType::Internal), &block(&[], &[]), LEARNED);
    assert_eq!(Info::of(&bare).local_pref, Some(100));
}

#[test]
fn a_reflected_route_says_who_originated_it_and_through_which_clusters_it_came() {
    let by = |originator: u8, cluster: u8, block: &[u8]| {
        let [originator, cluster] = [originator, cluster].map(|n| Ipv4Addr::new(n, n, n, n));
        let key = GroupKey { cluster, ..key(PeerType::Internal) };
        sent(&key, block, Origin { local: false, originator: Some(originator) })
    };
    let large = (0xc0, kind::LARGE_COMMUNITIES, &[0; 12][..]);
    let twice = by(2, 9, &by(1, 8, &block(&[], &[large])));
    let kinds: Vec<u8> = attributes::iter(&twice).map(|a| a.kind).collect();
    assert_eq!(kinds, [1, 2, 5, 9, 10, 32]);
    assert!(
        attributes::iter(&twice)
            .filter(|a| (9..=10).contains(&a.kind))
            .all(|a| a.flags & flag::TRANSITIVE == 0)
    );
    let info = Info::of(&twice);
    assert_eq!(info.originator, Some(Ipv4Addr::new(1, 1, 1, 1)), "the first one's");
    let clusters: Vec<Ipv4Addr> = attributes::clusters(&twice).collect();
    assert_eq!(clusters, [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(8, 8, 8, 8)], "latest first");
}
