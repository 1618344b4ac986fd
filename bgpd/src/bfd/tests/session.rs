//! The machine of one session, by the letter of RFC 5880 section 6.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::bfd::session::{Params, Session};
use crate::bfd::{Diagnostic, Packet, State, Time};

const MS: Duration = Duration::from_millis(1);
const PARAMS: Params = Params { min_tx: 50_000, min_rx: 60_000, multiplier: 3 };

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn session() -> Session {
    Session::new(PARAMS, number(1), 7, Time::ZERO)
}

/// What a peer says that wants 100 ms times 4.
fn heard(state: State) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic::NONE,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        authenticated: false,
        demand: false,
        multiplier: 4,
        my_discriminator: number(2),
        your_discriminator: Some(number(1)),
        desired_min_tx: 100_000,
        required_min_rx: 100_000,
        required_min_echo_rx: 0,
    }
}

/// All that is to be sent now.
fn sent(session: &mut Session, now: Time) -> Vec<Packet> {
    std::iter::from_fn(|| session.transmit(now)).collect()
}

fn in_state(state: State) -> Session {
    let mut session = session();
    match state {
        State::AdminDown => session.disable(Time::ZERO),
        State::Down => {}
        State::Init => session.receive(Time::ZERO, &heard(State::Down)),
        State::Up => session.receive(Time::ZERO, &heard(State::Init)),
    }
    assert_eq!(session.state(), state);
    sent(&mut session, Time::ZERO);
    session
}

/// Up, with the Poll Sequence about that answered.
fn up() -> Session {
    let mut session = in_state(State::Up);
    session.receive(Time::ZERO, &Packet { is_final: true, ..heard(State::Up) });
    sent(&mut session, Time::ZERO);
    session
}

#[test]
fn every_state_and_every_state_received() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (from, expected) in table {
        for (received, wanted) in State::ALL.into_iter().zip(expected) {
            let mut session = in_state(from);
            let before = session.diagnostic();
            session.receive(MS, &heard(received));
            assert_eq!(session.state(), wanted, "{from} hears {received}");
            assert_eq!(session.remote_state(), received);
            let reason = match (from, wanted) {
                (Init | Up, Down) => Diagnostic::NEIGHBOR_SIGNALED_DOWN,
                (_, Up) => Diagnostic::NONE,
                _ => before,
            };
            assert_eq!(session.diagnostic(), reason, "{from} hears {received}");
            // A change is told at once, and nothing else is.
            let said: Vec<State> = sent(&mut session, MS).iter().map(|p| p.state).collect();
            let news = if from == wanted { Vec::new() } else { vec![wanted] };
            assert_eq!(said, news, "{from} hears {received}");
        }
        // And the one event that is no packet: silence.
        let mut session = in_state(from);
        session.expire(Duration::from_secs(60));
        let (state, reason) = match from {
            Init | Up => (Down, Diagnostic::DETECTION_TIME_EXPIRED),
            state => (state, session.diagnostic()),
        };
        assert_eq!((session.state(), session.diagnostic()), (state, reason), "{from}, silence");
    }
}

#[test]
fn only_a_broken_path_counts_as_a_failure() {
    let losses: [(&str, Packet, u64); 3] = [
        ("the peer hears nothing", heard(State::Down), 1),
        ("its operator has ended it", heard(State::AdminDown), 0),
        (
            "it has begun anew",
            Packet { my_discriminator: number(3), your_discriminator: None, ..heard(State::Down) },
            0,
        ),
    ];
    for (what, packet, failures) in losses {
        let mut session = up();
        session.receive(MS, &packet);
        assert_eq!(session.state(), State::Down, "{what}");
        assert_eq!((session.tally().flaps, session.tally().failures), (1, failures), "{what}");
    }
    let mut silent = up();
    silent.expire(Duration::from_secs(1));
    assert_eq!((silent.tally().flaps, silent.tally().failures), (1, 1));
    assert_eq!(silent.discriminators(), (number(1), None), "the peer's number is forgotten");
}

#[test]
fn the_detection_time_is_the_peers_multiplier_of_the_slower_wish() {
    let mut session = up();
    assert_eq!(session.detection_time(), 400 * MS, "4 x 100 ms, which is more than our 60");
    session.receive(MS, &Packet { desired_min_tx: 10_000, multiplier: 5, ..heard(State::Up) });
    assert_eq!(session.detection_time(), 300 * MS, "5 x our 60 ms");
    session.expire(300 * MS);
    assert_eq!(session.state(), State::Up);
    session.expire(301 * MS);
    assert_eq!(session.state(), State::Down);
}

/// The silence that a session bears is the multiplier times the interval, and not a moment more,
/// whatever it sends itself meanwhile: with 50 ms times 3, routes move 150 ms after the last packet.
#[test]
fn silence_ends_a_session_exactly_when_the_detection_time_is_over() {
    let fast = Packet {
        desired_min_tx: 50_000,
        required_min_rx: 50_000,
        multiplier: 3,
        ..heard(State::Up)
    };
    for last in [40 * MS, 1000 * MS + Duration::from_micros(7)] {
        let params = Params { min_tx: 50_000, min_rx: 50_000, multiplier: 3 };
        let mut session = Session::new(params, number(1), 7, Time::ZERO);
        session.receive(Time::ZERO, &Packet { state: State::Init, ..fast });
        session.receive(Time::ZERO, &Packet { is_final: true, ..fast });
        session.receive(last, &fast);
        let over = last + 150 * MS;
        assert_eq!(session.detection_time(), 150 * MS);
        let mut now = last;
        while session.state() == State::Up {
            now = session.next_deadline().unwrap().max(now);
            assert!(now <= over, "still up at {now:?}");
            session.expire(now);
            sent(&mut session, now);
        }
        assert_eq!((now, session.state()), (over, State::Down));
        assert_eq!(session.tally().failures, 1);
    }
}

#[test]
fn packets_go_at_the_slower_wish_with_jitter() {
    for (multiplier, most) in [(3, 1000), (1, 900)] {
        let params = Params { multiplier, ..PARAMS };
        let mut session = Session::new(params, number(1), 99, Time::ZERO);
        session.receive(Time::ZERO, &heard(State::Init));
        let answer = Packet { is_final: true, ..heard(State::Up) };
        session.receive(Time::ZERO, &answer);
        sent(&mut session, Time::ZERO);
        let (mut last, mut seen) = (Time::ZERO, [u32::MAX, 0]);
        for _ in 0..1000 {
            session.receive(last, &heard(State::Up));
            let now = session.next_deadline().unwrap();
            assert_eq!(sent(&mut session, now).len(), 1);
            let per_mille = u32::try_from((now - last).as_micros() / 100).unwrap();
            seen = [seen[0].min(per_mille), seen[1].max(per_mille)];
            last = now;
        }
        assert!((750..770).contains(&seen[0]), "of 100 ms: {seen:?}");
        assert!((most - 20..=most).contains(&seen[1]), "of 100 ms: {seen:?}");
    }
}

#[test]
fn not_up_it_is_slow() {
    let mut session = session();
    let first = sent(&mut session, Time::ZERO);
    assert_eq!(first.len(), 1, "at once");
    assert_eq!((first[0].desired_min_tx, first[0].required_min_rx), (1_000_000, 60_000));
    assert_eq!(first[0].your_discriminator, None);
    let next = session.next_deadline().unwrap();
    assert!((750 * MS..=1000 * MS).contains(&next));
    assert!(session.transmit(next - MS).is_none());
    assert!(session.transmit(next).is_some());
    // What comes up is told soon, and no longer than an interval later again.
    session.receive(next, &heard(State::Init));
    let said = sent(&mut session, next);
    assert_eq!((said.len(), said[0].desired_min_tx, said[0].poll), (1, 50_000, true));
    assert!(session.next_deadline().unwrap() <= next + 100 * MS);
}

#[test]
fn a_poll_is_answered_at_once_and_not_with_another() {
    for state in [State::Down, State::Init, State::Up] {
        let mut session = in_state(state);
        let echo = if state == State::Down { State::Up } else { state };
        session.receive(MS, &Packet { poll: true, ..heard(echo) });
        let said = sent(&mut session, MS);
        assert!(said[0].is_final && !said[0].poll, "{state}");
        assert!(said[1..].iter().all(|p| !p.is_final), "{state}: once");
    }
}

#[test]
fn slower_only_after_the_peer_knows() {
    let mut session = up();
    session.receive(Time::ZERO, &Packet { required_min_rx: 1, ..heard(State::Up) });
    assert_eq!(session.tx_interval(), 50 * MS);
    // Slower to send, faster to expect: both need the peer's consent.
    session.configure(MS, Params { min_tx: 80_000, min_rx: 10_000, multiplier: 2 });
    let said = sent(&mut session, MS);
    assert_eq!(said.len(), 1);
    let (tx, rx) = (said[0].desired_min_tx, said[0].required_min_rx);
    assert_eq!((tx, rx, said[0].multiplier, said[0].poll), (80_000, 10_000, 2, true));
    assert_eq!(session.tx_interval(), 50 * MS, "as before");
    let wish = Packet { required_min_rx: 1, desired_min_tx: 1, ..heard(State::Up) };
    session.receive(2 * MS, &wish);
    assert_eq!(session.rx_interval(), 60 * MS, "as before");
    session.receive(3 * MS, &Packet { is_final: true, ..wish });
    assert_eq!((session.tx_interval(), session.rx_interval()), (80 * MS, 10 * MS));
    let next = session.next_deadline().unwrap();
    session.receive(next, &wish);
    assert!(sent(&mut session, next).iter().all(|p| !p.poll), "it is over");
    assert_eq!(session.state(), State::Up);

    // Faster to send, slower to expect: at once, and polled about too.
    session.configure(next, Params { min_tx: 20_000, min_rx: 90_000, multiplier: 2 });
    assert_eq!((session.tx_interval(), session.rx_interval()), (20 * MS, 90 * MS));
    assert!(sent(&mut session, next)[0].poll);

    // Another change before the answer: the answer may be to the first, so it is asked again.
    session.configure(next, Params { min_tx: 40_000, min_rx: 90_000, multiplier: 2 });
    session.receive(next, &Packet { is_final: true, ..wish });
    assert_eq!(session.tx_interval(), 20 * MS, "not known to be known");
    assert!(sent(&mut session, next + 20 * MS)[0].poll);
    session.receive(next, &Packet { is_final: true, ..wish });
    assert_eq!(session.tx_interval(), 40 * MS);
}

#[test]
fn a_peer_in_demand_mode_is_left_in_peace_unless_there_is_news() {
    let mut session = up();
    let demand = Packet { demand: true, ..heard(State::Up) };
    session.receive(MS, &demand);
    assert!(session.transmit(Duration::from_secs(1)).is_none());
    assert_eq!(session.next_deadline(), Some(401 * MS), "but its silence is noticed");
    session.configure(2 * MS, Params { min_tx: 70_000, ..PARAMS });
    assert!(sent(&mut session, 2 * MS)[0].poll);
    assert!(sent(&mut session, 102 * MS)[0].poll, "until it is answered");
    session.receive(103 * MS, &Packet { is_final: true, ..demand });
    assert!(session.transmit(Duration::from_secs(1)).is_none());
    // It speaks of a session that is Up only.
    session.receive(104 * MS, &Packet { demand: true, ..heard(State::Down) });
    sent(&mut session, 104 * MS);
    assert_eq!(sent(&mut session, Duration::from_secs(2)).len(), 1);
}

#[test]
fn a_peer_that_wants_nothing_is_sent_nothing_at_intervals() {
    let mut session = up();
    session.receive(MS, &Packet { required_min_rx: 0, ..heard(State::Up) });
    assert!(session.transmit(Duration::from_secs(1)).is_none());
    session.receive(2 * MS, &Packet { required_min_rx: 0, poll: true, ..heard(State::Up) });
    assert!(sent(&mut session, 2 * MS)[0].is_final);
    session.receive(3 * MS, &heard(State::Up));
    assert!(session.transmit(Duration::from_secs(1)).is_some());
}

#[test]
fn authenticated_packets_are_discarded_and_counted() {
    let mut session = up();
    let at = session.next_deadline();
    session.receive(MS, &Packet { authenticated: true, poll: true, ..heard(State::Down) });
    assert_eq!((session.state(), session.next_deadline()), (State::Up, at));
    assert_eq!(session.tally().authenticated, 1);
    assert_eq!(session.tally().flaps, 0);
}

#[test]
fn disabled_it_says_so_for_as_long_as_the_peer_may_miss_it() {
    let mut session = up();
    session.disable(MS);
    let said = sent(&mut session, MS);
    assert_eq!((said[0].state, said[0].diagnostic), (State::AdminDown, Diagnostic::new(7)));
    assert_eq!(session.farewell(), Duration::from_secs(3), "slow again, times our multiplier");
    let mut told = 0;
    while let Some(at) = session.next_deadline().filter(|at| *at < MS + session.farewell()) {
        told += sent(&mut session, at).len();
    }
    assert!((2..=4).contains(&told), "{told}");
    assert_eq!(session.tally().failures, 0);
}
