//! A slow and obvious evaluator of Kubernetes NetworkPolicy, written from the text of the API
//! (`networking.k8s.io/v1`) alone. It shares nothing with the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    /// Name -> labels.
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) pods: Vec<OraclePod>,
    pub(super) policies: Vec<NetworkPolicy>,
}

#[derive(Clone, Debug)]
pub(super) struct OraclePod {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) addresses: Vec<IpAddr>,
    /// (name, protocol, port)
    pub(super) ports: Vec<(String, String, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    To,
    From,
}

impl Cluster {
    /// May this traffic go to or from `pod`, as far as the policies of that side say?
    pub(super) fn allows(
        &self,
        way: Way,
        pod: &OraclePod,
        peer: IpAddr,
        protocol: &str,
        port: u16,
    ) -> bool {
        let says = |policy| self.judge(policy, way, pod, peer, protocol, port);
        let said: Vec<bool> = self.policies.iter().filter_map(says).collect();
        said.is_empty() || said.contains(&true)
    }

    /// Whether a policy allows this traffic; None if it has no say.
    pub(super) fn judge(
        &self,
        policy: &NetworkPolicy,
        way: Way,
        pod: &OraclePod,
        peer: IpAddr,
        protocol: &str,
        port: u16,
    ) -> Option<bool> {
        let peer_pod = self.pods.iter().find(|pod| pod.addresses.contains(&peer));
        let destination = if way == Way::To { Some(pod) } else { peer_pod };
        let namespace = policy.metadata.namespace.clone().unwrap();
        let spec = policy.spec.clone().unwrap_or_default();
        let selector = spec.pod_selector.unwrap_or_default();
        if pod.namespace != namespace || !selects(&selector, &pod.labels) {
            return None;
        }
        let egress = spec.egress.unwrap_or_default();
        let mut types = spec.policy_types.unwrap_or_default();
        if types.is_empty() {
            types.push("Ingress".into());
            if !egress.is_empty() {
                types.push("Egress".into());
            }
        }
        let rules: Vec<(Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>)> = match way {
            Way::To if types.contains(&"Ingress".into()) => spec
                .ingress
                .unwrap_or_default()
                .into_iter()
                .map(|rule| (rule.from.unwrap_or_default(), rule.ports.unwrap_or_default()))
                .collect(),
            Way::From if types.contains(&"Egress".into()) => egress
                .into_iter()
                .map(|rule| (rule.to.unwrap_or_default(), rule.ports.unwrap_or_default()))
                .collect(),
            _ => return None,
        };
        Some(rules.iter().any(|(peers, ports)| {
            let peer_matches = peers.is_empty()
                || peers.iter().any(|rule| self.is_peer(rule, &namespace, peer_pod, peer));
            let port_matches = ports.is_empty()
                || ports.iter().any(|rule| is_port(rule, destination, protocol, port));
            peer_matches && port_matches
        }))
    }

    fn is_peer(
        &self,
        rule: &NetworkPolicyPeer,
        namespace: &str,
        pod: Option<&OraclePod>,
        address: IpAddr,
    ) -> bool {
        if let Some(block) = &rule.ip_block {
            return in_block(block, address);
        }
        let Some(pod) = pod else { return false };
        let namespace_matches = match &rule.namespace_selector {
            None => pod.namespace == namespace,
            Some(selector) => selects(selector, &self.namespaces[&pod.namespace]),
        };
        let pod_matches =
            rule.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels));
        namespace_matches && pod_matches
    }
}

pub(super) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let value = labels.get(&requirement.key);
        let listed = |value: &String| requirement.values.iter().flatten().any(|v| v == value);
        let holds = match requirement.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("operator {other}"),
        };
        if !holds {
            return false;
        }
    }
    true
}

fn in_block(block: &IPBlock, address: IpAddr) -> bool {
    in_cidr(&block.cidr, address)
        && !block.except.iter().flatten().any(|except| in_cidr(except, address))
}

pub(super) fn in_cidr(cidr: &str, address: IpAddr) -> bool {
    let (base, length) = cidr.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    let prefix = |bytes: &[u8]| -> Vec<bool> {
        let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1));
        bits.take(length as usize).collect()
    };
    match (base.parse::<IpAddr>().unwrap(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            prefix(&base.octets()) == prefix(&address.octets())
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            prefix(&base.octets()) == prefix(&address.octets())
        }
        _ => false,
    }
}

fn is_port(
    rule: &NetworkPolicyPort,
    destination: Option<&OraclePod>,
    protocol: &str,
    port: u16,
) -> bool {
    let rule_protocol = rule.protocol.as_deref().unwrap_or("TCP");
    if rule_protocol != protocol {
        return false;
    }
    match (&rule.port, rule.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), end) => {
            (*first..=end.unwrap_or(*first)).contains(&i32::from(port))
        }
        (Some(IntOrString::String(wanted)), _) => destination.is_some_and(|pod| {
            pod.ports.iter().any(|(name, protocol, number)| {
                name == wanted && protocol == rule_protocol && *number == port
            })
        }),
    }
}
