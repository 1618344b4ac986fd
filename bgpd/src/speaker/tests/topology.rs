//! Random topologies that have one stable state, so that it can be told whether they are in it.
//!
//! With reflection, LOCAL_PREF and MED a configuration may have no stable state (RFC 3345), or
//! several. Here:
//! - in a [graph](Kind::Graph) of any form nothing is reflected and nothing but the length of the AS
//!   path is set, which only grows on its way;
//! - in a [tree of ASes](Kind::Tree) LOCAL_PREF and MED are set on routes of prefixes that one node
//!   has, by sessions between ASes. These routes come to an AS from one neighboring AS only, so MED
//!   compares all of them, and no AS can prefer to have them from another that has them from it.
//!   Inside an AS all rank routes alike but for their own, and between two nodes there is one way: a
//!   tree of reflectors and their clients under a full mesh of roots;
//! - several paths are sent by those who have at most one external session, so that no two of a
//!   prefix tie down to the path identifier, whose order depends on what came first.

use super::*;
use crate::config::{AddPaths, SentPaths};
use crate::policy::{Action, Changes, MedChange, Policy, PrefixMatch, Rule};
use crate::transport::memory::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Graph,
    Tree,
    /// Every leaf an AS, with a session to each of the spines, which are one AS.
    Fabric {
        spines: usize,
        leaves: usize,
    },
    /// One AS: a reflector and its clients.
    Star {
        clients: usize,
    },
}

/// The configurations of all nodes.
pub(super) fn configs(kind: Kind, random: &mut Random) -> Vec<Config> {
    let mut configs = match kind {
        Kind::Graph => graph(random),
        Kind::Tree => tree(random),
        Kind::Fabric { spines, leaves } => {
            let asns = (0..spines + leaves).map(|at| asn(at.saturating_sub(spines - 1)));
            let mut all: Vec<Config> = asns.enumerate().map(|(at, asn)| config(at, asn)).collect();
            for leaf in spines..spines + leaves {
                (0..spines).for_each(|spine| connect(&mut all, leaf, spine));
            }
            all
        }
        Kind::Star { clients } => {
            let mut all: Vec<Config> = (0..=clients).map(|at| config(at, 65001)).collect();
            (1..=clients).for_each(|client| connect(&mut all, client, 0));
            all[0].peers.iter_mut().for_each(|peer| peer.route_reflector_client = true);
            all
        }
    };
    let nodes = configs.len();
    if matches!(kind, Kind::Tree | Kind::Star { .. }) {
        send_several(&mut configs, random);
    }
    for (at, config) in configs.iter_mut().enumerate() {
        config.networks = networks(kind, random, at);
        let restart = &mut config.graceful_restart;
        restart.enabled = random.chance(85);
        restart.notification = random.chance(30);
        restart.restart_time = [5, 30, 120][random.below(3)];
        restart.stale_path_time = [10, 60][random.below(2)];
        restart.selection_deferral_time = [5, 30][random.below(2)];
        let long_lived = restart.enabled && random.chance(30);
        let long_lived_restart = &mut config.long_lived_graceful_restart;
        long_lived_restart.enabled = long_lived;
        long_lived_restart.stale_time = 60;
        let own = config.asn;
        for peer in &mut config.peers {
            peer.hold_time = if nodes > 20 { 90 } else { [3, 9, 90][random.below(3)] };
            set_policies(kind, random, peer, own, nodes);
            // Two that both wait would wait for ever.
            peer.passive = random.chance(10) && peer.address > address(at);
        }
    }
    configs
}

/// 2 to 9 nodes in 1 to 9 ASes; connected, with some more links.
fn graph(random: &mut Random) -> Vec<Config> {
    let nodes = 2 + random.below(8);
    let mut configs: Vec<Config> =
        (0..nodes).map(|at| config(at, asn(random.below(nodes)))).collect();
    for a in 1..nodes {
        let mut others = vec![random.below(a)];
        others.extend((0..a).filter(|_| random.chance(30)));
        others.sort_unstable();
        others.dedup();
        others.into_iter().for_each(|b| connect(&mut configs, a, b));
    }
    configs
}

/// 4 to 12 nodes in 1 to 4 ASes, up to three links between two of these.
fn tree(random: &mut Random) -> Vec<Config> {
    let nodes = 4 + random.below(9);
    let ases = 1 + random.below(4);
    let mut configs: Vec<Config> = (0..nodes)
        .map(|at| config(at, asn(if at < ases { at } else { random.below(ases) })))
        .collect();
    let members: Vec<Vec<usize>> =
        (0..ases).map(|it| (0..nodes).filter(|at| configs[*at].asn == asn(it)).collect()).collect();
    for all in &members {
        let mut roots: Vec<usize> = Vec::new();
        for (nth, at) in all.iter().copied().enumerate() {
            if nth == 0 || random.chance(25) {
                roots.iter().for_each(|root| connect(&mut configs, at, *root));
                roots.push(at);
            } else {
                let reflector = all[random.below(nth)];
                connect(&mut configs, at, reflector);
                configs[reflector].peers.last_mut().unwrap().route_reflector_client = true;
            }
            if random.chance(20) {
                configs[at].cluster_id =
                    Some([Ipv4Addr::new(9, 9, 9, 1), Ipv4Addr::new(9, 9, 9, 2)][random.below(2)]);
            }
        }
    }
    for it in 1..ases {
        let above = random.below(it);
        let mut links: Vec<(usize, usize)> = (0..=random.below(3))
            .map(|_| {
                let one_of = |all: &Vec<usize>, random: &mut Random| all[random.below(all.len())];
                (one_of(&members[it], random), one_of(&members[above], random))
            })
            .collect();
        links.sort_unstable();
        links.dedup();
        links.into_iter().for_each(|(a, b)| connect(&mut configs, a, b));
    }
    configs
}

/// The AS numbers.
fn asn(nth: usize) -> u32 {
    65001 + u32::try_from(nth).unwrap()
}

fn connect(configs: &mut [Config], a: usize, b: usize) {
    let (asn_a, asn_b) = (configs[a].asn, configs[b].asn);
    configs[a].peers.push(peer(a, b, asn_b));
    configs[b].peers.push(peer(b, a, asn_a));
}

/// Some sessions carry several paths.
fn send_several(configs: &mut [Config], random: &mut Random) {
    let place = |peer: &PeerConfig| peer.name[1..].parse::<usize>().unwrap();
    for at in 0..configs.len() {
        let asn = configs[at].asn;
        let is_external = |peer: &PeerConfig| peer.asn != asn;
        if configs[at].peers.iter().filter(|p| is_external(p)).count() > 1 || random.chance(40) {
            continue;
        }
        for nth in 0..configs[at].peers.len() {
            let other = place(&configs[at].peers[nth]);
            // What ties on an external session is not passed on by one that has no other.
            if is_external(&configs[at].peers[nth]) && configs[other].peers.len() > 1
                || random.chance(40)
            {
                continue;
            }
            let which = [SentPaths::All, SentPaths::Used][random.below(2)];
            configs[at].peers[nth].add_paths.send = Some(which);
            let back = configs[other].peers.iter_mut().find(|p| place(p) == at).unwrap();
            back.add_paths = AddPaths { receive: true, ..back.add_paths };
        }
    }
}

/// Some prefixes of a node's own, some that others have as well.
pub(super) fn networks(kind: Kind, random: &mut Random, at: usize) -> Vec<OwnNetwork> {
    let mut all = Vec::new();
    let many = if matches!(kind, Kind::Graph | Kind::Tree) { 30 } else { 2 };
    for n in 0..random.below(many) {
        all.push(format!("10.{at}.{n}.0/24"));
        if random.chance(30) {
            all.push(format!("fd00:{at}:{n}::/64"));
        }
    }
    let mut own: Vec<OwnNetwork> = all.iter().map(|p| OwnNetwork::new(net(p))).collect();
    if kind == Kind::Tree {
        for network in &mut own {
            network.local_pref = random.chance(20).then(|| preference(random));
            network.med = random.chance(20).then(|| preference(random));
        }
    }
    for n in 0..random.below(if many == 30 { 4 } else { 2 }) {
        own.push(OwnNetwork::new(net(&format!("192.168.{n}.0/24"))));
        own.push(OwnNetwork::new(net(&format!("fd99:{n}::/64"))));
    }
    own
}

fn preference(random: &mut Random) -> u32 {
    [50, 100, 150][random.below(3)]
}

/// Other policies for a session.
pub(super) fn set_policies(
    kind: Kind,
    random: &mut Random,
    peer: &mut PeerConfig,
    asn: u32,
    nodes: usize,
) {
    let external = peer.asn != asn;
    let sets_preference = kind == Kind::Tree && external;
    let mut policy = |import: bool| {
        let mut rules = Vec::new();
        for _ in 0..random.below(4) {
            let of = random.below(nodes);
            let inside = |text: String| PrefixMatch::inside(net(&text));
            let prefixes =
                Some(vec![inside(format!("10.{of}.0.0/16")), inside(format!("fd00:{of}::/32"))]);
            let mut set = Changes::default();
            let mut action = [Action::Accept, Action::Continue][random.below(2)];
            match random.below(4) {
                0 => action = Action::Reject,
                1 if sets_preference && import => set.local_pref = Some(preference(random)),
                2 if sets_preference => set.med = Some(MedChange::Set(preference(random))),
                3 if external && !import => set.prepend_own = [1, 2][random.below(2)],
                _ => {}
            }
            rules.push(Rule { prefixes, action, set, ..Rule::default() });
        }
        (!rules.is_empty()).then_some(Policy { rules, default: Action::Accept })
    };
    peer.import = policy(true);
    peer.export = policy(false);
}
