//! Which session a packet is for, and the coming and going of sessions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::bfd::session::Params;
use crate::bfd::table::{Arrival, Discarded, Output, Table};
use crate::bfd::{Diagnostic, Interface, Key, Packet, State, Time, Wanted};

const WANTED: Wanted =
    Wanted { params: Params { min_tx: 50_000, min_rx: 50_000, multiplier: 3 }, min_ttl: 254 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(peer: &str) -> Key {
    Key { peer: ip(peer), scope_id: 0, local: None, interface: None, multihop: false }
}

fn from(peer: &str) -> Arrival {
    let to = ip("192.0.2.1");
    Arrival { from: ip(peer), to, interface: 3, bound: None, ttl: 255, multihop: false }
}

fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(5);
    table.set(Time::ZERO, &keys.iter().map(|key| (*key, WANTED)).collect());
    table
}

fn heard(state: State, your: Option<NonZeroU32>) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic::NONE,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        authenticated: false,
        demand: false,
        multiplier: 3,
        my_discriminator: NonZeroU32::new(77).unwrap(),
        your_discriminator: your,
        desired_min_tx: 50_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    }
}

#[test]
fn a_name_that_no_interface_can_have_is_none() {
    for name in ["e", "eth0", "a234567890bcdef"] {
        let interface = Interface::new(name).unwrap();
        assert_eq!((interface.name(), interface.to_string()), (name.as_bytes(), name.to_owned()));
    }
    assert_eq!(Interface::new("a234567890bcdefg"), None);
}

#[test]
fn by_the_interface_that_is_said_and_no_other() {
    let [eth0, eth1] = ["eth0", "eth1"].map(Interface::new);
    let any = key("192.0.2.9");
    let by = Key { interface: eth0, ..any };
    let only = Key { interface: eth0, ..key("192.0.2.8") };
    let mut table = table(&[any, by, only]);
    let down = heard(State::Down, None);
    let cases = [
        ("192.0.2.9", eth0, Some(by)),
        ("192.0.2.9", eth1, Some(any)),
        ("192.0.2.9", None, Some(any)),
        ("192.0.2.8", eth0, Some(only)),
        ("192.0.2.8", eth1, None),
        ("192.0.2.8", None, None),
    ];
    let status = table.statuses(Time::ZERO);
    for (peer, bound, wanted) in cases {
        let arrival = Arrival { bound, ..from(peer) };
        assert_eq!(taken(&mut table, &arrival, &down), wanted, "{arrival:?}");
        // Not even with the number of the session.
        let up = heard(State::Up, Some(status[&only].local_discriminator));
        assert_eq!(taken(&mut table, &arrival, &up), (bound == eth0).then_some(only));
    }
}

/// Which session has taken in a packet, if one has.
fn taken(table: &mut Table, arrival: &Arrival, packet: &Packet) -> Option<Key> {
    let count = |table: &Table| -> BTreeMap<Key, u64> {
        table.statuses(Time::ZERO).into_iter().map(|(k, s)| (k, s.packets_received)).collect()
    };
    let before = count(table);
    table.receive(Time::ZERO, arrival, &packet.encode());
    count(table).into_iter().find(|(key, n)| before.get(key) != Some(n)).map(|(key, _)| key)
}

#[test]
fn numbers_are_unique_and_every_session_speaks_at_once() {
    let keys: Vec<Key> = (0..=255).map(|n| key(&format!("192.0.2.{n}"))).collect();
    let mut table = table(&keys);
    let mut numbers = std::collections::BTreeSet::new();
    for output in table.outputs().drain(..) {
        if let Output::Send(id, _, octets) = output {
            assert_eq!(Packet::parse(&octets).unwrap().my_discriminator, id);
            numbers.insert(id);
        }
    }
    assert_eq!(numbers.len(), 256);
    assert!(table.next_deadline().unwrap() >= Duration::from_millis(750), "no busy loop");
}

#[test]
fn by_number_or_else_by_address_and_interface() {
    let plain = key("192.0.2.9");
    let bound = Key { local: Some(ip("192.0.2.1")), ..plain };
    let [left, right] = [3, 4].map(|scope_id| Key { scope_id, ..key("fe80::9") });
    let far = Key { multihop: true, ..plain };
    let mut table = table(&[plain, bound, left, right, far]);
    let down = heard(State::Down, None);
    let elsewhere = Arrival { to: ip("192.0.2.2"), ..from("192.0.2.9") };
    let multihop = Arrival { multihop: true, ttl: 254, ..from("192.0.2.9") };
    let cases = [
        (from("192.0.2.9"), Some(bound)),
        (elsewhere, Some(plain)),
        (multihop, Some(far)),
        (from("192.0.2.8"), None),
        (from("fe80::9"), Some(left)),
        (Arrival { interface: 4, ..from("fe80::9") }, Some(right)),
        (Arrival { interface: 5, ..from("fe80::9") }, None),
    ];
    for (arrival, wanted) in cases {
        assert_eq!(taken(&mut table, &arrival, &down), wanted, "{arrival:?}");
    }
    // A number of ours says it all on one link; from afar it can be guessed.
    let status = table.statuses(Time::ZERO);
    let up = |key: &Key| heard(State::Up, Some(status[key].local_discriminator));
    assert_eq!(taken(&mut table, &from("192.0.2.200"), &up(&plain)), Some(plain));
    assert_eq!(taken(&mut table, &multihop, &up(&far)), Some(far));
    let stranger = Arrival { from: ip("192.0.2.200"), ..multihop };
    assert_eq!(taken(&mut table, &stranger, &up(&far)), None);
    assert_eq!(taken(&mut table, &multihop, &up(&plain)), None, "another port, another session");
    let nobody = heard(State::Up, NonZeroU32::new(123));
    assert_eq!(taken(&mut table, &from("192.0.2.9"), &nobody), None);
}

#[test]
fn what_comes_from_too_far_is_dropped_and_counted() {
    let near = key("192.0.2.9");
    let far = Key { multihop: true, ..near };
    let mut table = table(&[near, far]);
    let down = heard(State::Down, None);
    assert_eq!(taken(&mut table, &Arrival { ttl: 254, ..from("192.0.2.9") }, &down), None);
    let over = Arrival { multihop: true, ttl: 253, ..from("192.0.2.9") };
    assert_eq!(taken(&mut table, &over, &down), None);
    table.receive(Time::ZERO, &from("192.0.2.9"), b"GET / HTTP/1.1\r\n\r\n.........");
    assert_eq!(taken(&mut table, &from("192.0.2.10"), &down), None);
    assert_eq!(table.discarded(), Discarded { malformed: 1, hops: 2, unknown: 1 });
}

/// What the table asks for until then.
fn run(table: &mut Table, until: Time) -> Vec<Output> {
    let mut all: Vec<Output> = table.outputs().drain(..).collect();
    while let Some(at) = table.next_deadline().filter(|at| *at <= until) {
        table.expire(at);
        all.append(table.outputs());
    }
    all
}

#[test]
fn what_is_not_wanted_any_more_says_so_and_goes() {
    let (stays, goes) = (key("192.0.2.8"), key("192.0.2.9"));
    let mut table = table(&[stays, goes]);
    for peer in ["192.0.2.8", "192.0.2.9"] {
        table.receive(Time::ZERO, &from(peer), &heard(State::Down, None).encode());
        let id = table.statuses(Time::ZERO)[&key(peer)].local_discriminator;
        table.receive(Time::ZERO, &from(peer), &heard(State::Up, Some(id)).encode());
    }
    let before = table.statuses(Time::ZERO);
    assert!(before.values().all(|status| status.state == State::Up));
    run(&mut table, Time::ZERO);

    table.set(Time::ZERO, &BTreeMap::from([(stays, WANTED)]));
    let after = table.statuses(Time::ZERO);
    assert_eq!(after.len(), 1);
    assert_eq!(after[&stays].local_discriminator, before[&stays].local_discriminator);
    assert_eq!(after[&stays].state, State::Up);
    let number = before[&goes].local_discriminator;
    let (mut said, mut gone) = (0, false);
    for output in run(&mut table, Duration::from_secs(10)) {
        match output {
            Output::Send(id, _, octets) if id == number => {
                assert!(!gone);
                assert_eq!(Packet::parse(&octets).unwrap().state, State::AdminDown);
                said += 1;
            }
            Output::Gone(id) => gone = id == number,
            _ => {}
        }
    }
    assert!(gone && (3..=5).contains(&said), "{said}");
    assert_eq!(table.keys().count(), 1);
}

/// Wanted again before it has gone: nothing of the old session may be taken for the new one's.
#[test]
fn what_is_wanted_again_begins_anew() {
    let wanted = key("192.0.2.9");
    let mut table = table(&[wanted]);
    let old = table.statuses(Time::ZERO)[&wanted].local_discriminator;
    table.set(Time::ZERO, &BTreeMap::new());
    assert!(table.statuses(Time::ZERO).is_empty());
    table.set(Time::ZERO, &BTreeMap::from([(wanted, WANTED)]));
    let new = table.statuses(Time::ZERO)[&wanted].clone();
    assert_ne!(new.local_discriminator, old);
    assert_eq!((new.state, new.flaps, new.packets_received), (State::Down, 0, 0));
    let gone = table.outputs().iter().any(|o| matches!(o, Output::Gone(id) if *id == old));
    assert!(gone);
}

#[test]
fn the_owner_is_told_what_its_clients_go_by_once() {
    let peer = key("192.0.2.9");
    let mut table = table(&[peer]);
    let changes = |table: &mut Table| {
        table.outputs().drain(..).filter(|o| matches!(o, Output::Changed(..))).count()
    };
    assert_eq!(changes(&mut table), 1, "it is there");
    table.receive(Time::ZERO, &from("192.0.2.9"), &heard(State::Down, None).encode());
    assert_eq!(changes(&mut table), 1, "Init");
    let id = table.statuses(Time::ZERO)[&peer].local_discriminator;
    let up = heard(State::Up, Some(id)).encode();
    table.receive(Time::ZERO, &from("192.0.2.9"), &up);
    assert_eq!(changes(&mut table), 1, "Up");
    table.receive(Time::ZERO, &from("192.0.2.9"), &up);
    assert_eq!(changes(&mut table), 0, "as before");
    table.expire(Duration::from_secs(1));
    assert_eq!(changes(&mut table), 1, "Down");
}
