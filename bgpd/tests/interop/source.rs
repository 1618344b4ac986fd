//! Where a session is on our side: by which interface, from which address, who begins.

use anyhow::ensure;
use serde_json::Value;

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Pair, eventually, pair};

/// A session over IPv6 beside that of [`pair`].
const OTHER: &str = "  - {name: other, address: 'fd00:1::2', asn: 65002, connect-retry-time: 1}\n";
const SECTION: &str = "
router bgp 65002
 neighbor fd00:1::1 remote-as 65001
 neighbor fd00:1::1 timers connect 1
 address-family ipv6 unicast
  neighbor fd00:1::1 activate
";

fn last_error(us: &Daemon<'_>, wanted: &str) {
    eventually(wanted, LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let reason = neighbor["last_error"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(wanted), "{neighbor}");
        Ok(())
    });
}

fn established(neighbor: &Value) -> u64 {
    neighbor["counters"]["established"].as_u64().unwrap()
}

/// The address of one end of the session, without the port.
fn host(neighbor: &Value, end: &str) -> String {
    let address = neighbor["session"][end].as_str().unwrap();
    address.rsplit_once(':').unwrap().0.to_owned()
}

#[test]
fn only_by_the_interface_that_is_said() {
    let pair = Pair::new();
    let _frr = Frr::start(&pair.peer, &[pair::FRR, SECTION].concat());
    let ours = |fields: &str| pair::ours(fields) + OTHER;
    let us = Daemon::start(&pair.us, &ours("source-interface: second"));
    us.established("other");
    last_error(&us, "source-interface second: No such device");

    // It is there, but FRR is not on it, and comes in by another.
    pair.us.ip("link add second type veth peer name third\nlink set second up");
    us.reload(&ours("source-interface: second, passive: true"));
    last_error(&us, "interface second: a connection came in by another: peer");
    assert_eq!(established(&us.neighbor("peer").unwrap()), 0);

    // Where it comes in.
    us.reload(&ours("source-interface: peer, passive: true"));
    let neighbor = us.established("peer");
    assert_eq!(neighbor["source_interface"], "peer");
    us.until_route("10.2.0.0/24");
    assert_eq!(established(&us.neighbor("other").unwrap()), 1);
}

/// The kernel's best route to the peer leads elsewhere.
#[test]
fn against_the_routes() {
    let pair = Pair::new();
    pair.peer.ip("address add 10.9.9.2/32 dev lo");
    pair.us.ip("link add second type veth peer name third\n\
                link set third up\nlink set second up\n\
                route add 10.9.9.2/32 dev second src 10.0.1.1 metric 1\n\
                route add 10.9.9.2/32 via 10.0.1.2 metric 2");
    let frr = Frr::start(
        &pair.peer,
        &[
            pair::FRR,
            "router bgp 65002\n neighbor 10.0.1.1 ebgp-multihop 2\n neighbor 10.0.1.1 passive\n \
             neighbor 10.0.1.1 update-source 10.9.9.2\n",
        ]
        .concat(),
    );
    let ours = pair::ours("multihop: 2, source-interface: peer");
    let us = Daemon::start(&pair.us, &ours.replace("address: 10.0.1.2", "address: 10.9.9.2"));
    let neighbor = us.established("peer");
    assert_eq!(host(&neighbor, "remote"), "10.9.9.2");
    us.until_route("10.2.0.0/24");
    frr.until_path("10.1.0.0/24");
}

/// FRR takes only a session that it finds at the address that it knows.
#[test]
fn from_the_address_that_is_said() {
    let pair = Pair::new();
    pair.us.ip("address add 10.0.1.7/24 dev peer");
    let config = pair::FRR.replace("10.0.1.1", "10.0.1.7");
    let passive = "router bgp 65002\n neighbor 10.0.1.7 passive\n";
    let frr = Frr::start(&pair.peer, &[&config, passive].concat());
    let us = Daemon::start(&pair.us, &pair::ours(""));
    // FRR has no such neighbor as the kernel makes us.
    eventually("an attempt after the first", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        ensure!(neighbor["counters"]["opens_sent"].as_u64() > Some(1), "{neighbor}");
        Ok(())
    });
    assert_eq!(established(&us.neighbor("peer").unwrap()), 0);
    us.reload(&pair::ours("source-address: 10.0.1.7"));
    let neighbor = us.established("peer");
    assert_eq!(host(&neighbor, "local"), "10.0.1.7");
    us.until_route("10.2.0.0/24");
    frr.until_path("10.1.0.0/24");
}

/// We wait for the peer, or it for us: whose port is 179 tells.
fn who_begins(us: &Daemon<'_>, here: bool) {
    let neighbor = us.established("peer");
    let session = &neighbor["session"];
    let from_179 = |end: &str| session[end].as_str().unwrap().ends_with(":179");
    assert_eq!((from_179("local"), from_179("remote")), (!here, here), "{session}");
}

#[test]
fn passive_here_or_there_frr() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours("passive: true"));
    who_begins(&us, false);
    frr.until_path("10.1.0.0/24");
    frr.configure(&["router bgp 65002", "neighbor 10.0.1.1 passive", "neighbor 10.0.1.1 shutdown"]);
    us.reload(&pair::ours(""));
    frr.configure(&["router bgp 65002", "no neighbor 10.0.1.1 shutdown"]);
    who_begins(&us, true);
}

#[test]
fn passive_here_bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours("passive: true"));
    who_begins(&us, false);
    bird.until_route("10.1.0.0/24");
}

#[test]
fn passive_there_gobgp() {
    let pair = Pair::new();
    let gobgp =
        Gobgp::start(&pair.peer, &pair::gobgp("", "transport: {config: {passive-mode: true}}"));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    who_begins(&us, true);
    gobgp.until_path("10.1.0.0/24");
}
