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
    Ports, Protocol, Tier as GivenTier,
};
use api::selector::Selector;
use api::validate;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::convert::{Errors, FieldError, GivenPort, Terms, is_port_name, merge};
use super::policy::{
    Action, Networks, OfHosts, Order, Peer, Peers, Policy, PolicyId, PortMatch, PortSet,
    ProtocolPorts, Rule, Tier, Traffics,
};
use crate::model::{Kind, ObjectKey};
use crate::names::Pattern;

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
    note(object.check_envelope(), &mut errors);
    let subject = &spec.subject;
    let subject =
        pods(subject.namespaces.as_ref(), subject.pods.as_ref(), "spec.subject", &mut errors);
    let is_closed = !errors.0.is_empty();

    let ingress = spec.ingress.iter().enumerate().filter_map(|(number, rule)| {
        let path = format!("spec.ingress[{number}]");
        let peers = |errors: &mut Errors| -> Vec<Peer> {
            let peers = rule.from.iter().enumerate().map(|(number, peer)| {
                let path = format!("{path}.from[{number}]");
                let selector = pods(peer.namespaces.as_ref(), peer.pods.as_ref(), &path, errors);
                Peer { selector: Some(selector), ..Peer::default() }
            });
            peers.collect()
        };
        let given = GivenRule { number, action: rule.action, protocols: rule.protocols.as_deref() };
        given.convert(rule.check(&path), is_closed, peers, &path, &mut errors)
    });
    let ingress: Vec<Rule> = ingress.collect();
    let egress = spec.egress.iter().enumerate().filter_map(|(number, rule)| {
        let path = format!("spec.egress[{number}]");
        let peers = |errors: &mut Errors| -> Vec<Peer> {
            let peers = rule.to.iter().enumerate();
            peers
                .map(|(number, peer)| {
                    destination(peer, rule.action, &format!("{path}.to[{number}]"), errors)
                })
                .collect()
        };
        let given = GivenRule { number, action: rule.action, protocols: rule.protocols.as_deref() };
        given.convert(rule.check(&path), is_closed, peers, &path, &mut errors)
    });
    let egress: Vec<Rule> = egress.collect();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let policy = Policy {
        id: PolicyId { kind: Kind::ClusterNetworkPolicy, key: ObjectKey::cluster(name) },
        tier,
        order: Order::new(spec.priority.into()),
        subject,
        hosts: OfHosts::Nothing,
        ingress: (!spec.ingress.is_empty()).then_some(ingress),
        egress: (!spec.egress.is_empty()).then_some(egress),
    };
    (policy, errors.0)
}

fn note(found: Vec<validate::FieldError>, errors: &mut Errors) {
    found.into_iter().for_each(|error| errors.add(error.path, error.message));
}

/// What rules of both directions have in common.
struct GivenRule<'a> {
    number: usize,
    action: Given,
    protocols: Option<&'a [Protocol]>,
}

impl GivenRule<'_> {
    /// None if it is wrong and would accept. `wrong`: what an API server would refuse of it.
    fn convert(
        &self,
        wrong: Vec<validate::FieldError>,
        is_closed: bool,
        peers: impl FnOnce(&mut Errors) -> Vec<Peer>,
        path: &str,
        errors: &mut Errors,
    ) -> Option<Rule> {
        let before = errors.0.len();
        let action = match self.action {
            Given::Accept => Action::Allow,
            Given::Deny => Action::Deny,
            Given::Pass => Action::Pass,
            Given::Unknown => {
                errors.add(format!("{path}.action"), "is none of Accept, Deny and Pass");
                Action::Deny
            }
        };
        note(wrong, errors);
        let peers = peers(errors);
        let traffic = traffic(self.protocols, &format!("{path}.protocols"), errors);
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

/// Of a peer that has one field, as it must.
fn destination(peer: &EgressPeer, action: Given, path: &str, errors: &mut Errors) -> Peer {
    if let Some(selector) = &peer.nodes {
        let mut terms = Terms::default();
        terms.labels("", Some(selector), &format!("{path}.nodes"), errors);
        return Peer { nodes: Some(terms.finish()), ..Peer::default() };
    }
    if let Some(list) = &peer.networks {
        // Those that cannot be read have been noted.
        let nets: Vec<IpNet> = list.iter().filter_map(|text| text.parse().ok()).collect();
        return Peer { networks: Some(Networks::new(&nets, &[])), ..Peer::default() };
    }
    if let Some(list) = &peer.domain_names {
        let path = format!("{path}.domainNames");
        if action != Given::Accept {
            errors.add(path.clone(), "only for rules with action Accept");
        }
        let names = list.iter().enumerate().filter_map(|(number, text)| {
            let wrong =
                |error| errors.add(format!("{path}[{number}]"), format!("{text:?} {error}"));
            Pattern::parse(text).map_err(wrong).ok()
        });
        return Peer { names: Some(names.collect()), ..Peer::default() };
    }
    let selector = pods(peer.namespaces.as_ref(), peer.pods.as_ref(), path, errors);
    Peer { selector: Some(selector), ..Peer::default() }
}

fn traffic(protocols: Option<&[Protocol]>, path: &str, errors: &mut Errors) -> Traffics {
    let Some(list) = protocols else { return Traffics::Any };
    let mut ports: BTreeMap<u8, Vec<GivenPort>> = BTreeMap::new();
    for (number, of) in list.iter().enumerate() {
        let name = &of.destination_named_port;
        if !name.is_empty() && !is_port_name(name) {
            let path = format!("{path}[{number}].destinationNamedPort");
            errors.add(path, format!("{name:?} is not a port name"));
        }
        for (protocol, given) in [(TCP, &of.tcp), (UDP, &of.udp), (SCTP, &of.sctp)] {
            let of_protocol = ports.entry(protocol).or_default();
            of_protocol.extend(given.as_ref().and_then(port));
            // A name is of whichever protocol the pod's port is.
            of_protocol.extend((!name.is_empty()).then(|| GivenPort::Name(name.as_str().into())));
        }
    }
    ports.retain(|_, ports| !ports.is_empty());
    let merged = |(protocol, ports)| ProtocolPorts {
        protocol,
        destination: PortMatch { ports: merge(ports), except: PortSet::default() },
        source: PortMatch::default(),
    };
    Traffics::OneOf(ports.into_iter().map(merged).collect())
}

/// None if it is wrong, which has been noted.
fn port(ports: &Ports) -> Option<GivenPort> {
    let port = ports.destination_port.as_ref()?;
    let (start, end) = match (&port.number, &port.range) {
        (Some(number), _) => (*number, *number),
        (None, range) => range.as_ref().map(|range| (range.start, range.end))?,
    };
    Some(GivenPort::Range(u16::try_from(start).ok()?, u16::try_from(end).ok()?))
}
