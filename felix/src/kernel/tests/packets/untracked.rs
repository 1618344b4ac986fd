//! Policy before connection tracking: what it accepts is not tracked, and judged again where the host's own
//! and what it forwards are; but it counts once.

use std::sync::Arc;

use super::*;
use crate::kernel::Count;
use crate::model::{Decider, Decision};

/// What one packet of a test has: headers of IPv4 and UDP, and its byte.
const BYTES: u64 = 20 + 8 + 1;
/// More than one, so that it shows what counts twice.
const SENT: u64 = 3;

/// What each decider's packets are, in the order of their numbers from 1.
const DECIDE: [(Direction, &str); 4] = [
    (Direction::Ingress, "to the node"),
    (Direction::Ingress, "through it"),
    (Direction::Ingress, "denied"),
    (Direction::Egress, "answers"),
];

fn by(number: usize) -> Arc<Decision> {
    let (direction, rule) = DECIDE[number - 1];
    let rule = Some(rule.into());
    Arc::new(Decision { tier: None, policy: Some("early".into()), direction, rule })
}

/// A rule of a table that counts, and the same where it does not.
fn rule([counts, again]: [TableId; 2], traffic: Traffic, verdict: Verdict, by: u32) -> Vec<Change> {
    let value = Value::Counted { verdict, log: false, by: Decider(by) };
    let change =
        |table, value| Change { key: Key::HostPolicy { table, traffic }, value: Some(value) };
    vec![change(counts, value), change(again, Value::Verdict(verdict))]
}

#[test]
fn before_connection_tracking_what_policy_accepts_is_not_tracked() {
    use Traffic::{Any, Pairs, Port};
    let (early, early_out, closed, closed_out) = (
        table(10, Direction::Ingress),
        table(12, Direction::Egress),
        table(20, Direction::Ingress),
        table(22, Direction::Egress),
    );
    let named = [
        endpoints(),
        at(&[(UntrackedIn, Some(eth(0)))], early),
        at(&[(UntrackedOut, Some(eth(0)))], early_out),
        at(&[(Input, Some(eth(0))), (ForwardIn, Some(eth(0)))], closed),
        at(&[(Output, Some(eth(0)))], closed_out),
    ]
    .concat();
    let everywhere = [
        endpoints().split_off(2),
        at(&[(UntrackedIn, None)], early),
        at(&[(UntrackedOut, None)], early_out),
        at(&[(Input, None), (ForwardIn, None)], closed),
        at(&[(Output, None)], closed_out),
    ]
    .concat();
    let policy = [
        rules(
            early,
            &[
                (Port(UDP, 80), Verdict::Accept),
                (Port(UDP, 82), Verdict::Accept),
                (Port(UDP, 81), Verdict::Deny),
                (Port(UDP, FAILSAFE), Verdict::Deny),
                (Any, Verdict::Allow),
            ],
        ),
        rules(early_out, &[(Pairs(UDP, ALL, (80, 80)), Verdict::Accept), (Any, Verdict::Allow)]),
        rules(closed, &[(Port(UDP, 81), Verdict::Allow), (Any, Verdict::Deny)]),
        rules(closed_out, &[(Any, Verdict::Deny)]),
    ]
    .concat();
    for (places, marks) in [&named, &everywhere].into_iter().flat_map(|p| MARKS.map(|m| (p, m))) {
        let lab = Lab::new();
        lab.with(&[places.clone(), policy.clone()].concat(), |lab| {
            nft(&format!(
                "table ip other {{
                    chain before {{ type filter hook prerouting priority -310; udp dport 83 notrack; }}
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                    chain sent {{ type filter hook output priority -310; meta mark set 0x7; }}
                }}"
            ));
            lab.answers(80, true);
            assert_eq!(flows(), 0, "neither way is tracked");
            lab.answers(82, false);
            lab.arrives(81, &lab.node, 81, false);
            lab.arrives(83, &lab.node, 83, false);
            lab.arrives(84, &lab.node, 84, false);
        });
    }
}

/// What goes through the node to another: by the way in, only what is accepted before.
#[test]
fn what_is_forwarded_untracked_is_judged_once() {
    use Traffic::{Any, Port};
    let (early, ingress, egress) = (
        table(10, Direction::Ingress),
        table(20, Direction::Ingress),
        table(30, Direction::Egress),
    );
    let elements = [
        endpoints(),
        at(&[(UntrackedIn, Some(eth(0)))], early),
        at(&[(ForwardIn, Some(eth(0)))], ingress),
        at(&[(ForwardOut, Some(eth(1)))], egress),
        rules(
            early,
            &[
                (Port(UDP, 80), Verdict::Accept),
                (Port(UDP, 81), Verdict::Accept),
                (Any, Verdict::Allow),
            ],
        ),
        rules(ingress, &[(Port(UDP, 83), Verdict::Allow), (Any, Verdict::Deny)]),
        rules(egress, &[(Port(UDP, 81), Verdict::Deny), (Any, Verdict::Allow)]),
    ]
    .concat();
    for marks in MARKS {
        let lab = Lab::new();
        lab.with(&elements, |lab| {
            nft(&format!(
                "table ip other {{
                    chain before {{ type filter hook prerouting priority -310; udp dport {{ 83, 84 }} notrack; }}
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                }}"
            ));
            let sender = Lab::receiver(&lab.peer, 0);
            let receivers = [80, 81, 82, 83, 84].map(|port| (port, Lab::receiver(&lab.far, port)));
            // In this order on one way: when the last has arrived, so has what is let through.
            for port in [81, 82, 84, 80, 83] {
                sender.send_to(b"?", (FAR, port)).unwrap();
            }
            let mut buffer = [0; 8];
            for (port, receiver) in &receivers {
                if matches!(port, 80 | 83) {
                    assert!(receiver.recv(&mut buffer).is_ok(), "{marks}: {port}");
                }
            }
            assert_eq!(flows(), 0, "what is denied leaves no flow behind");
            for (port, receiver) in &receivers {
                receiver.set_nonblocking(true).unwrap();
                assert!(receiver.recv(&mut buffer).is_err(), "{marks}: {port}");
            }
        });
    }
}

#[test]
fn what_is_not_tracked_counts_once() {
    use Traffic::{Any, Pairs, Port};
    let tables = |number, direction| [number, number + 2].map(|number| table(number, direction));
    let (early, out) = (tables(10, Direction::Ingress), tables(14, Direction::Egress));
    let (closed, closed_out) = (table(20, Direction::Ingress), table(22, Direction::Egress));
    for interface in [Some(eth(0)), None] {
        let members = endpoints().split_off(if interface.is_some() { 0 } else { 2 });
        let elements = [
            members,
            only_at((UntrackedIn, interface), early[0]).into(),
            only_at((UntrackedInAgain, interface), early[1]).into(),
            only_at((UntrackedOut, interface), out[0]).into(),
            only_at((UntrackedOutAgain, interface), out[1]).into(),
            at(&[(Input, interface), (ForwardIn, interface)], closed),
            at(&[(Output, interface)], closed_out),
            // What the far one gets leaves by an interface that all may leave by.
            rules(closed, &[(Any, Verdict::Deny)]),
            rules(closed_out, &[(Any, Verdict::Deny)]),
            [early, out]
                .concat()
                .into_iter()
                .flat_map(|of| rules(of, &[(Any, Verdict::Allow)]))
                .collect(),
        ];
        let change = |(key, value)| Change { key, value: Some(value) };
        let plain = elements.concat().into_iter().map(change);
        let counted = [
            rule(early, Port(UDP, 80), Verdict::Accept, 1),
            rule(early, Port(UDP, 81), Verdict::Accept, 2),
            rule(early, Port(UDP, 82), Verdict::Deny, 3),
            rule(out, Pairs(UDP, ALL, (80, 80)), Verdict::Accept, 4),
        ];
        let deciders = (1u32..).map(Decider).zip((1..=DECIDE.len()).map(by)).collect();
        let delta = Delta {
            elements: plain.chain(counted.concat()).collect(),
            deciders,
            ..Delta::default()
        };
        let lab = Lab::new();
        lab.with_delta(DenyAction::Drop, delta, |lab, kernel, runtime| {
            for _ in 0..SENT {
                lab.answers(80, true);
                lab.arrives_by((FAR, 81), &lab.far, 81, true);
                lab.arrives(82, &lab.node, 82, false);
            }
            let mut found = runtime.block_on(kernel.counts()).unwrap();
            found.sort();
            let count = Count { packets: SENT, bytes: SENT * BYTES };
            let mut wanted: Vec<_> = (1..=DECIDE.len()).map(|number| (by(number), count)).collect();
            wanted.sort();
            assert_eq!(found, wanted, "{}", String::from_utf8_lossy(&state()));
        });
    }
}
