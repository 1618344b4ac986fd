//! Well-formed values of every kind.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
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

    /// Numbered from 1, if they are to be.
    fn typed<P: Prefix>(&self, encoder: UpdateEncoder) -> Vec<Nlri<P>> {
        let ids = (1..).map(|id| if encoder.add_path { id } else { 0 });
        let prefixes = self.prefixes.iter().filter_map(P::from_net);
        prefixes.zip(ids).map(|(prefix, path_id)| Nlri { prefix, path_id }).collect()
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
        (optional(4, 90), optional(4, 3), optional(8, 5), optional(20, 3), optional(12, 30)),
        prop::option::of((200..250_u8, vec(any::<u8>(), 0..300))),
    )
        .prop_map(
            |((origin, path, med, local_pref, atomic), (aggregator, originator), lists, other)| {
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
                if let Some((kind, value)) = other {
                    push(&mut out, both | flag::PARTIAL, kind, &value);
                }
                out
            },
        )
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

fn capability() -> impl Strategy<Value = Capability> {
    let next_hop = (any::<u16>(), any::<u16>(), any::<u16>())
        .prop_map(|(afi, safi, next_hop)| NextHopFamily { afi, safi, next_hop });
    let restart = (any::<u16>(), any::<u8>(), any::<bool>())
        .prop_map(|(afi, safi, forwarding)| FamilyRestart { afi, safi, forwarding });
    let long_lived = (any::<u16>(), any::<u8>(), any::<bool>(), 0..1_u32 << 24)
        .prop_map(|(afi, safi, forwarding, time)| LongLivedFamily { afi, safi, forwarding, time });
    prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Capability::Multiprotocol(afi, safi)),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        any::<u8>().prop_map(Capability::Role),
        vec(next_hop, 0..5).prop_map(Capability::ExtendedNextHop),
        Just(Capability::EnhancedRouteRefresh),
        vec((any::<u16>(), any::<u8>(), any::<u8>()), 0..5).prop_map(|families| {
            let family = |(afi, safi, mode)| FamilyAddPath { afi, safi, mode };
            Capability::AddPath(families.into_iter().map(family).collect())
        }),
        vec(long_lived, 0..5).prop_map(Capability::LongLivedGracefulRestart),
        (any::<bool>(), any::<bool>(), 0..4096_u16, vec(restart, 0..5)).prop_map(
            |(restarting, notification, time, families)| Capability::GracefulRestart {
                restarting,
                notification,
                time,
                families
            }
        ),
        (80..=255_u8, vec(any::<u8>(), 0..60))
            .prop_map(|(code, value)| Capability::Unknown(code, value)),
    ]
}

pub(super) fn open_strategy() -> impl Strategy<Value = Open> {
    (asn(), any::<u16>(), any::<u32>(), vec(capability(), 0..20)).prop_map(
        |(asn, hold_time, router_id, capabilities)| {
            Open::new(asn, hold_time, router_id.into(), capabilities)
        },
    )
}
