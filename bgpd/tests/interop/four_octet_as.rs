//! Four-octet AS numbers (RFC 6793), and peers that know only two.

use crate::kit::{Bird, Daemon, Frr, LIMIT, Pair, eventually, pair};

/// Us with an AS number that does not fit into two octets.
fn large() -> String {
    pair::ours("").replace("asn: 65001", "asn: 4200000001")
}

#[test]
fn both_large() {
    let pair = Pair::new();
    let frr = Frr::start(
        &pair.peer,
        &pair::FRR
            .replace("router bgp 65002", "router bgp 4200000002")
            .replace("65001", "4200000001"),
    );
    let us = Daemon::start(&pair.us, &large().replace("65002", "4200000002"));
    us.established("peer");
    assert_eq!(us.until_path("10.2.0.0/24")["as_path"], "4200000002");
    assert_eq!(frr.until_path("10.1.0.0/24")["aspath"]["string"], "4200000001");
}

/// BIRD without the capability: a path that holds larger numbers is whole all the same, in both
/// directions (AS4_PATH).
#[test]
fn bird_with_two_octets() {
    let pair = Pair::new();
    let prepends = "export filter { bgp_path.prepend(4200000003); accept; }";
    let config = pair::bird("enable as4 off;").replacen(
        "import all; export all",
        &format!("import all; {prepends}"),
        1,
    );
    let bird = Bird::start(&pair.peer, &config);
    let prepend = "export: {rules: [{action: accept, set: {prepend-as-path: [4200000001]}}]}";
    let us = Daemon::start(&pair.us, &pair::ours(prepend));
    let neighbor = us.established("peer");
    assert_eq!(neighbor["session"]["four_octet_as"], false);
    let at_bird = bird.until_route("10.1.0.0/24");
    assert!(at_bird.contains("BGP.as_path: 65001 4200000001\n"), "{at_bird}");
    assert_eq!(us.until_path("10.2.0.0/24")["as_path"], "65002 4200000003");
}

/// FRR that says nothing of capabilities at all: two octets, and IPv4 only.
#[test]
fn frr_without_capabilities() {
    let pair = Pair::new();
    let section = "router bgp 65002\n neighbor 10.0.1.1 dont-capability-negotiate\n";
    let frr = Frr::start(&pair.peer, &[pair::FRR, section].concat());
    let us = Daemon::start(&pair.us, &pair::ours("passive: true"));
    let session = &us.established("peer")["session"];
    assert_eq!(session["four_octet_as"], false);
    assert_eq!(session["route_refresh"], false);
    us.until_route("10.2.0.0/24");
    eventually("FRR's route", LIMIT, || frr.route("10.1.0.0/24"));
    let neighbor = us.neighbor("peer").unwrap();
    let of = |family: &str| {
        let all = neighbor["families"].as_array().unwrap();
        all.iter().find(|f| f["family"] == family).unwrap()["negotiated"].clone()
    };
    assert_eq!(of("ipv4-unicast"), true);
    assert_eq!(of("ipv6-unicast"), false);
}
