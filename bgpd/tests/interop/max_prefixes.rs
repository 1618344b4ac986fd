//! Too many prefixes (RFC 4486), seen from both sides.

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Pair, eventually, pair};

const MORE: &str = "
router bgp 65002
 address-family ipv4 unicast
  network 10.2.1.0/24
  network 10.2.2.0/24
";

/// Us without an IPv4 route, which FRR would send back to us, and which would count then.
fn silent(limit: &str) -> String {
    pair::ours(limit).replace("  - prefix: 10.1.0.0/24\n", "")
}

#[test]
fn frr_announces_too_many() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, &[pair::FRR, MORE].concat());
    let us = Daemon::start(&pair.us, &silent("max-prefixes: {limit: 2}"));
    eventually("the end of the session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("sent Cease/Maximum Number of Prefixes"), "{neighbor}");
        Ok(())
    });
    // Its last reason may by now be that of another attempt; what it logs stays.
    eventually("FRR's knowledge of it", LIMIT, || {
        let log = frr.process().log();
        let said = "received from neighbor 10.0.1.1 6/1 (Cease/Maximum Number of Prefixes Reached)";
        ensure!(log.contains(said), "no such NOTIFICATION");
        Ok(())
    });
    us.until_no_route("10.2.0.0/24");
    // A higher limit is the remedy, and needs no other.
    us.reload(&silent("max-prefixes: {limit: 3}"));
    us.established("peer");
    for prefix in ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24"] {
        us.until_route(prefix);
    }
}

#[test]
fn frr_announces_too_many_of_one_family() {
    let pair = Pair::new();
    let more = "
router bgp 65002
 address-family ipv6 unicast
  network fd00:a:3::/64
";
    let frr = Frr::start(&pair.peer, &[pair::FRR, MORE].concat());
    let limit = "max-prefixes: {limit: 3, limit-v6: 1}";
    let us = Daemon::start(&pair.us, &silent(limit).replace("  - prefix: fd00:a:1::/64\n", ""));
    us.established("peer");
    us.until_route("10.2.2.0/24");
    us.until_route("fd00:a:2::/64");
    frr.configure(&more.trim().lines().collect::<Vec<_>>());
    eventually("the end of the session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("sent Cease/Maximum Number of Prefixes"), "{neighbor}");
        Ok(())
    });
    us.until_no_route("10.2.0.0/24");
}

#[test]
fn it_comes_back_after_a_while() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, &[pair::FRR, MORE].concat());
    let limit = "max-prefixes: {limit: 2, restart-after: 1}";
    let us = Daemon::start(&pair.us, &silent(limit));
    eventually("a second attempt", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        ensure!(neighbor["counters"]["established"].as_u64() >= Some(2), "{neighbor}");
        Ok(())
    });
    frr.configure(&["router bgp 65002", "address-family ipv4", "no network 10.2.1.0/24"]);
    us.established("peer");
    us.until_route("10.2.2.0/24");
}

#[test]
fn bird_has_enough_of_ours() {
    let pair = Pair::new();
    let more = "  - prefix: 10.1.1.0/24\n";
    let limit = "ipv4 { import limit 1 action disable;";
    let _bird = Bird::start(
        &pair.peer,
        &pair::bird("").replace("ipv4 { import all;", &format!("{limit} import all;")),
    );
    let ours = pair::ours("").replace("networks:\n", &format!("networks:\n{more}"));
    let us = Daemon::start(&pair.us, &ours);
    eventually("the end of the session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("received Cease/Maximum Number of Prefixes"), "{neighbor}");
        Ok(())
    });
}
