//! Staged policies: what would be is what is once they are policies, and what is does not change.

use std::collections::BTreeMap;

use api::v3::StagedAction;
use proptest::prelude::*;
use serde_json::json;

use super::world::{TCP, World, ip};
use crate::engine::{Engine, Staged};
use crate::model::{Flow, Kind, Object, ObjectKey, Update};

const NAMES: [&str; 2] = ["a", "b"];
const PORTS: [u16; 3] = [80, 81, 82];

#[derive(Clone, Debug)]
enum Op {
    /// A policy that allows one port, or is gone.
    Enforced(&'static str, Option<u16>),
    /// A staged one, or it is gone.
    Staged(&'static str, Option<(StagedAction, u16)>),
    /// What both kinds of engine have to take in alike.
    Label(bool),
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn op() -> impl Strategy<Value = Op> {
    use StagedAction::{Delete, Ignore, Learn, Set};
    let port = || prop::sample::select(&PORTS[..]);
    let action = prop::sample::select(&[Set, Set, Delete, Learn, Ignore][..]);
    prop_oneof![
        (name(), prop::option::of(port())).prop_map(|(name, port)| Op::Enforced(name, port)),
        (name(), prop::option::of((action, port()))).prop_map(|(name, of)| Op::Staged(name, of)),
        any::<bool>().prop_map(Op::Label),
    ]
}

/// Allows one port, to pods with `app: api` of namespace shop.
fn policy(kind: &str, name: &str, port: u16, action: Option<StagedAction>) -> Object {
    let mut object = json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind,
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "tier": "default", "selector": "app == 'api'", "types": ["Ingress"],
            "ingress": [{ "action": "Allow", "protocol": "TCP",
                "source": { "selector": "app == 'web'" }, "destination": { "ports": [port] } }] },
    });
    if let Some(action) = action {
        object["spec"]["stagedAction"] = json!(action);
        return serde_json::from_value::<api::v3::StagedNetworkPolicy>(object).unwrap().into();
    }
    serde_json::from_value::<api::v3::NetworkPolicy>(object).unwrap().into()
}

fn world() -> World {
    let mut world = World::new(&["shop"]);
    world.local("shop", "api", &[("app", "api")], &["10.0.0.1"]);
    world.remote("shop", "web", &[("app", "web")], &["10.0.1.1"]);
    world
}

fn verdicts(engine: &Engine) -> Vec<crate::model::Verdict> {
    let flow = |port: &u16| Flow {
        protocol: TCP,
        source: ip("10.0.1.1"),
        destination: ip("10.0.0.1"),
        source_port: 50000,
        destination_port: *port,
    };
    PORTS.iter().map(|port| engine.verdict(&flow(port))).collect()
}

fn label(world: &mut World, is_web: bool) -> Update {
    let app = if is_web { "web" } else { "other" };
    world.remote("shop", "web", &[("app", app)], &["10.0.1.1"]);
    let pod = world.engine.pod(&ObjectKey::namespaced("shop", "web")).unwrap().clone();
    Update::Set(Object::Pod(pod))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_would_be_is_what_is_once_they_are_policies(
        steps in prop::collection::vec(prop::collection::vec(op(), 1..3), 1..12),
    ) {
        let (mut now, mut staged) = (world(), Staged::default());
        let mut enforced: BTreeMap<&str, u16> = BTreeMap::new();
        let mut tried: BTreeMap<&str, (StagedAction, u16)> = BTreeMap::new();
        let mut is_web = true;
        for step in steps {
            for op in step {
                let key = |name| ObjectKey::namespaced("shop", name);
                let update = match op {
                    Op::Enforced(name, Some(port)) => {
                        enforced.insert(name, port);
                        Update::Set(policy("NetworkPolicy", name, port, None))
                    }
                    Op::Enforced(name, None) => {
                        enforced.remove(name);
                        Update::Remove(Kind::NetworkPolicy, key(name))
                    }
                    Op::Staged(name, Some((action, port))) => {
                        tried.insert(name, (action, port));
                        Update::Set(policy("StagedNetworkPolicy", name, port, Some(action)))
                    }
                    Op::Staged(name, None) => {
                        tried.remove(name);
                        Update::Remove(Kind::StagedNetworkPolicy, key(name))
                    }
                    Op::Label(web) => {
                        is_web = web;
                        label(&mut now, web)
                    }
                };
                staged.apply(&update, &now.engine);
                now.engine.apply(update);
            }
            now.settle();
            staged.settle(&now.engine);

            // Both from nothing.
            let (mut is, mut would) = (world(), world());
            let mut effective = enforced.clone();
            for (name, (action, port)) in &tried {
                match action {
                    StagedAction::Set => effective.insert(name, *port),
                    StagedAction::Delete => effective.remove(name),
                    StagedAction::Learn | StagedAction::Ignore => None,
                };
            }
            for (world, policies) in [(&mut is, &enforced), (&mut would, &effective)] {
                label(world, is_web);
                for (name, port) in policies {
                    world.engine.apply(Update::Set(policy("NetworkPolicy", name, *port, None)));
                }
                world.settle();
            }
            prop_assert_eq!(verdicts(&now.engine), verdicts(&is.engine));
            let then = staged.engine().unwrap_or(&now.engine);
            prop_assert_eq!(verdicts(then), verdicts(&would.engine), "{:?} over {:?}", tried, enforced);
            let acts = tried.values().any(|(action, _)| {
                matches!(action, StagedAction::Set | StagedAction::Delete)
            });
            prop_assert_eq!(staged.engine().is_some(), acts);
            prop_assert_eq!(staged.policies().len(), tried.len());
        }
    }
}

#[test]
fn a_staged_policy_has_its_own_name_and_its_own_problems() {
    let mut world = world();
    let mut staged = Staged::default();
    let mut wrong = policy("StagedNetworkPolicy", "a", 80, Some(StagedAction::Set));
    if let Object::StagedNetworkPolicy(object) = &mut wrong {
        let mut changed = api::v3::StagedNetworkPolicy::clone(object);
        changed.spec.policy.ingress[0].source.selector = "app ==".into();
        *object = changed.into();
    }
    for object in [wrong, policy("StagedNetworkPolicy", "b", 81, Some(StagedAction::Set))] {
        staged.apply(&Update::Set(object.clone()), &world.engine);
        world.engine.apply(Update::Set(object));
    }
    world.settle();
    staged.settle(&world.engine);
    assert_eq!(world.engine.problems(), []);
    let problems = staged.problems();
    assert!(problems.iter().all(|problem| problem.kind == Kind::StagedNetworkPolicy));
    assert!(problems[0].field.starts_with("spec.ingress[0].source"), "{problems:?}");
    let standings = staged.policies();
    let said: Vec<_> =
        standings.iter().map(|it| (it.standing.id.to_string(), it.standing.endpoints)).collect();
    assert_eq!(
        said,
        [("StagedNetworkPolicy shop/a".to_owned(), 1), ("StagedNetworkPolicy shop/b".into(), 1)]
    );
    let flow = Flow {
        protocol: TCP,
        source: ip("10.0.1.1"),
        destination: ip("10.0.0.1"),
        source_port: 50000,
        destination_port: 443,
    };
    let index = world.engine.endpoints().next().unwrap().host_index;
    assert_eq!(world.engine.denial(&flow, None, Some(index)), None);
    let denial = staged.denial(&flow, None, Some(index)).unwrap();
    let names = denial.policy.iter().chain(&denial.selected_by);
    assert!(names.clone().count() > 0);
    for name in names {
        assert!(name.starts_with("StagedNetworkPolicy shop/"), "{denial:?}");
    }
}
