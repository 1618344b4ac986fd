//! Kubernetes NetworkPolicy (`networking.k8s.io/v1`) in the engine's own words.
//!
//! What cannot be understood allows nothing: a bad peer or port is left out of its rule, and a
//! policy whose `podSelector` is bad isolates the pods that the rest of the selector picks and
//! allows them nothing. All of it is reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::{
    Expression, LABEL_NAMESPACE, LABEL_ORCHESTRATOR, PREFIX_NAMESPACE, PREFIX_SERVICE_ACCOUNT,
    Selector,
};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::policy::{
    Action, Networks, OfHosts, Order, Peer, Peers, Policy, PolicyId, PortMatch, PortSet, Ports,
    ProtocolPorts, Rule, Tier, Traffics,
};
use super::ranges::{Family, Span};
use crate::model::{Kind, ObjectKey};

/// Where Kubernetes policies stand in the default tier.
const ORDER: Order = Order::new(1000.0);

/// What is wrong with a field of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FieldError {
    /// Path of the field, as `spec.ingress[0].from[1].ipBlock.cidr`.
    pub(super) field: String,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// What is wrong with an object.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) Vec<FieldError>);

impl Errors {
    /// One more thing that is wrong.
    pub(super) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), reason: reason.into() });
    }
}

/// The key of a policy object; the namespace is `default` if it names none.
pub(super) fn key_of(policy: &NetworkPolicy) -> ObjectKey {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
    ObjectKey::namespaced(namespace, policy.metadata.name.as_deref().unwrap_or_default())
}

/// Converts a policy, and says what of it could not be understood.
pub(super) fn network_policy(object: &NetworkPolicy, tier: Arc<Tier>) -> (Policy, Vec<FieldError>) {
    let mut errors = Errors::default();
    let id = PolicyId { kind: Kind::KubernetesNetworkPolicy, key: key_of(object) };
    let namespace = id.key.namespace.clone().unwrap_or_default();
    let namespace = Expression::Equal(LABEL_NAMESPACE.into(), namespace);
    let spec = object.spec.clone().unwrap_or_default();

    let mut subject = Terms::pods();
    subject.0.push(namespace.clone());
    subject.labels("", spec.pod_selector.as_ref(), "spec.podSelector", &mut errors);
    let subject = subject.finish();
    let is_understood = errors.0.is_empty();

    let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let (has_ingress, has_egress) = directions(types, !egress.is_empty(), &mut errors);
    let mut rules = |path: &str, peers: &str, rules: Vec<RawRule>| -> Vec<Rule> {
        let mut rule = |(number, rule): (usize, RawRule)| {
            let path = format!("{path}[{number}]");
            let peers = format!("{path}.{peers}");
            Rule {
                number: u32::try_from(number).ok(),
                action: Action::Allow,
                peers: convert_peers(&rule.0.unwrap_or_default(), &namespace, &peers, &mut errors),
                own: None,
                traffic: convert_ports(&rule.1.unwrap_or_default(), &path, &mut errors),
            }
        };
        // Whom a policy with a bad selector meant to let in where is not known.
        rules.into_iter().enumerate().filter(|_| is_understood).map(&mut rule).collect()
    };
    let ingress = ingress.into_iter().map(|rule| (rule.from, rule.ports)).collect();
    let ingress = has_ingress.then(|| rules("spec.ingress", "from", ingress));
    let egress = egress.into_iter().map(|rule| (rule.to, rule.ports)).collect();
    let egress = has_egress.then(|| rules("spec.egress", "to", egress));
    let hosts = OfHosts::Nothing;
    (Policy { id, tier, order: ORDER, subject, hosts, ingress, egress }, errors.0)
}

type RawRule = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

/// Which directions a policy is about: those it names, else ingress, and egress if it has rules
/// for it. A name that means nothing may mean either.
fn directions(types: &[String], has_egress_rules: bool, errors: &mut Errors) -> (bool, bool) {
    if types.is_empty() {
        return (true, has_egress_rules);
    }
    let (mut ingress, mut egress) = (false, false);
    for (number, name) in types.iter().enumerate() {
        match name.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            _ => {
                (ingress, egress) = (true, true);
                let reason = format!("{name:?} is neither Ingress nor Egress");
                errors.add(format!("spec.policyTypes[{number}]"), reason);
            }
        }
    }
    (ingress, egress)
}

fn convert_peers(
    peers: &[NetworkPolicyPeer],
    namespace: &Expression,
    path: &str,
    errors: &mut Errors,
) -> Peers {
    if peers.is_empty() {
        return Peers::Any;
    }
    let convert = |(number, peer): (usize, &NetworkPolicyPeer)| {
        convert_peer(peer, namespace, &format!("{path}[{number}]"), errors)
    };
    Peers::OneOf(peers.iter().enumerate().filter_map(convert).collect())
}

fn convert_peer(
    peer: &NetworkPolicyPeer,
    namespace: &Expression,
    path: &str,
    errors: &mut Errors,
) -> Option<Peer> {
    let before = errors.0.len();
    if let Some(block) = &peer.ip_block {
        if peer.pod_selector.is_some() || peer.namespace_selector.is_some() {
            errors.add(path, "ipBlock cannot be combined with podSelector or namespaceSelector");
        }
        let networks = convert_block(block, &format!("{path}.ipBlock"), errors)?;
        return (errors.0.len() == before)
            .then(|| Peer { networks: Some(networks), ..Peer::default() });
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        errors.add(path, "one of ipBlock, podSelector and namespaceSelector is required");
        return None;
    }
    let mut terms = Terms::pods();
    match &peer.namespace_selector {
        None => terms.0.push(namespace.clone()),
        Some(selector) => {
            terms.namespaces(selector, &format!("{path}.namespaceSelector"), errors);
        }
    }
    let selector_path = format!("{path}.podSelector");
    terms.labels("", peer.pod_selector.as_ref(), &selector_path, errors);
    (errors.0.len() == before).then(|| Peer { selector: Some(terms.finish()), ..Peer::default() })
}

fn convert_block(block: &IPBlock, path: &str, errors: &mut Errors) -> Option<Networks> {
    let before = errors.0.len();
    let mut parse = |field: String, text: &str| match text.parse::<IpNet>() {
        Ok(net) => Some((net.trunc(), field)),
        Err(_) => {
            errors.add(field, format!("{text:?} is not an address with a prefix length"));
            None
        }
    };
    let cidr = parse(format!("{path}.cidr"), &block.cidr);
    let except: Vec<(IpNet, String)> = (block.except.iter().flatten().enumerate())
        .filter_map(|(number, text)| parse(format!("{path}.except[{number}]"), text))
        .collect();
    let (cidr, _) = cidr?;
    let span = Span::of(&cidr);
    for (net, field) in &except {
        let inner = Span::of(net);
        let same_family = Family::of(net.addr()) == Family::of(cidr.addr());
        if !same_family || inner.first < span.first || inner.last > span.last {
            errors.add(field, format!("{net} does not lie in {cidr}"));
        }
    }
    let except: Vec<IpNet> = except.into_iter().map(|(net, _)| net).collect();
    (errors.0.len() == before).then(|| Networks::new(&[cidr], &except))
}

fn convert_ports(ports: &[NetworkPolicyPort], path: &str, errors: &mut Errors) -> Traffics {
    if ports.is_empty() {
        return Traffics::Any;
    }
    let mut protocols: BTreeMap<u8, Vec<GivenPort>> = BTreeMap::new();
    for (number, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{number}]");
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => 6,
            Some("UDP") => 17,
            Some("SCTP") => 132,
            Some(other) => {
                let reason = format!("{other:?} is none of TCP, UDP and SCTP");
                errors.add(format!("{path}.protocol"), reason);
                continue;
            }
        };
        if let Some(port) = convert_port(port, &path, errors) {
            protocols.entry(protocol).or_default().push(port);
        }
    }
    let merged = |(protocol, matches)| ProtocolPorts {
        protocol,
        destination: PortMatch { ports: merge(matches), except: PortSet::default() },
        source: PortMatch::default(),
    };
    Traffics::OneOf(protocols.into_iter().map(merged).collect())
}

/// A port as a rule gives it.
pub(super) enum GivenPort {
    All,
    Range(u16, u16),
    Name(Arc<str>),
}

fn convert_port(port: &NetworkPolicyPort, path: &str, errors: &mut Errors) -> Option<GivenPort> {
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let end_path = format!("{path}.endPort");
    match (&port.port, port.end_port) {
        (None, None) => Some(GivenPort::All),
        (None, Some(_)) => {
            errors.add(end_path, "requires port");
            None
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            errors.add(end_path, "cannot be combined with a named port");
            None
        }
        (Some(IntOrString::String(name)), None) => {
            if !is_port_name(name) {
                errors.add(format!("{path}.port"), format!("{name:?} is not a port name"));
                return None;
            }
            Some(GivenPort::Name(name.as_str().into()))
        }
        (Some(IntOrString::Int(first)), end) => {
            let Some(first) = number(*first) else {
                errors.add(format!("{path}.port"), format!("{first} is not from 1 to 65535"));
                return None;
            };
            match end.map(|end| number(end).filter(|end| *end >= first)) {
                None => Some(GivenPort::Range(first, first)),
                Some(Some(last)) => Some(GivenPort::Range(first, last)),
                Some(None) => {
                    errors.add(end_path, format!("is not from {first} to 65535"));
                    None
                }
            }
        }
    }
}

/// Kubernetes' rule for container port names (`IsValidPortName`).
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// All of these together.
pub(super) fn merge(matches: Vec<GivenPort>) -> Ports {
    let (mut ranges, mut names) = (Vec::new(), Vec::new());
    for port in matches {
        match port {
            GivenPort::All => return Ports::All,
            GivenPort::Range(first, last) => ranges.push((first, last)),
            GivenPort::Name(name) => names.push(name),
        }
    }
    Ports::Some(PortSet::new(ranges, names))
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A selector being put together: all of its terms must hold.
#[derive(Default)]
pub(super) struct Terms(Vec<Expression>);

impl Terms {
    /// Pods of Kubernetes, wherever they are.
    pub(super) fn pods() -> Self {
        Self(vec![Expression::Equal(LABEL_ORCHESTRATOR.into(), "k8s".into())])
    }

    /// Adds that the namespace is one that a label selector selects.
    pub(super) fn namespaces(&mut self, selector: &LabelSelector, path: &str, errors: &mut Errors) {
        if is_empty(selector) {
            // Every pod is in a namespace.
            self.0.push(Expression::Has(LABEL_NAMESPACE.into()));
        } else {
            self.labels(PREFIX_NAMESPACE, Some(selector), path, errors);
        }
    }

    /// Adds what a label selector asks, its keys prefixed. What it asks wrongly is left out.
    pub(super) fn labels(
        &mut self,
        prefix: &str,
        selector: Option<&LabelSelector>,
        path: &str,
        errors: &mut Errors,
    ) {
        let Some(selector) = selector else { return };
        let mut add = |path: String, term: Result<Expression, String>| match term {
            Ok(term) => self.0.push(term),
            Err(reason) => errors.add(path, reason),
        };
        for (key, text) in selector.match_labels.iter().flatten() {
            let term =
                label(prefix, key).and_then(|label| Ok(Expression::Equal(label, value(text)?)));
            add(format!("{path}.matchLabels[{key}]"), term);
        }
        for (number, requirement) in selector.match_expressions.iter().flatten().enumerate() {
            add(format!("{path}.matchExpressions[{number}]"), requires(prefix, requirement));
        }
    }

    /// The selector.
    pub(super) fn finish(self) -> Selector {
        Expression::and(self.0).into()
    }
}

fn requires(prefix: &str, requirement: &LabelSelectorRequirement) -> Result<Expression, String> {
    let LabelSelectorRequirement { key, operator, values } = requirement;
    let label = label(prefix, key)?;
    let values = values.iter().flatten().map(|text| value(text));
    let values: Vec<Arc<str>> = values.collect::<Result<_, _>>()?;
    match (operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Expression::In(label, values)),
        ("NotIn", false) => Ok(Expression::NotIn(label, values)),
        ("Exists", true) => Ok(Expression::Has(label)),
        ("DoesNotExist", true) => Ok(Expression::negated(Expression::Has(label))),
        ("In" | "NotIn", true) => Err(format!("operator {operator} requires values")),
        ("Exists" | "DoesNotExist", false) => Err(format!("operator {operator} takes no values")),
        _ => Err(format!("{operator:?} is none of In, NotIn, Exists and DoesNotExist")),
    }
}

/// The name by which selectors know a label. The prefixes that stand for labels of namespaces and
/// service accounts are not for pods.
fn label(prefix: &str, key: &str) -> Result<Arc<str>, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
    if key.is_empty() || !key.bytes().all(is_plain) {
        return Err(format!("{key:?} is not a label key"));
    }
    let reserved = [PREFIX_NAMESPACE, PREFIX_SERVICE_ACCOUNT];
    if prefix.is_empty() && reserved.iter().any(|prefix| key.starts_with(prefix)) {
        return Err(format!("label key {key:?} is reserved"));
    }
    Ok(format!("{prefix}{key}").into())
}

fn value(text: &str) -> Result<Arc<str>, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !text.bytes().all(is_plain) {
        return Err(format!("{text:?} is not a label value"));
    }
    Ok(text.into())
}
