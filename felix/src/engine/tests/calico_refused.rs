//! Policies of Calico that are wrong, or ask for what this agent cannot do: they deny what they are
//! about, and disturb no other.

use super::recipes::{OUTSIDE, world};
use super::world::{TCP, UDP};
use crate::model::{Kind, ObjectKey};

const API: &str = "10.0.0.1";
const WEB: &str = "10.0.0.2";
const BARE: &str = "10.0.0.3";

#[test]
fn what_cannot_be_done_closes_the_policy_alone() {
    let mut world = world();
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: other, namespace: default}
spec: {order: 1, selector: role == 'frontend', ingress: [{action: Allow, protocol: TCP}]}
",
    );
    for (rule, field, reason) in [
        (
            "action: Allow, protocol: TCP, icmp: {type: 8}",
            "icmp",
            "requires protocol ICMP or ICMPv6",
        ),
        ("action: Deny, notICMP: {}", "notICMP", "requires protocol ICMP or ICMPv6"),
        ("action: Allow, protocol: ICMP, icmp: {code: 1}", "icmp.code", "requires type"),
        ("action: Pass, protocol: 58, notICMP: {code: 0}", "notICMP.code", "requires type"),
        (
            "action: Allow, protocol: ICMP, icmp: {type: 255}",
            "icmp.type",
            "255 is not from 0 to 254",
        ),
        (
            "action: Allow, protocol: ICMP, ipVersion: 6",
            "ipVersion",
            "protocol ICMP goes with ipVersion 4 only and ICMPv6 with ipVersion 6 only",
        ),
        ("action: Allow, http: {methods: [GET]}", "http", "not supported yet"),
        (
            "action: Allow, protocol: ICMPv6, ipVersion: 4, icmp: {type: 128}",
            "ipVersion",
            "protocol ICMP goes with ipVersion 4 only and ICMPv6 with ipVersion 6 only",
        ),
        (
            "action: Allow, source: {ports: [dns, 80]}",
            "source.ports[1]",
            "ports given by number require protocol TCP, UDP or SCTP",
        ),
        (
            "action: Deny, protocol: ICMP, source: {notPorts: ['1:9']}",
            "source.notPorts[0]",
            "ports given by number require protocol TCP, UDP or SCTP",
        ),
        (
            "action: Allow, source: {services: {namespace: b}}",
            "source.services.name",
            "must be given",
        ),
        (
            "action: Allow, source: {services: {name: a}}",
            "source.services.namespace",
            "must be given in a GlobalNetworkPolicy",
        ),
        (
            "action: Deny, source: {services: {name: a, namespace: b}, nets: [10.0.0.0/8]}",
            "source.services",
            "cannot be combined with selector, notSelector, namespaceSelector, nets, notNets or \
             serviceAccounts",
        ),
        (
            "action: Allow, destination: {services: {name: a, namespace: b}}",
            "destination.services",
            "source.services is for ingress rules and destination.services for egress rules",
        ),
        (
            "action: Allow, destination: {ports: [80]}",
            "destination.ports[0]",
            "ports given by number require protocol TCP, UDP or SCTP",
        ),
        (
            "action: Allow, source: {nets: [10.0.0.0/33]}",
            "source.nets[0]",
            "\"10.0.0.0/33\" is neither a network in CIDR notation nor an address",
        ),
        (
            "action: Allow, source: {notNets: [10.0.0.0/8, 'fd00::/8']}",
            "source.notNets[1]",
            "mixes IPv4 and IPv6",
        ),
        (
            "action: Allow, source: {nets: [10.0.0.0/8], notNets: ['fd00::/8']}",
            "source",
            "mixes IPv4 and IPv6",
        ),
    ] {
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: bad}}
spec:
  order: 2
  selector: app == 'api' || role == 'frontend'
  ingress: [{{action: Allow}}, {{{rule}}}]
"
        ));
        assert!(!world.allows(OUTSIDE, API, TCP, 80), "{rule}");
        assert!(world.allows(API, OUTSIDE, TCP, 80), "egress is not concerned: {rule}");
        assert!(world.allows(OUTSIDE, WEB, TCP, 80), "an earlier policy goes on: {rule}");
        assert!(!world.allows(OUTSIDE, WEB, UDP, 80), "{rule}");
        assert!(world.allows(OUTSIDE, BARE, TCP, 80), "{rule}");
        let wanted = format!("GlobalNetworkPolicy bad: spec.ingress[1].{field}: {reason}");
        let news = world.engine.take_news();
        assert!(news.len() == 1 && news[0].to_string() == wanted, "told once: {news:?}");
        assert_eq!(world.problems(), [wanted]);
    }
    world.remove(Kind::GlobalNetworkPolicy, ObjectKey::cluster("bad"));
    assert!(world.problems().is_empty());
    assert!(world.allows(OUTSIDE, API, TCP, 80));
}

/// Also where the tier would pass at its end.
#[test]
fn a_closed_policy_denies_by_itself() {
    let mut world = world();
    world.calico(
        "
kind: Tier
metadata: {name: lenient}
spec: {order: 5, defaultAction: Pass}
---
kind: GlobalNetworkPolicy
metadata: {name: lenient.bad}
spec: {tier: lenient, selector: app == 'api', ingress: [{action: Log, http: {}}], egress: [{action: Allow}]}
",
    );
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
    assert!(!world.allows(API, OUTSIDE, TCP, 80));
}

#[test]
fn a_bad_selector_leaves_what_the_others_pick() {
    let mut world = world();
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: bad, namespace: default}
spec: {selector: app = 'api', ingress: [{action: Allow}]}
",
    );
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
    assert!(!world.allows(OUTSIDE, BARE, TCP, 80), "whom it is for is not known");
    assert!(world.problems()[0].starts_with("NetworkPolicy default/bad: spec.selector: "));
    world.remove(Kind::NetworkPolicy, ObjectKey::namespaced("default", "bad"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: bad}
spec: {selector: app == 'api', namespaceSelector: 'x ==', serviceAccountSelector: '&&'}
",
    );
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
    assert!(world.allows(OUTSIDE, BARE, TCP, 80));
    let fields = ["spec.namespaceSelector: ", "spec.serviceAccountSelector: "];
    let problems = world.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    for (problem, field) in problems.iter().zip(fields) {
        assert!(problem.starts_with(&format!("GlobalNetworkPolicy bad: {field}")), "{problem}");
    }
}

#[test]
fn what_is_for_host_endpoints_leaves_pods_alone() {
    let mut world = world();
    for hosts in ["doNotTrack: true", "preDNAT: true"] {
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: hosts}}
spec: {{selector: all(), {hosts}, applyOnForward: true, ingress: [{{action: Deny}}]}}
"
        ));
        assert!(world.allows(OUTSIDE, API, TCP, 80), "{hosts}");
    }
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: hosts}
spec: {selector: all(), applyOnForward: true, ingress: [{action: Deny}]}
",
    );
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
}
