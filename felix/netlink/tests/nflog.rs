//! Packets that rules log, from the real kernel, in network namespaces of their own; and garbage in
//! their place. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use netlink::conntrack::Layer4;
use netlink::netns::Netns;
use netlink::nflog::{self, Delivery};
use netlink::nft::Hook;
use netlink::{Messages, Protocol, Socket, headers, poll};
use proptest::prelude::*;

const GROUP: u16 = 77;
const DELIVERY: Delivery = Delivery { bytes: 128, packets: 8, within: Duration::from_millis(50) };

fn run(program: &str, words: &[&str]) {
    assert!(Command::new(program).args(words).status().unwrap().success(), "{program} {words:?}");
}

#[test]
fn what_a_rule_logs_is_heard_by_one_listener() {
    let test = || {
        run("ip", &["link", "set", "lo", "up"]);
        run("nft", &["add table inet t"]);
        run("nft", &["add chain inet t out { type filter hook output priority 0; }"]);
        run("nft", &["add rule inet t out udp dport 53 log prefix \"mine \" group 77"]);
        run("nft", &["add rule inet t out udp dport 54 log prefix \"other \" group 78"]);
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        nflog::listen(&mut socket, GROUP, DELIVERY).unwrap();
        let mut second = Socket::open(Protocol::Netfilter).unwrap();
        let error = nflog::listen(&mut second, GROUP, DELIVERY).unwrap_err();
        assert!(error.is(libc::EBUSY) || error.is(libc::EPERM), "{error}");

        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let from = sender.local_addr().unwrap().port();
        for size in [0, 1000] {
            for port in [54, 53] {
                sender.send_to(&vec![0; size], (Ipv4Addr::LOCALHOST, port)).unwrap();
            }
        }
        let (mut heard, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while heard.len() < 2 {
            assert!(Instant::now() < deadline, "{heard:?}");
            poll::wait([socket.as_fd()], Some(Duration::from_millis(100))).unwrap();
            while let Some(messages) = socket.receive().unwrap() {
                for message in messages {
                    let Some(packet) = nflog::packet(&message, GROUP) else { continue };
                    assert_eq!(packet.prefix, "mine ");
                    assert_eq!(packet.hook, Some(Hook::Output));
                    assert_eq!((packet.input, packet.output), (None, Some(1)));
                    assert!(packet.payload.len() <= 128);
                    let age =
                        SystemTime::now().duration_since(packet.time.unwrap_or(SystemTime::now()));
                    assert!(age.unwrap_or_default() < Duration::from_secs(60));
                    let tuple = headers::tuple(packet.payload).unwrap();
                    assert_eq!(tuple.layer4, Layer4::Ports { source: from, destination: 53 });
                    heard.push(packet.number);
                }
            }
        }
        assert_eq!(heard, [Some(0), Some(1)]);

        // The group is free again when its listener is gone.
        drop(socket);
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = nflog::listen(&mut second, GROUP, DELIVERY) {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    };
    Netns::create().unwrap().run(test).unwrap();
}

proptest! {
    /// Messages of any bytes, and of bytes that look like a packet of the group.
    #[test]
    fn garbage_does_no_harm(
        kind in prop_oneof![Just(0x400u16), any::<u16>()],
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
            if let Some(packet) = nflog::packet(&message, GROUP) {
                prop_assert_eq!(kind, 0x400);
                let _ = headers::tuple(packet.payload);
            }
        }
    }
}
