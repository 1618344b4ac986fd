//! What people write with ClusterNetworkPolicy, and what must come of it: the examples of the API's
//! documentation, the order of the tiers, and what asks for more than can be done.

use super::recipes::{OUTSIDE, world};
use super::world::{ICMP, SCTP, TCP, UDP, ip, node, set_namespace};
use crate::engine::Outcome;
use crate::model::{Direction, Flow, Kind, Node, Object, ObjectKey, Update};

const API: &str = "10.0.0.1";
const API6: &str = "fd00::1";
const WEB: &str = "10.0.0.2";
const BARE: &str = "10.0.0.3";
const FAR_WEB: &str = "10.0.1.1";
const STRANGER: &str = "10.0.1.3";
const CUSTOMER: &str = "10.0.1.4";

pub(super) const ISOLATE_DEFAULT: &str = "
metadata: {name: isolate, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// A policy of a namespace that lets everything in.
const OPEN_DEFAULT: &str = "
metadata: {name: open, namespace: default}
spec: {podSelector: {}, ingress: [{}], egress: [{}], policyTypes: [Ingress, Egress]}
";

/// Traffic from monitoring is let in whatever namespaces say.
#[test]
fn an_admin_accepts_what_no_namespace_can_refuse() {
    let mut world = world();
    world.policy(ISOLATE_DEFAULT);
    assert!(!world.allows(CUSTOMER, API, TCP, 80));
    world.cluster_policies(
        "
metadata: {name: allow-prod}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - {action: Accept, from: [{namespaces: {matchLabels: {team: prod}}}]}
",
    );
    assert!(world.allows(CUSTOMER, API, TCP, 80));
    assert!(world.allows(CUSTOMER, API, ICMP, 0x0800), "every protocol");
    assert!(!world.allows(STRANGER, API, TCP, 80), "others are left to the namespace");
    assert!(!world.allows(API, CUSTOMER, TCP, 80), "egress is not spoken of");
    world.engine.apply(set_namespace("other", &[("team", "prod")]));
    world.settle();
    assert!(world.allows(STRANGER, API, TCP, 80));
}

/// A namespace with secrets is closed, whatever it says itself.
#[test]
fn an_admin_denies_what_no_namespace_can_allow() {
    let mut world = world();
    world.policy(OPEN_DEFAULT);
    world.cluster_policies(
        "
metadata: {name: closed}
spec:
  tier: Admin
  priority: 0
  subject: {pods: {namespaceSelector: {matchLabels: {team: default}}, podSelector: {matchLabels: {app: api}}}}
  ingress:
  - {name: own, action: Pass, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}}]}
  - {name: rest, action: Deny, from: [{namespaces: {}}]}
  egress:
  - {action: Deny, to: [{networks: [192.0.2.0/24, '2001:db8::/32']}, {pods: {namespaceSelector: {}, podSelector: {matchExpressions: [{key: role, operator: In, values: [db]}]}}}]}
",
    );
    for (peer, to, from) in [
        (WEB, true, true),
        (FAR_WEB, true, true),
        (STRANGER, false, true),
        (CUSTOMER, false, false),
        (OUTSIDE, true, false),
        ("198.51.100.1", true, true),
    ] {
        assert_eq!(world.allows(peer, API, TCP, 80), to, "{peer} to the api");
        assert_eq!(world.allows(API, peer, UDP, 53), from, "the api to {peer}");
    }
    assert!(!world.allows(API6, "2001:db8::7", TCP, 80));
    assert!(world.allows(STRANGER, WEB, TCP, 80), "it is for the api only");
}

/// Pods of a namespace reach each other only, unless their namespace has policies.
#[test]
fn the_baseline_holds_for_pods_that_no_policy_selects() {
    let mut world = world();
    world.cluster_policies(
        "
metadata: {name: default}
spec:
  tier: Baseline
  priority: 500
  subject: {namespaces: {matchExpressions: [{key: team, operator: NotIn, values: [prod]}]}}
  ingress:
  - {action: Accept, from: [{namespaces: {matchLabels: {team: default}}}]}
  - {action: Deny, from: [{namespaces: {}}]}
",
    );
    assert!(world.allows(BARE, API, TCP, 80) && world.allows(FAR_WEB, API, TCP, 80));
    assert!(!world.allows(CUSTOMER, API, TCP, 80));
    assert!(world.allows(OUTSIDE, API, TCP, 80), "the peers of ingress are pods");
    world.policy(
        "
metadata: {name: customers, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: prod}}}]}]
",
    );
    assert!(world.allows(CUSTOMER, API, TCP, 80), "the namespace has said otherwise");
    assert!(!world.allows(BARE, API, TCP, 80), "and of everyone");
    assert!(!world.allows(CUSTOMER, BARE, TCP, 80), "this pod it does not select");
    world.remove_policy("default", "customers");
    assert!(!world.allows(CUSTOMER, API, TCP, 80) && world.allows(BARE, API, TCP, 80));
}

#[test]
fn pass_leaves_the_tier_and_its_later_policies() {
    let admin = "
metadata: {name: a}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: prod}}}]}]
---
metadata: {name: b}
spec:
  tier: Admin
  priority: 2
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
";
    let mut world = world();
    world.cluster_policies(admin);
    assert!(world.allows(CUSTOMER, API, TCP, 80), "passed, and nothing else speaks of it");
    assert!(!world.allows(STRANGER, API, TCP, 80));
    world.policy(ISOLATE_DEFAULT);
    assert!(!world.allows(CUSTOMER, API, TCP, 80), "passed to the namespace");
    world.remove_policy("default", "isolate");
    let baseline = |rules: &str| {
        format!(
            "
metadata: {{name: c}}
spec: {{tier: Baseline, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{rules}]}}
"
        )
    };
    world.cluster_policies(&baseline("{action: Deny, from: [{namespaces: {}}]}"));
    assert!(!world.allows(CUSTOMER, API, TCP, 80), "passed to the baseline");
    world.cluster_policies(&baseline(
        "{action: Pass, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}",
    ));
    assert!(world.allows(CUSTOMER, API, TCP, 80), "passed beyond the last tier");
}

/// Lower is first; of the same priority it is the name that decides.
#[test]
fn priority_decides_then_the_name() {
    for (a, b, allowed) in [(1, 2, true), (2, 1, false), (5, 5, true), (0, 1000, true)] {
        let mut world = world();
        world.cluster_policies(&format!(
            "
metadata: {{name: b}}
spec: {{tier: Admin, priority: {b}, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}
---
metadata: {{name: a}}
spec: {{tier: Admin, priority: {a}, subject: {{namespaces: {{}}}}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}]}}
"
        ));
        assert_eq!(world.allows(STRANGER, API, TCP, 80), allowed, "{a} and {b}");
    }
}

/// Tiers of Calico stand where their order says: before, between and after.
#[test]
fn tiers_of_calico_stand_among_those_of_the_cluster() {
    for (order, allowed) in [(999, true), (1001, false)] {
        let mut world = world();
        world.calico(&format!(
            "
kind: Tier
metadata: {{name: own}}
spec: {{order: {order}, defaultAction: Pass}}
---
kind: GlobalNetworkPolicy
metadata: {{name: own.open}}
spec: {{tier: own, selector: app == 'api', ingress: [{{action: Allow}}]}}
"
        ));
        world.cluster_policies(
            "
metadata: {name: deny}
spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
",
        );
        assert_eq!(world.allows(STRANGER, API, TCP, 80), allowed, "{order}");
    }
    let mut world = world();
    world.cluster_policies(
        "
metadata: {name: deny}
spec: {tier: Baseline, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
",
    );
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: open}
spec: {selector: app == 'api', ingress: [{action: Allow}]}
",
    );
    assert!(world.allows(STRANGER, API, TCP, 80) && !world.allows(STRANGER, BARE, TCP, 80));
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let mut world = world();
    let named = [("web", TCP, 8080), ("web", UDP, 9090), ("dns", UDP, 53)];
    world.local_with_ports("default", "named", &[], &["10.0.0.9"], &named);
    world.cluster_policies(
        "
metadata: {name: ports}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {}}}
  ingress:
  - action: Accept
    from: [{namespaces: {}}]
    protocols:
    - {tcp: {destinationPort: {number: 80}}}
    - {udp: {destinationPort: {range: {start: 1000, end: 2000}}}}
    - {sctp: {destinationPort: {number: 7}}}
    - {destinationNamedPort: web}
  - {action: Deny, from: [{namespaces: {}}]}
  egress:
  - action: Deny
    to: [{namespaces: {matchLabels: {team: default}}}]
    protocols: [{destinationNamedPort: dns}]
",
    );
    for (to, protocol, port, allowed) in [
        (API, TCP, 80, true),
        (API, TCP, 81, false),
        (API, UDP, 80, false),
        (API, UDP, 1000, true),
        (API, UDP, 2000, true),
        (API, UDP, 2001, false),
        (API, SCTP, 7, true),
        (API, ICMP, 0x0800, false),
        (API, TCP, 8080, false),
        ("10.0.0.9", TCP, 8080, true),
        ("10.0.0.9", UDP, 9090, true),
        ("10.0.0.9", UDP, 8080, false),
    ] {
        assert_eq!(world.allows(STRANGER, to, protocol, port), allowed, "{to} {protocol} {port}");
    }
    world.remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("none"));
    assert!(!world.allows(API, "10.0.0.9", UDP, 53));
    assert!(world.allows(API, OUTSIDE, UDP, 53));
}

#[test]
fn nodes_are_peers_by_all_their_addresses() {
    let mut world = world();
    world.cluster_policies(
        "
metadata: {name: nodes}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {matchLabels: {app: api}}}}
  egress:
  - action: Accept
    to: [{nodes: {matchLabels: {role: control}}}]
    protocols: [{tcp: {destinationPort: {number: 6443}}}]
  - {action: Deny, to: [{nodes: {}}]}
",
    );
    let labelled = |name: &str, labels: &[(&str, &str)], addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
        let labels = labels.iter().copied().collect();
        Update::Set(Object::Node(Node { labels, ..node(name, &addresses) }))
    };
    let (control, worker) = (["192.0.2.1", "2001:db8::1", "10.0.0.254"], ["192.0.2.2"]);
    assert!(world.allows(API, control[0], TCP, 80), "nobody's address");
    world.engine.apply(labelled("control", &[("role", "control")], &control));
    world.engine.apply(labelled("worker", &[], &worker));
    world.settle();
    for address in control {
        let from = if address.contains(':') { API6 } else { API };
        assert!(world.allows(from, address, TCP, 6443), "{address}");
        assert!(!world.allows(from, address, TCP, 22), "{address}");
        assert!(world.allows(BARE, control[0], TCP, 22));
    }
    assert!(!world.allows(API, worker[0], TCP, 6443));
    assert!(world.allows(API, OUTSIDE, TCP, 22));

    let said = world.engine.explain(
        &Flow {
            protocol: TCP,
            source: ip(API),
            destination: ip(worker[0]),
            source_port: 50000,
            destination_port: 22,
        },
        Direction::Egress,
    );
    let judgement = &said.judgements[0];
    assert!(judgement.memberships.contains(&"node of all()".to_owned()), "{judgement:?}");
    let row = judgement.considered.iter().find(|row| row.outcome == Outcome::Denies).unwrap();
    assert_eq!(
        (row.tier.as_str(), row.policy.as_deref()),
        ("kube-admin", Some("ClusterNetworkPolicy nodes"))
    );
    assert_eq!(row.rule.as_ref().unwrap().field, "spec.egress[1]");

    // Each change shows at once, and costs what it changes.
    let untouched = labelled("worker", &[("new", "label")], &worker);
    world.engine.apply(untouched);
    assert_eq!(world.engine.take_delta(), None, "nobody asks for this label");
    world.engine.apply(labelled("worker", &[("role", "control")], &["192.0.2.2", "192.0.2.3"]));
    let delta = world.settle();
    assert_eq!(delta.elements.len(), 3, "two addresses, and a class that nobody is in any more");
    assert!(world.allows(API, "192.0.2.3", TCP, 6443));
    // A label that goes, and an address.
    world.engine.apply(labelled("worker", &[], &["192.0.2.2", "192.0.2.3"]));
    world.settle();
    assert!(!world.allows(API, "192.0.2.3", TCP, 6443));
    world.engine.apply(labelled("worker", &[("role", "control")], &["192.0.2.2"]));
    world.settle();
    assert!(world.allows(API, "192.0.2.2", TCP, 6443) && world.allows(API, "192.0.2.3", TCP, 22));
    world.engine.apply(labelled("worker", &[("role", "control")], &["192.0.2.2", "192.0.2.3"]));
    world.settle();
    // Two nodes share an address as long as both say so.
    world.engine.apply(labelled("other", &[], &["192.0.2.3"]));
    world.settle();
    assert!(world.allows(API, "192.0.2.3", TCP, 6443));
    world.engine.apply(Update::Remove(Kind::Node, ObjectKey::cluster("worker")));
    world.settle();
    assert!(!world.allows(API, "192.0.2.3", TCP, 6443) && world.allows(API, worker[0], TCP, 22));
    world.remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("nodes"));
    assert!(world.allows(API, control[0], TCP, 22));
    world.cluster_policies(
        "
metadata: {name: nodes}
spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}]}]}
",
    );
    assert!(!world.allows(API, control[2], TCP, 22), "nodes known before the policy");
}

#[test]
fn an_action_that_is_not_known_denies() {
    let mut world = world();
    world.cluster_policies(
        "
metadata: {name: bad}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Ask, from: [{namespaces: {}}]}]}
",
    );
    assert!(!world.allows(OUTSIDE, API, TCP, 80) && world.allows(API, OUTSIDE, TCP, 80));
    let wanted =
        "ClusterNetworkPolicy bad: spec.ingress[0].action: is none of Accept, Deny and Pass";
    assert_eq!(world.problems(), [wanted]);
}

/// Names are for rules that accept, and have to be names.
#[test]
fn a_rule_with_wrong_names_closes_itself() {
    for (action, names, field, reason, open) in [
        ("Deny", "example.org", "", "only for rules with action Accept", false),
        ("Pass", "example.org", "", "only for rules with action Accept", false),
        (
            "Accept",
            "'*.example.org', 'exa mple.org'",
            "[1]",
            "\"exa mple.org\" is not a name of two labels or more, with or without *. before it",
            true,
        ),
    ] {
        let mut world = world();
        world.cluster_policies(&format!(
            "
metadata: {{name: names}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{}}}}
  egress:
  - {{action: {action}, to: [{{domainNames: [{names}]}}, {{networks: [192.0.2.0/24]}}]}}
  - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}
"
        ));
        assert!(!world.allows(API, OUTSIDE, TCP, 443), "{action}");
        let wanted = format!(
            "ClusterNetworkPolicy names: spec.egress[0].to[0].domainNames{field}: {reason}"
        );
        assert_eq!(world.problems(), [wanted]);
        assert_eq!(world.allows(API6, "2001:db8::7", TCP, 443), open);
    }
}

#[test]
fn nothing_of_a_policy_stays_when_it_goes() {
    let mut world = world();
    let before = (world.kernel.canonical(), world.engine.counts());
    world.engine.apply(Update::Set(Object::Node(node("n", &[ip("192.0.2.9")]))));
    world.cluster_policies(
        "
metadata: {name: whole}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: api}}}}], protocols: [{destinationNamedPort: x}]}]
  egress: [{action: Accept, to: [{nodes: {}}, {networks: ['::/0']}]}, {action: Deny, to: [{namespaces: {}}]}]
",
    );
    assert!(world.engine.counts() != before.1 && !world.allows(API, WEB, TCP, 80));
    world.remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("whole"));
    assert_eq!((world.kernel.canonical(), world.engine.counts()), before);
}
