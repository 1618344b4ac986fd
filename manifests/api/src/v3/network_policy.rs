//! NetworkPolicy and GlobalNetworkPolicy.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{self, PolicyType};

/// The tier of a policy that names none.
pub const DEFAULT_TIER: &str = "default";

fn default_tier() -> String {
    DEFAULT_TIER.to_owned()
}

/// A hint about how a policy is used; never changes what it means.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum PolicyPerformanceHint {
    /// Prepare the policy on every node, also where it selects nothing yet.
    AssumeNeededOnEveryNode,
}

/// Traffic of the pods it selects in its own namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NetworkPolicy",
    namespaced,
    derive = "PartialEq",
    shortname = "cnp",
    shortname = "caliconetworkpolicy",
    doc = "Traffic of the pods it selects in its own namespace.",
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "Order", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.tier"
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// The tier it belongs to; `default` unless given.
    #[serde(default = "default_tier")]
    #[schemars(length(max = 253))]
    pub tier: String,
    /// Its place in the tier, lowest first; last if unset. Ties go by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Rules for traffic to the selected pods, in order; at most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub ingress: Vec<rule::Rule>,
    /// Rules for traffic from the selected pods, in order; at most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub egress: Vec<rule::Rule>,
    /// Which pods of the namespace; all if empty. At most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = (
        "!self.contains('global(')",
        "global() cannot be used in the selector of a NetworkPolicy",
    ))]
    pub selector: String,
    /// Which directions; see [`NetworkPolicySpec::types`] for what an empty list means.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 2))]
    pub types: Vec<PolicyType>,
    /// Only pods whose service account has these labels. At most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = (
        "!self.contains('global(')",
        "global() cannot be used in the serviceAccountSelector of a NetworkPolicy",
    ))]
    pub service_account_selector: String,
    /// How the policy is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub performance_hints: Vec<PolicyPerformanceHint>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self {
            tier: default_tier(),
            order: None,
            ingress: Vec::new(),
            egress: Vec::new(),
            selector: String::new(),
            types: Vec::new(),
            service_account_selector: String::new(),
            performance_hints: Vec::new(),
        }
    }
}

impl NetworkPolicySpec {
    /// The directions that the policy governs: as written, or where `types` is empty, both if
    /// there are rules for both, egress if only for egress, and otherwise ingress.
    pub fn types(&self) -> Vec<PolicyType> {
        effective_types(&self.types, &self.ingress, &self.egress)
    }
}

/// Traffic of any endpoint in the cluster: pods of every namespace and host endpoints.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "GlobalNetworkPolicy",
    derive = "PartialEq",
    shortname = "gnp",
    shortname = "cgnp",
    doc = "Traffic of any endpoint in the cluster: pods of every namespace and host endpoints.",
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "Order", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.tier"
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!(has(self.preDNAT) && self.preDNAT && has(self.doNotTrack) && self.doNotTrack)",
    "preDNAT and doNotTrack cannot both be true",
))]
#[x_kube(validation = (
    "!(has(self.preDNAT) && self.preDNAT) || !has(self.egress) || size(self.egress) == 0",
    "a preDNAT policy cannot have egress rules",
))]
#[x_kube(validation = (
    "!(has(self.preDNAT) && self.preDNAT) || !has(self.types) || !self.types.exists(t, t == 'Egress')",
    "a preDNAT policy cannot have type Egress",
))]
#[x_kube(validation = (
    "!((has(self.preDNAT) && self.preDNAT) || (has(self.doNotTrack) && self.doNotTrack)) || \
     (has(self.applyOnForward) && self.applyOnForward)",
    "applyOnForward must be true when preDNAT or doNotTrack is true",
))]
pub struct GlobalNetworkPolicySpec {
    /// The tier it belongs to; `default` unless given.
    #[serde(default = "default_tier")]
    #[schemars(length(max = 253))]
    pub tier: String,
    /// Its place in the tier, lowest first; last if unset. Ties go by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Rules for traffic to the selected endpoints, in order; at most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub ingress: Vec<rule::Rule>,
    /// Rules for traffic from the selected endpoints, in order; at most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub egress: Vec<rule::Rule>,
    /// Which endpoints; all if empty. At most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub selector: String,
    /// Only endpoints in namespaces with these labels. At most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub namespace_selector: String,
    /// Which directions; see [`GlobalNetworkPolicySpec::types`] for what an empty list means.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 2))]
    pub types: Vec<PolicyType>,
    /// Applies to host endpoints before connection tracking, and keeps what it allows out of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub do_not_track: bool,
    /// Applies to host endpoints before destination NAT.
    #[serde(default, rename = "preDNAT", skip_serializing_if = "is_false")]
    pub pre_dnat: bool,
    /// Applies to what a host endpoint forwards, not only to what ends on the host.
    #[serde(default, skip_serializing_if = "is_false")]
    pub apply_on_forward: bool,
    /// Only pods whose service account has these labels. At most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub service_account_selector: String,
    /// How the policy is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub performance_hints: Vec<PolicyPerformanceHint>,
}

impl Default for GlobalNetworkPolicySpec {
    fn default() -> Self {
        Self {
            tier: default_tier(),
            order: None,
            ingress: Vec::new(),
            egress: Vec::new(),
            selector: String::new(),
            namespace_selector: String::new(),
            types: Vec::new(),
            do_not_track: false,
            pre_dnat: false,
            apply_on_forward: false,
            service_account_selector: String::new(),
            performance_hints: Vec::new(),
        }
    }
}

impl GlobalNetworkPolicySpec {
    /// The directions that the policy governs; as [`NetworkPolicySpec::types`].
    pub fn types(&self) -> Vec<PolicyType> {
        effective_types(&self.types, &self.ingress, &self.egress)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn effective_types(
    written: &[PolicyType],
    ingress: &[rule::Rule],
    egress: &[rule::Rule],
) -> Vec<PolicyType> {
    match (written.is_empty(), ingress.is_empty(), egress.is_empty()) {
        (false, ..) => written.to_vec(),
        (true, false, false) => vec![PolicyType::Ingress, PolicyType::Egress],
        (true, true, false) => vec![PolicyType::Egress],
        (true, _, true) => vec![PolicyType::Ingress],
    }
}
