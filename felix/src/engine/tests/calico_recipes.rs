//! What people write with Calico's policies, and what must come of it.

use super::recipes::{OUTSIDE, world};
use super::world::{ICMP, SCTP, TCP, UDP, pod, set_namespace};
use crate::model::{Kind, Object, ObjectKey, ServiceAccount, Update};

const API: &str = "10.0.0.1";
const API6: &str = "fd00::1";
const WEB: &str = "10.0.0.2";
const BARE: &str = "10.0.0.3";
const STRANGER: &str = "10.0.1.3";
const CUSTOMER: &str = "10.0.1.4";

#[test]
fn deny_all_in_every_namespace_but_one() {
    let mut world = world();
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: default-deny}
spec:
  namespaceSelector: team not in {'other', 'prod'}
  types: [Ingress, Egress]
",
    );
    world.local("other", "here", &[], &["10.0.3.1"]);
    for peer in [WEB, STRANGER, OUTSIDE] {
        assert!(!world.allows(peer, API, TCP, 80), "{peer}");
        assert!(!world.allows(API, peer, UDP, 53), "{peer}");
    }
    assert!(world.allows(OUTSIDE, "10.0.3.1", TCP, 80));
    world.engine.apply(set_namespace("other", &[("team", "joined")]));
    world.settle();
    assert!(!world.allows(OUTSIDE, "10.0.3.1", TCP, 80));
}

#[test]
fn order_decides_then_the_name_and_none_is_last() {
    let rule = |name: &str, order: &str, action: &str| {
        format!(
            "
kind: NetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{selector: app == 'api', {order} ingress: [{{action: {action}}}]}}
"
        )
    };
    for (first, second, allowed) in [
        (rule("a", "order: 10,", "Deny"), rule("b", "order: 9.5,", "Allow"), true),
        (rule("a", "order: 10,", "Deny"), rule("b", "order: 10,", "Allow"), false),
        (rule("b", "", "Deny"), rule("c", "order: 999999,", "Allow"), true),
        (rule("b", "", "Allow"), rule("b-1", "", "Deny"), true),
        (rule("a", "order: 0,", "Deny"), rule("b", "order: -0.0,", "Allow"), false),
        (rule("a", "order: -5,", "Deny"), rule("b", "order: -5.5,", "Allow"), true),
    ] {
        let mut world = world();
        world.calico(&first);
        world.calico(&second);
        assert_eq!(world.allows(OUTSIDE, API, TCP, 80), allowed, "{first}{second}");
    }
}

/// Kubernetes' policies stand at 1000 in tier default; between those of equal order and name the
/// kind decides.
#[test]
fn policies_of_both_kinds_share_a_tier() {
    for (order, denied) in [("order: 999,", true), ("order: 1000,", true), ("order: 1001,", false)]
    {
        let mut world = world();
        world.policy(
            "
metadata: {name: same, namespace: default}
spec: {podSelector: {}, ingress: [{}]}
",
        );
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: same}}
spec: {{{order} selector: app == 'api', ingress: [{{action: Deny, protocol: TCP}}]}}
"
        ));
        // Without a namespace it comes before the other of its name.
        assert_eq!(world.allows(OUTSIDE, API, TCP, 80), !denied, "{order}");
        assert!(world.allows(OUTSIDE, API, UDP, 80));
    }
}

#[test]
fn tiers_pass_and_deny() {
    let mut world = world();
    world.calico(
        "
kind: Tier
metadata: {name: security}
spec: {order: 100}
---
kind: GlobalNetworkPolicy
metadata: {name: security.block}
spec:
  tier: security
  selector: app == 'api'
  ingress:
  - {action: Deny, source: {nets: [192.0.2.0/24]}}
  - {action: Allow, protocol: TCP, destination: {ports: [22]}}
  - {action: Pass, source: {selector: role == 'frontend'}}
---
kind: NetworkPolicy
metadata: {name: app, namespace: default}
spec:
  selector: app == 'api'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: ['8000:8080']}}]
",
    );
    assert!(!world.allows(OUTSIDE, API, TCP, 22));
    assert!(world.allows(BARE, API, TCP, 22), "allowed, whatever later tiers say");
    assert!(world.allows(WEB, API, TCP, 8080));
    assert!(!world.allows(WEB, API, TCP, 9000), "the end of tier default");
    assert!(!world.allows(BARE, API, TCP, 8080), "the end of tier security");
    assert!(world.allows(STRANGER, API, TCP, 8000), "frontends of all namespaces are passed on");

    world.calico(
        "{kind: Tier, metadata: {name: security}, spec: {order: 100, defaultAction: Pass}}",
    );
    assert!(world.allows(BARE, API, TCP, 8080));
    // After tier default, which lets in by port alone.
    world.calico("{kind: Tier, metadata: {name: security}, spec: {order: 2000000}}");
    assert!(world.allows(OUTSIDE, API, TCP, 8080));
    assert!(!world.allows(BARE, API, TCP, 22));

    // Without its tier the policy is the last, and what it does not decide is denied.
    world.calico("{kind: Tier, metadata: {name: security}, spec: {order: 1}}");
    assert!(!world.allows(OUTSIDE, API, TCP, 8080));
    world.remove(Kind::Tier, ObjectKey::cluster("security"));
    assert!(world.allows(OUTSIDE, API, TCP, 8080));
    let said = world.problems();
    let wanted = "GlobalNetworkPolicy security.block: spec.tier: tier \"security\" does not exist";
    assert!(said.len() == 1 && said[0].starts_with(wanted), "{said:?}");
    world.remove(Kind::NetworkPolicy, ObjectKey::namespaced("default", "app"));
    assert!(!world.allows(BARE, API, TCP, 8080));
    assert!(world.allows(BARE, API, TCP, 22));
}

/// A pass that no later tier takes up ends where there is no policy: allowed.
#[test]
fn what_the_last_tier_passes_is_allowed() {
    let mut world = world();
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: last}
spec: {tier: kube-baseline, selector: all(), ingress: [{action: Deny, protocol: UDP}]}
---
kind: NetworkPolicy
metadata: {name: pass, namespace: default}
spec: {selector: app == 'api', ingress: [{action: Pass}]}
",
    );
    assert!(world.allows(OUTSIDE, API, TCP, 80), "kube-baseline passes at its end");
    assert!(!world.allows(OUTSIDE, API, UDP, 80));
    world.calico("{kind: Tier, metadata: {name: kube-baseline}, spec: {order: 7}}");
    assert!(world.allows(OUTSIDE, API, TCP, 80), "what it always is");
    assert!(
        world.problems()[0].starts_with("Tier kube-baseline: spec: "),
        "{:?}",
        world.problems()
    );
}

#[test]
fn peers_by_selector_namespace_and_negation() {
    let mut world = world();
    let cases: [(&str, [bool; 5]); 9] = [
        // web, bare, stranger, customer, outside
        ("selector: role == 'frontend'", [true, false, false, false, false]),
        ("selector: all()", [true, true, false, false, false]),
        ("{namespaceSelector: all()}", [true, true, true, true, false]),
        ("{namespaceSelector: global()}", [false; 5]),
        (
            "{selector: role == 'frontend', namespaceSelector: team == 'other'}",
            [false, false, true, false, false],
        ),
        ("{notSelector: has(role)}", [false, true, false, false, false]),
        (
            "{namespaceSelector: all(), notSelector: role == 'frontend'}",
            [false, true, false, true, false],
        ),
        ("{notNets: [10.0.0.0/16]}", [false, false, false, false, true]),
        (
            "{nets: [10.0.0.0/8], notNets: [10.0.1.3/32, 10.0.0.2]}",
            [false, true, false, true, false],
        ),
    ];
    for (source, wanted) in cases {
        let source = source.trim_matches(['{', '}']);
        world.calico(&format!(
            "
kind: NetworkPolicy
metadata: {{name: peers, namespace: default}}
spec:
  selector: app == 'api'
  ingress: [{{action: Allow, source: {{{source}}}}}]
"
        ));
        let peers = [WEB, BARE, STRANGER, CUSTOMER, OUTSIDE];
        let found = peers.map(|peer| world.allows(peer, API, TCP, 80));
        assert_eq!(found, wanted, "{source}");
    }
    // The same in a global policy means all namespaces, and negation addresses of nobody too.
    world.remove(Kind::NetworkPolicy, ObjectKey::namespaced("default", "peers"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: peers}
spec:
  selector: app == 'api'
  ingress: [{action: Allow, source: {notSelector: role == 'frontend'}}]
",
    );
    let found = [WEB, BARE, STRANGER, CUSTOMER, OUTSIDE].map(|p| world.allows(p, API, TCP, 80));
    assert_eq!(found, [false, true, false, true, true]);
}

#[test]
fn network_sets_are_peers_by_label() {
    let mut world = world();
    world.calico(
        "
kind: GlobalNetworkSet
metadata: {name: partners, labels: {circle: partners}}
spec: {nets: [192.0.2.0/28, 2001:db8::/64, 10.0.1.4]}
---
kind: NetworkSet
metadata: {name: office, namespace: default, labels: {circle: office}}
spec: {nets: [192.0.2.0/24]}
---
kind: NetworkSet
metadata: {name: office, namespace: other, labels: {circle: office}}
spec: {nets: [198.51.100.0/24]}
---
kind: NetworkPolicy
metadata: {name: sets, namespace: default}
spec:
  selector: app == 'api'
  ingress:
  - {action: Deny, source: {selector: circle == 'partners', namespaceSelector: global()}, protocol: UDP}
  - {action: Allow, source: {selector: circle == 'office'}}
  - {action: Allow, source: {namespaceSelector: global(), selector: has(circle)}, protocol: TCP}
",
    );
    assert!(!world.allows("192.0.2.7", API, UDP, 53), "in both, and denied first");
    assert!(world.allows("192.0.2.7", API, TCP, 53));
    assert!(world.allows("192.0.2.77", API, UDP, 53));
    assert!(!world.allows("198.51.100.1", API, TCP, 53), "the set of another namespace");
    assert!(world.allows("2001:db8::1", API6, TCP, 53));
    assert!(!world.allows("2001:db8::1", API6, SCTP, 53));
    assert!(world.allows(CUSTOMER, API, TCP, 53), "a pod whose address is in a set");
    assert!(!world.allows(CUSTOMER, API, ICMP, 0));

    // A pod that comes and goes in a set is still one element.
    let new = pod("default", "new", &[("circle", "office")], &["192.0.2.9"], &[]);
    world.engine.apply(Update::Set(Object::Pod(new.clone())));
    assert!(world.settle().elements.len() <= 1);
    world.engine.apply(Update::Remove(Kind::Pod, new.key));
    assert!(world.settle().elements.len() <= 1);

    world.calico(
        "
kind: GlobalNetworkSet
metadata: {name: partners, labels: {circle: former}}
spec: {nets: [203.0.113.1, nonsense]}
",
    );
    assert!(world.allows("203.0.113.1", API, TCP, 53));
    assert!(world.allows("192.0.2.7", API, UDP, 53));
    assert!(!world.allows("2001:db8::1", API6, TCP, 53));
    assert_eq!(
        world.problems(),
        ["GlobalNetworkSet partners: spec.nets[1]: \"nonsense\" is neither a network in CIDR \
          notation nor an address"]
    );
    world.remove(Kind::NetworkSet, ObjectKey::namespaced("default", "office"));
    assert!(!world.allows("192.0.2.77", API, UDP, 53));
    world.remove(Kind::GlobalNetworkSet, ObjectKey::cluster("partners"));
    assert!(!world.allows("203.0.113.1", API, TCP, 53));
    assert!(world.problems().is_empty());
}

#[test]
fn network_sets_are_no_pods_to_kubernetes() {
    let mut world = world();
    world.calico(
        "
kind: NetworkSet
metadata: {name: forged, namespace: default, labels: {role: frontend}}
spec: {nets: [192.0.2.0/24]}
",
    );
    world.policy(
        "
metadata: {name: pods, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {role: frontend}}}]}]
",
    );
    assert!(world.allows(WEB, API, TCP, 80));
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
}

#[test]
fn service_accounts_by_name_and_by_label() {
    let mut world = world();
    let mut far = pod("other", "builder", &[], &["10.0.1.8"], &[]);
    far.service_account = "build".into();
    let mut near = pod("default", "builder", &[], &["10.0.1.7"], &[]);
    near.service_account = "build".into();
    for pod in [far, near] {
        world.engine.apply(Update::Set(Object::Pod(pod)));
    }
    let cases = [
        ("serviceAccounts: {names: [build]}", [true, false, false]),
        ("serviceAccounts: {names: [build]}, namespaceSelector: all()", [true, true, false]),
        (
            "serviceAccounts: {selector: trust == 'high'}, namespaceSelector: all()",
            [false, true, false],
        ),
        ("serviceAccounts: {names: [default, build]}, selector: has(role)", [false, false, true]),
    ];
    let key = ObjectKey::namespaced("other", "build");
    let labels = [("trust", "high")].into_iter().collect();
    world.engine.apply(Update::Set(Object::ServiceAccount(ServiceAccount { key, labels })));
    for (source, wanted) in cases {
        world.calico(&format!(
            "
kind: NetworkPolicy
metadata: {{name: accounts, namespace: default}}
spec: {{selector: app == 'api', ingress: [{{action: Allow, source: {{{source}}}}}]}}
"
        ));
        let found = ["10.0.1.7", "10.0.1.8", WEB].map(|peer| world.allows(peer, API, TCP, 80));
        assert_eq!(found, wanted, "{source}");
    }
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: accounts, namespace: default}
spec: {serviceAccountSelector: trust == 'high', types: [Ingress]}
",
    );
    assert!(world.allows(OUTSIDE, API, TCP, 80));
    let key = ObjectKey::namespaced("default", "default");
    let labels = [("trust", "high")].into_iter().collect();
    world.engine.apply(Update::Set(Object::ServiceAccount(ServiceAccount { key, labels })));
    world.settle();
    assert!(!world.allows(OUTSIDE, API, TCP, 80));
}

/// Protocol, port, whether it gets through.
type Probe = (u8, u16, bool);

#[test]
fn ports_and_protocols() {
    let mut world = world();
    world.local_with_ports(
        "default",
        "server",
        &[("app", "server")],
        &["10.0.0.4"],
        &[("http", TCP, 8000), ("dns", UDP, 5353)],
    );
    let cases: [(&str, &[Probe]); 9] = [
        (
            "protocol: TCP, destination: {ports: [80, '100:200']}",
            &[
                (TCP, 80, true),
                (TCP, 100, true),
                (TCP, 200, true),
                (TCP, 201, false),
                (UDP, 80, false),
            ],
        ),
        (
            "protocol: UDP, destination: {notPorts: [53]}",
            &[(UDP, 53, false), (UDP, 54, true), (TCP, 54, false)],
        ),
        (
            "protocol: TCP, destination: {ports: ['8000:8010'], notPorts: [http, 8005]}",
            &[(TCP, 8000, false), (TCP, 8001, true), (TCP, 8005, false), (TCP, 8010, true)],
        ),
        ("notProtocol: TCP", &[(TCP, 80, false), (UDP, 80, true), (ICMP, 0, true), (47, 0, true)]),
        (
            "destination: {ports: [http]}",
            &[(TCP, 8000, true), (UDP, 8000, false), (TCP, 80, false)],
        ),
        (
            "destination: {notPorts: [http]}",
            &[(TCP, 8000, false), (UDP, 8000, true), (TCP, 80, true), (ICMP, 0, true)],
        ),
        (
            "protocol: UDP, destination: {ports: [dns, http]}",
            &[(UDP, 5353, true), (UDP, 8000, false), (TCP, 5353, false)],
        ),
        ("protocol: ICMP", &[(ICMP, 0, true), (TCP, 80, false)]),
        ("protocol: 47", &[(47, 0, true), (ICMP, 0, false)]),
    ];
    for (rule, wanted) in cases {
        world.calico(&format!(
            "
kind: NetworkPolicy
metadata: {{name: ports, namespace: default}}
spec: {{selector: app == 'server', ingress: [{{action: Allow, {rule}}}]}}
---
kind: NetworkPolicy
metadata: {{name: ports-out, namespace: default}}
spec: {{selector: role == 'frontend', egress: [{{action: Allow, {rule}}}]}}
"
        ));
        for (protocol, port, allowed) in wanted {
            for source in [OUTSIDE, WEB] {
                let found = world.allows(source, "10.0.0.4", *protocol, *port);
                assert_eq!(found, *allowed, "{rule}: {source} {protocol} {port}");
            }
        }
    }
}

#[test]
fn ip_versions() {
    let mut world = world();
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: four, namespace: default}
spec: {selector: app == 'api', ingress: [{action: Allow, ipVersion: 4}]}
",
    );
    assert!(world.allows(OUTSIDE, API, TCP, 80));
    assert!(world.allows(WEB, API, TCP, 80));
    assert!(!world.allows("2001:db8::1", API6, TCP, 80));
    assert!(!world.allows("fd00::2", API6, TCP, 80));
}

/// The side of a rule that is the endpoint itself.
#[test]
fn rules_about_the_endpoint_itself() {
    let mut world = world();
    world.calico(
        "
kind: NetworkPolicy
metadata: {name: own, namespace: default}
spec:
  ingress:
  - {action: Allow, destination: {selector: app == 'api'}, protocol: TCP}
  - {action: Allow, destination: {nets: [10.0.0.2/32]}, protocol: UDP}
  - {action: Allow, destination: {notSelector: 'has(app) || has(role)'}, protocol: SCTP}
",
    );
    assert!(world.allows(OUTSIDE, API, TCP, 80));
    assert!(world.allows("2001:db8::1", API6, TCP, 80));
    assert!(!world.allows(OUTSIDE, WEB, TCP, 80));
    assert!(world.allows(OUTSIDE, WEB, UDP, 80));
    assert!(!world.allows("2001:db8::1", "fd00::2", UDP, 80));
    assert!(world.allows(OUTSIDE, BARE, SCTP, 80));
    assert!(!world.allows(OUTSIDE, API, SCTP, 80));
    // Labels of the endpoint change: the rules are asked again.
    world.local("default", "bare", &[("app", "api")], &["10.0.0.3", "fd00::3"]);
    assert!(world.allows(OUTSIDE, BARE, TCP, 80));
    assert!(!world.allows(OUTSIDE, BARE, SCTP, 80));
}

/// As long as the labels of a pod's namespace are not known, what could open for it stays closed.
#[test]
fn a_namespace_that_is_not_known_yet() {
    let mut world = world();
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: deny-untrusted}
spec:
  selector: app == 'api'
  ingress:
  - {action: Deny, source: {namespaceSelector: trust == 'low'}, protocol: TCP}
  - {action: Allow, source: {notSelector: pcns.trust == 'low'}, protocol: UDP}
  - {action: Allow, protocol: TCP}
",
    );
    world.remote("new", "pod", &[], &["10.0.5.1"]);
    assert!(!world.allows("10.0.5.1", API, TCP, 80));
    assert!(!world.allows("10.0.5.1", API, UDP, 80));
    world.engine.apply(set_namespace("new", &[("trust", "high")]));
    world.settle();
    assert!(world.allows("10.0.5.1", API, TCP, 80));
    assert!(world.allows("10.0.5.1", API, UDP, 80));
    world.engine.apply(set_namespace("new", &[("trust", "low")]));
    world.settle();
    assert!(!world.allows("10.0.5.1", API, TCP, 80));
}

#[test]
fn many_selectors_are_one_element_for_a_pod() {
    let mut world = world();
    for number in 0..20 {
        world.calico(&format!(
            "
kind: GlobalNetworkPolicy
metadata: {{name: p{number}}}
spec:
  order: {number}
  selector: app == 'api'
  ingress:
  - {{action: Pass, source: {{selector: role == 'frontend' || x == '{number}'}}, protocol: UDP}}
  - {{action: Allow, source: {{selector: role == 'frontend' && !has(x{number})}}, protocol: TCP}}
"
        ));
    }
    let new = pod("prod", "new", &[("role", "frontend")], &["10.9.9.9"], &[]);
    world.engine.apply(Update::Set(Object::Pod(new)));
    assert_eq!(world.settle().elements.len(), 1);
    assert!(world.allows("10.9.9.9", API, TCP, 1));
}
