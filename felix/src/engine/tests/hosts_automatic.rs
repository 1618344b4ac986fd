//! Host endpoints that nobody writes judge as those that somebody wrote.

use super::hosts::{OUTSIDE, endpoint, host_elements, passes, world};
use super::world::*;
use crate::model::host::HostHook::{Input, Output};
use crate::model::{Kind, Node, Object, ObjectKey, Update};

const ON: &str = "
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}}
";
const POLICY: &str = "
kind: GlobalNetworkPolicy
metadata: {name: nodes}
spec:
  selector: has(rack)
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]
";

fn with_rack(name: &str, address: &str) -> Update {
    let labels = [("rack", "r1")].into_iter().collect();
    Update::Set(Object::Node(Node { labels, ..node(name, &[ip(address)]) }))
}

#[test]
fn a_node_has_one_while_the_configuration_asks_for_it() {
    let mut world = world();
    world.engine.apply(with_rack("node1", "192.0.2.1"));
    world.calico(POLICY);
    assert_eq!(host_elements(&world), []);
    world.calico(ON);
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 81)), "the policy selects it");
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 22)), "failsafe");
    assert!(passes(&world, Output, "eth0", OUTSIDE, (TCP, 81)), "what no policy is about passes");
    // Without the label no policy selects it, and its profile lets everything through.
    world.engine.apply(Update::Set(Object::Node(node("node1", &[ip("192.0.2.1")]))));
    world.settle();
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 81)));
    world.engine.apply(with_rack("node1", "192.0.2.1"));
    world.settle();
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 81)));
    world.remove(Kind::KubeControllersConfiguration, ObjectKey::cluster("default"));
    assert_eq!(host_elements(&world), [], "nothing is left");
}

#[test]
fn rules_find_the_addresses_of_other_nodes_by_it() {
    let mut world = world();
    world.engine.apply(with_rack("node2", "192.0.2.2"));
    world.local("shop", "web", &[("app", "web")], &["10.0.0.7"]);
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: from-nodes}
spec: {selector: app == 'web', ingress: [{action: Allow, source: {selector: has(rack)}}]}
",
    );
    assert!(!world.allows("192.0.2.2", "10.0.0.7", TCP, 80));
    world.calico(ON);
    assert!(world.allows("192.0.2.2", "10.0.0.7", TCP, 80));
    world.remove(Kind::Node, ObjectKey::cluster("node2"));
    assert!(!world.allows("192.0.2.2", "10.0.0.7", TCP, 80));
}

#[test]
fn one_that_is_written_goes_before_one_of_its_name() {
    let mut world = world();
    world.engine.apply(with_rack("node1", "192.0.2.1"));
    world.calico(ON);
    world.calico(POLICY);
    assert!(!passes(&world, Input, "eth1", OUTSIDE, (TCP, 81)));
    // Of eth0 only, and without the label.
    world.calico(&endpoint("node1-auto-hep", "interfaceName: eth0"));
    assert!(passes(&world, Input, "eth1", OUTSIDE, (TCP, 81)));
    assert!(!passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)), "without policy and profile");
    world.remove(Kind::HostEndpoint, ObjectKey::cluster("node1-auto-hep"));
    assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 80)));
    assert!(!passes(&world, Input, "eth1", OUTSIDE, (TCP, 81)));
    // One of another name for all interfaces is in the way of it, as of any other; the first by name is in force.
    world.calico(&endpoint("zzz", "interfaceName: '*'"));
    let problem =
        "HostEndpoint zzz: spec.interfaceName: interface * is that of HostEndpoint node1-auto-hep";
    assert_eq!(world.problems(), [problem]);
}

#[test]
fn a_template_that_cannot_be_made_is_told() {
    let mut world = world();
    let wrong = ON.replace(
        "autoCreate: Enabled",
        "autoCreate: Enabled, templates: [{generateName: w, interfacePattern: eth}]",
    );
    world.calico(&wrong);
    let problems = world.problems();
    let start = "KubeControllersConfiguration default: spec.controllers.node.hostEndpoint.templates[0].interfacePattern: ";
    assert!(problems.len() == 1 && problems[0].starts_with(start), "{problems:?}");
    world.calico(ON);
    assert_eq!(world.problems(), Vec::<String>::new());
}
