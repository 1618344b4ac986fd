//! Between ASes, against FRR: AS override, private AS numbers, local AS, confederations (RFC 5065),
//! roles (RFC 9234) and graceful shutdown (RFC 8326).

use anyhow::ensure;

use crate::kit::{Daemon, Frr, LIMIT, Lab, eventually};

/// Us, AS 65001, between one FRR of AS 64512 and one of AS 64512 or another.
fn between(one: &str, two: &str) -> String {
    format!(
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks: [{{prefix: 10.1.0.0/24}}]
peers:
  - {{name: one, address: 10.0.1.2, connect-retry-time: 1, {one}}}
  - {{name: two, address: 10.0.2.2, connect-retry-time: 1, {two}}}
"
    )
}

/// An FRR with a network of its own, 10.x.0.0/24, and us on link n.
fn frr(asn: u32, remote: u32, link: u8, network: u8, router: &str, neighbor: &str) -> String {
    let us = format!("10.0.{link}.1");
    format!(
        "
router bgp {asn}
 bgp router-id 10.255.0.{network}
{router}
 neighbor {us} remote-as {remote}
 neighbor {us} timers connect 1
 neighbor {us} advertisement-interval 0
{}
 address-family ipv4 unicast
  network 10.{network}.0.0/24
  neighbor {us} activate
 exit-address-family
",
        neighbor.replace("US", &us)
    )
}

/// Waits until FRR has a prefix with this path.
fn until(frr: &Frr<'_>, prefix: &str, path: &str) {
    eventually(&format!("{prefix} with {path:?}"), LIMIT, || {
        let route = frr.route(prefix)?;
        let found = &route["paths"][0]["aspath"]["string"];
        ensure!(found == path, "{found}");
        Ok(())
    });
}

#[test]
fn as_numbers_are_overridden_removed_and_replaced() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["one", "two"]);
    let _one = Frr::start(&one, &frr(64512, 65001, 1, 2, "", ""));
    let two = Frr::start(&two, &frr(64512, 65001, 2, 3, "", ""));
    let daemon = Daemon::start(&us, &between("asn: 64512", "asn: 64512, as-override: true"));
    daemon.established("one");
    daemon.established("two");
    until(&two, "10.2.0.0/24", "65001 65001");
    daemon.reload(&between("asn: 64512", "asn: 64512"));
    two.until_no_route("10.2.0.0/24");
    // The peer's own stays where private ones are removed: it refuses the route all the same.
    daemon.reload(&between("asn: 64512", "asn: 64512, remove-private-as: all"));
    until(&two, "10.1.0.0/24", "65001");
    assert!(two.route("10.2.0.0/24").is_err());
    let reset = &daemon.neighbor("two").unwrap()["counters"]["established"];
    assert_eq!(reset, 1);
}

#[test]
fn private_as_numbers_and_a_local_as() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["one", "two"]);
    let one = Frr::start(&one, &frr(64512, 3000, 1, 2, "", ""));
    let two = Frr::start(&two, &frr(4000, 65001, 2, 3, "", ""));
    let ours = |local: &str, private: &str| {
        let one = format!("asn: 64512, local-asn: 3000, local-as: {{{local}}}");
        between(&one, &format!("asn: 4000, remove-private-as: {private}"))
    };
    let daemon = Daemon::start(&us, &ours("", "off"));
    daemon.established("one");
    daemon.established("two");
    until(&two, "10.2.0.0/24", "65001 64512");
    until(&one, "10.3.0.0/24", "3000 4000");
    daemon.reload(&ours("no-prepend: false, replace-as: false", "all"));
    until(&two, "10.2.0.0/24", "65001 3000");
    until(&one, "10.3.0.0/24", "3000 65001 4000");
    daemon.reload(&ours("", "replace"));
    until(&two, "10.2.0.0/24", "65001 65001");
}

#[test]
fn a_confederation_with_frr_in_another_member() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["one", "two"]);
    let router = " bgp confederation identifier 1000\n bgp confederation peers 65001";
    let one = Frr::start(&one, &frr(65002, 65001, 1, 2, router, ""));
    let two = Frr::start(&two, &frr(4000, 1000, 2, 3, "", ""));
    let confederation = "confederation: {identifier: 1000, members: [65002]}";
    let yaml = between("asn: 65002", "asn: 4000");
    let daemon = Daemon::start(&us, &format!("{yaml}{confederation}\n"));
    let neighbor = daemon.established("one");
    assert_eq!(neighbor["peer_type"], "confederation", "{neighbor}");
    daemon.established("two");
    until(&two, "10.2.0.0/24", "1000");
    until(&one, "10.3.0.0/24", "(65001) 4000");
    until(&one, "10.1.0.0/24", "(65001)");
    let inside = daemon.until_path("10.2.0.0/24");
    assert_eq!(inside["as_path"], "(65002)", "{inside}");
    assert_eq!(inside["local_pref"], 100, "{inside}");
}

#[test]
fn roles_and_graceful_shutdown() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["one", "two"]);
    let provider = " neighbor US local-role provider strict-mode";
    let one = Frr::start(&one, &frr(3000, 65001, 1, 2, "", provider));
    let two = Frr::start(&two, &frr(4000, 65001, 2, 3, "", " neighbor US local-role peer"));
    let to_two = "asn: 4000, role: peer";
    let daemon = Daemon::start(&us, &between("asn: 3000", to_two));
    daemon.established("two");
    // It wants a role, and one that fits.
    for role in ["", ", role: provider"] {
        daemon.reload(&between(&format!("asn: 3000{role}"), to_two));
        eventually("a role mismatch", LIMIT, || {
            let neighbor = daemon.neighbor("one")?;
            let reason = neighbor["last_error"]["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("Role Mismatch"), "{neighbor}");
            Ok(())
        });
    }
    let customer = "asn: 3000, role: customer";
    daemon.reload(&between(customer, to_two));
    let neighbor = daemon.established("one");
    assert_eq!(neighbor["session"]["peer_role"], "provider", "{neighbor}");
    until(&two, "10.1.0.0/24", "65001");
    daemon.until_route("10.2.0.0/24");
    two.until_no_route("10.2.0.0/24");
    until(&one, "10.1.0.0/24", "65001");

    // FRR honours the community as it comes, for external peers.
    daemon.reload(&format!("{}graceful-shutdown: true\n", between(customer, to_two)));
    eventually("the last choice", LIMIT, || {
        let path = two.route("10.1.0.0/24")?["paths"][0].clone();
        ensure!(path["community"]["string"] == "graceful-shutdown", "{path}");
        ensure!(path["locPrf"] == 0, "{path}");
        Ok(())
    });
    // And we its own.
    daemon.reload(&between(customer, to_two));
    one.configure(&["router bgp 3000", "bgp graceful-shutdown"]);
    eventually("our last choice", LIMIT, || {
        let path = daemon.route("10.2.0.0/24")?["paths"][0].clone();
        ensure!(path["local_pref"] == 0, "{path}");
        Ok(())
    });
}
