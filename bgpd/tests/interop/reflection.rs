//! Route reflection (RFC 4456) between FRR and BIRD.

use crate::kit::{Bird, Daemon, Frr, Gobgp, Lab};

const FRR: &str = "
router bgp 65001
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
";

/// FRR on link 1 and another client on link 2.
fn ours(other: &str) -> String {
    format!(
        "
router-id: 10.255.0.1
asn: 65001
cluster-id: 10.255.99.99
peers:
  - {{name: frr, address: 10.0.1.2, asn: 65001, route-reflector-client: true}}
  - {{name: {other}, address: 10.0.2.2, asn: 65001, route-reflector-client: true}}
"
    )
}

#[test]
fn frr_and_bird_as_clients() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    us.forward();
    // As an IGP would: next hops stay what they are inside an AS.
    one.ip("route add 10.0.2.0/24 via 10.0.1.1");
    two.ip("route add 10.0.1.0/24 via 10.0.2.1");
    let frr = Frr::start(&one, FRR);
    let bird = Bird::start(
        &two,
        "
router id 10.255.0.3;
protocol static { ipv4; route 10.3.0.0/24 blackhole; }
protocol bgp ours {
  local 10.0.2.2 as 65001;
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1;
  ipv4 { import all; export all; gateway recursive; };
}
",
    );
    let daemon = Daemon::start(&us, &ours("bird"));
    daemon.established("frr");
    daemon.established("bird");

    let seen = frr.until_path("10.3.0.0/24");
    assert_eq!(seen["originatorId"], "10.255.0.3", "{seen}");
    assert_eq!(seen["clusterList"]["list"][0], "10.255.99.99", "{seen}");
    assert_eq!(seen["nexthops"][0]["ip"], "10.0.2.2", "{seen}");
    assert_eq!(seen["aspath"]["length"], 0, "{seen}");

    let seen = bird.until_route("10.2.0.0/24");
    assert!(seen.contains("BGP.originator_id: 10.255.0.2"), "{seen}");
    assert!(seen.contains("BGP.cluster_list: 10.255.99.99"), "{seen}");
    assert!(seen.contains("BGP.next_hop: 10.0.1.2"), "{seen}");
    assert!(seen.contains("BGP.local_pref: 100"), "{seen}");
}

#[test]
fn gobgp_as_a_client() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "gobgp"]);
    let frr = Frr::start(&one, FRR);
    one.ip("route add 10.0.2.0/24 via 10.0.1.1");
    let gobgp = Gobgp::start(
        &two,
        "
global: {config: {as: 65001, router-id: 10.255.0.3}}
neighbors:
  - config: {neighbor-address: 10.0.2.1, peer-as: 65001}
    timers: {config: {connect-retry: 1, idle-hold-time-after-reset: 1}}
",
    );
    let daemon = Daemon::start(&us, &ours("gobgp"));
    daemon.established("frr");
    daemon.established("gobgp");
    gobgp.run("global rib add 10.3.0.0/24").unwrap();

    let seen = gobgp.until_path("10.2.0.0/24");
    let attribute = |kind: u8| {
        let all = seen["attrs"].as_array().into_iter().flatten();
        all.clone().find(|attribute| attribute["type"] == kind).cloned().unwrap_or_default()
    };
    assert_eq!(attribute(9)["value"], "10.255.0.2", "{seen}");
    assert_eq!(attribute(10)["value"][0], "10.255.99.99", "{seen}");
    assert_eq!(attribute(3)["nexthop"], "10.0.1.2", "{seen}");

    let seen = frr.until_path("10.3.0.0/24");
    assert_eq!(seen["originatorId"], "10.255.0.3", "{seen}");
    assert_eq!(seen["nexthops"][0]["ip"], "10.0.2.2", "{seen}");
}
