//! Host endpoints: what policy of the host's own traffic and of what it forwards comes to.

use super::world::*;
use crate::engine::{Failsafe, HostLink, default_failsafe};
use crate::model::host::HostHook::{self, ForwardIn, ForwardOut, Input, Output};
use crate::model::host::InterfaceName;
use crate::model::{Direction, Key, Kind, ObjectKey, Traffic, Value, Verdict};

const NODE: &str = "node1";
pub(super) const OUTSIDE: &str = "203.0.113.9";
pub(super) const OFFICE: &str = "192.0.2.7";
pub(super) const OWN: &str = "10.0.0.1";

/// This node has no host endpoints yet.
pub(super) fn world() -> World {
    let mut world = World::new(&["shop"]);
    world.engine.set_node(NODE, "cali");
    let ports = [Direction::Ingress, Direction::Egress].map(default_failsafe).concat();
    world.engine.set_failsafe(ports);
    world.settle();
    world
}

fn link(name: &str, addresses: &[&str]) -> HostLink {
    let addresses = addresses.iter().map(|address| ip(address)).collect();
    let name = InterfaceName::new(name).unwrap();
    // Of eth0 it is 1, of eth1 2.
    let index = 1 + name.as_str().bytes().next_back().map_or(0, |last| u32::from(last - b'0'));
    HostLink { name, index, addresses }
}

/// eth0 and eth1.
pub(super) fn links() -> Vec<HostLink> {
    vec![link("eth0", &[OWN]), link("eth1", &["10.0.1.1"])]
}

/// Whether the first packet of a flow passes at an interface.
pub(super) fn passes(
    world: &World,
    hook: HostHook,
    interface: &str,
    peer: &str,
    to: (u8, u16),
) -> bool {
    passes_between(world, (hook, interface), (OWN, peer), to)
}

/// The same, whichever the addresses of the host's own side and of the other are.
pub(super) fn passes_between(
    world: &World,
    (hook, interface): (HostHook, &str),
    (own, peer): (&str, &str),
    to: (u8, u16),
) -> bool {
    let (sides, ports) = ((ip(own), ip(peer)), (SOURCE_PORT, to.1));
    world.kernel.host_ruling(hook, interface, sides, to.0, ports).0 == Verdict::Allow
}

pub(super) fn endpoint(name: &str, rest: &str) -> String {
    format!(
        "kind: HostEndpoint\nmetadata: {{name: {name}, labels: {{role: {name}}}}}\nspec: {{node: {NODE}, {rest}}}\n"
    )
}

pub(super) fn host_elements(world: &World) -> Vec<Key> {
    world.kernel.elements.keys().filter(|key| key.is_of_hosts()).copied().collect()
}

#[test]
fn a_host_without_endpoints_has_no_element_of_them() {
    let mut world = world();
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {selector: all(), applyOnForward: true, ingress: [{action: Deny}]}
",
    );
    assert_eq!(host_elements(&world), []);
    world.calico(&endpoint("elsewhere", "interfaceName: eth0").replace(NODE, "node2"));
    assert_eq!(host_elements(&world), [], "that of another node");
    world.calico(&endpoint("here", "interfaceName: eth0"));
    assert_ne!(host_elements(&world), []);
    world.remove(Kind::HostEndpoint, ObjectKey::cluster("here"));
    assert_eq!(host_elements(&world), [], "nothing is left");
}

#[test]
fn without_policy_the_profile_decides_and_failsafe_ports_stay_open() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    for (hook, open, closed) in [
        (Input, (TCP, 22), (TCP, 53)),
        (Output, (UDP, 53), (TCP, 22)),
        (Input, (TCP, 179), (UDP, 179)),
    ] {
        assert!(passes(&world, hook, "eth0", OUTSIDE, open), "{hook:?} {open:?}");
        assert!(!passes(&world, hook, "eth0", OUTSIDE, closed), "{hook:?} {closed:?}");
        assert!(passes(&world, hook, "eth1", OUTSIDE, closed), "no endpoint's");
    }
    assert!(passes(&world, ForwardIn, "eth0", OUTSIDE, (TCP, 80)), "only what is the host's own");
    assert!(passes(&world, ForwardOut, "eth0", OUTSIDE, (TCP, 80)));

    world.calico(&endpoint("eth0", "interfaceName: eth0, profiles: [projectcalico-default-allow]"));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    world.calico(
        "
kind: Tier
metadata: {name: first}
spec: {order: 10, defaultAction: Pass}
---
kind: GlobalNetworkPolicy
metadata: {name: first.some}
spec: {tier: first, selector: role == 'eth0', ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}]}
",
    );
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 81)), "passed on to the profile");
    world.calico(&endpoint("eth0", "interfaceName: eth0, profiles: [unheard-of]"));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 81)), "a profile that is not there");
}

#[test]
fn an_endpoint_by_name_wins_over_that_of_all_interfaces() {
    let mut world = world();
    world.calico(&endpoint("all", "interfaceName: '*'"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {selector: role == 'all', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}
---
kind: GlobalNetworkPolicy
metadata: {name: dns}
spec: {selector: role == 'eth1', ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]}
",
    );
    for interface in ["eth0", "eth1", "vlan7"] {
        assert!(passes(&world, Input, interface, OUTSIDE, (TCP, 80)));
        assert!(!passes(&world, Input, interface, OUTSIDE, (UDP, 53)));
    }
    world.calico(&endpoint("eth1", "interfaceName: eth1"));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(!passes(&world, Input, "eth1", OUTSIDE, (TCP, 80)));
    assert!(passes(&world, Input, "eth1", OUTSIDE, (UDP, 53)));
    assert!(
        !passes(&world, Output, "eth1", OUTSIDE, (TCP, 80)),
        "no policy for egress, no profile"
    );
    world.remove(Kind::HostEndpoint, ObjectKey::cluster("eth1"));
    assert!(passes(&world, Input, "eth1", OUTSIDE, (TCP, 80)), "it is one of all again");
}

#[test]
fn forwarded_traffic_meets_only_policies_that_apply_on_forward() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: own}
spec: {order: 1, selector: role == 'eth0', types: [Ingress, Egress], ingress: [{action: Deny}], egress: [{action: Deny}]}
",
    );
    for hook in [ForwardIn, ForwardOut] {
        assert!(passes(&world, hook, "eth0", OUTSIDE, (TCP, 80)), "{hook:?}");
    }
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: through}
spec:
  order: 2
  selector: role == 'eth0'
  applyOnForward: true
  ingress: [{action: Allow, protocol: TCP, source: {nets: [192.0.2.0/24]}}]
",
    );
    assert!(passes(&world, ForwardIn, "eth0", OFFICE, (TCP, 80)));
    assert!(!passes(&world, ForwardIn, "eth0", OFFICE, (UDP, 80)));
    assert!(!passes(&world, ForwardIn, "eth0", OUTSIDE, (TCP, 80)));
    assert!(!passes(&world, ForwardIn, "eth0", OUTSIDE, (TCP, 22)), "failsafe is for the host");
    assert!(passes(&world, ForwardOut, "eth0", OUTSIDE, (TCP, 80)), "no policy of that direction");
    assert!(!passes(&world, Input, "eth0", OFFICE, (TCP, 80)), "the first policy decides");
    world.remove(Kind::GlobalNetworkPolicy, ObjectKey::cluster("own"));
    assert!(passes(&world, Input, "eth0", OFFICE, (TCP, 80)), "it is about the host's own too");
    world.remove(Kind::GlobalNetworkPolicy, ObjectKey::cluster("through"));
    assert!(passes(&world, ForwardIn, "eth0", OUTSIDE, (TCP, 80)));
}

#[test]
fn an_endpoint_by_addresses_is_wherever_they_are() {
    let mut world = world();
    world.calico(&endpoint("by-ip", "expectedIPs: [10.0.0.1, 'fd00::1']"));
    let problem = "HostEndpoint by-ip: spec.expectedIPs: no interface of the node has one of these";
    assert!(world.problems()[0].starts_with(problem), "{:?}", world.problems());
    world.engine.set_host_links(vec![link("eth0", &["10.0.0.1"]), link("eth1", &["10.1.0.1"])]);
    world.settle();
    assert_eq!(world.problems(), Vec::<String>::new());
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(passes(&world, Input, "eth1", OUTSIDE, (TCP, 80)));
    // It moves, and the other family's is on another interface still.
    world.engine.set_host_links(vec![link("eth0", &["fd00::1"]), link("eth1", &["10.0.0.1"])]);
    world.settle();
    for interface in ["eth0", "eth1"] {
        assert!(!passes(&world, Input, interface, OUTSIDE, (TCP, 80)));
    }
    world.engine.set_host_links(vec![link("cali7", &["10.0.0.1"])]);
    world.settle();
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(world.problems()[0].starts_with(problem), "a workload's interface is none");
}

#[test]
fn of_two_for_one_interface_the_first_by_name_is_in_force() {
    let mut world = world();
    world.calico(&endpoint("b", "interfaceName: eth0, profiles: [projectcalico-default-allow]"));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    world.calico(&endpoint("a", "interfaceName: eth0"));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert_eq!(
        world.problems(),
        ["HostEndpoint b: spec.interfaceName: interface eth0 is that of HostEndpoint a"]
    );
    world.remove(Kind::HostEndpoint, ObjectKey::cluster("a"));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn one_that_is_wrong_is_refused_alone() {
    let mut world = world();
    world.calico(&endpoint("good", "interfaceName: eth0"));
    for (rest, reason) in [
        ("interfaceName: 'a/b'", "spec.interfaceName: \"a/b\": no interface can have this name"),
        ("interfaceName: lo", "spec.interfaceName: what the host says to itself is not judged"),
        ("interfaceName: cali1", "spec.interfaceName: this is how the interfaces of workloads are"),
        (
            "interfaceName: eth1, expectedIPs: [10.0.0.0/8]",
            "spec.expectedIPs[0]: \"10.0.0.0/8\" is not an IP address",
        ),
        ("interfaceName: ''", "spec: neither interfaceName nor expectedIPs is given"),
    ] {
        world.calico(&endpoint("bad", rest));
        let problems = world.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("HostEndpoint bad: {reason}")), "{problems:?}");
        assert!(passes(&world, Input, "eth1", OUTSIDE, (TCP, 80)));
        assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)), "the others are in force");
    }
}

#[test]
fn hosts_are_peers_by_their_expected_addresses() {
    let mut world = world();
    world.local("shop", "api", &[("app", "api")], &["10.244.0.1"]);
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: from-hosts}
spec:
  selector: app == 'api'
  ingress: [{action: Allow, protocol: TCP, source: {selector: role == 'far', namespaceSelector: global()}}]
",
    );
    assert!(!world.allows("10.0.0.2", "10.244.0.1", TCP, 80));
    let far = endpoint("far", "interfaceName: eth0, expectedIPs: [10.0.0.2]");
    world.calico(&far.replace(NODE, "node2"));
    assert!(world.allows("10.0.0.2", "10.244.0.1", TCP, 80));
    assert!(!world.allows("10.0.0.3", "10.244.0.1", TCP, 80));
    assert_eq!(host_elements(&world), []);
    world.remove(Kind::HostEndpoint, ObjectKey::cluster("far"));
    assert!(!world.allows("10.0.0.2", "10.244.0.1", TCP, 80));
}

#[test]
fn named_ports_are_those_of_the_host_endpoint() {
    let mut world = world();
    let ports = "ports: [{name: web, port: 8080, protocol: TCP}]";
    world.calico(&endpoint("eth0", &format!("interfaceName: eth0, {ports}")));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {selector: role == 'eth0', ingress: [{action: Allow, protocol: TCP, destination: {ports: [web]}}]}
",
    );
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 8080)));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    let ports = ports.replace("8080", "80");
    world.calico(&endpoint("eth0", &format!("interfaceName: eth0, {ports}")));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 8080)));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
}

#[test]
fn pods_as_peers_are_told_apart_and_come_and_go() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: scrape}
spec: {selector: role == 'eth0', ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'prometheus'}, destination: {ports: [9100]}}]}
",
    );
    assert!(!passes(&world, Input, "eth0", "10.244.9.1", (TCP, 9100)));
    world.remote("shop", "prometheus", &[("app", "prometheus")], &["10.244.9.1"]);
    assert!(passes(&world, Input, "eth0", "10.244.9.1", (TCP, 9100)));
    assert!(!passes(&world, Input, "eth0", "10.244.9.1", (TCP, 9101)));
    world.remove(Kind::Pod, ObjectKey::namespaced("shop", "prometheus"));
    assert!(!passes(&world, Input, "eth0", "10.244.9.1", (TCP, 9100)));
}

#[test]
fn other_kinds_of_policy_are_not_for_hosts() {
    let mut world = world();
    let labels =
        "{role: x, projectcalico.org/namespace: shop, projectcalico.org/orchestrator: k8s}";
    let own = endpoint("eth0", "interfaceName: eth0, profiles: [projectcalico-default-allow]");
    world.calico(&own.replace("{role: eth0}", labels));
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec: {selector: all(), types: [Ingress, Egress]}
",
    );
    world.policy(
        "
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
",
    );
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(passes(&world, Output, "eth0", OUTSIDE, (TCP, 80)));
}

#[test]
fn failsafe_ports_are_for_whom_they_are_and_networks_never_overlap() {
    let mut world = world();
    let open = |port, net: Option<&str>| Failsafe {
        direction: Direction::Ingress,
        protocol: TCP,
        port,
        net: net.map(|net| net.parse().unwrap()),
    };
    world.engine.set_failsafe(vec![
        open(22, Some("192.0.2.0/24")),
        open(22, Some("192.0.2.7/32")),
        open(22, Some("192.0.2.128/25")),
        open(80, Some("192.0.2.0/24")),
        open(80, None),
    ]);
    world.calico(&endpoint("all", "interfaceName: '*'"));
    assert!(passes(&world, Input, "eth0", OFFICE, (TCP, 22)));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 22)));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(passes(&world, Input, "eth0", "2001:db8::1", (TCP, 80)));
    assert!(!passes(&world, Input, "eth0", "2001:db8::1", (TCP, 22)));
    let nets = host_elements(&world).into_iter().filter(|key| matches!(key, Key::Failsafe(..)));
    assert_eq!(nets.count(), 3, "one for port 22, one of each family for port 80");
    world.engine.set_failsafe(Vec::new());
    world.settle();
    assert!(!passes(&world, Input, "eth0", OFFICE, (TCP, 22)));
}

#[test]
fn endpoints_with_the_same_policy_share_its_elements() {
    let mut world = world();
    let policy = "
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {selector: has(role), ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, 443]}}]}
";
    world.calico(policy);
    let tables = |world: &World| {
        let all = host_elements(world);
        all.iter().filter(|key| matches!(key, Key::HostPolicy { .. })).count()
    };
    for number in 0..5 {
        world.calico(&endpoint(&format!("eth{number}"), &format!("interfaceName: eth{number}")));
        assert_eq!(tables(&world), 2, "what is not allowed needs no element");
    }
    // A change of policy is as many elements as verdicts that differ, and who is led to them.
    let delta = world.calico(&policy.replace("[80, 443]", "[80, 8443]"));
    let changed = |key: fn(&Key) -> bool| delta.elements.iter().filter(|c| key(&c.key)).count();
    assert_eq!(changed(|key| matches!(key, Key::HostTable { .. })), 5);
    assert_eq!(changed(|key| matches!(key, Key::HostPolicy { .. })), 4);
    for number in 0..5 {
        world.remove(Kind::HostEndpoint, ObjectKey::cluster(&format!("eth{number}")));
    }
    assert_eq!(host_elements(&world), []);
}

#[test]
fn a_rule_that_logs_does_so_at_hosts_too() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: logs}
spec: {selector: role == 'eth0', ingress: [{action: Log, protocol: TCP}, {action: Allow, protocol: TCP}]}
",
    );
    let tcp = |key: &Key| matches!(key, Key::HostPolicy { traffic: Traffic::Protocol(TCP), .. });
    let found = world.kernel.elements.iter().find(|(key, _)| tcp(key));
    assert_eq!(found.map(|(_, value)| *value), Some(Value::Logged(Verdict::Allow)));
}

#[test]
fn endpoints_that_change_places_keep_their_own_policy() {
    let mut world = world();
    let (one, two) = ("10.0.0.1", "10.0.1.1");
    let allowing = format!("expectedIPs: [{two}], profiles: [projectcalico-default-allow]");
    let elsewhere = endpoint("b", &allowing);
    world.calico(&format!("{}---\n{elsewhere}", endpoint("a", &format!("expectedIPs: [{one}]"))));
    for (eth0, eth1) in [(one, two), (two, one), (one, two)] {
        world.engine.set_host_links(vec![link("eth0", &[eth0]), link("eth1", &[eth1])]);
        world.settle();
        for (interface, address) in [("eth0", eth0), ("eth1", eth1)] {
            let open = passes(&world, Input, interface, OUTSIDE, (TCP, 80));
            assert_eq!(open, address == two, "{interface} has {address}");
        }
    }
}
