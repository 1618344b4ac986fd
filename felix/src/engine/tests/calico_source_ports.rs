//! Source ports in Calico's rules.

use super::recipes::{OUTSIDE, world};
use super::world::{ICMP, SCTP, TCP, UDP, World, ip};
use crate::model::{Delta, Direction, Flow, Key, Traffic, Verdict};

const API: &str = "10.0.0.1";
const API6: &str = "fd00::1";
const OUTSIDE6: &str = "2001:db8::1";
const WEB: &str = "10.0.0.2";

fn policy(world: &mut World, way: &str, rules: &str) -> Delta {
    let types = if way == "ingress" { "Ingress" } else { "Egress" };
    let delta = world.calico(&format!(
        "
kind: NetworkPolicy
metadata: {{name: {way}, namespace: default}}
spec: {{selector: app == 'api', types: [{types}], {way}: [{rules}]}}
"
    ));
    assert_eq!(world.problems(), Vec::<String>::new(), "{rules}");
    delta
}

/// Of protocol, source and destination port whether they pass.
type Case<'a> = (&'a str, &'a [(u8, u16, u16, bool)]);

#[test]
fn what_is_allowed_by_source_port() {
    let mut world = world();
    let cases: [Case<'_>; 6] = [
        (
            "{action: Allow, protocol: UDP, source: {ports: [53, '100:299']}}",
            &[
                (UDP, 53, 9, true),
                (UDP, 54, 9, false),
                (UDP, 100, 9, true),
                (UDP, 299, 65535, true),
                (UDP, 300, 9, false),
                (TCP, 53, 9, false),
            ],
        ),
        (
            "{action: Allow, protocol: TCP, source: {ports: ['1024:65535']}, destination: {ports: [80]}}",
            &[
                (TCP, 1024, 80, true),
                (TCP, 1023, 80, false),
                (TCP, 1024, 81, false),
                (TCP, 80, 1024, false),
            ],
        ),
        (
            "{action: Allow, protocol: TCP, source: {notPorts: [1, 2]}, destination: {notPorts: [80]}}",
            &[(TCP, 1, 81, false), (TCP, 3, 81, true), (TCP, 3, 80, false), (UDP, 3, 81, false)],
        ),
        (
            "{action: Deny, protocol: SCTP, source: {ports: ['1:1023']}}, {action: Allow}",
            &[(SCTP, 1023, 80, false), (SCTP, 1024, 80, true), (ICMP, 0, 0x0800, true)],
        ),
        (
            "{action: Allow, protocol: TCP, source: {ports: [1], notPorts: [1]}}",
            &[(TCP, 1, 1, false)],
        ),
        (
            "{action: Allow, source: {notPorts: [dns]}}",
            &[(TCP, 53, 80, true), (UDP, 53, 80, true), (ICMP, 0, 0x0800, true)],
        ),
    ];
    for (rules, wanted) in cases {
        policy(&mut world, "ingress", rules);
        policy(&mut world, "egress", rules);
        for (protocol, source, port, allowed) in wanted {
            for (from, to) in [(OUTSIDE, API), (API, OUTSIDE), (OUTSIDE6, API6)] {
                let protocol = if from == OUTSIDE6 && *protocol == ICMP { 58 } else { *protocol };
                let found = world.allows_from(*source, from, to, protocol, *port);
                assert_eq!(found, *allowed, "{rules}: {from} {to} {protocol} {source} {port}");
            }
        }
    }
}

/// The pod at that end gives the name.
#[test]
fn a_named_source_port_is_the_sources() {
    let mut world = world();
    let ports = [("dns", UDP, 53), ("alt", TCP, 5300)];
    world.local_with_ports("default", "dns", &[("app", "dns")], &["10.0.0.9"], &ports);
    let both = "{action: Allow, protocol: UDP, source: {ports: [dns]}}, {action: Allow, source: {ports: [alt]}}";
    policy(&mut world, "ingress", both);
    for (from, source, protocol, allowed) in [
        ("10.0.0.9", 53, UDP, true),
        ("10.0.0.9", 54, UDP, false),
        ("10.0.0.9", 5300, TCP, true),
        ("10.0.0.9", 5300, UDP, false),
        (WEB, 53, UDP, false),
        (OUTSIDE, 53, UDP, false),
    ] {
        assert_eq!(world.allows_from(source, from, API, protocol, 9), allowed, "{from} {source}");
    }
    world.calico(&format!(
        "
kind: NetworkPolicy
metadata: {{name: own, namespace: default}}
spec: {{selector: app == 'dns', types: [Egress], egress: [{both}]}}
"
    ));
    for (source, protocol, allowed) in
        [(53, UDP, true), (54, UDP, false), (5300, TCP, true), (53, TCP, false)]
    {
        let found = world.allows_from(source, "10.0.0.9", OUTSIDE, protocol, 9);
        assert_eq!(found, allowed, "{source} {protocol}");
    }
}

/// Endpoints whose policies do not ask have the elements that they would have anyway, and one that
/// does has one more for each range.
#[test]
fn a_range_of_source_ports_is_one_element() {
    let mut world = world();
    policy(&mut world, "ingress", "{action: Allow, protocol: TCP, destination: {ports: [80]}}");
    let more = "{action: Allow, protocol: TCP, destination: {ports: [80]}}, {action: Allow, \
                protocol: UDP, source: {ports: ['53:60']}}";
    let delta = policy(&mut world, "ingress", more);
    let [change] = &*delta.elements else { panic!("{delta:?}") };
    let Key::Policy { class: None, traffic, .. } = change.key else { panic!("{change:?}") };
    assert_eq!(traffic, Traffic::Pairs(UDP, (0, u16::MAX), (53, 60)));
}

#[test]
fn an_explanation_knows_where_the_source_port_matters() {
    let mut world = world();
    let rules = "{action: Allow, protocol: TCP, source: {ports: ['1:1023']}, destination: {ports: \
                 [80]}}, {action: Deny, protocol: UDP}";
    policy(&mut world, "ingress", rules);
    let flow = |source_port, protocol, destination_port| Flow {
        protocol,
        source: ip(OUTSIDE),
        destination: ip(API),
        source_port,
        destination_port,
    };
    for (protocol, port, asks) in [(TCP, 80, true), (TCP, 81, false), (UDP, 80, false)] {
        let found = world.engine.asks_source_port(&flow(0, protocol, port), Direction::Ingress);
        assert_eq!(found, asks, "{protocol} {port}");
    }
    assert!(!world.engine.asks_source_port(&flow(0, TCP, 80), Direction::Egress));
    for (source, verdict) in [(1023, Verdict::Allow), (1024, Verdict::Deny)] {
        let side = world.engine.explain(&flow(source, TCP, 80), Direction::Ingress);
        let judgement = &side.judgements[0];
        assert_eq!(judgement.verdict, verdict);
        let rule = judgement.considered.iter().find_map(|row| row.rule.as_ref());
        let field = rule.map(|rule| rule.field.as_str());
        assert_eq!(field, (source == 1023).then_some("spec.ingress[0]"));
    }
}
