//! BGPPeer.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::{AsNumber, BGPPassword, Duration};

/// The next hop in routes sent to a peer.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum NextHopMode {
    /// As RFC 4271, section 5.1.3: own address to external peers, unchanged to internal ones.
    #[default]
    Auto,
    /// Own address always.
    #[serde(rename = "Self")]
    Own,
    /// Unchanged always.
    Keep,
}

/// The local address of sessions.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum SourceAddress {
    /// The node's address.
    #[default]
    UseNodeIP,
    /// What the kernel chooses.
    None,
}

/// Whether the other side of a peering between nodes is set up too.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum ReversePeering {
    /// It is.
    #[default]
    Auto,
    /// It has an object of its own.
    Manual,
}

/// BGP sessions between nodes (`node`, `nodeSelector`; all if neither is set) and a router
/// (`peerIP`), other nodes (`peerSelector`) or pods (`localWorkloadSelector`).
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPPeer",
    derive = "PartialEq",
    derive = "Default",
    doc = "BGP sessions between nodes and a router, other nodes or pods.",
    printcolumn(name = "Node Selector", type_ = "string", json_path = ".spec.nodeSelector"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Local ASN", type_ = "string", json_path = ".spec.localASNumber"),
    printcolumn(name = "Peer Selector", type_ = "string", json_path = ".spec.peerSelector"),
    printcolumn(name = "Peer IP", type_ = "string", json_path = ".spec.peerIP"),
    printcolumn(name = "Peer ASN", type_ = "string", json_path = ".spec.asNumber")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!(has(self.node) && self.node != '') || !(has(self.nodeSelector) && self.nodeSelector != '')",
    "node and nodeSelector cannot both be set",
))]
#[x_kube(validation = (
    "!(has(self.peerSelector) && self.peerSelector != '') || \
     !((has(self.peerIP) && self.peerIP != '') || has(self.asNumber))",
    "peerSelector cannot be combined with peerIP or asNumber",
))]
#[x_kube(validation = (
    "!(has(self.localWorkloadSelector) && self.localWorkloadSelector != '') || \
     !((has(self.peerIP) && self.peerIP != '') || (has(self.peerSelector) && self.peerSelector != ''))",
    "localWorkloadSelector cannot be combined with peerIP or peerSelector",
))]
#[x_kube(validation = (
    "!(has(self.localWorkloadSelector) && self.localWorkloadSelector != '') || has(self.asNumber)",
    "localWorkloadSelector requires asNumber",
))]
#[x_kube(validation = (
    "!(has(self.reachableBy) && self.reachableBy != '') || (has(self.peerIP) && self.peerIP != '')",
    "reachableBy requires peerIP",
))]
#[x_kube(validation = (
    "!(has(self.keepOriginalNextHop) && self.keepOriginalNextHop) || !has(self.nextHopMode) || \
     self.nextHopMode == 'Keep'",
    "keepOriginalNextHop contradicts nextHopMode",
))]
pub struct BGPPeerSpec {
    /// The one node that has these sessions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub node: String,
    /// The nodes that have these sessions, by their labels.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub node_selector: String,
    /// The router's address, with a port if it is not 179: `192.0.2.1`, `192.0.2.1:1179`,
    /// `2001:db8::1` or `[2001:db8::1]:1179`.
    #[serde(default, rename = "peerIP", skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 64),
        regex(
            pattern = r"^([0-9.]+(:[0-9]{1,5})?|[0-9a-fA-F:.]+|\[[0-9a-fA-F:.]+\]:[0-9]{1,5})?$"
        )
    )]
    pub peer_ip: String,
    /// The peer's AS number: an integer or "x.y".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Own AS number on these sessions, where it differs from the node's.
    #[serde(default, rename = "localASNumber", skip_serializing_if = "Option::is_none")]
    pub local_as_number: Option<AsNumber>,
    /// The nodes to peer with, by their labels; their AS number comes from the nodes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub peer_selector: String,
    /// The pods of the node to peer with, by their labels.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub local_workload_selector: String,
    /// Deprecated: say `nextHopMode: Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_original_next_hop: Option<bool>,
    /// The next hop in routes sent to the peer. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<NextHopMode>,
    /// The password of the sessions (RFC 2385).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<BGPPassword>,
    /// The local address of the sessions. Default: UseNodeIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<SourceAddress>,
    /// How long the peer may take to restart before its routes are dropped (RFC 4724). Default:
    /// 120s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<Duration>,
    /// How often a KEEPALIVE is sent (RFC 4271, section 4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<Duration>,
    /// How many times own AS number may stand in the AS path of a received route. Default: 0.
    #[serde(default, rename = "numAllowedLocalASNumbers", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub num_allowed_local_as_numbers: Option<u32>,
    /// How many hops the peer may be away at most, enforced by TTL (RFC 5082), 1 to 255. Not
    /// enforced if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub ttl_security: Option<u8>,
    /// The gateway through which the peer is reached, for which a route is added.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schemas::ip")]
    pub reachable_by: String,
    /// Names of BGPFilters, applied in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Whether the other side of a peering by peerSelector is set up too. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<ReversePeering>,
}

impl BGPPeerSpec {
    /// The next hop in routes sent to the peer, `keepOriginalNextHop` included.
    pub fn next_hop_mode(&self) -> NextHopMode {
        match (self.next_hop_mode, self.keep_original_next_hop) {
            (Some(mode), _) => mode,
            (None, Some(true)) => NextHopMode::Keep,
            (None, _) => NextHopMode::Auto,
        }
    }

    /// The local address of the sessions.
    pub fn source_address(&self) -> SourceAddress {
        self.source_address.unwrap_or_default()
    }

    /// Whether the other side of a peering by peerSelector is set up too.
    pub fn reverse_peering(&self) -> ReversePeering {
        self.reverse_peering.unwrap_or_default()
    }
}
