//! What BGP makes of what BFD says (RFC 5882, RFC 9384).

use std::num::NonZeroU32;

use super::*;
use crate::bfd::{Diagnostic, Key, State as BfdState, Status};
use crate::config::Bfd;
use crate::speaker::{DownReason, Effect};
use crate::wire::{cease, code};

const SECOND: Duration = Duration::from_secs(1);

/// The session of a node with another.
fn key(other: usize) -> Key {
    Key { peer: address(other), scope_id: 0, local: None, interface: None, multihop: false }
}

fn status(state: BfdState, failures: u64) -> Status {
    Status {
        state,
        remote_state: state,
        diagnostic: Diagnostic::NONE,
        remote_diagnostic: Diagnostic::NONE,
        local_discriminator: NonZeroU32::new(7).unwrap(),
        remote_discriminator: None,
        multihop: false,
        control_plane_independent: false,
        tx_interval: Duration::ZERO,
        rx_interval: Duration::ZERO,
        detection_time: Duration::ZERO,
        packets_received: 0,
        packets_sent: 0,
        packets_authenticated: 0,
        flaps: failures,
        failures,
        since: Duration::ZERO,
        error: None,
    }
}

/// A triangle in which 0 learns a prefix from 1 and 2 and watches over both.
fn watched(seed: u64, bfd: Bfd) -> Network {
    let mut network = mesh(seed, &[65001, 65002, 65003]);
    for at in 1..3 {
        network.change(at, |c| c.networks = own(&["10.9.0.0/16", &format!("10.{at}.0.0/16")]));
    }
    network.change(0, |c| c.peers.iter_mut().for_each(|p| p.bfd = Some(bfd)));
    network.run_for(MINUTE);
    network
}

/// The session with node 1 has come up, or has come down that often.
fn tell(network: &mut Network, state: BfdState, failures: u64) {
    network.bfd(0, &key(1), &status(state, failures));
}

#[test]
fn sessions_are_wanted_as_configured() {
    let mut network = watched(1, Bfd::default());
    let wanted = network.core(0).take_bfd_sessions().unwrap();
    assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [key(1), key(2)]);
    let params = wanted[&key(1)].params;
    assert_eq!((params.min_tx, params.min_rx, params.multiplier), (300_000, 300_000, 3));
    assert!(network.core(0).take_bfd_sessions().is_none(), "nothing has changed");
    let report = network.change(0, |c| {
        c.peers[0].bfd = Some(Bfd { min_tx: 50, min_rx: 60, multiplier: 5, ..Bfd::default() });
        c.peers[1].shutdown = Some(String::new());
    });
    let change = report.changes.iter().find(|c| c.object == "peer \"n1\"").unwrap();
    assert_eq!((&change.fields[..], change.effect), (&["bfd"][..], Effect::Live));
    let wanted = network.core(0).take_bfd_sessions().unwrap();
    assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [key(1)]);
    let params = wanted[&key(1)].params;
    assert_eq!((params.min_tx, params.min_rx, params.multiplier), (50_000, 60_000, 5));
    assert_eq!(network.neighbor(0, 1).counters.established, 1, "the session goes on");
    assert!(network.core(1).take_bfd_sessions().unwrap().is_empty(), "nobody asked for it");
}

#[test]
fn a_broken_path_ends_the_session_and_moves_the_routes_at_once() {
    let mut network = watched(2, Bfd::default());
    assert!(network.is_up(0, 1), "BGP does not wait for BFD");
    tell(&mut network, BfdState::Down, 0);
    tell(&mut network, BfdState::Up, 0);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
    network.set_link(0, 1, false);
    tell(&mut network, BfdState::Down, 1);
    // In the same instant, though both offer graceful restart.
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"]);
    assert!(
        network.route(0, "10.1.0.0/16").is_some_and(|r| r.paths[0].neighbor != Some("n1".into()))
    );
    let status = network.neighbor(0, 1);
    assert_ne!(status.state, State::Established);
    assert!(status.families.iter().all(|f| f.received == 0 && !f.stale));
    let DownReason::NotificationSent(sent) = status.last_down.unwrap().reason else { panic!() };
    assert_eq!((sent.code, sent.subcode), (code::CEASE, cease::BFD_DOWN));
    assert_eq!(status.bfd.unwrap().failures, 1);
    // It is tried again without waiting for BFD.
    network.set_link(0, 1, true);
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1));
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n1", "n2"]);
}

/// From BFD's word to the last octet for others there is no timer: no time passes here.
#[test]
fn others_are_told_in_the_same_turn() {
    let mut network = watched(9, Bfd::default());
    tell(&mut network, BfdState::Up, 0);
    let told = network.neighbor(0, 2).counters.updates_sent;
    let through_0 = |network: &mut Network| {
        let paths = network.route(2, "10.1.0.0/16").map_or_else(Vec::new, |r| r.paths);
        paths.iter().any(|p| p.neighbor.as_deref() == Some("n0"))
    };
    assert!(through_0(&mut network));
    let now = network.now;
    tell(&mut network, BfdState::Down, 1);
    assert_eq!(network.now, now);
    assert_eq!(network.used(0, "10.9.0.0/16"), ["n2"]);
    let next = network.route(0, "10.9.0.0/16").unwrap().next_hops;
    assert_eq!(next.iter().map(|hop| hop.addr).collect::<Vec<_>>(), [address(2)]);
    assert!(network.neighbor(0, 2).counters.updates_sent > told, "it waits for something");
    // As long as a segment is under way.
    network.run_for(network.latency);
    assert!(!through_0(&mut network));
}

#[test]
fn the_peer_is_told_why() {
    let mut network = watched(3, Bfd::default());
    tell(&mut network, BfdState::Up, 0);
    tell(&mut network, BfdState::Down, 1);
    network.run_for(SECOND / 4);
    let heard = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(heard.contains("BFD Down"), "{heard}");
    assert!(network.route(1, "10.2.0.0/16").unwrap().paths.iter().all(|p| !p.stale));
}

#[test]
fn what_is_no_failure_of_the_path_ends_nothing() {
    let mut network = watched(4, Bfd::default());
    tell(&mut network, BfdState::Up, 0);
    let lost = Status { flaps: 1, ..status(BfdState::Down, 0) };
    let by_operator = Status { remote_state: BfdState::AdminDown, ..lost.clone() };
    network.bfd(0, &key(1), &by_operator);
    tell(&mut network, BfdState::Up, 0);
    network.bfd(0, &key(1), &lost);
    // Nor is the end of BFD by our own configuration, nor the first word of another session.
    network.change(0, |c| c.peers[0].bfd = None);
    tell(&mut network, BfdState::Down, 5);
    network.change(0, |c| c.peers[0].bfd = Some(Bfd::default()));
    let other = NonZeroU32::new(8).unwrap();
    network.bfd(0, &key(1), &Status { local_discriminator: other, ..status(BfdState::Down, 0) });
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
    assert!(network.is_up(0, 1));
}

/// News that were too fast for the core come as the last of them; the count shows the others.
#[test]
fn a_failure_that_is_over_already_is_not_missed() {
    let mut network = watched(5, Bfd::default());
    tell(&mut network, BfdState::Up, 0);
    tell(&mut network, BfdState::Up, 1);
    assert!(!network.is_up(0, 1));
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(0, 1).counters.established, 2);
}

/// RFC 5882 section 4.3: whether what is kept over a restart is kept when BFD fails as well.
#[test]
fn a_restart_goes_on_unless_the_peers_bfd_is_independent_of_it() {
    for independent in [false, true] {
        let mut network = watched(6, Bfd::default());
        let of = |state, failures| Status {
            control_plane_independent: independent,
            ..status(state, failures)
        };
        network.bfd(0, &key(1), &of(BfdState::Up, 0));
        network.kill(1);
        network.run_for(SECOND);
        let stale = |network: &mut Network| {
            network.route(0, "10.1.0.0/16").is_some_and(|r| {
                r.paths.iter().any(|p| p.stale && p.neighbor.as_deref() == Some("n1"))
            })
        };
        assert!(stale(&mut network), "the connection has closed: it restarts");
        network.bfd(0, &key(1), &of(BfdState::Down, 1));
        network.run_for(SECOND);
        assert_eq!(stale(&mut network), !independent);
        network.start(1, true);
        network.run_for(MINUTE);
        assert!(network.is_up(0, 1) && !stale(&mut network));
        assert!(network.used(0, "10.1.0.0/16").contains(&"n1".to_owned()));
    }
}

fn strict(hold_down: u16) -> Bfd {
    Bfd { strict: true, hold_down, ..Bfd::default() }
}

#[test]
fn in_strict_mode_bgp_waits_for_bfd_whoever_connects() {
    let mut network = mesh(7, &[65001, 65002]);
    network.change(0, |c| c.peers[0].bfd = Some(strict(0)));
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1), "what is up stays up");
    network.reset(0, 1);
    network.run_for(10 * MINUTE);
    assert!(!network.is_up(0, 1), "neither side's attempts succeed");
    assert!(network.neighbor(0, 1).waits_for_bfd);
    tell(&mut network, BfdState::Down, 0);
    tell(&mut network, BfdState::Init, 0);
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1));
    tell(&mut network, BfdState::Up, 0);
    network.run_for(SECOND);
    assert!(network.is_up(0, 1) && !network.neighbor(0, 1).waits_for_bfd);

    tell(&mut network, BfdState::Down, 1);
    network.run_for(10 * MINUTE);
    assert!(!network.is_up(0, 1));
    tell(&mut network, BfdState::Up, 1);
    network.run_for(SECOND);
    assert!(network.is_up(0, 1));
    // Attempts are ended, too.
    network.set_link(0, 1, false);
    network.reset(0, 1);
    network.run_for(5 * SECOND);
    assert_ne!(network.neighbor(0, 1).state, State::Idle);
    tell(&mut network, BfdState::Down, 2);
    assert_eq!(network.neighbor(0, 1).state, State::Idle);
    network.set_link(0, 1, true);
    // Turned off by the peer's operator: BGP goes on as without it (RFC 5882 section 3.2).
    let off = Status { remote_state: BfdState::AdminDown, ..status(BfdState::Down, 2) };
    network.bfd(0, &key(1), &off);
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1));
}

#[test]
fn without_strict_mode_what_waited_begins() {
    let mut network = mesh(8, &[65001, 65002]);
    network.change(0, |c| c.peers[0].bfd = Some(strict(0)));
    network.reset(0, 1);
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1));
    network.change(0, |c| c.peers[0].bfd = Some(Bfd::default()));
    network.run_for(SECOND);
    assert!(network.is_up(0, 1));
}

#[test]
fn a_path_that_comes_and_goes_is_left_alone() {
    let mut network = mesh(9, &[65001, 65002]);
    network.change(0, |c| c.peers[0].bfd = Some(strict(20)));
    network.reset(0, 1);
    network.run_for(MINUTE);
    for failures in 0..10 {
        tell(&mut network, BfdState::Up, failures);
        network.run_for(15 * SECOND);
        tell(&mut network, BfdState::Down, failures + 1);
        network.run_for(5 * SECOND);
    }
    assert_eq!(network.neighbor(0, 1).counters.established, 0);
    tell(&mut network, BfdState::Up, 10);
    network.run_for(19 * SECOND);
    assert!(!network.is_up(0, 1));
    network.run_for(2 * SECOND);
    assert!(network.is_up(0, 1));
    // The status says since when, as it says all else.
    let bfd = network.neighbor(0, 1).bfd.unwrap();
    assert_eq!((bfd.state, bfd.since), (BfdState::Up, 21 * SECOND));
}
