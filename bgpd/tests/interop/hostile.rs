//! Peers that mean no good. Whatever they do, memory stays bounded, a session of somebody else
//! with the shortest hold time goes on, and they themselves can come back as good ones.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use socket2::SockRef;

use crate::kit::script::{self, KEEPALIVE, UPDATE};
use crate::kit::{Bird, Daemon, LIMIT, Pair, Routes, Script, Speaker, eventually, pair};

const MALLORY: u8 = 3;
const FEEDER: u8 = 4;
const SLOW: u8 = 5;
/// An address that no peer is configured with.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 66);

/// KiB that the daemon may grow by.
const GROWTH: u64 = 16 * 1024;

/// Us, with BIRD as the peer who must not notice anything.
fn ours() -> String {
    pair::ours("hold-time: 3")
        + "
  - {name: mallory, address: 10.0.1.3, asn: 65003, passive: true,
     max-prefixes: {limit: 10000, restart-after: 1}}
  - {name: feeder, address: 10.0.1.4, asn: 65004, passive: true}
  - {name: slow, address: 10.0.1.5, asn: 65005, passive: true}
"
}

/// Runs `attack`, and sees what it did to the daemon and to others.
fn under(attack: impl FnOnce(&Pair, &Daemon<'_>)) {
    let pair = Pair::new();
    for host in [3, 4, 5, 66] {
        pair.peer.ip(&format!("address add 10.0.1.{host}/24 dev us"));
    }
    let bird = Bird::start(&pair.peer, &pair::bird("hold time 3; keepalive time 1;"));
    let us = Daemon::start(&pair.us, &ours());
    us.established("peer");
    bird.until_route("10.1.0.0/24");
    let before = us.process().memory("VmRSS");
    attack(&pair, &us);
    // The most that it ever was.
    let most = us.process().memory("VmHWM");
    assert!(most < before + GROWTH, "{before} KiB have become {most} KiB");
    let other = us.neighbor("peer").unwrap();
    assert_eq!(other["state"], "established", "{other}");
    assert_eq!(other["counters"]["established"], 1, "{other}");
    // A good peer at last.
    eventually("a session with whoever was hostile", LIMIT, || {
        let mut good = Script::connect(&pair.peer, Speaker::new(MALLORY, 65003).address)?;
        good.set_patience(Duration::from_secs(5));
        good.send_octets(&Speaker::new(MALLORY, 65003).open())?;
        good.send(KEEPALIVE, &[])?;
        let (kind, _) = good.next()?;
        ensure!(kind == 1, "message {kind}");
        good.send(UPDATE, &announcement(65003, &[], &[24, 10, 9, 9]))?;
        us.until_route("10.9.9.0/24");
        Ok(())
    });
}

/// The body of an UPDATE from an AS at 10.0.1.3, with more attributes.
fn announcement(asn: u16, more: &[u8], nlri: &[u8]) -> Vec<u8> {
    let [high, low] = asn.to_be_bytes();
    let good = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, high, low, 0x40, 3, 4, 10, 0, 1, 3];
    script::update(&[], &[&good, more].concat(), nlri)
}

/// Numbers that look random, the same each time.
struct Noise(u64);

impl Noise {
    fn octets(&mut self, len: usize) -> Vec<u8> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            self.0.to_be_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }
}

/// Lets this process have as many files open as it may.
#[allow(unsafe_code, reason = "setrlimit(2) has no wrapper in std")]
fn allow_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the type that is written, which outlives the call.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a value of the type that is read, which outlives the call.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!((read, set), (0, 0), "{}", std::io::Error::last_os_error());
}

/// Connects thousands of times, says nothing, reads nothing, and hangs up only at the end.
fn flood(pair: &Pair, us: &Daemon<'_>, from: Ipv4Addr) {
    const MANY: usize = 3000;
    /// Of the daemon: what it has without the flood, and a bound on connections.
    const DESCRIPTORS: usize = 400;
    allow_descriptors();
    let mut held = Vec::new();
    let mut most = 0;
    for count in 0..MANY {
        // The daemon may refuse; and its queue of connections may be full.
        held.extend(Script::connect(&pair.peer, from));
        if count % 100 == 0 {
            most = most.max(us.process().descriptors());
        }
    }
    assert!(held.len() > MANY / 2, "{} connections are no flood", held.len());
    most = most.max(us.process().descriptors());
    assert!(most < DESCRIPTORS, "{most} descriptors");
}

#[test]
fn connections_from_nobody() {
    under(|pair, us| flood(pair, us, NOBODY));
}

#[test]
fn connections_from_a_peer() {
    under(|pair, us| flood(pair, us, Speaker::new(MALLORY, 65003).address));
}

/// Routes of many octets change again and again, and one peer reads none of it.
#[test]
fn a_reader_that_does_not_read() {
    const ROUTES: u16 = 400;
    const ROUNDS: u16 = 20;
    under(|pair, us| {
        let mut slow = Script::establish(&pair.peer, &Speaker::new(SLOW, 65005));
        let mut feeder = Script::establish(&pair.peer, &Speaker::new(FEEDER, 65004));
        let prefix = |route: u16| {
            let [high, low] = route.to_be_bytes();
            [24, 20, high, low]
        };
        // 200 large communities: 2400 octets in a message, 19 MB in all of them.
        let attributes = |round: u16, route: u16| {
            let mut large = Vec::new();
            for number in 0..200_u16 {
                for part in [route, round, number] {
                    large.extend([0, 0].into_iter().chain(part.to_be_bytes()));
                }
            }
            let len = u16::try_from(large.len()).unwrap().to_be_bytes();
            [&[0xd0, 32][..], &len, &large].concat()
        };
        for round in 0..ROUNDS {
            for route in 0..ROUTES {
                let body = announcement(65004, &attributes(round, route), &prefix(route));
                feeder.send(UPDATE, &body).unwrap();
            }
        }
        let last = script::update(&[], &[], &[]);
        feeder.send(UPDATE, &last).unwrap();
        let wanted = u64::from(ROUTES) * u64::from(ROUNDS) + 1;
        eventually("all of it taken in", LIMIT, || {
            let feeder = us.neighbor("feeder")?;
            ensure!(feeder["counters"]["updates_received"] == wanted, "{feeder}");
            Ok(())
        });
        // Now it reads, and finds what holds by now.
        let mut seen = Routes::default();
        let newest = |seen: &Routes| {
            // The last one comes last: usually one look is enough.
            (0..ROUTES).rev().all(|route| {
                let found = seen.get(1, &prefix(route)).unwrap_or_default();
                found.iter().any(|(kind, value)| {
                    let wanted = attributes(ROUNDS - 1, route);
                    *kind == 32 && *value == wanted[4..]
                })
            })
        };
        while !newest(&seen) {
            let (kind, body) = slow.next().expect("all routes");
            if kind == UPDATE {
                seen.take(&body).unwrap();
            }
        }
    });
}

/// 4096 octets of noise, before there is a session and in it, as they are and as messages.
#[test]
fn garbage() {
    let mut noise = Noise(7);
    under(|pair, us| {
        let mallory = Speaker::new(MALLORY, 65003);
        for round in 0..60 {
            let mut script = if round % 2 == 0 {
                eventually("a connection", LIMIT, || Script::connect(&pair.peer, mallory.address))
            } else {
                Script::establish(&pair.peer, &mallory)
            };
            let garbage = noise.octets(4096);
            let octets = match round % 6 {
                0 | 1 => garbage,
                2 | 3 => script::message(UPDATE, &garbage[..4077]),
                // Of any length and type.
                _ => [&[0xff; 16][..], &garbage[..4080]].concat(),
            };
            // It may have been cut off in the middle of it.
            let _cut = script.send_octets(&octets);
            let end = script.until_notification();
            let of_header_or_update = |code| matches!(code, 1..=3 | 5);
            match end {
                Ok(said) => assert!(of_header_or_update(said.code), "{said}"),
                Err(error) => {
                    let closed = error.to_string();
                    assert!(!closed.contains("no message came"), "{round}: {closed}");
                }
            }
        }
        let neighbor = us.neighbor("mallory").unwrap();
        assert!(neighbor["counters"]["notifications_sent"].as_u64() > Some(30), "{neighbor}");
    });
}

/// Each octet in a segment of its own.
#[test]
fn octet_by_octet() {
    under(|pair, us| {
        let mallory = Speaker::new(MALLORY, 65003);
        let mut script = Script::connect(&pair.peer, mallory.address).unwrap();
        let update = announcement(65003, &[], &[24, 10, 8, 8]);
        let all =
            [mallory.open(), script::message(KEEPALIVE, &[]), script::message(UPDATE, &update)];
        for octet in all.concat() {
            script.send_octets(&[octet]).unwrap();
        }
        us.until_route("10.8.8.0/24");
    });
}

/// A read ends at urgent data, though there is more behind it, of which nobody tells.
#[test]
fn urgent_data() {
    under(|pair, us| {
        let mallory = Speaker { hold_time: 3, ..Speaker::new(MALLORY, 65003) };
        let mut script = Script::establish(&pair.peer, &mallory);
        let update = script::message(UPDATE, &announcement(65003, &[], &[24, 10, 8, 8]));
        let stream = script.stream().try_clone().unwrap();
        let socket = SockRef::from(&stream);
        // All of it at once.
        socket.set_tcp_cork(true).unwrap();
        script.send(KEEPALIVE, &[]).unwrap();
        socket.send_out_of_band(&[0]).unwrap();
        script.send_octets(&update).unwrap();
        socket.set_tcp_cork(false).unwrap();
        us.until_route("10.8.8.0/24");
    });
}

/// Sends UPDATEs until the daemon has had enough; returns how many prefixes it was spared.
fn stream(script: &mut Script, updates: impl Iterator<Item = Vec<u8>>) -> usize {
    let mut updates = updates.peekable();
    while updates.peek().is_some() {
        let batch: Vec<u8> =
            updates.by_ref().take(16).flat_map(|body| script::message(UPDATE, &body)).collect();
        if script.send_octets(&batch).is_err() {
            break;
        }
    }
    updates.count()
}

/// Ended for too many prefixes, and nothing of them is left.
fn ended(us: &Daemon<'_>) {
    eventually("the end of the session", LIMIT, || {
        let neighbor = us.neighbor("mallory")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("sent Cease/Maximum Number of Prefixes"), "{neighbor}");
        Ok(())
    });
    eventually("no more of its routes", LIMIT, || {
        let status = us.ask(&["status"])?;
        // BIRD's and ours, of each family.
        ensure!(status["prefixes"] == Value::from(vec![2, 2]), "{status}");
        ensure!(status["attribute_sets"].as_u64() < Some(10), "{status}");
        Ok(())
    });
}

/// Ten million different prefixes, 800 in a message, where 10,000 are allowed.
#[test]
fn too_many_prefixes() {
    const PREFIXES: u32 = 10_000_000;
    /// Of 5 octets each, some 810 fit into 4096.
    const IN_A_MESSAGE: u32 = 800;
    const { assert!(PREFIXES.is_multiple_of(IN_A_MESSAGE)) };
    under(|pair, us| {
        let mut script = Script::establish(&pair.peer, &Speaker::new(MALLORY, 65003));
        let updates = (0..PREFIXES / IN_A_MESSAGE).map(|message| {
            let nlri = (0..IN_A_MESSAGE).flat_map(|number| {
                // Less than 2^24, so that 16 to 31 in front leave each its own address.
                let [_, a, b, c] = (message * IN_A_MESSAGE + number).to_be_bytes();
                [32, 16 + (a >> 4), a << 4, b, c]
            });
            announcement(65003, &[], &nlri.collect::<Vec<u8>>())
        });
        let spared = stream(&mut script, updates);
        assert!(spared > 0, "nobody stopped it");
        ended(us);
    });
}

/// Each prefix has attributes of its own.
#[test]
fn too_many_attribute_sets() {
    under(|pair, us| {
        let mut script = Script::establish(&pair.peer, &Speaker::new(MALLORY, 65003));
        let updates = (0..1_000_000_u32).map(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            announcement(65003, &[0xc0, 8, 4, a, b, c, d], &[32, 16 + a, b, c, d])
        });
        let spared = stream(&mut script, updates);
        assert!(spared > 0, "nobody stopped it");
        ended(us);
    });
}
