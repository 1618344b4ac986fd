//! Real packets at the host endpoints of a node between two others, whatever marks other programs
//! have given them and their flows.

mod again;
mod untracked;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use tokio::runtime::Runtime;

use super::*;
use crate::model::host::HostHook::{
    self, ForwardIn, ForwardOut, Input, Output, PreDnat, UntrackedIn, UntrackedInAgain,
    UntrackedOut, UntrackedOutAgain,
};
use crate::model::host::{InterfaceName, TableId, View};
use crate::model::{Class, Direction, Traffic, Verdict};

const NODE: &str = "192.0.2.1";
/// Comes in by eth0.
const PEER: &str = "192.0.2.9";
/// Behind eth1.
const FAR: &str = "198.51.100.9";
const UDP: u8 = 17;
/// Open whatever policy says: what was sent before has arrived, or will not, once this has.
const FAILSAFE: u16 = 22;
const ALL: (u16, u16) = (0, u16::MAX);
/// Generous: a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Of another program: a packet's mark, a flow's mark, and both.
const MARKS: [&str; 5] = [
    "",
    "meta mark set 0x7",
    "ct mark set 0x9",
    "ct mark set 0x7; meta mark set 0x7",
    "ct mark set 0x9; meta mark set 0x7",
];

fn ip(args: &str) {
    assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
}

fn nft(text: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

/// A node with two neighbours.
struct Lab {
    node: Netns,
    peer: Netns,
    far: Netns,
}

impl Lab {
    fn new() -> Self {
        let [node, peer, far] = [(); 3].map(|()| Netns::create().unwrap());
        let path = |netns: &Netns| {
            format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd())
        };
        node.run(|| {
            ip("link set lo up");
            for (link, other) in [("eth0", &peer), ("eth1", &far)] {
                ip(&format!("link add {link} type veth peer name uplink netns {}", path(other)));
                ip(&format!("link set {link} up"));
            }
            ip("addr add 192.0.2.1/24 dev eth0");
            ip("addr add 198.51.100.1/24 dev eth1");
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        })
        .unwrap();
        for (netns, own) in [(&peer, PEER), (&far, FAR)] {
            netns
                .run(|| {
                    ip(&format!("addr add {own}/24 dev uplink"));
                    ip("link set uplink up");
                    let (network, _) = own.rsplit_once('.').unwrap();
                    ip(&format!("route add default via {network}.1"));
                })
                .unwrap();
        }
        Self { node, peer, far }
    }

    /// Runs while these elements are in the kernel.
    fn with(&self, elements: &[(Key, Value)], work: impl FnOnce(&Self) + Send) {
        self.with_action(DenyAction::Drop, elements, work);
    }

    /// The same, where this becomes of denied packets.
    fn with_action(
        &self,
        action: DenyAction,
        elements: &[(Key, Value)],
        work: impl FnOnce(&Self) + Send,
    ) {
        let change = |(key, value): &(Key, Value)| Change { key: *key, value: Some(*value) };
        let delta = Delta { elements: elements.iter().map(change).collect(), ..Delta::default() };
        self.with_delta(action, delta, |lab, _, _| work(lab));
    }

    /// The same, for what asks the kernel's writer something, too.
    fn with_delta(
        &self,
        action: DenyAction,
        delta: Delta,
        work: impl FnOnce(&Self, &Kernel, &Runtime) + Send,
    ) {
        let run = || {
            let kernel = Kernel::start(Options::default()).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(kernel.set_deny_action(action)).unwrap();
            runtime.block_on(kernel.sync(delta)).unwrap();
            work(self, &kernel, &runtime);
        };
        self.node.run(run).unwrap();
    }

    fn receiver(netns: &Netns, port: u16) -> UdpSocket {
        // A program that another test is starting has the last one open until it is executed.
        let deadline = Instant::now() + SOON;
        let bind = || loop {
            match UdpSocket::bind(("0.0.0.0", port)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                done => return done.unwrap(),
            }
        };
        let socket = netns.run(bind).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    /// Whether what the peer sends to a port of the node arrives where it should: at this port of
    /// the node itself, or of the neighbour behind.
    fn arrives(&self, port: u16, at: &Netns, as_port: u16, open: bool) {
        self.arrives_by((NODE, port), at, as_port, open);
    }

    /// The same of what the peer sends to a port of whoever has this address.
    fn arrives_by(&self, (to, port): (&str, u16), at: &Netns, as_port: u16, open: bool) {
        let (wanted, control) = (Self::receiver(at, as_port), Self::receiver(&self.node, FAILSAFE));
        let sender = Self::receiver(&self.peer, 0);
        sender.send_to(b"?", (to, port)).unwrap();
        let mut buffer = [0; 8];
        let what = || format!("{to} port {port}, {}", String::from_utf8_lossy(&state()));
        if open {
            assert!(wanted.recv(&mut buffer).is_ok(), "{}", what());
            return;
        }
        sender.send_to(b"!", (NODE, FAILSAFE)).unwrap();
        assert!(control.recv(&mut buffer).is_ok(), "failsafe; {}", what());
        wanted.set_nonblocking(true).unwrap();
        assert!(wanted.recv(&mut buffer).is_err(), "it came through: {}", what());
    }

    /// What the peer sends to a port is refused, though somebody listens, and it is told.
    fn refuses(&self, (to, port): (&str, u16), at: &Netns) {
        let (wanted, sender) = (Self::receiver(at, port), Self::receiver(&self.peer, 0));
        sender.connect((to, port)).unwrap();
        sender.send(b"?").unwrap();
        let mut buffer = [0; 8];
        let told = sender.recv(&mut buffer).map_err(|error| error.kind());
        let what = || format!("{to} port {port}, {}", String::from_utf8_lossy(&state()));
        assert_eq!(told, Err(ErrorKind::ConnectionRefused), "{}", what());
        wanted.set_nonblocking(true).unwrap();
        assert!(wanted.recv(&mut buffer).is_err(), "it came through: {}", what());
    }

    /// Whether the node answers from its port to the peer's.
    fn answers(&self, port: u16, open: bool) {
        let server = Self::receiver(&self.node, port);
        let sender = Self::receiver(&self.peer, 0);
        sender.send_to(b"?", (NODE, port)).unwrap();
        let mut buffer = [0; 8];
        let (_, from): (usize, SocketAddr) = server.recv_from(&mut buffer).unwrap();
        // What the kernel drops on the way out, it says so to the sender.
        assert_eq!(server.send_to(b"!", from).is_ok(), open, "port {port}");
        if open {
            assert!(sender.recv(&mut buffer).is_ok(), "port {port}");
        }
    }
}

/// For the message of a failure.
fn state() -> Vec<u8> {
    Command::new("nft").args(["list", "ruleset"]).output().map(|o| o.stdout).unwrap_or_default()
}

/// How many flows the namespace of this thread tracks.
fn flows() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    text.trim().parse().unwrap()
}

fn eth(number: u8) -> InterfaceName {
    InterfaceName::new(&format!("eth{number}")).unwrap()
}

fn in_view((hook, interface): (HostHook, Option<InterfaceName>), view: View, class: Class) -> Key {
    Key::HostTable { hook, interface, view, class }
}

/// The same table at each of these, and where they judge again. No interface: all without an endpoint.
fn at(hooks: &[(HostHook, Option<InterfaceName>)], table: TableId) -> Vec<(Key, Value)> {
    let places = hooks.iter().flat_map(|(hook, interface)| {
        [Some(*hook), hook.again()].into_iter().flatten().map(|hook| (hook, *interface))
    });
    places.flat_map(|place| only_at(place, table)).collect()
}

/// A table at one place.
fn only_at(place: (HostHook, Option<InterfaceName>), table: TableId) -> [(Key, Value); 1] {
    [(in_view(place, View::PLAIN, Class(0)), Value::Table(table))]
}

fn rules(table: TableId, list: &[(Traffic, Verdict)]) -> Vec<(Key, Value)> {
    let rule = |(traffic, verdict): &(Traffic, Verdict)| {
        (Key::HostPolicy { table, traffic: *traffic }, Value::Verdict(*verdict))
    };
    list.iter().map(rule).collect()
}

fn endpoints() -> Vec<(Key, Value)> {
    let net = "0.0.0.0/0".parse().unwrap();
    let failsafe = Key::Failsafe(Direction::Ingress, UDP, FAILSAFE, net);
    let members = [Key::HostInterface(eth(0)), Key::HostInterface(eth(1)), failsafe];
    members.map(|key| (key, Value::Member)).into()
}

fn table(number: u32, direction: Direction) -> TableId {
    TableId::new(number, direction)
}

/// A destination before translation is allowed or denied: what is allowed passes the endpoint,
/// whatever policy says of it after translation; and the way out is judged all the same.
#[test]
fn before_destination_nat_what_policy_accepts_passes_the_endpoint() {
    use Traffic::{Any, Port};
    let (early, ingress, egress) = (
        table(10, Direction::Ingress),
        table(20, Direction::Ingress),
        table(30, Direction::Egress),
    );
    let named = [
        endpoints(),
        at(&[(PreDnat, Some(eth(0)))], early),
        at(&[(Input, Some(eth(0))), (ForwardIn, Some(eth(0)))], ingress),
        at(&[(ForwardOut, Some(eth(1)))], egress),
    ]
    .concat();
    let everywhere = [
        endpoints().split_off(2),
        at(&[(PreDnat, None)], early),
        at(&[(Input, None), (ForwardIn, None)], ingress),
        at(&[(ForwardOut, None)], egress),
    ]
    .concat();
    let policy = [
        rules(
            early,
            &[
                (Port(UDP, 8080), Verdict::Accept),
                (Port(UDP, 8083), Verdict::Accept),
                (Port(UDP, 90), Verdict::Accept),
                (Port(UDP, 8081), Verdict::Deny),
                (Port(UDP, 91), Verdict::Deny),
                (Port(UDP, FAILSAFE), Verdict::Deny),
                (Any, Verdict::Allow),
            ],
        ),
        rules(ingress, &[(Port(UDP, 91), Verdict::Allow), (Port(UDP, 93), Verdict::Allow)]),
        rules(egress, &[(Port(UDP, 81), Verdict::Deny), (Any, Verdict::Allow)]),
    ]
    .concat();
    for (places, marks) in [&named, &everywhere].into_iter().flat_map(|p| MARKS.map(|m| (p, m))) {
        let lab = Lab::new();
        lab.with(&[places.clone(), policy.clone()].concat(), |lab| {
            nft(&format!(
                "table ip other {{
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                    chain nat {{ type nat hook prerouting priority -100;
                        udp dport {{ 8080, 8081, 8082 }} dnat to {FAR}:80
                        udp dport 8083 dnat to {FAR}:81
                    }}
                }}"
            ));
            lab.arrives(8080, &lab.far, 80, true);
            lab.arrives(8081, &lab.far, 80, false);
            lab.arrives(8082, &lab.far, 80, false);
            lab.arrives(8083, &lab.far, 81, false);
            lab.arrives(90, &lab.node, 90, true);
            lab.arrives(91, &lab.node, 91, false);
            lab.arrives(92, &lab.node, 92, false);
            lab.arrives(93, &lab.node, 93, true);
        });
    }
}

/// A packet's mark is what it was when policy has judged it, unless its flow has another.
#[test]
fn marks_of_others_survive_and_mean_nothing_to_policy() {
    use Traffic::{Any, Port};
    let (ingress, egress) = (table(20, Direction::Ingress), table(30, Direction::Egress));
    let elements = [
        endpoints(),
        at(&[(Input, Some(eth(0))), (ForwardIn, Some(eth(0)))], ingress),
        at(&[(ForwardOut, Some(eth(1))), (Output, Some(eth(0)))], egress),
        rules(ingress, &[(Port(UDP, 80), Verdict::Allow), (Any, Verdict::Deny)]),
        rules(egress, &[(Port(UDP, 53), Verdict::Allow), (Port(UDP, 80), Verdict::Allow)]),
    ]
    .concat();
    // What is to be seen afterwards: the packet's mark, and its flow's.
    let after = [(0, 0), (7, 0), (0, 9), (7, 7), (9, 9)];
    for (marks, (packet, flow)) in MARKS.into_iter().zip(after) {
        let lab = Lab::new();
        lab.with(&elements, |lab| {
            nft(&format!(
                "table ip other {{
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                    chain sent {{ type filter hook output priority -160; {marks}; }}
                    chain seen {{ type filter hook input priority 10;
                        udp dport 80 meta mark {packet} ct mark {flow} accept
                        udp dport 80 drop
                    }}
                    chain through {{ type filter hook forward priority 10;
                        udp dport 80 meta mark {packet} ct mark {flow} accept
                        udp dport 80 drop
                    }}
                    chain gone {{ type filter hook postrouting priority 10;
                        udp dport 53 meta mark {packet} ct mark {flow} accept
                        udp dport 53 drop
                    }}
                }}"
            ));
            lab.arrives(80, &lab.node, 80, true);
            lab.arrives(81, &lab.node, 81, false);
            let (wanted, sender) = (Lab::receiver(&lab.far, 80), Lab::receiver(&lab.peer, 0));
            sender.send_to(b"?", (FAR, 80)).unwrap();
            assert!(wanted.recv(&mut [0; 8]).is_ok(), "forwarded, {marks}");
            let (wanted, sender) = (Lab::receiver(&lab.peer, 53), Lab::receiver(&lab.node, 0));
            sender.send_to(b"?", (PEER, 53)).unwrap();
            assert!(wanted.recv(&mut [0; 8]).is_ok(), "sent, {marks}");
            assert!(sender.send_to(b"?", (PEER, 54)).is_err(), "not sent, {marks}");
        });
    }
}

/// Where something is asked of the host's own side, it is judged by what is true of that; and the other side
/// is told apart there as elsewhere.
#[test]
fn the_own_side_chooses_the_tables() {
    use Traffic::{Any, Port};
    let (of_node, of_peer, of_far) = (Class(5), Class(6), Class(Class::MASK));
    let classes = [(NODE, of_node), (PEER, of_peer), (FAR, of_far)];
    let classes = classes.map(|(of, class)| (Key::Class(of.parse().unwrap()), Value::Class(class)));
    let [early, left, closed, some] = [10, 12, 20, 30].map(|of| table(of, Direction::Ingress));
    let [out, shut] = [40, 42].map(|of| table(of, Direction::Egress));
    let last = View::told_apart().last().unwrap();
    let first = View::told_apart().next().unwrap();
    let elements = |[eth0, eth1]: [Option<InterfaceName>; 2]| {
        let own = |hook, interface, class, view| {
            (Key::HostView { hook, interface, class }, Value::View(view))
        };
        let table = |hook, interface, (view, class), table| {
            (in_view((hook, interface), view, class), Value::Table(table))
        };
        let (plain, any) = (View::PLAIN, Class(0));
        vec![
            // Before destination NAT what is for the node itself, to one port.
            own(PreDnat, eth0, of_node, first),
            table(PreDnat, eth0, (first, any), early),
            table(PreDnat, eth0, (plain, any), left),
            table(Input, eth0, (plain, any), closed),
            // Through it what is from the peer for the far one, and out what is from the peer.
            own(ForwardIn, eth0, of_far, last),
            table(ForwardIn, eth0, (last, of_peer), some),
            table(ForwardIn, eth0, (last, any), closed),
            table(ForwardIn, eth0, (plain, any), closed),
            own(ForwardOut, eth1, of_peer, first),
            table(ForwardOut, eth1, (first, any), out),
            table(ForwardOut, eth1, (plain, any), shut),
        ]
    };
    let policy = [
        rules(early, &[(Port(UDP, 80), Verdict::Accept), (Any, Verdict::Allow)]),
        rules(left, &[(Any, Verdict::Allow)]),
        rules(some, &[(Port(UDP, 81), Verdict::Allow), (Port(UDP, 82), Verdict::Allow)]),
        rules(out, &[(Port(UDP, 81), Verdict::Allow), (Port(UDP, 83), Verdict::Allow)]),
        classes.to_vec(),
    ]
    .concat();
    let named = [endpoints(), elements([Some(eth(0)), Some(eth(1))])].concat();
    let everywhere = [endpoints().split_off(2), elements([None; 2])].concat();
    for (places, marks) in [&named, &everywhere].into_iter().flat_map(|p| MARKS.map(|m| (p, m))) {
        let lab = Lab::new();
        lab.with(&[places.clone(), policy.clone()].concat(), |lab| {
            nft(&format!(
                "table ip other {{
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                }}"
            ));
            lab.arrives(80, &lab.node, 80, true);
            lab.arrives(81, &lab.node, 81, false);
            for (port, open) in [(80, false), (81, true), (82, false), (83, false)] {
                lab.arrives_by((FAR, port), &lab.far, port, open);
            }
        });
    }
}

/// The index of an interface of this thread's namespace.
fn index_of(link: &str) -> u32 {
    let output = Command::new("ip").args(["-o", "link", "show", link]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(':').next().unwrap().parse().unwrap()
}

/// Another program may take one element of several. An interface that is named as ours are and has an address
/// gets nothing through unless it is known what it may send.
#[test]
fn what_comes_from_an_interface_that_is_not_known_is_denied() {
    let lab = Lab::new();
    let policy = |direction, index| {
        let key = Key::Policy { direction, index, class: None, traffic: Traffic::Any };
        (key, Value::Verdict(Verdict::Allow))
    };
    let change = |(key, value)| Change { key, value: Some(value) };
    let delta = |elements: &[(Key, Value)]| Delta {
        elements: elements.iter().copied().map(change).collect(),
        ..Delta::default()
    };
    let run = || {
        let [from, to] = ["eth0", "eth1"].map(index_of);
        let far = [(Key::Workload(to), Value::Member), policy(Direction::Ingress, to)];
        let source = (Key::Source(PEER.parse().unwrap(), from), Value::Member);
        let known = [(Key::Workload(from), Value::Member), policy(Direction::Egress, from)];
        let kernel = Kernel::start(Options { prefix: "eth".into(), ..Options::default() }).unwrap();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(kernel.sync(delta(&[&far[..], &[source]].concat()))).unwrap();
        let receivers =
            [&lab.node, &lab.far].map(|at| [80, 81].map(|port| Lab::receiver(at, port)));
        let sender = Lab::receiver(&lab.peer, 0);
        let send = |port| [NODE, FAR].map(|to| sender.send_to(b"?", (to, port)).unwrap());
        send(80);
        runtime.block_on(kernel.commit(delta(&known))).unwrap();
        send(81);
        for [before, after] in receivers {
            // In this order on one way.
            assert!(after.recv(&mut [0; 8]).is_ok(), "{}", String::from_utf8_lossy(&state()));
            before.set_nonblocking(true).unwrap();
            assert!(before.recv(&mut [0; 8]).is_err(), "it came through");
        }
    };
    lab.node.run(run).unwrap();
}

/// At every hook, whoever denies; but what the node itself sends is dropped, and its program is told by
/// the kernel.
#[test]
fn what_is_denied_can_be_rejected() {
    use Traffic::{Any, Port};
    let [early, untracked, ingress, forward] =
        [10, 12, 20, 22].map(|number| table(number, Direction::Ingress));
    let [out, forward_out] = [30, 32].map(|number| table(number, Direction::Egress));
    let at_hooks = |[eth0, eth1]: [Option<InterfaceName>; 2]| {
        let at = |hook, interface, table| at(&[(hook, interface)], table);
        [
            at(PreDnat, eth0, early),
            at(UntrackedIn, eth0, untracked),
            at(Input, eth0, ingress),
            at(ForwardIn, eth0, forward),
            at(ForwardOut, eth1, forward_out),
            at(Output, eth0, out),
        ]
        .concat()
    };
    let logged =
        (Key::HostPolicy { table: ingress, traffic: Port(UDP, 94) }, Value::Logged(Verdict::Deny));
    let policy = [
        rules(early, &[(Port(UDP, 90), Verdict::Deny), (Any, Verdict::Allow)]),
        rules(untracked, &[(Port(UDP, 92), Verdict::Deny), (Any, Verdict::Allow)]),
        rules(ingress, &[(Port(UDP, 80), Verdict::Allow)]),
        rules(forward, &[(Port(UDP, 82), Verdict::Deny), (Any, Verdict::Allow)]),
        rules(forward_out, &[(Port(UDP, 83), Verdict::Deny), (Any, Verdict::Allow)]),
        rules(out, &[(Port(UDP, 80), Verdict::Allow)]),
        vec![logged],
    ]
    .concat();
    let named = [endpoints(), at_hooks([Some(eth(0)), Some(eth(1))])].concat();
    let everywhere = [endpoints().split_off(2), at_hooks([None; 2])].concat();
    // The mark that denied packets wait with is nothing when it is another's.
    let marks =
        MARKS.into_iter().chain(["meta mark set 0x3", "ct mark set 0x3; meta mark set 0x3"]);
    for (places, marks) in marks.flat_map(|marks| [(&named, marks), (&everywhere, marks)]) {
        let lab = Lab::new();
        lab.with_action(DenyAction::Reject, &[places.clone(), policy.clone()].concat(), |lab| {
            nft(&format!(
                "table ip other {{
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                }}"
            ));
            std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
            lab.arrives(80, &lab.node, 80, true);
            for denied in [90, 91, 94] {
                lab.refuses((NODE, denied), &lab.node);
            }
            lab.arrives(92, &lab.node, 92, false);
            lab.arrives_by((FAR, 81), &lab.far, 81, true);
            for denied in [82, 83] {
                lab.refuses((FAR, denied), &lab.far);
            }
            let sent = |port| Lab::receiver(&lab.node, 0).send_to(b"!", (PEER, port)).is_ok();
            assert_eq!((sent(80), sent(81)), (true, false));
        });
    }
}

#[test]
fn what_workloads_may_not_get_can_be_rejected() {
    let lab = Lab::new();
    let index = lab.node.run(|| index_of("eth1")).unwrap();
    let traffic = Traffic::Port(UDP, 81);
    let allowed = Key::Policy { direction: Direction::Ingress, index, class: None, traffic };
    let elements =
        [(Key::Workload(index), Value::Member), (allowed, Value::Verdict(Verdict::Allow))];
    for marks in ["", "meta mark set 0x3", "ct mark set 0x3"] {
        lab.with_action(DenyAction::Reject, &elements, |lab| {
            nft(&format!(
                "table ip other {{
                    chain marks {{ type filter hook prerouting priority -160; {marks}; }}
                }}"
            ));
            std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
            lab.arrives_by((FAR, 81), &lab.far, 81, true);
            lab.refuses((FAR, 82), &lab.far);
            nft("delete table ip other");
        });
    }
}
