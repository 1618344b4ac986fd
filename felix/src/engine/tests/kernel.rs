//! A model of the kernel's maps: what deltas add up to, and what a packet finds there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::host::{HostHook, InterfaceName, View};
use crate::model::{
    Class, Decider, Decision, Delta, Direction, IfIndex, Key, Traffic, Value, Verdict,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) elements: BTreeMap<Key, Value>,
    /// Whom the numbers stand for.
    pub(super) deciders: BTreeMap<Decider, Arc<Decision>>,
    /// What is said beside elements.
    pub(super) comments: BTreeMap<Key, Arc<str>>,
}

impl Kernel {
    /// Applies a delta. Deleting what is not there and adding what is there already fail the
    /// test, as does a delta that is out of order or names a key twice.
    pub(super) fn apply(&mut self, delta: &Delta) {
        assert!(delta.elements.is_sorted_by(|a, b| a.key < b.key), "order: {delta:?}");
        assert!(delta.rejudge.is_sorted_by(|a, b| a < b));
        for change in &delta.elements {
            match change.value {
                Some(value) => {
                    let before = self.elements.insert(change.key, value);
                    assert_ne!(before, Some(value), "added again: {:?}", change.key);
                }
                None => {
                    let before = self.elements.remove(&change.key);
                    assert!(before.is_some(), "deleted though absent: {:?}", change.key);
                    self.comments.remove(&change.key);
                }
            }
        }
        for (decider, decision) in &delta.deciders {
            let before = self.deciders.insert(*decider, decision.clone());
            assert_eq!(before, None, "two for one number");
        }
        assert!(delta.comments.is_sorted_by(|a, b| a.0 < b.0));
        for (key, text) in &delta.comments {
            assert!(self.elements.contains_key(key), "{text} beside nothing: {key:?}");
            self.comments.insert(*key, text.clone());
        }
        self.check();
        self.check_comments();
    }

    /// Whoever reads the list finds out whose policy he reads.
    fn check_comments(&self) {
        for key in self.elements.keys() {
            let named = match key {
                Key::Workload(index) => {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let (index, class, traffic) = (*index, None, Traffic::Any);
                        let key = Key::Policy { direction, index, class, traffic };
                        assert!(self.comments.contains_key(&key), "nothing at {key:?}");
                    }
                    true
                }
                Key::HostInterface(_) | Key::HostTable { class: Class(0), .. } => true,
                _ => false,
            };
            assert!(!named || self.comments.contains_key(key), "nothing is said of {key:?}");
        }
    }

    /// What the kernel's map types and lookup order demand of the elements.
    fn check(&self) {
        let mut last: Option<IpAddr> = None;
        let mut last_ports = None;
        let mut pairs = Vec::new();
        let mut told_apart = BTreeSet::new();
        let mut with_any = BTreeSet::new();
        let mut classes = BTreeSet::new();
        let (mut defaults, mut host_classes) = (BTreeSet::new(), BTreeSet::new());
        let (mut tables, mut filled) = (BTreeSet::new(), BTreeSet::new());
        for (key, value) in &self.elements {
            match (*key, *value) {
                (Key::ClassRange(first, to), Value::Class(class)) => {
                    assert!(first <= to && first.is_ipv4() == to.is_ipv4(), "{key:?}");
                    assert!(last.is_none_or(|last| last < first), "overlap at {key:?}");
                    last = Some(to);
                    classes.insert(class);
                }
                (Key::Class(_), Value::Class(class)) => {
                    classes.insert(class);
                }
                (
                    Key::Policy { direction, index, class, traffic },
                    Value::Verdict(_) | Value::Logged(_) | Value::Counted { .. },
                ) => {
                    if let Value::Counted { by, .. } = value {
                        assert!(self.deciders.contains_key(by), "{key:?} by nobody");
                    }
                    if let Some(class) = class {
                        assert_ne!(class, Class(0));
                        told_apart.insert((direction, index, class));
                        if traffic == Traffic::Any {
                            with_any.insert((direction, index, class));
                        }
                    }
                    if let Traffic::Pairs(protocol, ports, sources) = traffic {
                        assert!(ports.0 <= ports.1 && sources.0 <= sources.1, "{key:?}");
                        assert_ne!(sources, (0, u16::MAX), "{key:?}");
                        pairs.push(((direction, index, class, protocol), ports, sources));
                    }
                    if let Traffic::Ports(protocol, first, to) = traffic {
                        assert!(u32::from(to) - u32::from(first) >= 64, "{key:?}");
                        let map = (direction, index, class, protocol);
                        if let Some((before, last)) = last_ports
                            && before == map
                        {
                            assert!(last < first, "overlap at {key:?}");
                        }
                        last_ports = Some((map, to));
                    }
                    assert!(self.elements.contains_key(&Key::Workload(index)), "{key:?}");
                }
                (
                    Key::Workload(_) | Key::Source(..) | Key::Masquerade(_) | Key::Pool(_),
                    Value::Member,
                ) => {}
                (Key::HostInterface(_) | Key::Failsafe(..), Value::Member) => {}
                (Key::Asks(index), Value::Member) => {
                    assert!(self.elements.contains_key(&Key::Workload(index)), "{key:?}");
                }
                (Key::Learned(index, _), Value::Class(class)) => {
                    assert!(self.elements.contains_key(&Key::Asks(index)), "{key:?}");
                    assert_ne!(class, Class(0));
                    classes.insert(class);
                }
                (Key::HostView { hook, interface, class }, Value::View(view)) => {
                    assert_ne!((class, view), (Class(0), View::PLAIN), "{key:?}");
                    host_classes.insert((hook, interface, view, class));
                }
                (Key::HostTable { hook, interface, view, class }, Value::Table(table)) => {
                    assert_eq!(table.direction(), hook.direction(), "{key:?}");
                    if class == Class(0) {
                        defaults.insert((hook, interface, view));
                    } else {
                        host_classes.insert((hook, interface, view, class));
                    }
                    tables.insert(table);
                }
                (
                    Key::HostPolicy { table, .. },
                    Value::Verdict(_) | Value::Logged(_) | Value::Counted { .. },
                ) => {
                    filled.insert(table);
                }
                other => panic!("value of another kind: {other:?}"),
            }
        }
        for (hook, interface, view, class) in host_classes {
            assert!(classes.contains(&class), "no address is in {class:?}");
            for view in [view, View::PLAIN] {
                let what = || format!("{view:?} at {hook:?} of {interface:?}");
                assert!(defaults.contains(&(hook, interface, view)), "{}", what());
            }
        }
        assert!(filled.is_subset(&tables), "tables that nothing leads to");
        let meet = |a: (u16, u16), b: (u16, u16)| a.0 <= b.1 && b.0 <= a.1;
        for (number, (map, ports, sources)) in pairs.iter().enumerate() {
            for (other, others, from) in &pairs[..number] {
                let overlap = map == other && meet(*ports, *others) && meet(*sources, *from);
                assert!(!overlap, "{ports:?} from {sources:?} and {others:?} from {from:?}");
            }
            let (direction, index, class, protocol) = *map;
            for key in self.elements.keys() {
                let Key::Policy { direction: d, index: i, class: c, traffic } = *key else {
                    continue;
                };
                let other = match traffic {
                    Traffic::Port(p, port) if p == protocol => (port, port),
                    Traffic::Ports(p, first, last) if p == protocol => (first, last),
                    _ => continue,
                };
                let same = (d, i, c) == (direction, index, class);
                assert!(!same || !meet(*ports, other), "{key:?} hides {ports:?} from {sources:?}");
            }
        }
        assert_eq!(told_apart, with_any, "every class told apart has its Any key");
        for (_, _, class) in told_apart {
            assert!(classes.contains(&class), "no address is in {class:?}");
        }
    }

    fn class(&self, address: IpAddr) -> Class {
        let mut class = Class(0);
        for (key, value) in &self.elements {
            if let (Key::ClassRange(first, last), Value::Class(of)) = (key, value)
                && first.is_ipv4() == address.is_ipv4()
                && *first <= address
                && address <= *last
            {
                class = *of;
            }
        }
        if let Some(Value::Class(of)) = self.elements.get(&Key::Class(address)) {
            class = *of;
        }
        class
    }

    /// What becomes of the first packet from (`Egress`) or to (`Ingress`) an interface, with these
    /// ports of its source and its destination.
    pub(super) fn lookup(
        &self,
        direction: Direction,
        index: IfIndex,
        peer: IpAddr,
        protocol: u8,
        ports: (u16, u16),
    ) -> Verdict {
        self.ruling(direction, index, peer, protocol, ports).0
    }

    /// The same, and whether it is logged.
    pub(super) fn ruling(
        &self,
        direction: Direction,
        index: IfIndex,
        peer: IpAddr,
        protocol: u8,
        (source, port): (u16, u16),
    ) -> (Verdict, bool) {
        match self.found(direction, index, peer, protocol, (source, port)) {
            Some(Value::Verdict(verdict)) => (verdict, false),
            Some(Value::Logged(verdict)) => (verdict, true),
            Some(Value::Counted { verdict, log, .. }) => (verdict, log),
            _ => (Verdict::Deny, false),
        }
    }

    /// Who decides, where that is counted.
    pub(super) fn decision(
        &self,
        direction: Direction,
        index: IfIndex,
        peer: IpAddr,
        protocol: u8,
        ports: (u16, u16),
    ) -> Option<&Decision> {
        match self.found(direction, index, peer, protocol, ports) {
            Some(Value::Counted { by, .. }) => self.deciders.get(&by).map(|decision| &**decision),
            _ => None,
        }
    }

    fn found(
        &self,
        direction: Direction,
        index: IfIndex,
        peer: IpAddr,
        protocol: u8,
        (source, port): (u16, u16),
    ) -> Option<Value> {
        if !self.elements.contains_key(&Key::Workload(index)) {
            return None;
        }
        let learned = match self.elements.get(&Key::Learned(index, peer)) {
            Some(Value::Class(class)) if direction == Direction::Egress => Some(*class),
            _ => None,
        };
        let of_peer = learned.unwrap_or_else(|| self.class(peer));
        for class in [Some(of_peer), None] {
            let verdict = |traffic| {
                let key = Key::Policy { direction, index, class, traffic };
                self.elements.get(&key).copied()
            };
            let in_range = || {
                let meant = |p, (first, last): (u16, u16), (from, to): (u16, u16)| {
                    p == protocol && (first..=last).contains(&port) && (from..=to).contains(&source)
                };
                self.elements.iter().find_map(|(key, value)| match (*key, *value) {
                    (Key::Policy { direction: d, index: i, class: c, traffic }, value)
                        if (d, i, c) == (direction, index, class) =>
                    {
                        let found = match traffic {
                            Traffic::Ports(p, first, last) => {
                                meant(p, (first, last), (0, u16::MAX))
                            }
                            Traffic::Pairs(p, ports, sources) => meant(p, ports, sources),
                            _ => false,
                        };
                        Some(value).filter(|_| found)
                    }
                    _ => None,
                })
            };
            let mut found = None;
            if [1, 6, 17, 58, 132].contains(&protocol) {
                found = verdict(Traffic::Port(protocol, port)).or_else(in_range);
            }
            let found = found
                .or_else(|| verdict(Traffic::Protocol(protocol)))
                .or_else(|| verdict(Traffic::Any));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// What becomes of the first packet of a flow of the host itself, or that it forwards, at an
    /// interface that is no workload's.
    pub(super) fn host_ruling(
        &self,
        hook: HostHook,
        interface: &str,
        (own, peer): (IpAddr, IpAddr),
        protocol: u8,
        ports: (u16, u16),
    ) -> (Verdict, bool) {
        match self.host_found(hook, interface, (own, peer), protocol, ports) {
            Value::Verdict(verdict) => (verdict, false),
            Value::Logged(verdict) => (verdict, true),
            Value::Counted { verdict, log, .. } => (verdict, log),
            other => panic!("{other:?}"),
        }
    }

    /// Who decides about it, where that is counted.
    pub(super) fn host_decision(
        &self,
        hook: HostHook,
        interface: &str,
        (own, peer): (IpAddr, IpAddr),
        protocol: u8,
        ports: (u16, u16),
    ) -> Option<&Decision> {
        match self.host_found(hook, interface, (own, peer), protocol, ports) {
            Value::Counted { by, .. } => Some(self.deciders.get(&by).unwrap()),
            _ => None,
        }
    }

    fn host_found(
        &self,
        hook: HostHook,
        interface: &str,
        (own, peer): (IpAddr, IpAddr),
        protocol: u8,
        (source, port): (u16, u16),
    ) -> Value {
        let (allowed, denied) = (Value::Verdict(Verdict::Allow), Value::Verdict(Verdict::Deny));
        let name = InterfaceName::new(interface).unwrap();
        let named = self.elements.contains_key(&Key::HostInterface(name));
        let interface = named.then_some(name);
        let class = self.class(own);
        let view = match self.elements.get(&Key::HostView { hook, interface, class }) {
            None => View::PLAIN,
            Some(Value::View(view)) => *view,
            other => panic!("{other:?}"),
        };
        let table = |interface, class| match self.elements.get(&Key::HostTable {
            hook,
            interface,
            view,
            class,
        })? {
            Value::Table(table) => Some(*table),
            other => panic!("{other:?}"),
        };
        if !hook.forwards() {
            if !named && table(None, Class(0)).is_none() {
                return allowed;
            }
            let failsafe = self.elements.keys().any(|key| match *key {
                Key::Failsafe(direction, of, number, net) => {
                    (direction, of, number) == (hook.direction(), protocol, port)
                        && net.contains(&peer)
                }
                _ => false,
            });
            if failsafe {
                return allowed;
            }
        }
        let Some(table) = table(interface, self.class(peer)).or_else(|| table(interface, Class(0)))
        else {
            let passes = hook.forwards() || hook.is_early();
            return if passes { allowed } else { denied };
        };
        let ruling = |traffic| self.elements.get(&Key::HostPolicy { table, traffic }).copied();
        let in_range = || {
            self.elements.keys().find_map(|key| {
                let Key::HostPolicy { table: of, traffic } = *key else { return None };
                let (ports, sources) = match traffic {
                    Traffic::Ports(p, first, last) if p == protocol => {
                        ((first, last), (0, u16::MAX))
                    }
                    Traffic::Pairs(p, ports, sources) if p == protocol => (ports, sources),
                    _ => return None,
                };
                let within = |(first, last): (u16, u16), number| (first..=last).contains(&number);
                let found = of == table && within(ports, port) && within(sources, source);
                if found { ruling(traffic) } else { None }
            })
        };
        let mut found = None;
        if [1, 6, 17, 58, 132].contains(&protocol) {
            found = ruling(Traffic::Port(protocol, port)).or_else(in_range);
        }
        found
            .or_else(|| ruling(Traffic::Protocol(protocol)))
            .or_else(|| ruling(Traffic::Any))
            .unwrap_or(denied)
    }

    /// The elements with classes numbered by who is in them, so that two engines can be compared.
    pub(super) fn canonical(&self) -> (BTreeMap<Key, Value>, BTreeMap<Key, Arc<str>>) {
        let mut members: BTreeMap<Class, Vec<Key>> = BTreeMap::new();
        for (key, value) in &self.elements {
            if let Value::Class(class) = value {
                members.entry(*class).or_default().push(*key);
            }
        }
        let mut order: Vec<(Vec<Key>, Class)> =
            members.into_iter().map(|(class, members)| (members, class)).collect();
        order.sort();
        let names: BTreeMap<Class, Class> =
            (1u32..).zip(order).map(|(name, (_, class))| (class, Class(name))).collect();
        let in_use = self.elements.values().filter_map(|value| match value {
            Value::Counted { by, .. } => Some(&*self.deciders[by]),
            _ => None,
        });
        let decisions: BTreeSet<&Decision> = in_use.collect();
        let decider = |by: Decider| {
            let at = decisions.iter().position(|decision| **decision == *self.deciders[&by]);
            Decider(u32::try_from(at.unwrap()).unwrap() + 1)
        };
        let elements = self
            .elements
            .iter()
            .map(|(key, value)| {
                let key = match *key {
                    Key::Policy { direction, index, class: Some(class), traffic } => {
                        Key::Policy { direction, index, class: Some(names[&class]), traffic }
                    }
                    Key::HostTable { hook, interface, view, class } if class != Class(0) => {
                        Key::HostTable { hook, interface, view, class: names[&class] }
                    }
                    Key::HostView { hook, interface, class } => {
                        Key::HostView { hook, interface, class: names[&class] }
                    }
                    other => other,
                };
                let value = match *value {
                    Value::Class(class) => Value::Class(names[&class]),
                    Value::Counted { verdict, log, by } => {
                        Value::Counted { verdict, log, by: decider(by) }
                    }
                    other => other,
                };
                (key, value)
            })
            .collect();
        (elements, self.comments.clone())
    }
}
