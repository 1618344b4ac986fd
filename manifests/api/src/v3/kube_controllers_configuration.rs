//! KubeControllersConfiguration.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::{Duration, Switch};

/// What Calico's kube-controllers do for the cluster. Only the object named `default` counts.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "KubeControllersConfiguration",
    derive = "PartialEq",
    derive = "Default",
    shortname = "kcc",
    shortname = "kccs",
    doc = "What Calico's kube-controllers do for the cluster. Only the object named default counts.",
    validation = ("self.metadata.name == 'default'", "the only KubeControllersConfiguration is named default")
)]
#[serde(rename_all = "camelCase")]
pub struct KubeControllersConfigurationSpec {
    /// The level from which on messages are logged. Default: Info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<ControllersLogSeverity>,
    /// Whether health is told. Default: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_checks: Option<Switch>,
    /// How often etcd is compacted; 0: never. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_v3_compaction_period: Option<Duration>,
    /// The TCP port of the metrics, 0 to 65535; 0: none. Default: 9094.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<u16>,
    /// Each controller's.
    #[serde(default)]
    pub controllers: ControllersConfig,
    /// The TCP port of profiles, 0 to 65535. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_profile_port: Option<u16>,
}

/// From which level on kube-controllers log.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[allow(missing_docs, reason = "each is the level of its name")]
pub enum ControllersLogSeverity {
    None,
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
    Panic,
}

/// The controllers; one that is absent is as by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllersConfig {
    /// Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeControllerConfig>,
    /// Policies, with the etcd datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ReconcilerConfig>,
    /// Pods, with the etcd datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_endpoint: Option<ReconcilerConfig>,
    /// ServiceAccounts, with the etcd datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ReconcilerConfig>,
    /// Namespaces, with the etcd datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ReconcilerConfig>,
    /// Addresses of Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerControllerConfig>,
    /// Renaming of policies that older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_migration: Option<MigrationControllerConfig>,
}

/// How often everything is looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReconcilerConfig {
    /// Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<Duration>,
}

/// What is done for nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeControllerConfig {
    /// How often everything is looked at. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<Duration>,
    /// Whether the labels of Kubernetes' nodes are those of Calico's. Default: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_labels: Option<Switch>,
    /// Host endpoints for every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<AutoHostEndpointConfig>,
    /// How long an address that nobody seems to have is left alone; 0: for ever. Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak_grace_period: Option<Duration>,
}

/// Host endpoints that nobody has to write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoHostEndpointConfig {
    /// Whether there are any. Default: Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_create: Option<Switch>,
    /// Whether each node has one for all its interfaces. Default: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_default_host_endpoint: Option<Switch>,
    /// Further ones; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub templates: Vec<HostEndpointTemplate>,
}

/// A host endpoint on each of some nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.interfaceCIDRs) && size(self.interfaceCIDRs) > 0) || (has(self.interfacePattern) && self.interfacePattern != '')",
    "at least one of interfaceCIDRs and interfacePattern must be given",
))]
pub struct HostEndpointTemplate {
    /// What its name has between the node's and `auto-hep`; at most 253 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub generate_name: String,
    /// It is for the interfaces that have an address of the node in one of these networks; at most 64.
    #[serde(default, rename = "interfaceCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::few_cidrs")]
    pub interface_cidrs: Vec<String>,
    /// It is for each interface with a name like that, as a regular expression; at most 253 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub interface_pattern: String,
    /// Its labels beside those of the node, which these go before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The nodes by their labels; at most 1024 characters. Default: all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub node_selector: String,
}

/// Who gets addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadBalancerControllerConfig {
    /// Which Services of type LoadBalancer. Default: AllServices.
    #[serde(default, rename = "assignIPs", skip_serializing_if = "Option::is_none")]
    pub assign_ips: Option<AssignIPs>,
}

/// Which Services of type LoadBalancer get addresses.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AssignIPs {
    /// Those of no class and of class `calico`.
    AllServices,
    /// Those that name the class, a pool or an address.
    RequestedServicesOnly,
}

/// Renaming of policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MigrationControllerConfig {
    /// Default: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<Switch>,
}
