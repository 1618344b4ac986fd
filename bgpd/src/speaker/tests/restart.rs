//! Graceful restart (RFC 4724), on both sides.

use super::*;

/// A line: 0 learns from 1 what 2 announces.
fn line(seed: u64) -> Network {
    let mut network = mesh(seed, &[65001, 65002, 65003]);
    network.change(0, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| c.networks = own(&["10.2.0.0/26", "10.2.0.64/26", "fd00:2::/122"]));
    network.run_for(MINUTE);
    assert!(network.route(0, "10.2.0.0/26").is_some());
    network
}

#[test]
fn routes_are_kept_while_a_peer_restarts_and_nobody_else_notices() {
    let mut network = line(1);
    let updates = network.neighbor(0, 1).counters.updates_received;
    network.kill(2);
    network.run_for(Duration::from_secs(30));
    let status = network.neighbor(1, 2);
    assert_ne!(status.state, State::Established);
    assert!(status.families.iter().all(|f| f.stale));
    assert!(network.route(1, "10.2.0.0/26").unwrap().paths[0].stale);
    network.start(2, true);
    network.run_for(MINUTE);
    let route = network.route(1, "10.2.0.0/26").unwrap();
    assert!(!route.paths[0].stale, "announced again");
    assert_eq!(network.neighbor(0, 1).counters.updates_received, updates, "not a word");
}

#[test]
fn what_a_restarted_peer_has_no_more_goes_with_its_end_of_rib() {
    let mut network = line(2);
    network.kill(2);
    network.nodes[2].config.networks = own(&["10.2.0.64/26"]);
    network.run_for(Duration::from_secs(5));
    assert!(network.route(0, "10.2.0.0/26").is_some());
    network.start(2, true);
    network.run_for(MINUTE);
    assert!(network.route(0, "10.2.0.0/26").is_none());
    assert!(network.route(0, "fd00:2::/122").is_none());
    assert!(network.route(0, "10.2.0.64/26").is_some());
}

#[test]
fn a_peer_that_lost_its_forwarding_state_lost_its_routes() {
    let mut network = line(3);
    network.kill(2);
    network.nodes[2].config.networks = Vec::new();
    network.run_for(Duration::from_secs(1));
    assert!(network.route(1, "10.2.0.0/26").is_some());
    // It starts anew, without the F bit; its End-of-RIB must not be what removes the routes.
    network.start(2, false);
    network.run_until(MINUTE, |n| n.is_up(1, 2));
    assert!(network.route(1, "10.2.0.0/26").is_none());
}

#[test]
fn a_peer_that_does_not_come_back_is_given_up_after_its_restart_time() {
    let mut network = line(4);
    network.change(2, |c| c.graceful_restart.restart_time = 20);
    network.reset(1, 2);
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(1, 2).session.unwrap().restart_time, Some(20));
    network.kill(2);
    network.run_for(Duration::from_secs(19));
    assert!(network.route(0, "10.2.0.0/26").is_some());
    network.run_for(Duration::from_secs(2));
    assert!(network.route(0, "10.2.0.0/26").is_none());
    assert!(network.routes(1).is_empty());
}

#[test]
fn a_notification_is_no_restart() {
    let mut network = line(5);
    let n = crate::wire::Notification::cease(crate::wire::cease::ADMIN_SHUTDOWN, "");
    network.stop(2, Some(&n));
    network.run_for(Duration::from_secs(1));
    assert!(network.routes(1).is_empty() && network.routes(0).is_empty());
}

/// A peer that goes by the letter of RFC 4271 section 6.8 may close a connection that is a session
/// here already.
#[test]
fn the_end_of_a_collision_takes_no_routes() {
    let mut network = line(9);
    let n = crate::wire::Notification::cease(crate::wire::cease::COLLISION, "");
    network.stop(2, Some(&n));
    network.run_for(Duration::from_secs(1));
    let kept = |network: &mut Network| network.route(1, "10.2.0.0/26").unwrap().paths[0].stale;
    assert!(kept(&mut network) && network.route(0, "10.2.0.0/26").is_some());
    network.start(2, true);
    network.run_for(MINUTE);
    assert!(!kept(&mut network), "announced again");
}

/// A line whose sessions between 1 and 2 are kept over a NOTIFICATION if both want it.
fn line_with_notification(seed: u64, wanted: [bool; 2]) -> Network {
    let mut network = line(seed);
    network.change(1, |c| c.graceful_restart.notification = wanted[0]);
    network.change(2, |c| c.graceful_restart.notification = wanted[1]);
    network.reset(1, 2);
    network.run_for(MINUTE);
    let agreed = network.neighbor(1, 2).session.unwrap().restart_notification;
    assert_eq!(agreed, wanted == [true; 2]);
    network
}

/// RFC 8538: what comes of a session that ends with a NOTIFICATION, whoever sends it.
#[test]
fn routes_are_kept_over_a_notification_where_both_want_it() {
    use crate::wire::{Notification, cease};
    let lasting =
        [cease::MAX_PREFIXES, cease::ADMIN_SHUTDOWN, cease::PEER_DECONFIGURED, cease::BFD_DOWN];
    let passing = [cease::ADMIN_RESET, cease::CONFIG_CHANGE, cease::OUT_OF_RESOURCES];
    for (wanted, subcode, kept) in passing
        .into_iter()
        .map(|code| ([true; 2], code, true))
        .chain(lasting.into_iter().map(|code| ([true; 2], code, false)))
        .chain([[true, false], [false, true], [false, false]].map(|w| (w, passing[0], false)))
    {
        for sender in [1, 2] {
            let mut network = line_with_notification(20, wanted);
            let updates = network.neighbor(0, 1).counters.updates_received;
            let (now, other) = (network.now, 3 - sender);
            let peer = network.core(sender).neighbors.iter().flatten();
            let name = format!("n{other}");
            let peer = peer.into_iter().find(|n| n.config.name == name).unwrap().id;
            network.core(sender).stop(now, peer, Some(&Notification::cease(subcode, "test")));
            network.change(sender, |_| {});
            network.run_for(Duration::from_millis(100));
            let case = format!("{wanted:?}, Cease/{subcode} sent by {sender}");
            let route = network.route(1, "10.2.0.0/26");
            assert_eq!(route.is_some(), kept, "{case}");
            let reason = network.neighbor(other, sender).last_down.unwrap().reason.to_string();
            let hard = wanted == [true; 2] && lasting.contains(&subcode);
            assert_eq!(reason.contains("Hard Reset"), hard, "{case}: {reason}");
            network.run_for(MINUTE);
            assert!(network.is_up(1, 2), "{case}");
            assert!(!network.route(1, "10.2.0.0/26").unwrap().paths[0].stale, "{case}");
            let news = network.neighbor(0, 1).counters.updates_received - updates;
            assert_eq!(news == 0, kept, "{case}: what a third speaker heard of it");
        }
    }
}

#[test]
fn a_hard_reset_says_what_it_stands_for() {
    let mut network = line_with_notification(21, [true; 2]);
    network.change(2, |c| c.peers[0].shutdown = Some("upgrade".into()));
    network.run_for(Duration::from_secs(1));
    let reason = network.neighbor(1, 2).last_down.unwrap().reason.to_string();
    assert!(
        reason.contains("Hard Reset") && reason.contains("Administrative Shutdown"),
        "{reason}"
    );
    assert!(reason.contains("upgrade"), "{reason}");
    assert!(network.routes(1).is_empty());
}

#[test]
fn the_hold_timer_keeps_routes_only_where_both_want_it() {
    for (wanted, kept) in [([true; 2], true), ([false; 2], false)] {
        let mut network = line_with_notification(22, wanted);
        network.set_link(1, 2, false);
        network.run_for(2 * MINUTE);
        assert!(!network.is_up(1, 2));
        assert_eq!(network.route(0, "10.2.0.0/26").is_some(), kept);
        network.run_for(3 * MINUTE);
        assert!(network.route(0, "10.2.0.0/26").is_none(), "the restart time is over");
    }
}

/// The same process that told the routes is still there, and has undone nothing: the F bit says so.
#[test]
fn a_connection_that_breaks_costs_no_route() {
    let mut network = line(23);
    let updates = network.neighbor(0, 1).counters.updates_received;
    for _ in 0..3 {
        network.reset(1, 2);
        network.run_for(MINUTE);
        assert!(network.is_up(1, 2));
        assert!(!network.route(1, "10.2.0.0/26").unwrap().paths[0].stale);
    }
    assert_eq!(network.neighbor(0, 1).counters.updates_received, updates, "not a word");
}

#[test]
fn without_graceful_restart_nothing_is_kept() {
    let mut network = line(6);
    network.change(1, |c| c.graceful_restart.enabled = false);
    network.reset(1, 2);
    network.run_for(MINUTE);
    network.kill(2);
    network.run_for(Duration::from_secs(1));
    assert!(network.routes(1).is_empty());
}

#[test]
fn a_second_loss_does_not_keep_what_the_first_left_stale() {
    let mut network = line(7);
    network.kill(2);
    network.nodes[2].config.networks = own(&["10.2.0.64/26"]);
    network.run_for(Duration::from_secs(1));
    network.start(2, true);
    // Up again, but gone before its End-of-RIB: it waits for the other side's, which is late.
    network.run_until(MINUTE, |n| n.is_up(1, 2));
    network.kill(2);
    network.run_for(Duration::from_secs(2));
    assert!(network.route(1, "10.2.0.0/26").is_none());
}

#[test]
fn a_restarted_speaker_selects_only_once_it_has_heard_everybody() {
    let mut network = mesh(8, &[65001, 65002, 65003]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/26"]));
    network.change(1, |c| c.networks = own(&["10.9.0.0/16"]));
    network.change(2, |c| c.networks = own(&["10.9.0.0/16"]));
    network.run_for(MINUTE);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"], "equal cost");
    network.kill(0);
    network.set_link(0, 2, false);
    network.start(0, true);
    network.run_for(Duration::from_secs(30));
    assert!(network.is_up(0, 1) && !network.is_up(0, 2));
    let progress = network.core(0).status().progress;
    assert!(progress.restarting && !progress.selecting && !progress.converged);
    assert!(network.used(0, "10.9.0.0/16").is_empty());
    assert_eq!(advertised::said(&mut network, 0, "10.1.0.0/26", 1), "deferred");
    let fib = network.core(0).subscribe(std::sync::Arc::default());
    let batch = network.core(0).take_deltas(fib, 100).unwrap();
    assert!(batch.deltas.is_empty() && !batch.converged, "nothing to delete by yet");
    assert!(network.route(1, "10.1.0.0/26").unwrap().paths[0].stale, "kept over there");
    network.set_link(0, 2, true);
    network.run_for(Duration::from_secs(29));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
    let batch = network.core(0).take_deltas(fib, 100).unwrap();
    assert_eq!(batch.deltas.len(), 1);
    assert!(batch.converged);
    assert!(!network.route(1, "10.1.0.0/26").unwrap().paths[0].stale, "announced again");
}

#[test]
fn a_restarted_speaker_waits_no_longer_than_the_deferral_time() {
    let mut network = mesh(9, &[65001, 65002, 65003]);
    network.change(1, |c| c.networks = own(&["10.9.0.0/16"]));
    // Never connected to, so nothing is known about it.
    network.change(0, |c| c.peers[1].passive = true);
    network.run_for(MINUTE);
    network.kill(0);
    network.kill(2);
    network.start(0, true);
    network.run_for(Duration::from_secs(59));
    assert!(network.used(0, "10.9.0.0/16").is_empty());
    network.run_for(Duration::from_secs(2));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1"]);
    assert!(network.core(0).status().progress.converged);
}

#[test]
fn a_restarted_speaker_does_not_wait_for_a_peer_that_is_away() {
    let mut network = mesh(14, &[65001, 65002, 65003]);
    network.change(1, |c| c.networks = own(&["10.9.0.0/16"]));
    network.run_for(MINUTE);
    network.kill(0);
    network.kill(2);
    network.start(0, true);
    network.run_for(Duration::from_secs(9));
    assert!(network.is_up(0, 1));
    assert!(network.used(0, "10.9.0.0/16").is_empty(), "it may be replaced just now");
    network.run_for(Duration::from_secs(21));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1"]);
    assert!(network.core(0).status().progress.converged);
}

#[test]
fn a_restarted_speaker_that_reaches_nobody_waits() {
    let mut network = mesh(15, &[65001, 65002, 65003]);
    network.run_for(MINUTE);
    (0..3).for_each(|at| network.kill(at));
    network.start(0, true);
    network.run_for(Duration::from_secs(59));
    assert!(!network.core(0).status().progress.converged);
    network.run_for(Duration::from_secs(2));
    assert!(network.core(0).status().progress.converged);
}

#[test]
fn speakers_that_restart_together_do_not_wait_for_each_other() {
    let mut network = mesh(10, &[65001, 65001, 65001]);
    for at in 0..3 {
        network.change(at, |c| c.networks = own(&[&format!("10.{at}.0.0/26")]));
    }
    network.run_for(MINUTE);
    for at in 0..3 {
        network.kill(at);
    }
    for at in 0..3 {
        network.start(at, true);
    }
    network.run_for(Duration::from_secs(10));
    for at in 0..3 {
        assert!(network.core(at).status().progress.converged);
        assert_eq!(network.routes(at).len(), 3);
    }
}

/// As with a router that says for its first minutes that it restarts: what the kernel still has
/// from before must not be taken for gone before that router has told its routes.
#[test]
fn convergence_waits_for_the_routes_of_one_that_restarts_as_well() {
    let mut network = mesh(16, &[65001, 65002]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    for at in 0..2 {
        network.kill(at);
    }
    for at in 0..2 {
        network.start(at, true);
    }
    network.run_until(MINUTE, |n| n.nodes[0].core.as_ref().unwrap().status().progress.converged);
    assert_eq!(network.used(0, "10.2.0.0/26"), ["n1"]);
}

/// The peer's kernel has lost the connection without telling ours (a power cut, say): the peer's
/// new connection is what tells, whoever opened the old one.
#[test]
fn a_peer_that_connects_anew_has_restarted() {
    for passive in [1, 2] {
        let mut network = line(11);
        network.change(passive, |c| {
            let peer = if passive == 1 { "n2" } else { "n1" };
            c.peers.iter_mut().find(|p| p.name == peer).unwrap().passive = true;
        });
        network.reset(1, 2);
        network.run_for(MINUTE);
        network.set_link(1, 2, false);
        network.kill(2);
        // Its new connection must come before what is left of the old one.
        network.nodes[2].config.networks = own(&["10.2.0.0/26"]);
        network.nodes[2].config.peers[0].passive = false;
        network.start(2, true);
        network.set_link(1, 2, true);
        let updates = network.neighbor(0, 1).counters.updates_received;
        let established = network.neighbor(1, 2).counters.established;
        network.run_for(MINUTE);
        let status = network.neighbor(1, 2);
        assert_eq!(status.state, State::Established);
        assert_eq!(status.counters.established, established + 1);
        assert_eq!(network.connections(1, 2), 1);
        assert!(network.route(0, "10.2.0.0/26").is_some());
        assert!(network.route(0, "10.2.0.64/26").is_none());
        let news = network.neighbor(0, 1).counters.updates_received - updates;
        assert!(news <= 2, "only what is gone is withdrawn, each family once: {news}");
    }
}

/// The second connection of a peer that has a session, by what comes over it.
#[test]
fn a_second_connection_changes_nothing_before_it_is_a_session() {
    let keepalive = [&[0xff; 16][..], &[0, 19, 4]].concat();
    for passive in [0, 1] {
        let mut network = mesh(12, &[65001, 65002]);
        network.change(passive, |c| c.peers[0].passive = true);
        network.change(1, |c| c.networks = own(&["10.2.0.0/26"]));
        network.reset(0, 1);
        network.run_for(10 * MINUTE);
        let before = network.neighbor(0, 1);
        let remote = (address(1), 50000).into();
        let local = (address(0), 179).into();
        for said in [&[][..], &[0; 64], &keepalive, &[0xff; 7]] {
            let (now, since) = (network.now, network.neighbor(0, 1).since);
            let (silent, _) = network.core(0).accepted(now, remote, local, None).unwrap();
            let (conn, _) = network.core(0).accepted(now, remote, local, None).unwrap();
            assert!(network.core(0).outgoing(silent).is_none(), "at most one waits");
            network.core(0).received(now, conn, said);
            network.run_for(Duration::from_secs(300));
            assert!(network.core(0).outgoing(conn).is_none(), "nor does it wait for ever");
            let after = network.neighbor(0, 1);
            assert_eq!(after.state, State::Established);
            assert_eq!(after.counters.established, before.counters.established);
            assert_eq!(after.since, since + Duration::from_secs(300), "{said:?}");
            assert!(!network.route(0, "10.2.0.0/26").unwrap().paths[0].stale);
        }
        assert_eq!(network.connections(0, 1), 1);
        // Keepalives and routes still go over the connection that stayed.
        network.change(1, |c| c.networks = own(&["10.2.0.64/26"]));
        network.run_for(MINUTE);
        assert!(network.route(0, "10.2.0.64/26").is_some());
        // The session that was moved aside still ends and comes back as any other.
        network.reset(0, 1);
        network.run_for(MINUTE);
        assert_eq!(network.neighbor(0, 1).counters.established, before.counters.established + 1);
    }
}

#[test]
fn beside_a_session_without_graceful_restart_no_connection_is_taken() {
    let mut network = mesh(13, &[65001, 65002]);
    network.change(1, |c| c.graceful_restart.enabled = false);
    network.reset(0, 1);
    network.run_for(MINUTE);
    let now = network.now;
    let remote = (address(1), 50000).into();
    assert!(network.core(0).accepted(now, remote, (address(0), 179).into(), None).is_none());
    assert!(network.is_up(0, 1));
}

#[test]
fn how_long_our_routes_would_be_kept_is_known() {
    let mut network = mesh(10, &[65001, 65002, 65003]);
    assert_eq!(network.core(0).status().restart_window, 0, "nobody is up");
    network.change(0, |c| c.peers[1].restart_time = Some(300));
    network.run_for(MINUTE);
    assert_eq!(network.core(0).status().restart_window, 300);
    assert_eq!(network.core(1).status().restart_window, 120);
    network.kill(2);
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.core(0).status().restart_window, 120, "of those that are up");
    for at in [0, 1] {
        network.change(at, |c| c.long_lived_graceful_restart.enabled = true);
    }
    network.reset(0, 1);
    network.run_for(MINUTE);
    assert_eq!(network.core(0).status().restart_window, 120 + 86400);
    // One without graceful restart keeps nothing, nor is one asked to that we do not offer it.
    network.change(1, |c| {
        c.long_lived_graceful_restart.enabled = false;
        c.graceful_restart.enabled = false;
    });
    network.reset(0, 1);
    network.run_for(MINUTE);
    assert_eq!(network.core(0).status().restart_window, 0);
    assert_eq!(network.core(1).status().restart_window, 0);
}
