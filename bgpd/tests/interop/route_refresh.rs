//! Route refresh (RFC 2918): the peer has our routes again, in the same session.

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Pair, eventually, pair};

/// Asks for a refresh, and sees that routes are sent again.
fn sends_again(us: &Daemon<'_>, ask: impl FnOnce()) {
    let sent = || us.neighbor("peer").unwrap()["counters"]["updates_sent"].as_u64().unwrap();
    let before = eventually("our first routes", LIMIT, || {
        let sent = sent();
        ensure!(sent >= 2, "{sent} UPDATEs");
        Ok(sent)
    });
    ask();
    eventually("our routes again", LIMIT, || {
        let now = sent();
        ensure!(now > before, "{now} UPDATEs");
        Ok(())
    });
    assert_eq!(us.neighbor("peer").unwrap()["counters"]["established"], 1);
}

#[test]
fn frr() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    frr.until_path("10.1.0.0/24");
    frr.until_path("fd00:a:1::/64");
    sends_again(&us, || drop(frr.vtysh(&["clear bgp ipv4 * soft in"]).unwrap()));
    // What a filter threw away comes back when the filter goes.
    frr.configure(&["route-map none deny 10"]);
    let out_of = ["router bgp 65002", "address-family ipv4"];
    let filter = "neighbor 10.0.1.1 route-map none in";
    frr.configure(&[&out_of[..], &[filter]].concat());
    frr.until_no_route("10.1.0.0/24");
    frr.configure(&[&out_of[..], &[&format!("no {filter}")]].concat());
    frr.until_path("10.1.0.0/24");
    assert_eq!(us.neighbor("peer").unwrap()["counters"]["established"], 1);
}

#[test]
fn bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    bird.until_route("10.1.0.0/24");
    bird.until_route("fd00:a:1::/64");
    sends_again(&us, || drop(bird.birdc("reload in ours").unwrap()));
    bird.until_route("10.1.0.0/24");
    bird.until_route("fd00:a:1::/64");
}
