//! Random ClusterNetworkPolicies and nodes, some of the policies wrong.

use api::policy::{
    Action, ClusterNetworkPolicy, ClusterNetworkPolicySpec, EgressPeer, EgressRule, IngressPeer,
    IngressRule, NamespacedPod, Port, PortRange, Ports, Protocol, Subject, Tier,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::strategies::{namespace_labels, namespace_selector, pod_selector};
use super::world::{ip, node};
use crate::model::Node;

/// Those that no pod has, and one that a pod may have.
const NODE_ADDRESSES: [&str; 6] =
    ["10.200.0.1", "192.0.2.7", "10.0.0.200", "2001:db8::7", "fd00::ffff", "10.0.0.2"];

const NETS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.9/24",
    "10.0.0.2/32",
    "192.0.2.0/24",
    "::/0",
    "fd00::/64",
    "fd00::2/128",
    "10.0.0.0/33",
];

pub(super) fn cluster_node() -> BoxedStrategy<Node> {
    let addresses = subsequence(NODE_ADDRESSES.to_vec(), 0..=3);
    (select(vec!["n1", "n2", "n3"]), namespace_labels(), addresses)
        .prop_map(|(name, labels, addresses)| {
            let mut addresses: Vec<_> = addresses.into_iter().map(ip).collect();
            addresses.sort_unstable();
            Node { labels: labels.iter().collect(), ..node(name, &addresses) }
        })
        .boxed()
}

fn namespaced_pod() -> BoxedStrategy<NamespacedPod> {
    (namespace_selector(), pod_selector())
        .prop_map(|(namespace_selector, pod_selector)| NamespacedPod {
            namespace_selector,
            pod_selector,
        })
        .boxed()
}

fn port() -> BoxedStrategy<Port> {
    let number = || select(vec![1, 53, 79, 80, 8080]);
    prop_oneof![
        8 => number().prop_map(|number| Port { number: Some(number), range: None }),
        8 => (number(), select(vec![1, 5, 64, 9000])).prop_map(|(start, more)| Port {
            number: None,
            range: Some(PortRange { start, end: start + more }),
        }),
        // Wrong ones.
        1 => select(vec![(None, Some((80, 80))), (None, None), (Some(0), None), (Some(1), Some((1, 2)))])
            .prop_map(|(number, range)| Port {
                number,
                range: range.map(|(start, end)| PortRange { start, end }),
            }),
    ]
    .boxed()
}

fn protocols() -> BoxedStrategy<Option<Vec<Protocol>>> {
    let protocol = (port(), 0..20u8).prop_map(|(port, which)| {
        let ports = || Some(Ports { destination_port: Some(port.clone()) });
        let mut protocol = Protocol::default();
        match which {
            0..7 => protocol.tcp = ports(),
            7..11 => protocol.udp = ports(),
            11..13 => protocol.sctp = ports(),
            13..16 => protocol.destination_named_port = "http".into(),
            16..19 => protocol.destination_named_port = "dns".into(),
            _ => (protocol.tcp, protocol.udp) = (ports(), ports()),
        }
        protocol
    });
    prop::option::weighted(0.6, prop::collection::vec(protocol, 1..4)).boxed()
}

fn action() -> BoxedStrategy<Action> {
    prop_oneof![
        6 => Just(Action::Accept),
        6 => Just(Action::Deny),
        4 => Just(Action::Pass),
        1 => Just(Action::Unknown),
    ]
    .boxed()
}

fn ingress() -> BoxedStrategy<IngressRule> {
    let peer = prop_oneof![
        10 => namespace_selector()
            .prop_map(|it| IngressPeer { namespaces: Some(it), ..IngressPeer::default() }),
        10 => namespaced_pod()
            .prop_map(|it| IngressPeer { pods: Some(it), ..IngressPeer::default() }),
        1 => Just(IngressPeer::default()),
    ];
    (action(), prop::collection::vec(peer, 1..3), protocols())
        .prop_map(|(action, from, protocols)| IngressRule {
            name: String::new(),
            action,
            from,
            protocols,
        })
        .boxed()
}

/// Names and patterns of names.
const DOMAINS: [&str; 4] = ["example.org", "*.Example.org.", "*.b.example.org", "c.test"];

fn egress() -> BoxedStrategy<EgressRule> {
    let nets = subsequence(NETS.to_vec(), 1..=2);
    let peer = prop_oneof![
        10 => namespace_selector()
            .prop_map(|it| EgressPeer { namespaces: Some(it), ..EgressPeer::default() }),
        10 => namespaced_pod()
            .prop_map(|it| EgressPeer { pods: Some(it), ..EgressPeer::default() }),
        10 => namespace_selector()
            .prop_map(|it| EgressPeer { nodes: Some(it), ..EgressPeer::default() }),
        10 => nets.prop_map(|nets| EgressPeer {
            networks: Some(nets.into_iter().map(Into::into).collect()),
            ..EgressPeer::default()
        }),
        1 => Just(EgressPeer::default()),
        10 => subsequence(DOMAINS.to_vec(), 1..=2).prop_map(|names| EgressPeer {
            domain_names: Some(names.into_iter().map(Into::into).collect()),
            ..EgressPeer::default()
        }),
        1 => Just(EgressPeer {
            domain_names: Some(vec!["example".into()]),
            ..EgressPeer::default()
        }),
    ];
    (action(), prop::collection::vec(peer, 1..3), protocols())
        .prop_map(|(action, to, protocols)| EgressRule {
            name: String::new(),
            action,
            to,
            protocols,
        })
        .boxed()
}

pub(super) fn cluster_policy(name: &'static str) -> BoxedStrategy<ClusterNetworkPolicy> {
    let tier = prop_oneof![
        10 => Just(Tier::Admin),
        10 => Just(Tier::Baseline),
        1 => Just(Tier::Unknown),
    ];
    let priority = select(vec![0, 0, 5, 5, 500, 1000, 1000, 1001]);
    let subject = prop_oneof![
        10 => namespace_selector().prop_map(|it| Subject { namespaces: Some(it), pods: None }),
        10 => namespaced_pod().prop_map(|it| Subject { namespaces: None, pods: Some(it) }),
        1 => Just(Subject::default()),
    ];
    let rules = (prop::collection::vec(ingress(), 0..4), prop::collection::vec(egress(), 0..4));
    (tier, priority, subject, rules)
        .prop_map(move |(tier, priority, subject, (ingress, egress))| {
            let spec = ClusterNetworkPolicySpec { tier, priority, subject, ingress, egress };
            ClusterNetworkPolicy::new(name, spec)
        })
        .boxed()
}
