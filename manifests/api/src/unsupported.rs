//! Which fields the agent does not act on yet. They are accepted, since a manifest written for
//! Calico must apply, and reported.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::{v3, validate};

/// A field of an object, as in `spec.ingress[].http`; `spec` for the whole object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing in the object is acted on.
    pub fn is_whole_object(&self) -> bool {
        self.0 == "spec"
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields of `spec` that are acted on, by kind; what is below a field goes with it, but for
/// [`NOT_IN_RULES`]. A kind with none is not acted on at all.
const ACTED_ON: &[(&str, &[&str])] = &[
    (
        "IPPool",
        &[
            "cidr",
            "blockSize",
            "natOutgoing",
            "disabled",
            "nodeSelector",
            "namespaceSelector",
            "disableBGPExport",
            "allowedUses",
            "assignmentMode",
        ],
    ),
    (
        "BGPConfiguration",
        &[
            "asNumber",
            "nodeToNodeMeshEnabled",
            "listenPort",
            "nodeMeshPassword",
            "nodeMeshMaxRestartTime",
            "communities",
            "prefixAdvertisements",
        ],
    ),
    (
        "BGPPeer",
        &[
            "node",
            "nodeSelector",
            "peerIP",
            "peerSelector",
            "asNumber",
            "localASNumber",
            "password",
            "sourceAddress",
            "maxRestartTime",
            "keepaliveTime",
            "ttlSecurity",
            "nextHopMode",
            "keepOriginalNextHop",
            "numAllowedLocalASNumbers",
            "reversePeering",
            "filters",
        ],
    ),
    (
        "FelixConfiguration",
        &[
            "logSeverityScreen",
            "defaultEndpointToHostAction",
            "failsafeInboundHostPorts",
            "failsafeOutboundHostPorts",
            "logPrefix",
            "logActionRateLimit",
            "logActionRateLimitBurst",
            "policyCounters",
            "policyEstablishedFlows",
            "nftablesFilterDenyAction",
        ],
    ),
    ("IPReservation", &["reservedCIDRs"]),
    (
        "IPAMConfiguration",
        &["strictAffinity", "autoAllocateBlocks", "maxBlocksPerHost", "ipCooldownSeconds"],
    ),
    ("Tier", &["order", "defaultAction"]),
    (
        "NetworkPolicy",
        &[
            "tier",
            "order",
            "selector",
            "serviceAccountSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
        ],
    ),
    // The others are for host endpoints alone.
    (
        "GlobalNetworkPolicy",
        &[
            "tier",
            "order",
            "selector",
            "namespaceSelector",
            "serviceAccountSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
            "applyOnForward",
            "doNotTrack",
            "preDNAT",
        ],
    ),
    (
        "StagedNetworkPolicy",
        &[
            "stagedAction",
            "tier",
            "order",
            "selector",
            "serviceAccountSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
        ],
    ),
    (
        "StagedGlobalNetworkPolicy",
        &[
            "stagedAction",
            "tier",
            "order",
            "selector",
            "namespaceSelector",
            "serviceAccountSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
        ],
    ),
    (
        "StagedKubernetesNetworkPolicy",
        &["stagedAction", "podSelector", "policyTypes", "ingress", "egress"],
    ),
    ("NetworkSet", &[]),
    ("GlobalNetworkSet", &[]),
    ("HostEndpoint", &["node", "interfaceName", "expectedIPs", "profiles", "ports"]),
    ("KubeControllersConfiguration", &["controllers"]),
    ("BGPFilter", &["exportV4", "importV4", "exportV6", "importV6"]),
];

/// What a rule of a policy may say that is not acted on, as a path in the rule.
const NOT_IN_RULES: [&str; 1] = ["http"];

/// The kinds that have such rules.
const IN_RULES_OF: [&str; 4] =
    ["NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"];

/// What the rules of a policy say that is not acted on, as in `spec.ingress[2].http`: a policy that
/// says any of it denies what it is about. Empty for an object of
/// another kind.
pub fn unsupported_in_rules(object: &impl Serialize) -> Vec<String> {
    let object = serde_json::to_value(object).unwrap_or_default();
    let paths = in_rules(&object).into_iter();
    paths.map(|(side, number, field)| format!("spec.{side}[{number}].{field}")).collect()
}

/// Direction, number of the rule, path in it.
fn in_rules(object: &Value) -> Vec<(&'static str, usize, &'static str)> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != v3::API_VERSION || !IN_RULES_OF.contains(&text("kind")) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for side in ["ingress", "egress"] {
        let rules = object["spec"][side].as_array().into_iter().flatten();
        for (number, rule) in rules.enumerate() {
            let says = |path: &&str| match path.split('.').fold(rule, |at, field| &at[field]) {
                Value::Null => false,
                Value::Array(entries) => !entries.is_empty(),
                _ => true,
            };
            let fields = NOT_IN_RULES.into_iter().filter(says);
            found.extend(fields.map(|field| (side, number, field)));
        }
    }
    found
}

/// Which fields that the object sets are not acted on, in their order in the object, those of rules
/// last: in all rules of a direction a field is one, `spec.ingress[].http`. A field that
/// is set to its default asks for nothing. Empty for an object of another API.
pub fn unsupported(object: &impl Serialize) -> Vec<FieldPath> {
    serde_json::to_value(object).map(|object| unsupported_in(&object)).unwrap_or_default()
}

fn unsupported_in(object: &Value) -> Vec<FieldPath> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let kind = text("kind");
    if text("apiVersion") != v3::API_VERSION {
        return Vec::new();
    }
    let Some((_, acted_on)) = ACTED_ON.iter().find(|(candidate, _)| *candidate == kind) else {
        return Vec::new();
    };
    if acted_on.is_empty() {
        return vec![FieldPath("spec".to_owned())];
    }
    let fields = object.get("spec").and_then(Value::as_object);
    let set = fields.into_iter().flatten().filter(|(name, value)| {
        let is_default = validate::default_at(kind, &["spec", name]) == Some(*value);
        !is_default && !is_empty(value) && !acted_on.contains(&name.as_str())
    });
    let mut paths: Vec<FieldPath> =
        set.map(|(name, _)| FieldPath(format!("spec.{name}"))).collect();
    let in_rules = in_rules(object).into_iter();
    let mut in_rules: Vec<FieldPath> =
        in_rules.map(|(side, _, field)| FieldPath(format!("spec.{side}[].{field}"))).collect();
    in_rules.sort_unstable();
    in_rules.dedup();
    paths.append(&mut in_rules);
    paths
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests;
