//! BGPConfiguration.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::{AsNumber, BGPPassword, Duration, ProgramClusterRoutes, Switch};

/// The AS number of nodes that are given none.
pub const DEFAULT_AS_NUMBER: AsNumber = AsNumber(64512);
/// The TCP port of BGP (RFC 4271, section 8).
pub const DEFAULT_LISTEN_PORT: u16 = 179;

/// The level from which on messages are logged.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[allow(missing_docs, reason = "each is the level of its name")]
pub enum LogSeverity {
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

/// Which addresses BGP listens on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum BindMode {
    /// All of the host's.
    None,
    /// The node's own address only.
    NodeIP,
}

/// BGP of all nodes (object `default`) or of one (object `node.<name>`, which overrides a subset).
/// Every field is optional; what the unset ones mean is said with each.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPConfiguration",
    derive = "PartialEq",
    derive = "Default",
    shortname = "bgpconfig",
    shortname = "bgpconfigs",
    doc = "BGP of all nodes (object default) or of one (object node.NAME, which overrides a subset).",
    validation = (
        "self.metadata.name == 'default' || !(has(self.spec.nodeMeshPassword) || has(self.spec.nodeMeshMaxRestartTime))",
        "nodeMeshPassword and nodeMeshMaxRestartTime can only be set in the BGPConfiguration named default",
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
    "nodeMeshPassword needs nodeToNodeMeshEnabled",
))]
#[x_kube(validation = (
    "!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
    "nodeMeshMaxRestartTime needs nodeToNodeMeshEnabled",
))]
pub struct BGPConfigurationSpec {
    /// The level from which on BGP messages are logged. Default: Info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<LogSeverity>,
    /// Whether every node peers with every other. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The AS number of nodes that have no own one: an integer or "x.y". Default: 64512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Addresses of Services of type LoadBalancer in these ranges are advertised.
    #[serde(default, rename = "serviceLoadBalancerIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_load_balancer_ips: Vec<ServiceIPBlock>,
    /// External addresses of Services in these ranges are advertised.
    #[serde(default, rename = "serviceExternalIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_external_ips: Vec<ServiceIPBlock>,
    /// The ranges of cluster addresses of Services, advertised together with those addresses.
    #[serde(default, rename = "serviceClusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_cluster_ips: Vec<ServiceIPBlock>,
    /// Whether whole ranges of serviceLoadBalancerIPs are advertised rather than single
    /// addresses. Default: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<Switch>,
    /// Names for BGP communities; at most 500. Each must be used in prefixAdvertisements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub communities: Vec<Community>,
    /// Communities for routes by prefix; at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// The TCP port BGP listens on, 1 to 65535. Default: 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<u16>,
    /// The password of sessions of the node mesh (RFC 2385); needs the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BGPPassword>,
    /// How long a node of the mesh may take to restart before its routes are dropped (RFC 4724);
    /// needs the mesh. Default: 120s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<Duration>,
    /// Which addresses BGP listens on. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<BindMode>,
    /// Interfaces whose connected routes are not taken up; `*` may end a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_interfaces: Vec<String>,
    /// The IPv4 address, on every pod's host interface, that pods peer with.
    #[serde(
        default,
        rename = "localWorkloadPeeringIPV4",
        skip_serializing_if = "String::is_empty"
    )]
    #[schemars(extend("format" = "ipv4"))]
    pub local_workload_peering_ipv4: String,
    /// The IPv6 address, on every pod's host interface, that pods peer with.
    #[serde(
        default,
        rename = "localWorkloadPeeringIPV6",
        skip_serializing_if = "String::is_empty"
    )]
    #[schemars(extend("format" = "ipv6"))]
    pub local_workload_peering_ipv6: String,
    /// Which routes to other nodes' blocks are put into the kernel by BGP. Default:
    /// EnabledNoEncapOnly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// Kernel metric of IPv4 routes learned by BGP. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Kernel metric of IPv6 routes learned by BGP. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub ipv6_normal_route_priority: Option<u32>,
}

impl BGPConfigurationSpec {
    /// Whether every node peers with every other.
    pub fn node_to_node_mesh_enabled(&self) -> bool {
        self.node_to_node_mesh_enabled.unwrap_or(true)
    }

    /// The AS number of nodes that have no own one.
    pub fn as_number(&self) -> AsNumber {
        self.as_number.unwrap_or(DEFAULT_AS_NUMBER)
    }

    /// The TCP port BGP listens on.
    pub fn listen_port(&self) -> u16 {
        self.listen_port.unwrap_or(DEFAULT_LISTEN_PORT)
    }
}

/// A range of Service addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceIPBlock {
    /// The range, in CIDR notation.
    #[schemars(schema_with = "schemas::cidr")]
    pub cidr: String,
}

/// A name for a BGP community.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Community {
    /// The name.
    #[schemars(length(max = 253), regex(pattern = "^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$"))]
    pub name: String,
    /// `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
    #[schemars(schema_with = "super::bgp_filter::community")]
    pub value: String,
}

/// Communities for the routes of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixAdvertisement {
    /// The prefix.
    #[schemars(schema_with = "schemas::cidr")]
    pub cidr: String,
    /// Names of communities, or their values; at most 50.
    #[schemars(length(max = 50))]
    pub communities: Vec<String>,
}
