//! Rules of Calico's that log.

use super::recipes::{OUTSIDE, world};
use super::world::{SOURCE_PORT, TCP, UDP, World, ip};
use crate::engine::Outcome;
use crate::model::{Delta, Direction, Flow, Key, Traffic, Value, Verdict};

const API: &str = "10.0.0.1";
const WEB: &str = "10.0.0.2";

fn policy(world: &mut World, name: &str, order: u32, rules: &str) -> Delta {
    let delta = world.calico(&format!(
        "
kind: NetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{order: {order}, selector: app == 'api', types: [Ingress], ingress: [{rules}]}}
"
    ));
    assert_eq!(world.problems(), Vec::<String>::new(), "{rules}");
    delta
}

/// Verdict, and whether it is logged.
fn ruling(world: &World, from: &str, protocol: u8, port: u16) -> (Verdict, bool) {
    // The first endpoint of that world.
    let (index, ports) = (11, (SOURCE_PORT, port));
    world.kernel.ruling(Direction::Ingress, index, ip(from), protocol, ports)
}

#[test]
fn later_rules_decide_on_what_was_logged() {
    let mut world = world();
    policy(
        &mut world,
        "log",
        1,
        "{action: Log, protocol: TCP, destination: {ports: [80, 81, 82]}}, {action: Allow, protocol: \
         TCP, destination: {ports: [80]}}, {action: Log}, {action: Deny, protocol: TCP, destination: \
         {ports: [81, 90]}}, {action: Pass, protocol: UDP}",
    );
    for (protocol, port, verdict, logged) in [
        (TCP, 80, Verdict::Allow, true),
        (TCP, 81, Verdict::Deny, true),
        (TCP, 90, Verdict::Deny, true),
        // Logging alone isolates.
        (TCP, 9, Verdict::Deny, true),
        (UDP, 9, Verdict::Allow, true),
    ] {
        assert_eq!(ruling(&world, OUTSIDE, protocol, port), (verdict, logged), "{protocol} {port}");
    }
    // Another policy decides, and what one decided before is not logged.
    policy(&mut world, "first", 0, "{action: Allow, protocol: TCP, destination: {ports: [90]}}");
    policy(&mut world, "last", 2, "{action: Allow, protocol: TCP, destination: {ports: [9]}}");
    for (port, logged) in [(90, false), (9, true)] {
        assert_eq!(ruling(&world, OUTSIDE, TCP, port), (Verdict::Allow, logged), "{port}");
    }
}

#[test]
fn what_is_logged_depends_on_the_peer_and_costs_no_element() {
    let mut world = world();
    policy(&mut world, "log", 1, "{action: Allow, protocol: TCP, destination: {ports: [80]}}");
    let delta = policy(
        &mut world,
        "log",
        1,
        "{action: Log}, {action: Allow, protocol: TCP, destination: {ports: [80]}}",
    );
    let values: Vec<_> = delta.elements.iter().map(|change| (change.key, change.value)).collect();
    let key = |traffic| {
        let direction = Direction::Ingress;
        Key::Policy { direction, index: 11, class: None, traffic }
    };
    let wanted = [
        (key(Traffic::Port(TCP, 80)), Some(Value::Logged(Verdict::Allow))),
        // What was denied by no element has one now.
        (key(Traffic::Any), Some(Value::Logged(Verdict::Deny))),
    ];
    assert_eq!(values, wanted);
    policy(
        &mut world,
        "log",
        1,
        "{action: Log, source: {selector: role == 'frontend'}}, {action: Allow, protocol: TCP}",
    );
    assert_eq!(ruling(&world, WEB, TCP, 80), (Verdict::Allow, true));
    assert_eq!(ruling(&world, WEB, UDP, 80), (Verdict::Deny, true));
    assert_eq!(ruling(&world, OUTSIDE, TCP, 80), (Verdict::Allow, false));
    assert_eq!(ruling(&world, OUTSIDE, UDP, 80), (Verdict::Deny, false));
}

#[test]
fn an_explanation_goes_past_what_logs() {
    let mut world = world();
    policy(
        &mut world,
        "log",
        1,
        "{action: Log, protocol: TCP}, {action: Log}, {action: Deny, protocol: UDP}",
    );
    policy(&mut world, "open", 2, "{action: Allow, protocol: TCP}");
    let flow = |protocol| Flow {
        protocol,
        source: ip(OUTSIDE),
        destination: ip(API),
        source_port: SOURCE_PORT,
        destination_port: 80,
    };
    let rows = |world: &World, protocol| {
        let side = world.engine.explain(&flow(protocol), Direction::Ingress);
        let rows = side.judgements[0].considered.iter().map(|row| {
            let rule = row.rule.as_ref().map_or("", |rule| rule.field.as_str()).to_owned();
            (row.policy.clone().unwrap_or_default(), row.outcome, rule)
        });
        rows.collect::<Vec<_>>()
    };
    let (log, open) = ("NetworkPolicy default/log", "NetworkPolicy default/open");
    let row = |policy: &str, outcome, rule: &str| (policy.to_owned(), outcome, rule.to_owned());
    assert_eq!(
        rows(&world, TCP),
        [
            row(log, Outcome::Logs, "spec.ingress[0]"),
            row(log, Outcome::Logs, "spec.ingress[1]"),
            row(open, Outcome::Allows, "spec.ingress[0]"),
        ]
    );
    assert_eq!(
        rows(&world, UDP),
        [
            row(log, Outcome::Logs, "spec.ingress[1]"),
            row(log, Outcome::Denies, "spec.ingress[2]"),
            row(open, Outcome::NotReached, ""),
        ]
    );
    // What is only logged differently is no change of a verdict.
    let then = world.engine.with([crate::model::Update::Remove(
        crate::model::Kind::NetworkPolicy,
        crate::model::ObjectKey::namespaced("default", "log"),
    )]);
    let changes = world.engine.changes(&then);
    assert_eq!(changes, [], "UDP is denied at the end of the tier, too");
}
