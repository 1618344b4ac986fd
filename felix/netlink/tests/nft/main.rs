//! nf_tables against the real kernel and the real `nft`, in network namespaces of their own.
//! Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod golden;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlink::netns::Netns;
use netlink::nft::{
    self, CommitError, Data, DataType, Element, Family, Set, Subject, Transaction, Value, Verdict,
    table_flags,
};
use netlink::{Protocol, Socket};
use proptest::prelude::*;

use self::golden::write;

const TABLE: &str = "caracal";

fn inside<T: Send>(work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    let netns = Netns::create().unwrap();
    netns.run(|| work(&mut Socket::open(Protocol::Netfilter).unwrap())).unwrap()
}

fn nft(args: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_refused_element_is_named() {
    inside(|socket| {
        write(socket, 0).unwrap();
        let before = nft::generation(socket).unwrap();
        let mut tx = Transaction::new(Family::Inet, TABLE);
        for index in 100..20_000u32 {
            tx.add_element("wl", &Element::key(&index.to_ne_bytes()), index);
        }
        // Far into the second message: not there.
        tx.delete_element("dfl", &Element::key(&99u32.to_ne_bytes()), 99);
        match tx.commit(socket) {
            Err(CommitError::Refused(refused)) => {
                assert_eq!(refused[0].0, Subject::Elements { set: "dfl".into(), tag: Some(99) });
                assert!(refused[0].1.is(libc::ENOENT));
            }
            other => panic!("{other:?}"),
        }
        // A conflicting verdict, between others.
        let mut tx = Transaction::new(Family::Inet, TABLE);
        for index in 5..9u32 {
            let data = Some(Data::Verdict(Verdict::Drop));
            tx.add_element("dfl", &Element { data, ..Element::key(&index.to_ne_bytes()) }, index);
        }
        match tx.commit(socket) {
            Err(CommitError::Refused(refused)) => {
                assert_eq!(refused[0].0, Subject::Elements { set: "dfl".into(), tag: Some(7) });
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(nft::generation(socket).unwrap(), before, "nothing took effect");
    });
}

#[test]
fn long_lists_are_split_and_read_back() {
    inside(|socket| {
        let mut tx = Transaction::new(Family::Inet, TABLE);
        tx.add_table(0, None);
        tx.add_set(&Set::new("wl", &[DataType::IfaceIndex]));
        for index in 0..50_000u32 {
            tx.add_element("wl", &Element::key(&index.to_ne_bytes()), index);
        }
        tx.commit(socket).unwrap();
        let mut read = nft::elements(socket, Family::Inet, TABLE, "wl", |element| {
            Some(u32::from_ne_bytes(element.key.try_into().unwrap()))
        })
        .unwrap();
        read.sort_unstable();
        assert_eq!(read, (0..50_000).collect::<Vec<_>>());
    });
}

#[test]
fn an_owned_table_is_ours_alone_and_outlives_us() {
    let flags = table_flags::OWNER | table_flags::PERSIST;
    inside(|_| {
        let mut first = Socket::open(Protocol::Netfilter).unwrap();
        if let Err(error) = write(&mut first, flags) {
            assert!(error.is(libc::EOPNOTSUPP) || error.is(libc::EINVAL), "{error}");
            return; // an older kernel
        }
        let mut second = Socket::open(Protocol::Netfilter).unwrap();
        let refused = write(&mut second, flags).unwrap_err();
        assert!(refused.is(libc::EPERM), "{refused}");
        nft(&["flush", "ruleset"], "").unwrap();
        assert!(nft(&["add", "element", "inet", TABLE, "wl", "{ 9 }"], "").is_err());
        let owner = nft::table(&mut second, Family::Inet, TABLE).unwrap().unwrap();
        assert_eq!(owner.owner, Some(first.port()));
        assert!(owner.is_owned_and_persistent());
        let content = nft::ruleset(&mut second, Family::Inet, TABLE).unwrap();

        drop(first);
        // A program that another test is about to execute has the socket, too, until it is executed.
        let end = Instant::now() + Duration::from_secs(20);
        while nft::table(&mut second, Family::Inet, TABLE).unwrap().unwrap().owner.is_some() {
            assert!(Instant::now() < end, "the socket is closed, and the table is still owned");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut adopt = Transaction::new(Family::Inet, TABLE);
        adopt.add_table(flags, None);
        adopt.commit(&mut second).unwrap();
        assert_eq!(nft::ruleset(&mut second, Family::Inet, TABLE).unwrap(), content);
        assert!(nft(&["delete", "table", "inet", TABLE], "").is_err());
    });
}

#[test]
fn a_stale_generation_is_refused() {
    inside(|socket| {
        write(socket, 0).unwrap();
        let seen = nft::generation(socket).unwrap();
        nft(&["add", "table", "inet", "other"], "").unwrap();
        let mut tx = Transaction::new(Family::Inet, TABLE).at_generation(seen);
        tx.add_element("wl", &Element::key(&1u32.to_ne_bytes()), 0);
        let error = tx.commit(socket).unwrap_err();
        assert!(error.is(libc::ERESTART), "{error}");
        let seen = nft::generation(socket).unwrap();
        let mut tx = Transaction::new(Family::Inet, TABLE).at_generation(seen);
        tx.add_element("wl", &Element::key(&1u32.to_ne_bytes()), 0);
        tx.commit(socket).unwrap();
    });
}

#[test]
fn a_monitor_hears_others_and_not_us() {
    inside(|socket| {
        let mut monitor = Socket::open(Protocol::Netfilter).unwrap();
        monitor.subscribe(nft::NOTIFICATIONS).unwrap();
        monitor.ignore_port(socket.port()).unwrap();
        write(socket, 0).unwrap();
        assert!(monitor.receive().unwrap().is_none(), "our own transaction");
        nft(&["add", "table", "inet", "other"], "").unwrap();
        let mut events = Vec::new();
        while let Some(messages) = monitor.receive().unwrap() {
            events.extend(messages.map(|m| nft::event(&m, Family::Inet, TABLE)));
        }
        assert!(!events.is_empty());
        assert!(!events.contains(&nft::Event::Changed), "another table");
        nft(&["add", "element", "inet", TABLE, "wl", "{ 9 }"], "").unwrap();
        let mut changed = false;
        while let Some(messages) = monitor.receive().unwrap() {
            for message in messages {
                changed |= nft::event(&message, Family::Inet, TABLE) == nft::Event::Changed;
            }
        }
        assert!(changed);
    });
}

/// Ranges written one by one, in any order, with others beside them, are what the kernel then has.
#[test]
fn ranges_change_as_asked() {
    use std::collections::BTreeMap;
    let steps = prop::collection::vec((0u8..60, any::<bool>(), 1u32..4), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&steps, |steps| {
            inside(|socket| {
                let mut tx = Transaction::new(Family::Inet, TABLE);
                tx.add_table(0, None);
                let map = Set::new("cls4n", &[DataType::Ipv4Addr]);
                tx.add_set(&map.maps_to(Value::Data(DataType::Mark)).ranges());
                tx.commit(socket).unwrap();
                // Cells of 4 addresses, the last one at the end of all addresses; each is in the
                // map or not: neighbours touch.
                let start =
                    |cell: u8| (u32::MAX - 239).wrapping_add(u32::from(cell) * 4).to_be_bytes();
                let mut model: BTreeMap<u8, u32> = BTreeMap::new();
                for chunk in steps.chunks(3) {
                    let mut tx = Transaction::new(Family::Inet, TABLE);
                    // As the agent does: one change for each key in a transaction.
                    let last: BTreeMap<u8, (bool, u32)> =
                        chunk.iter().map(|(cell, add, class)| (*cell, (*add, *class))).collect();
                    for (cell, (add, class)) in &last {
                        let put = |tx: &mut Transaction, add: bool, class: u32| {
                            let value = class.to_ne_bytes();
                            let key = start(*cell);
                            let first =
                                Element { data: Some(Data::Value(&value)), ..Element::key(&key) };
                            let after = start(cell.wrapping_add(1));
                            let end = Element { interval_end: true, ..Element::key(&after) };
                            let apply = if add {
                                Transaction::add_element
                            } else {
                                Transaction::delete_element
                            };
                            apply(tx, "cls4n", &first, 0);
                            if *cell != 59 {
                                apply(tx, "cls4n", &end, 0);
                            }
                        };
                        if let Some(old) = model.remove(cell) {
                            put(&mut tx, false, old);
                        }
                        if *add {
                            put(&mut tx, true, *class);
                            model.insert(*cell, *class);
                        }
                    }
                    tx.commit(socket).unwrap();
                }
                let mut read: Vec<(u32, bool, u32)> =
                    nft::elements(socket, Family::Inet, TABLE, "cls4n", |element| {
                        let class = match element.data {
                            Some(Data::Value(v)) => u32::from_ne_bytes(v.try_into().unwrap()),
                            _ => 0,
                        };
                        let key = u32::from_be_bytes(element.key.try_into().unwrap());
                        Some((key, element.interval_end, class))
                    })
                    .unwrap();
                read.sort_unstable();
                let mut expected = Vec::new();
                for (cell, class) in &model {
                    expected.push((u32::from_be_bytes(start(*cell)), false, *class));
                    if *cell != 59 {
                        expected.push((u32::from_be_bytes(start(cell + 1)), true, 0));
                    }
                }
                expected.sort_unstable();
                assert_eq!(read, expected);
            });
            Ok(())
        })
        .unwrap();
}
