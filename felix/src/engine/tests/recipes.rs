//! What people write, and what must come of it.

use super::world::{ICMP, SCTP, TCP, UDP, World};

/// Three pods of this node and one of another in namespace `default`, one in `other`.
pub(super) fn world() -> World {
    let mut world = World::new(&["default", "other", "prod"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1", "fd00::1"]);
    world.local("default", "web", &[("role", "frontend")], &["10.0.0.2", "fd00::2"]);
    world.local("default", "bare", &[], &["10.0.0.3", "fd00::3"]);
    world.remote("default", "far-web", &[("role", "frontend")], &["10.0.1.1", "fd00:1::1"]);
    world.remote("default", "far-bare", &[], &["10.0.1.2", "fd00:1::2"]);
    world.remote("other", "stranger", &[("role", "frontend")], &["10.0.1.3", "fd00:1::3"]);
    world.remote("prod", "customer", &[("role", "db")], &["10.0.1.4", "fd00:1::4"]);
    world
}

pub(super) const OUTSIDE: &str = "192.0.2.7";

const DENY_ALL_INGRESS: &str = "
metadata: {name: default-deny-ingress, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Ingress]
";

const ALLOW_FRONTEND: &str = "
metadata: {name: allow-frontend, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {role: frontend}}
    ports:
    - {protocol: TCP, port: 8080}
";

#[test]
fn no_policy_allows_everything() {
    let world = world();
    for (source, destination) in [
        ("10.0.0.1", "10.0.0.2"),
        ("fd00::1", "fd00:1::3"),
        ("10.0.1.3", "10.0.0.1"),
        (OUTSIDE, "10.0.0.1"),
        ("10.0.0.1", OUTSIDE),
    ] {
        for protocol in [TCP, UDP, SCTP, ICMP, 47] {
            assert!(world.allows(source, destination, protocol, 80));
        }
    }
    // Nothing but what the endpoints need: wl, src twice, and one verdict for each direction.
    assert_eq!(world.kernel.elements.len(), 3 * 5);
}

#[test]
fn default_deny_ingress_then_allow_frontend() {
    let mut world = world();
    let delta = world.policy(DENY_ALL_INGRESS);
    assert_eq!(delta.elements.len(), 3, "the default of three endpoints goes: {delta:?}");
    assert_eq!(delta.rejudge.len(), 6);
    assert!(!world.allows("10.0.0.2", "10.0.0.1", TCP, 8080));
    assert!(!world.allows("fd00:1::1", "fd00::1", TCP, 8080));
    assert!(!world.allows(OUTSIDE, "10.0.0.1", ICMP, 0));
    // Egress is free, and so are pods of other namespaces.
    assert!(world.allows("10.0.0.1", "10.0.1.3", TCP, 8080));
    assert!(world.allows("10.0.0.1", OUTSIDE, UDP, 53));

    let delta = world.policy(ALLOW_FRONTEND);
    assert_eq!(delta.rejudge.len(), 2, "only the api pod is concerned: {delta:?}");
    for frontend in ["10.0.0.2", "10.0.1.1"] {
        assert!(world.allows(frontend, "10.0.0.1", TCP, 8080));
        assert!(!world.allows(frontend, "10.0.0.1", TCP, 8081));
        assert!(!world.allows(frontend, "10.0.0.1", UDP, 8080));
        assert!(!world.allows(frontend, "10.0.0.1", ICMP, 8080));
        assert!(!world.allows(frontend, "10.0.0.3", TCP, 8080));
    }
    assert!(world.allows("fd00::2", "fd00::1", TCP, 8080));
    for other in ["10.0.0.3", "10.0.1.2", "10.0.1.3", OUTSIDE] {
        assert!(!world.allows(other, "10.0.0.1", TCP, 8080), "{other}");
    }

    let before = world.kernel.elements.len();
    world.remove_policy("default", "allow-frontend");
    assert!(!world.allows("10.0.0.2", "10.0.0.1", TCP, 8080));
    assert!(world.kernel.elements.len() < before);
    world.remove_policy("default", "default-deny-ingress");
    assert!(world.allows(OUTSIDE, "10.0.0.1", ICMP, 0));
    assert_eq!(world.kernel.elements.len(), 3 * 5, "nothing is left behind");
    assert_eq!(world.engine.counts().atoms, 0);
    assert_eq!(world.engine.counts().classes, 0);
}

#[test]
fn a_pod_anywhere_is_one_element_an_address() {
    let mut world = world();
    world.policy(DENY_ALL_INGRESS);
    world.policy(ALLOW_FRONTEND);
    let pod = super::world::pod("default", "new", &[("role", "frontend")], &["10.9.9.9"], &[]);
    let key = pod.key.clone();
    world.engine.apply(crate::model::Update::Set(crate::model::Object::Pod(pod)));
    let delta = world.settle();
    assert_eq!(delta.elements.len(), 1, "{delta:?}");
    assert!(world.allows("10.9.9.9", "10.0.0.1", TCP, 8080));
    world.engine.apply(crate::model::Update::Remove(crate::model::Kind::Pod, key));
    let delta = world.settle();
    assert_eq!(delta.elements.len(), 1, "{delta:?}");
    assert_eq!(delta.rejudge, ["10.9.9.9".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!world.allows("10.9.9.9", "10.0.0.1", TCP, 8080));
}

#[test]
fn allow_all_ingress() {
    let mut world = world();
    world.policy(DENY_ALL_INGRESS);
    world.policy(
        "
metadata: {name: allow-all, namespace: default}
spec: {podSelector: {}, ingress: [{}], policyTypes: [Ingress]}
",
    );
    assert!(world.allows(OUTSIDE, "10.0.0.1", TCP, 1));
    assert!(world.allows("10.0.1.3", "10.0.0.1", ICMP, 0));
}

#[test]
fn deny_all_egress_and_dns_only() {
    let mut world = world();
    world.policy(
        "
metadata: {name: deny-egress, namespace: default}
spec: {podSelector: {}, policyTypes: [Egress]}
",
    );
    assert!(!world.allows("10.0.0.1", OUTSIDE, TCP, 443));
    assert!(!world.allows("fd00::1", "fd00:1::3", UDP, 53));
    // Ingress is not concerned.
    assert!(world.allows(OUTSIDE, "10.0.0.1", TCP, 443));
    world.policy(
        "
metadata: {name: dns, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
",
    );
    for protocol in [UDP, TCP] {
        assert!(world.allows("10.0.0.1", OUTSIDE, protocol, 53));
        assert!(!world.allows("10.0.0.1", OUTSIDE, protocol, 54));
    }
    assert!(!world.allows("10.0.0.1", OUTSIDE, SCTP, 53));
}

#[test]
fn policy_types_default_to_what_has_rules() {
    let mut world = world();
    world.policy(
        "
metadata: {name: egress-rules, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]
",
    );
    // Both directions are isolated.
    assert!(world.allows("10.0.0.1", OUTSIDE, TCP, 80));
    assert!(!world.allows("10.0.0.1", "10.0.0.2", TCP, 80));
    assert!(!world.allows("10.0.0.2", "10.0.0.1", TCP, 80));
    world.remove_policy("default", "egress-rules");
    // An egress section without rules is none.
    world.policy(
        "
metadata: {name: empty-egress, namespace: default}
spec: {podSelector: {matchLabels: {app: api}}, egress: []}
",
    );
    assert!(world.allows("10.0.0.1", OUTSIDE, TCP, 80));
    assert!(!world.allows("10.0.0.2", "10.0.0.1", TCP, 80));
    // Rules of a direction that is not named mean nothing.
    world.policy(
        "
metadata: {name: empty-egress, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  policyTypes: [Egress]
  ingress: [{from: [{podSelector: {}}]}]
  egress: [{}]
",
    );
    assert!(world.allows(OUTSIDE, "10.0.0.1", TCP, 80));
    // A policy without a spec selects everything for ingress.
    world.policy("metadata: {name: bare, namespace: default}");
    assert!(!world.allows(OUTSIDE, "10.0.0.1", TCP, 80));
}

#[test]
fn namespaces_are_selected_by_labels_and_by_name() {
    let mut world = world();
    for selector in [
        "{matchLabels: {team: other}}",
        "{matchLabels: {kubernetes.io/metadata.name: other}}",
        "{matchExpressions: [{key: team, operator: NotIn, values: [default, prod]}]}",
    ] {
        world.policy(&format!(
            "
metadata: {{name: by-namespace, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: api}}}}
  ingress: [{{from: [{{namespaceSelector: {selector}}}]}}]
"
        ));
        assert!(world.allows("10.0.1.3", "10.0.0.1", TCP, 80), "{selector}");
        assert!(!world.allows("10.0.1.4", "10.0.0.1", TCP, 80), "{selector}");
        assert!(!world.allows("10.0.0.2", "10.0.0.1", TCP, 80), "{selector}");
        assert!(!world.allows(OUTSIDE, "10.0.0.1", TCP, 80), "{selector}");
    }
    // The labels of the namespace change.
    world.policy(
        "
metadata: {name: by-namespace, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {env: live}}}]}]
",
    );
    assert!(!world.allows("10.0.1.4", "10.0.0.1", TCP, 80));
    world.engine.apply(super::world::set_namespace("prod", &[("env", "live")]));
    let delta = world.settle();
    assert_eq!(delta.elements.len(), 3, "two addresses, and their class's verdict: {delta:?}");
    assert!(world.allows("10.0.1.4", "10.0.0.1", TCP, 80));
}

#[test]
fn both_selectors_in_one_peer_must_hold_two_peers_are_alternatives() {
    let mut world = world();
    world.policy(
        "
metadata: {name: and, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: other}}
      podSelector: {matchLabels: {role: frontend}}
",
    );
    assert!(world.allows("10.0.1.3", "10.0.0.1", TCP, 80));
    assert!(!world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    world.policy(
        "
metadata: {name: and, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: prod}}
    - podSelector: {matchLabels: {role: frontend}}
",
    );
    assert!(world.allows("10.0.1.4", "10.0.0.1", TCP, 80));
    assert!(world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    assert!(!world.allows("10.0.1.3", "10.0.0.1", TCP, 80));
}

#[test]
fn an_empty_namespace_selector_is_every_pod_and_nothing_else() {
    let mut world = world();
    world.policy(
        "
metadata: {name: pods, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{namespaceSelector: {}}]}]
",
    );
    for pod in ["10.0.0.2", "10.0.1.3", "10.0.1.4"] {
        assert!(world.allows(pod, "10.0.0.1", TCP, 80));
    }
    assert!(!world.allows(OUTSIDE, "10.0.0.1", TCP, 80));
}

#[test]
fn ip_block_with_except() {
    let mut world = world();
    world.policy(
        "
metadata: {name: block, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25, 192.0.2.7/32]}}]}]
  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}, {ipBlock: {cidr: '::/0'}}]}]
",
    );
    for (source, allowed) in [
        ("192.0.2.0", true),
        ("192.0.2.6", true),
        ("192.0.2.7", false),
        ("192.0.2.8", true),
        ("192.0.2.127", true),
        ("192.0.2.128", false),
        ("192.0.3.0", false),
        ("10.0.0.2", false),
        ("2001:db8::1", false),
    ] {
        let destination = if source.contains(':') { "fd00::1" } else { "10.0.0.1" };
        assert_eq!(world.allows(source, destination, TCP, 80), allowed, "{source}");
    }
    assert!(world.allows("10.0.0.1", OUTSIDE, TCP, 80));
    assert!(!world.allows("10.0.0.1", "10.0.1.3", TCP, 80));
    assert!(world.allows("fd00::1", "fd00:1::3", TCP, 80));
    assert!(world.allows("10.0.0.1", "255.255.255.255", TCP, 80));
}

#[test]
fn a_pod_in_an_allowed_block_needs_no_element_of_its_own() {
    let mut world = world();
    world.policy(
        "
metadata: {name: block, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]
",
    );
    assert!(world.allows("10.0.1.3", "10.0.0.1", TCP, 80));
    let exact =
        world.kernel.elements.keys().filter(|key| matches!(key, crate::model::Key::Class(_)));
    assert_eq!(exact.count(), 0);
}

#[test]
fn named_ports_are_what_the_destination_calls_so() {
    let mut world = world();
    world.local_with_ports(
        "default",
        "server",
        &[("app", "server")],
        &["10.0.0.4"],
        &[("http", TCP, 8000), ("dns", UDP, 5353)],
    );
    world.policy(
        "
metadata: {name: named, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: http}]}]
  egress: [{ports: [{port: http}, {port: dns, protocol: UDP}]}]
",
    );
    assert!(world.allows("10.0.0.1", "10.0.0.4", TCP, 8000));
    assert!(!world.allows("10.0.0.1", "10.0.0.4", TCP, 8001));
    assert!(!world.allows("10.0.0.1", "10.0.0.4", UDP, 8000));
    // Egress lets DNS out, ingress does not let it in.
    assert!(!world.allows("10.0.0.1", "10.0.0.4", UDP, 5353));
    // A destination without such a port, and one that is no pod.
    assert!(!world.allows("10.0.0.1", "10.0.0.2", TCP, 8000));
    assert!(!world.allows("10.0.0.1", OUTSIDE, TCP, 8000));

    // A remote pod with a port of the same name and another number.
    let far = super::world::pod(
        "other",
        "far-server",
        &[],
        &["10.0.1.9"],
        &[("http", TCP, 9000), ("dns", TCP, 53)],
    );
    world.engine.apply(crate::model::Update::Set(crate::model::Object::Pod(far)));
    world.settle();
    assert!(world.allows("10.0.0.1", "10.0.1.9", TCP, 9000));
    assert!(!world.allows("10.0.0.1", "10.0.1.9", TCP, 8000));
    assert!(!world.allows("10.0.0.1", "10.0.1.9", UDP, 53));
}

#[test]
fn end_port_and_whole_protocols() {
    let mut world = world();
    world.policy(
        "
metadata: {name: ports, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - ports:
    - {port: 32000, endPort: 32768}
    - {port: 100, endPort: 110}
    - {protocol: SCTP}
    - {protocol: UDP, port: 1, endPort: 65535}
",
    );
    for (protocol, port, allowed) in [
        (TCP, 31999, false),
        (TCP, 32000, true),
        (TCP, 32768, true),
        (TCP, 32769, false),
        (TCP, 99, false),
        (TCP, 100, true),
        (TCP, 110, true),
        (TCP, 111, false),
        (SCTP, 0, true),
        (SCTP, 65535, true),
        (UDP, 0, false),
        (UDP, 1, true),
        (UDP, 65535, true),
        (ICMP, 0, false),
    ] {
        assert_eq!(world.allows(OUTSIDE, "10.0.0.1", protocol, port), allowed, "{protocol} {port}");
    }
}

#[test]
fn policies_add_up() {
    let mut world = world();
    for (name, port) in [("a", 1), ("b", 2), ("c", 2)] {
        world.policy(&format!(
            "
metadata: {{name: {name}, namespace: default}}
spec: {{podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{ports: [{{port: {port}}}]}}]}}
"
        ));
    }
    assert!(world.allows(OUTSIDE, "10.0.0.1", TCP, 1));
    assert!(world.allows(OUTSIDE, "10.0.0.1", TCP, 2));
    let delta = world.remove_policy("default", "c");
    assert!(delta.elements.is_empty() && delta.rejudge.is_empty(), "{delta:?}");
    world.remove_policy("default", "b");
    assert!(!world.allows(OUTSIDE, "10.0.0.1", TCP, 2));
}
