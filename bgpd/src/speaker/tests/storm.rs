//! Storms: random topologies in which everything that can happen does, and after which every
//! speaker holds what it would hold had nothing happened.

use super::oracle::Oracle;
use super::*;
use crate::transport::memory::Random;

/// Seeds to run; `BGPD_SEEDS=100..2000` runs others, `BGPD_SEEDS=17` one.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("BGPD_SEEDS").unwrap_or_else(|_| "0..150".into());
    match given.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => given.parse().unwrap()..given.parse::<u64>().unwrap() + 1,
    }
}

/// 2 to 9 nodes in 1 to 9 ASes; connected, with some more links.
fn topology(seed: u64) -> Network {
    let mut network = Network::new(seed);
    let random = &mut Random::new(seed ^ 0x5eed);
    let nodes = 2 + random.below(8);
    let asns: Vec<u32> =
        (0..nodes).map(|_| 65001 + u32::try_from(random.below(nodes)).unwrap()).collect();
    let mut configs: Vec<Config> =
        asns.iter().enumerate().map(|(at, asn)| config(at, *asn)).collect();
    for a in 1..nodes {
        let mut others = vec![random.below(a)];
        others.extend((0..a).filter(|_| random.chance(30)));
        others.sort_unstable();
        others.dedup();
        for b in others {
            configs[a].peers.push(peer(a, b, asns[b]));
            configs[b].peers.push(peer(b, a, asns[a]));
        }
    }
    network.window = [64, 1000, 16 * 1024][random.below(3)];
    network.latency = Duration::from_millis([1, 20, 500][random.below(3)]);
    for (at, mut config) in configs.into_iter().enumerate() {
        config.networks = networks(random, at);
        for peer in &mut config.peers {
            peer.hold_time = [3, 9, 90][random.below(3)].max(u16::from(network.latency > MINUTE));
            peer.passive = random.chance(10);
        }
        network.add(address(at), config);
    }
    network.start_all();
    // Two that both wait would wait for ever.
    for at in 0..nodes {
        network.change(at, |c| {
            for peer in &mut c.peers {
                let other: usize = peer.name[1..].parse().unwrap();
                peer.passive &= other > at;
            }
        });
    }
    network
}

/// Some prefixes of a node's own, some that others have as well.
fn networks(random: &mut Random, at: usize) -> Vec<OwnNetwork> {
    let mut all = Vec::new();
    for n in 0..random.below(30) {
        all.push(format!("10.{at}.{n}.0/24"));
        if random.chance(30) {
            all.push(format!("fd00:{at}:{n}::/64"));
        }
    }
    for n in 0..random.below(4) {
        all.push(format!("192.168.{n}.0/24"));
        all.push(format!("fd99:{n}::/64"));
    }
    all.iter().map(|p| OwnNetwork::new(net(p))).collect()
}

/// One of the things that happen.
fn happen(network: &mut Network, random: &mut Random) {
    let nodes = network.nodes.len();
    let (a, b) = (random.below(nodes), random.below(nodes));
    let alive = network.nodes[a].core.is_some();
    match random.below(9) {
        0 if alive => network.kill(a),
        1 if !alive => {
            let restarting = random.chance(50);
            network.start(a, restarting);
        }
        2 => network.reset(a, b),
        3 if a != b => network.set_link(a, b, false),
        4 => network.set_link(a, b, true),
        5 if alive => {
            let networks = networks(random, a);
            network.change(a, |c| c.networks = networks);
        }
        6 if alive => {
            let on = random.chance(50);
            network.change(a, |c| {
                for peer in &mut c.peers {
                    peer.shutdown = on.then(|| "storm".to_owned());
                }
            });
        }
        7 if alive => {
            let n = crate::wire::Notification::cease(crate::wire::cease::ADMIN_RESET, "storm");
            network.stop(a, random.chance(50).then_some(&n));
        }
        8 => {
            let stuck = random.chance(50);
            network.set_stuck(a, stuck);
        }
        _ => {}
    }
}

fn heal(network: &mut Network) {
    for at in 0..network.nodes.len() {
        network.set_stuck(at, false);
        for other in 0..network.nodes.len() {
            network.set_link(at, other, true);
        }
        if network.nodes[at].core.is_none() {
            network.start(at, false);
        }
        network.change(at, |c| c.peers.iter_mut().for_each(|p| p.shutdown = None));
    }
}

fn check(network: &mut Network, seed: u64) {
    let oracle = Oracle::of(network);
    for at in 0..network.nodes.len() {
        if let Err(error) = oracle.check(network, at) {
            let now = network.now;
            let sessions: Vec<String> = network
                .core(at)
                .neighbor_statuses(now)
                .iter()
                .map(|n| format!("{} {} {:?}", n.name, n.state, n.last_down))
                .collect();
            panic!("{error}\n{}\nreplay: BGPD_SEEDS={seed}", sessions.join("\n"));
        }
    }
}

#[test]
fn after_every_storm_each_rib_is_what_the_oracle_says() {
    for seed in seeds() {
        let mut network = topology(seed);
        let random = &mut Random::new(seed);
        network.run_for(2 * MINUTE);
        check(&mut network, seed);
        for _ in 0..20 {
            happen(&mut network, random);
            let pause = Duration::from_millis(random.below(20_000) as u64);
            network.run_for(pause);
        }
        heal(&mut network);
        // The longest of: restart time, stale path time.
        network.run_for(10 * MINUTE);
        check(&mut network, seed);
    }
}

/// The control: a network that a speaker lacks is noticed, and one that it has too many.
#[test]
fn the_oracle_notices_what_is_missing_and_what_is_too_much() {
    for seed in 0..10 {
        let mut network = topology(seed);
        network.run_for(2 * MINUTE);
        for at in 0..network.nodes.len() {
            let told = network.nodes[at].config.networks.clone();
            for wrong in [[&told[..], &own(&["10.255.255.0/24"])].concat(), Vec::new()] {
                if wrong == told {
                    continue;
                }
                // What the oracle reads; the speaker runs with what it was told.
                network.nodes[at].config.networks = wrong;
                let oracle = Oracle::of(&network);
                assert!(oracle.check(&mut network, at).is_err(), "node {at} of seed {seed}");
            }
            network.nodes[at].config.networks = told;
        }
        check(&mut network, seed);
    }
}

#[test]
fn when_everything_is_gone_nothing_is_left() {
    for seed in seeds().take(40) {
        let mut network = topology(seed);
        let random = &mut Random::new(seed);
        network.run_for(2 * MINUTE);
        for _ in 0..10 {
            happen(&mut network, random);
            network.run_for(Duration::from_secs(5));
        }
        heal(&mut network);
        for at in 0..network.nodes.len() {
            network.change(at, |c| c.networks.clear());
        }
        network.run_for(10 * MINUTE);
        for at in 0..network.nodes.len() {
            let left = network.core(at).leftovers();
            assert_eq!(left, [0; 4], "prefixes, attribute and next hop sets of node {at}: {seed}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut network = topology(seed);
        let random = &mut Random::new(seed);
        for _ in 0..10 {
            happen(&mut network, random);
            network.run_for(Duration::from_secs(3));
        }
        heal(&mut network);
        network.run_for(MINUTE);
        let now = network.now;
        let counters = |n: &mut Network, at| -> Vec<_> {
            n.core(at).neighbor_statuses(now).iter().map(|s| s.counters).collect()
        };
        (0..network.nodes.len()).map(|at| counters(&mut network, at)).collect::<Vec<_>>()
    };
    for seed in [3, 7, 12] {
        assert_eq!(run(seed), run(seed));
    }
}
