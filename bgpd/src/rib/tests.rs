//! The decision process against a naive one, and books that balance.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::NextHop;
use crate::wire::attributes::{flag, kind, push};

/// A path in plain values.
#[derive(Clone, Debug)]
struct Plain {
    local_pref: Option<u32>,
    path: Vec<u32>,
    origin: u8,
    med: Option<u32>,
    originator: Option<u8>,
    clusters: usize,
    external: bool,
    router_id: u8,
    usable: bool,
}

fn plain() -> impl Strategy<Value = Plain> {
    (
        (prop::option::of(99..102_u32), vec(65001..65003_u32, 1..3), 0..3_u8),
        (prop::option::of(0..3_u32), prop::option::weighted(0.3, 1..3_u8), 0..2_usize),
        (any::<bool>(), 1..4_u8, prop::bool::weighted(0.9)),
    )
        .prop_map(|((local_pref, path, origin), (med, originator, clusters), rest)| {
            let (external, router_id, usable) = rest;
            Plain {
                local_pref,
                path,
                origin,
                med,
                originator,
                clusters,
                external,
                router_id,
                usable,
            }
        })
}

impl Plain {
    fn block(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, flag::TRANSITIVE, kind::ORIGIN, &[self.origin]);
        let mut path = Vec::new();
        crate::wire::path::prepend(&self.path, &[], &mut path);
        push(&mut out, flag::TRANSITIVE, kind::AS_PATH, &path);
        if let Some(med) = self.med {
            push(&mut out, flag::OPTIONAL, kind::MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        if let Some(local_pref) = self.local_pref {
            push(&mut out, flag::TRANSITIVE, kind::LOCAL_PREF, &local_pref.to_be_bytes());
        }
        if let Some(id) = self.originator {
            push(&mut out, flag::OPTIONAL, kind::ORIGINATOR_ID, &[9, 9, 9, id]);
        }
        if self.clusters > 0 {
            push(&mut out, flag::OPTIONAL, kind::CLUSTER_LIST, &vec![1; 4 * self.clusters]);
        }
        out
    }
}

fn prefix() -> Prefix4 {
    Prefix4::from_octets(&[10, 1], 16)
}

fn hop(peer: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(peer).unwrap()).into()
}

/// Announces the paths in the given order, decides, and returns what a look at it shows: the
/// best peer, those used with it, and all with their reasons.
fn decide(
    paths: &[Plain],
    order: &[usize],
    multipath: Multipath,
) -> (Option<usize>, Vec<IpAddr>, BTreeMap<usize, Reason>, Rib) {
    let mut rib = Rib::new(multipath);
    for (at, path) in paths.iter().enumerate() {
        rib.ranks.push(PeerRank {
            local: false,
            external: path.external,
            internal: !path.external,
            router_id: Ipv4Addr::new(9, 9, 9, path.router_id),
            address: hop(at + 1),
            interface: 0,
            client: false,
        });
    }
    for at in order {
        let attr_in = rib.attrs.intern(&paths[*at].block(), NextHop::new(hop(at + 1)));
        let attr = if paths[*at].usable { attr_in } else { AttrId::NONE };
        rib.attrs.retain(attr);
        let mut path = Path::new(PeerId(u16::try_from(at + 1).unwrap()), 0, attr_in);
        (path.reason, path.attr) = (Reason::ImportPolicy, attr);
        rib.announce(prefix(), path);
    }
    rib.decide::<Prefix4>(|_, _| {});
    let id = rib.v4.find(&prefix()).unwrap();
    let dest = rib.v4.dest(id);
    let best = dest.best().map(|(peer, _)| peer.index() - 1);
    let hops = rib.next_hops.get(dest.next_hops).iter().map(|h| h.addr).collect();
    let reasons = dest.paths.iter().map(|p| (p.peer.index() - 1, p.reason)).collect();
    (best, hops, reasons, rib)
}

/// RFC 4271 section 9.1.2.2, word by word: who is left after each step.
fn naive(paths: &[Plain], multipath: Multipath) -> (Option<usize>, Vec<IpAddr>) {
    let mut left: Vec<usize> = (0..paths.len()).filter(|at| paths[*at].usable).collect();
    fn keep<K: Ord>(left: &mut Vec<usize>, key: impl Fn(usize) -> K) {
        if let Some(best) = left.iter().map(|at| key(*at)).min() {
            left.retain(|at| key(*at) == best);
        }
    }
    keep(&mut left, |at| u32::MAX - paths[at].local_pref.unwrap_or(100));
    keep(&mut left, |at| paths[at].path.len());
    keep(&mut left, |at| paths[at].origin);
    let before = left.clone();
    left.retain(|at| {
        before.iter().all(|other| {
            paths[*other].path[0] != paths[*at].path[0]
                || paths[*other].med.unwrap_or(0) >= paths[*at].med.unwrap_or(0)
        })
    });
    keep(&mut left, |at| !paths[at].external);
    let equal = left.clone();
    let id = |at: usize| paths[at].originator.unwrap_or(paths[at].router_id);
    keep(&mut left, id);
    keep(&mut left, |at| paths[at].clusters);
    keep(&mut left, |at| hop(at + 1));
    let Some(&best) = left.first() else { return (None, Vec::new()) };
    let limit = if paths[best].external { multipath.ebgp } else { multipath.ibgp };
    let mut used: Vec<usize> = equal
        .into_iter()
        .filter(|at| multipath.as_path_relax || paths[*at].path == paths[best].path)
        .collect();
    used.sort_by_key(|at| (*at != best, id(*at), paths[*at].clusters, hop(at + 1)));
    used.truncate(limit.into());
    let mut hops: Vec<IpAddr> = used.into_iter().map(|at| hop(at + 1)).collect();
    hops.sort_unstable();
    (Some(best), hops)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn the_decision_is_the_naive_one_whatever_the_order(
        paths in vec(plain(), 1..7),
        shuffle in any::<u64>(),
        relax: bool,
        most in 1..5_u16,
    ) {
        let multipath = Multipath { ebgp: most, ibgp: most, as_path_relax: relax };
        let mut order: Vec<usize> = (0..paths.len()).collect();
        let mut random = crate::transport::memory::Random::new(shuffle);
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        let wanted = naive(&paths, multipath);
        let (best, hops, reasons, mut rib) = decide(&paths, &order, multipath);
        prop_assert_eq!((best, hops), wanted);
        for (at, path) in paths.iter().enumerate() {
            prop_assert_eq!(path.usable, reasons[&at] != Reason::ImportPolicy);
        }
        // Withdrawn again, nothing is left.
        let id = rib.v4.find(&prefix()).unwrap();
        for at in order {
            let peer = PeerId(u16::try_from(at + 1).unwrap());
            prop_assert!(rib.remove::<Prefix4>(id, (peer, 0)).is_some());
            rib.decide::<Prefix4>(|_, _| {});
        }
        prop_assert_eq!((rib.v4.len(), rib.attrs.len(), rib.next_hops.len()), (0, 0, 0));
    }
}

#[test]
fn each_step_says_that_it_was_the_one() {
    let base = Plain {
        local_pref: Some(100),
        path: vec![65001, 65002],
        origin: 0,
        med: None,
        originator: None,
        clusters: 0,
        external: true,
        router_id: 2,
        usable: true,
    };
    let cases = [
        (Plain { local_pref: Some(99), ..base.clone() }, Reason::LocalPref),
        (Plain { path: vec![65001; 3], ..base.clone() }, Reason::AsPathLength),
        (Plain { origin: 2, ..base.clone() }, Reason::Origin),
        (Plain { med: Some(1), ..base.clone() }, Reason::Med),
        (Plain { external: false, ..base.clone() }, Reason::ExternalFirst),
        (Plain { router_id: 3, ..base.clone() }, Reason::RouterId),
        (Plain { clusters: 1, ..base.clone() }, Reason::ClusterList),
        (base.clone(), Reason::PeerAddress),
    ];
    for (worse, reason) in cases {
        let (best, _, reasons, _) = decide(&[base.clone(), worse], &[1, 0], Multipath::default());
        assert_eq!(best, Some(0), "{reason}");
        assert_eq!((reasons[&0], reasons[&1]), (reason, reason));
    }
    let (_, _, reasons, _) = decide(&[base], &[0], Multipath::default());
    assert_eq!(reasons[&0], Reason::OnlyPath);
}

#[test]
fn the_same_attributes_are_stored_once_and_freed_with_the_last_user() {
    let mut attrs = AttrTable::default();
    let hop_a = NextHop::new(hop(1));
    let a = attrs.intern(&[0x40, 1, 1, 0], hop_a);
    let b = attrs.intern(&[0x40, 1, 1, 0], hop_a);
    let c = attrs.intern(&[0x40, 1, 1, 0], NextHop::new(hop(2)));
    assert!(a == b && a != c);
    assert_eq!(attrs.len(), 2);
    attrs.release(a);
    assert_eq!(attrs.len(), 2);
    attrs.release(b);
    assert_eq!(attrs.len(), 1);
    assert_eq!(attrs.get(c).next_hop.addr, hop(2));
    let d = attrs.intern(&[0x40, 1, 1, 1], hop_a);
    assert_eq!(attrs.get(d).info.origin, 1, "a freed place is used again");
    attrs.release(c);
    attrs.release(d);
    assert_eq!(attrs.len(), 0);
}

#[test]
fn a_destination_stays_while_it_is_held() {
    let mut rib = Rib::new(Multipath::default());
    rib.ranks.push(PeerRank { local: false, ..PeerRank::LOCAL });
    let attr = rib.attrs.intern(&[0x40, 1, 1, 0], NextHop::new(hop(1)));
    rib.attrs.retain(attr);
    let peer = PeerId(1);
    let (id, old) = rib.announce(prefix(), Path::new(peer, 0, attr));
    assert!(old.is_none());
    rib.decide::<Prefix4>(|table, decided| {
        assert!(decided.best && decided.fib);
        table.hold(decided.dest);
    });
    rib.remove::<Prefix4>(id, (peer, 0));
    rib.decide::<Prefix4>(|_, decided| assert!(decided.best && decided.fib));
    assert_eq!((rib.v4.len(), rib.attrs.len()), (1, 0));
    assert_eq!(rib.v4.dest(id).prefix, prefix());
    rib.v4.unhold(id);
    assert_eq!(rib.v4.len(), 0);
}

#[test]
fn a_link_local_next_hop_comes_with_its_interface() {
    let mut rib = Rib::new(Multipath::default());
    rib.ranks.push(PeerRank { local: false, external: true, interface: 7, ..PeerRank::LOCAL });
    let pair =
        NextHop { addr: "fd00::1".parse().unwrap(), link_local: Some("fe80::2".parse().unwrap()) };
    for (hop, text, interface) in [
        (NextHop::new("fe80::1".parse().unwrap()), "fe80::1", Some(7)),
        (NextHop::new("fd00::1".parse().unwrap()), "fd00::1", None),
        (pair, "fe80::2", Some(7)),
    ] {
        let attr = rib.attrs.intern(&[0x40, 1, 1, 0], hop);
        rib.attrs.retain(attr);
        let path = Path::new(PeerId(1), 0, attr);
        let prefix = Prefix6::from_octets(&[0xfd], 8);
        let (id, _) = rib.announce(prefix, path);
        rib.decide::<Prefix6>(|_, _| {});
        let hops = rib.next_hops.get(rib.v6.dest(id).next_hops);
        assert_eq!((hops[0].addr.to_string().as_str(), hops[0].interface), (text, interface));
    }
}

#[test]
fn who_never_catches_up_remembers_what_waits_only() {
    let mut list = DirtyList::default();
    let ids = || (0..).map(DestId::new);
    for id in ids().take(1000) {
        list.insert(id);
    }
    for (next, oldest) in ids().skip(1000).zip(ids()).take(100_000) {
        list.insert(next);
        assert_eq!(list.pop(), Some(oldest));
        assert_eq!(list.len(), 1000);
    }
    assert!(list.remembered() < 10_000, "{}", list.remembered());
}
