//! Neighbors and networks come and go with the configuration; the other sessions do not notice, nor
//! do the packets that go where they lead.

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Lab, eventually};

const FRR: &str = "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 neighbor 10.0.1.1 advertisement-interval 0
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
 exit-address-family
";

const BIRD: &str = "
router id 10.255.0.3;
protocol static { ipv4; route 10.3.0.0/24 blackhole; }
protocol bgp ours {
  local 10.0.2.2 as 65003;
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export all; };
}
";

const GOBGP: &str = "
global: {config: {as: 65004, router-id: 10.255.0.4}}
neighbors:
  - config: {neighbor-address: 10.0.3.1, peer-as: 65001}
    timers: {config: {connect-retry: 1, idle-hold-time-after-reset: 1}}
";

fn ours(networks: &[&str], peers: &[&str]) -> String {
    let networks: String = networks.iter().map(|p| format!("  - prefix: {p}\n")).collect();
    let peers: String = peers.iter().map(|peer| format!("  - {{{peer}}}\n")).collect();
    format!(
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks:
{networks}
peers:
{peers}"
    )
}

#[test]
fn peers_and_networks_come_and_go() {
    let lab = Lab::new();
    let (us, [one, two, three]) = lab.star(["frr", "bird", "gobgp"]);
    let frr = Frr::start(&one, FRR);
    let bird = Bird::start(&two, BIRD);
    let gobgp = Gobgp::start(&three, GOBGP);
    let to_frr = "name: frr, address: 10.0.1.2, asn: 65002, connect-retry-time: 1";
    let to_bird = "name: bird, address: 10.0.2.2, asn: 65003, connect-retry-time: 1";
    let to_gobgp = "name: gobgp, address: 10.0.3.2, asn: 65004, connect-retry-time: 1";
    let [first, second] = ["10.1.1.0/24", "10.1.2.0/24"];
    let daemon = Daemon::start(&us, &ours(&[first], &[to_frr]));
    daemon.established("frr");
    frr.until_path(first);
    let names = || {
        let all = daemon.ask(&["neighbors"]).unwrap();
        let name = |n: &serde_json::Value| n["name"].as_str().unwrap().to_owned();
        all.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };

    // Two neighbors and a network more.
    daemon.reload(&ours(&[first, second], &[to_frr, to_bird, to_gobgp]));
    assert_eq!(names(), ["bird", "frr", "gobgp"]);
    daemon.established("bird");
    daemon.established("gobgp");
    frr.until_path("10.3.0.0/24");
    for prefix in [first, second, "10.2.0.0/24"] {
        bird.until_route(prefix);
        gobgp.until_path(prefix);
    }
    frr.until_path(second);

    // One of each less: its routes are gone, and it is told why.
    daemon.reload(&ours(&[second], &[to_frr, to_gobgp]));
    assert_eq!(names(), ["frr", "gobgp"]);
    for prefix in [first, "10.3.0.0/24"] {
        frr.until_no_route(prefix);
        eventually("GoBGP without it", LIMIT, || {
            ensure!(gobgp.route(prefix).is_err(), "{prefix} is there");
            Ok(())
        });
    }
    daemon.until_no_route("10.3.0.0/24");
    eventually("BIRD's last word from us", LIMIT, || {
        let said = bird.birdc("show protocols all ours")?;
        ensure!(said.contains("Received: Peer de-configured"), "{said}");
        Ok(())
    });
    bird.until_no_route(second);

    // It comes back under another name, another neighbor is changed so that it has to start anew.
    let renamed = to_bird.replace("name: bird", "name: other");
    let changed = format!("{to_gobgp}, families: [ipv4-unicast]");
    daemon.reload(&ours(&[first, second], &[&changed, &renamed, to_frr]));
    daemon.established("other");
    eventually("GoBGP's second session", LIMIT, || {
        let neighbor = daemon.neighbor("gobgp")?;
        ensure!(neighbor["counters"]["established"] == 2, "{neighbor}");
        Ok(())
    });
    for prefix in [first, second] {
        bird.until_route(prefix);
        gobgp.until_path(prefix);
        frr.until_path(prefix);
    }

    // What is wrong changes nothing, whatever else it says.
    let wrong = ours(&[], &[to_frr, &to_bird.replace("asn: 65003", "asn: 0")]);
    let log = daemon.reload_refused(&wrong);
    assert!(log.contains("asn"), "{log}");
    assert_eq!(names(), ["frr", "gobgp", "other"]);
    frr.route(first).unwrap();
    // The first session has been through all of it.
    let counters = daemon.neighbor("frr").unwrap()["counters"].clone();
    assert_eq!((&counters["established"], &counters["dropped"]), (&1.into(), &0.into()));
    let seen = frr.neighbor("10.0.1.1").unwrap();
    assert_eq!(seen["connectionsEstablished"], 1, "{seen}");
    assert_eq!(seen["connectionsDropped"], 0, "{seen}");
}
