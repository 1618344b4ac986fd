//! A path's attributes, for people and programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::rib::AttrSet;
use crate::wire::attributes::{self, kind};
use crate::wire::{Community, ExtendedCommunity, LargeCommunity, path};

/// The attributes of a path. AS numbers have four octets here, also where a neighbor of two octets
/// has them in AS4_PATH (RFC 6793).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathAttributes {
    /// Unspecified for ourselves.
    pub next_hop: IpAddr,
    /// The link-local address beside a global next hop (RFC 2545 section 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_local_next_hop: Option<Ipv6Addr>,
    /// Nearest AS first, sets in braces.
    pub as_path: String,
    /// `igp`, `egp` or `incomplete`.
    pub origin: &'static str,
    /// LOCAL_PREF, if it carries one.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC, if it carries one.
    pub med: Option<u32>,
    /// ORIGINATOR_ID, if the route was reflected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST, the latest cluster first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Ipv4Addr>,
    /// Standard communities.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Extended communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extended_communities: Vec<ExtendedCommunity>,
    /// OTC: the AS from which on the route only goes down (RFC 9234 section 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_to_customer: Option<u32>,
    /// Type codes of attributes that are carried without being understood.
    pub unknown_attributes: Vec<u8>,
}

impl PathAttributes {
    pub(super) fn of(set: AttrSet<'_>) -> Self {
        let block = set.block;
        let otc = attributes::find(block, kind::ONLY_TO_CUSTOMER);
        Self {
            next_hop: set.next_hop.addr,
            link_local_next_hop: set.next_hop.link_local,
            as_path: path::display(attributes::as_path(block)),
            origin: match set.info.origin {
                0 => "igp",
                1 => "egp",
                _ => "incomplete",
            },
            local_pref: set.info.local_pref,
            med: set.info.med,
            originator: set.info.originator,
            clusters: attributes::clusters(block).collect(),
            communities: attributes::communities(block).collect(),
            large_communities: attributes::large_communities(block).collect(),
            extended_communities: attributes::extended_communities(block).collect(),
            only_to_customer: otc
                .and_then(|value| value.first_chunk())
                .map(|octets| u32::from_be_bytes(*octets)),
            unknown_attributes: attributes::iter(block)
                .map(|a| a.kind)
                .filter(|k| {
                    *k > kind::CLUSTER_LIST
                        && !matches!(
                            *k,
                            kind::EXTENDED_COMMUNITIES
                                | kind::IPV6_EXTENDED_COMMUNITIES
                                | kind::LARGE_COMMUNITIES
                                | kind::ONLY_TO_CUSTOMER
                        )
                })
                .collect(),
        }
    }
}
