//! What schemas and CEL cannot say, kind by kind.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::FieldError;
use crate::selector::{ParseError, Selector, rewrite};
use crate::v3::{self, EntityRule, Port, Rule};

/// Checks of a decoded object that go beyond its schema.
pub trait Check {
    /// What is wrong with it; nothing if it is empty. Paths start at the object.
    fn check(&self) -> Vec<FieldError>;
}

/// The checks of a kind, for an object of the right shape.
pub(super) fn of_kind(kind: &str) -> Option<fn(&Value) -> Vec<FieldError>> {
    Some(match kind {
        "BGPConfiguration" => decoded::<v3::BGPConfiguration>,
        "BGPFilter" => decoded::<v3::BGPFilter>,
        "BGPPeer" => decoded::<v3::BGPPeer>,
        "FelixConfiguration" => decoded::<v3::FelixConfiguration>,
        "GlobalNetworkPolicy" => decoded::<v3::GlobalNetworkPolicy>,
        "GlobalNetworkSet" => decoded::<v3::GlobalNetworkSet>,
        "HostEndpoint" => decoded::<v3::HostEndpoint>,
        "IPAMConfiguration" => decoded::<v3::IPAMConfiguration>,
        "IPPool" => decoded::<v3::IPPool>,
        "IPReservation" => decoded::<v3::IPReservation>,
        "KubeControllersConfiguration" => decoded::<v3::KubeControllersConfiguration>,
        "NetworkPolicy" => decoded::<v3::NetworkPolicy>,
        "NetworkSet" => decoded::<v3::NetworkSet>,
        "StagedGlobalNetworkPolicy" => decoded::<v3::StagedGlobalNetworkPolicy>,
        "StagedKubernetesNetworkPolicy" => decoded::<v3::StagedKubernetesNetworkPolicy>,
        "StagedNetworkPolicy" => decoded::<v3::StagedNetworkPolicy>,
        "Tier" => decoded::<v3::Tier>,
        _ => return None,
    })
}

fn decoded<K: DeserializeOwned + Check>(object: &Value) -> Vec<FieldError> {
    match K::deserialize(object) {
        Ok(object) => object.check(),
        Err(error) => vec![FieldError::new("spec", error.to_string())],
    }
}

/// Collects errors under a path.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError::new(path, message));
    }

    fn selector(&mut self, path: &str, text: &str) {
        self.parsed(path, Selector::parse(text));
    }

    fn parsed(&mut self, path: &str, parsed: Result<Selector, ParseError>) {
        if let Err(error) = parsed {
            self.add(path, error.to_string());
        }
    }

    /// Networks or addresses.
    fn nets(&mut self, path: &str, nets: &[String]) {
        for (index, net) in nets.iter().enumerate() {
            if crate::net::parse(net).is_none() {
                let message =
                    format!("{net:?} is neither a network in CIDR notation nor an address");
                self.add(format!("{path}[{index}]"), message);
            }
        }
    }

    fn cidr(&mut self, path: &str, cidr: &str) {
        if cidr.parse::<IpNet>().is_err() || crate::net::parse(cidr).is_none() {
            self.add(path, format!("{cidr:?} is not a network in CIDR notation"));
        }
    }

    fn regex(&mut self, path: &str, regex: Option<&str>) {
        if let Some(Err(error)) = regex.map(regex::Regex::new) {
            self.add(path, format!("is not a regular expression: {error}"));
        }
    }
}

impl Check for v3::IPPool {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = &self.spec;
        match spec.cidr.parse::<IpNet>() {
            Err(_) => errors.add("spec.cidr", "is not a network in CIDR notation"),
            Ok(cidr) if cidr.trunc() != cidr => {
                errors.add("spec.cidr", format!("has host bits; the network is {}", cidr.trunc()));
            }
            Ok(cidr) => {
                let range = if cidr.addr().is_ipv4() { 20..=32 } else { 116..=128 };
                let block = spec.block_size();
                if !range.contains(&block) {
                    let (least, most) = (range.start(), range.end());
                    errors.add("spec.blockSize", format!("{block} is not from {least} to {most}"));
                } else if cidr.prefix_len() > block {
                    errors.add("spec.cidr", format!("{cidr} is smaller than a block, /{block}"));
                }
            }
        }
        errors.selector("spec.nodeSelector", &spec.node_selector);
        errors.selector("spec.namespaceSelector", &spec.namespace_selector);
        errors.0
    }
}

impl Check for v3::IPReservation {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        errors.nets("spec.reservedCIDRs", &self.spec.reserved_cidrs);
        errors.0
    }
}

impl Check for v3::IPAMConfiguration {
    fn check(&self) -> Vec<FieldError> {
        Vec::new()
    }
}

impl Check for v3::Tier {
    fn check(&self) -> Vec<FieldError> {
        Vec::new()
    }
}

impl Check for v3::NetworkSet {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        errors.nets("spec.nets", &self.spec.nets);
        errors.0
    }
}

impl Check for v3::GlobalNetworkSet {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        errors.nets("spec.nets", &self.spec.nets);
        errors.0
    }
}

impl Check for v3::HostEndpoint {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        for (index, ip) in self.spec.expected_ips.iter().enumerate() {
            if ip.parse::<IpAddr>().is_err() {
                let path = format!("spec.expectedIPs[{index}]");
                errors.add(path, format!("{ip:?} is not an IP address"));
            }
        }
        errors.0
    }
}

impl Check for v3::KubeControllersConfiguration {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let node = self.spec.controllers.node.as_ref();
        let templates = node.and_then(|node| node.host_endpoint.as_ref());
        for (number, template) in templates.into_iter().flat_map(|it| &it.templates).enumerate() {
            let path = format!("spec.controllers.node.hostEndpoint.templates[{number}]");
            errors.selector(&format!("{path}.nodeSelector"), &template.node_selector);
            errors.nets(&format!("{path}.interfaceCIDRs"), &template.interface_cidrs);
        }
        errors.0
    }
}

impl Check for v3::NetworkPolicy {
    fn check(&self) -> Vec<FieldError> {
        network_policy(&self.spec)
    }
}

impl Check for v3::StagedNetworkPolicy {
    fn check(&self) -> Vec<FieldError> {
        network_policy(&self.spec.policy)
    }
}

fn network_policy(spec: &v3::NetworkPolicySpec) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.selector("spec.selector", &spec.selector);
    errors.selector("spec.serviceAccountSelector", &spec.service_account_selector);
    rules("spec.ingress", &spec.ingress, &mut errors);
    rules("spec.egress", &spec.egress, &mut errors);
    errors.0
}

impl Check for v3::GlobalNetworkPolicy {
    fn check(&self) -> Vec<FieldError> {
        global_network_policy(&self.spec)
    }
}

impl Check for v3::StagedGlobalNetworkPolicy {
    fn check(&self) -> Vec<FieldError> {
        global_network_policy(&self.spec.policy)
    }
}

fn global_network_policy(spec: &v3::GlobalNetworkPolicySpec) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.selector("spec.selector", &spec.selector);
    errors.selector("spec.namespaceSelector", &spec.namespace_selector);
    errors.selector("spec.serviceAccountSelector", &spec.service_account_selector);
    rules("spec.ingress", &spec.ingress, &mut errors);
    rules("spec.egress", &spec.egress, &mut errors);
    errors.0
}

impl Check for v3::StagedKubernetesNetworkPolicy {
    fn check(&self) -> Vec<FieldError> {
        Vec::new()
    }
}

fn rules(path: &str, rules: &[Rule], errors: &mut Errors) {
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        for (side, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
            let path = format!("{path}.{side}");
            let with_ports = rule.protocol.is_some_and(v3::Protocol::has_ports);
            for (field, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
                if !with_ports && ports.iter().any(|port| matches!(port, Port::Range(..))) {
                    let message = "ports given by number require protocol TCP, UDP or SCTP";
                    errors.add(format!("{path}.{field}"), message);
                }
            }
            self::entity(&path, entity, errors);
        }
    }
}

fn entity(path: &str, entity: &EntityRule, errors: &mut Errors) {
    errors.nets(&format!("{path}.nets"), &entity.nets);
    errors.nets(&format!("{path}.notNets"), &entity.not_nets);
    errors.selector(&format!("{path}.selector"), &entity.selector);
    errors.selector(&format!("{path}.notSelector"), &entity.not_selector);
    let selector = rewrite::namespace_selector(&entity.namespace_selector);
    errors.parsed(&format!("{path}.namespaceSelector"), selector);
    if let Some(accounts) = &entity.service_accounts {
        errors.selector(&format!("{path}.serviceAccounts.selector"), &accounts.selector);
    }
}

impl Check for v3::BGPConfiguration {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = &self.spec;
        let services = [
            ("serviceLoadBalancerIPs", &spec.service_load_balancer_ips),
            ("serviceExternalIPs", &spec.service_external_ips),
            ("serviceClusterIPs", &spec.service_cluster_ips),
        ];
        for (field, blocks) in services {
            for (index, block) in blocks.iter().enumerate() {
                errors.cidr(&format!("spec.{field}[{index}].cidr"), &block.cidr);
            }
        }
        let mut used = BTreeSet::new();
        let names: BTreeSet<&str> = spec.communities.iter().map(|c| c.name.as_str()).collect();
        for (index, advertisement) in spec.prefix_advertisements.iter().enumerate() {
            let path = format!("spec.prefixAdvertisements[{index}]");
            errors.cidr(&format!("{path}.cidr"), &advertisement.cidr);
            for (index, community) in advertisement.communities.iter().enumerate() {
                if names.contains(community.as_str()) {
                    used.insert(community.as_str());
                } else if !is_community(community) {
                    let message = format!(
                        "{community:?} is neither a name in spec.communities nor aa:nn or aa:nn:mm"
                    );
                    errors.add(format!("{path}.communities[{index}]"), message);
                }
            }
        }
        for (index, community) in spec.communities.iter().enumerate() {
            if !used.contains(community.name.as_str()) {
                let message = format!("{:?} is used by no prefixAdvertisement", community.name);
                errors.add(format!("spec.communities[{index}].name"), message);
            }
        }
        let is_default = self.metadata.name.as_deref() == Some("default");
        let default_only = [
            ("nodeMeshPassword", spec.node_mesh_password.is_some()),
            ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.is_some()),
        ];
        for (field, _) in default_only.iter().filter(|(_, set)| *set && !is_default) {
            let message = "can only be set in the BGPConfiguration named default";
            errors.add(format!("spec.{field}"), message);
        }
        errors.0
    }
}

/// `aa:nn` of 16 bits each or `aa:nn:mm` of 32 bits each.
fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    digits
        && match parts.len() {
            2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
            3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
            _ => false,
        }
}

impl Check for v3::BGPPeer {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = &self.spec;
        errors.selector("spec.nodeSelector", &spec.node_selector);
        errors.selector("spec.peerSelector", &spec.peer_selector);
        errors.selector("spec.localWorkloadSelector", &spec.local_workload_selector);
        if !spec.peer_ip.is_empty() && crate::net::parse_peer(&spec.peer_ip).is_none() {
            let message = format!(
                "{:?} is not an address, with a port as in 192.0.2.1:1179 or [2001:db8::1]:1179",
                spec.peer_ip
            );
            errors.add("spec.peerIP", message);
        }
        if !spec.reachable_by.is_empty() && spec.reachable_by.parse::<IpAddr>().is_err() {
            errors.add("spec.reachableBy", format!("{:?} is not an address", spec.reachable_by));
        }
        errors.0
    }
}

impl Check for v3::BGPFilter {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = &self.spec;
        for (field, rules) in [("exportV4", &spec.export_v4), ("importV4", &spec.import_v4)] {
            for (index, rule) in rules.iter().enumerate() {
                let lengths = rule.prefix_length.map_or((None, None), |l| (l.min, l.max));
                filter_rule(
                    &format!("spec.{field}[{index}]"),
                    &rule.cidr,
                    true,
                    lengths,
                    &mut errors,
                );
            }
        }
        for (field, rules) in [("exportV6", &spec.export_v6), ("importV6", &spec.import_v6)] {
            for (index, rule) in rules.iter().enumerate() {
                let lengths = rule.prefix_length.map_or((None, None), |l| (l.min, l.max));
                filter_rule(
                    &format!("spec.{field}[{index}]"),
                    &rule.cidr,
                    false,
                    lengths,
                    &mut errors,
                );
            }
        }
        errors.0
    }
}

fn filter_rule(
    path: &str,
    cidr: &str,
    v4: bool,
    (min, max): (Option<u8>, Option<u8>),
    errors: &mut Errors,
) {
    if cidr.is_empty() {
        return;
    }
    let family = if v4 { "IPv4" } else { "IPv6" };
    match cidr.parse::<IpNet>() {
        Ok(net) if net.addr().is_ipv4() == v4 => {
            for (field, length) in [("min", min), ("max", max)] {
                if length.is_some_and(|length| length < net.prefix_len()) {
                    let message = format!("is shorter than the prefix of cidr, {cidr}");
                    errors.add(format!("{path}.prefixLength.{field}"), message);
                }
            }
        }
        _ => errors.add(format!("{path}.cidr"), format!("{cidr:?} is not an {family} network")),
    }
}

impl Check for v3::FelixConfiguration {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = &self.spec;
        errors.selector("spec.nodeSelector", spec.node_selector.as_deref().unwrap_or_default());
        errors.regex("spec.mtuIfacePattern", spec.mtu_iface_pattern.as_deref());
        errors.regex("spec.logDebugFilenameRegex", spec.log_debug_filename_regex.as_deref());
        errors.regex(
            "spec.nftablesFlowTableDataIfacePattern",
            spec.nftables_flow_table_data_iface_pattern.as_deref(),
        );
        let ranges = spec.route_table_ranges.iter().flatten().enumerate();
        for (index, range) in ranges {
            if range.min > range.max {
                errors.add(format!("spec.routeTableRanges[{index}]"), "min exceeds max");
            }
        }
        errors.0
    }
}
