//! Staged policies: policies that are tried out and never enforced.

use k8s_openapi::api::networking::v1 as networking;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GlobalNetworkPolicySpec, NetworkPolicySpec};

/// What a staged policy would do to the policy of its name.
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
pub enum StagedAction {
    /// Create it, or take its place.
    #[default]
    Set,
    /// Delete it.
    Delete,
    /// Nothing: the policy is still being learned from traffic.
    Learn,
    /// Nothing.
    Ignore,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_set(action: &StagedAction) -> bool {
    *action == StagedAction::Set
}

/// A NetworkPolicy that is tried out: it decides nothing, and what it would have decided is told.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedNetworkPolicy",
    namespaced,
    derive = "PartialEq",
    shortname = "scnp",
    shortname = "snp",
    doc = "A NetworkPolicy that is tried out: it decides nothing, and what it would have decided is told.",
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.stagedAction"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.tier"
)]
#[serde(rename_all = "camelCase")]
pub struct StagedNetworkPolicySpec {
    /// What it would do to the NetworkPolicy of its name. Default: Set.
    #[serde(default, skip_serializing_if = "is_set")]
    pub staged_action: StagedAction,
    /// The policy that it would set.
    #[serde(flatten)]
    pub policy: NetworkPolicySpec,
}

/// A GlobalNetworkPolicy that is tried out: it decides nothing, and what it would have decided is told.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedGlobalNetworkPolicy",
    derive = "PartialEq",
    shortname = "sgnp",
    doc = "A GlobalNetworkPolicy that is tried out: it decides nothing, and what it would have decided is told.",
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.stagedAction"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.tier"
)]
#[serde(rename_all = "camelCase")]
pub struct StagedGlobalNetworkPolicySpec {
    /// What it would do to the GlobalNetworkPolicy of its name. Default: Set.
    #[serde(default, skip_serializing_if = "is_set")]
    pub staged_action: StagedAction,
    /// The policy that it would set.
    #[serde(flatten)]
    pub policy: GlobalNetworkPolicySpec,
}

/// A NetworkPolicy of Kubernetes that is tried out: it decides nothing, and what it would have decided
/// is told.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedKubernetesNetworkPolicy",
    namespaced,
    derive = "PartialEq",
    shortname = "sknp",
    doc = "A NetworkPolicy of Kubernetes that is tried out: it decides nothing, and what it would have decided is told.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.stagedAction"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    /// What it would do to the NetworkPolicy of Kubernetes of its name. Default: Set.
    #[serde(default, skip_serializing_if = "is_set")]
    pub staged_action: StagedAction,
    /// The policy that it would set.
    #[serde(flatten)]
    pub policy: networking::NetworkPolicySpec,
}
