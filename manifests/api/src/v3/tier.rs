//! Tier.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of traffic that a tier's policies selected but none of their rules matched.
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
pub enum TierDefaultAction {
    /// Drop it.
    #[default]
    Deny,
    /// Ask the next tier.
    Pass,
}

/// A group of policies, evaluated before the groups of higher order.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "Tier",
    status = "TierStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A group of policies, evaluated before the groups of higher order.",
    printcolumn(name = "Order", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "DefaultAction", type_ = "string", json_path = ".spec.defaultAction"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    validation = (
        "self.metadata.name != 'kube-admin' || (has(self.spec.order) && double(self.spec.order) == 1000.0 && self.spec.defaultAction == 'Pass')",
        "tier kube-admin has order 1000 and defaultAction Pass",
    ),
    validation = (
        "self.metadata.name != 'default' || (has(self.spec.order) && double(self.spec.order) == 1000000.0 && self.spec.defaultAction == 'Deny')",
        "tier default has order 1000000 and defaultAction Deny",
    ),
    validation = (
        "self.metadata.name != 'kube-baseline' || (has(self.spec.order) && double(self.spec.order) == 10000000.0 && self.spec.defaultAction == 'Pass')",
        "tier kube-baseline has order 10000000 and defaultAction Pass",
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Its place among the tiers, lowest first; last if unset. Ties go by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// What becomes of traffic that the tier's policies selected but none of their rules matched.
    #[serde(default)]
    pub default_action: TierDefaultAction,
}

/// What became of a tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TierStatus {
    /// `Ready`: the tier is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
