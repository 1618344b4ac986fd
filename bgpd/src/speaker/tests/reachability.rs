//! Whether next hops can be reached, and at what cost (RFC 4271 section 9.1.2).

use std::collections::BTreeMap;

use super::*;
use crate::speaker::{Reason, Resolution};

/// 0 has 10.9.0.0/16 from 1 and 2, and two more prefixes from 1 alone.
fn two_ways(seed: u64) -> Network {
    let mut network = mesh(seed, &[65001, 65002, 65003, 65004]);
    network.change(3, |c| c.peers.retain(|p| p.name == "n0"));
    for at in [1, 2] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n0"));
    }
    network.change(1, |c| c.networks = own(&["10.1.0.0/26", "10.9.0.0/16", "fd00:1::/122"]));
    network.change(2, |c| c.networks = own(&["10.9.0.0/16"]));
    network.run_for(MINUTE);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
    network
}

fn resolve(network: &mut Network, known: &[(usize, Resolution)]) -> usize {
    let known: BTreeMap<_, _> = known.iter().map(|(at, it)| (address(*at), *it)).collect();
    let decided = network.core(0).resolve(known);
    network.change(0, |_| {});
    network.run_for(Duration::from_secs(1));
    decided
}

fn reasons(network: &mut Network, prefix: &str) -> Vec<(String, Reason)> {
    let paths = network.route(0, prefix).unwrap().paths.into_iter();
    paths.map(|p| (p.neighbor.unwrap(), p.reason)).collect()
}

#[test]
fn what_cannot_be_reached_is_not_used_nor_told() {
    let mut network = two_ways(1);
    let fib = network.core(0).subscribe(std::sync::Arc::default());
    assert_eq!(network.core(0).take_deltas(fib, 100).unwrap().deltas.len(), 3);
    assert_eq!(resolve(&mut network, &[(1, Resolution::Unreachable)]), 2, "those it concerns");
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"]);
    assert!(
        reasons(&mut network, "10.9.0.0/16").contains(&("n1".into(), Reason::NextHopUnreachable))
    );
    assert_eq!(reasons(&mut network, "10.1.0.0/26"), [("n1".into(), Reason::NextHopUnreachable)]);
    assert!(network.used(0, "10.1.0.0/26").is_empty());
    assert!(network.route(3, "10.1.0.0/26").is_none(), "withdrawn");
    assert!(network.route(3, "fd00:1::/122").is_some(), "of another next hop");
    let deltas = network.core(0).take_deltas(fib, 100).unwrap().deltas;
    let hops: Vec<_> = deltas.iter().map(|d| (d.prefix.to_string(), d.next_hops.len())).collect();
    assert_eq!(deltas.len(), 2, "{hops:?}");
    assert!(hops.contains(&("10.1.0.0/26".into(), 0)) && hops.contains(&("10.9.0.0/16".into(), 1)));
    let explained = network.core(0).explain(net("10.1.0.0/26"), true).unwrap();
    assert_eq!(explained.paths[0].step.source, "RFC 4271 9.1.2.1");

    // New routes are judged by the same.
    network.change(1, |c| c.networks.extend(own(&["10.1.0.64/26"])));
    network.run_for(Duration::from_secs(1));
    assert!(network.used(0, "10.1.0.64/26").is_empty());
    assert_eq!(resolve(&mut network, &[(1, Resolution::Unreachable)]), 0, "nothing new");
    assert_eq!(resolve(&mut network, &[]), 3);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
    assert!(
        network.route(3, "10.1.0.0/26").is_some() && network.route(3, "10.1.0.64/26").is_some()
    );
}

#[test]
fn the_nearer_next_hop_goes_first_and_equally_near_ones_together() {
    let mut network = two_ways(2);
    let near = |a, b| [(1, Resolution::Metric(a)), (2, Resolution::Metric(b))];
    resolve(&mut network, &near(20, 10));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"]);
    assert!(reasons(&mut network, "10.9.0.0/16").iter().all(|(_, r)| *r == Reason::IgpCost));
    resolve(&mut network, &near(10, 10));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
    // It comes after what the routes say of themselves.
    network.change(2, |c| c.networks[0].med = Some(0));
    resolve(&mut network, &near(5, 50));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1"]);
    // The largest cost is not unreachable.
    resolve(&mut network, &near(u32::MAX, u32::MAX));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
    resolve(&mut network, &[(1, Resolution::Metric(1))]);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"], "cost 0 where nothing is known");
}

#[test]
fn our_own_networks_need_no_way() {
    let mut network = two_ways(3);
    network.change(0, |c| {
        c.networks = own(&["10.0.0.0/26"]);
        c.networks[0].next_hop = Some(address(1));
    });
    resolve(&mut network, &[(1, Resolution::Unreachable)]);
    assert!(network.route(0, "10.0.0.0/26").unwrap().paths[0].best);
    assert!(network.route(3, "10.0.0.0/26").is_some());
}

#[test]
fn what_is_known_outlives_all_routes_and_holds_nothing() {
    let mut network = two_ways(4);
    resolve(&mut network, &[(1, Resolution::Unreachable)]);
    for at in [1, 2] {
        network.change(at, |c| c.networks.clear());
    }
    network.run_for(MINUTE);
    assert_eq!(network.core(0).leftovers(), [0; 4]);
    network.change(1, |c| c.networks = own(&["10.1.0.0/26"]));
    network.run_for(Duration::from_secs(1));
    assert!(network.used(0, "10.1.0.0/26").is_empty());
}
