//! Endpoints of this node, what is known of their pods, and what else the agent relies on.

use std::net::IpAddr;
use std::sync::Arc;

use super::kernel::Kernel;
use super::world::{
    SOURCE_PORT, TCP, World, endpoint_of, id_of, ip, parse_policy, pod, set_namespace, set_policy,
};
use crate::engine::{AppliedPolicy, Counts, Engine, PolicyId};
use crate::model::{
    Change, Class, Direction, Flow, Key, Kind, Object, ObjectKey, Traffic, Update, Value, Verdict,
};

const ISOLATE: &str = "
metadata: {name: isolate, namespace: default}
spec: {podSelector: {matchLabels: {app: api}}, policyTypes: [Ingress, Egress]}
";

fn policies_allowing(kernel: &Kernel) -> Vec<(Direction, Option<Class>, Traffic)> {
    let keys = kernel.elements.iter().filter_map(|(key, value)| match *key {
        Key::Policy { .. } if *value == Value::Verdict(Verdict::Deny) => None,
        Key::Policy { direction, class, traffic, .. } => Some((direction, class, traffic)),
        _ => None,
    });
    keys.collect()
}

#[test]
fn nothing_is_taken_before_the_source_is_in_sync() {
    let mut engine = Engine::new();
    let web = pod("default", "web", &[("app", "api")], &["10.0.0.1"], &[]);
    engine.endpoint_set(endpoint_of(&web, 7));
    assert_eq!(engine.take_delta(), None);
    assert!(!engine.in_sync());
    let flow = |from, to| Flow {
        protocol: TCP,
        source: ip(from),
        destination: ip(to),
        source_port: SOURCE_PORT,
        destination_port: 80,
    };
    // Nothing is known of the endpoint's policy: it is closed. Other traffic is not ours.
    assert_eq!(engine.verdict(&flow("192.0.2.1", "10.0.0.1")), Verdict::Deny);
    assert_eq!(engine.verdict(&flow("10.0.0.1", "192.0.2.1")), Verdict::Deny);
    assert_eq!(engine.verdict(&flow("10.0.0.9", "192.0.2.1")), Verdict::Allow);
    engine.apply(set_policy(ISOLATE));
    assert_eq!(engine.take_delta(), None);
    engine.apply(Update::InSync);
    let delta = engine.take_delta().unwrap();
    // Isolated by the recorded labels: nothing but deny.
    let deny = |direction| {
        let key = Key::Policy { direction, index: 7, class: None, traffic: Traffic::Any };
        Change { key, value: Some(Value::Verdict(Verdict::Deny)) }
    };
    let member = |key| Change { key, value: Some(Value::Member) };
    assert_eq!(
        delta.elements,
        [
            member(Key::Workload(7)),
            member(Key::Source(ip("10.0.0.1"), 7)),
            deny(Direction::Ingress),
            deny(Direction::Egress)
        ]
    );
    // Flows from before the start are judged.
    assert_eq!(delta.rejudge, [ip("10.0.0.1")]);
}

#[test]
fn an_endpoint_gets_everything_in_one_delta_and_gives_it_back() {
    let mut world = World::new(&["default"]);
    world.policy(ISOLATE);
    world.remote("default", "peer", &[("role", "peer")], &["10.0.1.1"]);
    world.policy(
        "
metadata: {name: allow, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {role: peer}}}], ports: [{port: 80}]}]
",
    );
    assert!(world.kernel.elements.is_empty(), "no policy applies here yet");
    let api = pod("default", "api", &[("app", "api")], &["10.0.0.1", "fd00::1"], &[]);
    world.engine.endpoint_set(endpoint_of(&api, 7));
    let delta = world.settle();
    let Value::Class(class) = world.kernel.elements[&Key::Class(ip("10.0.1.1"))] else {
        panic!("no class: {delta:?}")
    };
    let policy = |direction, class, traffic| Key::Policy { direction, index: 7, class, traffic };
    let (allow, deny) = (Value::Verdict(Verdict::Allow), Value::Verdict(Verdict::Deny));
    let elements: Vec<(Key, Option<Value>)> =
        delta.elements.iter().map(|change| (change.key, change.value)).collect();
    assert_eq!(
        elements,
        [
            (Key::Workload(7), Some(Value::Member)),
            (Key::Source(ip("10.0.0.1"), 7), Some(Value::Member)),
            (Key::Source(ip("fd00::1"), 7), Some(Value::Member)),
            (Key::Class(ip("10.0.1.1")), Some(Value::Class(class))),
            (policy(Direction::Ingress, None, Traffic::Any), Some(deny)),
            (policy(Direction::Ingress, Some(class), Traffic::Port(6, 80)), Some(allow)),
            (policy(Direction::Ingress, Some(class), Traffic::Any), Some(deny)),
            (policy(Direction::Egress, None, Traffic::Any), Some(deny)),
        ]
    );
    assert!(delta.rejudge.is_empty(), "it has no flows yet: {delta:?}");

    // The same again is nothing; another interface is new keys for old.
    world.engine.endpoint_set(endpoint_of(&api, 7));
    assert_eq!(world.engine.take_delta(), None);
    world.engine.endpoint_set(endpoint_of(&api, 8));
    let delta = world.settle();
    assert_eq!(delta.elements.len(), 14, "{delta:?}");

    world.engine.endpoint_remove(&id_of("api"));
    world.settle();
    assert!(world.kernel.elements.is_empty(), "{:?}", world.kernel.elements);
    world.engine.endpoint_remove(&id_of("api"));
    assert_eq!(world.engine.take_delta(), None);
}

#[test]
fn an_address_is_classed_before_its_pod_reports_it() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.policy(
        "
metadata: {name: allow, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {role: peer}}}]}]
",
    );
    let mut peer = pod("default", "peer", &[("role", "peer")], &["10.0.0.2"], &[]);
    world.engine.endpoint_set(endpoint_of(&peer, 9));
    world.settle();
    let flow = Flow {
        protocol: TCP,
        source: ip("10.0.0.2"),
        destination: ip("10.0.0.1"),
        source_port: SOURCE_PORT,
        destination_port: 1,
    };
    assert_eq!(world.engine.verdict(&flow), Verdict::Allow);
    // The pod without its address, then with it: nothing to do.
    let addresses = std::mem::take(&mut peer.addresses);
    world.engine.apply(Update::Set(Object::Pod(peer.clone())));
    assert_eq!(world.engine.take_delta(), None);
    peer.addresses = addresses;
    world.engine.apply(Update::Set(Object::Pod(peer.clone())));
    assert_eq!(world.engine.take_delta(), None);
    // The endpoint goes first, then the pod.
    world.engine.endpoint_remove(&id_of("peer"));
    world.settle();
    assert_eq!(world.engine.verdict(&flow), Verdict::Allow, "the source still has it there");
    world.engine.apply(Update::Remove(Kind::Pod, peer.key));
    world.settle();
    assert_eq!(world.engine.verdict(&flow), Verdict::Deny);
}

#[test]
fn an_endpoint_outlives_its_pod_with_the_labels_last_known() {
    let mut world = World::new(&["default"]);
    world.policy(ISOLATE);
    let mut it = pod("default", "it", &[], &["10.0.0.1"], &[]);
    world.engine.endpoint_set(endpoint_of(&it, 7));
    world.engine.apply(Update::Set(Object::Pod(it.clone())));
    world.settle();
    assert_eq!(policies_allowing(&world.kernel).len(), 2, "free in both directions");

    // Quarantined, then deleted by force while its container lives on.
    it.labels = [("app", "api")].into_iter().collect();
    world.engine.apply(Update::Set(Object::Pod(it.clone())));
    let delta = world.settle();
    assert_eq!(delta.rejudge, [ip("10.0.0.1")]);
    assert!(policies_allowing(&world.kernel).is_empty());
    world.engine.apply(Update::Remove(Kind::Pod, it.key.clone()));
    assert_eq!(world.engine.take_delta(), None);
    let record = world.engine.endpoint(&id_of("it")).unwrap();
    assert_eq!(record.labels.get("app").map(String::as_str), Some("api"));

    // A new pod of that name is another pod, and another endpoint.
    let mut successor = pod("default", "it", &[("role", "free")], &["10.0.0.2"], &[]);
    successor.uid = "another".into();
    world.engine.apply(Update::Set(Object::Pod(successor.clone())));
    world.settle();
    assert!(policies_allowing(&world.kernel).is_empty());
    let mut endpoint = endpoint_of(&successor, 8);
    endpoint.id.container_id = "c-successor".into();
    world.engine.endpoint_set(endpoint);
    world.settle();
    assert_eq!(policies_allowing(&world.kernel).len(), 2);
}

/// The runtime knows a static pod by another uid than the API server knows its mirror by.
#[test]
fn an_endpoint_of_a_static_pod_follows_its_mirror() {
    let mut world = World::new(&["default"]);
    world.policy(ISOLATE);
    let mut mirror = pod("default", "it", &[("app", "api")], &["10.0.0.1"], &[]);
    let mut endpoint = endpoint_of(&mirror, 7);
    endpoint.pod_uid = "4f2bdd5b".into();
    endpoint.labels.clear();
    world.engine.endpoint_set(endpoint);
    world.engine.apply(Update::Set(Object::Pod(mirror.clone())));
    world.settle();
    assert_eq!(policies_allowing(&world.kernel).len(), 2, "another pod's labels do not count");
    mirror.mirror_uid = Some("4f2bdd5b".into());
    world.engine.apply(Update::Set(Object::Pod(mirror)));
    world.settle();
    assert!(policies_allowing(&world.kernel).is_empty());
}

#[test]
fn an_interface_index_names_one_endpoint() {
    let mut world = World::new(&["default"]);
    let old = pod("default", "old", &[], &["10.0.0.1"], &[]);
    let new = pod("default", "new", &[], &["10.0.0.2"], &[]);
    world.engine.endpoint_set(endpoint_of(&old, 7));
    world.settle();
    world.engine.endpoint_set(endpoint_of(&new, 7));
    world.settle();
    assert!(world.kernel.elements.contains_key(&Key::Source(ip("10.0.0.2"), 7)));
    assert!(!world.kernel.elements.contains_key(&Key::Source(ip("10.0.0.1"), 7)));
    let problems = world.engine.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "Pod default/old: its interface index 7 was given to another endpoint"
    );
    world.engine.endpoint_remove(&id_of("old"));
    assert!(world.engine.problems().is_empty());
    assert_eq!(world.engine.take_delta(), None);
}

#[test]
fn the_host_may_always_reach_its_own_pods() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.policy(ISOLATE);
    world.engine.set_host_addresses([ip("172.16.0.1")]);
    assert_eq!(world.engine.take_delta(), None);
    let flow = |from, to| Flow {
        protocol: TCP,
        source: ip(from),
        destination: ip(to),
        source_port: SOURCE_PORT,
        destination_port: 80,
    };
    assert_eq!(world.engine.verdict(&flow("172.16.0.1", "10.0.0.1")), Verdict::Allow);
    assert_eq!(world.engine.verdict(&flow("172.16.0.2", "10.0.0.1")), Verdict::Deny);
    assert_eq!(world.engine.verdict(&flow("10.0.0.1", "172.16.0.1")), Verdict::Deny);
}

#[test]
fn host_network_and_finished_pods_have_no_addresses() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.policy(
        "
metadata: {name: allow, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {}}]}]
",
    );
    let mut peer = pod("default", "peer", &[], &["10.0.1.1"], &[]);
    peer.host_network = true;
    world.engine.apply(Update::Set(Object::Pod(peer.clone())));
    world.settle();
    assert!(!world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    peer.host_network = false;
    world.engine.apply(Update::Set(Object::Pod(peer.clone())));
    world.settle();
    assert!(world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    peer.addresses.clear();
    world.engine.apply(Update::Set(Object::Pod(peer.clone())));
    world.settle();
    assert!(!world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    assert_eq!(world.engine.pod(&peer.key), Some(&peer));
    // The address goes to another pod, which is not let in.
    world.engine.apply(set_namespace("other", &[]));
    world.remote("other", "heir", &[], &["10.0.1.1"]);
    assert!(!world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
}

#[test]
fn a_namespace_not_known_yet_hinders_only_what_asks_for_its_labels() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.remote("fresh", "x", &[("role", "peer")], &["10.0.1.1"]);
    let allow = |selector: &str| {
        format!(
            "
metadata: {{name: allow, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: api}}}}
  ingress: [{{from: [{{namespaceSelector: {selector}}}]}}]
"
        )
    };
    world.policy(&allow("{matchExpressions: [{key: env, operator: NotIn, values: [prod]}]}"));
    assert!(!world.allows("10.0.1.1", "10.0.0.1", TCP, 80), "it may be prod");
    world.engine.apply(set_namespace("fresh", &[("env", "test")]));
    world.settle();
    assert!(world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    world.engine.apply(Update::Remove(Kind::Namespace, ObjectKey::cluster("fresh")));
    world.settle();
    assert!(!world.allows("10.0.1.1", "10.0.0.1", TCP, 80));
    for by_name in ["{}", "{matchLabels: {kubernetes.io/metadata.name: fresh}}"] {
        world.policy(&allow(by_name));
        assert!(world.allows("10.0.1.1", "10.0.0.1", TCP, 80), "{by_name}");
    }
    // A policy in it works by its podSelector, for pods of it.
    world.local("fresh", "y", &[("app", "api")], &["10.0.0.2"]);
    world.policy(
        "
metadata: {name: own, namespace: fresh}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {role: peer}}}]}]}
",
    );
    assert!(world.allows("10.0.1.1", "10.0.0.2", TCP, 80));
    assert!(!world.allows("10.0.0.1", "10.0.0.2", TCP, 80));
}

#[test]
fn pools_that_masquerade() {
    let mut world = World::new(&[]);
    let pool = |name: &str, cidr: &str, nat_outgoing: bool| {
        let pool: api::v3::IPPool = serde_saphyr::from_str(&format!(
            "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: {name}}}
spec: {{cidr: '{cidr}', natOutgoing: {nat_outgoing}}}
"
        ))
        .unwrap();
        Update::Set(Object::IPPool(Arc::new(pool)))
    };
    let net = |text: &str| text.parse().unwrap();
    world.engine.apply(pool("v4", "10.0.0.0/16", true));
    world.engine.apply(pool("v6", "fd00::/48", false));
    world.settle();
    let keys: Vec<Key> = world.kernel.elements.keys().copied().collect();
    let (v4, v6) = (net("10.0.0.0/16"), net("fd00::/48"));
    assert_eq!(keys, [Key::Masquerade(v4), Key::Pool(v4), Key::Pool(v6)]);

    // Pools must not overlap; the kernel is never given intervals that do.
    world.engine.apply(pool("inner", "10.0.1.0/24", true));
    world.engine.apply(pool("twin", "10.0.0.0/16", true));
    world.engine.apply(pool("bad", "10.0.0.0", true));
    assert_eq!(world.engine.take_delta(), None);
    let problems: Vec<String> = world.engine.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "IPPool bad: spec.cidr: \"10.0.0.0\" is not an address with a prefix length",
            "IPPool inner: spec.cidr: 10.0.1.0/24 lies in 10.0.0.0/16 of pool twin",
            "IPPool v4: spec.cidr: 10.0.0.0/16 lies in 10.0.0.0/16 of pool twin",
        ]
    );
    for name in ["v4", "twin"] {
        world.engine.apply(Update::Remove(Kind::IPPool, ObjectKey::cluster(name)));
    }
    world.settle();
    let inner = net("10.0.1.0/24");
    let keys: Vec<Key> = world.kernel.elements.keys().copied().collect();
    assert_eq!(keys, [Key::Masquerade(inner), Key::Pool(inner), Key::Pool(v6)]);
    world.engine.apply(pool("inner", "10.0.1.0/24", false));
    world.engine.apply(Update::Remove(Kind::IPPool, ObjectKey::cluster("v6")));
    world.settle();
    let keys: Vec<Key> = world.kernel.elements.keys().copied().collect();
    assert_eq!(keys, [Key::Pool(inner)]);
}

#[test]
fn endpoints_with_the_same_policies_share_a_program() {
    let mut world = World::new(&["default"]);
    for number in 1..=20 {
        let address = format!("10.0.0.{number}");
        world.local("default", &format!("p{number}"), &[("app", "api")], &[&address]);
    }
    world.policy(ISOLATE);
    let counts = world.engine.counts();
    assert_eq!((counts.programs, counts.shapes, counts.endpoints), (2, 1, 20));
}

#[test]
fn policies_are_told_in_evaluation_order() {
    let mut world = World::new(&["default", "other"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.policy(ISOLATE);
    world.policy("{metadata: {name: all, namespace: default}, spec: {podSelector: {}}}");
    world.policy("{metadata: {name: all, namespace: other}, spec: {podSelector: {}}}");
    let policy = |name, egress| AppliedPolicy {
        id: PolicyId {
            kind: Kind::KubernetesNetworkPolicy,
            key: ObjectKey::namespaced("default", name),
        },
        ingress: true,
        egress,
    };
    assert_eq!(
        world.engine.policies_for(&id_of("api")),
        [policy("all", false), policy("isolate", true)]
    );
}

/// What the kernel's list says beside elements follows from what is in force, whatever changes.
#[test]
fn whose_and_which_policies_are_said() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    let said = |world: &World| {
        let index = world.engine.endpoint(&id_of("api")).unwrap().host_index;
        let at = |direction| Key::Policy { direction, index, class: None, traffic: Traffic::Any };
        let keys = [Key::Workload(index), at(Direction::Ingress), at(Direction::Egress)];
        keys.map(|key| world.kernel.comments[&key].to_string())
    };
    assert_eq!(said(&world), ["default/api", "no policy", "no policy"]);
    world.policy(ISOLATE);
    world.policy("{metadata: {name: all, namespace: default}, spec: {podSelector: {}}}");
    let (all, isolate) =
        ("KubernetesNetworkPolicy default/all", "KubernetesNetworkPolicy default/isolate");
    let both = format!("{all}, {isolate}");
    assert_eq!(said(&world), ["default/api", &both, isolate]);

    // Another text of the same policies is nothing new; one policy less is, though all stays denied.
    world.policy(
        "{metadata: {name: all, namespace: default}, spec: {podSelector: {}, ingress: []}}",
    );
    let delta = world.remove_policy("default", "all");
    assert_eq!((delta.elements.len(), delta.comments.len()), (0, 1), "{delta:?}");
    assert_eq!(said(&world), ["default/api", isolate, isolate]);
}

/// Judged again: endpoints whose policy changes a verdict, and peers that a policy now sees as
/// something else, whether that allows or denies.
#[test]
fn what_is_judged_again() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.local("default", "other", &[], &["10.0.0.2"]);
    let allow = "
metadata: {name: allow, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {role: peer}}}]}]
";
    assert_eq!(world.policy(allow).rejudge, [ip("10.0.0.1")]);
    let mut peer = pod("default", "peer", &[], &["10.0.1.1"], &[]);
    let mut tell = |world: &mut World, labels: &[(&str, &str)]| -> Vec<IpAddr> {
        peer.labels = labels.iter().copied().collect();
        world.engine.apply(Update::Set(Object::Pod(peer.clone())));
        world.settle().rejudge
    };
    assert!(tell(&mut world, &[]).is_empty());
    assert_eq!(tell(&mut world, &[("role", "peer")]), [ip("10.0.1.1")]);
    assert!(tell(&mut world, &[("role", "peer"), ("more", "x")]).is_empty());
    assert_eq!(tell(&mut world, &[("role", "none")]), [ip("10.0.1.1")]);
    // Labels of the object that policy does not read are not a change of policy.
    let mut annotated = parse_policy(allow);
    annotated.metadata.generation = Some(7);
    world.engine.apply(Update::Set(Object::KubernetesNetworkPolicy(Arc::new(annotated))));
    assert_eq!(world.engine.take_delta(), None);
    assert_eq!(world.remove_policy("default", "allow").rejudge, [ip("10.0.0.1")]);
}

/// A class number goes to other members only after a delta without it.
#[test]
fn class_numbers_are_not_reused_within_a_delta() {
    let mut world = World::new(&["default"]);
    world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
    world.policy(
        "
metadata: {name: allow, namespace: default}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - {from: [{podSelector: {matchLabels: {role: a}}}], ports: [{port: 1}]}
  - {from: [{podSelector: {matchLabels: {role: b}}}], ports: [{port: 2}]}
",
    );
    world.remote("default", "peer", &[("role", "a")], &["10.0.1.1"]);
    let class = |world: &World| world.kernel.elements[&Key::Class(ip("10.0.1.1"))];
    let first = class(&world);
    world.remote("default", "peer", &[("role", "b")], &["10.0.1.1"]);
    let second = class(&world);
    assert_ne!(first, second);
    // A number follows from what it stands for: a restarted agent rewrites nothing.
    world.remote("default", "peer", &[("role", "a")], &["10.0.1.1"]);
    assert_eq!(class(&world), first);
}

#[test]
fn the_order_of_elements_and_classes_is_the_same_every_time() {
    let build = || {
        let mut world = World::new(&["default"]);
        world.local("default", "api", &[("app", "api")], &["10.0.0.1"]);
        for number in 0..50 {
            world.engine.apply(set_policy(&format!(
                "
metadata: {{name: allow-{number}, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: api}}}}
  ingress:
  - from: [{{podSelector: {{matchLabels: {{role: r{number}}}}}}}]
    ports: [{{port: {}}}]
",
                1000 + number
            )));
            let (role, address) = (format!("r{number}"), format!("10.0.1.{number}"));
            let labels = [("role", role.as_str())];
            let pod = pod("default", &format!("peer-{number}"), &labels, &[&address], &[]);
            world.engine.apply(Update::Set(Object::Pod(pod)));
        }
        world.settle();
        world.kernel
    };
    assert_eq!(build(), build());
}

#[test]
fn an_engine_that_knows_nothing_counts_nothing() {
    assert_eq!(Engine::new().counts(), Counts::default());
}
