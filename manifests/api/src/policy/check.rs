//! What the definition asks of a policy beyond the types of its fields: unions of which exactly one
//! field is set, numbers and formats. An API server has checked it, of the fields that it knows.

use ipnet::IpNet;

use super::{
    ClusterNetworkPolicy, EgressPeer, EgressRule, IngressRule, Port, Ports, Protocol, Subject, Tier,
};
use crate::validate::FieldError;

impl ClusterNetworkPolicy {
    /// Everything that an API server would refuse, in the order of the fields.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = self.check_envelope();
        for (number, rule) in self.spec.ingress.iter().enumerate() {
            errors.extend(rule.check(&format!("spec.ingress[{number}]")));
        }
        for (number, rule) in self.spec.egress.iter().enumerate() {
            errors.extend(rule.check(&format!("spec.egress[{number}]")));
        }
        errors
    }

    /// The same of all but the rules.
    pub fn check_envelope(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.spec.tier == Tier::Unknown {
            add(&mut errors, "spec.tier", "is neither Admin nor Baseline");
        }
        let priority = self.spec.priority;
        if !(0..=1000).contains(&priority) {
            add(&mut errors, "spec.priority", format!("{priority} is not from 0 to 1000"));
        }
        let Subject { namespaces, pods } = &self.spec.subject;
        one_of(
            &[("namespaces", namespaces.is_some()), ("pods", pods.is_some())],
            "spec.subject",
            &mut errors,
        );
        errors
    }
}

impl IngressRule {
    /// Everything that an API server would refuse of the rule at `path`; its name is not looked at.
    pub fn check(&self, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        not_empty(&self.from, &format!("{path}.from"), &mut errors);
        for (number, peer) in self.from.iter().enumerate() {
            let fields = [("namespaces", peer.namespaces.is_some()), ("pods", peer.pods.is_some())];
            one_of(&fields, &format!("{path}.from[{number}]"), &mut errors);
        }
        protocols(self.protocols.as_deref(), path, &mut errors);
        errors
    }
}

impl EgressRule {
    /// As [`IngressRule::check`].
    pub fn check(&self, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let of_rule = self.protocols.iter().flatten();
        let names_ports = of_rule.clone().any(|of| !of.destination_named_port.is_empty());
        not_empty(&self.to, &format!("{path}.to"), &mut errors);
        for (number, peer) in self.to.iter().enumerate() {
            destination(peer, names_ports, &format!("{path}.to[{number}]"), &mut errors);
        }
        protocols(self.protocols.as_deref(), path, &mut errors);
        errors
    }
}

fn add(errors: &mut Vec<FieldError>, path: impl Into<String>, message: impl Into<String>) {
    errors.push(FieldError::new(path, message));
}

/// With none of them there is one that is not known here.
fn one_of(fields: &[(&str, bool)], path: &str, errors: &mut Vec<FieldError>) {
    let given = fields.iter().filter(|(_, given)| *given).count();
    let how_many = match given {
        1 => return,
        0 => "none",
        _ => "more than one",
    };
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    // There are two at least.
    let names = names
        .split_last()
        .map_or_else(String::new, |(last, others)| format!("{} and {last}", others.join(", ")));
    add(errors, path, format!("{how_many} of {names} is given"));
}

fn not_empty<T>(list: &[T], path: &str, errors: &mut Vec<FieldError>) {
    if list.is_empty() {
        add(errors, path, "must have an entry");
    }
}

fn destination(peer: &EgressPeer, names_ports: bool, path: &str, errors: &mut Vec<FieldError>) {
    let fields = [
        ("namespaces", peer.namespaces.is_some()),
        ("pods", peer.pods.is_some()),
        ("nodes", peer.nodes.is_some()),
        ("networks", peer.networks.is_some()),
        ("domainNames", peer.domain_names.is_some()),
    ];
    one_of(&fields, path, errors);
    for (field, _) in fields[2..].iter().filter(|(_, given)| *given && names_ports) {
        let reason = "has no named ports, which a destinationNamedPort of the rule asks for";
        add(errors, format!("{path}.{field}"), reason);
    }
    if let Some(networks) = &peer.networks {
        let path = format!("{path}.networks");
        not_empty(networks, &path, errors);
        for (number, text) in networks.iter().enumerate() {
            if text.parse::<IpNet>().is_err() {
                let reason = format!("{text:?} is not an address with a prefix length");
                add(errors, format!("{path}[{number}]"), reason);
            }
        }
    }
    if let Some(names) = &peer.domain_names {
        not_empty(names, &format!("{path}.domainNames"), errors);
    }
}

fn protocols(list: Option<&[Protocol]>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(list) = list else { return };
    let path = format!("{path}.protocols");
    not_empty(list, &path, errors);
    for (number, of) in list.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let of_protocol = [("tcp", &of.tcp), ("udp", &of.udp), ("sctp", &of.sctp)];
        let named = ("destinationNamedPort", !of.destination_named_port.is_empty());
        let fields = of_protocol.map(|(name, ports)| (name, ports.is_some()));
        one_of(&[fields.as_slice(), &[named]].concat(), &path, errors);
        for (name, given) in of_protocol {
            let Some(Ports { destination_port }) = given else { continue };
            match destination_port {
                None => add(errors, format!("{path}.{name}"), "destinationPort is not given"),
                Some(given) => port(given, &format!("{path}.{name}.destinationPort"), errors),
            }
        }
    }
}

fn port(Port { number, range }: &Port, path: &str, errors: &mut Vec<FieldError>) {
    one_of(&[("number", number.is_some()), ("range", range.is_some())], path, errors);
    let ends = range.as_ref().map(|range| [("range.start", range.start), ("range.end", range.end)]);
    let numbers = number.map(|number| ("number", number));
    for (field, port) in numbers.into_iter().chain(ends.into_iter().flatten()) {
        if !(1..=65535).contains(&port) {
            add(errors, format!("{path}.{field}"), format!("{port} is not from 1 to 65535"));
        }
    }
    if let Some(range) = range
        && range.start >= range.end
    {
        let reason = format!("{} is not less than {}", range.start, range.end);
        add(errors, format!("{path}.range"), reason);
    }
}
