//! Packets that rules hand to user space, from the real kernel, in network namespaces of their own; and
//! garbage in their place. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use netlink::netns::Netns;
use netlink::nfqueue::{self, Holding};
use netlink::nft::{self, BaseChain, Chain, Family, Field, Hook, Rule, Transaction};
use netlink::{Messages, Protocol, Socket, headers, poll};
use proptest::prelude::*;

const QUEUE: u16 = 77;
const HOLDING: Holding = Holding { bytes: 2000, packets: 2 };
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);

/// Datagrams to port 53 of this namespace go to the queue; false: this kernel cannot do it so.
fn write(socket: &mut Socket, rule: Rule) -> bool {
    let base = BaseChain { kind: "filter".into(), hook: Hook::Output, priority: 0, accept: true };
    let chain = Chain { name: "out".into(), base: Some(base), rules: Vec::new() };
    let mut tx = Transaction::new(Family::Inet, "t");
    tx.add_table(0, None);
    tx.add_chain(&chain);
    tx.add_rule("out", &rule);
    match tx.commit(socket) {
        Ok(()) => true,
        Err(error) if error.is(libc::ENOENT) => false,
        Err(error) => panic!("{error}"),
    }
}

fn udp_to_53() -> Rule {
    Rule::new().l4proto(17).equals(Field::DestinationPort, &53u16.to_be_bytes())
}

#[test]
fn what_a_rule_queues_waits_for_its_listener_and_passes_without_one() {
    let rules = [udp_to_53().queue(QUEUE), udp_to_53().queue_by_target(QUEUE)];
    let done = rules.map(|rule| Netns::create().unwrap().run(|| held_and_let_go(rule)).unwrap());
    assert!(done.contains(&true), "this kernel has neither nft_queue nor xt_NFQUEUE");
}

fn held_and_let_go(rule: Rule) -> bool {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let mut writer = Socket::open(Protocol::Netfilter).unwrap();
    if !write(&mut writer, rule.clone()) {
        return false;
    }
    let read = nft::ruleset(&mut writer, Family::Inet, "t").unwrap();
    assert_eq!(read.chains[0].rules, [rule], "what is read is what was written");
    assert!(Command::new("nft").args(["list", "ruleset"]).output().unwrap().status.success());

    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let from = client.local_addr().unwrap().port();
    let send = |byte: u8| client.send_to(&[byte; 1000], (Ipv4Addr::LOCALHOST, 53)).unwrap();
    let heard = |within: Duration| -> Option<u8> {
        server.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 1500];
        match server.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(length, 1000);
                Some(buffer[0])
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                None
            }
        }
    };
    send(1);
    assert_eq!(heard(LONG), Some(1), "nobody listens");

    let mut socket = Socket::open(Protocol::Netfilter).unwrap();
    nfqueue::listen(&mut socket, QUEUE, HOLDING, |packet| panic!("{packet:?}")).unwrap();
    let mut second = Socket::open(Protocol::Netfilter).unwrap();
    let error = nfqueue::listen(&mut second, QUEUE, HOLDING, |_| {}).unwrap_err();
    assert!(error.is(libc::EBUSY) || error.is(libc::EPERM), "{error}");
    send(2);
    send(3);
    let (mut ids, deadline) = (Vec::new(), Instant::now() + LONG);
    while ids.len() < 2 {
        assert!(Instant::now() < deadline, "{ids:?}");
        poll::wait([socket.as_fd()], Some(SHORT)).unwrap();
        while let Some(messages) = socket.receive().unwrap() {
            for message in messages {
                let Some(packet) = nfqueue::packet(&message, QUEUE) else { continue };
                assert_eq!((packet.input, packet.output), (None, Some(1)));
                let (tuple, data) = headers::carried(packet.payload).unwrap();
                let ports = netlink::conntrack::Layer4::Ports { source: from, destination: 53 };
                assert_eq!(tuple.layer4, ports);
                assert_eq!(data.len(), 1000);
                ids.push((packet.id, data[0]));
            }
        }
    }
    assert_eq!(ids.iter().map(|(_, byte)| *byte).collect::<Vec<_>>(), [2, 3]);
    // The queue is full: the third passes the two that wait.
    send(4);
    assert_eq!(heard(LONG), Some(4));
    nfqueue::accept(&mut socket, QUEUE, [ids[1].0, 4711]).unwrap();
    assert_eq!(heard(LONG), Some(3), "a number that nobody has harms nobody");
    assert_eq!(heard(SHORT), None, "the other still waits");
    nfqueue::accept(&mut socket, QUEUE, [ids[0].0]).unwrap();
    assert_eq!(heard(LONG), Some(2));
    nfqueue::accept(&mut socket, QUEUE, []).unwrap();

    // Free again when its listener is gone, and packets pass.
    drop(socket);
    let deadline = Instant::now() + LONG;
    while let Err(error) = nfqueue::listen(&mut second, QUEUE, HOLDING, |_| {}) {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
    drop(second);
    send(5);
    assert_eq!(heard(LONG), Some(5));
    true
}

proptest! {
    /// Messages of any bytes, and of bytes that look like a packet of the queue.
    #[test]
    fn garbage_does_no_harm(
        kind in prop_oneof![Just(0x300u16), any::<u16>()],
        body in prop::collection::vec(any::<u8>(), 0..200),
        attrs in prop::collection::vec((0u16..24, 0u16..40, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        shaped in any::<bool>(),
    ) {
        let mut payload = body;
        if shaped {
            payload = vec![0, 0, 0, 77];
            for (kind, length, value) in attrs {
                payload.extend(length.to_ne_bytes());
                payload.extend(kind.to_ne_bytes());
                payload.extend(value);
                payload.resize(payload.len().next_multiple_of(4), 0);
            }
        }
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        for message in Messages(&bytes) {
            if let Some(packet) = nfqueue::packet(&message, QUEUE) {
                prop_assert_eq!(kind, 0x300);
                let _ = headers::carried(packet.payload);
            }
        }
    }
}
