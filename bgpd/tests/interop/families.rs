//! Peers that do not want the families that we want.

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Pair, eventually, pair};

const ONLY_V4: &str = "families: [ipv4-unicast]";

/// None in common: no session, and both are told why.
fn none_in_common(us: &Daemon<'_>) {
    eventually("the reason why there is no session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_error"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("OPEN Message Error/Unsupported Capability"), "{neighbor}");
        Ok(())
    });
    assert_eq!(us.neighbor("peer").unwrap()["counters"]["established"], 0);
}

#[test]
fn frr_has_none_in_common() {
    let pair = Pair::new();
    let section = "router bgp 65002\n address-family ipv4\n no neighbor 10.0.1.1 activate\n";
    let frr = Frr::start(&pair.peer, &[pair::FRR, section].concat());
    let us = Daemon::start(&pair.us, &pair::ours(ONLY_V4));
    none_in_common(&us);
    us.reload(&pair::ours(""));
    us.established("peer");
    frr.until_path("fd00:a:1::/64");
}

#[test]
fn bird_has_none_in_common() {
    let pair = Pair::new();
    let config = pair::bird("").replace("ipv4 { import all; export all; };", "");
    let bird = Bird::start(&pair.peer, &config);
    let us = Daemon::start(&pair.us, &pair::ours(ONLY_V4));
    none_in_common(&us);
    us.reload(&pair::ours("families: [ipv6-unicast]"));
    us.established("peer");
    bird.until_route("fd00:a:1::/64");
}

/// Some in common: the others are left out.
#[test]
fn frr_has_one_in_common() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(ONLY_V4));
    us.established("peer");
    us.until_route("10.2.0.0/24");
    frr.until_path("10.1.0.0/24");
    assert!(us.route("fd00:a:2::/64").is_err());
    assert!(frr.route("fd00:a:1::/64").is_err());
}
