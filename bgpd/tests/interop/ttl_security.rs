//! The Generalized TTL Security Mechanism (RFC 5082).

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Lab, Pair, eventually, pair};

const FIELD: &str = "ttl-security: 1";

#[test]
fn frr() {
    let pair = Pair::new();
    let section = "router bgp 65002\n neighbor 10.0.1.1 ttl-security hops 1\n";
    let frr = Frr::start(&pair.peer, &[pair::FRR, section].concat());
    let us = Daemon::start(&pair.us, &pair::ours(FIELD));
    us.established("peer");
    frr.until_path("10.1.0.0/24");
}

#[test]
fn bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird("ttl security on;"));
    let us = Daemon::start(&pair.us, &pair::ours(FIELD));
    us.established("peer");
    bird.until_route("10.1.0.0/24");
}

#[test]
fn gobgp() {
    let pair = Pair::new();
    let ttl = "ttl-security: {config: {enabled: true, ttl-min: 255}}";
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", ttl));
    let us = Daemon::start(&pair.us, &pair::ours(FIELD));
    us.established("peer");
    gobgp.until_path("10.1.0.0/24");
}

/// A peer behind a router cannot pass for a neighbor on the link, however high its TTL.
#[test]
fn a_peer_too_far_away() {
    let lab = Lab::new();
    let [us, _router, peer] = lab.two_hops();
    let frr = Frr::start(
        &peer,
        "
router bgp 65002
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 neighbor 10.0.1.1 ebgp-multihop 255
 address-family ipv4 unicast
  neighbor 10.0.1.1 activate
",
    );
    let ours = |hops: u8| {
        format!(
            "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks: [{{prefix: 10.1.0.0/24}}]
peers:
  - {{name: far, address: 10.0.2.2, asn: 65002, ttl-security: {hops}, connect-retry-time: 1}}
"
        )
    };
    let daemon = Daemon::start(&us, &ours(1));
    eventually("packets that come from too far", LIMIT, || {
        let dropped = us.counter("TcpExt", "TCPMinTTLDrop");
        ensure!(dropped > 0, "none dropped");
        Ok(())
    });
    assert_eq!(daemon.neighbor("far").unwrap()["counters"]["established"], 0);
    daemon.reload(&ours(2));
    daemon.established("far");
    frr.until_path("10.1.0.0/24");
}
