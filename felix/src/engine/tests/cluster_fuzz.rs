//! ClusterNetworkPolicies that somebody has damaged: as JSON from an API server whose definition is
//! another than ours, and as a file.

use api::policy::ClusterNetworkPolicy;
use api::yaml::{self, Object as Written};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::cluster_strategies::cluster_policy;
use super::random::cases;
use super::recipes::{OUTSIDE, world};
use super::world::TCP;
use crate::model::{Kind, Object, ObjectKey, Update};

const API: &str = "10.0.0.1";
const STRANGER: &str = "10.0.1.3";

/// What is done to the value that a number leads to.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Value),
    Remove,
    /// A field or an entry more.
    Add(&'static str, Value),
}

fn damage() -> BoxedStrategy<(u16, Damage)> {
    let value = || {
        select(vec![
            json!(null),
            json!(true),
            json!(-1),
            json!(65536),
            json!(1e300),
            json!(""),
            json!("Deny"),
            json!("*."),
            json!("\u{e9} \u{2713}\n"),
            json!("x".repeat(300)),
            json!([]),
            json!([[]]),
            json!({}),
            json!({"matchLabels": {"a": null}}),
            json!({"matchExpressions": [{"key": "", "operator": "In"}]}),
        ])
    };
    let field = select(vec!["", "satellites", "namespaces", "nodes", "action", "networks", "tcp"]);
    let damage = prop_oneof![
        3 => value().prop_map(Damage::Replace),
        2 => Just(Damage::Remove),
        2 => (field, value()).prop_map(|(field, value)| Damage::Add(field, value)),
    ];
    (any::<u16>(), damage).boxed()
}

/// Every value within one, by its path.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    let mut below = |name: &str, value: &Value| {
        let name = name.replace('~', "~0").replace('/', "~1");
        let path = format!("{path}/{name}");
        found.push(path.clone());
        paths(value, &path, found);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| below(name, value)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| below(&at.to_string(), value));
        }
        _ => {}
    }
}

fn apply(object: &mut Value, (at, damage): (u16, Damage)) {
    let mut found = Vec::new();
    paths(&object["spec"], "/spec", &mut found);
    let Some(path) = found.get(usize::from(at) % found.len().max(1)) else { return };
    match damage {
        Damage::Replace(value) => {
            object.pointer_mut(path).into_iter().for_each(|at| *at = value.clone());
        }
        Damage::Add(field, value) => match object.pointer_mut(path) {
            Some(Value::Object(fields)) => {
                fields.insert(field.into(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            _ => {}
        },
        Damage::Remove => {
            let (parent, name) = path.rsplit_once('/').unwrap();
            match object.pointer_mut(parent) {
                Some(Value::Object(fields)) => {
                    fields.retain(|field, _| field.replace('~', "~0").replace('/', "~1") != name);
                }
                Some(Value::Array(list)) => {
                    list.remove(name.parse::<usize>().unwrap());
                }
                _ => {}
            }
        }
    }
}

fn as_object(policy: &ClusterNetworkPolicy) -> Value {
    serde_json::to_value(policy).unwrap()
}

proptest! {
    #![proptest_config(cases(400))]

    /// Whatever can be read is taken in, decides the same in the kernel and in the engine, says what
    /// is wrong by the policy's name and a field of it, and leaves nothing when it goes.
    #[test]
    fn a_damaged_policy_harms_nobody_else(
        policy in cluster_policy("damaged"),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut object = as_object(&policy);
        damages.into_iter().for_each(|damage| apply(&mut object, damage));
        let Ok(policy) = serde_json::from_value::<ClusterNetworkPolicy>(object) else {
            return Ok(());
        };
        let mut world = world();
        let before = (world.kernel.canonical(), world.engine.counts());
        world.engine.apply(Update::Set(Object::ClusterNetworkPolicy(policy.into())));
        world.settle();
        // This compares the kernel with the engine.
        for (from, to) in [(STRANGER, API), (API, STRANGER), (OUTSIDE, API), (API, OUTSIDE)] {
            let _ = world.allows(from, to, TCP, 80);
        }
        for problem in world.engine.problems() {
            let key = ObjectKey::cluster("damaged");
            prop_assert_eq!((problem.kind, &problem.key), (Kind::ClusterNetworkPolicy, &key));
            prop_assert!(problem.field.starts_with("spec.") && !problem.reason.is_empty());
        }
        world.remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("damaged"));
        prop_assert_eq!((world.kernel.canonical(), world.engine.counts()), before);
    }

    /// A file either has the policy as it stands there, without anything that is wrong with it but
    /// what only the engine knows, or an error and one in its place that accepts nothing.
    #[test]
    fn a_damaged_file_lets_nobody_in(
        policy in cluster_policy("damaged"),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut object = as_object(&policy);
        object["metadata"] = Value::Object(Map::from_iter([("name".into(), json!("damaged"))]));
        damages.into_iter().for_each(|damage| apply(&mut object, damage));
        let contents = yaml::read("f.yaml", &object.to_string());
        prop_assert_eq!(contents.documents.len() + contents.closed.len(), 1);
        if let Some(document) = contents.documents.first() {
            prop_assert!(contents.errors.is_empty());
            let Written::ClusterNetworkPolicy(read) = &document.object else {
                panic!("{document:?}");
            };
            prop_assert_eq!(read.check(), []);
            return Ok(());
        }
        prop_assert!(!contents.errors.is_empty());
        let Written::ClusterNetworkPolicy(closed) = contents.closed[0].object.clone() else {
            panic!("{:?}", contents.closed);
        };
        let mut world = world();
        world.policy(
            "
metadata: {name: isolate, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
",
        );
        let closed = Object::ClusterNetworkPolicy((*closed).into());
        world.engine.apply(Update::Set(closed));
        world.settle();
        for (from, to) in [(STRANGER, API), (API, STRANGER), (OUTSIDE, API), (API, OUTSIDE)] {
            prop_assert!(!world.allows(from, to, TCP, 80), "{} to {}", from, to);
        }
    }
}
