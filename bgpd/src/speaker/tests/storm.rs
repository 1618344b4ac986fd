//! Storms: random topologies in which everything that can happen does, and after which every
//! speaker holds what it would hold had nothing happened.

use super::advertised;
use super::oracle::{Feature, Oracle};
use super::seeds;
use super::topology::{self, Kind};
use super::*;
use crate::transport::memory::Random;
use crate::wire::Family;

/// A network that things happen to.
pub(super) struct Storm {
    seed: u64,
    kind: Kind,
    pub(super) network: Network,
    pub(super) random: Random,
    /// The peers of each node at first, of which some may be missing for a while.
    peers: Vec<Vec<PeerConfig>>,
}

impl Storm {
    fn small(seed: u64) -> Self {
        Self::new(seed, Kind::small(seed))
    }

    fn new(seed: u64, kind: Kind) -> Self {
        Self::begin(seed, kind, false)
    }

    fn begin(seed: u64, kind: Kind, recorded: bool) -> Self {
        let mut network = Network::new(seed);
        network.recordings = recorded.then(Vec::new);
        let random = &mut Random::new(seed ^ 0x5eed);
        network.window =
            if kind.is_small() { [64, 1000, 16 * 1024][random.below(3)] } else { 16 * 1024 };
        network.latency = Duration::from_millis([1, 20, 500][random.below(3)]);
        network.unevenness = [1, 4][random.below(2)];
        let configs = topology::configs(kind, random);
        let peers = configs.iter().map(|c| c.peers.clone()).collect();
        for (at, config) in configs.into_iter().enumerate() {
            network.add(address(at), config);
        }
        network.start_all();
        Self { seed, kind, network, random: Random::new(seed), peers }
    }

    /// As [`Self::small`], with every speaker on record.
    pub(super) fn recorded(seed: u64) -> Self {
        Self::begin(seed, Kind::small(seed), true)
    }

    /// One of the things that happen.
    fn happen(&mut self) {
        let Self { network, random, .. } = self;
        let nodes = network.nodes.len();
        let a = random.below(nodes);
        // Somebody it has to do with, for the most part.
        let known = &self.peers[a];
        let b = if random.chance(90) && !known.is_empty() {
            let other = known[random.below(known.len())].address;
            network.nodes.iter().position(|n| n.address == other).unwrap()
        } else {
            random.below(nodes)
        };
        let alive = network.nodes[a].core.is_some();
        match random.below(16) {
            0 if alive => network.kill(a),
            1 if !alive => {
                let restarting = random.chance(50);
                network.start(a, restarting);
            }
            2 => network.reset(a, b),
            3 if a != b => network.set_link(a, b, false),
            4 => network.set_link(a, b, true),
            5 if alive => {
                let networks = topology::networks(self.kind, random, a);
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
                let cease = crate::wire::cease::ADMIN_RESET;
                let n = crate::wire::Notification::cease(cease, "storm");
                network.stop(a, random.chance(50).then_some(&n));
            }
            8 => {
                let stuck = random.chance(50);
                network.set_stuck(a, stuck);
            }
            9 if alive => {
                network.change(a, |c| {
                    let nth = random.below(c.peers.len());
                    if let Some(peer) = c.peers.get_mut(nth) {
                        topology::set_policies(self.kind, random, peer, c.asn, nodes);
                    }
                });
            }
            10 if alive => self.change_peers(a),
            11 if alive => self.rename(a),
            12 if alive => {
                let peers = &network.nodes[a].config.peers;
                let names: Vec<String> = peers.iter().map(|p| p.name.clone()).collect();
                if let Some(name) = names.get(random.below(names.len())) {
                    let how = match random.below(4) {
                        0 => Clear::Hard { message: "storm".to_owned() },
                        1 => Clear::SoftOut,
                        _ => Clear::SoftIn,
                    };
                    network.clear(a, Some(name), &how);
                }
            }
            13 => {
                let side: Vec<bool> = (0..nodes).map(|_| random.chance(50)).collect();
                let pairs = (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b)));
                for (a, b) in pairs.filter(|(a, b)| side[*a] != side[*b]) {
                    network.set_link(a, b, false);
                }
            }
            14 => network.cut_one_way(a, b),
            15 if alive && self.kind.is_drained() => {
                let of_all = random.chance(50);
                network.change(a, |c| {
                    let nth = random.below(c.peers.len());
                    match c.peers.get_mut(nth) {
                        Some(peer) if !of_all => peer.graceful_shutdown ^= true,
                        _ => c.graceful_shutdown ^= true,
                    }
                });
            }
            _ => {}
        }
    }

    /// Takes a peer out, or puts one in that was.
    fn change_peers(&mut self, at: usize) {
        let Self { network, random, peers, .. } = self;
        let missing = |c: &Config, peer: &&PeerConfig| {
            c.peers.iter().all(|other| other.address != peer.address)
        };
        let add = random.chance(60);
        network.change(at, |c| {
            if add {
                let peer = peers[at].iter().find(|peer| missing(c, peer)).cloned();
                c.peers.extend(peer);
            } else if !c.peers.is_empty() {
                c.peers.remove(random.below(c.peers.len()));
            }
        });
    }

    /// Calls a peer something else.
    fn rename(&mut self, at: usize) {
        let Self { network, random, .. } = self;
        network.change(at, |c| {
            if c.peers.is_empty() {
                return;
            }
            let nth = random.below(c.peers.len());
            let place = c.peers[nth].address;
            c.peers[nth].name = format!("{place}-{}", random.below(3));
        });
    }

    /// So many things happen, one after the other.
    pub(super) fn rage(&mut self, events: usize) {
        for _ in 0..events {
            self.happen();
            let longest = [100, 3000, 20_000][self.random.below(3)];
            let pause = Duration::from_millis(self.random.below(longest) as u64);
            self.network.run_for(pause);
        }
        self.count_stale();
    }

    /// What is counted as stale is what there is of it.
    fn count_stale(&mut self) {
        let now = self.network.now;
        for at in 0..self.network.nodes.len() {
            if self.network.nodes[at].core.is_none() {
                continue;
            }
            let routes = self.network.routes(at);
            for neighbor in self.network.core(at).neighbor_statuses(now) {
                for family in &neighbor.families {
                    let of = routes.iter().filter(|r| Family::of(&r.prefix) == family.family);
                    let paths = of.flat_map(|route| &route.paths);
                    let stale =
                        paths.filter(|p| p.stale && p.neighbor.as_ref() == Some(&neighbor.name));
                    let (stale, counted) = (stale.count(), family.stale_paths);
                    if stale != counted {
                        self.fail(&format!("node {at}, {}: {stale}, not {counted}", neighbor.name));
                    }
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        let network = &mut self.network;
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

    /// Runs until all sessions are up and nobody has anything to say any more.
    fn settle(&mut self, oracle: &Oracle) {
        let limit = self.network.now + 30 * MINUTE;
        let mut before = None;
        loop {
            // Longer than anything is under way that does not fill the windows.
            self.network.run_for(Duration::from_secs(5));
            let updates = self.updates_in_calm(oracle);
            if updates.is_ok() && updates == before.unwrap_or_else(|| Err(String::new())) {
                return;
            }
            if self.network.now >= limit {
                self.fail(&format!("no calm: {updates:?}"));
            }
            before = Some(updates);
        }
    }

    /// How many UPDATEs there have been, if every session is up, no route is left over from an
    /// earlier one, and nothing larger than KEEPALIVEs waits to be sent or to arrive; what is
    /// missing otherwise.
    fn updates_in_calm(&mut self, oracle: &Oracle) -> Result<u64, String> {
        let now = self.network.now;
        if self.network.backlog() > 40 {
            return Err("messages are under way".into());
        }
        let mut updates = 0;
        for at in 0..self.network.nodes.len() {
            let core = self.network.core(at);
            if !core.progress.selecting {
                return Err(format!("node {at} waits for its peers"));
            }
            if core.groups.deadline().is_some() {
                return Err(format!("node {at} waits for an advertisement interval"));
            }
            for neighbor in core.neighbor_statuses(now) {
                let linked = oracle.linked(at, oracle.named(at, &neighbor.name));
                let up = neighbor.state == State::Established;
                let old =
                    |f: &crate::speaker::FamilyStatus| f.stale || f.long_lived || f.refreshing;
                if up != linked || neighbor.families.iter().any(old) {
                    return Err(format!("node {at} has {}: {}", neighbor.name, neighbor.state));
                }
                updates += neighbor.counters.updates_sent + neighbor.counters.updates_received;
            }
        }
        Ok(updates)
    }

    fn check(&mut self) {
        let oracle = Oracle::of(&self.network);
        self.settle(&oracle);
        for at in 0..self.network.nodes.len() {
            if let Err(error) = oracle.check(&mut self.network, at) {
                let now = self.network.now;
                let neighbors = self.network.core(at).neighbor_statuses(now);
                let line = |n: &NeighborStatus| format!("{} {} {:?}", n.name, n.state, n.last_down);
                let sessions: Vec<String> = neighbors.iter().map(line).collect();
                self.fail(&format!("{error}\n{}", sessions.join("\n")));
            }
        }
        // It takes as long as all the rest: a quarter of the storms tells as much.
        if self.seed.is_multiple_of(4)
            && let Err(error) = advertised::agree(&mut self.network)
        {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &str) -> ! {
        panic!("{:?}, seed {}: {error}", self.kind, self.seed);
    }
}

#[test]
fn after_every_storm_each_rib_is_what_the_oracle_says() {
    seeds::each(0..2000, |seed| {
        let mut storm = Storm::small(seed);
        storm.check();
        storm.rage(if storm.kind.nodes() > 5 { 25 } else { 15 });
        storm.heal();
        storm.check();
    });
}

#[test]
fn large_networks_come_to_what_the_oracle_says() {
    seeds::each(0..4, |seed| {
        let mut storm = Storm::new(seed, Kind::large(seed));
        storm.check();
        storm.rage(20);
        storm.heal();
        storm.check();
    });
}

/// The control: a network that a speaker lacks is noticed, and one that it has too many.
#[test]
fn the_oracle_notices_what_is_missing_and_what_is_too_much() {
    for seed in 0..10 {
        let mut storm = Storm::small(seed);
        storm.check();
        let network = &mut storm.network;
        for at in 0..network.nodes.len() {
            let told = network.nodes[at].config.networks.clone();
            for wrong in [[&told[..], &own(&["10.255.255.0/24"])].concat(), Vec::new()] {
                if wrong == told {
                    continue;
                }
                // What the oracle reads; the speaker runs with what it was told.
                network.nodes[at].config.networks = wrong;
                let oracle = Oracle::of(network);
                assert!(oracle.check(network, at).is_err(), "node {at} of seed {seed}");
            }
            network.nodes[at].config.networks = told;
        }
        storm.check();
    }
}

/// The control: what an oracle does not know of does happen in these networks, and makes a
/// difference.
#[test]
fn an_oracle_that_lacks_a_feature_disagrees() {
    let features = [
        Feature::Reflection,
        Feature::SeveralPaths,
        Feature::ImportPolicies,
        Feature::ExportPolicies,
        Feature::Multipath,
        Feature::Roles,
        Feature::GracefulShutdown,
    ];
    let mut disagreed = [0; 7];
    for seed in 0..20 {
        let mut storm = Storm::new(seed, Kind::Tree { nodes: 12, drained: seed % 2 == 0 });
        storm.check();
        for (feature, count) in features.into_iter().zip(&mut disagreed) {
            let oracle = Oracle::lacking(&storm.network, feature);
            let nodes = 0..storm.network.nodes.len();
            let differs = |at| oracle.check(&mut storm.network, at).is_err();
            *count += usize::from(nodes.into_iter().any(differs));
        }
    }
    assert!(disagreed.iter().all(|count| *count >= 3), "{features:?}: {disagreed:?} of 20");
}

#[test]
fn when_everything_is_gone_nothing_is_left() {
    seeds::each(0..100, |seed| {
        let mut storm = Storm::small(seed);
        storm.rage(15);
        storm.heal();
        for at in 0..storm.network.nodes.len() {
            storm.network.change(at, |c| c.networks.clear());
        }
        storm.check();
        for at in 0..storm.network.nodes.len() {
            let left = storm.network.core(at).leftovers();
            assert_eq!(left, [0; 4], "prefixes, attribute and next hop sets of node {at}: {seed}");
        }
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut storm = Storm::small(seed);
        storm.rage(15);
        storm.heal();
        storm.network.run_for(MINUTE);
        let now = storm.network.now;
        let counters = |n: &mut Network, at| -> Vec<_> {
            n.core(at).neighbor_statuses(now).iter().map(|s| s.counters).collect()
        };
        let nodes = 0..storm.network.nodes.len();
        nodes.map(|at| counters(&mut storm.network, at)).collect::<Vec<_>>()
    };
    for seed in [3, 7, 12] {
        assert_eq!(run(seed), run(seed));
    }
}
