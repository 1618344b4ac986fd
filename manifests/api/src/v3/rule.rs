//! The rules of NetworkPolicy and GlobalNetworkPolicy.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::{IpVersion, Port, Protocol};

/// What becomes of traffic that a rule matches.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Action {
    /// Accept it; no later rule, policy or tier is asked.
    Allow,
    /// Drop it.
    Deny,
    /// Log it and go on with the next rule.
    Log,
    /// Skip the rest of the tier.
    Pass,
}

/// A direction that a policy governs, seen from the endpoint it selects.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum PolicyType {
    /// Traffic to the endpoint.
    Ingress,
    /// Traffic from the endpoint.
    Egress,
}

/// One rule: every criterion given must match for the action to be taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.http) || self.action == 'Allow'",
    "http is only allowed with action Allow",
))]
#[x_kube(validation = (
    "!has(self.http) || !has(self.protocol) || self.protocol == 6 || self.protocol == 'TCP'",
    "http is only allowed with protocol TCP",
))]
#[x_kube(validation = (
    "!(has(self.icmp) || has(self.notICMP)) || (has(self.protocol) && \
     (self.protocol == 'ICMP' || self.protocol == 'ICMPv6' || self.protocol == 1 || self.protocol == 58))",
    "icmp and notICMP require protocol ICMP or ICMPv6",
))]
#[x_kube(validation = (
    "!has(self.protocol) || !has(self.ipVersion) || (self.ipVersion == 4 ? \
     self.protocol != 'ICMPv6' && self.protocol != 58 : self.protocol != 'ICMP' && self.protocol != 1)",
    "protocol ICMP goes with ipVersion 4 only and ICMPv6 with ipVersion 6 only",
))]
#[x_kube(validation = (
    "!has(self.destination) || !has(self.destination.services) || \
     ((!has(self.destination.ports) || size(self.destination.ports) == 0) && \
     (!has(self.destination.notPorts) || size(self.destination.notPorts) == 0))",
    "destination.services cannot be combined with destination ports or notPorts",
))]
#[x_kube(validation = (
    "(has(self.protocol) && (self.protocol in ['TCP', 'UDP', 'SCTP'] || self.protocol in [6, 17, 132])) || \
     !((has(self.source) && ((has(self.source.ports) && self.source.ports.exists(p, type(p) == int)) || \
     (has(self.source.notPorts) && self.source.notPorts.exists(p, type(p) == int)))) || \
     (has(self.destination) && ((has(self.destination.ports) && self.destination.ports.exists(p, type(p) == int)) || \
     (has(self.destination.notPorts) && self.destination.notPorts.exists(p, type(p) == int)))))",
    "ports given by number require protocol TCP, UDP or SCTP",
))]
#[x_kube(validation = (
    // Counts lists of IPv4 in the ones and of IPv6 in the hundreds: CEL has no variables.
    "[has(self.ipVersion) ? (self.ipVersion == 6 ? 100 : 1) : 0, \
     has(self.source) && has(self.source.nets) && size(self.source.nets) > 0 ? (self.source.nets[0].contains(':') ? 100 : 1) : 0, \
     has(self.source) && has(self.source.notNets) && size(self.source.notNets) > 0 ? (self.source.notNets[0].contains(':') ? 100 : 1) : 0, \
     has(self.destination) && has(self.destination.nets) && size(self.destination.nets) > 0 ? (self.destination.nets[0].contains(':') ? 100 : 1) : 0, \
     has(self.destination) && has(self.destination.notNets) && size(self.destination.notNets) > 0 ? (self.destination.notNets[0].contains(':') ? 100 : 1) : 0].sum() in [0, 1, 2, 3, 4, 5, 100, 200, 300, 400, 500]",
    "a rule cannot mix IPv4 and IPv6, in its nets and notNets and with its ipVersion",
))]
pub struct Rule {
    /// What becomes of traffic that matches.
    pub action: Action,
    /// Only this IP version; both if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<IpVersion>,
    /// Only this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only this ICMP type and code; needs protocol ICMP or ICMPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpFields>,
    /// Any protocol but this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<Protocol>,
    /// Any ICMP type and code but this; needs protocol ICMP or ICMPv6.
    #[serde(default, rename = "notICMP", skip_serializing_if = "Option::is_none")]
    pub not_icmp: Option<IcmpFields>,
    /// Where the traffic comes from.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty")]
    pub source: EntityRule,
    /// Where the traffic goes to.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty")]
    pub destination: EntityRule,
    /// Only these HTTP requests; needs action Allow and protocol TCP or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMatch>,
    /// Facts about the rule that do not change what it matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RuleMetadata>,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            icmp: None,
            not_protocol: None,
            not_icmp: None,
            source: EntityRule::default(),
            destination: EntityRule::default(),
            http: None,
            metadata: None,
        }
    }
}

/// Facts about a rule that do not change what it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleMetadata {
    /// Free-form keys and values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An ICMP type, and a code of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("!has(self.code) || has(self.type)", "code requires type"))]
pub struct IcmpFields {
    /// The ICMP type, 0 to 254.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 254))]
    pub icmp_type: Option<u8>,
    /// The ICMP code, 0 to 255; needs a type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub code: Option<u8>,
}

/// One side of a rule: every criterion given must match; of a list, any entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.services) || !((has(self.selector) && self.selector != '') || \
     (has(self.notSelector) && self.notSelector != '') || \
     (has(self.namespaceSelector) && self.namespaceSelector != '') || \
     (has(self.nets) && size(self.nets) > 0) || (has(self.notNets) && size(self.notNets) > 0) || \
     has(self.serviceAccounts))",
    "services cannot be combined with selector, notSelector, namespaceSelector, nets, notNets or serviceAccounts",
))]
#[x_kube(validation = (
    "!has(self.notNets) || !self.notNets.exists(net, net == '0.0.0.0/0' || net == '::/0')",
    "notNets cannot contain 0.0.0.0/0 or ::/0: the rule would match nothing",
))]
#[x_kube(validation = (
    "!has(self.nets) || size(self.nets.filter(n, n.contains(':'))) in [0, size(self.nets)]",
    "nets cannot mix IPv4 and IPv6",
))]
#[x_kube(validation = (
    "!has(self.notNets) || size(self.notNets.filter(n, n.contains(':'))) in [0, size(self.notNets)]",
    "notNets cannot mix IPv4 and IPv6",
))]
pub struct EntityRule {
    /// Networks in CIDR notation or addresses; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::rule_nets")]
    pub nets: Vec<String>,
    /// Endpoints and network sets by their labels; at most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub selector: String,
    /// Endpoints and network sets by the labels of their namespace. `all()` is every namespaced
    /// endpoint; `global()` what is in no namespace. At most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = (
        "!self.contains('global(') || self.trim() == 'global()'",
        "global() must be the entire namespaceSelector",
    ))]
    pub namespace_selector: String,
    /// The endpoints of a Kubernetes Service, and as a destination its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,
    /// Numbers, ranges `"min:max"` or names of ports; at most 50. Numbers need protocol TCP, UDP
    /// or SCTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub ports: Vec<Port>,
    /// Anything but these networks; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schemas::rule_nets")]
    pub not_nets: Vec<String>,
    /// Anything but what this selects, including addresses of no endpoint; at most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub not_selector: String,
    /// Any port but these; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub not_ports: Vec<Port>,
    /// Pods by their service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
}

impl EntityRule {
    /// Whether it gives no criterion, and so matches everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A Kubernetes Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("has(self.name) && self.name != ''", "name must be given"))]
pub struct ServiceMatch {
    /// The Service's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its namespace; the policy's own if unset.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub namespace: String,
}

/// Service accounts by name and by label; where both are given, both must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccountMatch {
    /// Names, any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The service account's labels; at most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub selector: String,
}

/// HTTP requests: any of the methods and any of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpMatch {
    /// Methods, at most 20; any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub methods: Vec<String>,
    /// Paths, at most 20; any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub paths: Vec<HttpPath>,
}

/// A whole path or the beginning of one; exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "has(self.exact) != has(self.prefix)",
    "exactly one of exact and prefix must be set",
))]
pub struct HttpPath {
    /// The whole path; at most 1024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub exact: Option<String>,
    /// How the path begins; at most 1024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub prefix: Option<String>,
}
