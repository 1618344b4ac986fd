//! Types and codes of ICMP in Calico's rules.

use super::recipes::{OUTSIDE, world};
use super::world::{ICMP, ICMPV6, TCP};

const API: &str = "10.0.0.1";
const API6: &str = "fd00::1";
const WEB: &str = "10.0.0.2";
const WEB6: &str = "fd00::2";
const OUTSIDE6: &str = "2001:db8::1";

const ECHO: u16 = 0x0800;
const FRAGMENTATION_NEEDED: u16 = 0x0304;
const ECHO6: u16 = 0x8000;

/// A rule, and of protocols and numbers whether it allows them.
type Case<'a> = (&'a str, &'a [(u8, u16, bool)]);

#[test]
fn what_is_allowed_by_type_and_code() {
    let mut world = world();
    let cases: [Case<'_>; 9] = [
        (
            "protocol: ICMP, icmp: {type: 8}",
            &[(ICMP, ECHO, true), (ICMP, 0x08ff, true), (ICMP, 0x0900, false), (ICMP, 0, false)],
        ),
        (
            "protocol: ICMP, icmp: {type: 3, code: 4}",
            &[(ICMP, FRAGMENTATION_NEEDED, true), (ICMP, 0x0303, false), (ICMP, 0x0305, false)],
        ),
        (
            "protocol: ICMP, notICMP: {type: 8}",
            &[(ICMP, ECHO, false), (ICMP, 0x08ff, false), (ICMP, 0x0900, true), (TCP, 8, false)],
        ),
        (
            "protocol: ICMP, icmp: {type: 3}, notICMP: {type: 3, code: 4}",
            &[(ICMP, FRAGMENTATION_NEEDED, false), (ICMP, 0x0300, true), (ICMP, ECHO, false)],
        ),
        ("protocol: ICMP, icmp: {type: 3}, notICMP: {type: 3}", &[(ICMP, 0x0300, false)]),
        ("protocol: ICMP, icmp: {}", &[(ICMP, ECHO, true), (ICMP, 0, true), (TCP, 80, false)]),
        ("protocol: ICMP, notICMP: {}", &[(ICMP, ECHO, true), (TCP, 80, false)]),
        ("protocol: ICMP, icmp: {type: 254, code: 255}", &[(ICMP, 0xfeff, true), (ICMP, 0, false)]),
        ("protocol: 1, ipVersion: 4, icmp: {type: 0}", &[(ICMP, 0, true), (ICMP, 0x0100, false)]),
    ];
    for (rule, wanted) in cases {
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: icmp}}
spec:
  selector: app == 'api'
  ingress: [{{action: Allow, {rule}}}]
  egress: [{{action: Allow, {rule}}}]
"
        ));
        assert_eq!(world.problems(), Vec::<String>::new(), "{rule}");
        for (protocol, number, allowed) in wanted {
            for (from, to) in [(OUTSIDE, API), (API, OUTSIDE)] {
                let found = world.allows(from, to, *protocol, *number);
                assert_eq!(found, *allowed, "{rule}: {from} {to} {protocol} {number:#06x}");
            }
        }
    }
}

/// The two protocols are told apart, as are peers.
#[test]
fn icmp_of_both_families() {
    let mut world = world();
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: echo, namespace: default}
spec:
  selector: app == 'api'
  ingress:
  - {action: Allow, protocol: ICMP, icmp: {type: 8, code: 0}, source: {selector: role == 'frontend'}}
  - {action: Allow, protocol: ICMPv6, icmp: {type: 128}, source: {selector: role == 'frontend'}}
  - {action: Allow, protocol: TCP, destination: {ports: [80]}}
",
    );
    assert!(world.allows(WEB, API, ICMP, ECHO));
    assert!(world.allows(WEB6, API6, ICMPV6, ECHO6));
    assert!(!world.allows(WEB, API, ICMP, ECHO6), "8 is not 128");
    assert!(!world.allows(WEB6, API6, ICMPV6, ECHO));
    assert!(!world.allows(OUTSIDE, API, ICMP, ECHO));
    assert!(!world.allows(OUTSIDE6, API6, ICMPV6, ECHO6));
    assert!(world.allows(OUTSIDE, API, TCP, 80), "a number of TCP is none of ICMP");
    assert!(!world.allows(OUTSIDE, API, TCP, ECHO));
    assert!(world.allows(API, WEB, ICMP, FRAGMENTATION_NEEDED), "egress is not concerned");
}

/// A type is one element of ranges, a type with its code one of single numbers, for each endpoint.
#[test]
fn a_rule_is_one_element() {
    for (rule, elements) in [("icmp: {type: 8}", 1), ("icmp: {type: 8, code: 0}", 1), ("", 1)] {
        let mut world = world();
        let rule = if rule.is_empty() { String::new() } else { format!(", {rule}") };
        let policy = |ports: &str| {
            format!(
                "
kind: NetworkPolicy
metadata: {{name: echo, namespace: default}}
spec:
  selector: app == 'api'
  ingress: [{{action: Deny, protocol: UDP}}{ports}]
"
            )
        };
        world.calico(&policy(""));
        let delta = world.calico(&policy(&format!(", {{action: Allow, protocol: ICMP{rule}}}")));
        assert_eq!(delta.elements.len(), elements, "{rule}: {delta:?}");
    }
}
