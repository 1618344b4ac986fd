//! Neighbors of listen ranges.

use std::net::SocketAddr;

use super::*;
use crate::config::{ListenRange, MaxPrefixes, PeerAs};
use crate::speaker::{Effect, Report};
use crate::wire::{Notification, cease, code};

fn range(prefix: &str, name: &str, asn: PeerAs) -> ListenRange {
    let mut peer = PeerConfig::template(name, asn);
    peer.next_hop_v6 = Some(address_v6(0));
    ListenRange::new(net(prefix), peer)
}

/// The first has no peer but a range that holds all others, which connect to it.
fn around(asns: &[u32], asn: PeerAs) -> Network {
    let mut network = Network::new(9);
    for (at, own_asn) in asns.iter().enumerate() {
        let mut config = config(at, *own_asn);
        if at == 0 {
            config.listen_ranges = vec![range("192.0.0.0/24", "rack", asn.clone())];
        } else {
            config.peers.push(peer(at, 0, asns[0]));
        }
        config.networks = own(&[&format!("10.{at}.0.0/26"), &format!("fd00:{at}::/122")]);
        network.add(address(at), config);
    }
    network.start_all();
    network
}

impl Network {
    /// The neighbors of the first node by name, and whether they are up.
    fn seen(&mut self) -> Vec<(String, bool)> {
        let now = self.now;
        let all = self.core(0).neighbor_statuses(now);
        all.into_iter().map(|n| (n.name, n.state == State::Established)).collect()
    }

    fn connect_from(&mut self, remote: &str) -> bool {
        let now = self.now;
        let remote: SocketAddr = format!("{remote}:40000").parse().unwrap();
        let local = SocketAddr::new(address(0), 179);
        self.core(0).accepted(now, remote, local, None).is_some()
    }
}

fn effects(report: &Report) -> Vec<(String, Vec<&'static str>, Effect)> {
    let mut all: Vec<_> =
        report.changes.iter().map(|c| (c.object.clone(), c.fields.clone(), c.effect)).collect();
    all.sort();
    all
}

#[test]
fn whoever_connects_from_the_range_is_a_neighbor_until_it_has_gone() {
    let mut network = around(&[65001, 65002, 65003], PeerAs::External);
    network.run_for(MINUTE);
    let both = [("rack-192.0.0.2".to_owned(), true), ("rack-192.0.0.3".to_owned(), true)];
    assert_eq!(network.seen(), both);
    for (at, prefix) in [(0, "10.1.0.0/26"), (1, "10.2.0.0/26"), (2, "fd00:0::/122")] {
        assert!(network.route(at, prefix).is_some(), "{prefix}");
    }
    let now = network.now;
    let status = network.core(0).neighbor_statuses(now).remove(0);
    assert_eq!((status.asn, status.listen_range.as_deref()), (65002, Some("rack")));
    assert_eq!(network.core(0).status().listen_ranges[0].neighbors, 2);

    // Its routes are kept over a restart, and it with them.
    network.kill(1);
    network.run_for(MINUTE);
    assert_eq!(network.seen().len(), 2);
    assert!(network.route(0, "10.1.0.0/26").unwrap().paths[0].stale);
    network.run_for(2 * MINUTE);
    assert_eq!(network.seen(), both[1..]);
    assert!(network.route(0, "10.1.0.0/26").is_none());
    // With a last word it goes at once.
    let word = Notification::cease(cease::ADMIN_SHUTDOWN, "bye");
    network.stop(2, Some(&word));
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.seen(), []);
    network.start(1, false);
    network.run_for(MINUTE);
    assert_eq!(network.seen(), both[..1]);
}

#[test]
fn only_the_wanted_come_in() {
    let wanted = PeerAs::OneOf(vec![65002..=65002, 65010..=65019]);
    let mut network = around(&[65001, 65002, 65003, 65015], wanted);
    network.run_for(MINUTE);
    let up: Vec<_> = network.seen().into_iter().filter(|(_, up)| *up).map(|(n, _)| n).collect();
    assert_eq!(up, ["rack-192.0.0.2", "rack-192.0.0.4"]);
    let refused = network.neighbor(2, 0).last_error.unwrap().reason.to_string();
    assert!(refused.contains("Bad Peer AS"), "{refused}");
    // An address beyond the range is nobody's.
    assert!(!network.connect_from("192.0.9.1"));
    // Where the range is shut down nobody comes in.
    network.change(0, |c| c.listen_ranges[0].peer.shutdown = Some("closed".into()));
    network.run_for(MINUTE);
    assert!(network.seen().iter().all(|(_, up)| !up), "{:?}", network.seen());
    assert!(!network.connect_from("192.0.0.9"));
}

#[test]
fn internal_means_our_own_as() {
    let mut network = around(&[65001, 65001, 65002], PeerAs::Internal);
    network.run_for(MINUTE);
    let up: Vec<_> = network.seen().into_iter().filter(|(_, up)| *up).map(|(n, _)| n).collect();
    assert_eq!(up, ["rack-192.0.0.2"]);
    assert_eq!(network.route(0, "10.1.0.0/26").unwrap().paths[0].attributes.as_path, "");
}

#[test]
fn a_flood_of_connections_fills_the_range_and_no_more() {
    let mut network = around(&[65001, 65002], PeerAs::External);
    network.change(0, |c| c.listen_ranges[0].limit = 3);
    network.run_for(MINUTE);
    let taken = (10..250).filter(|at| network.connect_from(&format!("192.0.0.{at}"))).count();
    assert_eq!(taken, 2, "one place is taken by a session");
    let status = network.core(0).status().listen_ranges.remove(0);
    assert_eq!((status.neighbors, status.refused), (3, 238));
    // Those that came to nothing do not keep others out, and a session is worth more.
    network.run_for(Duration::from_secs(11));
    let taken = (10..250).filter(|at| network.connect_from(&format!("192.0.0.{at}"))).count();
    assert_eq!(taken, 4, "two again by those that have a place, two in place of others");
    assert_eq!(network.core(0).status().listen_ranges[0].neighbors, 3);
    assert!(network.is_known("rack-192.0.0.2"));
    assert_eq!(network.neighbor(1, 0).counters.established, 1);
    // In the end nothing is left of them.
    network.run_for(5 * MINUTE);
    assert_eq!(network.seen(), [("rack-192.0.0.2".to_owned(), true)]);
}

impl Network {
    fn is_known(&mut self, name: &str) -> bool {
        self.seen().iter().any(|(n, up)| n == name && *up)
    }
}

#[test]
fn a_reconfiguration_keeps_the_sessions() {
    let mut network = around(&[65001, 65002, 65003], PeerAs::External);
    network.run_for(MINUTE);
    let report = network.change(0, |c| {
        c.listen_ranges[0].limit = 1;
        c.listen_ranges[0].peer.description = "the rack".into();
    });
    let described = |name: &str| (format!("peer {name:?}"), vec!["description"], Effect::Live);
    assert_eq!(
        effects(&report),
        [
            ("listen-range \"rack\"".into(), vec!["limit", "peer"], Effect::Live),
            described("rack-192.0.0.2"),
            described("rack-192.0.0.3"),
        ]
    );
    // One goes over to a range that fits better, the other gets a configuration of its own.
    network.change(0, |c| {
        c.listen_ranges.push(range("192.0.0.2/32", "two", PeerAs::Number(65002)));
        c.listen_ranges[1].peer.description = "the rack".into();
    });
    network.run_for(MINUTE);
    let names = |n: &mut Network| n.seen().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&mut network), ["rack-192.0.0.3", "two-192.0.0.2"]);
    let three = peer(0, 2, 65003);
    network.change(0, |c| c.peers.push(three));
    network.run_for(MINUTE);
    assert_eq!(names(&mut network), ["n2", "two-192.0.0.2"]);
    let now = network.now;
    let ranges = network.core(0).neighbor_statuses(now).into_iter().map(|n| n.listen_range);
    assert_eq!(ranges.collect::<Vec<_>>(), [None, Some("two".into())]);
    for at in [1, 2] {
        assert_eq!(network.neighbor(at, 0).counters.established, 1);
    }
    // Who it may be has been said in another way; now it is somebody else.
    let report = network.change(0, |c| c.peers[0].asn = PeerAs::External);
    let peer = "peer \"n2\"".to_owned();
    assert_eq!(effects(&report), [(peer.clone(), vec!["asn"], Effect::Live)]);
    let report = network.change(0, |c| c.peers[0].asn = PeerAs::Number(65009));
    assert_eq!(effects(&report), [(peer, vec!["asn"], Effect::SessionReset)]);
    network.change(0, |c| c.peers[0].asn = PeerAs::External);
    network.run_for(MINUTE);
    // A range that is gone takes its neighbors with it, and no others.
    network.change(0, |c| c.listen_ranges.clear());
    network.run_for(MINUTE);
    assert_eq!(network.seen(), [("n2".to_owned(), true)]);
    let down = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(down.contains("Peer De-configured"), "{down}");
}

#[test]
fn nobody_waits_for_those_that_may_come() {
    let mut network = around(&[65001], PeerAs::External);
    assert!(network.connect_from("192.0.0.9"));
    network.run_for(Duration::from_secs(1));
    assert!(network.core(0).status().progress.converged);
}

#[test]
fn going_away_does_not_lift_a_limit_of_prefixes() {
    let mut network = around(&[65001, 65002], PeerAs::External);
    let max = MaxPrefixes { restart_after: Some(300), ..MaxPrefixes::new(3) };
    network.change(0, |c| c.listen_ranges[0].peer.max_prefixes = Some(max));
    network.run_for(MINUTE);
    let many: Vec<_> = (0..9).map(|at| format!("10.1.{at}.0/24")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    network.change(1, |c| c.networks = own(&many));
    network.run_for(MINUTE);
    assert_eq!(network.seen(), [("rack-192.0.0.2".to_owned(), false)]);
    let down = network.neighbor(1, 0).last_down.unwrap().reason;
    let crate::speaker::DownReason::NotificationReceived(n) = down else { panic!("{down}") };
    assert_eq!((n.code, n.subcode), (code::CEASE, cease::MAX_PREFIXES));
    assert!(!network.connect_from("192.0.0.2"));
    network.change(1, |c| c.networks = own(&["10.1.0.0/24"]));
    network.run_for(6 * MINUTE);
    assert_eq!(network.seen(), [("rack-192.0.0.2".to_owned(), true)]);
}

#[test]
fn connections_by_another_interface_are_refused() {
    let mut network = around(&[65001, 65002], PeerAs::External);
    network.change(0, |c| {
        c.peers = vec![peer(0, 8, 65002)];
        c.peers[0].passive = true;
        c.peers[0].source_interface = Some("eth1".into());
        c.listen_ranges[0].peer.source_interface = Some("eth2".into());
    });
    let come = |network: &mut Network, host: usize, interface| {
        let (now, local) = (network.now, SocketAddr::new(address(0), 179));
        let remote = SocketAddr::new(address(host), 40000);
        network.core(0).accepted(now, remote, local, interface).is_some()
    };
    // One that is configured is never one of the range, whatever it comes by.
    for (host, right) in [(8, "eth1"), (9, "eth2")] {
        for other in [Some("eth3"), None, Some(if host == 8 { "eth2" } else { "eth1" })] {
            assert!(!come(&mut network, host, other), "{host} by {other:?}");
        }
        assert_eq!(network.seen().len(), 1, "nobody was made a neighbor");
        assert!(network.seen().iter().all(|(name, _)| name == "n8"));
        if host == 8 {
            let why = network.neighbor(0, 8).last_error.unwrap().reason.to_string();
            assert_eq!(why, "interface eth1: a connection came in by another: eth2");
        }
        assert!(come(&mut network, host, Some(right)), "{host}");
    }
}

/// A reflector whose clients come from a range; with `others`, one that is configured, too, and
/// who is the last. Each announces `10.N.0.0/26`.
fn reflector(clients: usize, others: bool) -> Network {
    let mut network = around(&vec![65001; 1 + clients + usize::from(others)], PeerAs::Internal);
    network.change(0, |c| {
        c.listen_ranges[0].peer.route_reflector_client = true;
        if others {
            c.peers.push(peer(0, clients + 1, 65001));
        }
    });
    network.run_for(MINUTE);
    for (at, of) in [(1, 2), (2, 1)] {
        assert!(network.route(at, &format!("10.{of}.0.0/26")).is_some());
    }
    network
}

impl Network {
    /// Runs for so long, and looks at every moment that a node has these routes.
    fn run_with(&mut self, duration: Duration, routes: &[(usize, &str)]) {
        let end = self.now + duration;
        self.run_until(duration + MINUTE, |network| {
            for (at, prefix) in routes {
                let now = network.now;
                assert!(network.route(*at, prefix).is_some(), "{prefix} of {at} at {now:?}");
            }
            network.now >= end
        });
    }
}

#[test]
fn clients_keep_their_routes_while_their_reflector_restarts() {
    for others in [false, true] {
        let mut network = reflector(3, others);
        let all = [
            (1, "10.0.0.0/26"),
            (1, "10.2.0.0/26"),
            (1, "10.3.0.0/26"),
            (2, "10.1.0.0/26"),
            (2, "10.3.0.0/26"),
            (3, "10.1.0.0/26"),
            (3, "10.2.0.0/26"),
        ];
        network.kill(0);
        network.run_with(Duration::from_secs(1), &all);
        // One of them cannot come back before the others have.
        network.set_link(0, 3, false);
        network.start(0, true);
        network.run_with(Duration::from_secs(20), &all);
        assert!(network.is_known("rack-192.0.0.2"));
        let progress = network.core(0).status().progress;
        assert!(progress.restarting && !progress.selecting && !progress.converged);
        network.set_link(0, 3, true);
        network.run_with(3 * MINUTE, &all);
        assert!(network.core(0).status().progress.converged);
        for (at, prefix) in all {
            let route = network.route(at, prefix).unwrap();
            assert!(!route.paths[0].stale, "announced again: {prefix} to {at}");
        }
    }
}

#[test]
fn a_client_that_is_late_keeps_what_the_restarted_reflector_has() {
    let mut network = reflector(3, false);
    network.kill(0);
    network.set_link(0, 3, false);
    network.start(0, true);
    let kept = [(1, "10.2.0.0/26"), (3, "10.1.0.0/26"), (3, "10.2.0.0/26")];
    network.run_with(Duration::from_secs(65), &kept);
    assert!(network.core(0).status().progress.converged, "it has not waited for it any longer");
    assert!(network.route(1, "10.3.0.0/26").is_none());
    network.set_link(0, 3, true);
    network.run_with(2 * MINUTE, &kept);
    assert!(!network.route(3, "10.1.0.0/26").unwrap().paths[0].stale);
    assert!(network.route(1, "10.3.0.0/26").is_some());
}

#[test]
fn a_range_where_nobody_may_come_in_is_not_waited_for() {
    let mut network = reflector(2, false);
    network.kill(0);
    network.start(0, true);
    network.run_for(Duration::from_secs(1));
    assert!(!network.core(0).status().progress.selecting);
    network.change(0, |c| c.listen_ranges[0].peer.shutdown = Some("closed".into()));
    network.run_for(Duration::from_secs(1));
    assert!(network.core(0).status().progress.converged);
}
