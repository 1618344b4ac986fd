//! The advertisement interval (MinRouteAdvertisementIntervalTimer, RFC 4271 section 9.2.1.1).

use super::*;
use crate::speaker::Effect;

/// 0 announces to 1 at most every 30 seconds, to 2 at once.
fn paced(seed: u64) -> Network {
    let mut network = mesh(seed, &[65001, 65002, 65003]);
    for at in [1, 2] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n0"));
    }
    let report = network.change(0, |c| c.peers[0].advertisement_interval = 30);
    assert_eq!(report.changes[0].fields, ["advertisement-interval"]);
    assert_eq!(report.changes[0].effect, Effect::Live);
    network.run_for(MINUTE);
    network
}

fn announce(network: &mut Network, prefixes: &[&str]) {
    network.change(0, |c| c.networks = own(prefixes));
    network.run_for(Duration::from_secs(1));
}

#[test]
fn announcements_wait_for_the_interval_and_withdrawals_do_not() {
    let mut network = paced(1);
    announce(&mut network, &["10.1.0.0/26", "10.1.0.64/26", "fd00:1::/122"]);
    assert_eq!(network.routes(1).len(), 3, "the first burst goes out at once");
    announce(&mut network, &["10.1.0.0/26", "10.2.0.0/26", "10.3.0.0/26", "fd00:1::/122"]);
    assert_eq!(network.routes(2).len(), 4, "nobody else waits");
    assert!(network.route(1, "10.2.0.0/26").is_none(), "it waits");
    assert!(network.route(1, "10.1.0.64/26").is_none(), "a withdrawal does not");
    // Announced and gone again while it waits: nothing is said of it.
    announce(&mut network, &["10.1.0.0/26", "10.2.0.0/26", "fd00:1::/122"]);
    network.run_for(Duration::from_secs(26));
    assert!(network.route(1, "10.2.0.0/26").is_none());
    let updates = network.neighbor(0, 1).counters.updates_sent;
    network.run_for(Duration::from_secs(3));
    assert!(network.route(1, "10.2.0.0/26").is_some(), "the interval is over");
    assert_eq!(network.neighbor(0, 1).counters.updates_sent, updates + 1);
    assert!(network.route(1, "10.3.0.0/26").is_none());
    // Long after, there is nothing to wait for.
    network.run_for(MINUTE);
    announce(&mut network, &["10.4.0.0/26"]);
    assert!(network.route(1, "10.4.0.0/26").is_some());
    assert_eq!(network.routes(1).len(), 1);
}

#[test]
fn without_an_interval_there_is_no_timer_and_nothing_that_waited_waits_on() {
    let mut network = paced(2);
    announce(&mut network, &["10.1.0.0/26"]);
    announce(&mut network, &["10.1.0.0/26", "10.2.0.0/26"]);
    assert!(network.route(1, "10.2.0.0/26").is_none());
    assert!(network.core(0).groups.deadline().is_some());
    network.change(0, |c| c.peers[0].advertisement_interval = 0);
    network.run_for(Duration::from_secs(1));
    assert!(network.route(1, "10.2.0.0/26").is_some());
    announce(&mut network, &["10.3.0.0/26"]);
    assert!(network.route(1, "10.3.0.0/26").is_some());
    assert!(network.core(0).groups.deadline().is_none());
    assert_eq!(network.core(0).status().update_groups, 2, "one key, one group per family");
}

#[test]
fn all_routes_there_are_go_out_at_once_to_a_new_session() {
    let mut network = paced(3);
    let many: Vec<String> =
        (0..40_000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    network.change(0, |c| c.networks = own(&many));
    network.reset(0, 1);
    network.run_until(MINUTE, |n| n.is_up(1, 0) && n.neighbor(0, 1).families[0].end_of_rib_sent);
    network.run_for(Duration::from_secs(5));
    assert_eq!(network.neighbor(1, 0).families[0].received, many.len());
}

/// A member whose own route becomes the best one is told so at once: it would send packets to us
/// that we send back.
#[test]
fn the_source_of_a_route_is_told_at_once_that_it_is_used() {
    let mut network = mesh(4, &[65001, 65002, 65003]);
    for at in [1, 2] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n0"));
    }
    network.change(0, |c| c.peers.iter_mut().for_each(|p| p.advertisement_interval = 30));
    network.change(2, |c| c.networks = own(&["10.9.0.0/16"]));
    network.run_for(MINUTE);
    assert!(network.route(1, "10.9.0.0/16").is_some());
    announce(&mut network, &["10.1.0.0/26"]);
    assert!(network.core(0).groups.deadline().is_none(), "nothing waits");
    // 1 has the better one from here on: its BGP Identifier is lower.
    network.change(1, |c| c.networks = own(&["10.9.0.0/16"]));
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.used(0, "10.9.0.0/16")[0], "n1");
    let own = network.route(1, "10.9.0.0/16").unwrap();
    assert_eq!(own.paths.len(), 1, "withdrawn from its source: {own:?}");
}

#[test]
fn nothing_is_left_of_what_waited() {
    let mut network = paced(5);
    announce(&mut network, &["10.1.0.0/26"]);
    announce(&mut network, &["10.1.0.0/26", "10.2.0.0/26"]);
    announce(&mut network, &[]);
    assert_eq!(network.core(0).leftovers(), [0; 4]);
    announce(&mut network, &["10.3.0.0/26"]);
    network.reset(0, 1);
    announce(&mut network, &[]);
    network.run_for(2 * MINUTE);
    assert_eq!(network.core(0).leftovers(), [0; 4]);
}
