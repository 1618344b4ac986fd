//! A slow and obvious evaluator of ClusterNetworkPolicy, written from the text of the API
//! (`policy.networking.k8s.io/v1alpha2`) alone. It shares nothing with the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::policy::{
    Action, ClusterNetworkPolicy, EgressPeer, EgressRule, IngressPeer, IngressRule, NamespacedPod,
    Port, PortRange, Protocol, Tier,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::calico_oracle::Packet;
use super::oracle::{Cluster, OraclePod, Way, in_cidr, selects};

/// A node.
#[derive(Clone, Debug)]
pub(super) struct OracleNode {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// Where a policy looks for what it is about.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) nodes: &'a [OracleNode],
    pub(super) learned: &'a [OracleName],
}

/// What DNS answers to a pod, by its addresses, said that an address is.
#[derive(Clone, Debug)]
pub(super) struct OracleName {
    pub(super) pod: Vec<IpAddr>,
    pub(super) address: IpAddr,
    pub(super) names: Vec<String>,
}

/// What is said to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing, though the policy was asked.
    Nothing,
    Accept,
    Deny,
    Pass,
}

/// What a policy says to the packet of a pod; None if it was not asked.
pub(super) fn says(
    policy: &ClusterNetworkPolicy,
    around: Surroundings<'_>,
    pod: &OraclePod,
    packet: Packet<'_>,
) -> Option<Said> {
    let spec = &policy.spec;
    if !is_pod(spec.subject.namespaces.as_ref(), spec.subject.pods.as_ref(), around.cluster, pod) {
        return None;
    }
    let subjects = [spec.subject.namespaces.is_some(), spec.subject.pods.is_some()];
    let is_closed = spec.tier == Tier::Unknown
        || !(0..=1000).contains(&spec.priority)
        || subjects.iter().filter(|given| **given).count() != 1;
    let peer = around.cluster.pods.iter().find(|other| other.addresses.contains(&packet.peer));
    let said = |wrong: bool, action: Action, matches: &dyn Fn() -> bool| match action {
        Action::Accept if wrong || is_closed => None,
        _ if wrong || is_closed || action == Action::Unknown => Some(Said::Deny),
        _ if !matches() => None,
        Action::Accept => Some(Said::Accept),
        Action::Pass => Some(Said::Pass),
        _ => Some(Said::Deny),
    };
    let is_endpoint = |namespaces: &Option<LabelSelector>, pods: &Option<NamespacedPod>| {
        peer.is_some_and(|peer| is_pod(namespaces.as_ref(), pods.as_ref(), around.cluster, peer))
    };
    let decided = match packet.way {
        Way::To if spec.ingress.is_empty() => return None,
        Way::From if spec.egress.is_empty() => return None,
        Way::To => spec.ingress.iter().find_map(|rule: &IngressRule| {
            let IngressRule { action, from, protocols, .. } = rule;
            let one = |p: &IngressPeer| p.namespaces.is_some() != p.pods.is_some();
            let wrong = from.is_empty() || !from.iter().all(one) || are_wrong(protocols.as_deref());
            said(wrong, *action, &|| {
                from.iter().any(|p| is_endpoint(&p.namespaces, &p.pods))
                    && is_traffic(protocols.as_deref(), Some(pod), packet)
            })
        }),
        Way::From => spec.egress.iter().find_map(|rule: &EgressRule| {
            let EgressRule { action, to, protocols, .. } = rule;
            let named = protocols.iter().flatten().any(|p| !p.destination_named_port.is_empty());
            let wrong = to.is_empty()
                || to.iter().any(|peer| is_wrong(peer, named, *action))
                || are_wrong(protocols.as_deref());
            said(wrong, *action, &|| {
                to.iter().any(|p| {
                    let networks = p.networks.iter().flatten();
                    let mut nodes = around.nodes.iter();
                    ((p.namespaces.is_some() || p.pods.is_some())
                        && is_endpoint(&p.namespaces, &p.pods))
                        || networks.clone().any(|net| in_cidr(net, packet.peer))
                        || p.domain_names.iter().flatten().any(|pattern| {
                            around.learned.iter().any(|it| {
                                it.pod == pod.addresses
                                    && it.address == packet.peer
                                    && it.names.iter().any(|name| is_named(pattern, name))
                            })
                        })
                        || p.nodes.as_ref().is_some_and(|wanted| {
                            nodes.any(|node| {
                                selects(wanted, &node.labels)
                                    && node.addresses.contains(&packet.peer)
                            })
                        })
                }) && is_traffic(protocols.as_deref(), peer, packet)
            })
        }),
    };
    Some(decided.unwrap_or(Said::Nothing))
}

fn is_pod(
    namespaces: Option<&LabelSelector>,
    pods: Option<&NamespacedPod>,
    cluster: &Cluster,
    pod: &OraclePod,
) -> bool {
    let labels = &cluster.namespaces[&pod.namespace];
    namespaces.is_none_or(|wanted| selects(wanted, labels))
        && pods.is_none_or(|wanted| {
            selects(&wanted.namespace_selector, labels)
                && selects(&wanted.pod_selector, &pod.labels)
        })
}

fn is_named(pattern: &str, name: &str) -> bool {
    let wanted: Vec<String> =
        pattern.trim_end_matches('.').split('.').map(str::to_lowercase).collect();
    let labels: Vec<&str> = name.split('.').collect();
    match wanted.split_first() {
        Some((first, rest)) if first == "*" => {
            labels.len() > rest.len() && labels[labels.len() - rest.len()..] == *rest
        }
        _ => labels == wanted,
    }
}

fn is_wrong(peer: &EgressPeer, named_ports: bool, action: Action) -> bool {
    let EgressPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let outside = [nodes.is_some(), networks.is_some(), domain_names.is_some()];
    let given = [namespaces.is_some(), pods.is_some()].into_iter().chain(outside);
    given.filter(|given| *given).count() != 1
        || (named_ports && outside.contains(&true))
        || domain_names.as_ref().is_some_and(|names| {
            names.is_empty()
                || names.iter().any(|name| !name.contains('.'))
                || action != Action::Accept
        })
        || networks.as_ref().is_some_and(|nets| {
            nets.is_empty() || nets.iter().any(|net| net.parse::<ipnet::IpNet>().is_err())
        })
}

fn are_wrong(protocols: Option<&[Protocol]>) -> bool {
    let is_port = |port: i32| (1..=65535).contains(&port);
    let port_is_wrong = |port: &Port| match (&port.number, &port.range) {
        (Some(number), None) => !is_port(*number),
        (None, Some(PortRange { start, end })) => {
            !is_port(*start) || !is_port(*end) || start >= end
        }
        _ => true,
    };
    protocols.is_some_and(|list| {
        list.is_empty()
            || list.iter().any(|of| {
                let ports = [&of.tcp, &of.udp, &of.sctp];
                let ports: Vec<_> = ports.into_iter().flatten().collect();
                let named = !of.destination_named_port.is_empty();
                ports.len() + usize::from(named) != 1
                    || ports.iter().any(|p| p.destination_port.as_ref().is_none_or(port_is_wrong))
            })
    })
}

fn is_traffic(
    protocols: Option<&[Protocol]>,
    destination: Option<&OraclePod>,
    packet: Packet<'_>,
) -> bool {
    let Some(list) = protocols else { return true };
    list.iter().any(|of| {
        let ports = match packet.protocol.1 {
            "TCP" => &of.tcp,
            "UDP" => &of.udp,
            "SCTP" => &of.sctp,
            _ => return false,
        };
        let port = i32::from(packet.port);
        let is_number = ports.as_ref().and_then(|ports| ports.destination_port.as_ref());
        let is_number = is_number.is_some_and(|wanted| match (&wanted.number, &wanted.range) {
            (Some(number), _) => *number == port,
            (_, Some(range)) => (range.start..=range.end).contains(&port),
            _ => false,
        });
        let is_name = destination.is_some_and(|pod| {
            pod.ports.iter().any(|(name, protocol, number)| {
                *name == of.destination_named_port
                    && protocol == packet.protocol.1
                    && *number == packet.port
            })
        });
        is_number || is_name
    })
}
