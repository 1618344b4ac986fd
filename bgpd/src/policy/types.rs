//! Policies as they are configured.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AsPathPattern, Changes, CommunityPattern};
use crate::wire::{Community, Family, LargeCommunity};

/// What becomes of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is used or sent on.
    #[default]
    Accept,
    /// It is neither.
    Reject,
    /// The rule's changes are made and the rules after it decide. No default action.
    Continue,
}

/// An ordered list of rules. The default one has none and accepts everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Policy {
    /// Looked at in order; the first that matches and does not say *continue* decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// For routes that no rule decides about.
    #[serde(default)]
    pub default: Action,
}

/// One rule: every condition given must hold, for the route as it came: what rules before this one
/// changed is not looked at. Sets are those of the [`Config`](crate::Config), by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// The route's prefix matches one of these, or is in one of `prefix-sets`. With neither: any
    /// prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<PrefixMatch>>,
    /// See `prefixes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix_sets: Vec<String>,
    /// The route is of one of these families. Empty: of any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<Family>,
    /// Where the route comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The kind of session the policy is applied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<PeerType>,
    /// The route was learned from a neighbor with one of these addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbors: Vec<IpAddr>,
    /// The route's next hop, as a prefix of one address, matches one of these or is in one of
    /// `next-hop-sets`, which are prefix sets. A route of our own without a next hop never does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hops: Vec<PrefixMatch>,
    /// See `next-hops`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hop_sets: Vec<String>,
    /// The route has all of these standard communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// The route has all of these large communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
    /// Communities of any kind, with wildcards.
    #[serde(default, skip_serializing_if = "CommunityMatch::is_empty")]
    pub community_match: CommunityMatch,
    /// The route has a community that is in one of these sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub community_sets: Vec<String>,
    /// The AS path starts with these AS numbers, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_prefix: Vec<u32>,
    /// The AS path otherwise.
    #[serde(default, skip_serializing_if = "AsPathMatch::is_empty")]
    pub as_path: AsPathMatch,
    /// The AS path matches a pattern of one of these sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_sets: Vec<String>,
    /// LOCAL_PREF; 100 where the route has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<Range>,
    /// MULTI_EXIT_DISC; 0 where the route has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<Range>,
    /// ORIGIN is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// What becomes of the route.
    pub action: Action,
    /// Changes to a route that is not rejected.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub set: Changes,
}

/// A condition on a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PrefixMatch {
    /// The prefix compared with; only routes of its family match.
    pub prefix: IpNet,
    /// How it is compared.
    #[serde(default)]
    pub operator: PrefixOperator,
    /// Smallest prefix length that matches. None: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u8>,
    /// Largest prefix length that matches. None: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u8>,
}

/// How a route's prefix is compared with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefixOperator {
    /// The same prefix.
    #[default]
    Equal,
    /// Any other prefix of the family.
    NotEqual,
    /// The same prefix or one inside it.
    In,
    /// Not [`Self::In`].
    NotIn,
}

/// Conditions on communities of any kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CommunityMatch {
    /// One of these at least is matched by a community of the route. Empty: no condition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<CommunityPattern>,
    /// Each of these is matched by a community of the route.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<CommunityPattern>,
    /// No community of the route matches one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub none: Vec<CommunityPattern>,
}

impl CommunityMatch {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Conditions on an AS path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AsPathMatch {
    /// One of these AS numbers is in the path. Empty: no condition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<u32>,
    /// The last AS number of the path is one of these. Empty: no condition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub originated_by: Vec<u32>,
    /// One of these patterns matches. Empty: no condition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<AsPathPattern>,
    /// The length that best-path selection sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<Range>,
}

impl AsPathMatch {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Numbers from one to another, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Range {
    /// The smallest. None: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// The largest. None: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

impl Range {
    /// Whether a number is in the range.
    pub fn contains(&self, value: u32) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

/// ORIGIN (RFC 4271 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// From inside the originating AS.
    Igp,
    /// By EGP.
    Egp,
    /// By other means.
    Incomplete,
}

impl Origin {
    /// The attribute's value.
    pub const fn wire(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }
}

/// Where a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// One of our own networks.
    Local,
    /// Learned from a peer.
    RemotePeers,
}

/// The kind of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerType {
    /// The peer is in another AS.
    #[serde(rename = "external")]
    External,
    /// The peer is in our AS.
    #[serde(rename = "internal")]
    Internal,
    /// The peer is in another member AS of our confederation (RFC 5065).
    #[serde(rename = "confederation")]
    Confederation,
}

impl Policy {
    /// A policy that accepts everything.
    pub fn accept() -> Self {
        Self::default()
    }

    /// A policy that rejects everything.
    pub fn reject() -> Self {
        Self { rules: Vec::new(), default: Action::Reject }
    }

    /// Accepts prefixes that match one of `prefixes`, rejects the rest.
    pub fn accept_only(prefixes: Vec<PrefixMatch>) -> Self {
        let rule = Rule { prefixes: Some(prefixes), ..Rule::default() };
        Self { rules: vec![rule], default: Action::Reject }
    }
}

impl PrefixMatch {
    /// Exactly this prefix.
    pub const fn equal(prefix: IpNet) -> Self {
        Self { prefix, operator: PrefixOperator::Equal, min_length: None, max_length: None }
    }

    /// This prefix and all inside it.
    pub const fn inside(prefix: IpNet) -> Self {
        Self { prefix, operator: PrefixOperator::In, min_length: None, max_length: None }
    }

    /// Whether `prefix` meets the condition.
    pub fn matches(&self, prefix: &IpNet) -> bool {
        let base = self.prefix.trunc();
        let same_family = base.max_prefix_len() == prefix.max_prefix_len();
        let length = prefix.prefix_len();
        same_family
            && self.min_length.is_none_or(|min| length >= min)
            && self.max_length.is_none_or(|max| length <= max)
            && match self.operator {
                PrefixOperator::Equal => base == *prefix,
                PrefixOperator::NotEqual => base != *prefix,
                PrefixOperator::In => base.contains(prefix),
                PrefixOperator::NotIn => !base.contains(prefix),
            }
    }
}
