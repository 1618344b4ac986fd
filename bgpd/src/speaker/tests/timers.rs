//! How long timers run, and what becomes of a peer that takes nothing in.

use super::*;
use crate::rib::PeerId;
use crate::session::{Direction, Timer};
use crate::speaker::DownReason;
use crate::wire::code;

const SECOND: Duration = Duration::from_secs(1);

/// How long a timer of a node's session with its first peer runs, started again and again.
fn durations(network: &mut Network, timer: Timer) -> Vec<Duration> {
    let now = network.now;
    let core = network.core(0);
    let direction = match timer {
        // Whoever accepts does not connect.
        Timer::ConnectRetry => Direction::Outgoing,
        _ => core.neighbors[1].as_ref().unwrap().session.as_ref().unwrap().direction,
    };
    let peer: PeerId = core.neighbors[1].as_ref().unwrap().id;
    let mut all = Vec::new();
    for _ in 0..1000 {
        core.start_timer(now, peer, direction, timer);
        let at = core.neighbors[1].as_mut().unwrap().slot(direction).timer(timer).at;
        all.push(at.unwrap() - now);
    }
    all
}

/// RFC 4271 section 10: with a factor of 0.75 to 1, anew each time.
#[test]
fn connect_retry_and_keepalive_are_jittered_and_what_judges_the_peer_is_not() {
    let mut network = mesh(1, &[65001, 65002]);
    network.change(0, |c| c.peers[0].connect_retry_time = 100);
    network.run_for(MINUTE);
    let session = network.neighbor(0, 1).session.unwrap();
    for (timer, whole) in [
        (Timer::ConnectRetry, 100 * SECOND),
        (Timer::Keepalive, SECOND * u32::from(session.keepalive_time)),
    ] {
        let all = durations(&mut network, timer);
        let (least, most) = (*all.iter().min().unwrap(), *all.iter().max().unwrap());
        assert!(least >= whole * 75 / 100 && most <= whole, "{timer:?}: {least:?} to {most:?}");
        // All of the range, and no two neighbors in step.
        assert!(least < whole * 77 / 100 && most > whole * 98 / 100, "{timer:?}");
        let repeated = all.windows(2).filter(|two| two[0] == two[1]).count();
        assert!(repeated < 50, "{timer:?}: {repeated} times the same again");
    }
    let hold = SECOND * u32::from(session.hold_time);
    for (timer, whole) in [(Timer::Hold, hold), (Timer::SendHold, 480 * SECOND)] {
        assert!(durations(&mut network, timer).iter().all(|d| *d == whole), "{timer:?}");
    }
}

/// Two speakers of which the second reads nothing any more, but lives: its own hold timer never ends
/// the session. The first has more to say than fits in the window.
fn deaf_peer(seed: u64) -> Network {
    let mut network = mesh(seed, &[65001, 65002]);
    network.change(1, |c| c.networks = own(&["10.200.0.0/16"]));
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1) && network.route(0, "10.200.0.0/16").is_some());
    network.window = 4096;
    network.set_stuck(1, true);
    without_hold_timer(&mut network);
    network.change(0, |c| {
        c.networks = (0..1000_u32)
            .map(|n| {
                let mut own = OwnNetwork::new(net(&format!("10.{}.{}.0/24", n / 250, n % 250)));
                own.large_communities =
                    (0..60).map(|k| crate::wire::LargeCommunity([n, 0, k])).collect();
                own
            })
            .collect();
    });
    network
}

fn without_hold_timer(network: &mut Network) {
    let neighbor = network.core(1).neighbors[1].as_mut().unwrap();
    for direction in [Direction::Incoming, Direction::Outgoing] {
        neighbor.slot(direction).timer(Timer::Hold).at = None;
    }
}

#[test]
fn the_send_hold_time_may_be_another_or_none() {
    let mut network = deaf_peer(5);
    network.change(0, |c| c.peers[0].send_hold_time = Some(0));
    network.run_for(20 * MINUTE);
    assert!(network.is_up(0, 1), "it has all the time");
    network.change(0, |c| c.peers[0].send_hold_time = Some(100));
    network.run_for(98 * SECOND);
    assert!(network.is_up(0, 1));
    network.run_for(4 * SECOND);
    let status = network.neighbor(0, 1);
    let reason = status.last_down.unwrap().reason.to_string();
    assert!(reason.contains("Send Hold Timer Expired"), "{reason}");
    assert_ne!(status.state, State::Established);
}

/// RFC 9687: not before twice the hold time and eight minutes.
#[test]
fn a_peer_that_takes_nothing_in_is_given_up_after_the_send_hold_time() {
    let mut network = deaf_peer(2);
    let before = network.neighbor(0, 1).counters.notifications_sent;
    network.run_for(479 * SECOND);
    assert!(network.is_up(0, 1));
    assert!(network.neighbor(0, 1).counters.messages_received > 10, "it is not silent itself");
    network.run_for(2 * SECOND);
    let status = network.neighbor(0, 1);
    assert_ne!(status.state, State::Established);
    let reason = status.last_down.unwrap().reason;
    assert!(reason.to_string().contains("Send Hold Timer Expired"), "{reason}");
    let DownReason::NotificationSent(sent) = reason else { panic!("{reason}") };
    assert_eq!((sent.code, sent.subcode), (code::SEND_HOLD_TIMER, 0));
    assert_eq!(status.counters.notifications_sent, before + 1);
    assert!(network.route(0, "10.200.0.0/16").is_none_or(|r| r.paths.iter().all(|p| p.stale)));
    // Reading again, it is a peer like others.
    network.set_stuck(1, false);
    network.run_for(10 * MINUTE);
    assert!(network.is_up(0, 1) && network.is_up(1, 0));
    assert_eq!(network.neighbor(0, 1).counters.established, 2);
    assert_eq!(network.routes(1).len(), 1001);
}

#[test]
fn a_peer_that_reads_now_and_then_is_kept() {
    let mut network = deaf_peer(3);
    for round in 0..5 {
        network.run_for(470 * SECOND);
        assert!(network.backlog() > network.window, "{round}: something waits all the time");
        assert!(network.is_up(0, 1), "{round}: {:?}", network.neighbor(0, 1).last_down);
        network.set_stuck(1, false);
        network.run_for(2 * network.latency);
        network.set_stuck(1, true);
        without_hold_timer(&mut network);
    }
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
    // The control: were it not for the reading, it would be over.
    network.run_for(481 * SECOND);
    assert!(!network.is_up(0, 1));
}
