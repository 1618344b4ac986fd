//! The kinds of `policy.networking.k8s.io/v1alpha2`, the network policy API of SIG Network.
//!
//! They are not ours: a cluster gets their definitions from their own project, and this module reads
//! what is in them. A definition newer than this one may know fields and values that these types do
//! not. A field that is not known reads as absent and a value as `Unknown`, so that who acts on a rule
//! sees that something was meant which he does not know.

mod check;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// `apiVersion` of every object here.
pub const API_VERSION: &str = "policy.networking.k8s.io/v1alpha2";

/// When a policy is asked, beside those of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Before them: what it says no namespace can change.
    Admin,
    /// After them: for pods that none of them selects.
    Baseline,
    /// Another word than these.
    #[serde(other)]
    Unknown,
}

/// What a rule does with the traffic it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Let it through, whatever later policies say.
    Accept,
    /// Drop it.
    Deny,
    /// Leave it to the next tier.
    Pass,
    /// Another word than these.
    #[serde(other)]
    Unknown,
}

fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Admin", "Baseline"] })
}

fn action(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Accept", "Deny", "Pass"] })
}

/// Traffic of pods anywhere in the cluster, as its administrators want it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "policy.networking.k8s.io",
    version = "v1alpha2",
    kind = "ClusterNetworkPolicy",
    status = "ClusterNetworkPolicyStatus",
    shortname = "cnp",
    derive = "PartialEq",
    doc = "Traffic of pods anywhere in the cluster, as its administrators want it."
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicySpec {
    /// When it is asked.
    #[schemars(schema_with = "tier")]
    pub tier: Tier,
    /// Its place in the tier, from 0 to 1000, lowest first. The API leaves open which of two with the
    /// same comes first; here it is the one whose name does.
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// The pods that it is for.
    pub subject: Subject,
    /// Rules for traffic to them, in order; at most 25. Without any it has no say about that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 25))]
    pub ingress: Vec<IngressRule>,
    /// Rules for traffic from them, in order; at most 25. Without any it has no say about that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 25))]
    pub egress: Vec<EgressRule>,
}

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterNetworkPolicyStatus {
    /// What implementations say of it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Pods, never those of the host's network; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// All of the namespaces that this selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Pods by their namespaces and by their own labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// Which namespaces; all if empty.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Which pods there; all if empty.
    pub pod_selector: LabelSelector,
}

/// A rule for traffic to the pods of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// What people call it; at most 100 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 100))]
    pub name: String,
    /// What it does.
    #[schemars(schema_with = "action")]
    pub action: Action,
    /// Where the traffic comes from: one of these; at most 25.
    #[schemars(length(min = 1, max = 25))]
    pub from: Vec<IngressPeer>,
    /// Which traffic: one of these, at most 25; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Option<Vec<Protocol>>,
}

/// A rule for traffic from the pods of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// What people call it; at most 100 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 100))]
    pub name: String,
    /// What it does.
    #[schemars(schema_with = "action")]
    pub action: Action,
    /// Where the traffic goes to: one of these; at most 25.
    #[schemars(length(min = 1, max = 25))]
    pub to: Vec<EgressPeer>,
    /// Which traffic: one of these, at most 25; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Option<Vec<Protocol>>,
}

/// Who sends; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressPeer {
    /// All pods of the namespaces that this selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Who is sent to; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressPeer {
    /// All pods of the namespaces that this selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
    /// The nodes that this selects, by the addresses that they have; all if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Networks in CIDR notation, of either family, at most 25: addresses of pods that lie in them are
    /// meant too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25), inner(length(max = 43)))]
    pub networks: Option<Vec<String>>,
    /// Names in the DNS, at most 25, of which `*.` at the beginning stands for one label or more. Only
    /// for rules that accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 25),
        inner(regex(
            pattern = r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
        ))
    )]
    pub domain_names: Option<Vec<String>>,
}

/// Some traffic; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    /// Of TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Ports>,
    /// Of UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Ports>,
    /// Of SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sctp: Option<Ports>,
    /// To the container port that the pod gives this name, of whichever protocol it says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination_named_port: String,
}

/// What is asked of a protocol; at least one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Where the traffic goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<Port>,
}

/// A port or several; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// One.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub number: Option<i32>,
    /// Several in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// From one port to another, both included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// The first.
    #[schemars(range(min = 1, max = 65535))]
    pub start: i32,
    /// The last, which is higher.
    #[schemars(range(min = 1, max = 65535))]
    pub end: i32,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_reads_as_such() {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": "ClusterNetworkPolicy",
            "metadata": { "name": "later" },
            "spec": {
                "tier": "Emergency",
                "priority": 1,
                "subject": { "nodes": {} },
                "ingress": [{ "action": "Reject", "from": [{ "satellites": {} }] }],
            },
        });
        let policy: ClusterNetworkPolicy = serde_json::from_value(object).unwrap();
        assert_eq!(policy.spec.tier, Tier::Unknown);
        assert_eq!(policy.spec.subject, Subject::default());
        assert_eq!(policy.spec.ingress[0].action, Action::Unknown);
        assert_eq!(policy.spec.ingress[0].from, [IngressPeer::default()]);
    }

    #[test]
    fn no_file_can_ask_for_what_is_not_known() {
        let schema = serde_json::to_value(ClusterNetworkPolicy::crd()).unwrap();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let schema = schema.pointer(spec).unwrap();
        assert_eq!(schema["properties"]["tier"]["enum"], json!(["Admin", "Baseline"]));
        let rule = &schema["properties"]["ingress"]["items"];
        assert_eq!(rule["properties"]["action"]["enum"], json!(["Accept", "Deny", "Pass"]));
        assert_eq!(rule["required"], json!(["action", "from"]));
        assert_eq!(schema["required"], json!(["priority", "subject", "tier"]));
    }
}
