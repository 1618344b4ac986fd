//! Well-formed values of every kind.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::wire::attributes::{flag, kind, push};
use crate::wire::prefix::is_usable_next_hop;
use crate::wire::{
    Capability, FamilyAddPath, FamilyRestart, Info, LongLivedFamily, NextHop, NextHopFamily, Nlri,
    Open, Prefix, Prefix4, Prefix6, UpdateEncoder,
};

/// Prefixes with one set of attributes, as an encoder takes them and a parser gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) block: Vec<u8>,
    pub(super) next_hop: NextHop,
    pub(super) prefixes: Vec<IpNet>,
}

impl Announcement {
    pub(super) fn encode(&self, encoder: UpdateEncoder) -> Vec<u8> {
        let mut out = Vec::new();
        let info = Info::of(&self.block);
        let messages = if self.is_v4() {
            encoder.announce(
                &self.block,
                &info,
                self.next_hop,
                self.typed::<Prefix4>(encoder),
                &mut out,
            )
        } else {
            encoder.announce(
                &self.block,
                &info,
                self.next_hop,
                self.typed::<Prefix6>(encoder),
                &mut out,
            )
        };
        assert!(messages > 0);
        out
    }

    pub(super) fn encode_withdraw(&self, encoder: UpdateEncoder) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_v4() {
            encoder.withdraw(self.typed::<Prefix4>(encoder), &mut out);
        } else {
            encoder.withdraw(self.typed::<Prefix6>(encoder), &mut out);
        }
        out
    }

    fn is_v4(&self) -> bool {
        self.prefixes.iter().all(|prefix| prefix.addr().is_ipv4())
    }

    /// The prefixes with path identifiers: from 1, if there are to be any.
    pub(super) fn numbered(&self, encoder: UpdateEncoder) -> Vec<(u32, IpNet)> {
        let ids = (1..).map(|id| if encoder.add_path { id } else { 0 });
        ids.zip(self.prefixes.iter().copied()).collect()
    }

    fn typed<P: Prefix>(&self, encoder: UpdateEncoder) -> Vec<Nlri<P>> {
        let nlri = |(path_id, net)| Some(Nlri { prefix: P::from_net(&net)?, path_id });
        self.numbered(encoder).into_iter().filter_map(nlri).collect()
    }
}

fn v4_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0..=32_u8)
        .prop_map(|(addr, len)| Ipv4Net::new(addr.into(), len).unwrap().trunc().into())
}

fn v6_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0..=128_u8)
        .prop_map(|(addr, len)| Ipv6Net::new(addr.into(), len).unwrap().trunc().into())
}

fn v4_next_hop() -> impl Strategy<Value = NextHop> {
    any::<u32>()
        .prop_map(|a| NextHop::new(Ipv4Addr::from(a).into()))
        .prop_filter("unicast", |hop| is_usable_next_hop(&hop.addr))
}

fn v6_next_hop() -> impl Strategy<Value = NextHop> {
    (any::<u64>(), prop::option::of(any::<u64>())).prop_map(|(low, link_local)| NextHop {
        addr: Ipv6Addr::from(0xfd00 << 112 | u128::from(low)).into(),
        link_local: link_local.map(|low| Ipv6Addr::from(0xfe80 << 112 | u128::from(low))),
    })
}

fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1..=65535_u32, 65536..=u32::MAX, Just(23456), Just(65535)]
}

fn as_path() -> impl Strategy<Value = Vec<u8>> {
    let segment = (prop_oneof![Just(1_u8), Just(2)], vec(asn(), 1..8));
    vec(segment, 0..4).prop_map(|segments| {
        let mut out = Vec::new();
        for (kind, asns) in segments {
            out.extend([kind, u8::try_from(asns.len()).unwrap()]);
            out.extend(asns.iter().flat_map(|a| a.to_be_bytes()));
        }
        out
    })
}

/// Each once: some codecs drop those that are there again.
fn large_communities() -> impl Strategy<Value = Option<Vec<u8>>> {
    let octets = |all: BTreeSet<[u32; 3]>| -> Vec<u8> {
        all.iter().flatten().flat_map(|part| part.to_be_bytes()).collect()
    };
    prop::option::of(btree_set(any::<[u32; 3]>(), 1..=30).prop_map(octets))
}

/// A block as the parser makes them, of what an internal peer may send.
pub(super) fn block() -> impl Strategy<Value = Vec<u8>> {
    let optional =
        |bytes: usize, most: usize| {
            prop::option::of(vec(any::<u8>(), 1..=most).prop_map(move |units| {
                units.iter().flat_map(|u| vec![*u; bytes]).collect::<Vec<u8>>()
            }))
        };
    (
        (0..3_u8, as_path(), prop::option::of(any::<u32>()), any::<u32>(), any::<bool>()),
        (prop::option::of((asn(), any::<u32>())), prop::option::of(any::<u32>())),
        (optional(4, 90), optional(4, 3), optional(8, 5), optional(20, 3), large_communities()),
        prop::option::of(asn()),
        prop::option::of((200..250_u8, vec(any::<u8>(), 0..300))),
    )
        .prop_map(|(always, (aggregator, originator), lists, customer, other)| {
            let (origin, path, med, local_pref, atomic) = always;
            let mut out = Vec::new();
            let both = flag::OPTIONAL | flag::TRANSITIVE;
            push(&mut out, flag::TRANSITIVE, kind::ORIGIN, &[origin]);
            push(&mut out, flag::TRANSITIVE, kind::AS_PATH, &path);
            if let Some(med) = med {
                push(&mut out, flag::OPTIONAL, kind::MULTI_EXIT_DISC, &med.to_be_bytes());
            }
            push(&mut out, flag::TRANSITIVE, kind::LOCAL_PREF, &local_pref.to_be_bytes());
            if atomic {
                push(&mut out, flag::TRANSITIVE, kind::ATOMIC_AGGREGATE, &[]);
            }
            if let Some((asn, id)) = aggregator {
                let value = [asn.to_be_bytes(), id.to_be_bytes()].concat();
                push(&mut out, both, kind::AGGREGATOR, &value);
            }
            let (communities, clusters, extended, v6_extended, large) = lists;
            if let Some(value) = communities {
                push(&mut out, both, kind::COMMUNITIES, &value);
            }
            if let Some(id) = originator {
                push(&mut out, flag::OPTIONAL, kind::ORIGINATOR_ID, &id.to_be_bytes());
            }
            if let Some(value) = clusters {
                push(&mut out, flag::OPTIONAL, kind::CLUSTER_LIST, &value);
            }
            for (kind, value) in [
                (kind::EXTENDED_COMMUNITIES, extended),
                (kind::IPV6_EXTENDED_COMMUNITIES, v6_extended),
                (kind::LARGE_COMMUNITIES, large),
            ] {
                if let Some(value) = value {
                    push(&mut out, both, kind, &value);
                }
            }
            if let Some(asn) = customer {
                push(&mut out, both, kind::ONLY_TO_CUSTOMER, &asn.to_be_bytes());
            }
            if let Some((kind, value)) = other {
                push(&mut out, both | flag::PARTIAL, kind, &value);
            }
            out
        })
}

pub(super) fn announcement() -> impl Strategy<Value = Announcement> {
    let v4 = (block(), v4_next_hop(), vec(v4_prefix(), 1..2000));
    let v6 = (block(), v6_next_hop(), vec(v6_prefix(), 1..500));
    let extended = (block(), v6_next_hop(), vec(v4_prefix(), 1..500));
    prop_oneof![
        extended.prop_map(|(block, next_hop, prefixes)| Announcement { block, next_hop, prefixes }),
        v4.prop_map(|(block, next_hop, prefixes)| Announcement { block, next_hop, prefixes }),
        v6.prop_map(|(block, next_hop, prefixes)| Announcement { block, next_hop, prefixes }),
    ]
}

/// A capability; of those that are `known`, only with families and values that every codec knows.
fn capability(known: bool) -> impl Strategy<Value = Capability> {
    let family = || {
        let known_ones = (1..=2_u16, 1..=2_u8).boxed();
        if known { known_ones } else { any::<(u16, u8)>().boxed() }
    };
    let families = if known { 1..5 } else { 0..5_usize };
    let next_hop = (family(), family()).prop_map(|((afi, safi), (next_hop, _))| NextHopFamily {
        afi,
        safi: safi.into(),
        next_hop,
    });
    let restart = (family(), any::<bool>()).prop_map(|((afi, safi), forwarding)| FamilyRestart {
        afi,
        safi,
        forwarding,
    });
    let long_lived =
        (family(), any::<bool>(), 0..1_u32 << 24).prop_map(|((afi, safi), forwarding, time)| {
            LongLivedFamily { afi, safi, forwarding, time }
        });
    let add_path = (family(), if known { 1..=3_u8 } else { 0..=255 })
        .prop_map(|((afi, safi), mode)| FamilyAddPath { afi, safi, mode });
    let role = if known { 0..=4_u8 } else { 0..=255 };
    let unknown = if known { 200..=230_u8 } else { 80..=255 };
    prop_oneof![
        family().prop_map(|(afi, safi)| Capability::Multiprotocol(afi, safi)),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        role.prop_map(Capability::Role),
        vec(next_hop, families.clone()).prop_map(Capability::ExtendedNextHop),
        Just(Capability::EnhancedRouteRefresh),
        vec(add_path, families.clone()).prop_map(Capability::AddPath),
        vec(long_lived, families).prop_map(Capability::LongLivedGracefulRestart),
        (any::<bool>(), any::<bool>(), 0..4096_u16, vec(restart, 0..5)).prop_map(
            |(restarting, notification, time, families)| Capability::GracefulRestart {
                restarting,
                notification,
                time,
                families
            }
        ),
        (unknown, vec(any::<u8>(), 0..60))
            .prop_map(|(code, value)| Capability::Unknown(code, value)),
    ]
}

pub(super) fn open_strategy() -> impl Strategy<Value = Open> {
    (asn(), any::<u16>(), any::<u32>(), vec(capability(false), 0..20)).prop_map(
        |(asn, hold_time, router_id, capabilities)| {
            Open::new(asn, hold_time, router_id.into(), capabilities)
        },
    )
}

/// An OPEN in which nothing is to be complained of: what others check when they read it, we check
/// against what we offer.
pub(super) fn known_open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0), 3..=u16::MAX];
    // Some know nothing of RFC 6286: an identifier is a unicast address to them.
    let router_id = 0x0100_0000..0x7f00_0000_u32;
    (asn(), hold_time, router_id, vec(capability(true), 0..20)).prop_map(
        |(asn, hold_time, router_id, capabilities)| {
            Open::new(asn, hold_time, router_id.into(), capabilities)
        },
    )
}
