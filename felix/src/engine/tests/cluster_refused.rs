//! ClusterNetworkPolicies that are wrong: what is closed, and what is said of it.

use super::cluster_policies::ISOLATE_DEFAULT;
use super::recipes::{OUTSIDE, world};
use super::world::TCP;

const API: &str = "10.0.0.1";
const WEB: &str = "10.0.0.2";
const BARE: &str = "10.0.0.3";
const STRANGER: &str = "10.0.1.3";
const CUSTOMER: &str = "10.0.1.4";

/// Each wrong rule in its place among good ones: one that accepts accepts nothing, another denies all.
#[test]
fn a_wrong_rule_closes_itself_and_is_named() {
    let one = "exactly what is wrong";
    for (direction, rule, field, reason) in [
        ("ingress", "from: [{}]", "from[0]", "none of namespaces and pods is given"),
        ("ingress", "from: []", "from", "must have an entry"),
        (
            "ingress",
            "from: [{namespaces: {}, pods: {podSelector: {}}}]",
            "from[0]",
            "more than one of namespaces and pods is given",
        ),
        (
            "ingress",
            "from: [{namespaces: {matchExpressions: [{key: a, operator: Near}]}}]",
            "from[0].namespaces.matchExpressions[0]",
            "\"Near\" is none of In, NotIn, Exists and DoesNotExist",
        ),
        (
            "egress",
            "to: [{pods: {podSelector: {matchLabels: {'a b': c}}}}]",
            "to[0].pods.podSelector.matchLabels[a b]",
            "\"a b\" is not a label key",
        ),
        (
            "egress",
            "to: [{satellites: {}}]",
            "to[0]",
            "none of namespaces, pods, nodes, networks and domainNames is given",
        ),
        ("egress", "to: [{networks: []}]", "to[0].networks", "must have an entry"),
        (
            "egress",
            "to: [{namespaces: {}}, {networks: [10.0.0.0/8, 10.0.0.1]}]",
            "to[1].networks[1]",
            "\"10.0.0.1\" is not an address with a prefix length",
        ),
        (
            "egress",
            "to: [{nodes: {matchLabels: {a: 'b c'}}}]",
            "to[0].nodes.matchLabels[a]",
            "\"b c\" is not a label value",
        ),
        (
            "egress",
            "to: [{nodes: {}}], protocols: [{destinationNamedPort: web}]",
            "to[0].nodes",
            "has no named ports, which a destinationNamedPort of the rule asks for",
        ),
        ("ingress", "from: [{namespaces: {}}], protocols: []", "protocols", "must have an entry"),
        (
            "ingress",
            "from: [{namespaces: {}}], protocols: [{icmp: {}}]",
            "protocols[0]",
            "none of tcp, udp, sctp and destinationNamedPort is given",
        ),
        (
            "ingress",
            "from: [{namespaces: {}}], protocols: [{tcp: {sourcePort: {number: 1}}}]",
            "protocols[0].tcp",
            "destinationPort is not given",
        ),
        (
            "ingress",
            "from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 65536}}}]",
            "protocols[0].udp.destinationPort.number",
            "65536 is not from 1 to 65535",
        ),
        (
            "ingress",
            "from: [{namespaces: {}}], protocols: [{sctp: {destinationPort: {range: {start: 9, end: 9}}}}]",
            "protocols[0].sctp.destinationPort.range",
            "9 is not less than 9",
        ),
        (
            "ingress",
            "from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]",
            "protocols[0].tcp.destinationPort",
            "none of number and range is given",
        ),
        (
            "ingress",
            "from: [{namespaces: {}}], protocols: [{destinationNamedPort: a_b}]",
            "protocols[0].destinationNamedPort",
            "\"a_b\" is not a port name",
        ),
    ] {
        let (to, from) = if direction == "ingress" {
            ("from", (STRANGER, API))
        } else {
            ("to", (API, STRANGER))
        };
        for action in ["Accept", "Deny", "Pass"] {
            let mut world = world();
            world.cluster_policies(&format!(
                "
metadata: {{name: bad}}
spec:
  tier: Admin
  priority: 1
  subject: {{pods: {{podSelector: {{matchLabels: {{app: api}}}}}}}}
  {direction}:
  - {{action: Pass, {to}: [{{namespaces: {{matchLabels: {{team: prod}}}}}}]}}
  - {{action: {action}, {rule}}}
  - {{action: Accept, {to}: [{{namespaces: {{matchLabels: {{team: other}}}}}}]}}
"
            ));
            let open = action == "Accept";
            assert_eq!(world.allows(from.0, from.1, TCP, 80), open, "{one}: {action} {rule}");
            let outside = if direction == "ingress" { (OUTSIDE, API) } else { (API, OUTSIDE) };
            assert_eq!(world.allows(outside.0, outside.1, TCP, 80), open, "{action} {rule}");
            assert!(world.allows(from.1, from.0, TCP, 80), "the other direction: {rule}");
            let earlier = if direction == "ingress" { (CUSTOMER, API) } else { (API, CUSTOMER) };
            assert!(world.allows(earlier.0, earlier.1, TCP, 80), "an earlier rule: {rule}");
            assert!(world.allows(OUTSIDE, BARE, TCP, 80), "other pods: {rule}");
            let wanted = format!("ClusterNetworkPolicy bad: spec.{direction}[1].{field}: {reason}");
            assert_eq!(world.problems(), [wanted]);
        }
    }
}

/// What is wrong with a policy as such closes all of its rules.
#[test]
fn a_wrong_policy_closes_all_of_its_rules() {
    let web = "pods: {podSelector: {matchLabels: {role: frontend}}}";
    let open = "action: Accept, from: [{namespaces: {}}]";
    for (place, subject, web_only, field) in [
        ("tier: Emergency, priority: 1", web, true, "spec.tier: is neither Admin nor Baseline"),
        ("tier: Admin, priority: -1", web, true, "spec.priority: -1 is not from 0 to 1000"),
        ("tier: Admin, priority: 1001", web, true, "spec.priority: 1001 is not from 0 to 1000"),
        (
            "tier: Admin, priority: 1",
            "",
            false,
            "spec.subject: none of namespaces and pods is given",
        ),
        (
            "tier: Admin, priority: 1",
            "pods: {podSelector: {matchLabels: {'a b': c}}}",
            false,
            "spec.subject.pods.podSelector.matchLabels[a b]: \"a b\" is not a label key",
        ),
    ] {
        let mut world = world();
        let policy = |rules: &str| {
            format!(
                "metadata: {{name: bad}}\nspec: {{{place}, subject: {{{subject}}}, ingress: [{rules}]}}\n"
            )
        };
        world.cluster_policies(&policy(&format!(
            "{{{open}}}, {{action: Deny, from: [{{namespaces: {{matchLabels: {{no: one}}}}}}]}}"
        )));
        assert!(!world.allows(OUTSIDE, WEB, TCP, 80), "{field}");
        assert_eq!(world.allows(OUTSIDE, API, TCP, 80), web_only, "{field}");
        assert!(world.allows(WEB, OUTSIDE, TCP, 80), "it says nothing of egress: {field}");
        assert_eq!(world.problems(), [format!("ClusterNetworkPolicy bad: {field}")]);
        // Who only accepts denies nobody; but nothing is accepted.
        world.policy(ISOLATE_DEFAULT);
        world.cluster_policies(&policy(&format!("{{{open}}}")));
        assert!(!world.allows(STRANGER, WEB, TCP, 80), "{field}");
        world.remove_policy("default", "isolate");
        assert!(world.allows(STRANGER, WEB, TCP, 80), "{field}");
    }
}
