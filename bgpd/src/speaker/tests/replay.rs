//! Runs on record are run again: the same comes in, so the same goes out.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;

use super::storm::Storm;
use super::*;
use crate::bfd;
use crate::config::{Bfd, BmpStation, Monitored, Password};
use crate::rib::Resolution;
use crate::speaker::{Core, Ending, Replay, Stop, Time, Until};
use crate::transport::discovery::Found;
use crate::wire::{Notification, cease};

/// All that can be asked about a speaker.
fn answers(core: &Core, now: Time) -> Vec<String> {
    let routes = core.routes(&RouteQuery::default());
    let explained: Vec<_> = routes.iter().map(|route| core.explain(route.prefix, true)).collect();
    let neighbors = core.neighbor_statuses(now);
    let details: Vec<_> = neighbors.iter().map(|n| core.neighbor_detail(&n.name, now)).collect();
    vec![
        serde_json::to_string_pretty(&neighbors).unwrap(),
        serde_json::to_string_pretty(&routes).unwrap(),
        serde_json::to_string_pretty(&explained).unwrap(),
        serde_json::to_string_pretty(&details).unwrap(),
        serde_json::to_string_pretty(&core.status()).unwrap(),
        serde_json::to_string_pretty(&core.group_statuses()).unwrap(),
        serde_json::to_string_pretty(&core.memory()).unwrap(),
        serde_json::to_string_pretty(&core.configuration()).unwrap(),
    ]
}

/// Replays a recording, and sees to it that it becomes the same recording again.
fn replay(recording: &[u8], what: &str) -> Replay {
    let mut replay = Replay::of(Cursor::new(recording.to_vec())).unwrap();
    let mut again = Vec::new();
    let stop = replay.run_with(Until::End, |part| again.extend_from_slice(part)).unwrap();
    assert_eq!(stop, Stop::Marked(Ending::Finished), "{what}");
    // But for the mark at its end, which a replay has not come to.
    assert!(recording.starts_with(&again), "{what}: recorded otherwise");
    assert_eq!(recording.len() - again.len(), 3, "{what}");
    replay
}

#[test]
fn a_storm_on_record_is_the_same_storm_again() {
    let mut events = 0;
    for seed in seeds::wanted(0..10) {
        let mut storm = Storm::recorded(seed);
        let consumers: Vec<u64> = (0..storm.network.nodes.len())
            .map(|at| storm.network.core(at).subscribe(Arc::default()))
            .collect();
        for _ in 0..6 {
            storm.rage(4);
            for (at, id) in consumers.iter().enumerate() {
                let most = storm.random.below(20);
                let core = storm.network.nodes[at].core.as_mut();
                // One that was started anew does not know its consumers.
                let batch = core.and_then(|core| core.take_deltas(*id, most));
                if let Some(batch) = batch.filter(|_| storm.random.chance(70)) {
                    storm.network.core(at).acknowledge(*id, batch.sequence);
                }
            }
        }
        if seed.is_multiple_of(2) {
            storm.heal();
            storm.network.run_for(MINUTE);
        }
        let network = &mut storm.network;
        let now = network.now;
        for at in 0..network.nodes.len() {
            let Some(core) = &mut network.nodes[at].core else { continue };
            core.work(now);
            core.take_outputs();
            let before = answers(core, now);
            let recording = core.take_recording();
            let replay = replay(&recording, &format!("node {at}, seed {seed}"));
            events += replay.count();
            assert_eq!(replay.time(), now);
            let after = answers(replay.core(), now);
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(before, after, "node {at}, seed {seed}");
            }
        }
        for (nth, recording) in network.recordings.take().unwrap().iter().enumerate() {
            replay(recording, &format!("run {nth} of those killed, seed {seed}"));
        }
    }
    assert!(events > 1000, "{events}");
}

/// What storms do not have.
#[test]
fn all_that_a_driver_tells_is_on_record() {
    let mut network = Network::new(1);
    network.recordings = Some(Vec::new());
    let station: SocketAddr = "192.0.2.99:5000".parse().unwrap();
    let mut first = config(0, 65001);
    let mut neighbor = peer(0, 1, 65002);
    neighbor.bfd = Some(Bfd::default());
    neighbor.password = Some(Password::new("first-key"));
    let mut unnumbered = peer(0, 7, 65009);
    unnumbered.interface = Some("eth7".to_owned());
    unnumbered.address = Ipv6Addr::UNSPECIFIED.into();
    first.peers = vec![neighbor, unnumbered];
    first.bmp = vec![BmpStation {
        address: station.ip(),
        port: station.port(),
        monitor: vec![Monitored::PrePolicy, Monitored::LocRib],
        stats_interval: 0,
    }];
    first.advertise_after_install = true;
    let mut second = config(1, 65002);
    second.peers = vec![peer(1, 0, 65001)];
    second.networks = own(&["10.1.0.0/24", "10.2.0.0/24"]);
    network.add(address(0), first);
    network.add(address(1), second);
    network.start_all();
    network.run_for(Duration::from_secs(10));
    assert!(network.is_up(0, 1));

    let sessions = network.core(0).take_bfd_sessions().unwrap();
    let key = *sessions.keys().next().unwrap();
    let status = bfd::Status {
        state: bfd::State::Up,
        remote_state: bfd::State::Init,
        diagnostic: bfd::Diagnostic::NONE,
        remote_diagnostic: bfd::Diagnostic::DETECTION_TIME_EXPIRED,
        local_discriminator: 7.try_into().unwrap(),
        remote_discriminator: 9.try_into().ok(),
        multihop: true,
        control_plane_independent: false,
        tx_interval: Duration::from_millis(50),
        rx_interval: Duration::from_millis(60),
        detection_time: Duration::from_millis(180),
        packets_received: 1,
        packets_sent: 2,
        packets_authenticated: 3,
        flaps: 4,
        failures: 0,
        since: Duration::from_secs(1),
        error: Some("none, really".to_owned()),
    };
    network.bfd(0, &key, &status);
    for found in [
        Found::Link("eth7".to_owned(), Some(7)),
        Found::Router("eth7".to_owned(), "fe80::7".parse().unwrap()),
        Found::Link("eth7".to_owned(), None),
        Found::Trouble("no socket".to_owned()),
    ] {
        network.discover(0, &found);
    }
    let now = network.now;
    let core = network.core(0);
    core.lacks_key(now, net("192.0.0.0/16"), "the kernel has none");
    let hop = address(1);
    core.resolve(BTreeMap::from([
        (hop, Resolution::Metric(7)),
        (address(5), Resolution::Unreachable),
    ]));
    core.station_up(station, Duration::from_secs(1000));
    assert!(core.station_batch(station).unwrap().is_some());
    core.station_statistics(now, station);
    core.station_down(station);
    let fib = core.subscribe(Arc::default());
    core.work(now);
    assert_eq!(core.take_deltas(fib, 1).unwrap().deltas.len(), 1);
    core.unsubscribe(fib);
    network.change(0, |c| c.peers[0].password = Some(Password::new("second-key")));
    for how in [Clear::SoftIn, Clear::SoftOut, Clear::Hard { message: "a word".to_owned() }] {
        network.clear(0, None, &how);
        network.clear(0, Some("n1"), &how);
        network.clear(0, Some("nobody"), &how);
    }
    // A hold timer that expires while there is something to be read.
    network.nodes[1].core = None;
    let now = now + 3 * MINUTE;
    let core = network.core(0);
    core.tick(now, |_| true);
    core.work(now);
    let reason = "the speaker is shut down";
    let cease = Notification::communication(cease::ADMIN_SHUTDOWN, "for good", reason);
    core.stop_all(now, Some(&cease));
    core.take_outputs();
    core.work(now);
    let before = answers(core, now);
    let recording = core.take_recording();
    for key in ["first-key", "second-key"] {
        let is_there = recording.windows(key.len()).any(|part| part == key.as_bytes());
        assert!(!is_there, "{key} is in the recording");
    }
    let replay = replay(&recording, "all");
    assert_eq!(answers(replay.core(), now), before);
}

/// As the mutation test of the reader, with all that a storm brings, and messages that are wrong.
#[test]
fn mutated_storms_do_no_harm() {
    let mut storm = Storm::recorded(5);
    storm.rage(10);
    let recordings: Vec<Vec<u8>> = storm
        .network
        .nodes
        .iter_mut()
        .filter_map(|node| Some(node.core.as_mut()?.take_recording()))
        .collect();
    let random = &mut storm.random;
    let mut differ = 0;
    for _ in 0..150 {
        let mut octets = recordings[random.below(recordings.len())].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(octets.len());
            octets[at] ^= 1 << random.below(8);
        }
        crate::fuzz::recording(&octets);
        let stop = Replay::of(Cursor::new(octets)).map(|mut replay| replay.run(Until::End));
        differ += usize::from(matches!(stop, Ok(Ok(Stop::Differs(_)))));
    }
    assert!(differ > 20, "{differ}");
}
