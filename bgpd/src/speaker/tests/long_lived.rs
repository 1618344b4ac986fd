//! Long-lived graceful restart (RFC 9494), on both sides.

use super::*;
use crate::config::LongLivedGracefulRestart;
use crate::policy::{Action, Policy, Rule};
use crate::speaker::Reason;
use crate::wire::Community;

const RESTART: Duration = Duration::from_secs(20);

/// A line: 0 learns from 1 what 2 announces. Those of `enabled` know the mechanism.
fn line(seed: u64, enabled: &[usize]) -> Network {
    let mut network = mesh(seed, &[65001, 65002, 65003]);
    for at in 0..3 {
        network.change(at, |c| {
            let enabled = enabled.contains(&at);
            c.long_lived_graceful_restart = LongLivedGracefulRestart { enabled, stale_time: 600 };
            c.graceful_restart.restart_time = 20;
        });
    }
    network.change(0, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| {
        c.networks = own(&["10.2.0.0/26", "10.2.0.64/26", "fd00:2::/122"]);
        c.networks[1].communities = vec![Community::NO_LLGR];
    });
    for other in [0, 2] {
        network.reset(1, other);
    }
    network.run_for(MINUTE);
    assert!(network.route(0, "10.2.0.0/26").is_some());
    network
}

fn is_marked(network: &mut Network, at: usize, prefix: &str) -> bool {
    let route = network.route(at, prefix).unwrap();
    route.paths[0].attributes.communities.contains(&Community::LLGR_STALE)
}

#[test]
fn routes_outlive_the_restart_time_marked_and_for_a_time() {
    let mut network = line(1, &[0, 1, 2]);
    let agreed = network.neighbor(1, 2).families;
    assert!(agreed.iter().all(|f| f.long_lived_time == Some(600)));
    network.kill(2);
    network.run_for(RESTART - Duration::from_secs(1));
    assert!(
        !is_marked(&mut network, 1, "10.2.0.0/26")
            && !network.neighbor(1, 2).families[0].long_lived
    );
    network.run_for(Duration::from_secs(2));
    for at in [0, 1] {
        assert!(is_marked(&mut network, at, "10.2.0.0/26"), "node {at}");
        assert!(is_marked(&mut network, at, "fd00:2::/122"), "node {at}");
        assert!(network.route(at, "10.2.0.64/26").is_none(), "NO_LLGR: node {at}");
        assert!(!network.used(at, "10.2.0.0/26").is_empty(), "there is no other: node {at}");
    }
    let status = network.neighbor(1, 2);
    assert!(status.families.iter().all(|f| f.long_lived && f.stale));
    assert_eq!(status.families.iter().map(|f| f.accepted).sum::<usize>(), 2);
    network.run_for(Duration::from_secs(590));
    assert!(network.route(0, "10.2.0.0/26").is_some());
    network.run_for(Duration::from_secs(15));
    assert!(network.routes(0).is_empty() && network.routes(1).is_empty());
    assert_eq!(network.core(1).leftovers(), [0; 4]);
}

#[test]
fn a_peer_that_comes_back_announces_them_unmarked() {
    let mut network = line(2, &[0, 1, 2]);
    network.kill(2);
    network.run_for(2 * RESTART);
    network.nodes[2].config.networks = own(&["10.2.0.0/26"]);
    network.start(2, true);
    network.run_until(MINUTE, |n| n.is_up(1, 2));
    assert!(is_marked(&mut network, 1, "fd00:2::/122"), "kept until End-of-RIB");
    network.run_for(MINUTE);
    for at in [0, 1] {
        assert!(!is_marked(&mut network, at, "10.2.0.0/26"));
        assert!(network.route(at, "fd00:2::/122").is_none());
    }
    assert!(network.neighbor(1, 2).families.iter().all(|f| !f.stale && !f.long_lived));
    // What is left of the timers does nothing.
    network.run_for(20 * MINUTE);
    assert!(network.route(0, "10.2.0.0/26").is_some());
}

#[test]
fn a_peer_that_lost_its_forwarding_state_lost_them() {
    let mut network = line(3, &[0, 1, 2]);
    network.kill(2);
    network.run_for(2 * RESTART);
    network.nodes[2].config.networks = Vec::new();
    network.start(2, false);
    network.run_until(MINUTE, |n| n.is_up(1, 2));
    assert!(network.route(1, "10.2.0.0/26").is_none());
}

#[test]
fn nobody_else_is_told() {
    // 0 does not know the mechanism.
    let mut network = line(4, &[1, 2]);
    network.kill(2);
    network.run_for(RESTART - Duration::from_secs(1));
    assert!(network.route(0, "10.2.0.0/26").is_some(), "an ordinary restart");
    network.run_for(Duration::from_secs(2));
    assert!(is_marked(&mut network, 1, "10.2.0.0/26"));
    assert!(network.route(0, "10.2.0.0/26").is_none(), "withdrawn");
    assert_eq!(network.neighbor(1, 0).families[0].advertised, 0);
    let why = advertised::said(&mut network, 1, "10.2.0.0/26", 0);
    assert_eq!(why, "long-lived-stale");
    network.start(2, true);
    network.run_for(MINUTE);
    assert!(network.route(0, "10.2.0.0/26").is_some());
}

/// Either side that does not know it: an ordinary restart, which ends.
#[test]
fn both_must_offer_it() {
    for enabled in [&[1][..], &[2], &[]] {
        let mut network = line(5, enabled);
        network.kill(2);
        network.run_for(RESTART + Duration::from_secs(1));
        assert!(network.routes(1).is_empty(), "{enabled:?}");
    }
}

#[test]
fn the_shorter_of_both_times_holds() {
    let mut network = line(6, &[0, 1, 2]);
    network.change(1, |c| c.long_lived_graceful_restart.stale_time = 60);
    network.reset(1, 2);
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(1, 2).families[0].long_lived_time, Some(60));
    network.kill(2);
    network.run_for(RESTART + Duration::from_secs(58));
    assert!(network.route(1, "10.2.0.0/26").is_some());
    network.run_for(Duration::from_secs(4));
    assert!(network.route(1, "10.2.0.0/26").is_none());
}

#[test]
fn they_are_used_last() {
    let mut network = mesh(7, &[65001, 65002, 65003]);
    for at in 0..3 {
        network.change(at, |c| {
            c.long_lived_graceful_restart.enabled = true;
            c.graceful_restart.restart_time = 20;
            c.peers.retain(|p| at == 0 || p.name == "n0");
        });
    }
    // 2 announces the better path, by far.
    network.change(1, |c| {
        c.networks = own(&["10.9.0.0/16"]);
        let prepend = Rule {
            set: crate::policy::Changes { prepend_as_path: vec![65002; 5], ..Default::default() },
            ..Rule::default()
        };
        c.peers[0].export = Some(Policy { rules: vec![prepend], default: Action::Accept });
    });
    network.change(2, |c| c.networks = own(&["10.9.0.0/16"]));
    for at in [1, 2] {
        network.reset(0, at);
    }
    network.run_for(MINUTE);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"]);
    network.kill(2);
    network.run_for(RESTART - Duration::from_secs(1));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"], "an ordinary restart changes nothing");
    network.run_for(Duration::from_secs(2));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1"]);
    let paths = network.route(0, "10.9.0.0/16").unwrap().paths;
    assert!(paths.iter().all(|p| p.reason == Reason::LongLivedStale), "{paths:?}");
    network.set_link(0, 1, false);
    network.change(0, |c| {
        c.peers.iter_mut().find(|p| p.name == "n1").unwrap().shutdown = Some(String::new());
    });
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"], "better than nothing");
}

#[test]
fn a_policy_sees_the_mark() {
    let mut network = line(8, &[0, 1, 2]);
    let refuse = Rule {
        communities: vec![Community::LLGR_STALE],
        action: Action::Reject,
        ..Rule::default()
    };
    network.change(1, |c| {
        let peer = c.peers.iter_mut().find(|p| p.name == "n2").unwrap();
        peer.import = Some(Policy { rules: vec![refuse], default: Action::Accept });
    });
    network.kill(2);
    network.run_for(2 * RESTART);
    let route = network.route(1, "10.2.0.0/26").unwrap();
    assert_eq!(route.paths[0].reason, Reason::ImportPolicy);
    assert!(network.route(0, "10.2.0.0/26").is_none());
    // Judged anew, they still are marked.
    network.change(1, |c| c.peers.iter_mut().for_each(|p| p.import = None));
    network.run_for(Duration::from_secs(1));
    assert!(is_marked(&mut network, 0, "10.2.0.0/26"));
}

#[test]
fn an_end_with_a_reason_is_no_restart() {
    let mut network = line(9, &[0, 1, 2]);
    let n = crate::wire::Notification::cease(crate::wire::cease::ADMIN_SHUTDOWN, "");
    network.stop(2, Some(&n));
    network.run_for(Duration::from_secs(1));
    assert!(network.routes(1).is_empty());
}
