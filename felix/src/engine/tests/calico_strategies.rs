//! Random tiers, policies of Calico and network sets from small alphabets, so that things meet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::v3::{
    Action, EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, GlobalNetworkSet,
    GlobalNetworkSetSpec, HttpMatch, IcmpFields, IpVersion, NetworkPolicy, NetworkPolicySpec,
    NetworkSet, NetworkSetSpec, PolicyType, Port, Protocol, Rule, ServiceAccountMatch,
    ServiceMatch, Tier, TierDefaultAction, TierSpec,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::strategies::{NAMESPACES, OUTSIDE, addresses, labels};
use super::world::ip;
use crate::model::{EndpointSlice, ObjectKey};

const SERVICES: [&str; 3] = ["web", "db", "nothing"];
pub(super) const ACCOUNTS: [&str; 2] = ["default", "build"];
/// The last three are never there as objects.
const TIERS: [&str; 7] =
    ["first", "second", "third", "default", "kube-admin", "kube-baseline", "nowhere"];

const NETS: [&[&str]; 2] = [
    &["10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.2/32", "192.0.2.0/24", "0.0.0.0/1"],
    &["fd00::/16", "fd00::/64", "fd00:0:0:1::/64", "fd00::2/128", "2001:db8::/32", "::/1"],
];

/// Name and content of a tier that can be there.
pub(super) fn tier() -> BoxedStrategy<Tier> {
    let order = select(vec![None, Some(-1.0), Some(-0.0), Some(0.0), Some(500.0), Some(2e6)]);
    let action = select(vec![TierDefaultAction::Deny, TierDefaultAction::Pass]);
    (select(TIERS[..3].to_vec()), order, action)
        .prop_map(|(name, order, default_action)| {
            Tier::new(name, TierSpec { order, default_action })
        })
        .boxed()
}

fn term(keys: Vec<&'static str>) -> BoxedStrategy<String> {
    let value = || select(vec!["x", "y", "red", "green"]);
    prop_oneof![
        4 => (select(keys.clone()), value()).prop_map(|(key, value)| format!("{key} == '{value}'")),
        2 => (select(keys.clone()), value()).prop_map(|(key, value)| format!("{key} != '{value}'")),
        1 => select(keys.clone()).prop_map(|key| format!("has({key})")),
        1 => select(keys.clone()).prop_map(|key| format!("!has({key})")),
        1 => select(keys.clone()).prop_map(|key| format!("{key} in {{'x', 'green'}}")),
        1 => select(keys.clone()).prop_map(|key| format!("{key} not in {{'y', 'red'}}")),
        1 => select(keys.clone()).prop_map(|key| format!("{key} starts with 'gr'")),
        1 => select(keys).prop_map(|key| format!("{key} contains 'e'")),
        1 => Just("all()".to_owned()),
    ]
    .boxed()
}

fn selector(keys: &[&'static str]) -> BoxedStrategy<String> {
    (term(keys.to_vec()), prop::option::weighted(0.4, (term(keys.to_vec()), any::<bool>())))
        .prop_map(|(first, second)| match second {
            None => first,
            Some((second, true)) => format!("{first} && {second}"),
            Some((second, false)) => format!("{first} || {second}"),
        })
        .boxed()
}

const LABELS: [&str; 5] = [
    "app",
    "role",
    "projectcalico.org/namespace",
    "projectcalico.org/orchestrator",
    "projectcalico.org/serviceaccount",
];

fn maybe(odds: f64, strategy: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop::option::weighted(odds, strategy).prop_map(Option::unwrap_or_default).boxed()
}

fn namespace_selector() -> BoxedStrategy<String> {
    prop_oneof![
        4 => term(vec!["env", "team", "projectcalico.org/name", "kubernetes.io/metadata.name"]),
        1 => Just("all()".to_owned()),
        1 => Just("global()".to_owned()),
    ]
    .boxed()
}

fn accounts() -> BoxedStrategy<ServiceAccountMatch> {
    prop_oneof![
        2 => subsequence(ACCOUNTS.to_vec(), 1..=2).prop_map(|names| ServiceAccountMatch {
            names: names.into_iter().map(Into::into).collect(),
            selector: String::new(),
        }),
        1 => account_selector().prop_map(|selector| ServiceAccountMatch {
            names: Vec::new(),
            selector,
        }),
        1 => account_selector().prop_map(|selector| ServiceAccountMatch {
            names: vec!["build".into()],
            selector,
        }),
    ]
    .boxed()
}

fn account_selector() -> BoxedStrategy<String> {
    selector(&["env", "team", "projectcalico.org/name"]).boxed()
}

/// `odds` to say each thing.
fn entity(family: usize, odds: f64) -> BoxedStrategy<EntityRule> {
    let nets = move |most: usize| {
        let nets = subsequence(NETS[family].to_vec(), 1..=most);
        prop::option::weighted(odds, nets).prop_map(|nets| -> Vec<String> {
            nets.unwrap_or_default().into_iter().map(Into::into).collect()
        })
    };
    (
        nets(2),
        nets(2),
        maybe(odds, selector(&LABELS)),
        maybe(odds / 2.0, selector(&LABELS)),
        maybe(odds, namespace_selector()),
        prop::option::weighted(odds / 2.0, accounts()),
    )
        .prop_map(
            |(nets, not_nets, selector, not_selector, namespace_selector, service_accounts)| {
                EntityRule {
                    nets,
                    not_nets,
                    selector,
                    not_selector,
                    namespace_selector,
                    service_accounts,
                    ..EntityRule::default()
                }
            },
        )
        .boxed()
}

fn ports(with_numbers: bool) -> BoxedStrategy<Vec<Port>> {
    let named = select(vec!["http", "dns"]).prop_map(|name| Port::Named(name.into()));
    let number = (select(vec![1u16, 53, 79, 80, 8080, 65535]), select(vec![0u16, 1, 5, 64, 9000]))
        .prop_map(|(first, more)| Port::Range(first, first.saturating_add(more)));
    let port =
        if with_numbers { prop_oneof![1 => named, 2 => number].boxed() } else { named.boxed() };
    let list = prop::collection::vec(port, 1..3);
    prop::option::weighted(0.4, list).prop_map(Option::unwrap_or_default).boxed()
}

/// What few rules say.
fn rarely(list: BoxedStrategy<Vec<Port>>) -> BoxedStrategy<Vec<Port>> {
    prop_oneof![3 => Just(Vec::new()), 1 => list].boxed()
}

/// Mostly of a type; a code alone is wrong.
fn icmp() -> BoxedStrategy<IcmpFields> {
    let kind = prop::option::weighted(0.9, select(vec![3u8, 3, 128]));
    (kind, prop::option::weighted(0.4, select(vec![0u8, 4])))
        .prop_map(|(icmp_type, code)| IcmpFields { icmp_type, code })
        .boxed()
}

fn rule() -> BoxedStrategy<Rule> {
    let protocol = || select(vec![6u8, 6, 17, 132, 1, 58]).prop_map(Protocol);
    let action = prop_oneof![
        8 => Just(Action::Allow),
        5 => Just(Action::Deny),
        5 => Just(Action::Pass),
        3 => Just(Action::Log),
    ];
    let head = (
        action,
        prop::option::weighted(0.15, select(vec![IpVersion::V4, IpVersion::V6])),
        prop::option::weighted(0.6, protocol()),
        prop::option::weighted(0.15, protocol()),
    );
    (head, 0..2usize, any::<bool>(), 0..60u8)
        .prop_flat_map(|((action, version, protocol, not), family, source_is_main, strange)| {
            let (source, destination) = if source_is_main { (0.4, 0.08) } else { (0.08, 0.4) };
            let numbers = protocol.is_some_and(Protocol::has_ports);
            let is_icmp =
                protocol.is_some_and(|it| [Protocol::ICMP, Protocol::ICMPV6].contains(&it));
            let types = move |odds: f64| -> BoxedStrategy<Option<IcmpFields>> {
                if is_icmp {
                    prop::option::weighted(odds, icmp()).boxed()
                } else {
                    Just(None).boxed()
                }
            };
            let from = (rarely(ports(numbers)), rarely(ports(numbers)));
            let ports = (ports(numbers), ports(numbers), types(0.6), types(0.3), from);
            (entity(family, source), entity(family, destination), ports, service()).prop_map(
                move |(source, destination, (ports, not_ports, icmp, not_icmp, from), service)| {
                    let (source_ports, not_source_ports) = from;
                    let mut rule = Rule {
                        icmp,
                        not_icmp,
                        ip_version: version,
                        protocol,
                        not_protocol: not,
                        source: EntityRule {
                            ports: source_ports,
                            not_ports: not_source_ports,
                            ..source
                        },
                        destination: EntityRule { ports, not_ports, ..destination },
                        ..Rule::new(action)
                    };
                    let with_nets = [&rule.source, &rule.destination];
                    let has_nets =
                        |side: &&EntityRule| !side.nets.is_empty() || !side.not_nets.is_empty();
                    if with_nets.iter().any(has_nets) && version.is_some() {
                        rule.ip_version = Some([IpVersion::V4, IpVersion::V6][family]);
                    }
                    // What the agent cannot do closes the policy.
                    match strange {
                        0 => rule.http = Some(HttpMatch::default()),
                        // As is what is wrong, unless the protocol is the right one.
                        1 => rule.icmp = Some(IcmpFields::default()),
                        3 => rule.destination.services = Some(ServiceMatch::default()),
                        4..14 => rule = with_service(rule, &service, source_is_main, strange),
                        _ => {}
                    }
                    rule
                },
            )
        })
        .boxed()
}

/// One of a namespace; mostly it is named.
fn service() -> BoxedStrategy<ServiceMatch> {
    let namespace = select(vec!["", "red", "green"]);
    (select(SERVICES.to_vec()), namespace)
        .prop_map(|(name, namespace)| ServiceMatch {
            name: name.into(),
            namespace: namespace.into(),
        })
        .boxed()
}

/// The rule for the endpoints of a service in the place of what it says of that side, mostly.
fn with_service(mut rule: Rule, service: &ServiceMatch, of_source: bool, strange: u8) -> Rule {
    let side = if of_source { &mut rule.source } else { &mut rule.destination };
    if strange > 4 {
        // Of a destination the service says which ports.
        let of_both = if of_source { std::mem::take(side) } else { EntityRule::default() };
        let EntityRule { ports, not_ports, .. } = of_both;
        *side = EntityRule { ports, not_ports, ..EntityRule::default() };
    }
    side.services = Some(service.clone());
    rule
}

/// An EndpointSlice of this name.
pub(super) fn endpoint_slice(
    namespace: &'static str,
    name: &'static str,
) -> BoxedStrategy<EndpointSlice> {
    let pods = (0..NAMESPACES.len()).flat_map(|of| (0..4).flat_map(move |s| addresses(of, s)));
    let mut known: Vec<IpAddr> = pods.chain(OUTSIDE.map(ip)).collect();
    known.sort_unstable();
    let all: Vec<(u8, u16)> = vec![(6, 53), (6, 80), (17, 53), (17, 80), (132, 80)];
    (select(vec!["", "web", "web", "db"]), subsequence(known, 0..6), subsequence(all, 0..4))
        .prop_map(move |(service, addresses, ports)| EndpointSlice {
            key: ObjectKey::namespaced(namespace, name),
            service: (!service.is_empty()).then(|| service.into()),
            addresses: addresses.into(),
            ports: ports.into(),
        })
        .boxed()
}

/// For one direction: rules that name a service on the side where none can be are left out.
fn rules_of(ingress: bool) -> BoxedStrategy<Vec<Rule>> {
    let fits = move |rule: &Rule| {
        let misplaced = if ingress { &rule.destination } else { &rule.source };
        misplaced.services.as_ref().is_none_or(|service| service.name.is_empty())
    };
    prop::collection::vec(rule(), 0..4)
        .prop_map(move |rules| rules.into_iter().filter(fits).collect())
        .boxed()
}

fn types() -> impl Strategy<Value = Vec<PolicyType>> {
    select(vec![
        vec![],
        vec![PolicyType::Ingress],
        vec![PolicyType::Egress],
        vec![PolicyType::Ingress, PolicyType::Egress],
    ])
}

fn order() -> impl Strategy<Value = Option<f64>> {
    select(vec![None, None, Some(10.0), Some(-0.0), Some(0.0), Some(1000.0), Some(2000.0)])
}

/// A NetworkPolicy of this name.
pub(super) fn policy(namespace: &'static str, name: &'static str) -> BoxedStrategy<NetworkPolicy> {
    let who = (maybe(0.6, selector(&LABELS)), maybe(0.15, account_selector()));
    (select(TIERS.to_vec()), order(), rules_of(true), rules_of(false), who, types())
        .prop_map(
            move |(tier, order, ingress, egress, (selector, service_account_selector), types)| {
                let mut policy = NetworkPolicy::new(
                    name,
                    NetworkPolicySpec {
                        tier: tier.into(),
                        order,
                        ingress,
                        egress,
                        selector,
                        types,
                        service_account_selector,
                        performance_hints: Vec::new(),
                    },
                );
                policy.metadata.namespace = Some(namespace.into());
                policy
            },
        )
        .boxed()
}

/// A GlobalNetworkPolicy of this name.
pub(super) fn global_policy(name: &'static str) -> BoxedStrategy<GlobalNetworkPolicy> {
    let who = (
        maybe(0.6, selector(&LABELS)),
        maybe(0.3, namespace_selector()),
        maybe(0.15, account_selector()),
    );
    let for_hosts = prop::bool::weighted(0.05);
    (select(TIERS.to_vec()), order(), rules_of(true), rules_of(false), who, types(), for_hosts)
        .prop_map(move |(tier, order, ingress, egress, who, types, do_not_track)| {
            let (selector, namespace_selector, service_account_selector) = who;
            GlobalNetworkPolicy::new(
                name,
                GlobalNetworkPolicySpec {
                    tier: tier.into(),
                    order,
                    ingress,
                    egress,
                    selector,
                    namespace_selector,
                    types,
                    do_not_track,
                    apply_on_forward: do_not_track,
                    service_account_selector,
                    ..GlobalNetworkPolicySpec::default()
                },
            )
        })
        .boxed()
}

fn nets() -> BoxedStrategy<Vec<String>> {
    let both: Vec<&str> = NETS.concat();
    subsequence(both, 0..4).prop_map(|nets| nets.into_iter().map(Into::into).collect()).boxed()
}

/// A NetworkSet of this name.
pub(super) fn network_set(
    namespace: &'static str,
    name: &'static str,
) -> BoxedStrategy<NetworkSet> {
    (nets(), labels())
        .prop_map(move |(nets, labels)| {
            let mut set = NetworkSet::new(name, NetworkSetSpec { nets });
            set.metadata.namespace = Some(namespace.into());
            set.metadata.labels = Some(labels);
            set
        })
        .boxed()
}

/// A GlobalNetworkSet of this name.
pub(super) fn global_network_set(name: &'static str) -> BoxedStrategy<GlobalNetworkSet> {
    (nets(), labels())
        .prop_map(move |(nets, labels): (_, BTreeMap<String, String>)| {
            let mut set = GlobalNetworkSet::new(name, GlobalNetworkSetSpec { nets });
            set.metadata.labels = Some(labels);
            set
        })
        .boxed()
}
