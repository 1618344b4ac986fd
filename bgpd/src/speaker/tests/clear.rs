//! What an operator asks for.

use super::*;
use crate::config::MaxPrefixes;

fn hard(message: &str) -> Clear {
    Clear::Hard { message: message.to_owned() }
}

/// Two speakers, each with a route of its own.
fn two(seed: u64) -> Network {
    let mut network = mesh(seed, &[65001, 65002]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/24", "fd00:1::/64"]));
    network.change(1, |c| c.networks = own(&["10.2.0.0/24", "fd00:2::/64"]));
    network.run_for(MINUTE);
    network
}

/// Why nothing was done to the only neighbor of node 0.
fn refused(network: &mut Network, how: &Clear) -> Option<String> {
    let mut cleared = network.clear(0, Some("n1"), how);
    assert_eq!((cleared.len(), &*cleared[0].neighbor), (1, "n1"));
    cleared.remove(0).refused
}

#[test]
fn a_session_that_is_cleared_comes_back_by_itself() {
    let mut network = two(1);
    assert_eq!(refused(&mut network, &hard("new optics")), None);
    assert!(!network.is_up(0, 1));
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1) && network.route(1, "10.1.0.0/24").is_some());
    let heard = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(heard.contains("Administrative Reset (6/4) \"new optics\""), "{heard}");
    assert_eq!(network.neighbor(0, 1).counters.established, 2);
}

/// It begins at once, however long it was to wait.
#[test]
fn a_neighbor_that_is_left_alone_is_tried_again() {
    let mut network = two(2);
    let max = MaxPrefixes::new(1);
    network.change(0, |c| c.peers[0].max_prefixes = Some(max));
    network.change(1, |c| c.networks = own(&["10.2.0.0/24", "10.3.0.0/24"]));
    network.run_for(100 * MINUTE);
    assert!(!network.is_up(0, 1));
    network.change(1, |c| c.networks = own(&["10.2.0.0/24"]));
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1));
    assert_eq!(refused(&mut network, &Clear::SoftIn).as_deref(), Some("it has no session"));
    assert_eq!(refused(&mut network, &Clear::SoftOut).as_deref(), Some("it has no session"));
    assert_eq!(refused(&mut network, &hard("")), None);
    network.run_for(Duration::from_secs(10));
    assert!(network.is_up(0, 1));
}

#[test]
fn what_is_shut_down_stays_so() {
    let mut network = two(3);
    network.change(0, |c| c.peers[0].shutdown = Some("gone".to_owned()));
    network.run_for(MINUTE);
    let why = refused(&mut network, &hard("")).unwrap();
    assert_eq!(why, "it is shut down by configuration");
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1));
}

#[test]
fn routes_are_asked_for_again_where_the_peer_can() {
    let mut network = two(4);
    let before = network.neighbor(1, 0).counters.updates_sent;
    assert_eq!(refused(&mut network, &Clear::SoftIn), None);
    network.run_for(Duration::from_secs(5));
    assert_eq!(network.neighbor(1, 0).counters.updates_sent, before + 2, "one of each family");
    let neighbor = network.core(0).neighbors.iter_mut().flatten().next().unwrap();
    neighbor.session.as_mut().unwrap().negotiated.route_refresh = false;
    let why = refused(&mut network, &Clear::SoftIn).unwrap();
    assert!(why.contains("route refresh (RFC 2918)"), "{why}");
    network.run_for(Duration::from_secs(5));
    assert_eq!(network.neighbor(1, 0).counters.updates_sent, before + 2, "it was not asked");
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
}

/// What the peer has lost, or has too much, is put right within the session.
#[test]
fn routes_are_sent_again_to_that_peer_only() {
    let mut network = mesh(5, &[65001, 65002, 65003]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/24", "fd00:1::/64"]));
    network.run_for(MINUTE);
    let sent = |network: &mut Network, to| network.neighbor(0, to).counters.updates_sent;
    let before = [sent(&mut network, 1), sent(&mut network, 2)];
    assert_eq!(refused(&mut network, &Clear::SoftOut), None);
    network.run_for(Duration::from_secs(5));
    assert_eq!([sent(&mut network, 1), sent(&mut network, 2)], [before[0] + 2, before[1]]);
    assert_eq!(network.core(0).status().update_groups, 2, "the groups are as before");
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
}

#[test]
fn all_are_cleared_or_nobody_is() {
    let mut network = mesh(6, &[65001, 65002, 65003]);
    network.run_for(MINUTE);
    assert_eq!(network.clear(0, Some("nobody"), &hard("")), []);
    assert!(network.is_up(0, 1) && network.is_up(0, 2));
    let cleared = network.clear(0, None, &hard(""));
    let names: Vec<&str> = cleared.iter().map(|one| &*one.neighbor).collect();
    assert_eq!(names, ["n1", "n2"]);
    assert!(!network.is_up(0, 1) && !network.is_up(0, 2));
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1) && network.is_up(0, 2));
}
