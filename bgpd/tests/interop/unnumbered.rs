//! A neighbor that is named by its interface, as FRR's `neighbor IFACE interface`.

use anyhow::ensure;

use crate::kit::{Daemon, Frr, LIMIT, Lab, eventually};

const OURS: &str = "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
router-advertisement-interval: 2
peers:
  - {name: frr, interface: frr, asn: external, connect-retry-time: 1}
networks:
  - prefix: 10.1.0.0/24
  - prefix: fd00:a:1::/64
";

#[test]
fn frr() {
    let lab = Lab::new();
    let (us, peer) = (lab.node("us"), lab.node("frr"));
    let link = lab.link(&us, &peer);
    let frr = Frr::start(
        &peer,
        "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor us interface remote-as external
 neighbor us timers connect 1
 neighbor us advertisement-interval 0
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor us activate
 exit-address-family
 address-family ipv6 unicast
  network fd00:a:2::/64
  neighbor us activate
",
    );
    let daemon = Daemon::start(&us, OURS);
    let there = link.b.link_local.to_string();
    let check = |up: u64| {
        let status = daemon.established("frr");
        assert_eq!(status["address"], there);
        assert_eq!(status["asn"], 65002);
        assert_eq!(status["counters"]["established"], up, "{status}");
        assert_eq!(status["session"]["extended_next_hop"], true);
        for prefix in ["10.2.0.0/24", "fd00:a:2::/64"] {
            let route = daemon.until_route(prefix);
            assert_eq!(route["next_hops"][0]["addr"], there, "{route}");
            assert_eq!(route["next_hops"][0]["interface"], us.index("frr"), "{route}");
        }
        // FRR's kernel has them, the IPv4 one by way of an IPv6 next hop.
        let here = format!("via inet6 {} dev us", link.a.link_local);
        eventually("the kernel's routes", LIMIT, || {
            let v4 = peer.kernel_route("10.1.0.0/24")?;
            ensure!(v4.contains(&here), "{v4}");
            let v6 = peer.kernel_route("fd00:a:1::/64")?;
            ensure!(v6.contains(&format!("via {} dev us", link.a.link_local)), "{v6}");
            Ok(())
        });
    };
    check(1);
    assert_eq!(frr.until_path("10.1.0.0/24")["aspath"]["string"], "65001");
    // No default route comes of our advertisements.
    assert!(peer.kernel_route("default").is_err());

    // The link goes, and with it what was learned there; and comes back.
    us.ip("link set frr down");
    daemon.until_no_route("10.2.0.0/24");
    daemon.until_no_route("fd00:a:2::/64");
    let down = daemon.neighbor("frr").unwrap();
    let reason = down["last_down"]["reason"].as_str().unwrap();
    assert_eq!(reason, "interface frr: is down, or not there");
    // The kernel takes IPv6 addresses off an interface that is down.
    us.ip(&format!("link set frr up\naddress add {}/64 dev frr nodad", link.a.link_local));
    check(2);
}
