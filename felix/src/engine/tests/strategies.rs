//! Random clusters and policies from small alphabets, so that things meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::model::{Labels, NamedPort, ObjectKey, Pod};

pub(super) const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
pub(super) const POLICY_NAMES: [&str; 4] = ["p0", "p1", "p2", "p3"];
pub(super) const POD_NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Addresses that no pod has: inside and outside of the blocks that policies name.
pub(super) const OUTSIDE: [&str; 7] =
    ["10.0.0.200", "10.0.1.200", "10.200.0.1", "192.0.2.7", "0.0.0.0", "2001:db8::7", "fd00::ffff"];

/// Blocks, each with blocks strictly within it.
const BLOCKS: [(&str, &[&str]); 8] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "10.0.0.0/24", "192.0.2.7/32"]),
    ("10.0.0.0/8", &["10.0.0.0/24", "10.0.1.0/24", "10.0.0.2/32"]),
    ("10.0.0.9/24", &["10.0.0.0/29", "10.0.0.2/31", "10.0.0.128/25"]),
    ("10.0.0.1/32", &[]),
    ("192.0.2.0/24", &["192.0.2.0/28"]),
    ("::/0", &["fd00::/64", "2001:db8::/32"]),
    ("fd00::/64", &["fd00::/126", "fd00::2/128"]),
    ("fd00::1/128", &[]),
];

/// Label sets; some carry names by which selectors mean something else.
pub(super) fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = prop_oneof![
        6 => (select(vec!["app", "role", "env"]), select(vec!["x", "y"])),
        1 => (
            select(vec!["pcns.env", "projectcalico.org/namespace", "pcns.projectcalico.org/name"]),
            select(vec!["x", "red"])
        ),
    ];
    prop::collection::vec(label, 0..4).prop_map(|labels| {
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    })
}

/// Labels of a namespace.
pub(super) fn namespace_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = (select(vec!["env", "team"]), select(vec!["x", "y"]));
    prop::collection::vec(label, 0..3).prop_map(|labels| {
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    })
}

fn ports() -> impl Strategy<Value = Vec<NamedPort>> {
    let port =
        (select(vec!["http", "dns"]), select(vec![6u8, 17, 132]), select(vec![80u16, 81, 53]));
    prop::collection::vec(port, 0..3).prop_map(|ports| {
        let ports = ports.into_iter();
        ports
            .map(|(name, protocol, port)| NamedPort { name: name.into(), protocol, port })
            .collect()
    })
}

/// The addresses that a pod has by its place: number `slot` of its namespace.
pub(super) fn addresses(namespace: usize, slot: usize) -> [IpAddr; 2] {
    let host = u8::try_from(slot + 1).unwrap();
    let subnet = u8::try_from(namespace).unwrap();
    [
        IpAddr::V4(Ipv4Addr::new(10, 0, subnet, host)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, u16::from(subnet), 0, 0, 0, 0, 0, u16::from(host))),
    ]
}

/// A pod of a place, with one address or two, or none yet.
pub(super) fn pod(namespace: usize, slot: usize) -> impl Strategy<Value = Pod> {
    let families = prop_oneof![6 => Just(2usize), 1 => Just(1), 1 => Just(0)];
    (labels(), ports(), families, prop::bool::weighted(0.1)).prop_map(
        move |(labels, ports, families, host_network)| {
            let (namespace_name, name) = (NAMESPACES[namespace], POD_NAMES[slot]);
            Pod {
                key: ObjectKey::namespaced(namespace_name, name),
                uid: format!("{namespace_name}-{name}").as_str().into(),
                mirror_uid: None,
                node: None,
                labels: labels.iter().collect(),
                service_account: "default".into(),
                addresses: addresses(namespace, slot).into_iter().take(families).collect(),
                ports: ports.into(),
                host_network,
                annotations: Labels::default(),
            }
        },
    )
}

fn selector(keys: Vec<&'static str>) -> impl Strategy<Value = LabelSelector> {
    let values = || select(vec!["x", "y", "red", "green"]);
    let label = (select(keys.clone()), values());
    let requirement = (
        select(keys),
        select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
        prop::collection::vec(values(), 1..3),
    )
        .prop_map(|(key, operator, values)| LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: matches!(operator, "In" | "NotIn")
                .then(|| values.into_iter().map(Into::into).collect()),
        });
    (
        prop::option::of(prop::collection::vec(label, 0..2)),
        prop::option::of(prop::collection::vec(requirement, 0..2)),
    )
        .prop_map(|(labels, requirements)| LabelSelector {
            match_labels: labels.map(|labels| {
                labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
            }),
            match_expressions: requirements,
        })
}

pub(super) fn pod_selector() -> impl Strategy<Value = LabelSelector> {
    selector(vec!["app", "role", "env"])
}

/// Of labels that namespaces have, and nodes.
pub(super) fn namespace_selector() -> impl Strategy<Value = LabelSelector> {
    selector(vec!["env", "team", "kubernetes.io/metadata.name"])
}

fn block() -> impl Strategy<Value = IPBlock> {
    select(BLOCKS.to_vec()).prop_flat_map(|(cidr, inner)| {
        let inner: Vec<String> = inner.iter().map(|net| (*net).into()).collect();
        let count = inner.len();
        prop::option::of(subsequence(inner, 0..=count))
            .prop_map(move |except| IPBlock { cidr: cidr.into(), except })
    })
}

fn peer() -> impl Strategy<Value = NetworkPolicyPeer> {
    let namespaces = namespace_selector;
    prop_oneof![
        pod_selector().prop_map(|s| NetworkPolicyPeer {
            pod_selector: Some(s),
            ..NetworkPolicyPeer::default()
        }),
        namespaces().prop_map(|s| NetworkPolicyPeer {
            namespace_selector: Some(s),
            ..NetworkPolicyPeer::default()
        }),
        (pod_selector(), namespaces()).prop_map(|(pods, namespaces)| NetworkPolicyPeer {
            pod_selector: Some(pods),
            namespace_selector: Some(namespaces),
            ..NetworkPolicyPeer::default()
        }),
        block()
            .prop_map(|b| NetworkPolicyPeer { ip_block: Some(b), ..NetworkPolicyPeer::default() }),
    ]
}

fn port() -> impl Strategy<Value = NetworkPolicyPort> {
    let protocol = prop::option::of(select(vec!["TCP", "UDP", "SCTP"]));
    let number = select(vec![1, 53, 79, 80, 81, 8080, 65535]);
    let which = prop_oneof![
        2 => number.clone().prop_map(|port| (Some(IntOrString::Int(port)), None)),
        2 => (number, select(vec![0, 1, 5, 63, 64, 70000])).prop_map(|(port, more)| {
            (Some(IntOrString::Int(port)), Some((port + more).min(65535)))
        }),
        2 => select(vec!["http", "dns"])
            .prop_map(|name| (Some(IntOrString::String(name.into())), None)),
        1 => Just((None, None)),
    ];
    (protocol, which).prop_map(|(protocol, (port, end_port))| NetworkPolicyPort {
        protocol: protocol.map(Into::into),
        port,
        end_port,
    })
}

type Rule = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (
        prop::option::weighted(0.8, prop::collection::vec(peer(), 0..3)),
        prop::option::weighted(0.7, prop::collection::vec(port(), 0..4)),
    );
    prop::option::weighted(0.8, prop::collection::vec(rule, 0..3))
}

/// A policy; which one it is by `namespace` and `name`.
pub(super) fn policy(
    namespace: &'static str,
    name: &'static str,
) -> impl Strategy<Value = NetworkPolicy> {
    let types = prop::option::weighted(
        0.7,
        select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]),
    );
    (prop::option::weighted(0.9, pod_selector()), rules(), rules(), types).prop_map(
        move |(pod_selector, ingress, egress, types)| NetworkPolicy {
            metadata: ObjectMeta {
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            spec: Some(NetworkPolicySpec {
                pod_selector,
                ingress: ingress.map(|rules| {
                    let rules = rules.into_iter();
                    rules.map(|(from, ports)| NetworkPolicyIngressRule { from, ports }).collect()
                }),
                egress: egress.map(|rules| {
                    let rules = rules.into_iter();
                    rules.map(|(to, ports)| NetworkPolicyEgressRule { to, ports }).collect()
                }),
                policy_types: types.map(|types| types.into_iter().map(Into::into).collect()),
            }),
        },
    )
}
