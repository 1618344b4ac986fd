//! IPv4 and IPv6 unicast in one session, routes both ways.

use crate::kit::{Bird, Daemon, Frr, Gobgp, Lab, Link};

/// Us in AS 65001, with a network of each family, and one external peer in AS 65002.
fn ours(link: &Link, peer: &str) -> String {
    format!(
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
peers:
  - {{name: {peer}, address: {}, asn: 65002, next-hop-v6: '{}', connect-retry-time: 1}}
networks:
  - prefix: 10.1.0.0/24
  - prefix: fd00:a:1::/64
",
        link.b.v4, link.a.v6
    )
}

fn check_ours(us: &Daemon<'_>, link: &Link) {
    let v4 = us.until_path("10.2.0.0/24");
    assert_eq!(v4["next_hop"], link.b.v4.to_string());
    assert_eq!(v4["as_path"], "65002");
    let v6 = us.until_path("fd00:a:2::/64");
    assert_eq!(v6["next_hop"], link.b.v6.to_string());
    assert_eq!(v6["as_path"], "65002");
}

#[test]
fn frr() {
    let lab = Lab::new();
    let (us, peer) = (lab.node("us"), lab.node("frr"));
    let link = lab.link(&us, &peer);
    let local = link.a.v4.to_string();
    let frr = Frr::start(
        &peer,
        &format!(
            "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor {local} remote-as 65001
 neighbor {local} timers connect 1
 neighbor {local} advertisement-interval 0
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor {local} activate
 exit-address-family
 address-family ipv6 unicast
  network fd00:a:2::/64
  neighbor {local} activate
"
        ),
    );
    let us = Daemon::start(&us, &ours(&link, "frr"));
    us.established("frr");
    check_ours(&us, &link);
    let v4 = frr.until_path("10.1.0.0/24");
    assert_eq!(v4["nexthops"][0]["ip"], link.a.v4.to_string());
    assert_eq!(v4["aspath"]["string"], "65001");
    let v6 = frr.until_path("fd00:a:1::/64");
    assert_eq!(v6["nexthops"][0]["ip"], link.a.v6.to_string());
    // zebra believes it too: packets would go there.
    crate::kit::eventually("the kernel's routes", crate::kit::LIMIT, || {
        peer.kernel_route("10.1.0.0/24")?;
        peer.kernel_route("fd00:a:1::/64")
    });
}

#[test]
fn bird() {
    let lab = Lab::new();
    let (us, peer) = (lab.node("us"), lab.node("bird"));
    let link = lab.link(&us, &peer);
    let bird = Bird::start(
        &peer,
        &format!(
            "
router id 10.255.0.2;
protocol static {{ ipv4; route 10.2.0.0/24 blackhole; }}
protocol static {{ ipv6; route fd00:a:2::/64 blackhole; }}
protocol bgp ours {{
  local {} as 65002;
  neighbor {} as 65001;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export all; }};
  ipv6 {{ import all; export all; next hop address {}; }};
}}
",
            link.b.v4, link.a.v4, link.b.v6
        ),
    );
    let us = Daemon::start(&us, &ours(&link, "bird"));
    us.established("bird");
    check_ours(&us, &link);
    let v4 = bird.until_route("10.1.0.0/24");
    assert!(v4.contains("BGP.as_path: 65001"), "{v4}");
    assert!(v4.contains(&format!("BGP.next_hop: {}", link.a.v4)), "{v4}");
    let v6 = bird.until_route("fd00:a:1::/64");
    assert!(v6.contains(&format!("BGP.next_hop: {}", link.a.v6)), "{v6}");
}

#[test]
fn gobgp() {
    let lab = Lab::new();
    let (us, peer) = (lab.node("us"), lab.node("gobgp"));
    let link = lab.link(&us, &peer);
    let gobgp = Gobgp::start(
        &peer,
        &format!(
            "
global: {{config: {{as: 65002, router-id: 10.255.0.2}}}}
neighbors:
  - config: {{neighbor-address: {}, peer-as: 65001}}
    timers: {{config: {{connect-retry: 1, idle-hold-time-after-reset: 1}}}}
    afi-safis:
      - config: {{afi-safi-name: ipv4-unicast}}
      - config: {{afi-safi-name: ipv6-unicast}}
",
            link.a.v4
        ),
    );
    let us = Daemon::start(&us, &ours(&link, "gobgp"));
    us.established("gobgp");
    gobgp.run("global rib add 10.2.0.0/24 -a ipv4").unwrap();
    // GoBGP names itself as next hop of IPv6 routes only in IPv6 sessions.
    let v6 = format!("global rib add fd00:a:2::/64 nexthop {} -a ipv6", link.b.v6);
    gobgp.run(&v6).unwrap();
    check_ours(&us, &link);
    let v4 = gobgp.until_path("10.1.0.0/24");
    assert!(v4.to_string().contains("65001"), "{v4}");
    let v6 = gobgp.until_path("fd00:a:1::/64");
    assert!(v6.to_string().contains(&link.a.v6.to_string()), "{v6}");
}
