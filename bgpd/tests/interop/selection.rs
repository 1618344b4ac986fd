//! Which paths are used and what next hops are told: several paths beside each other, our own AS number
//! in a path, next hops ourselves or as learned, IPv4 routes over IPv6 (RFC 8950).

use anyhow::{Result, ensure};

use crate::kit::{Bird, Daemon, Frr, LIMIT, Lab, Pair, eventually};

/// What FRR, on link 1, and BIRD, on link 2, both announce.
const SHARED: &str = "10.9.0.0/24";

fn frr(asn: u32, lines: &str) -> String {
    format!(
        "
router bgp {asn}
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 address-family ipv4 unicast
  network {SHARED}
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
{lines}
"
    )
}

fn bird(asn: u32) -> String {
    format!(
        "
router id 10.255.0.3;
protocol static {{ ipv4; route {SHARED} blackhole; }}
protocol bgp ours {{
  local 10.0.2.2 as {asn};
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1;
  ipv4 {{ import all; export all; gateway recursive; }};
}}
"
    )
}

fn ours(asns: [u32; 2], peer: &str, more: &str) -> String {
    let [one, two] = asns;
    format!(
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
peers:
  - {{name: frr, address: 10.0.1.2, asn: {one}, connect-retry-time: 1, {peer}}}
  - {{name: bird, address: 10.0.2.2, asn: {two}, connect-retry-time: 1, {peer}}}
{more}
"
    )
}

/// Waits until packets to what both announce go these ways, and our words agree.
fn until_used(daemon: &Daemon<'_>, hops: &[&str]) {
    let used = || -> Result<()> {
        let route = daemon.route(SHARED)?;
        let paths = route["paths"].as_array().into_iter().flatten();
        let mut used: Vec<&str> = paths
            .filter(|path| path["used"] == true)
            .filter_map(|path| path["next_hop"].as_str())
            .collect();
        used.sort_unstable();
        ensure!(used == hops && route["paths"][0]["best"] == true, "{route}");
        Ok(())
    };
    eventually(&format!("{SHARED} by {hops:?}"), LIMIT, used);
}

const BOTH: [&str; 2] = ["10.0.1.2", "10.0.2.2"];

#[test]
fn external_paths_beside_each_other() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    let _frr = Frr::start(&one, &frr(65002, ""));
    let _bird = Bird::start(&two, &bird(65003));
    let asns = [65002, 65003];
    let daemon = Daemon::start(&us, &ours(asns, "", ""));
    until_used(&daemon, &BOTH);
    // Of equal length, but not equal.
    daemon.reload(&ours(asns, "", "multipath: {as-path-relax: false}"));
    until_used(&daemon, &BOTH[..1]);
    daemon.reload(&ours(asns, "", ""));
    until_used(&daemon, &BOTH);
    daemon.reload(&ours(asns, "", "multipath: {ebgp: 1}"));
    until_used(&daemon, &BOTH[..1]);
    for name in ["frr", "bird"] {
        assert_eq!(daemon.neighbor(name).unwrap()["counters"]["established"], 1);
    }
}

#[test]
fn internal_paths_beside_each_other() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    let _frr = Frr::start(&one, &frr(65001, ""));
    let _bird = Bird::start(&two, &bird(65001));
    let asns = [65001; 2];
    let daemon = Daemon::start(&us, &ours(asns, "", ""));
    until_used(&daemon, &BOTH);
    daemon.reload(&ours(asns, "", "multipath: {ibgp: 1}"));
    until_used(&daemon, &BOTH[..1]);
}

#[test]
fn our_own_as_number_in_a_path() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    let lines = "  neighbor 10.0.1.1 route-map loop out
 exit-address-family
route-map loop permit 10
 set as-path prepend 65001 65001
";
    let _frr = Frr::start(&one, &frr(65002, lines));
    let bird = Bird::start(&two, &bird(65003));
    let asns = [65002, 65003];
    let daemon = Daemon::start(&us, &ours(asns, "", ""));
    daemon.established("frr");
    until_used(&daemon, &BOTH[1..]);
    let refused = daemon.until_path("10.2.0.0/24");
    assert_eq!((&refused["reason"], &refused["used"]), (&"as-path-loop".into(), &false.into()));
    daemon.reload(&ours(asns, "allowas-in: 1", ""));
    // It is there twice.
    assert_eq!(daemon.until_path("10.2.0.0/24")["reason"], "as-path-loop");
    daemon.reload(&ours(asns, "allowas-in: 2", ""));
    let seen = bird.until_route("10.2.0.0/24");
    assert!(seen.contains("BGP.as_path: 65001 65002 65001 65001"), "{seen}");
}

#[test]
fn next_hops_are_ourselves_or_as_they_came() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    // As an IGP would.
    two.ip("route add 10.0.1.0/24 via 10.0.2.1");
    let _frr = Frr::start(&one, &frr(65002, ""));
    let bird = Bird::start(&two, &bird(65001));
    let asns = [65002, 65001];
    let told = |hop: &str| {
        eventually(&format!("10.2.0.0/24 by {hop}"), LIMIT, || {
            let seen = bird.route("10.2.0.0/24")?;
            ensure!(seen.contains(&format!("BGP.next_hop: {hop}\n")), "{seen}");
            Ok(())
        });
    };
    let daemon = Daemon::start(&us, &ours(asns, "", ""));
    told("10.0.1.2");
    daemon.reload(&ours(asns, "next-hop: self", ""));
    told("10.0.2.1");
    daemon.reload(&ours(asns, "next-hop: keep", ""));
    told("10.0.1.2");
    assert_eq!(daemon.neighbor("bird").unwrap()["counters"]["established"], 1);
}

/// Both ways over a session between IPv6 addresses.
fn over_ipv6(pair: &Pair, announced: impl FnOnce()) {
    let daemon = Daemon::start(
        &pair.us,
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks: [{prefix: 10.1.0.0/24}]
peers:
  - {name: peer, address: 'fd00:1::2', asn: 65002, connect-retry-time: 1}
",
    );
    daemon.established("peer");
    assert_eq!(daemon.until_path("10.2.0.0/24")["next_hop"], "fd00:1::2");
    announced();
}

#[test]
fn ipv4_over_ipv6_with_frr() {
    let pair = Pair::new();
    let frr = Frr::start(
        &pair.peer,
        "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor fd00:1::1 remote-as 65001
 neighbor fd00:1::1 timers connect 1
 neighbor fd00:1::1 capability extended-nexthop
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor fd00:1::1 activate
",
    );
    over_ipv6(&pair, || {
        let seen = frr.until_path("10.1.0.0/24");
        let hops: Vec<_> = seen["nexthops"].as_array().into_iter().flatten().collect();
        assert!(hops.iter().any(|hop| hop["ip"] == "fd00:1::1"), "{seen}");
    });
}

#[test]
fn ipv4_over_ipv6_with_bird() {
    let pair = Pair::new();
    let bird = Bird::start(
        &pair.peer,
        "
router id 10.255.0.2;
protocol static { ipv4; route 10.2.0.0/24 blackhole; }
protocol bgp ours {
  local fd00:1::2 as 65002;
  neighbor fd00:1::1 as 65001;
  connect delay time 1; connect retry time 1;
  ipv4 { import all; export all; extended next hop on; };
}
",
    );
    over_ipv6(&pair, || {
        let seen = bird.until_route("10.1.0.0/24");
        assert!(seen.contains("BGP.next_hop: fd00:1::1"), "{seen}");
    });
}
