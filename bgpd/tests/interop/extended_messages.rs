//! Messages of more than 4096 octets (RFC 8654).

use std::fmt::Write as _;

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Lab, Pair, eventually, pair};

/// Large communities: 12 octets each, more than a message without the extension could hold.
const MANY: usize = 400;

/// Attributes that only an extended message can carry come from BIRD, and go on to FRR.
#[test]
fn from_bird_to_frr() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    let frr = Frr::start(
        &one,
        "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 address-family ipv4 unicast
  neighbor 10.0.1.1 activate
",
    );
    let mut adds = String::new();
    for number in 0..MANY {
        writeln!(adds, "bgp_large_community.add((65003,{number},1));").unwrap();
    }
    let bird = Bird::start(
        &two,
        &format!(
            "
router id 10.255.0.3;
protocol static {{ ipv4; route 10.3.0.0/24 blackhole; }}
protocol bgp ours {{
  local 10.0.2.2 as 65003;
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1;
  enable extended messages on;
  ipv4 {{ import all; export filter {{ {adds} accept; }}; }};
}}
"
        ),
    );
    let daemon = Daemon::start(
        &us,
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
peers:
  - {name: frr, address: 10.0.1.2, asn: 65002}
  - {name: bird, address: 10.0.2.2, asn: 65003}
",
    );
    bird.established("ours");
    for name in ["frr", "bird"] {
        assert_eq!(daemon.established(name)["session"]["extended_messages"], true, "{name}");
    }
    let ours = daemon.until_path("10.3.0.0/24");
    assert_eq!(ours["large_communities"].as_array().unwrap().len(), MANY);
    eventually("all communities at FRR", LIMIT, || {
        let route = frr.route("10.3.0.0/24")?;
        let list = &route["paths"][0]["largeCommunity"]["list"];
        ensure!(list.as_array().is_some_and(|list| list.len() == MANY), "{route}");
        Ok(())
    });
}

/// FRR's OPEN has the long form of optional parameters (RFC 9072): we agree to it. FRR 8.4 then reads
/// every OPEN as a long one, so that it refuses ours, which is short enough for the other form.
#[test]
fn an_open_with_long_parameters() {
    let pair = Pair::new();
    let line = " neighbor 10.0.1.1 remote-as 65001\n";
    let long = format!("{line} neighbor 10.0.1.1 extended-optional-parameters\n");
    let _frr = Frr::start(&pair.peer, &pair::FRR.replace(line, &long));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    eventually("our KEEPALIVE for its OPEN", LIMIT, || {
        let counters = us.neighbor("peer")?["counters"].take();
        let of = |name: &str| counters[name].as_u64();
        ensure!(of("opens_received") > Some(0) && of("keepalives_sent") > Some(0), "{counters}");
        assert_eq!(of("notifications_sent"), Some(0), "{counters}");
        Ok(())
    });
}
