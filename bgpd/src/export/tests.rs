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
        withhold_stale: false,
        interval: std::time::Duration::ZERO,
        paths: None,
        policy: Library::default().policy(&Policy::accept()),
        departure: Departure::default(),
        client: false,
        cluster: Ipv4Addr::new(9, 9, 9, 9),
    }
}

const LEARNED: Origin = Origin { local: false, originator: None, passes_by: false };

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
    key.transform(attrs.get(id), origin, &Applied::default()).unwrap()
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
        sent(&key, block, Origin { originator: Some(originator), ..LEARNED })
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

/// A neighbor of AS 65002, towards which the speaker of AS 64999 is AS 65000.
fn departing(change: impl FnOnce(&mut crate::PeerConfig)) -> GroupKey {
    let mut peer = crate::PeerConfig::new("p", "192.0.2.9".parse().unwrap(), 65002);
    peer.local_asn = Some(65000);
    change(&mut peer);
    let speaker = crate::Config::new(Ipv4Addr::new(1, 1, 1, 1), 64999);
    let departure = Departure::of(&peer, &speaker, PeerType::External, 65002);
    GroupKey { departure, ..key(PeerType::External) }
}

#[test]
fn as_numbers_that_another_as_is_not_to_see() {
    use crate::config::{LocalAs, RemovePrivateAs::*};
    let path = [7, 64512, 65002, 65534, 4_200_000_000, 65535, 65002];
    let case = |change: fn(&mut crate::PeerConfig)| {
        shown(&sent(&departing(change), &block(&path, &[]), LEARNED))
    };
    assert_eq!(case(|_| {}), "65000 7 64512 65002 65534 4200000000 65535 65002");
    // The neighbor's own stay: it is to find its loops.
    assert_eq!(case(|p| p.remove_private_as = All), "65000 7 65002 65535 65002");
    let replaced = "65000 7 65000 65002 65000 65000 65535 65002";
    assert_eq!(case(|p| p.remove_private_as = Replace), replaced);
    let overridden = "65000 7 64512 65000 65534 4200000000 65535 65000";
    assert_eq!(case(|p| p.as_override = true), overridden);
    let both = case(|p| (p.remove_private_as, p.as_override) = (All, true));
    assert_eq!(both, "65000 7 65000 65535 65000");
    let shown_behind = case(|p| {
        p.local_as = LocalAs { replace_as: false, ..LocalAs::default() };
        p.remove_private_as = All;
    });
    assert_eq!(shown_behind, "65000 64999 7 65002 65535 65002");
    // Sets too; a segment that is empty is gone.
    let mut sets = Vec::new();
    push(&mut sets, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    let octets = [1, 1, 0, 0, 0xfc, 0, 1, 2, 0, 0, 0, 7, 0, 0, 0xfc, 1];
    push(&mut sets, flag::TRANSITIVE, kind::AS_PATH, &octets);
    assert_eq!(
        shown(&sent(&departing(|p| p.remove_private_as = All), &sets, LEARNED)),
        "65000 {7}"
    );
}

#[test]
fn extended_communities_that_are_not_transitive_stay_inside() {
    let both = [0x43, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0xfc, 0, 0, 0, 0, 1];
    let inside = block(&[7], &[(0xc0, kind::EXTENDED_COMMUNITIES, &both)]);
    let out = sent(&key(PeerType::External), &inside, LEARNED);
    let left: Vec<String> = attributes::extended_communities(&out).map(|c| c.to_string()).collect();
    assert_eq!(left, ["rt:64512:1"]);
    let out = sent(&key(PeerType::Internal), &inside, LEARNED);
    assert_eq!(attributes::extended_communities(&out).count(), 2);
}

/// RFC 9234 section 5, egress.
#[test]
fn what_may_go_to_customers_only() {
    use crate::wire::Role::*;
    let plain = block(&[7], &[]);
    let marked = block(&[7], &[(0xc0, kind::ONLY_TO_CUSTOMER, &[0, 0, 0, 7])]);
    let mut attrs = AttrTable::default();
    let mut otc = |role, block: &[u8]| {
        let id = attrs.intern(block, NextHop::new(IpAddr::from([192, 0, 2, 9])));
        let key = departing(|p| p.role = Some(role));
        let out = key.transform(attrs.get(id), LEARNED, &Applied::default())?;
        Some(attributes::find(&out, kind::ONLY_TO_CUSTOMER).map(<[u8]>::to_vec))
    };
    for role in [Provider, Rs, Peer] {
        assert_eq!(otc(role, &plain), Some(Some(65000_u32.to_be_bytes().to_vec())), "{role}");
    }
    for role in [Customer, RsClient] {
        assert_eq!(otc(role, &plain), Some(None), "{role}");
    }
    for role in [Provider, Rs] {
        assert_eq!(otc(role, &marked), Some(Some(vec![0, 0, 0, 7])), "{role}");
    }
    for role in [Customer, RsClient, Peer] {
        assert_eq!(otc(role, &marked), None, "{role}");
    }
}

#[test]
fn routes_of_a_session_about_to_end_are_the_last_choice() {
    let drained = Departure::of(
        &crate::PeerConfig::new("p", "192.0.2.9".parse().unwrap(), 65002),
        &crate::Config { graceful_shutdown: true, ..crate::Config::new([1, 1, 1, 1].into(), 1) },
        PeerType::Internal,
        1,
    );
    let internal = GroupKey { departure: drained, ..key(PeerType::Internal) };
    let preferred = (flag::TRANSITIVE, kind::LOCAL_PREF, &[0, 0, 0, 200][..]);
    let out = sent(&internal, &block(&[7], &[preferred]), LEARNED);
    assert_eq!(Info::of(&out).local_pref, Some(0));
    // What is reflected goes another way than through us, unless the next hop says so.
    let reflected = Origin { originator: Some(Ipv4Addr::new(2, 2, 2, 2)), ..LEARNED };
    for (passes_by, local_pref) in [(true, 200), (false, 0)] {
        let origin = Origin { passes_by, ..reflected };
        let out = sent(&internal, &block(&[7], &[preferred]), origin);
        assert_eq!(Info::of(&out).local_pref, Some(local_pref));
    }
    let external = departing(|p| p.graceful_shutdown = true);
    let once = sent(&external, &block(&[7], &[]), LEARNED);
    let twice = sent(&external, &once, LEARNED);
    for out in [once, twice] {
        let all: Vec<_> = attributes::communities(&out).collect();
        assert_eq!(all, [crate::wire::Community::GRACEFUL_SHUTDOWN]);
    }
}
