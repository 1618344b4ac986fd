//! IPReservation and IPAMConfiguration.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::Switch;

/// Addresses that are never chosen automatically. Asking for one of them by name still works.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPReservation",
    derive = "PartialEq",
    derive = "Default",
    doc = "Addresses that are never chosen automatically."
)]
pub struct IPReservationSpec {
    /// Networks in CIDR notation, or addresses.
    #[serde(default, rename = "reservedCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::nets")]
    pub reserved_cidrs: Vec<String>,
}

/// How blocks are handed to nodes, cluster-wide. Only the object named `default` counts.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMConfiguration",
    derive = "PartialEq",
    shortname = "ipamconfig",
    doc = "How blocks are handed to nodes, cluster-wide. Only the object named default counts.",
    printcolumn(name = "StrictAffinity", type_ = "boolean", json_path = ".spec.strictAffinity"),
    printcolumn(name = "MaxBlocksPerHost", type_ = "integer", json_path = ".spec.maxBlocksPerHost"),
    printcolumn(
        name = "AutoAllocateBlocks",
        type_ = "boolean",
        json_path = ".spec.autoAllocateBlocks"
    ),
    validation = ("self.metadata.name == 'default'", "the only IPAMConfiguration is named default")
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigurationSpec {
    /// Whether a node takes addresses from its own blocks only, and never borrows.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Whether a node takes new blocks when its own are full.
    #[serde(default = "yes")]
    pub auto_allocate_blocks: bool,
    /// Most blocks a node may hold of each IP version, 0 to 1000000; 0 means 20.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_blocks_per_host: u32,
    /// Whether a KubeVirt machine keeps its address across its pods.
    #[serde(default = "enabled", rename = "kubeVirtVMAddressPersistence")]
    pub kube_virt_vm_address_persistence: Switch,
    /// How long a released address is not given again, in seconds, 0 to 1200.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1200))]
    pub ip_cooldown_seconds: u32,
}

fn yes() -> bool {
    true
}

fn enabled() -> Switch {
    Switch::Enabled
}

impl Default for IPAMConfigurationSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            kube_virt_vm_address_persistence: Switch::Enabled,
            ip_cooldown_seconds: 0,
        }
    }
}

impl IPAMConfigurationSpec {
    /// Most blocks a node may hold of each IP version.
    pub fn max_blocks_per_host(&self) -> u32 {
        if self.max_blocks_per_host == 0 { 20 } else { self.max_blocks_per_host }
    }
}
