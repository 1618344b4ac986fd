//! Route refresh (RFC 2918) and its enhanced form (RFC 7313).

use super::*;
use crate::wire::{Family, RouteRefresh};

/// 1 has of 0 what 0 announces, and one route more: as after an UPDATE that was lost.
fn diverged(seed: u64) -> Network {
    let mut network = mesh(seed, &[65001, 65002]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/26", "fd00:1::/122"]));
    network.run_for(MINUTE);
    // 10.99.0.0/16, origin IGP, AS path 65001, next hop node 0.
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 192, 0, 0, 1];
    let update = [&[0xff; 16][..], &[0, 46, 2, 0, 0, 0, 20], &attributes, &[16, 10, 99]].concat();
    said(&mut network, &update);
    assert!(network.route(1, "10.99.0.0/16").is_some());
    network
}

/// Node 1 hears this from node 0.
fn said(network: &mut Network, octets: &[u8]) {
    let now = network.now;
    let conn = network.core(1).connections_of("n0")[0];
    network.core(1).received(now, conn, octets);
    network.run_for(Duration::from_millis(1));
}

fn demarcation(what: RouteRefresh) -> Vec<u8> {
    let mut out = Vec::new();
    what.encode(Family::Ipv4Unicast, &mut out);
    out
}

/// Node 1 asks node 0 for its routes.
fn ask(network: &mut Network) {
    network.change(1, |c| c.peers[0].enforce_first_as ^= true);
    network.run_for(Duration::from_secs(5));
}

fn is_stale(network: &mut Network, prefix: &str) -> bool {
    network.route(1, prefix).unwrap().paths[0].stale
}

fn session(network: &mut Network, at: usize) -> &mut crate::speaker::neighbor::Session {
    let mut neighbors = network.core(at).neighbors.iter_mut().flatten();
    neighbors.next().unwrap().session.as_mut().unwrap()
}

#[test]
fn what_a_refresh_does_not_bring_is_gone() {
    let mut network = diverged(1);
    assert!(network.neighbor(1, 0).session.unwrap().enhanced_route_refresh);
    let updates = network.neighbor(0, 1).counters.updates_sent;
    ask(&mut network);
    assert_eq!(network.neighbor(0, 1).counters.updates_sent, updates + 2, "told again");
    assert!(network.route(1, "10.99.0.0/16").is_none());
    for prefix in ["10.1.0.0/26", "fd00:1::/122"] {
        assert!(!is_stale(&mut network, prefix));
    }
    assert!(network.neighbor(1, 0).families.iter().all(|f| !f.refreshing));
    assert_eq!(network.core(0).status().update_groups, 2, "the groups are as before");
    assert_eq!(network.neighbor(1, 0).counters.established, 1);
}

#[test]
fn a_peer_without_the_capability_is_told_again_without_demarcation() {
    let mut network = diverged(2);
    session(&mut network, 0).negotiated.enhanced_refresh = false;
    let messages = network.neighbor(0, 1).counters.messages_sent;
    ask(&mut network);
    assert_eq!(network.neighbor(0, 1).counters.messages_sent, messages + 2, "the UPDATEs");
    assert!(network.route(1, "10.99.0.0/16").is_some(), "nothing says that it is gone");
}

#[test]
fn between_beginning_and_end_nothing_is_lost() {
    let mut network = diverged(3);
    let updates = network.neighbor(1, 0).counters.updates_sent;
    said(&mut network, &demarcation(RouteRefresh::Begin));
    assert!(is_stale(&mut network, "10.1.0.0/26"), "not sent again yet");
    assert!(!is_stale(&mut network, "fd00:1::/122"), "the other family");
    assert!(network.neighbor(1, 0).families[0].refreshing);
    assert_eq!(network.used(1, "10.1.0.0/26"), ["n0"], "used all the same");
    // It begins anew, ends, and ends once more.
    said(&mut network, &demarcation(RouteRefresh::Begin));
    network.change(0, |c| c.networks[0].med = Some(7));
    network.run_for(Duration::from_secs(1));
    assert!(!is_stale(&mut network, "10.1.0.0/26"));
    said(&mut network, &demarcation(RouteRefresh::End));
    assert!(network.route(1, "10.99.0.0/16").is_none());
    said(&mut network, &demarcation(RouteRefresh::End));
    assert!(network.route(1, "10.1.0.0/26").is_some(), "an end without a beginning");
    assert_eq!(network.neighbor(1, 0).counters.updates_sent, updates);
}

#[test]
fn a_refresh_that_does_not_end_is_ended() {
    let mut network = diverged(4);
    network.change(1, |c| c.graceful_restart.stale_path_time = 30);
    said(&mut network, &demarcation(RouteRefresh::Begin));
    network.run_for(Duration::from_secs(29));
    assert!(network.route(1, "10.99.0.0/16").is_some());
    network.run_for(Duration::from_secs(2));
    assert!(network.routes(1).iter().all(|r| r.prefix.addr().is_ipv6()), "IPv4 is gone");
    assert!(network.is_up(1, 0));
}

#[test]
fn before_the_first_end_of_rib_no_refresh_begins() {
    let mut network = diverged(5);
    session(&mut network, 1).received_end = Default::default();
    said(&mut network, &demarcation(RouteRefresh::Begin));
    assert!(!is_stale(&mut network, "10.1.0.0/26"));
    said(&mut network, &demarcation(RouteRefresh::End));
    assert!(network.route(1, "10.1.0.0/26").is_some());
}

#[test]
fn a_session_lost_during_a_refresh_keeps_all_routes_over_the_restart() {
    let mut network = diverged(6);
    said(&mut network, &demarcation(RouteRefresh::Begin));
    network.kill(0);
    network.run_for(Duration::from_secs(5));
    assert!(is_stale(&mut network, "10.1.0.0/26") && is_stale(&mut network, "fd00:1::/122"));
    network.start(0, true);
    network.run_for(MINUTE);
    assert!(!is_stale(&mut network, "10.1.0.0/26"));
    assert!(network.route(1, "10.99.0.0/16").is_none(), "gone with End-of-RIB");
}

#[test]
fn a_demarcation_of_a_wrong_length_ends_the_session_and_an_unknown_subtype_does_not() {
    let mut network = diverged(7);
    let refresh = |body: &[u8]| {
        let len = u8::try_from(19 + body.len()).unwrap();
        [&[0xff; 16][..], &[0, len, 5], body].concat()
    };
    said(&mut network, &refresh(&[0, 1, 3, 1]));
    said(&mut network, &refresh(&[0, 25, 1, 65]));
    assert!(network.is_up(1, 0));
    said(&mut network, &refresh(&[0, 1, 1, 1, 0]));
    let reason = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(reason.contains("(7/1)"), "{reason}");
}
