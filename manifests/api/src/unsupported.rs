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

/// The fields of `spec` that are acted on, by kind; what is below a field goes with it. A kind with
/// none is not acted on at all.
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
    ("FelixConfiguration", &["logSeverityScreen", "defaultEndpointToHostAction"]),
    ("IPReservation", &["reservedCIDRs"]),
    (
        "IPAMConfiguration",
        &["strictAffinity", "autoAllocateBlocks", "maxBlocksPerHost", "ipCooldownSeconds"],
    ),
    ("Tier", &[]),
    ("NetworkPolicy", &[]),
    ("GlobalNetworkPolicy", &[]),
    ("NetworkSet", &[]),
    ("GlobalNetworkSet", &[]),
    ("HostEndpoint", &[]),
    ("BGPFilter", &["exportV4", "importV4", "exportV6", "importV6"]),
];

/// Which fields that the object sets are not acted on, in their order in the object. A field that
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
    set.map(|(name, _)| FieldPath(format!("spec.{name}"))).collect()
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
