//! HostEndpoint.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::Protocol;

/// An interface of a host, or all of them, as something that policies select.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "HostEndpoint",
    derive = "PartialEq",
    derive = "Default",
    shortname = "hep",
    shortname = "heps",
    doc = "An interface of a host, or all of them, as something that policies select.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Interface", type_ = "string", json_path = ".spec.interfaceName")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.interfaceName) && self.interfaceName != '') || \
     (has(self.expectedIPs) && size(self.expectedIPs) > 0)",
    "at least one of interfaceName and expectedIPs must be given",
))]
pub struct HostEndpointSpec {
    /// The node it is on; at most 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The interface, or `*` for all; at most 15 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub interface_name: String,
    /// Addresses of the interface, for matching in rules and, without a name, for finding it.
    #[serde(default, rename = "expectedIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::ips")]
    pub expected_ips: Vec<String>,
    /// Profiles that apply when no policy does, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Names that rules may use for ports of this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// A port of a host with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointPort {
    /// The name.
    #[schemars(regex(pattern = "^[a-zA-Z0-9_.-]{1,128}$"))]
    pub name: String,
    /// The port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}
