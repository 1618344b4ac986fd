use std::collections::BTreeMap;

use netlink::nft::Transaction;
use netlink::{Attrs, Messages};
use proptest::prelude::*;

use super::super::layout::{FAMILY, TABLE};
use super::*;
use crate::model::host::{HostHook, InterfaceName, View};

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        Just(last_address(true)),
        Just(last_address(false)),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0u8..=128).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(most)).unwrap().trunc()
    })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![
        (any::<u8>(), any::<u16>()).prop_map(|(protocol, port)| Traffic::Port(protocol, port)),
        (any::<u8>(), any::<u16>(), any::<u16>()).prop_map(|(protocol, a, b)| Traffic::Ports(
            protocol,
            a.min(b),
            a.max(b)
        )),
        (any::<u8>(), [any::<u16>(); 4])
            .prop_map(|(protocol, [a, b, c, d])| {
                Traffic::Pairs(protocol, (a.min(b), a.max(b)), (c.min(d), c.max(d)))
            })
            .prop_filter("it says more than a range", |traffic| {
                !matches!(traffic, Traffic::Pairs(_, _, (0, u16::MAX)))
            }),
        any::<u8>().prop_map(Traffic::Protocol),
        Just(Traffic::Any),
    ]
}

fn element() -> impl Strategy<Value = (Key, Value)> {
    let member = |key: BoxedStrategy<Key>| key.prop_map(|key| (key, Value::Member));
    let class = |key: BoxedStrategy<Key>| {
        (key, any::<u32>()).prop_map(|(key, class)| (key, Value::Class(Class(class))))
    };
    let range = (address(), address()).prop_filter_map("one family", |(a, b)| {
        (a.is_ipv4() == b.is_ipv4()).then(|| Key::ClassRange(a.min(b), a.max(b)))
    });
    let ruling = any::<[bool; 2]>();
    let policy = (any::<bool>(), any::<u32>(), any::<Option<u32>>(), traffic(), ruling);
    let name = || "[a-z][a-z0-9.-]{0,14}".prop_map(|text| InterfaceName::new(&text).unwrap());
    let hook = prop::sample::select(&HostHook::ALL[..]);
    let view = || (0..=View::CLOSED.number()).prop_map(|number| View::new(number).unwrap());
    let near = (0..=Class::MASK).prop_map(Class);
    let own = prop::sample::select(&HostHook::ALL[..]);
    let own = (own, proptest::option::of(name()), near.clone(), view());
    let table = (hook, proptest::option::of(name()), (near, any::<u32>()), view());
    let direction =
        || any::<bool>().prop_map(|e| if e { Direction::Egress } else { Direction::Ingress });
    let failsafe = (direction(), any::<u8>(), any::<u16>(), net());
    let verdict = prop::sample::select(vec![Verdict::Allow, Verdict::Deny, Verdict::Accept]);
    let host_policy = (any::<u32>(), traffic(), verdict, any::<bool>());
    prop_oneof![
        member(name().prop_map(Key::HostInterface).boxed()),
        member(
            failsafe
                .prop_map(|(d, protocol, port, net)| Key::Failsafe(d, protocol, port, net))
                .boxed()
        ),
        table.prop_map(|(hook, interface, (class, table), view)| {
            let key = Key::HostTable { hook, interface, view, class };
            (key, Value::Table(TableId::from_number(table)))
        }),
        own.prop_map(|(hook, interface, class, view)| {
            let view = if view == View::PLAIN { View::CLOSED } else { view };
            (Key::HostView { hook, interface, class }, Value::View(view))
        }),
        host_policy.prop_map(|(table, traffic, verdict, log)| {
            let value = if log { Value::Logged(verdict) } else { Value::Verdict(verdict) };
            (Key::HostPolicy { table: TableId::from_number(table), traffic }, value)
        }),
        member(any::<u32>().prop_map(Key::Workload).boxed()),
        member(any::<u32>().prop_map(Key::Asks).boxed()),
        class((any::<u32>(), address()).prop_map(|(i, a)| Key::Learned(i, a)).boxed()),
        member((address(), any::<u32>()).prop_map(|(a, i)| Key::Source(a, i)).boxed()),
        member(net().prop_map(Key::Masquerade).boxed()),
        member(net().prop_map(Key::Pool).boxed()),
        class(address().prop_map(Key::Class).boxed()),
        class(range.boxed()),
        policy.prop_map(|(egress, index, class, traffic, [allow, log])| {
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            let verdict = if allow { Verdict::Allow } else { Verdict::Deny };
            let class = class.map(Class);
            let value = if log { Value::Logged(verdict) } else { Value::Verdict(verdict) };
            (Key::Policy { direction, index, class, traffic }, value)
        }),
    ]
}

/// The elements in a transaction's messages, by set, as a dump would show them.
fn written(mut tx: Transaction) -> BTreeMap<String, Vec<Raw>> {
    let (batch, _) = tx.finish();
    let mut sets: BTreeMap<String, Vec<Raw>> = BTreeMap::new();
    for message in Messages(batch.bytes().unwrap()) {
        let attrs = message.attrs(4);
        let (Some(name), Some(list)) = (attrs.find(2), attrs.find(3)) else { continue };
        let name = netlink::buffer::text(name);
        for (_, bytes) in Attrs(list) {
            let element = Element::decode(bytes).unwrap();
            sets.entry(name.clone()).or_default().push(Raw::new(element));
        }
    }
    sets
}

proptest! {
    /// What is written is read as what it was.
    #[test]
    fn elements_survive(elements in prop::collection::vec(element(), 1..30)) {
        let mut wanted: BTreeMap<Key, Value> = BTreeMap::new();
        for (key, value) in elements {
            // Ranges of a kind do not overlap.
            let overlaps = |other: &Key| match (span(&key), span(other)) {
                (Some((kind, first, last)), Some((other_kind, other_first, other_last))) => {
                    kind == other_kind
                        && first.is_ipv4() == other_first.is_ipv4()
                        && first <= other_last
                        && other_first <= last
                }
                _ => false,
            };
            if !wanted.keys().any(overlaps) {
                wanted.insert(key, value);
            }
        }
        let mut tx = Transaction::new(FAMILY, TABLE);
        for (key, value) in &wanted {
            prop_assert_eq!(check(key, value), Ok(()));
            encode(key).add(&mut tx, value, None, 0);
        }
        let mut read = BTreeMap::new();
        for (set, raw) in written(tx) {
            let (known, foreign) = decode(&set, raw);
            prop_assert_eq!(foreign, vec![]);
            for (key, value) in known {
                prop_assert_eq!(set_of(&key), set.as_str());
                read.insert(key, value);
            }
        }
        prop_assert_eq!(read, wanted);
    }

    /// Whatever another program put into our sets: nothing panics, nothing is lost.
    #[test]
    fn garbage_is_foreign(
        set in prop::sample::select(set_names().collect::<Vec<_>>()),
        raw in prop::collection::vec(
            (
                prop::collection::vec(any::<u8>(), 0..24),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..24)),
                any::<bool>(),
                prop_oneof![
                    Just(RawData::None),
                    Just(RawData::Other),
                    Just(RawData::Verdict(Verdict::Allow)),
                    Just(RawData::Logged(Direction::Egress, Verdict::Deny)),
                    prop::collection::vec(any::<u8>(), 0..6).prop_map(RawData::Value),
                ],
            ),
            0..10,
        ),
    ) {
        let raw: Vec<Raw> = raw
            .into_iter()
            .map(|(key, key_end, starts, data)| Raw { key, key_end, starts, data, count: None, comment: None })
            .collect();
        let (known, _) = decode(set, raw.clone());
        let (_, foreign) = decode(set, raw);
        let mut tx = Transaction::new(FAMILY, TABLE);
        for (key, _) in &known {
            encode(key).delete(&mut tx, 0);
        }
        for raw in &foreign {
            raw.delete(&mut tx, set, 0);
        }
        prop_assert!(tx.finish().0.bytes().is_ok());
    }
}

#[test]
fn the_names_are_those_of_the_layout() {
    let mut ours: Vec<_> = set_names().map(String::from).collect();
    let mut theirs: Vec<_> = super::super::layout::sets().into_iter().map(|set| set.name).collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn a_key_with_a_value_of_another_kind_is_refused() {
    let member = Value::Member;
    assert_eq!(check(&Key::Workload(1), &member), Ok(()));
    assert!(check(&Key::Workload(1), &Value::Class(Class(1))).is_err());
    let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
    assert!(check(&Key::ClassRange(v4, v6), &Value::Class(Class(1))).is_err());
    assert!(check(&Key::Class(v4), &member).is_err());
}

#[test]
fn sets_are_told_apart_by_their_numbers() {
    let mut numbers: Vec<u64> = set_names().map(number).collect();
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
}
