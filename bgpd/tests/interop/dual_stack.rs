//! IPv4 and IPv6 unicast in one session, routes both ways.

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Pair, eventually, pair};

fn check_ours(us: &Daemon<'_>) {
    let v4 = us.until_path("10.2.0.0/24");
    assert_eq!(v4["next_hop"], "10.0.1.2");
    assert_eq!(v4["as_path"], "65002");
    let v6 = us.until_path("fd00:a:2::/64");
    assert_eq!(v6["next_hop"], "fd00:1::2");
    assert_eq!(v6["as_path"], "65002");
}

#[test]
fn frr() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    check_ours(&us);
    let v4 = frr.until_path("10.1.0.0/24");
    assert_eq!(v4["nexthops"][0]["ip"], "10.0.1.1");
    assert_eq!(v4["aspath"]["string"], "65001");
    let v6 = frr.until_path("fd00:a:1::/64");
    assert_eq!(v6["nexthops"][0]["ip"], "fd00:1::1");
    // zebra believes it too: packets would go there.
    eventually("the kernel's routes", LIMIT, || {
        pair.peer.kernel_route("10.1.0.0/24")?;
        pair.peer.kernel_route("fd00:a:1::/64")
    });
}

#[test]
fn bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    check_ours(&us);
    let v4 = bird.until_route("10.1.0.0/24");
    assert!(v4.contains("BGP.as_path: 65001"), "{v4}");
    assert!(v4.contains("BGP.next_hop: 10.0.1.1"), "{v4}");
    let v6 = bird.until_route("fd00:a:1::/64");
    assert!(v6.contains("BGP.next_hop: fd00:1::1"), "{v6}");
}

#[test]
fn gobgp() {
    let pair = Pair::new();
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", pair::BOTH_FAMILIES));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    gobgp.run("global rib add 10.2.0.0/24 -a ipv4").unwrap();
    // GoBGP names itself as next hop of IPv6 routes only in IPv6 sessions.
    gobgp.run("global rib add fd00:a:2::/64 nexthop fd00:1::2 -a ipv6").unwrap();
    check_ours(&us);
    let v4 = gobgp.until_path("10.1.0.0/24");
    assert!(v4.to_string().contains("65001"), "{v4}");
    let v6 = gobgp.until_path("fd00:a:1::/64");
    assert!(v6.to_string().contains("fd00:1::1"), "{v6}");
}
