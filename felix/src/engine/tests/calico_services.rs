//! Services in Calico's rules.

use super::recipes::{OUTSIDE, world};
use super::world::{ICMP, SCTP, SOURCE_PORT, TCP, UDP, World};
use crate::model::{Delta, Direction, Flow, Key, Kind, ObjectKey};

const API: &str = "10.0.0.1";
const API6: &str = "fd00::1";
const WEB: &str = "10.0.0.2";
const WEB6: &str = "fd00::2";
const BARE: &str = "10.0.0.3";
const STRANGER: &str = "10.0.1.3";

fn egress_to(world: &mut World, rule: &str) {
    world.calico(&format!(
        "
kind: NetworkPolicy
metadata: {{name: out, namespace: default}}
spec: {{selector: app == 'api', egress: [{{action: Allow, {rule}}}]}}
"
    ));
    assert_eq!(world.problems(), Vec::<String>::new(), "{rule}");
}

/// The endpoints' addresses, each with the ports of its own slice.
#[test]
fn a_destination_is_addresses_and_ports() {
    let mut world = world();
    egress_to(&mut world, "destination: {services: {name: web}}");
    for to in [WEB, WEB6, STRANGER, OUTSIDE] {
        assert!(!world.allows(if to.contains(':') { API6 } else { API }, to, TCP, 80), "{to}");
    }
    world.slice("default", "web-4", &[WEB, STRANGER], &[(TCP, 80), (TCP, 443), (UDP, 53)]);
    world.slice("default", "web-6", &[WEB6], &[(TCP, 8080)]);
    world.slice("default", "web-outside", &[OUTSIDE], &[(SCTP, 80)]);
    world.slice("other", "web-1", &[BARE], &[(TCP, 80)]);
    for (to, protocol, port, allowed) in [
        (WEB, TCP, 80, true),
        (WEB, TCP, 443, true),
        (WEB, TCP, 8080, false),
        (WEB, UDP, 53, true),
        (WEB, UDP, 80, false),
        (WEB, SCTP, 80, false),
        (WEB, ICMP, 80, false),
        (STRANGER, TCP, 80, true),
        (WEB6, TCP, 8080, true),
        (WEB6, TCP, 80, false),
        (OUTSIDE, SCTP, 80, true),
        (OUTSIDE, TCP, 80, false),
        (BARE, TCP, 80, false),
    ] {
        let from = if to.contains(':') { API6 } else { API };
        assert_eq!(world.allows(from, to, protocol, port), allowed, "{to} {protocol} {port}");
    }
    // Further criteria narrow it.
    for (rule, tcp, udp, v6) in [
        ("protocol: TCP, destination: {services: {name: web}}", true, false, true),
        ("notProtocol: TCP, destination: {services: {name: web}}", false, true, false),
        ("ipVersion: 4, destination: {services: {name: web}}", true, true, false),
        ("protocol: ICMP, destination: {services: {name: web}}", false, false, false),
        ("source: {nets: ['fd00::/8']}, destination: {services: {name: web}}", false, false, true),
        ("destination: {services: {name: web, namespace: other}}", false, false, false),
    ] {
        egress_to(&mut world, rule);
        assert_eq!(world.allows(API, WEB, TCP, 80), tcp, "{rule}");
        assert_eq!(world.allows(API, WEB, UDP, 53), udp, "{rule}");
        assert_eq!(world.allows(API6, WEB6, TCP, 8080), v6, "{rule}");
    }
    assert!(world.allows(API, BARE, TCP, 80), "another namespace's");
}

#[test]
fn a_source_is_addresses_only() {
    let mut world = world();
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: in}
spec:
  selector: app == 'api'
  ingress:
  - {action: Deny, source: {services: {name: banned, namespace: other}}}
  - {action: Allow, protocol: TCP, source: {services: {name: web, namespace: default}}, destination: {ports: [80]}}
",
    );
    assert_eq!(world.problems(), Vec::<String>::new());
    world.slice("default", "web-1", &[WEB, OUTSIDE], &[(UDP, 9)]);
    assert!(world.allows(WEB, API, TCP, 80));
    assert!(world.allows(OUTSIDE, API, TCP, 80));
    assert!(!world.allows(WEB, API, TCP, 9));
    assert!(!world.allows(WEB, API, UDP, 9));
    assert!(!world.allows(BARE, API, TCP, 80));
    world.slice("other", "banned-1", &[OUTSIDE], &[]);
    assert!(world.allows(WEB, API, TCP, 80));
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
    world.remove(Kind::EndpointSlice, ObjectKey::namespaced("other", "banned-1"));
    assert!(world.allows(OUTSIDE, API, TCP, 80));
    world.remove(Kind::EndpointSlice, ObjectKey::namespaced("default", "web-1"));
    assert!(!world.allows(WEB, API, TCP, 80));
}

fn keys(delta: &Delta) -> Vec<Key> {
    delta.elements.iter().map(|change| change.key).collect()
}

/// One endpoint comes or goes: one element, however many there are; and its flows are judged again.
#[test]
fn an_endpoint_is_one_element() {
    let mut world = world();
    egress_to(&mut world, "destination: {services: {name: web}}");
    let many: Vec<String> = (1..=200).map(|host| format!("10.9.0.{host}")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.sort_unstable_by_key(|text| super::world::ip(text));
    let first = world.slice("default", "web-1", &many, &[(TCP, 80)]);
    // The addresses, and for the one endpoint that asks a port and all other traffic.
    assert_eq!(first.elements.len(), 202);
    many.push("10.9.1.1");
    let joined = world.slice("default", "web-1", &many, &[(TCP, 80)]);
    let address = super::world::ip("10.9.1.1");
    assert_eq!(keys(&joined), [Key::Class(address)]);
    assert_eq!(joined.rejudge, [address]);
    many.remove(0);
    let left = world.slice("default", "web-1", &many, &[(TCP, 80)]);
    assert_eq!(keys(&left), [Key::Class(super::world::ip("10.9.0.1"))]);
    assert_eq!(left.rejudge, [super::world::ip("10.9.0.1")]);
    let unasked = world.slice("default", "db-1", &many, &[(TCP, 80)]);
    assert_eq!(unasked, Delta::default());
}

/// The pods behind a service keep what selectors say of them.
#[test]
fn an_endpoint_is_still_a_pod() {
    let mut world = world();
    world.slice("default", "web-1", &[WEB], &[(TCP, 80)]);
    egress_to(
        &mut world,
        "destination: {services: {name: web}}}, {action: Allow, protocol: TCP, destination: \
         {selector: role == 'frontend', ports: [81]}",
    );
    for port in [80, 81] {
        assert!(world.allows(API, WEB, TCP, port), "{port}");
    }
    assert!(!world.allows(API, WEB, TCP, 82));
    world.slice("default", "web-1", &[], &[(TCP, 80)]);
    assert!(!world.allows(API, WEB, TCP, 80));
    assert!(world.allows(API, WEB, TCP, 81));
    let without = world.engine.counts();
    world.remove(Kind::NetworkPolicy, ObjectKey::namespaced("default", "out"));
    assert!(world.allows(API, WEB, TCP, 82));
    assert!(world.engine.counts().atoms < without.atoms);
}

#[test]
fn an_explanation_names_the_service() {
    let mut world = world();
    world.slice("default", "web-1", &[WEB], &[(TCP, 80), (UDP, 53)]);
    egress_to(&mut world, "destination: {services: {name: web}}");
    let flow = Flow {
        protocol: TCP,
        source: super::world::ip(API),
        destination: super::world::ip(WEB),
        source_port: SOURCE_PORT,
        destination_port: 80,
    };
    let side = world.engine.explain(&flow, Direction::Egress);
    let said = &side.judgements[0].memberships;
    for wanted in [
        "endpoint of service default/web",
        "TCP port 80 of service default/web",
        "UDP port 53 of service default/web",
    ] {
        assert!(said.iter().any(|one| one == wanted), "{wanted}: {said:?}");
    }
}
