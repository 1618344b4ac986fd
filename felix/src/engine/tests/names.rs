//! Names in policy: what one endpoint learned lets that endpoint out, for as long as it counts.

use std::net::IpAddr;

use super::recipes::{OUTSIDE, world};
use super::world::{TCP, UDP, World, id_of, ip};
use crate::engine::{Engine, Outcome, Staged};
use crate::model::{Delta, Direction, Flow, Key, Kind, ObjectKey, Parties, Update, Verdict};
use crate::names::learned::{Change, Known};

const API: &str = "10.0.0.1";
const API6: &str = "fd00::1";
const WEB: &str = "10.0.0.2";
/// In no network that a policy names.
const ELSEWHERE: &str = "198.51.100.7";

fn change(pod: &str, address: &str, names: &[&str], lapsed: &[&str]) -> Change {
    let list = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let known = Known { names: list(names), lapsed: list(lapsed) };
    Change { endpoint: id_of(pod), address: ip(address), known }
}

fn learn(world: &mut World, pod: &str, address: &str, names: &[&str], lapsed: &[&str]) -> Delta {
    world.engine.learn(change(pod, address, names, lapsed));
    world.settle()
}

/// To the names on port 443, and to nothing else outside.
fn names(list: &str) -> String {
    format!(
        "
metadata: {{name: names}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{}}}}
  egress:
  - {{action: Accept, to: [{{domainNames: [{list}]}}], protocols: [{{tcp: {{destinationPort: {{number: 443}}}}}}]}}
  - {{action: Deny, to: [{{networks: [0.0.0.0/0, '::/0']}}]}}
"
    )
}

fn restricted() -> World {
    let mut world = world();
    world.cluster_policies(&names("'*.example.org', Example.com."));
    world
}

fn flow(source: &str, destination: &str, port: u16) -> Flow {
    let (source, destination): (IpAddr, IpAddr) = (ip(source), ip(destination));
    Flow { protocol: TCP, source, destination, source_port: 50000, destination_port: port }
}

#[test]
fn an_endpoint_reaches_what_its_own_answers_say_and_no_other_does() {
    let mut world = restricted();
    assert_eq!(world.problems(), [""; 0]);
    assert!(!world.allows(API, OUTSIDE, TCP, 443));
    let delta = learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    assert!(delta.rejudge.is_empty(), "no flow is looked at again");
    assert!(world.allows(API, OUTSIDE, TCP, 443));
    assert!(!world.allows(API, OUTSIDE, TCP, 80) && !world.allows(API, OUTSIDE, UDP, 443));
    assert!(!world.allows(API, ELSEWHERE, TCP, 443), "another address");
    assert!(!world.allows(WEB, OUTSIDE, TCP, 443), "who did not ask");
    learn(&mut world, "api", "2001:db8::7", &["example.com"], &[]);
    assert!(world.allows(API6, "2001:db8::7", TCP, 443));
    assert!(!world.allows(API6, "2001:db8::8", TCP, 443));
    // Names that nobody asks for say nothing.
    learn(&mut world, "api", ELSEWHERE, &["example.org", "www.example.com"], &[]);
    assert!(!world.allows(API, ELSEWHERE, TCP, 443));
}

/// Policy that asks of names came after the flow: what it was to is learned later.
#[test]
fn a_flow_that_is_cut_goes_on_when_an_answer_says_that_it_may() {
    let mut world = restricted();
    assert_eq!(world.engine.verdict_on_established(&flow(API, OUTSIDE, 443)), Verdict::Deny);
    let of_pod = Parties::from_iter([ip(API)]);
    world.engine.flows_judged(&of_pod, [ip(OUTSIDE)]);
    let other = learn(&mut world, "api", ELSEWHERE, &["www.example.org"], &[]);
    assert!(other.rejudge.is_empty(), "{other:?}");
    let unasked = learn(&mut world, "api", OUTSIDE, &["www.example.com"], &[]);
    assert!(unasked.rejudge.is_empty(), "{unasked:?}");
    let told = learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    assert_eq!(told.rejudge, [ip(OUTSIDE)]);
    // Another endpoint may have some, as long as nobody has looked at all of them.
    let again = learn(&mut world, "web", OUTSIDE, &["www.example.org"], &[]);
    assert_eq!(again.rejudge, [ip(OUTSIDE)]);
    world.engine.flows_judged(&Parties::from_iter([ip(OUTSIDE)]), []);
    let gone = learn(&mut world, "web", OUTSIDE, &[], &[]);
    assert!(gone.rejudge.is_empty(), "{gone:?}");
}

#[test]
fn a_further_address_is_one_element_for_whoever_learns_it() {
    let mut world = restricted();
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    let near = "192.0.2.99";
    for pod in ["api", "web"] {
        let delta = learn(&mut world, pod, near, &["www.example.org"], &[]);
        assert_eq!(delta.elements.len(), 1, "{delta:?}");
        assert!(matches!(delta.elements[0].key, Key::Learned(_, address) if address == ip(near)));
        let delta = learn(&mut world, pod, near, &["www.example.org", "a.example.org"], &[]);
        assert!(delta.elements.is_empty(), "the same to policy: {delta:?}");
    }
}

#[test]
fn what_has_lapsed_lets_nothing_new_through_and_cuts_nothing() {
    let mut world = restricted();
    let established = |world: &World| {
        world.engine.verdict_on_established(&flow(API, OUTSIDE, 443)) == Verdict::Allow
    };
    assert!(!established(&world));
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    assert!(established(&world));
    let delta = learn(&mut world, "api", OUTSIDE, &[], &["www.example.org"]);
    assert!(delta.rejudge.is_empty() && delta.elements.iter().all(|one| one.value.is_none()));
    assert!(!world.allows(API, OUTSIDE, TCP, 443));
    assert!(established(&world));
    assert_eq!(
        world.engine.verdict_on_established(&flow(API, OUTSIDE, 80)),
        Verdict::Deny,
        "what it never was let through for"
    );
    // A policy that no longer says so ends it.
    let delta = world.cluster_policies(&names("other.example"));
    assert!(!established(&world) && delta.rejudge == [ip(OUTSIDE)]);
    world.cluster_policies(&names("'*.org', www.example.org"));
    assert!(!established(&world), "closed by what is wrong");
    world.cluster_policies(&names("www.example.org"));
    assert!(established(&world) && !world.allows(API, OUTSIDE, TCP, 443));
    // Told once more, and then forgotten.
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    assert!(world.allows(API, OUTSIDE, TCP, 443));
    learn(&mut world, "api", OUTSIDE, &[], &[]);
    assert!(!world.allows(API, OUTSIDE, TCP, 443) && !established(&world));
}

#[test]
fn policies_decide_what_is_asked_of() {
    let mut world = restricted();
    let asks = |engine: &Engine, pod: &str, name: &str| engine.asks_of(&id_of(pod), name);
    let asking = |world: &World| {
        world.kernel.elements.keys().filter(|key| matches!(key, Key::Asks(_))).count()
    };
    assert!(asks(&world.engine, "api", "www.example.org"));
    assert!(
        !asks(&world.engine, "api", "example.org") && !asks(&world.engine, "none", "example.com")
    );
    assert_eq!(asking(&world), world.engine.endpoints().count());
    assert_eq!(world.engine.asking_of_names().collect::<Vec<_>>(), [ObjectKey::cluster("names")]);
    let id = id_of("api");
    let index = world.engine.endpoint(&id).unwrap().host_index;
    assert_eq!(world.engine.endpoint_at(index), Some(&id));
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    // The policy goes, and comes again while the address still counts.
    world.remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("names"));
    assert_eq!(asking(&world), 0);
    let of_names = |key: &&Key| matches!(key, Key::Learned(..));
    assert_eq!(world.kernel.elements.keys().filter(of_names).count(), 0);
    assert!(!asks(&world.engine, "api", "www.example.org"));
    world.cluster_policies(&names("www.example.org"));
    assert!(world.allows(API, OUTSIDE, TCP, 443));
    // The endpoint goes, and another comes in its place.
    let endpoint = world.engine.endpoint(&id).unwrap().clone();
    world.engine.endpoint_remove(&id);
    world.settle();
    assert_eq!(world.kernel.elements.keys().filter(of_names).count(), 0);
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    world.engine.endpoint_set(endpoint);
    world.settle();
    assert!(!world.allows(API, OUTSIDE, TCP, 443), "what was learned before it was there");
}

/// An address that is learned stays all that it was otherwise.
#[test]
fn other_rules_go_on_about_an_address_that_was_learned() {
    let mut world = restricted();
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &[]);
    world.cluster_policies(
        "
metadata: {name: first}
spec:
  tier: Admin
  priority: 0
  subject: {namespaces: {}}
  egress:
  - {action: Deny, to: [{networks: [192.0.2.0/28]}]}
",
    );
    assert!(!world.allows(API, OUTSIDE, TCP, 443), "denied before names are asked for");
    world.remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("first"));
    assert!(world.allows(API, OUTSIDE, TCP, 443));
    // A pod comes to have it.
    world.remote("default", "late", &[("role", "db")], &[OUTSIDE]);
    assert!(world.allows(API, OUTSIDE, TCP, 443));
    world.cluster_policies(
        "
metadata: {name: first}
spec:
  tier: Admin
  priority: 0
  subject: {namespaces: {}}
  egress:
  - {action: Deny, to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: db}}}}]}
",
    );
    assert!(!world.allows(API, OUTSIDE, TCP, 443));
    let delta = world.remote("default", "late", &[("role", "web")], &[OUTSIDE]);
    assert!(world.allows(API, OUTSIDE, TCP, 443) && delta.rejudge == [ip(OUTSIDE)]);
    // Also flows from when the name stood for it.
    learn(&mut world, "api", OUTSIDE, &[], &["www.example.org"]);
    let delta = world.remote("default", "late", &[("role", "db")], &[OUTSIDE]);
    assert_eq!(delta.rejudge, [ip(OUTSIDE)]);
    assert_eq!(world.engine.verdict_on_established(&flow(API, OUTSIDE, 443)), Verdict::Deny);
}

#[test]
fn an_explanation_names_the_rule_the_name_and_the_element() {
    let mut world = restricted();
    learn(&mut world, "api", OUTSIDE, &["www.example.org"], &["old.example.org"]);
    let side = world.engine.explain(&flow(API, OUTSIDE, 443), Direction::Egress);
    let judgement = &side.judgements[0];
    assert_eq!(judgement.verdict, Verdict::Allow);
    let row = judgement.considered.iter().find(|row| row.outcome == Outcome::Allows).unwrap();
    assert_eq!(row.rule.as_ref().unwrap().field, "spec.egress[0]");
    assert_eq!(
        judgement.memberships[..2],
        [
            "www.example.org, by a DNS answer to the endpoint",
            "old.example.org, by a DNS answer whose time is over"
        ]
    );
    assert!(judgement.memberships.contains(&"domain names example.com, *.example.org".into()));
    for element in &judgement.elements {
        assert_eq!(world.kernel.elements.get(&element.key.unwrap()).copied(), element.value);
    }
    assert!(judgement.elements.iter().any(|one| matches!(one.key, Some(Key::Learned(..)))));
    // To the other pod it is an address like any other.
    let side = world.engine.explain(&flow(WEB, OUTSIDE, 443), Direction::Egress);
    assert_eq!(side.judgements[0].verdict, Verdict::Deny);
    let local = |engine: &Engine, pod: &str| engine.endpoint(&id_of(pod)).unwrap().host_index;
    let denial = |pod: &str, source: &str| {
        let input = Some(local(&world.engine, pod));
        world.engine.denial(&flow(source, OUTSIDE, 443), input, None)
    };
    assert_eq!(denial("api", API), None);
    assert_eq!(denial("web", WEB).unwrap().rule.as_deref(), Some("spec.egress[1]"));
    // What another policy would change for this address is foretold.
    let then = world
        .engine
        .with([Update::Remove(Kind::ClusterNetworkPolicy, ObjectKey::cluster("names"))]);
    assert!(!world.engine.changes(&then).is_empty());
    let mut staged = Staged::default();
    staged.learn(&change("api", OUTSIDE, &[], &[]));
    assert!(staged.engine().is_none());
}
