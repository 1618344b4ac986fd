//! Explanations at host endpoints: they say what the kernel does, and by which rule.

use proptest::prelude::*;

use super::hosts::{OFFICE, OUTSIDE, OWN, endpoint, links, world};
use super::kernel::Kernel;
use super::world::*;
use crate::engine::{Engine, Failsafe, Judgement, Outcome, Passage};
use crate::model::host::HostHook;
use crate::model::{Direction, Flow, IfIndex, Verdict};

/// Of eth0 it is 1, of eth1 2.
fn index(interface: &str) -> IfIndex {
    1 + interface.bytes().next_back().map_or(0, |last| u32::from(last - b'0'))
}

fn flow(direction: Direction, peer: &str, to: (u8, u16)) -> Flow {
    flow_between(direction, (OWN, peer), to)
}

fn flow_between(
    direction: Direction,
    (own, peer): (&str, &str),
    (protocol, port): (u8, u16),
) -> Flow {
    let (source, destination) = match direction {
        Direction::Ingress => (ip(peer), ip(own)),
        Direction::Egress => (ip(own), ip(peer)),
    };
    Flow { protocol, source, destination, source_port: SOURCE_PORT, destination_port: port }
}

/// What is said of a packet at a host endpoint is what the kernel does with it, each of its elements is the
/// kernel's, exactly one thing decided, and who asks for a denial alone gets the same.
pub(super) fn explained(
    world: &World,
    (hook, interface): (HostHook, &str),
    (own, peer): (&str, &str),
    to: (u8, u16),
) -> Result<(), TestCaseError> {
    let (sides, ports) = ((ip(own), ip(peer)), (SOURCE_PORT, to.1));
    let (done, logged) = world.kernel.host_ruling(hook, interface, sides, to.0, ports);
    let (flow, index) = (flow_between(hook.direction(), (own, peer), to), index(interface));
    let what = || format!("{hook:?} {interface} {flow:?}");
    let Some(said) = world.engine.judge_at_host(hook, index, &flow) else {
        prop_assert_eq!((done, logged), (Verdict::Allow, false), "{}", what());
        return Ok(());
    };
    prop_assert_eq!(said.verdict, done, "{}", what());
    prop_assert_eq!((said.hook, said.interface.as_str()), (Some(hook), interface));
    let decided: Vec<Outcome> =
        said.considered.iter().map(|row| row.outcome).filter(|one| one.decides()).collect();
    let expected = match done {
        Verdict::Allow if hook.is_early() => vec![],
        Verdict::Allow | Verdict::Accept => vec![Outcome::Allows],
        Verdict::Deny => vec![Outcome::Denies],
    };
    prop_assert_eq!(decided, expected, "{} {:?}", what(), &said.considered);
    let logs = said.considered.iter().any(|row| row.outcome == Outcome::Logs);
    prop_assert_eq!(logs, logged, "{} {:?}", what(), &said.considered);
    for element in &said.elements {
        let has = world.kernel.elements.get(&element.key.unwrap()).copied();
        prop_assert_eq!(has, element.value, "{} {}", what(), element.text);
    }
    let unasked = said.considered.iter().any(|row| row.policy.as_deref() == Some("failsafe port"));
    if !unasked {
        let sides = match hook.direction() {
            Direction::Ingress => (Some(index), None),
            Direction::Egress => (None, Some(index)),
        };
        let denial = world.engine.host_denial(&flow, &[hook], sides.0, sides.1);
        let row = said.considered.iter().find(|row| row.outcome == Outcome::Denies);
        let row = row.map(|row| {
            let rule = row.rule.as_ref().map(|rule| rule.field.clone());
            let tier = Some(row.tier.clone()).filter(|tier| !tier.is_empty());
            (said.endpoint.clone(), tier, row.policy.clone(), rule)
        });
        let short = denial.map(|it| (it.endpoint, it.tier, it.policy, it.rule));
        prop_assert_eq!(short, row, "{}", what());
    }
    Ok(())
}

/// Of every place where a packet of these meets another verdict it was said that verdicts change there,
/// and the examples hold.
pub(super) fn foretold(
    (now, kernel): (&Engine, &Kernel),
    then: &World,
    (owns, peers): (&[&str], &[&str]),
    ports: &[u16],
) -> Result<(), TestCaseError> {
    let changes = now.changes(&then.engine);
    let verdict = |kernel: &Kernel, hook, interface: &str, sides, (protocol, port)| {
        kernel.host_ruling(hook, interface, sides, protocol, (SOURCE_PORT, port)).0
    };
    // What is judged again changes as the first time, and is not said twice.
    let hooks = HostHook::ALL.into_iter().filter(|hook| !hook.is_again());
    for (hook, interface) in hooks.flat_map(|hook| ["eth0", "eth1", "eth2"].map(|of| (hook, of))) {
        let at = Some((hook, interface.to_owned()));
        let said = changes.iter().find(|change| change.at == at);
        for to in [TCP, UDP].into_iter().flat_map(|of| ports.iter().map(move |port| (of, *port))) {
            let sides = peers.iter().zip(owns.iter().cycle());
            for sides in sides.map(|(peer, own)| (ip(own), ip(peer))) {
                let before = verdict(kernel, hook, interface, sides, to);
                let after = verdict(&then.kernel, hook, interface, sides, to);
                prop_assert!(
                    before == after || said.is_some(),
                    "{hook:?} {interface} {sides:?} {to:?}: {before:?}, then {after:?}"
                );
            }
        }
        for example in said.iter().flat_map(|change| &change.examples) {
            let Some(peer) = example.peer else { continue };
            let to = (example.protocol, example.port);
            // One of which no policy asks anything, if there are others.
            let own = example.own.unwrap_or(ip("0.0.0.0"));
            // A failsafe port's verdict is not of the tables; it is an example where there is no
            // endpoint in one of the two.
            let (before, after) = (
                verdict(kernel, hook, interface, (own, peer), to),
                verdict(&then.kernel, hook, interface, (own, peer), to),
            );
            prop_assert_eq!((before, after), (example.now, example.then), "{:?}", example);
        }
    }
    Ok(())
}

/// Whether a packet that comes in and goes out by these interfaces passes, as it is explained.
pub(super) fn verdict_of(
    world: &World,
    (input, output): (Option<&str>, Option<&str>),
    (source, destination): (&str, &str),
    (protocol, destination_port): (u8, u16),
) -> bool {
    let passage = Passage { input: input.map(index), output: output.map(index) };
    let (source, destination) = (ip(source), ip(destination));
    let flow = Flow { protocol, source, destination, source_port: SOURCE_PORT, destination_port };
    let said = world.engine.explain_at_hosts(&flow, passage);
    said.iter().all(|one| one.verdict != Verdict::Deny)
}

/// With interfaces eth0 and eth1.
fn with_links() -> World {
    let mut world = world();
    world.engine.set_host_links(links());
    world.settle();
    world
}

/// Hook, verdict, and policy, or tier whose end it is, outcome and rule.
fn lines(said: &[Judgement]) -> Vec<String> {
    let line = |one: &Judgement| {
        let rows = one.considered.iter().map(|row| {
            let what = row.policy.clone().unwrap_or_else(|| format!("end of {:?}", row.tier));
            let rule = row.rule.as_ref().map(|rule| format!(" by {}", rule.field));
            format!("; {what}: {:?}{}", row.outcome, rule.unwrap_or_default())
        });
        let (hook, rows) = (one.hook.unwrap(), rows.collect::<String>());
        format!("{hook:?} of {} at {}: {:?}{rows}", one.endpoint, one.interface, one.verdict)
    };
    said.iter().map(line).collect()
}

#[test]
fn every_policy_is_named_with_what_came_of_it_in_each_place() {
    let mut world = with_links();
    world.calico(&endpoint("eth0", "interfaceName: eth0"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: a-early}
spec:
  order: 1
  selector: all()
  preDNAT: true
  applyOnForward: true
  ingress: [{action: Deny, protocol: UDP}, {action: Allow, protocol: TCP, destination: {ports: [81]}}]
---
kind: GlobalNetworkPolicy
metadata: {name: b-web}
spec: {order: 2, selector: role == 'eth0', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}
---
kind: GlobalNetworkPolicy
metadata: {name: c-out}
spec: {order: 3, selector: role == 'eth0', applyOnForward: true, types: [Egress], egress: [{action: Allow}]}
---
kind: GlobalNetworkPolicy
metadata: {name: d-others}
spec: {order: 4, selector: role == 'eth9', ingress: [{action: Allow}]}
",
    );
    let said = |to| {
        let passage = Passage { input: Some(1), output: None };
        lines(&world.engine.explain_at_hosts(&flow(Direction::Ingress, OFFICE, to), passage))
    };
    let early = |rest: &str| {
        format!(
            "PreDnat of HostEndpoint eth0 at eth0: {rest}; GlobalNetworkPolicy b-web: OtherTraffic; \
                 GlobalNetworkPolicy c-out: OtherDirection; GlobalNetworkPolicy d-others: NotSelecting"
        )
    };
    let undecided =
        early("Allow; GlobalNetworkPolicy a-early: NoRuleMatches") + "; end of \"\": Passes";
    let last = |verdict: &str, rest: &str| {
        format!(
            "Input of HostEndpoint eth0 at eth0: {verdict}; GlobalNetworkPolicy a-early: OtherTraffic; \
                 {rest}"
        )
    };
    let others =
        "GlobalNetworkPolicy c-out: OtherDirection; GlobalNetworkPolicy d-others: NotSelecting";
    let web = format!("GlobalNetworkPolicy b-web: Allows by spec.ingress[0]; {others}");
    assert_eq!(said((TCP, 80)), [undecided.clone(), last("Allow", &web)]);
    let end =
        format!("GlobalNetworkPolicy b-web: NoRuleMatches; {others}; end of \"default\": Denies");
    assert_eq!(said((TCP, 82)), [undecided, last("Deny", &end)]);
    let taken = early("Accept; GlobalNetworkPolicy a-early: Allows by spec.ingress[1]");
    assert_eq!(said((TCP, 81)), [taken], "not judged again");
    let denied = early("Deny; GlobalNetworkPolicy a-early: Denies by spec.ingress[0]");
    assert_eq!(said((UDP, 80)), [denied]);
    let open = "Input of HostEndpoint eth0 at eth0: Allow; failsafe port: Allows";
    assert_eq!(said((TCP, 22)), [open]);
    // In by an interface that is no endpoint, out by one that is.
    let through = Passage { input: Some(2), output: Some(1) };
    let flow = flow(Direction::Egress, OUTSIDE, (TCP, 80));
    let said = world.engine.explain_at_hosts(&flow, through);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((said[0].hook, said[0].verdict), (Some(HostHook::ForwardOut), Verdict::Allow));
    let out = Passage { input: None, output: Some(2) };
    assert_eq!(world.engine.explain_at_hosts(&flow, out), [], "no endpoint");
}

#[test]
fn what_no_policy_decides_is_left_to_the_profiles() {
    let mut world = with_links();
    for (profiles, verdict) in
        [("[]", Verdict::Deny), ("[projectcalico-default-allow]", Verdict::Allow)]
    {
        world.calico(&endpoint("all", &format!("interfaceName: '*', profiles: {profiles}")));
        let passage = Passage { input: None, output: Some(2) };
        let flow = flow(Direction::Egress, OUTSIDE, (TCP, 80));
        let said = world.engine.explain_at_hosts(&flow, passage);
        let rows = &said[0].considered;
        assert_eq!((said.len(), said[0].verdict, rows.len()), (1, verdict, 1), "{said:?}");
        assert_eq!((rows[0].policy.as_deref(), rows[0].tier.as_str()), (Some("profiles"), ""));
    }
}

/// Before anything is tracked, what comes from a port that the host may always reach may be an answer.
#[test]
fn answers_of_failsafe_ports_are_not_asked_about_before_tracking() {
    let mut world = with_links();
    let failsafe = Failsafe { direction: Direction::Egress, protocol: UDP, port: 53, net: None };
    world.engine.set_failsafe(vec![failsafe]);
    world.calico(&endpoint("eth0", "interfaceName: eth0, profiles: [projectcalico-default-allow]"));
    world.calico(
        "
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: all(), doNotTrack: true, applyOnForward: true, types: [Ingress], ingress: [{action: Deny}]}
",
    );
    let passage = Passage { input: Some(1), output: None };
    for (source_port, verdict) in [(53, Verdict::Allow), (54, Verdict::Deny)] {
        let flow = Flow { source_port, ..flow(Direction::Ingress, OUTSIDE, (UDP, 4000)) };
        let said = world.engine.explain_at_hosts(&flow, passage);
        assert_eq!(said.last().unwrap().verdict, verdict, "{source_port}: {said:?}");
    }
    let solicitation = flow(Direction::Ingress, OUTSIDE, (58, 135 << 8));
    let said = world.engine.explain_at_hosts(&solicitation, passage);
    assert_eq!(
        lines(&said),
        ["Input of HostEndpoint eth0 at eth0: Allow; needed by an IPv6 link: Allows"]
    );
}
