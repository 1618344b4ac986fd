//! The slow, obvious way: what every speaker must hold, computed from scratch from what all are
//! configured to be, over maps, until nothing changes any more. Prefixes have nothing to do with each
//! other, so each is computed for itself.

mod policy;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use policy::apply;

use super::*;
use crate::config::{RemovePrivateAs, SentPaths};
use crate::wire::Role;

/// GRACEFUL_SHUTDOWN (RFC 8326).
const SHUTDOWN: u32 = 0xffff_0000;

/// A route as one speaker has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    /// The members of the confederation in front of the path.
    members: Vec<u32>,
    path: Vec<u32>,
    next_hop: IpAddr,
    local_pref: Option<u32>,
    med: Option<u32>,
    originator: Option<Ipv4Addr>,
    clusters: Vec<Ipv4Addr>,
    communities: BTreeSet<u32>,
    /// ONLY_TO_CUSTOMER, which nobody shows.
    only_to_customer: Option<u32>,
}

/// Where two speakers stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Border {
    /// In one AS.
    None,
    /// In two members of a confederation.
    Member,
    /// In two ASes.
    As,
}

/// A route from a neighbor, and whether it may be used.
type Held = (Route, bool);

/// What one speaker knows of a prefix, by neighbor; its own network is from itself.
type Known = BTreeMap<usize, Vec<Held>>;

/// What is compared: all paths with who they are from, and the best one's neighbor with all next
/// hops that are used.
type Seen = (Vec<(usize, Route)>, Option<(usize, BTreeSet<IpAddr>)>);

/// What an oracle can be without.
#[derive(Clone, Copy, Debug)]
pub(super) enum Feature {
    Reflection,
    SeveralPaths,
    ImportPolicies,
    ExportPolicies,
    Multipath,
    Roles,
    GracefulShutdown,
}

pub(super) struct Oracle {
    configs: Vec<Config>,
    addresses: BTreeMap<IpAddr, usize>,
    /// By node: those it has a session with, and how they are configured.
    links: Vec<BTreeMap<usize, PeerConfig>>,
    known: BTreeMap<IpNet, Vec<Known>>,
}

impl Oracle {
    /// What the configurations of these nodes come to, with all sessions up.
    pub(super) fn of(network: &Network) -> Self {
        Self::reading(network, |_| {})
    }

    /// The same of one that does not know of a feature.
    pub(super) fn lacking(network: &Network, feature: Feature) -> Self {
        Self::reading(network, |config| {
            match feature {
                Feature::Multipath => (config.multipath.ebgp, config.multipath.ibgp) = (1, 1),
                Feature::GracefulShutdown => config.graceful_shutdown = false,
                _ => {}
            }
            for peer in &mut config.peers {
                match feature {
                    Feature::Reflection => peer.route_reflector_client = false,
                    Feature::SeveralPaths => peer.add_paths = crate::config::AddPaths::default(),
                    Feature::ImportPolicies => peer.import = None,
                    Feature::ExportPolicies => peer.export = None,
                    Feature::Multipath => {}
                    Feature::Roles => peer.role = None,
                    Feature::GracefulShutdown => peer.graceful_shutdown = false,
                }
            }
        })
    }

    fn reading(network: &Network, read: impl Fn(&mut Config)) -> Self {
        let nodes = &network.nodes;
        let mut configs: Vec<Config> = nodes.iter().map(|n| n.config.clone()).collect();
        configs.iter_mut().for_each(read);
        let addresses: BTreeMap<IpAddr, usize> =
            nodes.iter().enumerate().map(|(at, n)| (n.address, at)).collect();
        let mut links: Vec<BTreeMap<usize, PeerConfig>> = configs
            .iter()
            .map(|c| c.peers.iter().map(|p| (addresses[&p.address], p.clone())).collect())
            .collect();
        for (at, config) in configs.iter().enumerate() {
            for range in &config.listen_ranges {
                for (other, its) in configs.iter().enumerate() {
                    let comes = its.peers.iter().find(|p| p.address == nodes[at].address);
                    if comes.is_some_and(|p| range.peer.asn == number(its, p, config)) {
                        links[at].entry(other).or_insert_with(|| range.peer.clone());
                    }
                }
            }
        }
        // A session takes two who want it.
        let wanted: BTreeSet<(usize, usize)> = links
            .iter()
            .enumerate()
            .flat_map(|(at, peers)| peers.keys().map(move |other| (at, *other)))
            .collect();
        for (at, peers) in links.iter_mut().enumerate() {
            peers.retain(|other, _| wanted.contains(&(*other, at)));
        }
        let mut oracle = Self { configs, addresses, links, known: BTreeMap::new() };
        let prefixes: BTreeSet<IpNet> =
            oracle.configs.iter().flat_map(|c| c.networks.iter().map(|n| n.prefix)).collect();
        for prefix in prefixes {
            let known = oracle.converge(&prefix);
            oracle.known.insert(prefix, known);
        }
        oracle
    }

    /// Whether two nodes, by place, are to have a session.
    pub(super) fn linked(&self, a: usize, b: usize) -> bool {
        self.links[a].contains_key(&b)
    }

    /// The node that a neighbor's name stands for.
    pub(super) fn named(&self, at: usize, name: &str) -> usize {
        let peer = self.configs[at].peers.iter().find(|p| p.name == name);
        // One of a listen range is called after its address.
        let found = || name.rsplit_once('-').unwrap().1.parse().unwrap();
        self.addresses[&peer.map_or_else(found, |peer| peer.address)]
    }

    /// Those who have news tell everybody, until nobody has any.
    fn converge(&self, prefix: &IpNet) -> Vec<Known> {
        let mut all = vec![Known::new(); self.configs.len()];
        for (at, config) in self.configs.iter().enumerate() {
            if let Some(own) = config.networks.iter().find(|n| n.prefix == *prefix) {
                let route = Route {
                    members: Vec::new(),
                    path: Vec::new(),
                    next_hop: Ipv4Addr::UNSPECIFIED.into(),
                    local_pref: own.local_pref,
                    med: own.med,
                    originator: None,
                    clusters: Vec::new(),
                    communities: BTreeSet::new(),
                    only_to_customer: None,
                };
                all[at].insert(at, vec![(route, true)]);
            }
        }
        let mut news: BTreeSet<usize> = (0..all.len()).filter(|at| !all[*at].is_empty()).collect();
        for round in 0.. {
            assert!(round < 1000, "{prefix} does not settle: the topology is no good one");
            let mut arriving = Vec::new();
            for from in std::mem::take(&mut news) {
                let used = self.used(from, &all[from]);
                for to in self.links[from].keys() {
                    let told = self.told(from, *to, prefix, (&all[from], &used));
                    let held: Vec<Held> =
                        told.into_iter().map(|r| self.judge(from, *to, prefix, r)).collect();
                    if all[*to].get(&from).map_or(&[][..], |h| h) != held {
                        arriving.push((from, *to, held));
                    }
                }
            }
            if arriving.is_empty() {
                break;
            }
            for (from, to, held) in arriving {
                news.insert(to);
                if held.is_empty() {
                    all[to].remove(&from);
                } else {
                    all[to].insert(from, held);
                }
            }
        }
        all
    }

    fn border(&self, a: usize, b: usize) -> Border {
        let [a, b] = [a, b].map(|at| &self.configs[at]);
        match (whole(a), whole(b)) {
            _ if a.asn == b.asn => Border::None,
            (Some(one), Some(other)) if one == other => Border::Member,
            _ => Border::As,
        }
    }

    fn external(&self, a: usize, b: usize) -> bool {
        self.border(a, b) == Border::As
    }

    /// The AS number that one goes by to another.
    fn number(&self, at: usize, to: usize) -> u32 {
        number(&self.configs[at], &self.links[at][&to], &self.configs[to])
    }

    /// Whether a session, or all of one end of it, is about to end.
    fn drained(&self, at: usize, to: usize) -> bool {
        self.configs[at].graceful_shutdown || self.links[at][&to].graceful_shutdown
    }

    /// What becomes of a route that arrives: loops and leaks are refused, the rest is up to the
    /// policy.
    fn judge(&self, from: usize, at: usize, prefix: &IpNet, route: Route) -> Held {
        let (config, peer) = (&self.configs[at], &self.links[at][&from]);
        let (external, theirs) = (self.external(at, from), self.number(from, at));
        let whole = whole(config).unwrap_or(config.asn);
        let ours = [whole, peer.local_asn.unwrap_or(whole)];
        let times = route.path.iter().filter(|n| ours.contains(n)).count()
            + route.members.iter().filter(|n| **n == config.asn).count();
        let own = [address(at), address_v6(at).into()];
        let role = peer.role.filter(|_| external);
        let looped = times > usize::from(peer.allowas_in)
            || route.originator == Some(config.router_id)
            || route.clusters.contains(&config.cluster())
            || own.contains(&route.next_hop);
        let leaked = match role {
            Some(Role::Provider | Role::Rs) => route.only_to_customer.is_some(),
            Some(Role::Peer) => route.only_to_customer.is_some_and(|by| by != theirs),
            _ => false,
        };
        if looped || leaked {
            return (route, false);
        }
        let mut changed = route.clone();
        if matches!(role, Some(Role::Customer | Role::RsClient | Role::Peer)) {
            changed.only_to_customer.get_or_insert(theirs);
        }
        if let Some(local) = peer.local_asn.filter(|_| external && !peer.local_as.no_prepend) {
            changed.path.insert(0, local);
        }
        let inside = !external && config.confederation.is_some();
        let number = self.number(at, from);
        let accepted = apply(peer.import.as_ref(), prefix, &changed, number, inside);
        let Some(mut changed) = accepted else { return (route, false) };
        let told = peer.honor_graceful_shutdown && changed.communities.contains(&SHUTDOWN);
        if external && (told || self.drained(at, from)) {
            changed.local_pref = Some(0);
        }
        (changed, true)
    }

    /// The paths that are used, the best one first.
    fn used(&self, at: usize, known: &Known) -> Vec<(usize, Route)> {
        let mut left: Vec<(usize, Route)> = known
            .iter()
            .flat_map(|(from, held)| held.iter().map(move |held| (*from, held)))
            .filter(|(_, (_, usable))| *usable)
            .map(|(from, (route, _))| (from, route.clone()))
            .collect();
        keep_lowest(&mut left, |(from, r)| {
            (*from != at, Reverse(r.local_pref.unwrap_or(100)), r.path.len())
        });
        // MULTI_EXIT_DISC says something only among routes of one neighboring AS.
        let all = left.clone();
        left.retain(|(_, r)| {
            let better = |(_, other): &(usize, Route)| {
                other.path.first() == r.path.first() && other.med.unwrap_or(0) < r.med.unwrap_or(0)
            };
            !all.iter().any(better)
        });
        keep_lowest(&mut left, |(from, _)| !self.external(at, *from));
        left.sort_by_key(|(from, r)| {
            (r.originator.unwrap_or(self.configs[*from].router_id), r.clusters.len(), *from)
        });
        let multipath = self.configs[at].multipath;
        if let Some((_, best)) = left.first().cloned().filter(|_| !multipath.as_path_relax) {
            left.retain(|(_, r)| (&r.members, &r.path) == (&best.members, &best.path));
        }
        let external = left.first().is_some_and(|(from, _)| self.external(at, *from));
        left.truncate(usize::from(if external { multipath.ebgp } else { multipath.ibgp }));
        left
    }

    /// What one speaker, by what it knows and uses of it, tells another of a prefix.
    fn told(
        &self,
        from: usize,
        to: usize,
        prefix: &IpNet,
        (known, used): (&Known, &[(usize, Route)]),
    ) -> Vec<Route> {
        let takes_several = self.links[to][&from].add_paths.receive;
        let which = self.links[from][&to].add_paths.send.filter(|_| takes_several);
        let mut paths: Vec<(usize, Route)> = match which {
            Some(SentPaths::All) => known
                .iter()
                .flat_map(|(source, held)| held.iter().map(move |held| (*source, held)))
                .filter(|(_, (_, usable))| *usable)
                .map(|(source, (route, _))| (source, route.clone()))
                .collect(),
            Some(SentPaths::Used) => used.to_vec(),
            None => used.first().cloned().into_iter().collect(),
        };
        paths.retain(|(source, _)| *source != to);
        let mut told: Vec<Route> = paths
            .into_iter()
            .filter_map(|(source, route)| self.export(from, source, to, prefix, route))
            .collect();
        told.sort();
        told
    }

    /// What a route from `source` is on the way from one speaker to another.
    fn export(
        &self,
        from: usize,
        source: usize,
        to: usize,
        prefix: &IpNet,
        mut route: Route,
    ) -> Option<Route> {
        let border = self.border(from, to);
        let external = border == Border::As;
        let reflected =
            source != from && self.border(from, source) == Border::None && border == Border::None;
        let client = |of: usize| self.links[from][&of].route_reflector_client;
        if reflected && !client(source) && !client(to) {
            return None;
        }
        let (config, peer) = (&self.configs[from], &self.links[from][&to]);
        let (ours, theirs) = (self.number(from, to), self.number(to, from));
        let role = peer.role.filter(|_| external);
        let upwards = matches!(role, Some(Role::Customer | Role::RsClient | Role::Peer));
        if upwards && route.only_to_customer.is_some() {
            return None;
        }
        if external {
            if source != from {
                route.med = None;
            }
            route.members.clear();
            let hidden = |n: &u32| (64512..65535).contains(n) && *n != theirs;
            match peer.remove_private_as {
                RemovePrivateAs::Off => {}
                RemovePrivateAs::All => route.path.retain(|n| !hidden(n)),
                RemovePrivateAs::Replace => replace(&mut route.path, hidden, ours),
            }
            if peer.as_override {
                replace(&mut route.path, |n| *n == theirs, ours);
            }
        }
        let inside = !external && config.confederation.is_some();
        let mut route = apply(peer.export.as_ref(), prefix, &route, ours, inside)?;
        let drained = self.drained(from, to);
        match border {
            Border::As => {
                if matches!(role, Some(Role::Provider | Role::Rs | Role::Peer)) {
                    route.only_to_customer.get_or_insert(ours);
                }
                if drained {
                    route.communities.insert(SHUTDOWN);
                }
                if peer.local_asn.is_some() && !peer.local_as.replace_as {
                    route.path.insert(0, config.asn);
                }
                route.path.insert(0, ours);
                route.local_pref = None;
            }
            Border::Member => route.members.insert(0, config.asn),
            Border::None => {}
        }
        if border != Border::None {
            route.originator = None;
            route.clusters.clear();
        }
        if !external {
            // What is reflected keeps its next hop here: it does not lead through the reflector.
            let last = drained && !reflected;
            route.local_pref = Some(if last { 0 } else { route.local_pref.unwrap_or(100) });
        }
        if reflected {
            route.originator.get_or_insert(self.configs[source].router_id);
            route.clusters.insert(0, config.cluster());
        }
        if external || source == from {
            let v4 = prefix.addr().is_ipv4();
            route.next_hop = if v4 { address(from) } else { address_v6(from).into() };
        }
        Some(route)
    }

    /// Compares with what a speaker holds.
    pub(super) fn check(&self, network: &mut Network, at: usize) -> Result<(), String> {
        let wanted: BTreeMap<IpNet, Seen> = self
            .known
            .iter()
            .filter(|(_, known)| !known[at].is_empty())
            .map(|(prefix, known)| (*prefix, self.seen(at, &known[at])))
            .collect();
        let held: BTreeMap<IpNet, Seen> =
            network.routes(at).iter().map(|r| (r.prefix, self.shown(at, r))).collect();
        if wanted == held {
            return Ok(());
        }
        let prefixes: BTreeSet<&IpNet> = wanted.keys().chain(held.keys()).collect();
        let different = prefixes.into_iter().find(|p| wanted.get(p) != held.get(p)).unwrap();
        Err(format!(
            "node {at}, {different}:\n wanted {:#?}\n  holds {:#?}",
            wanted.get(different),
            held.get(different)
        ))
    }

    fn seen(&self, at: usize, known: &Known) -> Seen {
        let mut paths: Vec<(usize, Route)> = known
            .iter()
            .flat_map(|(from, held)| held.iter().map(|(route, _)| (*from, route.clone())))
            .map(|(from, route)| (from, Route { only_to_customer: None, ..route }))
            .collect();
        paths.sort();
        let used = self.used(at, known);
        let hops = used.iter().filter(|(from, _)| *from != at).map(|(_, r)| r.next_hop).collect();
        (paths, used.first().map(|(best, _)| (*best, hops)))
    }

    fn shown(&self, at: usize, route: &RouteStatus) -> Seen {
        let from = |path: &crate::speaker::PathStatus| {
            path.neighbor.as_ref().map_or(at, |name| self.named(at, name))
        };
        let mut paths: Vec<(usize, Route)> = route
            .paths
            .iter()
            .map(|path| {
                let (inside, outside) = match path.attributes.as_path.strip_prefix('(') {
                    Some(both) => both.split_once(')').unwrap(),
                    None => ("", &path.attributes.as_path[..]),
                };
                let numbers = |text: &str| -> Vec<u32> {
                    text.split_whitespace().map(|n| n.parse().unwrap()).collect()
                };
                let route = Route {
                    members: numbers(inside),
                    path: numbers(outside),
                    next_hop: path.attributes.next_hop,
                    local_pref: path.attributes.local_pref,
                    med: path.attributes.med,
                    originator: path.attributes.originator,
                    clusters: path.attributes.clusters.clone(),
                    communities: path.attributes.communities.iter().map(|c| c.0).collect(),
                    only_to_customer: None,
                };
                (from(path), route)
            })
            .collect();
        paths.sort();
        let hops = route.next_hops.iter().map(|h| h.addr).collect();
        (paths, route.paths.iter().find(|p| p.best).map(|path| (from(path), hops)))
    }
}

fn whole(config: &Config) -> Option<u32> {
    config.confederation.as_ref().map(|confederation| confederation.identifier)
}

/// The AS number that one goes by on its session `peer` with another.
fn number(one: &Config, peer: &PeerConfig, other: &Config) -> u32 {
    let outside = whole(one).filter(|_| whole(one) != whole(other));
    peer.local_asn.or(outside).unwrap_or(one.asn)
}

fn keep_lowest<K: Ord>(left: &mut Vec<(usize, Route)>, key: impl Fn(&(usize, Route)) -> K) {
    let lowest = left.iter().map(&key).min();
    left.retain(|it| Some(key(it)) == lowest);
}

fn replace(path: &mut [u32], which: impl Fn(&u32) -> bool, by: u32) {
    path.iter_mut().filter(|n| which(n)).for_each(|n| *n = by);
}
