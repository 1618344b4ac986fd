//! Established flows of the node, when policy at its host endpoints changes.

use super::*;
use crate::model::Parties;

/// Policy of one port of the node, at a place.
struct Rule {
    key: Key,
    value: Value,
}

impl Rule {
    fn change(&self, there: bool) -> Delta {
        let change = Change { key: self.key, value: there.then_some(self.value) };
        Delta { elements: vec![change], ..Delta::default() }
    }
}

/// A flow from the peer to a port of the node, whose first packet was answered.
struct Flow {
    peer: UdpSocket,
    node: UdpSocket,
    control: UdpSocket,
}

impl Flow {
    fn new(lab: &Lab) -> Self {
        let [peer, node, control] = [(&lab.peer, 0), (&lab.node, 80), (&lab.node, FAILSAFE)]
            .map(|(at, port)| Lab::receiver(at, port));
        peer.connect((NODE, 80)).unwrap();
        let flow = Self { peer, node, control };
        flow.comes("at first");
        flow
    }

    /// What the peer sends comes, and the answer.
    fn comes(&self, when: &str) {
        self.peer.send(b"?").unwrap();
        let (_, from) =
            self.node.recv_from(&mut [0; 8]).unwrap_or_else(|error| panic!("{when}: {error}"));
        self.node.send_to(b"!", from).unwrap();
        assert!(self.peer.recv(&mut [0; 8]).is_ok(), "the answer, {when}");
    }

    /// It does not; but what the node sends by itself does.
    fn comes_not(&self, when: &str) {
        self.peer.send(b"?").unwrap();
        let other = self.peer.try_clone().unwrap();
        other.connect((NODE, FAILSAFE)).unwrap();
        other.send(b"!").unwrap();
        assert!(self.control.recv(&mut [0; 8]).is_ok(), "failsafe, {when}");
        self.node.set_nonblocking(true).unwrap();
        assert!(self.node.recv(&mut [0; 8]).is_err(), "it came through, {when}");
        self.node.set_nonblocking(false).unwrap();
        other.connect((NODE, 80)).unwrap();
        self.node.send_to(b"!", self.peer.local_addr().unwrap()).unwrap();
        assert!(self.peer.recv(&mut [0; 8]).is_ok(), "what the node sends, {when}");
    }
}

/// It is judged again by its own next packet, as long as it is denied by each; marks of others are what they
/// were.
#[test]
fn flows_to_the_node_are_judged_again_when_that_is_asked() {
    use Traffic::{Any, Port};
    let ingress = table(20, Direction::Ingress);
    let early = table(10, Direction::Ingress);
    let late = Rule {
        key: Key::HostPolicy { table: ingress, traffic: Port(UDP, 80) },
        value: Value::Verdict(Verdict::Allow),
    };
    let before_dnat = Rule {
        key: Key::HostPolicy { table: early, traffic: Port(UDP, 80) },
        value: Value::Verdict(Verdict::Accept),
    };
    let rest = [
        at(&[(Input, Some(eth(0)))], ingress),
        rules(ingress, &[(Any, Verdict::Deny)]),
        endpoints(),
    ]
    .concat();
    let with_early =
        [at(&[(PreDnat, Some(eth(0)))], early), rules(early, &[(Any, Verdict::Allow)])].concat();
    // What is to be seen: the packet's mark, and its flow's, which that of a packet stays in that was denied.
    let after = [(0, "0"), (7, "{ 0, 7 }"), (0, "9"), (7, "7")];
    for (rule, more) in [(&late, Vec::new()), (&before_dnat, with_early)] {
        for (marks, (packet, flow)) in MARKS.into_iter().zip(after) {
            // As is usual: whoever gives the flow another with each packet takes ours away.
            let marks = marks.replace("ct mark", "ct state new ct mark");
            let lab = Lab::new();
            let elements = [&rest[..], &more].concat();
            let change = |(key, value): &(Key, Value)| Change { key: *key, value: Some(*value) };
            let all = Delta { elements: elements.iter().map(change).collect(), ..Delta::default() };
            let work = || {
                let kernel = Kernel::start(Options::default()).unwrap();
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let commit = |delta| runtime.block_on(kernel.commit(delta)).unwrap();
                let judge = |again| {
                    let all = Parties { at_hosts: true, ..Parties::default() };
                    runtime.block_on(kernel.judge_at_hosts(all, again)).unwrap();
                };
                runtime.block_on(kernel.sync(all)).unwrap();
                commit(rule.change(true));
                nft(&format!(
                    "table ip other {{
                        chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                        chain seen {{ type filter hook input priority 10;
                            udp dport 80 meta mark {packet} ct mark {flow} accept
                            udp dport 80 drop
                        }}
                    }}"
                ));
                let flow = Flow::new(&lab);
                commit(rule.change(false));
                flow.comes("while nobody asks again");
                judge(true);
                flow.comes_not("denied");
                flow.comes_not("denied by each packet");
                commit(rule.change(true));
                flow.comes("allowed again");
                commit(rule.change(false));
                flow.comes("judged once");
                judge(true);
                flow.comes_not("denied again");
                judge(false);
                flow.comes("kept");
            };
            lab.node.run(work).unwrap();
        }
    }
}
