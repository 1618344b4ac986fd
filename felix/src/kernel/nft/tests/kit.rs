//! A kernel that fails at will, what may be wanted of it, and what it really has.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use netlink::netns::Netns;
use netlink::nft::{self, CommitError, Element, Ruleset, Table};
use netlink::{Protocol, Socket};
use rustc_hash::FxHashSet;

use super::super::super::elements::Raw;
use super::*;
use crate::kernel::layout::host::{Hosts, Views};
use crate::model::host::{HostHook, InterfaceName, TableId, View};
use crate::model::{Class, Direction, Traffic, Verdict};

/// The kernel, failing at will.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) socket: Socket,
    /// Commits from now on, counted from 0, that fail with this error number instead of being sent.
    pub(super) fail: FxHashMap<usize, i32>,
    /// Commits that are executed, but whose answer is lost.
    pub(super) lose: FxHashSet<usize>,
    pub(super) commits: usize,
    pub(super) reads: usize,
    /// The threads that committed.
    pub(super) by: Vec<ThreadId>,
}

impl Faulty {
    pub(super) fn new() -> Self {
        Self {
            socket: Socket::open(Protocol::Netfilter).unwrap(),
            fail: FxHashMap::default(),
            lose: FxHashSet::default(),
            commits: 0,
            reads: 0,
            by: Vec::new(),
        }
    }
}

impl Channel for Faulty {
    fn commit(&mut self, tx: Transaction) -> Result<(), CommitError> {
        let number = self.commits;
        self.commits += 1;
        self.by.push(std::thread::current().id());
        if let Some(errno) = self.fail.get(&number) {
            let source = std::io::Error::from_raw_os_error(*errno);
            return Err(netlink::Error::Io { action: "send", source }.into());
        }
        let result = tx.commit(&mut self.socket);
        if self.lose.contains(&number) { Err(netlink::Error::Overrun.into()) } else { result }
    }

    fn table(&mut self) -> netlink::Result<Option<Table>> {
        self.reads += 1;
        Channel::table(&mut self.socket)
    }

    fn ruleset(&mut self) -> netlink::Result<Ruleset> {
        Channel::ruleset(&mut self.socket)
    }

    fn elements(&mut self, set: &str) -> netlink::Result<Vec<Raw>> {
        Channel::elements(&mut self.socket, set)
    }

    fn element(&mut self, set: &str, element: &Element<'_>) -> netlink::Result<Option<Raw>> {
        Channel::element(&mut self.socket, set, element)
    }

    fn generation(&mut self) -> netlink::Result<u32> {
        Channel::generation(&mut self.socket)
    }

    fn port(&self) -> u32 {
        self.socket.port()
    }
}

pub(super) fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    Netns::create().unwrap().run(work).unwrap()
}

pub(super) fn params() -> Params {
    Params {
        prefix: "cali".into(),
        host_action: HostAction::Accept,
        deny: DenyAction::Drop,
        sampling: false,
        log: LogRules::default(),
        queue: layout::Queue::Target,
        names: false,
    }
}

pub(super) fn start(owned: bool) -> Writer<Faulty> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Writer::start(Faulty::new(), params(), owned) {
            // A program that another test is starting has the socket of before until it is executed.
            Err(Error::Held { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            done => return done.unwrap(),
        }
    }
}

pub(super) fn nft_program(text: &str) -> bool {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

pub(super) fn policy(index: u32, class: Option<u32>, traffic: Traffic, verdict: Verdict) -> Change {
    let class = class.map(Class);
    let key = Key::Policy { direction: Direction::Ingress, index, class, traffic };
    Change { key, value: Some(Value::Verdict(verdict)) }
}

/// The same, logged before.
pub(super) fn logged(change: Change) -> Change {
    let value = change.value.map(|value| match value {
        Value::Verdict(verdict) => Value::Logged(verdict),
        other => other,
    });
    Change { value, ..change }
}

pub(super) fn interface(name: &str) -> InterfaceName {
    InterfaceName::new(name).unwrap()
}

pub(super) fn host_table(hook: HostHook, name: Option<&str>, class: u32, table: u32) -> Change {
    in_view(hook, name, (View::PLAIN, class), table)
}

pub(super) fn in_view(
    hook: HostHook,
    name: Option<&str>,
    (view, class): (View, u32),
    table: u32,
) -> Change {
    let key = Key::HostTable { hook, interface: name.map(interface), view, class: Class(class) };
    Change { key, value: Some(Value::Table(TableId::from_number(table))) }
}

pub(super) fn own_side(hook: HostHook, name: Option<&str>, class: u32, view: View) -> Change {
    let key = Key::HostView { hook, interface: name.map(interface), class: Class(class) };
    Change { key, value: Some(Value::View(view)) }
}

pub(super) fn host_policy(table: u32, traffic: Traffic, value: Value) -> Change {
    let key = Key::HostPolicy { table: TableId::from_number(table), traffic };
    Change { key, value: Some(value) }
}

pub(super) fn member(key: Key) -> Change {
    Change { key, value: Some(Value::Member) }
}

pub(super) fn class(key: Key, class: u32) -> Change {
    Change { key, value: Some(Value::Class(Class(class))) }
}

pub(super) fn gone(key: Key) -> Change {
    Change { key, value: None }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

/// One of every kind of element.
pub(super) fn everything() -> Vec<Change> {
    use Traffic::{Any, Pairs, Port, Ports, Protocol};
    use Verdict::{Accept, Allow, Deny};
    vec![
        member(Key::Workload(7)),
        member(Key::Source(ip("10.0.0.7"), 7)),
        member(Key::Source(ip("fd00::7"), 7)),
        class(Key::Class(ip("10.0.0.8")), 1),
        class(Key::Class(ip("fd00::8")), 1),
        class(Key::ClassRange(ip("10.1.0.0"), ip("10.1.0.255")), 2),
        class(Key::ClassRange(ip("10.1.1.0"), ip("10.1.1.7")), 3),
        class(Key::ClassRange(ip("240.0.0.0"), ip("255.255.255.255")), 4),
        class(Key::ClassRange(ip("fd01::"), ip("fd01::ff")), 2),
        policy(7, Some(1), Port(6, 80), Allow),
        policy(7, Some(1), Ports(17, 1000, 2000), Deny),
        policy(7, Some(1), Ports(1, 0x0800, 0x08ff), Deny),
        policy(7, Some(1), Pairs(6, (81, 90), (0, 1023)), Deny),
        policy(7, Some(1), Pairs(6, (81, 90), (2000, 2000)), Allow),
        policy(7, Some(1), Protocol(1), Allow),
        policy(7, Some(1), Any, Deny),
        policy(7, None, Port(6, 443), Allow),
        policy(7, None, Ports(6, 5000, 6000), Allow),
        policy(7, None, Pairs(17, (0, u16::MAX), (53, 53)), Allow),
        policy(7, None, Port(58, 0x8000), Deny),
        policy(7, None, Protocol(58), Allow),
        policy(7, None, Any, Deny),
        logged(policy(7, None, Port(6, 25), Deny)),
        logged(policy(7, Some(1), Port(6, 25), Allow)),
        member(Key::HostInterface(interface("eth0"))),
        member(Key::Asks(7)),
        class(Key::Learned(7, ip("192.0.2.7")), 5),
        class(Key::Learned(7, ip("2001:db8::7")), 5),
        member(Key::Failsafe(Direction::Ingress, 6, 22, net("0.0.0.0/0"))),
        member(Key::Failsafe(Direction::Ingress, 6, 22, net("::/0"))),
        member(Key::Failsafe(Direction::Egress, 17, 53, net("10.0.0.0/8"))),
        member(Key::Failsafe(Direction::Egress, 17, 53, net("192.0.2.1/32"))),
        member(Key::Failsafe(Direction::Egress, 17, 53, net("fd00::/64"))),
        host_table(HostHook::Input, Some("eth0"), 0, 20),
        host_table(HostHook::Input, Some("eth0"), 1, 22),
        host_table(HostHook::Output, Some("eth0"), 0, 21),
        host_table(HostHook::Input, None, 0, 20),
        host_table(HostHook::Output, None, 0, 21),
        host_table(HostHook::ForwardIn, None, 0, 22),
        host_table(HostHook::ForwardOut, None, 2, 21),
        host_table(HostHook::PreDnat, None, 0, 24),
        host_table(HostHook::PreDnat, Some("eth0"), 1, 24),
        host_table(HostHook::UntrackedIn, Some("eth0"), 0, 24),
        host_table(HostHook::UntrackedOut, None, 0, 25),
        own_side(HostHook::UntrackedOut, None, 2, View::CLOSED),
        in_view(HostHook::UntrackedOut, None, (View::CLOSED, 0), 25),
        host_table(HostHook::UntrackedInAgain, Some("eth0"), 0, 24),
        host_table(HostHook::UntrackedOutAgain, None, 0, 25),
        own_side(HostHook::UntrackedOutAgain, None, 2, View::CLOSED),
        in_view(HostHook::UntrackedOutAgain, None, (View::CLOSED, 0), 25),
        own_side(HostHook::Input, Some("eth0"), 1, View::CLOSED),
        in_view(HostHook::Input, Some("eth0"), (View::CLOSED, 0), 20),
        in_view(HostHook::Input, Some("eth0"), (View::CLOSED, 2), 22),
        own_side(HostHook::PreDnat, None, 2, View::CLOSED),
        in_view(HostHook::PreDnat, None, (View::CLOSED, 0), 24),
        host_policy(24, Port(6, 80), Value::Verdict(Accept)),
        host_policy(24, Any, Value::Verdict(Allow)),
        host_policy(25, Protocol(17), Value::Logged(Accept)),
        host_policy(20, Port(6, 80), Value::Verdict(Allow)),
        host_policy(20, Ports(6, 1000, 2000), Value::Logged(Allow)),
        host_policy(21, Pairs(6, (81, 90), (0, 1023)), Value::Logged(Deny)),
        host_policy(22, Protocol(1), Value::Verdict(Deny)),
        host_policy(22, Any, Value::Verdict(Allow)),
        member(Key::Masquerade(net("10.0.0.0/8"))),
        member(Key::Masquerade(net("fd00::/48"))),
        member(Key::Pool(net("10.0.0.0/8"))),
        member(Key::Pool(net("fd00::/48"))),
    ]
}

pub(super) fn delta(elements: Vec<Change>) -> Delta {
    Delta { elements, ..Delta::default() }
}

pub(super) fn wanted(changes: &[Change]) -> FxHashMap<Key, Value> {
    changes.iter().filter_map(|change| Some((change.key, change.value?))).collect()
}

/// What is really in the kernel, read by another socket; nothing may be in it that is not of the
/// layout.
pub(super) fn kernel_has() -> FxHashMap<Key, Value> {
    let mut socket = Socket::open(Protocol::Netfilter).unwrap();
    let ruleset = Channel::ruleset(&mut socket).unwrap();
    assert_eq!(ruleset.other_sets, Vec::<String>::new());
    let mut all = FxHashMap::default();
    for name in elements::set_names() {
        let (known, foreign) =
            elements::decode(name, Channel::elements(&mut socket, name).unwrap());
        assert_eq!(foreign, vec![], "{name}");
        all.extend(known);
    }
    for (set, values) in layout::fixed_sets() {
        let mut keys: Vec<Vec<u8>> = Channel::elements(&mut socket, &set.name)
            .unwrap()
            .into_iter()
            .map(|raw| raw.key)
            .collect();
        keys.sort();
        assert_eq!(keys.concat(), values, "{}", set.name);
    }
    let masquerade = all.keys().any(|key| matches!(key, Key::Masquerade(_)));
    let mut chains = ruleset.chains;
    let is = |wanted: fn(&Key) -> bool| all.keys().any(wanted);
    let hosts = Hosts {
        named: is(|key| matches!(key, Key::HostInterface(_))),
        all: is(|key| {
            let class = Class(0);
            let (interface, view) = (None, View::PLAIN);
            matches!(key, Key::HostTable { hook: HostHook::Input, .. })
                && *key == Key::HostTable { hook: HostHook::Input, interface, view, class }
        }),
        forward: is(|key| {
            use HostHook::{ForwardIn, ForwardOut};
            matches!(key, Key::HostTable { hook: ForwardIn | ForwardOut, class: Class(0), .. })
        }),
        pre_dnat: is(|key| {
            matches!(key, Key::HostTable { hook: HostHook::PreDnat, class: Class(0), .. })
        }),
        untracked: is(
            |key| matches!(key, Key::HostTable { hook, class: Class(0), .. } if hook.is_untracked()),
        ),
        views: all.keys().fold(Views::NONE, |mut views, key| {
            if let Key::HostTable { hook, view, class: Class(0), .. } = *key
                && view != View::PLAIN
            {
                views.add(hook, view);
            }
            views
        }),
    };
    let params = Params { names: is(|key| matches!(key, Key::Asks(_))), ..params() };
    let mut expected = layout::chains(&params, hosts, masquerade);
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(chains, expected);
    all
}

pub(super) fn generation() -> u32 {
    nft::generation(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap()
}

/// What tells a rule from one that was written in its place.
pub(super) fn rule_handles() -> Vec<String> {
    let listed = Command::new("nft").args(["-a", "list", "table", "inet", TABLE]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("# handle "))
        .filter_map(|(_, handle)| handle.split(' ').next().map(str::to_owned))
        .collect()
}
