//! Several paths to a prefix (RFC 7911).

use super::*;
use crate::config::{AddPaths, SentPaths};
use crate::policy::{Changes, Rule};
use crate::transport::memory::Random;

pub(super) const PREFIX: &str = "10.9.0.0/24";
/// Who has the prefix.
const SOURCES: [usize; 3] = [1, 2, 3];
/// Who takes several paths to it.
pub(super) const TAKERS: [usize; 2] = [4, 5];

/// Node 0 reflects the routes of the others, which are internal to its AS. Nodes 4 and 5 take several
/// paths.
pub(super) fn star(seed: u64, send: SentPaths) -> Network {
    let mut network = Network::new(seed);
    let mut reflector = config(0, 65000);
    for at in 1..=5 {
        let mut client = peer(0, at, 65000);
        client.route_reflector_client = true;
        if TAKERS.contains(&at) {
            client.add_paths = AddPaths { receive: true, send: Some(send) };
        }
        reflector.peers.push(client);
    }
    network.add(address(0), reflector);
    for at in 1..=5 {
        let mut config = config(at, 65000);
        let mut other = peer(at, 0, 65000);
        if TAKERS.contains(&at) {
            other.add_paths = AddPaths { receive: true, send: None };
        }
        config.peers.push(other);
        if SOURCES.contains(&at) {
            config.networks = own(&[PREFIX]);
        }
        network.add(address(at), config);
    }
    network.start_all();
    network.run_for(MINUTE);
    network
}

/// The originators of the paths that a node holds, in order.
fn held(network: &mut Network, at: usize) -> Vec<u8> {
    let paths = network.route(at, PREFIX).map_or_else(Vec::new, |r| r.paths);
    let mut originators: Vec<u8> =
        paths.iter().filter_map(|p| Some(p.attributes.originator?.octets()[3] - 1)).collect();
    originators.sort_unstable();
    originators
}

#[test]
fn a_peer_that_takes_several_paths_has_all_of_them() {
    let mut network = star(1, SentPaths::All);
    for taker in TAKERS {
        assert_eq!(held(&mut network, taker), [1, 2, 3]);
        let route = network.route(taker, PREFIX).unwrap();
        assert_eq!(route.next_hops.len(), 3, "and uses them at once");
        let ids: std::collections::BTreeSet<u32> = route.paths.iter().map(|p| p.path_id).collect();
        assert_eq!(ids.len(), 3);
        let session = network.neighbor(taker, 0).session.unwrap();
        assert_eq!((session.receive_paths.len(), session.send_paths.len()), (2, 0));
    }
    // Those that do not, have the best one; and nobody his own.
    assert_eq!(held(&mut network, 3), [1]);
    assert_eq!(held(&mut network, 1), [2; 0], "the best one is his own");

    network.change(2, |c| c.networks.clear());
    network.run_for(MINUTE);
    for taker in TAKERS {
        assert_eq!(held(&mut network, taker), [1, 3]);
    }
    network.kill(1);
    network.run_for(10 * MINUTE);
    for taker in TAKERS {
        assert_eq!(held(&mut network, taker), [3]);
    }
    assert_eq!(network.neighbor(0, 4).families[0].advertised, 1);
    network.change(3, |c| c.networks.clear());
    network.run_for(10 * MINUTE);
    for at in [0, 2, 3, 4, 5] {
        assert_eq!(network.core(at).leftovers(), [0; 4], "node {at}");
    }
}

#[test]
fn only_the_paths_in_use_are_sent_where_that_is_asked_for() {
    let mut network = star(2, SentPaths::Used);
    assert_eq!(held(&mut network, 4), [1, 2, 3]);
    network.change(2, |c| c.networks[0].local_pref = Some(50));
    network.run_for(MINUTE);
    assert_eq!(held(&mut network, 4), [1, 3], "one is worse than the others");
    network.change(0, |c| c.multipath.ibgp = 1);
    network.run_for(MINUTE);
    assert_eq!(held(&mut network, 4).len(), 1, "one is used");
    // What is sent changes without a new session.
    let report = network.change(0, |c| {
        for peer in &mut c.peers {
            peer.add_paths.send = peer.add_paths.send.map(|_| SentPaths::All);
        }
    });
    assert!(report.changes.iter().all(|c| c.effect == crate::speaker::Effect::ReEvaluated));
    network.run_for(MINUTE);
    assert_eq!(held(&mut network, 4), [1, 2, 3]);
    assert_eq!(network.neighbor(4, 0).counters.established, 1);
}

#[test]
fn each_path_goes_through_the_policy() {
    let mut network = star(3, SentPaths::All);
    network.change(0, |c| {
        let set = Changes { med: Some(crate::policy::MedChange::Set(7)), ..Changes::default() };
        let policy = crate::policy::Policy {
            rules: vec![Rule { set, ..Rule::default() }],
            ..crate::policy::Policy::default()
        };
        c.peers.iter_mut().for_each(|peer| peer.export = Some(policy.clone()));
    });
    network.run_for(MINUTE);
    let paths = network.route(4, PREFIX).unwrap().paths;
    assert_eq!(paths.iter().map(|p| p.attributes.med).collect::<Vec<_>>(), [Some(7); 3]);
}

/// Groups that are told the same know the paths by the same numbers, whoever came first; and paths
/// that came with numbers keep apart when they are passed on.
#[test]
fn after_any_changes_everybody_has_what_there_is() {
    for seed in 0..30 {
        let mut network = star(seed, SentPaths::All);
        // Node 4 passes on, to node 6, outside of the AS.
        let mut outside = config(6, 65006);
        let mut inward = peer(6, 4, 65000);
        inward.add_paths.receive = true;
        outside.peers.push(inward);
        network.add(address(6), outside);
        network.change(4, |c| {
            let mut outward = peer(4, 6, 65006);
            outward.add_paths.send = Some(SentPaths::All);
            c.peers.push(outward);
        });
        network.start(6, false);
        let random = &mut Random::new(seed);
        for _ in 0..30 {
            let source = SOURCES[random.below(3)];
            match random.below(5) {
                0 => drop(network.change(source, |c| c.networks = own(&[PREFIX]))),
                1 => drop(network.change(source, |c| c.networks.clear())),
                2 => network.reset(0, TAKERS[random.below(2)]),
                3 => network.reset(0, source),
                _ => {
                    let med = u32::try_from(random.below(3)).unwrap();
                    network
                        .change(source, |c| c.networks.iter_mut().for_each(|n| n.med = Some(med)));
                }
            }
            network.run_for(Duration::from_millis(random.below(3000) as u64));
        }
        network.run_for(10 * MINUTE);
        let there: Vec<u8> = SOURCES
            .into_iter()
            .filter(|at| !network.nodes[*at].config.networks.is_empty())
            .map(|at| u8::try_from(at).unwrap())
            .collect();
        for taker in TAKERS {
            assert_eq!(held(&mut network, taker), there, "node {taker}, seed {seed}");
        }
        let passed_on = network.route(6, PREFIX).map_or(0, |r| r.paths.len());
        assert_eq!(passed_on, there.len(), "seed {seed}");
        for source in SOURCES {
            network.change(source, |c| c.networks.clear());
        }
        network.run_for(10 * MINUTE);
        for at in 0..=6 {
            assert_eq!(network.core(at).leftovers(), [0; 4], "node {at}, seed {seed}");
            assert_eq!(network.core(at).rib.numbers.len(), 0, "node {at}, seed {seed}");
        }
    }
}
