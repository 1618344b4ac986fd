//! Policy of host endpoints before destination NAT and before connection tracking.

use super::hosts::{OFFICE, OUTSIDE, OWN, endpoint, host_elements, passes, world};
use super::world::*;
use crate::model::host::HostHook::{
    self, ForwardIn, Input, Output, PreDnat, UntrackedIn, UntrackedOut,
};
use crate::model::{Key, Kind, ObjectKey, Verdict};

/// What policy before destination NAT or connection tracking does with the first packet of a flow.
fn early(world: &World, hook: HostHook, interface: &str, peer: &str, to: (u8, u16)) -> Verdict {
    let sides = (ip(OWN), ip(peer));
    world.kernel.host_ruling(hook, interface, sides, to.0, (SOURCE_PORT, to.1)).0
}

/// One rule denies, one allows; what matches neither goes on to ordinary policy, whatever the tier's
/// default action is. Pods are none of its business.
#[test]
fn early_policy_leaves_to_what_follows_what_it_does_not_decide() {
    for (kind, hook) in [("preDNAT", PreDnat), ("doNotTrack", UntrackedIn)] {
        let mut world = world();
        world.local("shop", "api", &[("app", "api")], &["10.244.0.1"]);
        let open = "interfaceName: eth0, profiles: [projectcalico-default-allow]";
        world.calico(&endpoint("eth0", open));
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: early}}
spec:
  selector: all()
  {kind}: true
  applyOnForward: true
  ingress:
  - {{action: Allow, protocol: TCP, source: {{nets: [192.0.2.0/24]}}, destination: {{ports: [80]}}}}
  - {{action: Deny, protocol: TCP, destination: {{ports: [22, 80]}}}}
"
        ));
        assert_eq!(world.problems(), Vec::<String>::new());
        assert_eq!(early(&world, hook, "eth0", OFFICE, (TCP, 80)), Verdict::Accept, "{kind}");
        assert_eq!(early(&world, hook, "eth0", OUTSIDE, (TCP, 80)), Verdict::Deny, "{kind}");
        assert_eq!(early(&world, hook, "eth0", OUTSIDE, (TCP, 81)), Verdict::Allow, "{kind}");
        assert_eq!(early(&world, hook, "eth0", OUTSIDE, (TCP, 22)), Verdict::Allow, "failsafe");
        assert_eq!(early(&world, hook, "eth1", OUTSIDE, (TCP, 80)), Verdict::Allow, "no endpoint");
        // Ordinary policy is asked of none of it.
        for hook in [Input, ForwardIn, Output] {
            assert!(passes(&world, hook, "eth0", OUTSIDE, (TCP, 80)), "{kind} {hook:?}");
        }
        assert!(world.allows(OUTSIDE, "10.244.0.1", TCP, 80), "not for pods");
        world.remove(Kind::GlobalNetworkPolicy, ObjectKey::cluster("early"));
        let is_early = |key: &Key| matches!(key, Key::HostTable { hook, .. } if hook.is_early());
        assert!(!host_elements(&world).iter().any(is_early), "nothing is left");
    }
}

#[test]
fn early_policy_goes_through_the_tiers_without_their_ends() {
    let mut world = world();
    world.calico(&endpoint("all", "interfaceName: '*'"));
    world.calico(
        "
kind: Tier
metadata: {name: first}
spec: {order: 10}
---
kind: GlobalNetworkPolicy
metadata: {name: first.some}
spec:
  tier: first
  selector: all()
  doNotTrack: true
  applyOnForward: true
  types: [Ingress, Egress]
  ingress: [{action: Pass, protocol: UDP}, {action: Deny, protocol: TCP, destination: {ports: [1]}}]
  egress: [{action: Allow, protocol: UDP, source: {ports: [53]}}]
---
kind: GlobalNetworkPolicy
metadata: {name: late}
spec:
  selector: all()
  doNotTrack: true
  applyOnForward: true
  ingress: [{action: Log}, {action: Allow, protocol: UDP, destination: {ports: [53]}}]
",
    );
    let sides = (ip(OWN), ip(OUTSIDE));
    let ruling = |to: (u8, u16)| {
        world.kernel.host_ruling(UntrackedIn, "eth0", sides, to.0, (SOURCE_PORT, to.1))
    };
    assert_eq!(ruling((UDP, 53)), (Verdict::Accept, true), "passed on, logged, allowed");
    assert_eq!(ruling((UDP, 54)), (Verdict::Allow, true));
    assert_eq!(ruling((TCP, 2)), (Verdict::Allow, true), "a tier's default action is not asked");
    assert_eq!(ruling((TCP, 1)), (Verdict::Deny, false));
    let out = |source| world.kernel.host_ruling(UntrackedOut, "eth0", sides, UDP, (source, 1000)).0;
    assert_eq!((out(53), out(54)), (Verdict::Accept, Verdict::Allow));
}

/// The API server refuses these; from a folder they come as they are.
#[test]
fn what_does_not_say_when_it_is_asked_closes_the_hosts_it_selects() {
    for (hosts, problem) in [
        (
            "doNotTrack: true, preDNAT: true, applyOnForward: true",
            "spec.doNotTrack: cannot be combined with preDNAT",
        ),
        ("preDNAT: true", "spec.applyOnForward: must be true with preDNAT or doNotTrack"),
        ("doNotTrack: true", "spec.applyOnForward: must be true with preDNAT or doNotTrack"),
        (
            "preDNAT: true, applyOnForward: true, egress: [{action: Allow}]",
            "spec.egress: preDNAT is for ingress only",
        ),
        (
            "preDNAT: true, applyOnForward: true, types: [Ingress, Egress]",
            "spec.types: preDNAT is for ingress only",
        ),
    ] {
        let mut world = world();
        world.local("shop", "api", &[("app", "api")], &["10.244.0.1"]);
        let open = "interfaceName: eth0, profiles: [projectcalico-default-allow]";
        world.calico(&endpoint("eth0", open));
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: hosts}}
spec: {{selector: all(), {hosts}, ingress: [{{action: Allow}}]}}
"
        ));
        assert_eq!(world.problems(), [format!("GlobalNetworkPolicy hosts: {problem}")]);
        for hook in [Input, ForwardIn] {
            assert!(!passes(&world, hook, "eth0", OUTSIDE, (TCP, 80)), "{hosts} {hook:?}");
        }
        assert!(passes(&world, Input, "eth0", OUTSIDE, (TCP, 22)), "failsafe");
        let egress = hosts.contains("gress:") || hosts.contains("Egress");
        assert_eq!(passes(&world, Output, "eth0", OUTSIDE, (TCP, 80)), !egress, "{hosts}");
        assert!(world.allows(OUTSIDE, "10.244.0.1", TCP, 80), "pods are none of its business");
    }
}

/// In its own place among the others, so that failsafe ports stay open.
#[test]
fn early_policy_of_which_something_is_wrong_denies() {
    let mut world = world();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: wrong}
spec:
  selector: all()
  preDNAT: true
  applyOnForward: true
  ingress: [{action: Allow, source: {selector: 'a =='}}]
",
    );
    assert_eq!(early(&world, PreDnat, "eth0", OUTSIDE, (TCP, 80)), Verdict::Deny);
    assert_eq!(early(&world, PreDnat, "eth0", OUTSIDE, (TCP, 22)), Verdict::Allow);
    assert_eq!(world.problems().len(), 1, "{:?}", world.problems());
}
