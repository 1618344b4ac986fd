//! TCP MD5 signatures (RFC 2385).

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Pair, eventually, pair};

const WRONG: &str = "password: wrong";
const RIGHT: &str = "password: right";

/// A wrong key keeps the session down, the right one lets it come up.
fn wrong_then_right(pair: &Pair, us: &Daemon<'_>) {
    eventually("a segment with a wrong signature", LIMIT, || {
        let failures = pair.us.counter("TcpExt", "TCPMD5Failure")
            + pair.peer.counter("TcpExt", "TCPMD5Failure");
        ensure!(failures > 2, "{failures}");
        Ok(())
    });
    assert_eq!(us.neighbor("peer").unwrap()["counters"]["established"], 0);
    us.reload(&pair::ours(RIGHT));
    us.established("peer");
    us.until_route("10.2.0.0/24");
    assert!(!us.process().log().contains("right"), "a key in the log");
}

#[test]
fn frr() {
    let pair = Pair::new();
    let key = "router bgp 65002\n neighbor 10.0.1.1 password right\n";
    let frr = Frr::start(&pair.peer, &[pair::FRR, key].concat());
    let us = Daemon::start(&pair.us, &pair::ours(WRONG));
    wrong_then_right(&pair, &us);
    frr.until_path("10.1.0.0/24");
}

#[test]
fn bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird("password \"right\";"));
    let us = Daemon::start(&pair.us, &pair::ours(WRONG));
    wrong_then_right(&pair, &us);
    bird.until_route("10.1.0.0/24");
}

#[test]
fn gobgp() {
    let pair = Pair::new();
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("auth-password: right", ""));
    gobgp.run("global rib add 10.2.0.0/24 -a ipv4").unwrap();
    let us = Daemon::start(&pair.us, &pair::ours(WRONG));
    wrong_then_right(&pair, &us);
    gobgp.until_path("10.1.0.0/24");
}

#[test]
fn no_key_where_one_is_wanted() {
    let pair = Pair::new();
    let _frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(RIGHT));
    eventually("a segment without a signature", LIMIT, || {
        let missing = pair.us.counter("TcpExt", "TCPMD5NotFound")
            + pair.peer.counter("TcpExt", "TCPMD5Unexpected");
        ensure!(missing > 2, "{missing}");
        Ok(())
    });
    assert_eq!(us.neighbor("peer").unwrap()["counters"]["established"], 0);
    us.reload(&pair::ours(""));
    us.established("peer");
}

/// The peer's other session, over IPv6, has a key of its own and does not notice.
#[test]
fn a_key_is_changed_without_losing_another_session() {
    const OTHER: &str =
        "  - {name: other, address: 'fd00:1::2', asn: 65002, password: '6', hold-time: 9}\n";
    const SECTION: &str = "
router bgp 65002
 neighbor 10.0.1.1 password first
 neighbor fd00:1::1 remote-as 65001
 neighbor fd00:1::1 timers connect 1
 neighbor fd00:1::1 password 6
 address-family ipv6 unicast
  neighbor fd00:1::1 activate
";
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, &[pair::FRR, SECTION].concat());
    let ours = |key: &str| pair::ours(&format!("password: {key}")) + OTHER;
    let us = Daemon::start(&pair.us, &ours("first"));
    us.established("peer");
    us.established("other");
    us.reload(&ours("second"));
    // FRR itself begins anew for this.
    frr.configure(&["router bgp 65002", "neighbor 10.0.1.1 password second"]);
    eventually("the session with the new key", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let again = neighbor["counters"]["established"].as_u64() >= Some(2);
        ensure!(again && neighbor["state"] == "established", "{neighbor}");
        Ok(())
    });
    let other = us.neighbor("other").unwrap();
    assert_eq!(other["state"], "established");
    assert_eq!(other["counters"]["established"], 1);
}
