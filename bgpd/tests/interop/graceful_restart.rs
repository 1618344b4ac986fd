//! Graceful restart (RFC 4724), both sides of it.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Node, Pair, eventually, pair};

const RESTARTING: &str = "graceful-restart: {restarting: true}\n";

/// Packets from the peer to an address in our network, and back, one after the other until `work`
/// is done.
///
/// # Panics
/// If one of them is lost.
fn with_traffic(pair: &Pair, work: impl FnOnce()) {
    pair.us.ip("address add 10.1.0.1/32 dev lo");
    let bound = |node: &Node, address: &str| {
        let socket = node.inside(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    };
    let (echo, probe) = (bound(&pair.us, "10.1.0.1:7"), bound(&pair.peer, "10.0.1.2:0"));
    let done = AtomicBool::new(false);
    /// Also when the work panics, or the flow would never end.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut octets = [0; 8];
            while !done.load(Ordering::Relaxed) {
                if let Ok((len, from)) = echo.recv_from(&mut octets) {
                    echo.send_to(&octets[..len], from).unwrap();
                }
            }
        });
        let flow = scope.spawn(|| {
            let mut number = 0_u64;
            while !done.load(Ordering::Relaxed) {
                probe.send_to(&number.to_be_bytes(), "10.1.0.1:7").expect("a route");
                let mut octets = [0; 8];
                let answer = probe.recv(&mut octets);
                answer.unwrap_or_else(|error| panic!("packet {number} is lost: {error}"));
                assert_eq!(u64::from_be_bytes(octets), number);
                number += 1;
                thread::sleep(Duration::from_millis(1));
            }
            number
        });
        let end = End(&done);
        work();
        drop(end);
        let packets = flow.join().expect("no packet may be lost");
        assert!(packets > 10, "{packets} packets are no flow");
    });
}

/// Our daemon is killed and comes back; `stale` says whether the peer knows that it is away.
fn killed(pair: &Pair, us: &mut Daemon<'_>, stale: impl Fn() -> bool) {
    eventually("the peer's kernel route", LIMIT, || pair.peer.kernel_route("10.1.0.0/24"));
    us.until_route("10.2.0.0/24");
    with_traffic(pair, || {
        us.until_remembered();
        us.process_mut().kill();
        eventually("the peer's knowledge of it", LIMIT, || {
            ensure!(stale(), "the route is as before");
            Ok(())
        });
        // With the same file: it finds out by itself that it restarts.
        us.restart(&pair::ours(""));
        us.established("peer");
        us.until_route("10.2.0.0/24");
        eventually("the end of the restart", LIMIT, || {
            ensure!(!stale(), "the route is stale");
            let status = us.ask(&["status"])?;
            ensure!(status["progress"]["converged"] == true, "{status}");
            Ok(())
        });
    });
    pair.peer.kernel_route("10.1.0.0/24").unwrap();
}

#[test]
fn frr_keeps_our_routes() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let mut us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    killed(&pair, &mut us, || {
        frr.route("10.1.0.0/24").is_ok_and(|route| route["paths"][0]["stale"] == true)
    });
}

#[test]
fn bird_keeps_our_routes() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let mut us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    killed(&pair, &mut us, || {
        bird.route("10.1.0.0/24").unwrap();
        let about = bird.birdc("show protocols all ours").unwrap();
        about.contains("Neighbor graceful restart active")
    });
}

#[test]
fn gobgp_keeps_our_routes() {
    let pair = Pair::new();
    let families = "graceful-restart: {config: {enabled: true, restart-time: 60}}
    afi-safis:
      - config: {afi-safi-name: ipv4-unicast}
        mp-graceful-restart: {config: {enabled: true}}
      - config: {afi-safi-name: ipv6-unicast}
        mp-graceful-restart: {config: {enabled: true}}";
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", families));
    let mut us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    gobgp.until_path("10.1.0.0/24");
    let stale = || gobgp.route("10.1.0.0/24").unwrap()[0]["stale"] == true;
    us.process_mut().kill();
    eventually("a stale route", LIMIT, || {
        ensure!(stale(), "the route is as before");
        Ok(())
    });
    us.restart(&(pair::ours("") + RESTARTING));
    us.established("peer");
    eventually("a fresh route", LIMIT, || {
        ensure!(!stale(), "the route is stale");
        Ok(())
    });
}

/// The peer is killed: its routes stay, marked, until it has sent them again.
fn peer_killed(us: &Daemon<'_>, kill: impl FnOnce(), start: impl FnOnce()) {
    us.established("peer");
    for prefix in ["10.2.0.0/24", "fd00:a:2::/64"] {
        assert_eq!(us.until_path(prefix)["stale"], false);
    }
    kill();
    for prefix in ["10.2.0.0/24", "fd00:a:2::/64"] {
        eventually("a stale route that is used", LIMIT, || {
            let path = &us.route(prefix)?["paths"][0];
            ensure!(path["stale"] == true && path["used"] == true, "{path}");
            Ok(())
        });
    }
    start();
    us.established("peer");
    for prefix in ["10.2.0.0/24", "fd00:a:2::/64"] {
        eventually("a fresh route", LIMIT, || {
            let path = &us.route(prefix)?["paths"][0];
            ensure!(path["stale"] == false, "{path}");
            Ok(())
        });
    }
}

#[test]
fn routes_of_frr_are_kept() {
    let pair = Pair::new();
    let section = "router bgp 65002\n bgp graceful-restart\n bgp graceful-restart \
                   preserve-fw-state\n bgp graceful-restart select-defer-time 1\n";
    let frr = Frr::start(&pair.peer, &[pair::FRR, section].concat());
    let us = Daemon::start(&pair.us, &pair::ours(""));
    let frr = std::cell::RefCell::new(frr);
    peer_killed(&us, || frr.borrow_mut().kill(), || frr.borrow_mut().start_bgpd());
}

#[test]
fn routes_of_bird_are_kept() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird("graceful restart on;"));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    let bird = std::cell::RefCell::new(bird);
    peer_killed(&us, || bird.borrow_mut().kill(), || bird.borrow_mut().restart());
}

/// A peer that says goodbye is gone.
#[test]
fn a_peer_that_is_shut_down_is_not_waited_for() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird("graceful restart on;"));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.until_route("10.2.0.0/24");
    bird.birdc("disable ours").unwrap();
    us.until_no_route("10.2.0.0/24");
}
