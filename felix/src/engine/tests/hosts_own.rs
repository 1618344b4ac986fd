//! Rules at host endpoints that ask for the host's own side: what packets are for, coming in, and where they are
//! from, going out.

use super::hosts::{OFFICE, OUTSIDE, OWN, endpoint, host_elements, passes, passes_between, world};
use super::world::*;
use crate::engine::{Example, Passage};
use crate::model::host::HostHook::{ForwardIn, ForwardOut, Input, Output, PreDnat, UntrackedIn};
use crate::model::host::{HostHook, View};
use crate::model::{Flow, Key, Kind, ObjectKey, Update, Verdict};

/// Another address of the host.
const OTHER: &str = "10.0.0.9";
const WEB: &str = "10.244.0.1";

fn views(world: &World) -> Vec<(HostHook, u8)> {
    let view = |key: Key| match key {
        Key::HostTable { hook, view, .. } if view != View::PLAIN => Some((hook, view.number())),
        _ => None,
    };
    let mut views: Vec<_> = host_elements(world).into_iter().filter_map(view).collect();
    views.dedup();
    views
}

#[test]
fn a_rule_holds_for_the_addresses_that_it_asks_for() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0, expectedIPs: [10.0.0.1]"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: own}
spec:
  selector: role == 'eth0'
  types: [Ingress, Egress]
  ingress:
  - {action: Deny, protocol: TCP, source: {nets: [192.0.2.0/24]}, destination: {nets: [10.0.0.9/32]}}
  - {action: Allow, protocol: UDP, destination: {selector: role == 'eth0', ports: [53]}}
  - {action: Allow, protocol: TCP}
  egress:
  - {action: Allow, source: {notNets: [10.0.0.9/32]}, destination: {nets: [192.0.2.0/24]}}
",
    );
    assert_eq!(world.problems(), [""; 0]);
    let into = |own, peer, to| passes_between(&world, (Input, "eth0"), (own, peer), to);
    assert!(!into(OTHER, OFFICE, (TCP, 80)));
    assert!(into(OWN, OFFICE, (TCP, 80)), "it asks for another");
    assert!(into(OTHER, OUTSIDE, (TCP, 80)), "for both sides");
    assert!(into(OWN, OUTSIDE, (UDP, 53)));
    assert!(!into(OWN, OUTSIDE, (UDP, 54)), "and the port");
    assert!(!into(OTHER, OUTSIDE, (UDP, 53)));
    let out = |own, peer| passes_between(&world, (Output, "eth0"), (own, peer), (TCP, 80));
    assert!(out(OWN, OFFICE) && !out(OTHER, OFFICE) && !out(OWN, OUTSIDE));
}

/// As Calico's documentation opens node ports.
#[test]
fn a_port_is_opened_on_the_addresses_of_hosts_before_destination_nat() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0, expectedIPs: [10.0.0.1]"));
    world.calico(&endpoint("far", "interfaceName: eth0, expectedIPs: [10.0.0.2]"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: allow-nodeport}
spec:
  order: 10
  selector: has(role)
  preDNAT: true
  applyOnForward: true
  ingress:
  - {action: Allow, protocol: TCP, destination: {selector: has(role), ports: [31852]}}
---
kind: GlobalNetworkPolicy
metadata: {name: drop-other-ingress}
spec:
  order: 20
  selector: has(role)
  preDNAT: true
  applyOnForward: true
  ingress: [{action: Deny}]
",
    );
    let ruling = |own: &str, to: (u8, u16)| {
        let sides = (ip(own), ip(OUTSIDE));
        world.kernel.host_ruling(PreDnat, "eth0", sides, to.0, (SOURCE_PORT, to.1)).0
    };
    assert_eq!(ruling(OWN, (TCP, 31852)), Verdict::Accept);
    assert_eq!(ruling("10.0.0.2", (TCP, 31852)), Verdict::Accept);
    assert_eq!(ruling(OTHER, (TCP, 31852)), Verdict::Deny);
    assert_eq!(ruling(OWN, (TCP, 80)), Verdict::Deny);
    assert_eq!(views(&world).len(), 1, "only where it is asked: {:?}", views(&world));
}

#[test]
fn what_is_forwarded_to_pods_is_told_apart_as_they_come_and_go() {
    let mut world = world();
    world.calico(&endpoint("all", "interfaceName: '*'"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: in}
spec:
  selector: all()
  applyOnForward: true
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, source: {nets: [192.0.2.0/24]}, destination: {selector: app == 'web'}}
  egress:
  - {action: Allow, source: {selector: app == 'web'}}
",
    );
    let both = |world: &World| {
        let at = |hook| passes_between(world, (hook, "eth1"), (WEB, OFFICE), (TCP, 80));
        (at(ForwardIn), at(ForwardOut))
    };
    assert_eq!(both(&world), (false, false));
    assert_eq!(views(&world), []);
    world.remote("shop", "web", &[("app", "web")], &[WEB]);
    assert_eq!(both(&world), (true, true));
    assert!(!passes_between(&world, (ForwardIn, "eth1"), (WEB, OUTSIDE), (TCP, 80)));
    assert!(!passes_between(&world, (ForwardIn, "eth1"), (OTHER, OFFICE), (TCP, 80)));
    world.remove(Kind::Pod, ObjectKey::namespaced("shop", "web"));
    assert_eq!(both(&world), (false, false));
    assert_eq!(views(&world), [], "nothing is left of it");
}

#[test]
fn families_are_asked_apart() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0, expectedIPs: [10.0.0.1, 'fd00::1']"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: own}
spec:
  selector: all()
  ingress:
  - {action: Allow, ipVersion: 6, destination: {selector: role == 'eth0'}}
  - {action: Allow, protocol: UDP, destination: {notSelector: role == 'eth0'}}
",
    );
    let into = |own, peer, to| passes_between(&world, (Input, "eth0"), (own, peer), to);
    assert!(into("fd00::1", "2001:db8::1", (TCP, 80)));
    assert!(!into("fd00::2", "2001:db8::1", (TCP, 80)));
    assert!(!into(OWN, OUTSIDE, (TCP, 80)));
    assert!(into(OTHER, OUTSIDE, (UDP, 80)) && into("fd00::2", "2001:db8::1", (UDP, 80)));
    assert!(!into(OWN, OUTSIDE, (UDP, 80)));
}

#[test]
fn what_asks_for_a_namespace_that_is_not_known_yet_lets_nothing_through() {
    let mut world = world();
    world.calico(&endpoint("all", "interfaceName: '*'"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: in}
spec:
  selector: all()
  applyOnForward: true
  ingress:
  - {action: Deny, destination: {namespaceSelector: closed == 'yes'}}
  - {action: Allow}
",
    );
    world.remote("late", "web", &[], &[WEB]);
    let open = |world: &World| passes_between(world, (ForwardIn, "eth1"), (WEB, OFFICE), (TCP, 80));
    assert!(!open(&world));
    world.engine.apply(set_namespace("late", &[("closed", "no")]));
    world.settle();
    assert!(open(&world));
    world.engine.apply(set_namespace("late", &[("closed", "yes")]));
    world.settle();
    assert!(!open(&world));
}

/// As many questions as there are numbers for what is true, and some more.
#[test]
fn what_there_are_no_numbers_for_is_closed_and_told() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    let count = View::NUMBERED + 2;
    let rules: String = (1..=count)
        .map(|n| format!("  - {{action: Allow, destination: {{nets: [10.1.0.{n}/32]}}}}\n"))
        .collect();
    world.calico(&format!(
        "
kind: GlobalNetworkPolicy
metadata: {{name: many}}
spec:
  selector: all()
  ingress:
{rules}  - {{action: Allow, protocol: UDP}}
"
    ));
    let into =
        |n: u8, to| passes_between(&world, (Input, "eth0"), (&format!("10.1.0.{n}"), OUTSIDE), to);
    let open = (1..=count).filter(|n| into(*n, (TCP, 80))).count();
    assert_eq!(open, usize::from(View::NUMBERED));
    assert!((1..=count).all(|n| into(n, (UDP, 80))), "what does not ask holds for all");
    let problems = world.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("HostEndpoint eth0: spec: the rules of its policies tell more"),
        "{problems:?}"
    );
}

#[test]
fn it_is_explained_and_what_would_change_is_named() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    let policy = |net: &str| {
        format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: own}}
spec:
  selector: all()
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress:
  - {{action: Deny, destination: {{nets: [{net}]}}}}
"
        )
    };
    world.engine.set_host_links(super::hosts::links());
    world.calico(&policy("10.0.0.9/32"));
    assert!(passes(&world, UntrackedIn, "eth0", OUTSIDE, (TCP, 80)));
    let flow = Flow {
        protocol: TCP,
        source: ip(OUTSIDE),
        destination: ip(OTHER),
        source_port: SOURCE_PORT,
        destination_port: 80,
    };
    let said = world.engine.explain_at_hosts(&flow, Passage { input: Some(1), output: None });
    assert_eq!((said.len(), said[0].verdict), (1, Verdict::Deny));
    let texts: Vec<&str> = said[0].elements.iter().map(|element| &*element.text).collect();
    let own = texts.iter().find(|text| text.contains("own side of class"));
    assert!(own.is_some_and(|text| text.contains(": view ")), "{texts:?}");

    let then = world.engine.with([Update::Set(parse_calico(&policy("10.0.0.8")))]);
    let changes = world.engine.changes(&then);
    let at_hook = changes.iter().filter(|change| {
        change.at.as_ref().is_some_and(|(hook, at)| *hook == UntrackedIn && at == "eth0")
    });
    let examples: Vec<_> = at_hook.flat_map(|change| &change.examples).collect();
    let wanted = [
        (Some(ip("10.0.0.8")), Verdict::Allow, Verdict::Deny),
        (Some(ip(OTHER)), Verdict::Deny, Verdict::Allow),
    ];
    let holds = |of: &&Example| wanted.contains(&(of.own, of.now, of.then));
    assert!(!examples.is_empty() && examples.iter().all(holds), "{examples:?}");
}
