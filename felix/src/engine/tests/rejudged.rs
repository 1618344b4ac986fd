//! Flows that are judged again though no policy and no pod has changed: those of addresses that networks
//! are said of.

use super::world::*;
use crate::model::{Kind, ObjectKey};

const TRUSTED: &str = "
kind: GlobalNetworkPolicy
metadata: {name: trusted}
spec:
  selector: app == 'web'
  ingress:
  - action: Allow
    source: {selector: trusted == 'yes'}
";

fn set(trusted: &str, nets: &str) -> String {
    format!(
        "kind: GlobalNetworkSet\nmetadata: {{name: office, labels: {{trusted: '{trusted}'}}}}\n\
         spec: {{nets: [{nets}]}}\n"
    )
}

fn world() -> World {
    let mut world = World::new(&["shop"]);
    world.local("shop", "web", &[("app", "web")], &["10.0.0.1", "fd00::1"]);
    world.calico(TRUSTED);
    world.calico(&set("yes", "192.0.2.0/24, '2001:db8::/32'"));
    world
}

#[test]
fn addresses_that_a_network_set_loses_or_gets() {
    let mut world = world();
    let lost = world.calico(&set("yes", "192.0.2.0/25, '2001:db8::/32'"));
    assert_eq!(lost.rejudge_ranges, [(ip("192.0.2.128"), ip("192.0.2.255"))]);
    assert!(lost.rejudge.is_empty(), "the policy of no endpoint is another: {lost:?}");
    let more = world.calico(&set("yes", "192.0.2.0/24, '2001:db8::/33'"));
    let low = ip("2001:db8:8000::");
    let high = ip("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff");
    let both = [(ip("192.0.2.128"), ip("192.0.2.255")), (low, high)];
    assert_eq!(more.rejudge_ranges, both);
    let same = world.calico(&set("yes", "192.0.2.128/25, 192.0.2.0/25, '2001:db8::/33'"));
    assert!(same.rejudge_ranges.is_empty() && same.elements.is_empty(), "{same:?}");
}

#[test]
fn networks_of_a_set_that_is_something_else_now_or_gone() {
    let mut world = world();
    let both = [
        (ip("192.0.2.0"), ip("192.0.2.255")),
        (ip("2001:db8::"), ip("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")),
    ];
    let nets = "192.0.2.0/24, '2001:db8::/32'";
    assert_eq!(world.calico(&set("no", nets)).rejudge_ranges, both);
    assert_eq!(world.calico(&set("yes", nets)).rejudge_ranges, both);
    let gone = world.remove(Kind::GlobalNetworkSet, ObjectKey::cluster("office"));
    assert_eq!(gone.rejudge_ranges, both);
}

/// What no policy here can tell apart costs no look at flows.
#[test]
fn networks_that_nobody_asks_for_here() {
    let mut world = world();
    let other = "kind: GlobalNetworkSet\nmetadata: {name: other, labels: {trusted: 'never'}}\n\
                 spec: {nets: [198.51.100.0/24]}\n";
    assert!(world.calico(other).rejudge_ranges.is_empty());
    // Asked for by a policy that lets all in anyway.
    world.calico(
        "kind: GlobalNetworkPolicy\nmetadata: {name: open}\nspec:\n  order: 1\n  selector: app == 'web'\n  \
         ingress: [{action: Allow}]\n",
    );
    assert!(world.calico(&set("yes", "192.0.2.0/26")).rejudge_ranges.is_empty());
}

/// The node's other address is who rules ask for on the host's own side now: the element that says so is that of
/// an address, none of the endpoint's.
#[test]
fn addresses_that_rules_ask_for_on_the_hosts_own_side() {
    let mut world = super::hosts_random::world();
    world.engine.set_host_links(super::hosts_random::links([0, 0]));
    let host = |address: &str| {
        format!(
            "kind: HostEndpoint\nmetadata: {{name: h, labels: {{app: a}}}}\nspec: {{node: node1, \
             interfaceName: eth0, expectedIPs: [{address}]}}\n"
        )
    };
    world.calico(&host("10.0.0.1"));
    world.calico(
        "kind: GlobalNetworkPolicy\nmetadata: {name: own}\nspec:\n  selector: all()\n  \
         ingress: [{action: Allow, destination: {selector: app == 'a'}}]\n",
    );
    let moved = world.calico(&host("10.0.1.1"));
    assert_eq!(moved.rejudge, [ip("10.0.0.1"), ip("10.0.1.1")], "{moved:?}");
}
