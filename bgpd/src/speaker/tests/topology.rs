//! Random topologies that have one stable state, so that it can be told whether they are in it.
//!
//! With reflection, LOCAL_PREF and MED a configuration may have no stable state (RFC 3345), or
//! several. Here:
//! - in a [graph](Kind::Graph) of any form nothing is reflected and nothing but the length of the AS
//!   path is set, which only grows on its way;
//! - in a [tree of ASes](Kind::Tree) LOCAL_PREF and MED are set on routes of prefixes that one node
//!   has, by sessions between ASes. These routes come to an AS from one neighboring AS only, so MED
//!   compares all of them, and no AS can prefer to have them from another that has them from it.
//!   Where sessions are drained no prefix is of two nodes, or two ASes would each prefer the other's
//!   to its own. Inside an AS all rank routes alike but for their own, and between two nodes there
//!   is one way: a tree of reflectors and their clients under a full mesh of roots;
//! - a [confederation](Kind::Confederation) is such a tree with but one way from each node to each
//!   other one, since its members rank routes by who told them;
//! - in a [fabric](Kind::Fabric) paths are rewritten, but none that went through a spine gets into
//!   another;
//! - several paths are sent by those who have at most one external session, so that no two of a
//!   prefix tie down to the path identifier, whose order depends on what came first.

use super::*;
use crate::config::{AddPaths, Confederation, ListenRange, LocalAs, RemovePrivateAs, SentPaths};
use crate::policy::{Action, Changes, MedChange, Policy, PrefixMatch, Rule};
use crate::transport::memory::Random;
use crate::wire::Role;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Graph {
        nodes: usize,
    },
    Tree {
        nodes: usize,
        /// Sessions and nodes may be the last choice of others (RFC 8326).
        drained: bool,
    },
    /// Each AS in one, two or three members of a confederation.
    Confederation {
        nodes: usize,
        ases: usize,
    },
    /// Every leaf an AS, with a session to each of the spines, which are one AS.
    Fabric {
        spines: usize,
        leaves: usize,
        paths: Paths,
    },
    /// One AS: a reflector and its clients.
    Star {
        clients: usize,
    },
}

/// What the spines of a fabric do to paths on their way to leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paths {
    Untouched,
    /// All leaves are one AS, whose number is replaced.
    Override,
    /// All leaves are one AS, and take in what was there once.
    AllowOnce,
    /// All AS numbers are private.
    Private(RemovePrivateAs),
    /// The spines go by another number.
    Other(LocalAs),
}

impl Paths {
    fn any(random: &mut Random) -> Self {
        match random.below(6) {
            0 => Self::Untouched,
            1 => Self::Override,
            2 => Self::AllowOnce,
            3 => Self::Private(RemovePrivateAs::All),
            4 => Self::Private(RemovePrivateAs::Replace),
            _ => Self::Other(LocalAs {
                no_prepend: random.chance(50),
                replace_as: random.chance(50),
            }),
        }
    }
}

impl Kind {
    /// One of few nodes, for the most part of very few: a run takes as long as there are sessions,
    /// and most of what can happen takes two or three.
    pub(super) fn small(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x51e0);
        let most = if random.chance(75) { 4 } else { 10 };
        match seed % 6 {
            0 | 3 => Self::Graph { nodes: 2 + random.below(most - 1) },
            1 | 4 => Self::Tree { nodes: 3 + random.below(most), drained: random.chance(40) },
            2 => Self::Confederation { nodes: 3 + random.below(most), ases: 1 + random.below(3) },
            _ => Self::fabric(random, most - 2),
        }
    }

    /// One of many nodes.
    pub(super) fn large(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x1a49e);
        match seed % 4 {
            0 => Self::Star { clients: 100 + random.below(100) },
            1 => Self::fabric(random, 60),
            2 => Self::Graph { nodes: 50 + random.below(50) },
            _ => Self::Tree { nodes: 50 + random.below(100), drained: random.chance(50) },
        }
    }

    fn fabric(random: &mut Random, most: usize) -> Self {
        let leaves = if most > 20 { most - random.below(20) } else { 1 + random.below(most) };
        Self::Fabric { spines: 2 + random.below(2), leaves, paths: Paths::any(random) }
    }

    pub(super) fn nodes(self) -> usize {
        match self {
            Self::Graph { nodes } | Self::Tree { nodes, .. } => nodes,
            Self::Confederation { nodes, .. } => nodes,
            Self::Fabric { spines, leaves, .. } => spines + leaves,
            Self::Star { clients } => clients + 1,
        }
    }

    /// So few nodes that each can have many networks.
    pub(super) fn is_small(self) -> bool {
        self.nodes() <= 20
    }

    pub(super) fn is_drained(self) -> bool {
        matches!(self, Self::Tree { drained: true, .. })
    }
}

/// The configurations of all nodes.
pub(super) fn configs(kind: Kind, random: &mut Random) -> Vec<Config> {
    let mut configs = match kind {
        Kind::Graph { nodes } => graph(nodes, random),
        Kind::Tree { nodes, .. } => tree(nodes, 1 + random.below(4), false, random),
        Kind::Confederation { nodes, ases } => tree(nodes, ases, true, random),
        Kind::Fabric { spines, leaves, paths } => fabric(spines, leaves, paths),
        Kind::Star { clients } => {
            let mut all: Vec<Config> = (0..=clients).map(|at| config(at, 65001)).collect();
            (1..=clients).for_each(|client| connect(&mut all, client, 0));
            all[0].peers.iter_mut().for_each(|peer| peer.route_reflector_client = true);
            all
        }
    };
    let nodes = configs.len();
    // KEEPALIVEs are most of what goes on in a calm network: short hold times are not for all.
    let hold_time = if kind.is_small() { [3, 9, 9, 90, 90, 90][random.below(6)] } else { 90 };
    if !matches!(kind, Kind::Graph { .. } | Kind::Fabric { .. }) {
        send_several(&mut configs, random);
    }
    if random.chance(15) {
        listen(&mut configs, random);
    }
    for (at, config) in configs.iter_mut().enumerate() {
        config.networks = networks(kind, random, at);
        let restart = &mut config.graceful_restart;
        restart.enabled = random.chance(85);
        restart.notification = random.chance(30);
        restart.restart_time = [5, 20, 60][random.below(3)];
        restart.stale_path_time = [10, 40][random.below(2)];
        restart.selection_deferral_time = [5, 30][random.below(2)];
        let long_lived = restart.enabled && random.chance(30);
        let long_lived_restart = &mut config.long_lived_graceful_restart;
        long_lived_restart.enabled = long_lived;
        long_lived_restart.stale_time = 30;
        if random.chance(30) {
            config.multipath.ebgp = [1, 2, 64][random.below(3)];
            config.multipath.ibgp = [1, 2, 64][random.below(3)];
            config.multipath.as_path_relax = random.chance(50);
        }
        config.graceful_shutdown = kind.is_drained() && random.chance(8);
        let own = config.asn;
        for peer in &mut config.peers {
            peer.graceful_shutdown = kind.is_drained() && random.chance(8);
            peer.honor_graceful_shutdown = random.chance(90);
            if random.chance(15) {
                peer.advertisement_interval = [1, 5, 20][random.below(3)];
            }
            peer.hold_time = hold_time;
            peer.connect_retry_time = 10;
            set_policies(kind, random, peer, own, nodes);
            // Two that both wait would wait for ever.
            peer.passive = random.chance(10) && peer.address > address(at);
        }
        for range in &mut config.listen_ranges {
            range.peer.hold_time = hold_time;
            set_policies(kind, random, &mut range.peer, own, nodes);
        }
    }
    // Nor would one come to whom nobody connects.
    let ranges: Vec<IpAddr> =
        (0..nodes).filter(|at| !configs[*at].listen_ranges.is_empty()).map(address).collect();
    for peer in configs.iter_mut().flat_map(|config| &mut config.peers) {
        peer.passive &= !ranges.contains(&peer.address);
    }
    configs
}

/// One node takes those of one AS as they come.
fn listen(configs: &mut [Config], random: &mut Random) {
    let at = random.below(configs.len());
    let config = &mut configs[at];
    let Some(first) = config.peers.get(random.below(config.peers.len())).cloned() else { return };
    config.peers.retain(|peer| peer.asn != first.asn);
    let name = "range".to_owned();
    // What fits one session may not fit another.
    let (address, role) = (Ipv6Addr::UNSPECIFIED.into(), None);
    let peer = PeerConfig { name, address, role, ..first };
    let mut range = ListenRange::new(net("192.0.0.0/16"), peer);
    range.limit = 1000;
    config.listen_ranges.push(range);
}

/// Every leaf with a session to every spine.
fn fabric(spines: usize, leaves: usize, paths: Paths) -> Vec<Config> {
    let one = matches!(paths, Paths::Override | Paths::AllowOnce);
    let mut all: Vec<Config> = (0..spines + leaves)
        .map(|at| {
            config(
                at,
                asn(if one { usize::from(at >= spines) } else { at.saturating_sub(spines - 1) }),
            )
        })
        .collect();
    for leaf in spines..spines + leaves {
        (0..spines).for_each(|spine| connect(&mut all, leaf, spine));
    }
    for (at, config) in all.iter_mut().enumerate() {
        for peer in &mut config.peers {
            match paths {
                Paths::Override if at < spines => peer.as_override = true,
                Paths::AllowOnce if at >= spines => peer.allowas_in = 1,
                Paths::Private(what) if at < spines => peer.remove_private_as = what,
                Paths::Other(local_as) if at < spines => {
                    (peer.local_asn, peer.local_as) = (Some(64999), local_as);
                }
                Paths::Other(_) => peer.asn = 64999.into(),
                _ => {}
            }
        }
    }
    all
}

/// So many nodes in up to so many ASes; connected, with some more links.
fn graph(nodes: usize, random: &mut Random) -> Vec<Config> {
    // Of a large one, too, a node has a few.
    let more = if nodes <= 20 { 30 } else { 2 };
    let mut configs: Vec<Config> =
        (0..nodes).map(|at| config(at, asn(random.below(nodes)))).collect();
    for a in 1..nodes {
        let mut others = vec![random.below(a)];
        others.extend((0..a).filter(|_| random.chance(more)));
        others.sort_unstable();
        others.dedup();
        for b in others {
            connect(&mut configs, a, b);
            set_roles(&mut configs, &[(a, b)], random);
        }
    }
    configs
}

/// On sessions between two ASes, all of which are of one kind.
fn set_roles(configs: &mut [Config], links: &[(usize, usize)], random: &mut Random) {
    if random.chance(60) {
        return;
    }
    let (down, up) = [
        (Role::Customer, Role::Provider),
        (Role::Provider, Role::Customer),
        (Role::Peer, Role::Peer),
        (Role::RsClient, Role::Rs),
    ][random.below(4)];
    let one_sided = random.chance(20);
    for (a, b) in links.iter().copied() {
        for (of, to, role) in [(a, b, Some(down)), (b, a, Some(up).filter(|_| !one_sided))] {
            let external = configs[of].asn != configs[to].asn;
            let peer = configs[of].peers.iter_mut().find(|p| p.address == address(to)).unwrap();
            peer.role = role.filter(|_| external);
        }
    }
}

/// So many nodes in up to so many ASes, up to three links between two of these; one, if they are in
/// members of confederations.
fn tree(nodes: usize, ases: usize, members: bool, random: &mut Random) -> Vec<Config> {
    let ases = ases.min(nodes);
    let mut configs: Vec<Config> = (0..nodes)
        .map(|at| config(at, asn(if at < ases { at } else { random.below(ases) })))
        .collect();
    let all: Vec<Vec<usize>> =
        (0..ases).map(|it| (0..nodes).filter(|at| configs[*at].asn == asn(it)).collect()).collect();
    for (it, nodes) in all.iter().enumerate() {
        let mut parts = vec![Vec::new(); if members { 1 + random.below(3) } else { 1 }];
        for (nth, at) in nodes.iter().enumerate() {
            let part = if nth < parts.len() { nth } else { random.below(parts.len()) };
            parts[part].push(*at);
        }
        parts.retain(|part| !part.is_empty());
        let numbers: Vec<u32> = (0..parts.len()).map(|part| asn(100 + 10 * it + part)).collect();
        for (part, number) in parts.iter().zip(&numbers).filter(|_| members) {
            for at in part {
                configs[*at].asn = *number;
                configs[*at].confederation =
                    Some(Confederation { identifier: asn(it), members: numbers.clone() });
            }
        }
        for (nth, part) in parts.iter().enumerate() {
            reflect(&mut configs, part, random);
            if nth > 0 {
                let (a, b) = (one_of(part, random), one_of(&parts[random.below(nth)], random));
                connect(&mut configs, a, b);
            }
        }
    }
    for it in 1..ases {
        let above = random.below(it);
        let several = if members { 1 } else { 1 + random.below(3) };
        let mut links: Vec<(usize, usize)> =
            (0..several).map(|_| (one_of(&all[it], random), one_of(&all[above], random))).collect();
        links.sort_unstable();
        links.dedup();
        links.iter().for_each(|(a, b)| connect(&mut configs, *a, *b));
        set_roles(&mut configs, &links, random);
    }
    configs
}

fn one_of(all: &[usize], random: &mut Random) -> usize {
    all[random.below(all.len())]
}

/// Connects the nodes of an AS: a tree of reflectors under a full mesh.
fn reflect(configs: &mut [Config], all: &[usize], random: &mut Random) {
    let mut roots: Vec<usize> = Vec::new();
    for (nth, at) in all.iter().copied().enumerate() {
        if nth == 0 || random.chance(25) {
            roots.iter().for_each(|root| connect(configs, at, *root));
            roots.push(at);
        } else {
            let reflector = all[random.below(nth)];
            connect(configs, at, reflector);
            configs[reflector].peers.last_mut().unwrap().route_reflector_client = true;
        }
        if random.chance(20) {
            configs[at].cluster_id =
                Some([Ipv4Addr::new(9, 9, 9, 1), Ipv4Addr::new(9, 9, 9, 2)][random.below(2)]);
        }
    }
}

/// The AS numbers.
fn asn(nth: usize) -> u32 {
    65001 + u32::try_from(nth).unwrap()
}

fn connect(configs: &mut [Config], a: usize, b: usize) {
    let whole = |at: usize| configs[at].confederation.as_ref().map(|c| c.identifier);
    let inside = whole(a) == whole(b);
    let [asn_a, asn_b] = [a, b].map(|at| whole(at).filter(|_| !inside).unwrap_or(configs[at].asn));
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
    // With many, some do not fit into a window or a message; a few are what most runs need.
    let many = if kind.is_small() { [3, 3, 6, 30][random.below(4)] } else { 2 };
    for n in 0..random.below(many) {
        all.push(format!("10.{at}.{n}.0/24"));
        if random.chance(30) {
            all.push(format!("fd00:{at}:{n}::/64"));
        }
    }
    let mut own: Vec<OwnNetwork> = all.iter().map(|p| OwnNetwork::new(net(p))).collect();
    if matches!(kind, Kind::Tree { .. }) {
        for network in &mut own {
            network.local_pref = random.chance(20).then(|| preference(random));
            network.med = random.chance(20).then(|| preference(random));
        }
    }
    let shared = match kind {
        Kind::Confederation { ases, .. } if ases > 1 => 1,
        Kind::Tree { drained: true, .. } => 1,
        kind if kind.is_small() => 4,
        _ => 2,
    };
    for n in 0..random.below(shared) {
        for prefix in [format!("192.168.{n}.0/24"), format!("fd99:{n}::/64")] {
            let mut network = OwnNetwork::new(net(&prefix));
            // No two alike, or it would be told by whom they came.
            let ranked = matches!(kind, Kind::Confederation { .. });
            network.local_pref = ranked.then(|| 100 + u32::try_from(at).unwrap());
            own.push(network);
        }
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
    let sets_preference = matches!(kind, Kind::Tree { .. }) && external;
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
