//! Standard, extended and large communities (RFC 1997, 4360, 8092) pass through unchanged.

use crate::kit::{Bird, Daemon, Frr, Gobgp, Lab};

const OURS: &str = "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks:
  - {prefix: 10.1.0.0/24, communities: ['65001:7'], large-communities: ['65001:8:9']}
peers:
  - {name: frr, address: 10.0.1.2, asn: 65002}
  - {name: bird, address: 10.0.2.2, asn: 65003}
  - {name: gobgp, address: 10.0.3.2, asn: 65004}
";

const FRR: &str = "
router bgp 65002
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
  neighbor 10.0.1.1 route-map colour out
 exit-address-family
route-map colour permit 10
 set community 65002:1 65002:2
 set extcommunity rt 65002:3
 set large-community 65002:4:5 4200000000:4294967295:0
";

const BIRD: &str = "
router id 10.255.0.3;
protocol static { ipv4; route 10.3.0.0/24 blackhole; }
protocol bgp ours {
  local 10.0.2.2 as 65003;
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1;
  ipv4 { import all; export filter {
    bgp_community.add((65003,1));
    bgp_ext_community.add((rt,65003,2));
    bgp_ext_community.add((generic,0x43000000,0x7));
    bgp_large_community.add((65003,4,5));
    accept;
  }; };
}
";

const GOBGP: &str = "
global: {config: {as: 65004, router-id: 10.255.0.4}}
neighbors:
  - config: {neighbor-address: 10.0.3.1, peer-as: 65001}
    timers: {config: {connect-retry: 1}}
";

#[test]
fn between_frr_bird_and_gobgp() {
    let lab = Lab::new();
    let (us, [one, two, three]) = lab.star(["frr", "bird", "gobgp"]);
    let frr = Frr::start(&one, FRR);
    let bird = Bird::start(&two, BIRD);
    let gobgp = Gobgp::start(&three, GOBGP);
    let daemon = Daemon::start(&us, OURS);
    for name in ["frr", "bird", "gobgp"] {
        daemon.established(name);
    }

    let at_bird = bird.until_route("10.2.0.0/24");
    for line in [
        "BGP.community: (65002,1) (65002,2)\n",
        "BGP.ext_community: (rt, 65002, 3)\n",
        "BGP.large_community: (65002, 4, 5) (4200000000, 4294967295, 0)\n",
    ] {
        assert!(at_bird.contains(line), "{line}: {at_bird}");
    }
    let at_frr = frr.until_path("10.3.0.0/24");
    assert_eq!(at_frr["community"]["string"], "65003:1", "{at_frr}");
    assert_eq!(at_frr["largeCommunity"]["string"], "65003:4:5", "{at_frr}");
    let extended = at_frr["extendedCommunity"]["string"].as_str().unwrap();
    assert!(extended.contains("RT:65003:2"), "{at_frr}");
    let at_gobgp = gobgp.until_path("10.3.0.0/24").to_string();
    // 65003:1 as one number; the large one in its parts.
    assert!(at_gobgp.contains(&(65003_u32 << 16 | 1).to_string()), "{at_gobgp}");
    assert!(at_gobgp.contains("65003:2"), "{at_gobgp}");
    let large = r#""ASN":65003,"LocalData1":4,"LocalData2":5"#;
    assert!(at_gobgp.contains(large), "{at_gobgp}");

    // Those of our own.
    let own = frr.until_path("10.1.0.0/24");
    assert_eq!(own["community"]["string"], "65001:7", "{own}");
    assert_eq!(own["largeCommunity"]["string"], "65001:8:9", "{own}");
    // And what we show.
    let seen = daemon.until_path("10.2.0.0/24");
    assert_eq!(seen["communities"], serde_json::json!(["65002:1", "65002:2"]), "{seen}");
}
