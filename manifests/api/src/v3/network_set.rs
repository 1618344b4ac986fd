//! NetworkSet and GlobalNetworkSet.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;

/// Networks under a name, matched by selectors through the labels in its metadata, for policies
/// of its namespace.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NetworkSet",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    shortname = "netsets",
    doc = "Networks under a name, matched by selectors through the labels in its metadata.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NetworkSetSpec {
    /// Networks in CIDR notation or addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::nets")]
    pub nets: Vec<String>,
}

/// As [`NetworkSet`], in no namespace.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "GlobalNetworkSet",
    derive = "PartialEq",
    derive = "Default",
    shortname = "gns",
    doc = "Networks under a name, in no namespace, matched by selectors through the labels in \
           its metadata.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct GlobalNetworkSetSpec {
    /// Networks in CIDR notation or addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::nets")]
    pub nets: Vec<String>,
}
