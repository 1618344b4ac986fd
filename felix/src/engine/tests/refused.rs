//! Policies of Kubernetes that are wrong, or that mean to be more than they are.

use super::recipes::{OUTSIDE, world};
use super::world::{ICMP, TCP};

#[test]
fn a_bad_rule_allows_nothing_and_disturbs_nothing_else() {
    let mut world = world();
    world.policy(
        "
metadata: {name: partly-bad, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/33}}]
  - from: [{}]
  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]
  - from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]
  - from: [{podSelector: {matchExpressions: [{key: a, operator: Near, values: [b]}]}}]
  - ports: [{port: 70000}]
  - ports: [{port: 90, endPort: 80}]
  - ports: [{port: http, endPort: 80}]
  - ports: [{protocol: ICMP}]
  - ports: [{endPort: 80}]
  - ports: [{port: '80'}]
  - from: [{podSelector: {matchLabels: {role: frontend}}}, {ipBlock: {cidr: nonsense}}]
    ports: [{port: 8080}, {port: 0}]
",
    );
    assert!(!world.allows("10.0.0.3", "10.0.0.1", TCP, 80));
    assert!(!world.allows("10.0.0.3", "10.0.0.1", ICMP, 0));
    // What is right in the last rule counts.
    assert!(world.allows("10.0.0.2", "10.0.0.1", TCP, 8080));
    assert!(world.allows("10.0.0.3", "10.0.0.2", TCP, 80));
    let problems: Vec<String> =
        world.engine.problems().into_iter().map(|problem| problem.to_string()).collect();
    let fields = [
        "spec.ingress[0].from[0].ipBlock.cidr",
        "spec.ingress[1].from[0]",
        "spec.ingress[2].from[0].ipBlock.except[0]",
        "spec.ingress[3].from[0]",
        "spec.ingress[4].from[0].podSelector.matchExpressions[0]",
        "spec.ingress[5].ports[0].port",
        "spec.ingress[6].ports[0].endPort",
        "spec.ingress[7].ports[0].endPort",
        "spec.ingress[8].ports[0].protocol",
        "spec.ingress[9].ports[0].endPort",
        "spec.ingress[10].ports[0].port",
        "spec.ingress[11].from[1].ipBlock.cidr",
        "spec.ingress[11].ports[1].port",
    ];
    assert_eq!(problems.len(), fields.len(), "{problems:#?}");
    for field in fields {
        let start = format!("KubernetesNetworkPolicy default/partly-bad: {field}: ");
        assert!(
            problems.iter().any(|problem| problem.starts_with(&start)),
            "{field}: {problems:#?}"
        );
    }
    world.remove_policy("default", "partly-bad");
    assert!(world.engine.problems().is_empty());
}

#[test]
fn a_bad_pod_selector_isolates_and_allows_nothing() {
    let mut world = world();
    world.policy(
        "
metadata: {name: bad, namespace: default}
spec:
  podSelector: {matchExpressions: [{key: app, operator: Like, values: [api]}]}
  ingress: [{}]
",
    );
    assert!(!world.allows(OUTSIDE, "10.0.0.1", TCP, 80));
    assert!(world.allows("10.0.0.1", "10.0.1.3", TCP, 80));
    assert_eq!(world.engine.problems().len(), 1);
    // Quotes and operators in a key are not taken for selector text.
    world.policy(
        "
metadata: {name: bad, namespace: default}
spec:
  podSelector: {matchLabels: {\"app == 'api' || has(x\": v}}
  ingress: [{}]
",
    );
    assert!(!world.allows(OUTSIDE, "10.0.0.1", TCP, 80));
    assert!(world.engine.problems()[0].field.starts_with("spec.podSelector.matchLabels["));
}

#[test]
fn labels_of_a_pod_are_not_taken_for_its_namespace() {
    let mut world = world();
    let forged = [
        ("pcns.team", "prod"),
        ("projectcalico.org/namespace", "default"),
        ("pcns.kubernetes.io/metadata.name", "prod"),
        ("role", "frontend"),
    ];
    world.remote("other", "forger", &forged, &["10.6.6.6"]);
    world.policy(
        "
metadata: {name: strict, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: prod}}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: prod}}
    - podSelector: {matchLabels: {role: frontend}}
",
    );
    assert!(!world.allows("10.6.6.6", "10.0.0.1", TCP, 80));
    assert!(world.allows("10.0.1.4", "10.0.0.1", TCP, 80));
}
