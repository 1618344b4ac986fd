//! Protocol, ports, and types and codes of ICMP in a rule of Calico's.

use api::v3::{self, Port};

use super::super::convert::Errors;
use super::super::policy::{PortMatch, PortSet, Ports, ProtocolPorts, Traffics};
use crate::model::ObjectKey;

/// Named ports of a rule that gives no protocol are ports of TCP.
const TCP: u8 = 6;

/// What a rule asks of ICMP: types and codes that it wants, and such that it does not. Without a
/// type it asks nothing.
fn icmp(rule: &v3::Rule, path: &str, errors: &mut Errors) -> [Option<(u16, u16)>; 2] {
    let is_icmp = matches!(rule.protocol, Some(v3::Protocol::ICMP | v3::Protocol::ICMPV6));
    [("icmp", rule.icmp), ("notICMP", rule.not_icmp)].map(|(field, fields)| {
        let fields = fields?;
        if !is_icmp {
            errors.add(format!("{path}.{field}"), "requires protocol ICMP or ICMPv6");
        }
        let number = |kind, code| u16::from_be_bytes([kind, code]);
        match (fields.icmp_type, fields.code) {
            (Some(u8::MAX), _) => {
                errors.add(format!("{path}.{field}.type"), "255 is not from 0 to 254");
                None
            }
            (Some(kind), Some(code)) => Some((number(kind, code), number(kind, code))),
            (Some(kind), None) => Some((number(kind, 0), number(kind, u8::MAX))),
            (None, Some(_)) => {
                errors.add(format!("{path}.{field}.code"), "requires type");
                None
            }
            (None, None) => None,
        }
    })
}

/// A family of which the protocol is not cannot be asked for together with it.
fn check_version(rule: &v3::Rule, path: &str, errors: &mut Errors) {
    let version = match rule.protocol {
        Some(v3::Protocol::ICMP) => v3::IpVersion::V4,
        Some(v3::Protocol::ICMPV6) => v3::IpVersion::V6,
        _ => return,
    };
    if rule.ip_version.is_some_and(|given| given != version) {
        let reason = "protocol ICMP goes with ipVersion 4 only and ICMPv6 with ipVersion 6 only";
        errors.add(format!("{path}.ipVersion"), reason);
    }
}

/// Protocol, ports, types and codes of a rule whose destination may be a Service.
pub(super) fn traffic(
    rule: &v3::Rule,
    service: Option<&ObjectKey>,
    path: &str,
    errors: &mut Errors,
) -> Traffics {
    let source = ports(rule, &rule.source, &format!("{path}.source"), errors);
    let destination = match service {
        None => ports(rule, &rule.destination, &format!("{path}.destination"), errors),
        Some(service) => {
            if !rule.destination.ports.is_empty() || !rule.destination.not_ports.is_empty() {
                let reason = "cannot be combined with destination ports or notPorts";
                errors.add(format!("{path}.destination.services"), reason);
            }
            PortMatch { ports: Ports::OfService(service.clone()), except: PortSet::default() }
        }
    };
    let [types, not_types] = icmp(rule, path, errors);
    check_version(rule, path, errors);
    let ports = |protocol: u8| ProtocolPorts {
        protocol,
        destination: destination.clone(),
        source: source.clone(),
    };
    let not = rule.not_protocol.map(|protocol| protocol.0);
    let but_not =
        |list: Vec<ProtocolPorts>| list.into_iter().filter(|of| Some(of.protocol) != not).collect();
    // Ports by number are there with one of these protocols only; a name is one of TCP's.
    let has_ports = source.ports != Ports::All || destination.ports != Ports::All;
    match rule.protocol {
        Some(protocol) if !protocol.has_ports() => {
            let range = |range: (u16, u16)| PortSet::new(vec![range], Vec::new());
            let of = ProtocolPorts {
                protocol: protocol.0,
                destination: PortMatch {
                    ports: types.map_or(Ports::All, |types| Ports::Some(range(types))),
                    except: not_types.map(range).unwrap_or_default(),
                },
                source: PortMatch::default(),
            };
            // It has no ports that could have a name.
            let of = (!has_ports).then_some(of);
            Traffics::OneOf(but_not(of.into_iter().collect()))
        }
        Some(protocol) => Traffics::OneOf(but_not(vec![ports(protocol.0)])),
        None if service.is_some() && source.ports == Ports::All => {
            let all = [v3::Protocol::TCP, v3::Protocol::UDP, v3::Protocol::SCTP];
            let of = all.map(|protocol| match protocol.0 {
                TCP => ports(TCP),
                // Names that the source must not have are of TCP.
                other => ProtocolPorts { source: PortMatch::default(), ..ports(other) },
            });
            Traffics::OneOf(but_not(of.into()))
        }
        None if has_ports => Traffics::OneOf(but_not(vec![ports(TCP)])),
        None => {
            let except = |ports: &PortMatch| ports.except != PortSet::default();
            let mut listed: Vec<ProtocolPorts> = Vec::new();
            if (except(&source) || except(&destination)) && not != Some(TCP) {
                listed.push(ports(TCP));
            }
            listed.extend(not.map(|protocol| ProtocolPorts {
                protocol,
                destination: PortMatch {
                    ports: Ports::Some(PortSet::default()),
                    except: PortSet::default(),
                },
                source: PortMatch::default(),
            }));
            listed.sort_by_key(|of| of.protocol);
            if listed.is_empty() { Traffics::Any } else { Traffics::AllBut(listed) }
        }
    }
}

/// The ports that one side of a rule names.
fn ports(rule: &v3::Rule, side: &v3::EntityRule, path: &str, errors: &mut Errors) -> PortMatch {
    let mut set = |field: &str, list: &[Port]| {
        let (mut ranges, mut names) = (Vec::new(), Vec::new());
        for (number, port) in list.iter().enumerate() {
            match port {
                Port::Named(name) => names.push(name.as_str().into()),
                Port::Range(first, last) if rule.protocol.is_some_and(v3::Protocol::has_ports) => {
                    ranges.push((*first, *last));
                }
                Port::Range(..) => errors.add(
                    format!("{path}.{field}[{number}]"),
                    "ports given by number require protocol TCP, UDP or SCTP",
                ),
            }
        }
        PortSet::new(ranges, names)
    };
    let (ports, except) = (set("ports", &side.ports), set("notPorts", &side.not_ports));
    let ports = if side.ports.is_empty() { Ports::All } else { Ports::Some(ports) };
    PortMatch { ports, except }
}
