//! The way to a next hop (RFC 4271 section 9.1.2.1): whether there is one, and what it costs.

use anyhow::ensure;
use bgpd::{Reason, Resolution};

use crate::kit::{Bird, Embedded, Frr, Gobgp, LIMIT, Lab, eventually, pair};

/// In the AS of ours are FRR and BIRD; GoBGP, outside, is told of one of their routes.
const OURS: &str = "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
peers:
  - {name: frr, address: 10.0.1.2, asn: 65001, connect-retry-time: 1}
  - {name: bird, address: 10.0.2.2, asn: 65001, connect-retry-time: 1}
  - {name: gobgp, address: 10.0.3.2, asn: 65002, connect-retry-time: 1}
";

/// Marks what it announces with 65001:1.
const FRR: &str = "
route-map mark permit 10
 set community 65001:1
exit
router bgp 65001
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 neighbor 10.0.1.1 advertisement-interval 0
 address-family ipv4 unicast
  network 10.9.0.0/24 route-map mark
  neighbor 10.0.1.1 activate
 exit-address-family
";

/// Marks what it announces with 65001:2.
const BIRD: &str = "
router id 10.255.0.3;
protocol static { ipv4; route 10.9.0.0/24 blackhole { bgp_community.add((65001,2)); }; }
protocol bgp ours {
  local 10.0.2.2 as 65001;
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; };
}
";

#[test]
fn the_nearest_next_hop_that_can_be_reached_is_announced() {
    use Resolution::{Metric, Unreachable};
    let lab = Lab::new();
    let (us, [one, two, three]) = lab.star(["frr", "bird", "gobgp"]);
    let frr = Frr::start(&one, FRR);
    let bird = Bird::start(&two, BIRD);
    let gobgp = Gobgp::start(&three, &pair::gobgp("", "").replace("10.0.1.1", "10.0.3.1"));
    let speaker = Embedded::start(&us, OURS);
    for name in ["frr", "bird", "gobgp"] {
        speaker.established(name);
    }
    frr.established("10.0.1.1");
    bird.established("ours");
    let fib = speaker.fib();
    eventually("both paths", LIMIT, || {
        let paths = speaker.explain("10.9.0.0/24")?.paths;
        ensure!(paths.len() == 2, "{paths:?}");
        Ok(())
    });
    // Whose route GoBGP has, by the community that it is marked with.
    let told = |mark: Option<u32>| {
        eventually(&format!("GoBGP to have the route of {mark:?}"), LIMIT, || {
            let attributes = gobgp.route("10.9.0.0/24").map(|paths| paths[0]["attrs"].clone());
            let Some(mark) = mark else {
                ensure!(attributes.is_err(), "it is there: {attributes:?}");
                return Ok(());
            };
            let attributes = attributes?;
            let communities = attributes.as_array().into_iter().flatten();
            let mut communities = communities.filter_map(|one| one["communities"].as_array());
            let marked = communities.any(|all| all.iter().any(|c| *c == (65001 << 16 | mark)));
            ensure!(marked, "{attributes}");
            Ok(())
        });
    };
    // The best path first, and the step that it won by.
    let reasons = || {
        let paths = speaker.explain("10.9.0.0/24").unwrap().paths;
        paths.iter().map(|p| (p.path.neighbor.clone().unwrap(), p.path.reason)).collect::<Vec<_>>()
    };
    let (frr, bird) = ("frr".to_owned(), "bird".to_owned());
    let hop = |address: &str| vec![address.parse::<std::net::IpAddr>().unwrap()];
    let forwarded = |wanted: &[std::net::IpAddr]| {
        eventually(&format!("{wanted:?} for the kernel"), LIMIT, || {
            let next_hops = speaker.explain("10.9.0.0/24")?.next_hops;
            let now: Vec<_> = next_hops.iter().map(|hop| hop.addr).collect();
            ensure!(now == wanted, "{now:?}");
            Ok(())
        });
    };

    speaker.set_next_hops([("10.0.1.2", Metric(20)), ("10.0.2.2", Metric(10))]);
    told(Some(2));
    forwarded(&hop("10.0.2.2"));
    assert_eq!(fib.until_change("10.9.0.0/24").1, hop("10.0.2.2"));
    assert_eq!(reasons(), [(bird.clone(), Reason::IgpCost), (frr.clone(), Reason::IgpCost)]);
    speaker.set_next_hops([("10.0.1.2", Metric(20)), ("10.0.2.2", Metric(30))]);
    told(Some(1));
    forwarded(&hop("10.0.1.2"));
    assert_eq!(reasons(), [(frr.clone(), Reason::IgpCost), (bird.clone(), Reason::IgpCost)]);
    speaker.set_next_hops([("10.0.1.2", Unreachable), ("10.0.2.2", Metric(30))]);
    told(Some(2));
    forwarded(&hop("10.0.2.2"));
    assert_eq!(reasons()[1], (frr, Reason::NextHopUnreachable));
    speaker.set_next_hops([("10.0.1.2", Unreachable), ("10.0.2.2", Unreachable)]);
    told(None);
    let unreachable = reasons().iter().all(|(_, reason)| *reason == Reason::NextHopUnreachable);
    assert!(unreachable, "{:?}", reasons());
    assert_eq!(fib.until_change("10.9.0.0/24").1, hop("10.0.2.2")[1..], "the last change alone");
    // Of those not named there is a way.
    speaker.set_next_hops([("10.0.2.2", Unreachable)]);
    told(Some(1));
    assert_eq!(fib.until_change("10.9.0.0/24").1, hop("10.0.1.2"));
    for name in ["frr", "bird", "gobgp"] {
        assert_eq!(speaker.neighbor(name).unwrap().counters.established, 1, "nothing was reset");
    }
}
