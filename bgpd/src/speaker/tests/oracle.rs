//! The slow, obvious way: what every speaker must hold, computed from scratch over maps until
//! nothing changes any more.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A route as one speaker has it from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    path: Vec<u32>,
    next_hop: IpAddr,
}

/// What is known to one speaker: by prefix, by neighbor; its own networks are from itself.
type Table = BTreeMap<IpNet, BTreeMap<usize, Route>>;

/// The best neighbor, and all next hops to use.
type Choice = (usize, BTreeSet<IpAddr>);

pub(super) struct Oracle {
    asns: Vec<u32>,
    links: BTreeSet<(usize, usize)>,
    tables: Vec<Table>,
}

impl Oracle {
    /// What the configurations of these nodes come to, with all sessions up.
    pub(super) fn of(network: &Network) -> Self {
        let nodes = &network.nodes;
        let asns = nodes.iter().map(|n| n.config.asn).collect();
        let mut links = BTreeSet::new();
        for (at, node) in nodes.iter().enumerate() {
            for peer in &node.config.peers {
                let other = nodes.iter().position(|n| n.address == peer.address).unwrap();
                links.insert((at, other));
            }
        }
        let mut oracle = Self { asns, links, tables: vec![Table::new(); nodes.len()] };
        for (at, node) in nodes.iter().enumerate() {
            for own in &node.config.networks {
                let next_hop = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let route = Route { path: Vec::new(), next_hop };
                oracle.tables[at].entry(own.prefix).or_default().insert(at, route);
            }
        }
        while oracle.round() {}
        oracle
    }

    fn external(&self, a: usize, b: usize) -> bool {
        self.asns[a] != self.asns[b]
    }

    fn usable(&self, at: usize, from: usize, route: &Route) -> bool {
        let own = [address(at), address_v6(at).into()];
        from == at || (!route.path.contains(&self.asns[at]) && !own.contains(&route.next_hop))
    }

    /// Our own; else the shortest path; else external; among these the lowest address, which is
    /// the BGP Identifier here, and all are used.
    fn choose(&self, at: usize, prefix: &IpNet) -> Option<Choice> {
        let candidates = self.tables[at].get(prefix)?;
        let rank =
            |from: usize, route: &Route| (from != at, route.path.len(), !self.external(at, from));
        let usable: Vec<_> =
            candidates.iter().filter(|(from, r)| self.usable(at, **from, r)).collect();
        let best = usable.iter().map(|(from, r)| rank(**from, r)).min()?;
        let equal: Vec<_> =
            usable.into_iter().filter(|(from, r)| rank(**from, r) == best).collect();
        let first = *equal[0].0;
        let hops = if first == at {
            BTreeSet::new()
        } else {
            equal.iter().map(|(_, r)| r.next_hop).collect()
        };
        Some((first, hops))
    }

    fn told(&self, from: usize, to: usize, prefix: &IpNet) -> Option<Route> {
        let (best, _) = self.choose(from, prefix)?;
        let internal_source = best != from && !self.external(from, best);
        if best == to || (internal_source && !self.external(from, to)) {
            return None;
        }
        let mut route = self.tables[from][prefix][&best].clone();
        let ourselves: IpAddr =
            if prefix.addr().is_ipv4() { address(from) } else { address_v6(from).into() };
        if self.external(from, to) {
            route.path.insert(0, self.asns[from]);
        }
        if self.external(from, to) || best == from {
            route.next_hop = ourselves;
        }
        Some(route)
    }

    /// Everybody tells everybody; whether that changed anything.
    fn round(&mut self) -> bool {
        let prefixes: BTreeSet<IpNet> =
            self.tables.iter().flat_map(BTreeMap::keys).copied().collect();
        let mut news = Vec::new();
        for &(from, to) in &self.links {
            for prefix in &prefixes {
                let told = self.told(from, to, prefix);
                let known = self.tables[to].get(prefix).and_then(|t| t.get(&from));
                if told.as_ref() != known {
                    news.push((from, to, *prefix, told));
                }
            }
        }
        for (from, to, prefix, told) in &news {
            let entry = self.tables[*to].entry(*prefix).or_default();
            match told {
                Some(route) => entry.insert(*from, route.clone()),
                None => entry.remove(from),
            };
        }
        !news.is_empty()
    }

    /// Compares with what a speaker holds.
    pub(super) fn check(&self, network: &mut Network, at: usize) -> Result<(), String> {
        let mut wanted = BTreeMap::new();
        for (prefix, routes) in &self.tables[at] {
            let paths: BTreeMap<Option<String>, (String, IpAddr)> = routes
                .iter()
                .map(|(from, route)| {
                    let name = (*from != at).then(|| format!("n{from}"));
                    let path: Vec<String> = route.path.iter().map(u32::to_string).collect();
                    (name, (path.join(" "), route.next_hop))
                })
                .collect();
            if !paths.is_empty() {
                let best = self
                    .choose(at, prefix)
                    .map(|(best, hops)| ((best != at).then(|| format!("n{best}")), hops));
                wanted.insert(*prefix, (paths, best));
            }
        }
        let mut held = BTreeMap::new();
        for route in network.routes(at) {
            let paths: BTreeMap<_, _> = route
                .paths
                .iter()
                .map(|p| (p.neighbor.clone(), (p.as_path.clone(), p.next_hop)))
                .collect();
            let hops = route.next_hops.iter().map(|h| h.addr).collect::<BTreeSet<_>>();
            let best = route.paths.iter().find(|p| p.best).map(|p| (p.neighbor.clone(), hops));
            held.insert(route.prefix, (paths, best));
        }
        if wanted == held {
            return Ok(());
        }
        let prefixes: BTreeSet<&IpNet> = wanted.keys().chain(held.keys()).collect();
        let different = prefixes.into_iter().find(|p| wanted.get(p) != held.get(p)).unwrap();
        Err(format!(
            "node {at}, {different}:\n wanted {:?}\n  holds {:?}",
            wanted.get(different),
            held.get(different)
        ))
    }
}
