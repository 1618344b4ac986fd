//! Explanations: they say what the kernel does, and by which rule.

use std::net::IpAddr;

use proptest::prelude::*;

use super::kernel::Kernel;
use super::world::{ICMP, SOURCE_PORT, TCP, UDP, World, ip};
use crate::engine::{Engine, Judgement, Outcome, Place, VerdictChange};
use crate::model::{Decision, Direction, Flow, IfIndex, Object, Update, Verdict};

/// Of so many packets one is explained: it costs far more than to look up its verdict.
pub(super) const EXPLAINED: usize = 7;

/// A packet from or to an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) direction: Direction,
    pub(super) own: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) protocol: u8,
    pub(super) source_port: u16,
    pub(super) port: u16,
}

impl Header {
    fn flow(self) -> Flow {
        let (source, destination) = match self.direction {
            Direction::Egress => (self.own, self.peer),
            Direction::Ingress => (self.peer, self.own),
        };
        let Self { protocol, source_port, port, .. } = self;
        Flow { protocol, source, destination, source_port, destination_port: port }
    }
}

fn judgement(engine: &Engine, header: Header, interface: &str) -> Judgement {
    let side = engine.explain(&header.flow(), header.direction);
    assert_eq!(side.place, Place::Here);
    let of = side.judgements.into_iter().find(|one| one.interface == interface);
    of.unwrap_or_else(|| panic!("{interface} does not judge {header:?}"))
}

/// The explanation of what a packet of an endpoint meets says what the kernel does with it, each of
/// its elements is the kernel's, and exactly one thing decided.
pub(super) fn explained(
    engine: &Engine,
    kernel: &Kernel,
    index: IfIndex,
    header: Header,
) -> Result<(), TestCaseError> {
    let Header { direction, peer, protocol, source_port, port, .. } = header;
    let done = kernel.lookup(direction, index, peer, protocol, (source_port, port));
    let said = judgement(engine, header, &format!("cali{index}"));
    prop_assert_eq!(said.verdict, done, "{:?}", header);
    let decided: Vec<Outcome> =
        said.considered.iter().map(|row| row.outcome).filter(|one| one.decides()).collect();
    let expected = match done {
        Verdict::Allow | Verdict::Accept => Outcome::Allows,
        Verdict::Deny => Outcome::Denies,
    };
    prop_assert_eq!(decided, [expected], "{:?} {:?}", header, said.considered);
    let (input, output) = match direction {
        Direction::Egress => (Some(index), None),
        Direction::Ingress => (None, Some(index)),
    };
    let denial = engine.denial(&header.flow(), input, output);
    let row = said.considered.iter().find(|row| row.outcome == Outcome::Denies);
    let row = row.map(|row| {
        let field = row.rule.as_ref().map(|rule| rule.field.clone());
        (direction, Some(row.tier.clone()), row.policy.clone(), field)
    });
    let short = denial.map(|it| (it.direction, it.tier, it.policy, it.rule));
    prop_assert_eq!(short, row, "{:?}", header);
    let (_, logged) = kernel.ruling(direction, index, peer, protocol, (source_port, port));
    let logs = said.considered.iter().any(|row| row.outcome == Outcome::Logs);
    prop_assert_eq!(logs, logged, "{:?} {:?}", header, said.considered);
    let counted = kernel.decision(direction, index, peer, protocol, (source_port, port));
    let row = said.considered.iter().find(|row| row.outcome.decides());
    let decision = row.map(|row| Decision {
        tier: Some(row.tier.clone()).filter(|tier| !tier.is_empty()),
        policy: row.policy.clone(),
        direction,
        rule: row.rule.as_ref().map(|rule| rule.field.clone()),
    });
    prop_assert!(counted.is_none() || counted == decision.as_ref(), "{:?} {:?}", header, counted);
    for element in &said.elements {
        let has = kernel.elements.get(&element.key.unwrap()).copied();
        prop_assert_eq!(has, element.value, "{:?} {}", header, element.text);
    }
    Ok(())
}

/// What would change is said of exactly the endpoints whose packets, of those given, change, unless
/// it is other packets that do; and the examples hold.
pub(super) fn foretold(
    now: &Engine,
    then: &Engine,
    headers: &[(IfIndex, Header)],
) -> Result<(), TestCaseError> {
    let changes = now.changes(then);
    let verdict = |engine: &Engine, index: IfIndex, header: Header| {
        judgement(engine, header, &format!("cali{index}")).verdict
    };
    for (index, header) in headers {
        let pod = judgement(now, *header, &format!("cali{index}")).endpoint;
        if verdict(now, *index, *header) != verdict(then, *index, *header) {
            let of = |change: &VerdictChange| {
                change.endpoint == pod && change.direction == header.direction
            };
            prop_assert!(changes.iter().any(of), "not foretold: {:?} of {}", header, pod);
        }
    }
    for change in &changes {
        prop_assert!(!change.examples.is_empty(), "{:?}", change);
        let endpoint =
            now.endpoints().find(|one| format!("{}/{}", one.namespace, one.pod) == change.endpoint);
        let endpoint = endpoint.unwrap();
        for example in &change.examples {
            prop_assert!(example.now != example.then, "{:?}", example);
            let Some(peer) = example.peer else { continue };
            let own = endpoint.addresses.iter().find(|own| own.is_ipv4() == peer.is_ipv4());
            // Its own address as the other side, or a family that it does not have.
            let Some(own) = own.filter(|own| **own != peer) else { continue };
            let header = Header {
                direction: change.direction,
                own: *own,
                peer,
                protocol: example.protocol,
                source_port: example.source_port.unwrap_or(SOURCE_PORT),
                port: example.port,
            };
            prop_assert_eq!(verdict(now, endpoint.host_index, header), example.now);
            prop_assert_eq!(verdict(then, endpoint.host_index, header), example.then);
        }
    }
    Ok(())
}

fn world() -> World {
    let mut world = World::new(&["shop"]);
    world.local("shop", "api", &[("app", "api")], &["10.0.0.1", "fd00::1"]);
    world.remote("shop", "web", &[("app", "web")], &["10.0.1.1"]);
    world.calico(
        "kind: Tier
metadata: {name: gate}
spec: {order: 10, defaultAction: Pass}
---
kind: GlobalNetworkPolicy
metadata: {name: gate.first}
spec:
  tier: gate
  order: 1
  selector: app == 'api'
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: UDP}
  - {action: Pass, protocol: TCP, destination: {ports: [80]}}
---
kind: GlobalNetworkPolicy
metadata: {name: gate.second}
spec: {tier: gate, order: 2, selector: app == 'api', types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}]}
---
kind: GlobalNetworkPolicy
metadata: {name: gate.outwards}
spec: {tier: gate, order: 3, selector: app == 'api', types: [Egress], egress: [{action: Allow}]}
---
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {tier: default, order: 1, selector: app == 'db', types: [Ingress], ingress: [{action: Allow}]}
---
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  tier: default
  order: 2
  selector: app == 'api'
  types: [Ingress]
  ingress: [{action: Allow, source: {selector: app == 'web'}}]
",
    );
    world
}

fn header(peer: &str, protocol: u8, port: u16) -> Header {
    let direction = Direction::Ingress;
    let source_port = SOURCE_PORT;
    Header { direction, own: ip("10.0.0.1"), peer: ip(peer), protocol, source_port, port }
}

/// Policy, or tier whose end it is, outcome and rule.
fn rows(world: &World, header: Header) -> Vec<String> {
    let said = judgement(&world.engine, header, "cali11");
    let row = |row: &crate::engine::Considered| {
        let what = row.policy.clone().unwrap_or_else(|| format!("end of {:?}", row.tier));
        let rule = row.rule.as_ref().map(|rule| format!(" by {}", rule.field));
        format!("{what}: {:?}{}", row.outcome, rule.unwrap_or_default())
    };
    said.considered.iter().map(row).collect()
}

#[test]
fn every_policy_is_listed_in_order_with_what_came_of_it() {
    let world = world();
    let [first, second, outwards] =
        ["first", "second", "outwards"].map(|name| format!("GlobalNetworkPolicy gate.{name}"));
    let db = "NetworkPolicy shop/db: NotSelecting".to_owned();
    let web = "NetworkPolicy shop/web";
    assert_eq!(
        rows(&world, header("10.0.1.1", TCP, 80)),
        [
            format!("{first}: Passes by spec.ingress[1]"),
            format!("{second}: NotReached"),
            format!("{outwards}: OtherDirection"),
            db.clone(),
            format!("{web}: Allows by spec.ingress[0]"),
        ]
    );
    assert_eq!(
        rows(&world, header("10.0.9.9", ICMP, 0)),
        [
            format!("{first}: NoRuleMatches"),
            format!("{second}: NoRuleMatches"),
            format!("{outwards}: OtherDirection"),
            "end of \"gate\": Passes".to_owned(),
            db.clone(),
            format!("{web}: NoRuleMatches"),
            "end of \"default\": Denies".to_owned(),
        ]
    );
    assert_eq!(
        rows(&world, header("10.0.1.1", UDP, 53)),
        [
            format!("{first}: Denies by spec.ingress[0]"),
            format!("{second}: NotReached"),
            format!("{outwards}: OtherDirection"),
            db,
            format!("{web}: NotReached"),
        ]
    );
}

#[test]
fn the_rule_is_as_it_was_written_and_the_peers_class_is_spelled_out() {
    let world = world();
    let said = judgement(&world.engine, header("10.0.1.1", TCP, 80), "cali11");
    let rule = said.considered.iter().filter_map(|row| row.rule.as_ref()).next_back().unwrap();
    assert_eq!(rule.text["action"], "Allow");
    assert_eq!(rule.text["source"]["selector"], "app == 'web'");
    assert_eq!(said.policies, 5);
    assert!(said.memberships.iter().any(|one| one.contains("app == \"web\"")), "{said:?}");
    assert_ne!(said.class, 0);
}

#[test]
fn a_policy_that_is_closed_says_why() {
    let mut world = world();
    world.calico(
        "kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {tier: default, order: 2, selector: app == 'api', types: [Ingress], ingress: [{action: Allow, source: {nets: [10.0.0.0/33]}}]}
",
    );
    let said = judgement(&world.engine, header("10.0.1.1", TCP, 80), "cali11");
    let last = said.considered.last().unwrap();
    assert_eq!((last.outcome, said.verdict), (Outcome::Denies, Verdict::Deny));
    let rule = last.rule.as_ref().unwrap();
    assert_eq!(rule.field, "spec");
    let reason = rule.text[0].as_str().unwrap();
    assert!(reason.starts_with("spec.ingress[0].source.nets[0]: "), "{reason}");
}

#[test]
fn who_is_not_here_is_judged_elsewhere_or_by_nobody() {
    let world = world();
    let flow = Flow {
        protocol: TCP,
        source: ip("10.0.1.1"),
        destination: ip("192.0.2.1"),
        source_port: SOURCE_PORT,
        destination_port: 80,
    };
    let egress = world.engine.explain(&flow, Direction::Egress);
    assert_eq!((egress.place, egress.judgements), (Place::Node("node".into()), Vec::new()));
    let ingress = world.engine.explain(&flow, Direction::Ingress);
    assert_eq!((ingress.place, ingress.judgements), (Place::Nobody, Vec::new()));
}

#[test]
fn without_policies_all_is_allowed_after_all_tiers() {
    let mut world = World::new(&["shop"]);
    world.local("shop", "api", &[], &["10.0.0.1"]);
    assert_eq!(rows(&world, header("10.0.1.1", TCP, 80)), ["end of \"\": Allows"]);
}

#[test]
fn what_would_change_is_told_and_nothing_changes() {
    let world = world();
    let deny: api::v3::NetworkPolicy = serde_json::from_value(serde_json::json!({
        "apiVersion": api::v3::API_VERSION, "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"tier": "default", "order": 2, "selector": "app == 'api'", "types": ["Ingress"],
            "ingress": [{"action": "Allow", "protocol": "TCP", "source": {"nets": ["10.0.9.0/24"]}}]},
    }))
    .unwrap();
    let then = world.engine.with([Update::Set(Object::from(deny))]);
    let changes = world.engine.changes(&then);
    let [change] = &*changes else { panic!("{changes:?}") };
    assert_eq!((change.endpoint.as_str(), change.direction), ("shop/api", Direction::Ingress));
    assert_eq!(change.peers, 1);
    let of_web = change.examples.iter().find(|example| example.pod.is_some()).unwrap();
    assert_eq!(of_web.pod.as_deref(), Some("shop/web"));
    assert_eq!((of_web.now, of_web.then), (Verdict::Allow, Verdict::Deny));
    let others = change.examples.iter().find(|example| example.pod.is_none()).unwrap();
    assert_eq!((others.now, others.then), (Verdict::Deny, Verdict::Allow));
    assert!(world.allows("10.0.1.1", "10.0.0.1", TCP, 80), "it was only asked");
    assert_eq!(world.engine.changes(&world.engine.with([])), []);
}
