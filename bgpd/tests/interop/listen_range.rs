//! Neighbors of a listen range: whoever connects from one of its addresses.

use std::collections::BTreeSet;

use anyhow::ensure;
use serde_json::Value;

use crate::kit::{Daemon, Frr, Gobgp, LIMIT, Lab, eventually};

/// The rack is 10.0.0.0/16, which holds both links of the lab; in it all have one key.
const OURS: &str = "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
listen-ranges:
  - prefix: 10.0.0.0/16
    limit: 2
    peer: {name: rack, asn: [65002-65003], password: all}
networks:
  - prefix: 10.1.0.0/24
";

fn names(us: &Daemon<'_>) -> anyhow::Result<BTreeSet<String>> {
    let all = us.ask(&["neighbors"])?;
    let named = |n: &Value| n["name"].as_str().unwrap_or_default().to_owned();
    Ok(all.as_array().into_iter().flatten().map(named).collect())
}

#[test]
fn frr_and_gobgp() {
    let lab = Lab::new();
    let (us, [frr, gobgp]) = lab.star(["frr", "gobgp"]);
    let daemon = Daemon::start(&us, OURS);
    assert!(names(&daemon).unwrap().is_empty());

    let there = Frr::start(
        &frr,
        "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 password all
 neighbor 10.0.1.1 timers connect 1
 neighbor 10.0.1.1 advertisement-interval 0
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
",
    );
    let other = Gobgp::start(
        &gobgp,
        "
global: {config: {as: 65003, router-id: 10.255.0.3}}
neighbors:
  - config: {neighbor-address: 10.0.2.1, peer-as: 65001, auth-password: all}
    timers: {config: {connect-retry: 1, idle-hold-time-after-reset: 1}}
",
    );
    other.run("global rib add 10.3.0.0/24 -a ipv4").unwrap();
    for (name, asn) in [("rack-10.0.1.2", 65002), ("rack-10.0.2.2", 65003)] {
        let neighbor = daemon.established(name);
        assert_eq!(neighbor["asn"], asn);
        assert_eq!(neighbor["listen_range"], "rack");
    }
    // Each has what the other announces, and what we do.
    for (prefix, path) in [("10.1.0.0/24", "65001"), ("10.3.0.0/24", "65001 65003")] {
        assert_eq!(there.until_path(prefix)["aspath"]["string"], path);
    }
    other.until_path("10.1.0.0/24");
    other.until_path("10.2.0.0/24");

    // One that goes with a word is forgotten, and comes again as a new one.
    there.configure(&["router bgp 65002", "neighbor 10.0.1.1 shutdown"]);
    eventually("a neighbor that has gone", LIMIT, || {
        let names = names(&daemon)?;
        ensure!(names.iter().eq(["rack-10.0.2.2"]), "{names:?}");
        Ok(())
    });
    daemon.until_no_route("10.2.0.0/24");
    there.configure(&["router bgp 65002", "no neighbor 10.0.1.1 shutdown"]);
    daemon.established("rack-10.0.1.2");
    daemon.until_route("10.2.0.0/24");

    // A smaller range takes one of them; the other's session does not notice.
    daemon.reload(&OURS.replace("10.0.0.0/16", "10.0.2.0/24"));
    eventually("a neighbor that is not of the range", LIMIT, || {
        let names = names(&daemon)?;
        ensure!(names.iter().eq(["rack-10.0.2.2"]), "{names:?}");
        Ok(())
    });
    daemon.until_no_route("10.2.0.0/24");
    let neighbor = daemon.neighbor("rack-10.0.2.2").unwrap();
    assert_eq!(neighbor["state"], "established");
    assert_eq!(neighbor["counters"]["established"], 1);
}
