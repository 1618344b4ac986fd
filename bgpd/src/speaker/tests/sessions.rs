//! Sessions: coming up, colliding, being lost.

use super::*;
use crate::wire::{Notification, cease};

#[test]
fn two_speakers_exchange_routes_of_both_families() {
    let mut network = mesh(1, &[65001, 65002]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/26", "fd00:1::/122"]));
    network.change(1, |c| c.networks = own(&["10.2.0.0/26", "fd00:2::/122"]));
    network.run_for(MINUTE);
    let route = network.route(0, "10.2.0.0/26").unwrap();
    assert_eq!(route.paths[0].attributes.as_path, "65002");
    assert_eq!(route.next_hops[0].addr, address(1));
    assert_eq!(network.route(0, "fd00:2::/122").unwrap().next_hops[0].addr, address_v6(1));
    assert!(network.route(0, "10.1.0.0/26").unwrap().next_hops.is_empty(), "our own");
    let status = network.neighbor(0, 1);
    for family in &status.families {
        assert_eq!((family.received, family.accepted, family.advertised), (1, 1, 1));
        assert!(family.end_of_rib_received && family.end_of_rib_sent);
    }
    assert!(network.core(0).status().progress.converged);
}

#[test]
fn however_they_connect_one_connection_stays_and_no_session_is_lost() {
    let mut collisions = 0;
    for seed in 0..200 {
        for asns in [[65001, 65002], [65001, 65001]] {
            let mut network = mesh(seed, &asns);
            network.latency = Duration::from_millis(1 + seed % 400);
            network.run_for(MINUTE);
            for (a, b) in [(0, 1), (1, 0)] {
                let status = network.neighbor(a, b);
                assert_eq!(status.state, State::Established, "seed {seed}");
                assert_eq!(status.counters.established, 1, "seed {seed}: {:?}", status.last_down);
                // Nothing else was wrong.
                collisions += status.counters.notifications_sent;
            }
            assert_eq!(network.connections(0, 1), 1, "seed {seed}");
        }
    }
    assert!(collisions > 100, "they hardly ever collided: {collisions}");
}

/// A connection whose OPEN waits is read no further, and keeps only what a peer may say by then.
#[test]
fn what_is_held_is_bounded() {
    let mut network = mesh(11, &[65001, 65002]);
    network.run_for(MINUTE);
    let now = network.now;
    let core = network.core(0);
    let neighbor = core.neighbors.iter_mut().flatten().next().unwrap();
    let direction = neighbor.session.as_ref().unwrap().direction;
    neighbor.slot(direction).held = true;
    let conn = neighbor.slot(direction).conn.unwrap();
    core.received(now, conn, &[0xff; 4000]);
    assert!(core.connections.contains_key(&conn));
    core.received(now, conn, &[0xff; 5000]);
    assert!(!core.connections.contains_key(&conn));
    assert!(core.neighbors.iter_mut().flatten().all(|n| n.slot(direction).received.is_empty()));
}

#[test]
fn a_passive_side_is_connected_to() {
    let mut network = mesh(3, &[65001, 65002]);
    network.change(0, |c| c.peers[0].passive = true);
    network.reset(0, 1);
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1));
    network.change(1, |c| c.peers[0].passive = true);
    network.reset(0, 1);
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1), "nobody connects");
    assert_eq!(network.neighbor(0, 1).state, State::Idle);
}

#[test]
fn a_silent_peer_is_dead_after_the_hold_time() {
    let mut network = mesh(4, &[65001, 65002]);
    for at in 0..2 {
        network.change(at, |c| c.peers[0].hold_time = 9);
    }
    network.change(1, |c| c.networks = own(&["10.2.0.0/26"]));
    network.reset(0, 1);
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(0, 1).session.unwrap().keepalive_time, 3);
    network.set_link(0, 1, false);
    network.run_for(Duration::from_secs(5));
    assert!(network.is_up(0, 1));
    network.run_for(Duration::from_secs(5));
    let status = network.neighbor(0, 1);
    assert_ne!(status.state, State::Established);
    let reason = status.last_down.unwrap().reason.to_string();
    assert!(reason.contains("Hold Timer Expired"), "{reason}");
    assert!(network.route(0, "10.2.0.0/26").is_none());
    network.set_link(0, 1, true);
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1) && network.route(0, "10.2.0.0/26").is_some());
}

#[test]
fn without_a_hold_time_nothing_expires() {
    let mut network = mesh(5, &[65001, 65002]);
    network.change(0, |c| c.peers[0].hold_time = 0);
    network.reset(0, 1);
    network.run_for(MINUTE);
    let messages = network.neighbor(0, 1).counters.messages_received;
    network.run_for(100 * MINUTE);
    assert!(network.is_up(0, 1));
    assert_eq!(network.neighbor(0, 1).counters.messages_received, messages);
}

#[test]
fn a_wrong_as_is_refused_and_named_and_tried_ever_less_often() {
    let mut network = mesh(6, &[65001, 65002]);
    network.change(0, |c| c.peers[0].asn = 65009.into());
    network.run_for(10 * MINUTE);
    let status = network.neighbor(0, 1);
    assert!(status.last_down.is_none(), "it never was up");
    let down = status.last_error.unwrap();
    assert!(down.reason.to_string().contains("Bad Peer AS"), "{}", down.reason);
    let first = status.counters.notifications_sent;
    network.run_for(10 * MINUTE);
    let then = network.neighbor(0, 1).counters.notifications_sent - first;
    // Both sides try at most every 22 to 30 seconds by now.
    assert!((10..=60).contains(&then), "{then} attempts in ten minutes");
}

#[test]
fn the_last_word_reaches_the_peer() {
    let mut network = mesh(7, &[65001, 65002]);
    network.run_for(MINUTE);
    let n = Notification::communication(cease::ADMIN_SHUTDOWN, "upgrade", "");
    network.stop(0, Some(&n));
    network.run_for(Duration::from_secs(1));
    let reason = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(reason.contains("Administrative Shutdown") && reason.contains("upgrade"), "{reason}");
}

#[test]
fn a_peer_that_reads_nothing_holds_up_nobody_and_is_told_the_latest_state() {
    let updates = told_of_six_rounds(true);
    assert!(updates < 6 * 4000, "not all that happened is queued: {updates}");
    // The control: a peer that reads is told all of it.
    assert!(told_of_six_rounds(false) >= 6 * 4000);
}

/// How many UPDATEs a peer is sent while 4000 routes change six times.
fn told_of_six_rounds(stuck: bool) -> u64 {
    let mut network = mesh(8, &[65001, 65002, 65003]);
    network.run_for(MINUTE);
    assert_eq!(network.core(0).status().update_groups, 2, "two peers share each family's group");
    network.set_stuck(2, stuck);
    // Long attributes, so that a megabyte is soon queued.
    for round in 0..6_u32 {
        network.change(0, |c| {
            c.networks = (0..4000_u32)
                .map(|n| {
                    let mut own = OwnNetwork::new(net(&format!("10.{}.{}.0/24", n / 250, n % 250)));
                    own.large_communities =
                        (0..60).map(|k| crate::wire::LargeCommunity([n, round, k])).collect();
                    own
                })
                .collect();
        });
        network.run_for(Duration::from_secs(5));
        let route = network.route(1, "10.3.7.0/24").unwrap();
        assert_eq!(route.paths.iter().filter(|p| p.best).count(), 1);
        let parts = route.paths[0].attributes.large_communities[0].0;
        assert_eq!(parts[1], round, "the other peer is up to date");
    }
    let apart = network.core(0).status().update_groups > 2;
    assert_eq!(apart, stuck, "the stuck one, and nobody else, has a group of its own");
    let updates = network.neighbor(0, 2).counters.updates_sent;
    network.set_stuck(2, false);
    network.run_for(MINUTE);
    assert_eq!(network.core(0).status().update_groups, 2, "together again");
    let query = RouteQuery { neighbor: Some("n0".into()), ..RouteQuery::default() };
    let routes = network.core(2).routes(&query);
    assert_eq!(routes.len(), 4000);
    for route in routes {
        let path = route.paths.iter().find(|p| p.neighbor.as_deref() == Some("n0")).unwrap();
        assert_eq!(path.attributes.large_communities[0].0[1], 5);
    }
    updates
}
