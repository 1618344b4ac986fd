//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`) in the engine's own words. Its tiers are
//! those that Calico keeps for it, before and after the one of the policies of namespaces.
//!
//! As the API has it, a rule of which anything is wrong or not known accepts nothing, and if it is not
//! there to accept, denies everything. So does every rule of a policy of which more is wrong than a
//! rule; if it does not say whom it is for, it is for all pods that the selectors that can be read
//! leave.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::policy::{
    Action as Given, ClusterNetworkPolicy, ClusterNetworkPolicySpec, EgressPeer, NamespacedPod,
    Port, Ports, Protocol, Tier as GivenTier,
};
use api::selector::Selector;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::convert::{Errors, FieldError, GivenPort, Terms, is_port_name, merge};
use super::policy::{
    Action, Networks, Order, Peer, Peers, Policy, PolicyId, PortMatch, PortSet, ProtocolPorts,
    Rule, Tier, Traffics,
};
use crate::model::{Kind, ObjectKey};

/// IP protocol numbers of those that have ports.
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The tier that a policy belongs to.
pub(super) fn tier(spec: &ClusterNetworkPolicySpec) -> &'static str {
    match spec.tier {
        GivenTier::Baseline => "kube-baseline",
        // What cannot be placed must not come too late.
        GivenTier::Admin | GivenTier::Unknown => "kube-admin",
    }
}

/// Converts a policy, and says what is wrong with it.
pub(super) fn convert(object: &ClusterNetworkPolicy, tier: Arc<Tier>) -> (Policy, Vec<FieldError>) {
    let spec = &object.spec;
    let mut errors = Errors::default();
    if spec.tier == GivenTier::Unknown {
        errors.add("spec.tier", "is neither Admin nor Baseline");
    }
    if !(0..=1000).contains(&spec.priority) {
        errors.add("spec.priority", format!("{} is not from 0 to 1000", spec.priority));
    }
    let subject = of_one(
        spec.subject.namespaces.as_ref(),
        spec.subject.pods.as_ref(),
        "spec.subject",
        &mut errors,
    );
    let is_closed = !errors.0.is_empty();

    let mut ingress = Vec::new();
    for (number, rule) in spec.ingress.iter().enumerate() {
        let path = format!("spec.ingress[{number}]");
        let peers = |errors: &mut Errors| {
            each(&rule.from, &format!("{path}.from"), errors, |peer, path, errors| {
                let selector = of_one(peer.namespaces.as_ref(), peer.pods.as_ref(), path, errors);
                vec![Peer { selector: Some(selector), ..Peer::default() }]
            })
        };
        let given = GivenRule {
            number,
            action: rule.action,
            protocols: rule.protocols.as_deref(),
            path: &path,
        };
        ingress.extend(given.convert(is_closed, peers, &mut errors));
    }
    let mut egress = Vec::new();
    for (number, rule) in spec.egress.iter().enumerate() {
        let path = format!("spec.egress[{number}]");
        let names_ports =
            rule.protocols.iter().flatten().any(|of| !of.destination_named_port.is_empty());
        let peers = |errors: &mut Errors| {
            each(&rule.to, &format!("{path}.to"), errors, |peer, path, errors| {
                destination(peer, rule.action, names_ports, path, errors)
            })
        };
        let given = GivenRule {
            number,
            action: rule.action,
            protocols: rule.protocols.as_deref(),
            path: &path,
        };
        egress.extend(given.convert(is_closed, peers, &mut errors));
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let policy = Policy {
        id: PolicyId { kind: Kind::ClusterNetworkPolicy, key: ObjectKey::cluster(name) },
        tier,
        order: Order::new(spec.priority.into()),
        subject,
        ingress: (!spec.ingress.is_empty()).then_some(ingress),
        egress: (!spec.egress.is_empty()).then_some(egress),
    };
    (policy, errors.0)
}

/// What rules of both directions have in common.
struct GivenRule<'a> {
    number: usize,
    action: Given,
    protocols: Option<&'a [Protocol]>,
    path: &'a str,
}

impl GivenRule<'_> {
    /// None if it is wrong and would accept.
    fn convert(
        &self,
        is_closed: bool,
        peers: impl FnOnce(&mut Errors) -> Vec<Peer>,
        errors: &mut Errors,
    ) -> Option<Rule> {
        let before = errors.0.len();
        let action = match self.action {
            Given::Accept => Action::Allow,
            Given::Deny => Action::Deny,
            Given::Pass => Action::Pass,
            Given::Unknown => {
                errors.add(format!("{}.action", self.path), "is none of Accept, Deny and Pass");
                Action::Deny
            }
        };
        let peers = peers(errors);
        let traffic = traffic(self.protocols, &format!("{}.protocols", self.path), errors);
        if is_closed || errors.0.len() > before {
            return (action != Action::Allow).then(Rule::deny_all);
        }
        Some(Rule {
            number: u32::try_from(self.number).ok(),
            action,
            peers: Peers::OneOf(peers),
            own: None,
            traffic,
        })
    }
}

/// Converts each entry of a list that must have some, under its path.
fn each<T, U>(
    list: &[T],
    path: &str,
    errors: &mut Errors,
    convert: impl Fn(&T, &str, &mut Errors) -> Vec<U>,
) -> Vec<U> {
    if list.is_empty() {
        errors.add(path, "must have an entry");
    }
    let each = list.iter().enumerate();
    each.flat_map(|(number, one)| convert(one, &format!("{path}[{number}]"), errors)).collect()
}

/// Exactly one of several fields has to be there: with none, there is one that is not known here.
fn one_of<const N: usize>(given: [bool; N], names: &str, path: &str, errors: &mut Errors) {
    match given.into_iter().filter(|given| *given).count() {
        1 => {}
        0 => errors.add(path, format!("none of {names} is given")),
        _ => errors.add(path, format!("more than one of {names} is given")),
    }
}

/// [`pods`] where there is nothing else to choose from.
fn of_one(
    namespaces: Option<&LabelSelector>,
    of: Option<&NamespacedPod>,
    path: &str,
    errors: &mut Errors,
) -> Selector {
    one_of([namespaces.is_some(), of.is_some()], "namespaces and pods", path, errors);
    pods(namespaces, of, path, errors)
}

/// Pods by their namespaces, or by namespaces and labels.
fn pods(
    namespaces: Option<&LabelSelector>,
    pods: Option<&NamespacedPod>,
    path: &str,
    errors: &mut Errors,
) -> Selector {
    let mut terms = Terms::pods();
    if let Some(selector) = namespaces {
        terms.namespaces(selector, &format!("{path}.namespaces"), errors);
    }
    if let Some(NamespacedPod { namespace_selector, pod_selector }) = pods {
        terms.namespaces(namespace_selector, &format!("{path}.pods.namespaceSelector"), errors);
        terms.labels("", Some(pod_selector), &format!("{path}.pods.podSelector"), errors);
    }
    terms.finish()
}

fn destination(
    peer: &EgressPeer,
    action: Given,
    names_ports: bool,
    path: &str,
    errors: &mut Errors,
) -> Vec<Peer> {
    let EgressPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let outside = [
        ("nodes", nodes.is_some()),
        ("networks", networks.is_some()),
        ("domainNames", domain_names.is_some()),
    ];
    let given = [namespaces.is_some(), pods.is_some(), outside[0].1, outside[1].1, outside[2].1];
    one_of(given, "namespaces, pods, nodes, networks and domainNames", path, errors);
    for (field, _) in outside.iter().filter(|(_, given)| *given && names_ports) {
        let reason = "has no named ports, which a destinationNamedPort of the rule asks for";
        errors.add(format!("{path}.{field}"), reason);
    }
    let mut peers = Vec::new();
    if let Some(selector) = nodes {
        let mut terms = Terms::default();
        terms.labels("", Some(selector), &format!("{path}.nodes"), errors);
        peers.push(Peer { nodes: Some(terms.finish()), ..Peer::default() });
    }
    if let Some(list) = networks {
        let parsed = each(list, &format!("{path}.networks"), errors, |text, path, errors| {
            let net = text.parse::<IpNet>().ok();
            if net.is_none() {
                errors.add(path, format!("{text:?} is not an address with a prefix length"));
            }
            net.into_iter().collect()
        });
        peers.push(Peer { networks: Some(Networks::new(&parsed, &[])), ..Peer::default() });
    }
    if domain_names.is_some() {
        let reason = match action {
            Given::Accept => "not supported yet",
            _ => "only for rules with action Accept",
        };
        errors.add(format!("{path}.domainNames"), reason);
    }
    if namespaces.is_some() || pods.is_some() {
        let selector = self::pods(namespaces.as_ref(), pods.as_ref(), path, errors);
        peers.push(Peer { selector: Some(selector), ..Peer::default() });
    }
    peers
}

fn traffic(protocols: Option<&[Protocol]>, path: &str, errors: &mut Errors) -> Traffics {
    let Some(list) = protocols else { return Traffics::Any };
    let mut ports: BTreeMap<u8, Vec<GivenPort>> = BTreeMap::new();
    for (protocol, port) in each(list, path, errors, protocol) {
        ports.entry(protocol).or_default().push(port);
    }
    let merged = |(protocol, ports)| ProtocolPorts {
        protocol,
        destination: PortMatch { ports: merge(ports), except: PortSet::default() },
        source: PortMatch::default(),
    };
    Traffics::OneOf(ports.into_iter().map(merged).collect())
}

/// Ports, each of a protocol.
fn protocol(of: &Protocol, path: &str, errors: &mut Errors) -> Vec<(u8, GivenPort)> {
    let Protocol { tcp, udp, sctp, destination_named_port: name } = of;
    let given = [tcp.is_some(), udp.is_some(), sctp.is_some(), !name.is_empty()];
    one_of(given, "tcp, udp, sctp and destinationNamedPort", path, errors);
    if !name.is_empty() {
        if !is_port_name(name) {
            let path = format!("{path}.destinationNamedPort");
            errors.add(path, format!("{name:?} is not a port name"));
        }
        // Of whichever protocol the pod's port is.
        let named = |protocol| (protocol, GivenPort::Name(name.as_str().into()));
        return [TCP, UDP, SCTP].map(named).into();
    }
    let fields = [(tcp, TCP, "tcp"), (udp, UDP, "udp"), (sctp, SCTP, "sctp")];
    let given =
        fields.iter().filter_map(|(ports, number, field)| Some((ports.as_ref()?, number, field)));
    let given = given.filter_map(|(ports, number, field)| {
        Some((*number, port(ports, &format!("{path}.{field}"), errors)?))
    });
    given.collect()
}

fn port(ports: &Ports, path: &str, errors: &mut Errors) -> Option<GivenPort> {
    let Some(Port { number, range }) = &ports.destination_port else {
        errors.add(path, "destinationPort is not given");
        return None;
    };
    let path = format!("{path}.destinationPort");
    one_of([number.is_some(), range.is_some()], "number and range", &path, errors);
    let mut valid = |port: i32, field: &str| {
        let valid = u16::try_from(port).ok().filter(|port| *port > 0);
        if valid.is_none() {
            errors.add(format!("{path}.{field}"), format!("{port} is not from 1 to 65535"));
        }
        valid
    };
    if let Some(number) = number {
        let number = valid(*number, "number")?;
        return Some(GivenPort::Range(number, number));
    }
    let range = range.as_ref()?;
    let (start, end) = (valid(range.start, "range.start")?, valid(range.end, "range.end")?);
    if start >= end {
        errors.add(format!("{path}.range"), format!("{start} is not less than {end}"));
        return None;
    }
    Some(GivenPort::Range(start, end))
}
