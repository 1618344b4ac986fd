//! BGPFilter.

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::types::AsNumber;

/// How a route's prefix is compared with `cidr`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum MatchOperator {
    /// The same prefix.
    Equal,
    /// Any other prefix.
    NotEqual,
    /// The same or a longer prefix within it.
    In,
    /// Any prefix not within it.
    NotIn,
}

/// What becomes of a route that a filter rule matches.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FilterAction {
    /// It passes, changed by the rule's operations.
    Accept,
    /// It does not.
    Reject,
}

/// Where a route comes from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FilterSource {
    /// From a BGP peer.
    RemotePeers,
}

/// The kind of a peer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FilterPeerType {
    /// In another AS.
    #[serde(rename = "eBGP")]
    External,
    /// In the same AS.
    #[serde(rename = "iBGP")]
    Internal,
}

/// Rules for routes to and from the peers that name this filter. The first that matches decides;
/// where none does, the usual export and import rules do.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPFilter",
    derive = "PartialEq",
    derive = "Default",
    doc = "Rules for routes to and from the peers that name this filter."
)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterSpec {
    /// For IPv4 routes sent to a peer, in order.
    #[serde(default, rename = "exportV4", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub export_v4: Vec<BGPFilterRuleV4>,
    /// For IPv4 routes from a peer, in order.
    #[serde(default, rename = "importV4", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub import_v4: Vec<BGPFilterRuleV4>,
    /// For IPv6 routes sent to a peer, in order.
    #[serde(default, rename = "exportV6", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub export_v6: Vec<BGPFilterRuleV6>,
    /// For IPv6 routes from a peer, in order.
    #[serde(default, rename = "importV6", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub import_v6: Vec<BGPFilterRuleV6>,
}

/// The two families' rules differ in their limits only, and so share one body.
macro_rules! filter_rule {
    ($(#[$doc:meta])* $rule:ident, $(#[$length_doc:meta])* $length:ident, $bits:literal, $cidr:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
        #[serde(rename_all = "camelCase")]
        #[x_kube(validation = (
            "(has(self.cidr) && self.cidr != '') == has(self.matchOperator)",
            "cidr and matchOperator must both be set or both be empty",
        ))]
        #[x_kube(validation = (
            "!has(self.prefixLength) || (has(self.cidr) && self.cidr != '')",
            "cidr is required when prefixLength is set",
        ))]
        #[x_kube(validation = (
            "!has(self.operations) || self.action == 'Accept'",
            "operations may only be used with action Accept",
        ))]
        pub struct $rule {
            /// Routes whose prefix compares with this as matchOperator says.
            #[serde(default, skip_serializing_if = "String::is_empty")]
            #[schemars(schema_with = $cidr)]
            pub cidr: String,
            /// How the prefix is compared with cidr.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub match_operator: Option<MatchOperator>,
            /// Routes with a prefix this long.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub prefix_length: Option<$length>,
            /// Routes from there.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub source: Option<FilterSource>,
            /// Routes out of this interface; `*` may end the name. At most 15 characters.
            #[serde(default, skip_serializing_if = "String::is_empty")]
            #[schemars(length(max = 15))]
            pub interface: String,
            /// Routes to or from peers of this type.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub peer_type: Option<FilterPeerType>,
            /// Routes that carry this community.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub communities: Option<CommunityMatch>,
            /// Routes whose AS path begins with these.
            #[serde(default, rename = "asPathPrefix", skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(max = 10))]
            pub as_path_prefix: Vec<AsNumber>,
            /// Routes of this priority, 1 to 2147483646, as the RoutePriority fields of
            /// FelixConfiguration.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 2_147_483_646))]
            pub priority: Option<u32>,
            /// What becomes of a route that matches.
            pub action: FilterAction,
            /// What is changed in a route that is accepted, in order; 1 to 10.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(min = 1, max = 10))]
            pub operations: Vec<FilterOperation>,
        }

        $(#[$length_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
        #[x_kube(validation = (
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "min must not exceed max",
        ))]
        pub struct $length {
            /// At least this; the length of cidr if unset.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = $bits))]
            pub min: Option<u8>,
            /// At most this; the whole address if unset.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = $bits))]
            pub max: Option<u8>,
        }
    };
}

filter_rule!(
    /// A rule for IPv4 routes: all criteria given must match.
    BGPFilterRuleV4,
    /// A range of IPv4 prefix lengths.
    PrefixLengthV4,
    32,
    "cidr_v4"
);
filter_rule!(
    /// A rule for IPv6 routes: all criteria given must match.
    BGPFilterRuleV6,
    /// A range of IPv6 prefix lengths.
    PrefixLengthV6,
    128,
    "cidr_v6"
);

fn cidr_v4(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": "cidr", "maxLength": 18, "pattern": r"^[0-9.]+/[0-9]{1,2}$",
    })
}

fn cidr_v6(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": "cidr", "maxLength": 49, "pattern": "^[0-9a-fA-F]*:.*$",
    })
}

/// A community: `aa:nn` of 16 bits each (RFC 1997) or `aa:nn:mm` of 32 bits each (RFC 8092). The
/// bounds are in the pattern, since CEL's budget does not reach for so many strings.
pub(super) fn community(_: &mut SchemaGenerator) -> Schema {
    const U16: &str = "([0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
    const U32: &str = "([0-9]|[1-9][0-9]{1,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|\
        429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|\
        4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])";
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": format!("^({U16}:{U16}|{U32}:{U32}:{U32})$"),
    })
}

fn one_community(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "maxItems": 1, "items": community(generator) })
}

/// Communities a route must carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommunityMatch {
    /// Exactly one community.
    #[schemars(schema_with = "one_community")]
    pub values: Vec<String>,
}

/// One change of a route; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.addCommunity), has(self.prependASPath), has(self.setPriority)].exists_one(set, set)",
    "exactly one of addCommunity, prependASPath and setPriority must be set",
))]
pub struct FilterOperation {
    /// Adds a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    /// Puts AS numbers before the AS path.
    #[serde(default, rename = "prependASPath", skip_serializing_if = "Option::is_none")]
    pub prepend_as_path: Option<PrependAsPath>,
    /// Sets the priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
}

/// Adds a community.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddCommunity {
    /// The community.
    #[schemars(schema_with = "community")]
    pub value: String,
}

/// Puts AS numbers before the AS path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrependAsPath {
    /// The AS numbers, the first of them first in the path; 1 to 10.
    #[schemars(length(min = 1, max = 10))]
    pub prefix: Vec<AsNumber>,
}

/// Sets a route's priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetPriority {
    /// The priority, 1 to 2147483646.
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub value: u32,
}
