//! Calico's NetworkPolicy and GlobalNetworkPolicy (`projectcalico.org/v3`) in the engine's own words.
//!
//! A policy of which anything is wrong, or not supported yet, denies all traffic that it is about
//! in its place among the others, and says why. If it does not say whom it is for, it is for all
//! that the selectors that can be read leave.

mod traffic;

use std::sync::Arc;

use api::selector::{ParseError, Selector, rewrite};
use api::v3::{self, EntityRule, PolicyType};
use ipnet::IpNet;

use self::traffic::traffic;
use super::convert::{Errors, FieldError};
use super::policy::{
    Action, Networks, OfHosts, Order, Own, Peer, Peers, Policy, PolicyId, Rule, Tier,
};
use super::ranges::Family;
use crate::model::{Direction, Kind, ObjectKey};

/// Converts a NetworkPolicy, and says what is wrong with it.
pub(super) fn network_policy(
    object: &v3::NetworkPolicy,
    tier: Arc<Tier>,
) -> (Policy, Vec<FieldError>) {
    let spec = &object.spec;
    let mut errors = unsupported(object);
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let subject = Selector::every(&[
        selector("spec.selector", Selector::parse(&spec.selector), &mut errors),
        rewrite::in_namespace(namespace),
        accounts(&spec.service_account_selector, &mut errors),
    ]);
    let body = Body {
        order: spec.order,
        types: spec.types(),
        ingress: &spec.ingress,
        egress: &spec.egress,
        namespace: Some(namespace),
        hosts: OfHosts::Nothing,
    };
    let key = ObjectKey::namespaced(namespace, name);
    body.convert(PolicyId { kind: Kind::NetworkPolicy, key }, tier, subject, errors)
}

/// Converts a GlobalNetworkPolicy, and says what is wrong with it. One that is for traffic before
/// connection tracking or destination NAT is for host endpoints only.
pub(super) fn global_network_policy(
    object: &v3::GlobalNetworkPolicy,
    tier: Arc<Tier>,
) -> (Policy, Vec<FieldError>) {
    let spec = &object.spec;
    let mut errors = unsupported(object);
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespaces = match spec.namespace_selector.as_str() {
        "" => Selector::all(),
        text => {
            let parsed = rewrite::namespace_selector(text);
            selector("spec.namespaceSelector", parsed, &mut errors)
        }
    };
    let subject = Selector::every(&[
        selector("spec.selector", Selector::parse(&spec.selector), &mut errors),
        namespaces,
        accounts(&spec.service_account_selector, &mut errors),
    ]);
    let hosts = of_hosts(spec, &mut errors);
    let body = Body {
        order: spec.order,
        types: spec.types(),
        ingress: &spec.ingress,
        egress: &spec.egress,
        namespace: None,
        hosts,
    };
    let key = ObjectKey::cluster(name);
    body.convert(PolicyId { kind: Kind::GlobalNetworkPolicy, key }, tier, subject, errors)
}

/// What the policy has to say about host endpoints, and when.
fn of_hosts(spec: &v3::GlobalNetworkPolicySpec, errors: &mut Errors) -> OfHosts {
    let early = match (spec.pre_dnat, spec.do_not_track) {
        (false, false) if spec.apply_on_forward => return OfHosts::Forwarded,
        (false, false) => return OfHosts::Own,
        (true, false) => OfHosts::PreDnat,
        (false, true) => OfHosts::Untracked,
        (true, true) => {
            errors.add("spec.doNotTrack", "cannot be combined with preDNAT");
            return OfHosts::Unclear;
        }
    };
    let before = errors.0.len();
    if !spec.apply_on_forward {
        errors.add("spec.applyOnForward", "must be true with preDNAT or doNotTrack");
    }
    if spec.pre_dnat && !spec.egress.is_empty() {
        errors.add("spec.egress", "preDNAT is for ingress only");
    }
    if spec.pre_dnat && spec.egress.is_empty() && spec.types().contains(&PolicyType::Egress) {
        errors.add("spec.types", "preDNAT is for ingress only");
    }
    if errors.0.len() > before { OfHosts::Unclear } else { early }
}

/// What is said in rules that this agent does not act on yet.
fn unsupported(object: &impl serde::Serialize) -> Errors {
    let mut errors = Errors::default();
    for field in api::unsupported_in_rules(object) {
        errors.add(field, "not supported yet");
    }
    errors
}

fn accounts(text: &str, errors: &mut Errors) -> Selector {
    let parsed = rewrite::service_account_selector(text);
    selector("spec.serviceAccountSelector", parsed, errors)
}

/// A selector that cannot be read leaves everything in.
fn selector(path: &str, parsed: Result<Selector, ParseError>, errors: &mut Errors) -> Selector {
    parsed.unwrap_or_else(|error| {
        errors.add(path, error.to_string());
        Selector::all()
    })
}

/// What both kinds have in common.
struct Body<'a> {
    order: Option<f64>,
    types: Vec<PolicyType>,
    ingress: &'a [v3::Rule],
    egress: &'a [v3::Rule],
    /// None for a GlobalNetworkPolicy.
    namespace: Option<&'a str>,
    hosts: OfHosts,
}

impl Body<'_> {
    fn convert(
        self,
        id: PolicyId,
        tier: Arc<Tier>,
        subject: Selector,
        mut errors: Errors,
    ) -> (Policy, Vec<FieldError>) {
        let mut side = |path: &str, rules: &[v3::Rule], direction: Direction| -> Vec<Rule> {
            let convert = |(number, rule)| {
                let path = format!("{path}[{number}]");
                let mut rules = convert_rule(rule, direction, self.namespace, &path, &mut errors);
                rules.iter_mut().for_each(|rule| rule.number = u32::try_from(number).ok());
                rules
            };
            rules.iter().enumerate().flat_map(convert).collect()
        };
        let ingress = side("spec.ingress", self.ingress, Direction::Ingress);
        let egress = side("spec.egress", self.egress, Direction::Egress);
        let closed = !errors.0.is_empty();
        let in_force = |direction: PolicyType, rules: Vec<Rule>| {
            let rules = if closed { vec![Rule::deny_all()] } else { rules };
            self.types.contains(&direction).then_some(rules)
        };
        let policy = Policy {
            id,
            tier,
            order: self.order.map_or(Order::LAST, Order::new),
            subject,
            hosts: self.hosts,
            ingress: in_force(PolicyType::Ingress, ingress),
            egress: in_force(PolicyType::Egress, egress),
        };
        (policy, errors.0)
    }
}

/// A rule becomes none if something is wrong with it, or two: what it asks of the endpoint itself
/// is asked of its addresses of either family.
fn convert_rule(
    rule: &v3::Rule,
    direction: Direction,
    namespace: Option<&str>,
    path: &str,
    errors: &mut Errors,
) -> Vec<Rule> {
    let before = errors.0.len();
    let action = match rule.action {
        v3::Action::Allow => Action::Allow,
        v3::Action::Pass => Action::Pass,
        v3::Action::Deny => Action::Deny,
        v3::Action::Log => Action::Log,
    };
    let (unasked, reason) = match direction {
        Direction::Ingress => (&rule.destination.services, "destination.services"),
        Direction::Egress => (&rule.source.services, "source.services"),
    };
    if unasked.is_some() {
        let only = "source.services is for ingress rules and destination.services for egress rules";
        errors.add(format!("{path}.{reason}"), only);
    }
    let source = side(&rule.source, namespace, &format!("{path}.source"), errors);
    let destination = side(&rule.destination, namespace, &format!("{path}.destination"), errors);
    let version = rule.ip_version.map(|version| match version {
        v3::IpVersion::V4 => Family::V4,
        v3::IpVersion::V6 => Family::V6,
    });
    let families = [version, source.family(), destination.family()];
    let mut families = families.into_iter().flatten();
    let family = families.next();
    if families.any(|other| Some(other) != family) {
        errors.add(path, "mixes IPv4 and IPv6");
    }
    let traffic = traffic(rule, destination.service.as_ref(), path, errors);
    if errors.0.len() > before {
        return Vec::new();
    }
    let (peer, own) = match direction {
        Direction::Ingress => (&source, &destination),
        Direction::Egress => (&destination, &source),
    };
    let of_family = |family: Option<Family>| Rule {
        number: None,
        action,
        peers: peer.peers(family),
        own: family.and_then(|family| own.own(family)),
        traffic: traffic.clone(),
    };
    match family {
        None if own.asks() => Family::ALL.map(|family| of_family(Some(family))).into(),
        family => vec![of_family(family)],
    }
}

/// One side of a rule, without its ports.
struct Side {
    selector: Option<Selector>,
    not_selector: Option<Selector>,
    nets: Vec<IpNet>,
    not_nets: Vec<IpNet>,
    service: Option<ObjectKey>,
}

fn side(entity: &EntityRule, namespace: Option<&str>, path: &str, errors: &mut Errors) -> Side {
    let mut parse = |field: &str, texts: &[String]| -> Vec<IpNet> {
        let mut nets = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let path = format!("{path}.{field}[{number}]");
            match api::net::parse(text) {
                None => {
                    let reason =
                        format!("{text:?} is neither a network in CIDR notation nor an address");
                    errors.add(path, reason);
                }
                Some(net) => {
                    if nets.first().is_some_and(|first: &IpNet| family_of(first) != family_of(&net))
                    {
                        errors.add(path, "mixes IPv4 and IPv6");
                    }
                    nets.push(net);
                }
            }
        }
        nets
    };
    let (nets, not_nets) = (parse("nets", &entity.nets), parse("notNets", &entity.not_nets));
    let selectors = rewrite::entity(entity, namespace).unwrap_or_else(|error| {
        errors.add(format!("{path}.{}", error.field), error.source.to_string());
        rewrite::EntitySelectors::default()
    });
    let rewrite::EntitySelectors { selector, not_selector } = selectors;
    let service = service(entity, namespace, path, errors);
    let side = Side { selector, not_selector, nets, not_nets, service };
    if let (Some(nets), Some(not_nets)) = (side.nets.first(), side.not_nets.first())
        && family_of(nets) != family_of(not_nets)
    {
        errors.add(path, "mixes IPv4 and IPv6");
    }
    side
}

/// The Service whose endpoints are meant.
fn service(
    entity: &EntityRule,
    namespace: Option<&str>,
    path: &str,
    errors: &mut Errors,
) -> Option<ObjectKey> {
    let service = entity.services.as_ref()?;
    let path = format!("{path}.services");
    let others =
        EntityRule { services: None, ports: Vec::new(), not_ports: Vec::new(), ..entity.clone() };
    if !others.is_empty() {
        let reason = "cannot be combined with selector, notSelector, namespaceSelector, nets, \
                      notNets or serviceAccounts";
        errors.add(&path, reason);
    }
    if service.name.is_empty() {
        errors.add(format!("{path}.name"), "must be given");
    }
    let given = Some(service.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let Some(namespace) = given.or(namespace) else {
        errors.add(format!("{path}.namespace"), "must be given in a GlobalNetworkPolicy");
        return None;
    };
    Some(ObjectKey::namespaced(namespace, &service.name))
}

fn family_of(net: &IpNet) -> Family {
    Family::of(net.addr())
}

impl Side {
    /// The family of its networks, if it names any.
    fn family(&self) -> Option<Family> {
        self.nets.first().or(self.not_nets.first()).map(family_of)
    }

    /// Whether it says anything.
    fn asks(&self) -> bool {
        self.selector.is_some()
            || self.not_selector.is_some()
            || self.family().is_some()
            || self.service.is_some()
    }

    /// As the other side of a flow, of one family if one is given.
    fn peers(&self, family: Option<Family>) -> Peers {
        if !self.asks() && family.is_none() {
            return Peers::Any;
        }
        Peers::OneOf(vec![Peer {
            selector: self.selector.clone(),
            not_selector: self.not_selector.clone(),
            networks: family.map(|family| self.networks(family)),
            nodes: None,
            service: self.service.clone(),
            names: None,
        }])
    }

    /// As the endpoint's own address.
    fn own(&self, family: Family) -> Option<Own> {
        let address = Peer {
            selector: self.selector.clone(),
            not_selector: self.not_selector.clone(),
            networks: self.family().map(|family| self.networks(family)),
            nodes: None,
            service: None,
            names: None,
        };
        self.asks().then_some(Own { family, address })
    }

    /// Its addresses of a family.
    fn networks(&self, family: Family) -> Networks {
        if self.nets.is_empty() {
            Networks::new(&[family.whole()], &self.not_nets)
        } else {
            Networks::new(&self.nets, &self.not_nets)
        }
    }
}
