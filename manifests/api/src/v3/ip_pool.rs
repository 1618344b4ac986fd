//! IPPool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When traffic of a pool is encapsulated.
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
pub enum EncapsulationMode {
    /// Never: plain IP.
    #[default]
    Never,
    /// Between any two nodes.
    Always,
    /// Between nodes in different subnets.
    CrossSubnet,
}

/// What addresses of a pool are for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum IPPoolAllowedUse {
    /// Pods.
    Workload,
    /// Tunnel devices of nodes.
    Tunnel,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

/// Who may take addresses from a pool.
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
pub enum AssignmentMode {
    /// Anyone the pool's selectors allow.
    #[default]
    Automatic,
    /// Only who asks for this pool, or for an address of it, by name.
    Manual,
}

/// A range of addresses and what becomes of traffic to and from them.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPPool",
    status = "IPPoolStatus",
    derive = "PartialEq",
    shortname = "ipp",
    shortname = "pool",
    doc = "A range of addresses and what becomes of traffic to and from them.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "VXLAN", type_ = "string", json_path = ".spec.vxlanMode"),
    printcolumn(name = "IPIP", type_ = "string", json_path = ".spec.ipipMode"),
    printcolumn(name = "NAT", type_ = "boolean", json_path = ".spec.natOutgoing"),
    printcolumn(
        name = "Allocatable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Allocatable')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.blockSize) ? self.blockSize : (self.cidr.contains(':') ? 122 : 26)) == \
     (has(oldSelf.blockSize) ? oldSelf.blockSize : (oldSelf.cidr.contains(':') ? 122 : 26))",
    "blockSize is immutable",
))]
#[x_kube(validation = (
    "!has(self.blockSize) || (self.cidr.contains(':') ? \
     self.blockSize >= 116 && self.blockSize <= 128 : self.blockSize >= 20 && self.blockSize <= 32)",
    "blockSize must be from 20 to 32 for IPv4 and from 116 to 128 for IPv6",
))]
#[x_kube(validation = (
    "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= \
     (has(self.blockSize) ? self.blockSize : (self.cidr.contains(':') ? 122 : 26))",
    "cidr must be at least as large as one block of blockSize",
))]
#[x_kube(validation = (
    "self.ipipMode == 'Never' || self.vxlanMode == 'Never'",
    "ipipMode and vxlanMode cannot both be enabled",
))]
#[x_kube(validation = (
    "self.ipipMode == 'Never' || !self.cidr.contains(':')",
    "ipipMode is not available for IPv6 pools",
))]
#[x_kube(validation = (
    "!self.allowedUses.exists(use, use == 'LoadBalancer') || size(self.allowedUses) == 1",
    "allowed use LoadBalancer cannot be combined with others",
))]
#[x_kube(validation = (
    "!self.allowedUses.exists(use, use == 'LoadBalancer') || self.nodeSelector == 'all()'",
    "a LoadBalancer pool must have nodeSelector all()",
))]
#[x_kube(validation = (
    "!self.allowedUses.exists(use, use == 'LoadBalancer') || \
     (self.ipipMode == 'Never' && self.vxlanMode == 'Never')",
    "a LoadBalancer pool cannot have ipipMode or vxlanMode",
))]
#[x_kube(validation = (
    "!self.allowedUses.exists(use, use == 'LoadBalancer') || \
     !has(self.disableBGPExport) || !self.disableBGPExport",
    "a LoadBalancer pool cannot have disableBGPExport",
))]
#[x_kube(validation = (
    "!has(self.namespaceSelector) || self.namespaceSelector == '' || \
     !self.allowedUses.exists(use, use == 'Tunnel')",
    "namespaceSelector cannot be combined with allowed use Tunnel",
))]
pub struct IPPoolSpec {
    /// The range, in CIDR notation without host bits; immutable.
    #[schemars(length(max = 43))]
    #[x_kube(validation = ("self == oldSelf", "cidr is immutable"))]
    #[x_kube(validation = (
        "isCIDR(self) && cidr(self) == cidr(self).masked()",
        "cidr must be a network in CIDR notation without host bits",
    ))]
    #[x_kube(validation = (
        "!isCIDR(self) || !(cidr('169.254.0.0/16').containsCIDR(self) || \
         cidr(self).containsCIDR('169.254.0.0/16') || cidr('fe80::/10').containsCIDR(self) || \
         cidr(self).containsCIDR('fe80::/10'))",
        "cidr must not overlap the link-local ranges 169.254.0.0/16 and fe80::/10",
    ))]
    pub cidr: String,
    /// Whether traffic between pods of the pool travels in VXLAN.
    #[serde(default)]
    pub vxlan_mode: EncapsulationMode,
    /// Whether traffic between pods of the pool travels in IPIP; IPv4 only.
    #[serde(default)]
    pub ipip_mode: EncapsulationMode,
    /// Whether traffic from the pool to addresses in no pool leaves under the node's address.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// Whether no new addresses are taken from the pool.
    #[serde(default)]
    pub disabled: bool,
    /// Whether routes to the pool's addresses are kept from BGP peers.
    #[serde(default, rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
    /// Prefix length of the blocks that nodes take: 20 to 32 for IPv4, 26 if unset; 116 to 128
    /// for IPv6, 122 if unset. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub block_size: Option<u8>,
    /// Which nodes may take blocks from the pool.
    #[serde(default = "all_nodes")]
    #[schemars(length(max = 1024))]
    pub node_selector: String,
    /// Pods of which namespaces may have addresses of the pool; all if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub namespace_selector: String,
    /// What the pool's addresses are for.
    #[serde(default = "default_uses")]
    #[schemars(length(max = 10))]
    pub allowed_uses: Vec<IPPoolAllowedUse>,
    /// Who may take addresses from the pool.
    #[serde(default)]
    pub assignment_mode: AssignmentMode,
}

fn all_nodes() -> String {
    "all()".to_owned()
}

fn default_uses() -> Vec<IPPoolAllowedUse> {
    vec![IPPoolAllowedUse::Workload, IPPoolAllowedUse::Tunnel]
}

impl IPPoolSpec {
    /// A pool of this range with every other field at its default.
    pub fn new(cidr: &str) -> Self {
        Self {
            cidr: cidr.to_owned(),
            vxlan_mode: EncapsulationMode::default(),
            ipip_mode: EncapsulationMode::default(),
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: None,
            node_selector: all_nodes(),
            namespace_selector: String::new(),
            allowed_uses: default_uses(),
            assignment_mode: AssignmentMode::default(),
        }
    }

    /// The prefix length of the pool's blocks, in bits.
    pub fn block_size(&self) -> u8 {
        self.block_size.unwrap_or(if self.cidr.contains(':') { 122 } else { 26 })
    }

    /// Whether the pool's addresses are for this; an empty list means the default uses.
    pub fn allows(&self, use_: IPPoolAllowedUse) -> bool {
        if self.allowed_uses.is_empty() {
            default_uses().contains(&use_)
        } else {
            self.allowed_uses.contains(&use_)
        }
    }
}

/// What became of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IPPoolStatus {
    /// `Allocatable`: addresses are being taken from the pool; reason OK, CIDROverlap,
    /// Terminating or PoolDisabled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
