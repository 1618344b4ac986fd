//! Routes announced only once the kernel has them.

use super::*;
use crate::speaker::FibBatch;

/// 1 between 0 and 2; what it learns it announces once its consumer has acknowledged it.
fn line(seed: u64) -> (Network, u64) {
    let mut network = mesh(seed, &[65001, 65002, 65003]);
    for at in [0, 2] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n1"));
    }
    network.change(1, |c| c.advertise_after_install = true);
    network.run_for(MINUTE);
    let fib = network.core(1).subscribe(std::sync::Arc::default());
    (network, fib)
}

fn announce(network: &mut Network, at: usize, prefixes: &[&str]) {
    network.change(at, |c| c.networks = own(prefixes));
    network.run_for(Duration::from_secs(1));
}

fn take(network: &mut Network, fib: u64) -> FibBatch {
    network.core(1).take_deltas(fib, 100).unwrap()
}

fn acknowledge(network: &mut Network, fib: u64, sequence: u64) {
    network.core(1).acknowledge(fib, sequence);
    network.change(1, |_| {});
    network.run_for(Duration::from_secs(1));
}

fn is_told(network: &mut Network, prefix: &str) -> bool {
    network.route(2, prefix).is_some()
}

#[test]
fn what_the_kernel_has_not_is_not_announced() {
    let (mut network, fib) = line(1);
    announce(&mut network, 0, &["10.1.0.0/26", "fd00:1::/122"]);
    assert_eq!(network.routes(1).len(), 2);
    assert!(network.routes(2).is_empty(), "not taken");
    let first = take(&mut network, fib);
    assert_eq!(first.deltas.len(), 2);
    announce(&mut network, 0, &["10.1.0.0/26", "10.1.0.64/26", "fd00:1::/122"]);
    assert!(network.routes(2).is_empty(), "taken, not acknowledged");
    acknowledge(&mut network, fib, first.sequence);
    assert!(is_told(&mut network, "10.1.0.0/26") && is_told(&mut network, "fd00:1::/122"));
    assert!(!is_told(&mut network, "10.1.0.64/26"), "came after the batch");
    let second = take(&mut network, fib);
    acknowledge(&mut network, fib, second.sequence);
    assert!(is_told(&mut network, "10.1.0.64/26"));
    // Our own networks need no route in the kernel.
    announce(&mut network, 1, &["10.8.0.0/26"]);
    assert!(is_told(&mut network, "10.8.0.0/26"));
}

#[test]
fn withdrawals_do_not_wait() {
    let (mut network, fib) = line(2);
    announce(&mut network, 0, &["10.1.0.0/26", "10.1.0.64/26"]);
    let batch = take(&mut network, fib);
    acknowledge(&mut network, fib, batch.sequence);
    assert!(is_told(&mut network, "10.1.0.0/26"));
    announce(&mut network, 0, &["10.1.0.64/26"]);
    assert!(!is_told(&mut network, "10.1.0.0/26"), "at once");
    // Back before the consumer looked: the kernel may have neither.
    announce(&mut network, 0, &["10.1.0.0/26", "10.1.0.64/26"]);
    assert!(!is_told(&mut network, "10.1.0.0/26"));
    let batch = take(&mut network, fib);
    acknowledge(&mut network, fib, batch.sequence);
    assert!(is_told(&mut network, "10.1.0.0/26"));
    // Never taken, and gone: nothing is left of it.
    announce(&mut network, 0, &["10.1.0.128/26"]);
    announce(&mut network, 0, &[]);
    take(&mut network, fib);
    assert_eq!(network.core(1).leftovers(), [0; 4]);
    assert_eq!(network.core(1).fib.awaited(), 0);
}

#[test]
fn a_change_that_overtakes_its_acknowledgement_waits_for_its_own() {
    let (mut network, fib) = line(3);
    announce(&mut network, 0, &["10.1.0.0/26"]);
    let batch = take(&mut network, fib);
    // Other next hops before the acknowledgement: that one is for what was before.
    network.change(2, |c| c.networks = own(&["10.1.0.0/26"]));
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.used(1, "10.1.0.0/26"), ["n0", "n2"]);
    let told = |network: &mut Network| {
        let route = network.route(2, "10.1.0.0/26").unwrap();
        route.paths.iter().any(|p| p.neighbor.is_some())
    };
    acknowledge(&mut network, fib, batch.sequence);
    assert!(!told(&mut network));
    let batch = take(&mut network, fib);
    acknowledge(&mut network, fib, batch.sequence);
    assert!(told(&mut network));
}

#[test]
fn all_consumers_must_have_it_and_one_that_is_gone_need_not() {
    let (mut network, first) = line(4);
    let second = network.core(1).subscribe(std::sync::Arc::default());
    announce(&mut network, 0, &["10.1.0.0/26"]);
    let batch = take(&mut network, first);
    acknowledge(&mut network, first, batch.sequence);
    assert!(!is_told(&mut network, "10.1.0.0/26"), "the other one has not");
    network.core(1).unsubscribe(second);
    network.change(1, |_| {});
    network.run_for(Duration::from_secs(1));
    assert!(is_told(&mut network, "10.1.0.0/26"));
    network.core(1).unsubscribe(first);
    announce(&mut network, 0, &["10.1.0.0/26", "10.1.0.64/26"]);
    assert!(is_told(&mut network, "10.1.0.64/26"), "nobody to wait for");
}

#[test]
fn the_option_comes_and_goes() {
    let (mut network, fib) = line(5);
    announce(&mut network, 0, &["10.1.0.0/26"]);
    assert!(!is_told(&mut network, "10.1.0.0/26"));
    let report = network.change(1, |c| c.advertise_after_install = false);
    assert_eq!(report.changes[0].fields, ["advertise-after-install"]);
    network.run_for(Duration::from_secs(1));
    assert!(is_told(&mut network, "10.1.0.0/26"));
    network.change(1, |c| c.advertise_after_install = true);
    announce(&mut network, 0, &["10.1.0.0/26", "10.1.0.64/26"]);
    assert!(is_told(&mut network, "10.1.0.0/26") && !is_told(&mut network, "10.1.0.64/26"));
    let batch = take(&mut network, fib);
    acknowledge(&mut network, fib, batch.sequence);
    assert!(is_told(&mut network, "10.1.0.64/26"));
}

/// End-of-RIB says that all was told: a peer of a speaker that restarts would drop the rest.
#[test]
fn end_of_rib_waits_too() {
    let (mut network, _fib) = line(6);
    announce(&mut network, 0, &["10.1.0.0/26"]);
    network.reset(1, 2);
    network.run_for(MINUTE);
    assert!(network.is_up(1, 2));
    assert!(!network.neighbor(1, 2).families[0].end_of_rib_sent);
    assert!(network.neighbor(1, 2).families[1].end_of_rib_sent);
    network.change(1, |c| c.advertise_after_install = false);
    network.run_for(Duration::from_secs(1));
    assert!(network.neighbor(1, 2).families[0].end_of_rib_sent);
}

/// However often a prefix changes for a consumer that acknowledges nothing, little is kept of it.
#[test]
fn a_consumer_that_never_acknowledges_is_bounded() {
    let mut it = crate::speaker::installed::Unconfirmed::default();
    let mut network = mesh(7, &[65001]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/26"]));
    let dest = network.core(0).rib.v4.iter().next().unwrap().0;
    for sequence in 0..100_000 {
        it.mark(crate::wire::Family::Ipv4Unicast, dest);
        it.taken(crate::wire::Family::Ipv4Unicast, dest, sequence);
    }
    assert!(it.queued() <= 1100, "{}", it.queued());
}
