//! Questions about routes, answered in slices: a table of a million routes is never in one answer,
//! and what else the speaker has to do goes on between two of them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::advertised::AdvertisedPath;
use super::attributes::PathAttributes;
use crate::export::SentPath;
use crate::rib::with_family;
use crate::rib::{AttrId, Dest, DestId, FibNextHops, Path, PeerId, Reason, RibPrefix, Table};
use crate::speaker::core::Core;
use crate::wire::{Community, Family, LargeCommunity, attributes, path};

/// Destinations looked at for one slice of an answer.
const LOOK: usize = 16 * 1024;
/// Paths in one slice, but for the last prefix's: about a millisecond's work.
const SLICE: usize = 512;

/// Which prefixes [`RouteQuery::prefix`] stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefixMatch {
    /// Itself.
    #[default]
    Exact,
    /// Itself and those inside of it.
    Longer,
    /// Itself and those that it is inside of.
    Covering,
}

/// Which routes to show. Empty: all. What is asked of a path must all hold for the same one; a
/// prefix is shown with all its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteQuery {
    /// Only this prefix, and those that `matching` says.
    pub prefix: Option<IpNet>,
    /// What the prefix stands for.
    pub matching: PrefixMatch,
    /// Only the most specific prefix that holds this address.
    pub address: Option<IpAddr>,
    /// Only this family.
    pub family: Option<Family>,
    /// Only prefixes with a path from this neighbor, by name.
    pub neighbor: Option<String>,
    /// Only prefixes announced to this neighbor, by name, with what it was told of them
    /// (Adj-RIB-Out). What is asked of attributes is then asked of those that it was told.
    pub advertised_to: Option<String>,
    /// Only prefixes with a path that is used, or is not, for this reason.
    pub reason: Option<Reason>,
    /// Only prefixes with a path that carries this community.
    pub community: Option<Community>,
    /// Only prefixes with a path that carries this large community.
    pub large_community: Option<LargeCommunity>,
    /// Only prefixes with a path whose AS_PATH has this AS in it.
    pub as_number: Option<u32>,
    /// Only prefixes with a path whose AS_PATH ends with this AS.
    pub origin_as: Option<u32>,
    /// No more than so many; 0: no limit.
    pub limit: usize,
}

/// A prefix with all its paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// The prefix.
    pub prefix: IpNet,
    /// All paths, the best one first.
    pub paths: Vec<PathStatus>,
    /// What the forwarding table is to hold; empty for our own networks.
    pub next_hops: FibNextHops,
    /// What the neighbor was told that was asked for; empty if none was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertised: Vec<AdvertisedPath>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathStatus {
    /// The neighbor's name; None for our own networks.
    pub neighbor: Option<String>,
    /// Which of the neighbor's paths to the prefix (RFC 7911); 0 where it sends but one.
    pub path_id: u32,
    /// It is the one announced.
    pub best: bool,
    /// It is used: the best, or beside it.
    pub used: bool,
    /// Why it is the best or is not.
    pub reason: Reason,
    /// Kept over a restart of the peer, or not sent again yet by one that refreshes its routes.
    pub stale: bool,
    /// As they are used, or as received where the path is not.
    #[serde(flatten)]
    pub attributes: PathAttributes,
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The family by its place in [`Family::ALL`].
    family: usize,
    /// The next destination's place in its table.
    place: usize,
    /// How many routes were found.
    found: usize,
}

/// A query with the neighbors' numbers in place of their names.
struct Wanted<'a> {
    query: &'a RouteQuery,
    from: Option<PeerId>,
    to: Option<PeerId>,
}

impl Core {
    /// The next slice of the answer to a query: routes in no useful order, and where to go on, None
    /// at the end. A route that is there from the first slice to the last one is in exactly one of
    /// them.
    pub(crate) fn route_slice(
        &self,
        query: &RouteQuery,
        mut cursor: Cursor,
    ) -> (Vec<RouteStatus>, Option<Cursor>) {
        let mut found = Vec::new();
        let named = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let found = self.neighbors.iter().flatten().find(|n| n.config.name == *name);
            found.map(|n| Some(n.id)).ok_or(())
        };
        let (Ok(from), Ok(to)) = (named(&query.neighbor), named(&query.advertised_to)) else {
            return (found, None);
        };
        let wanted = Wanted { query, from, to };
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let (mut looks, mut paths) = (LOOK, SLICE);
        while let Some(family) = Family::ALL.get(cursor.family) {
            let end = with_family!(*family, P => {
                self.look::<P>(&wanted, &mut cursor.place, &mut looks, |route| {
                    paths = paths.saturating_sub(route.paths.len().max(1));
                    cursor.found += 1;
                    found.push(route);
                    paths > 0 && cursor.found < limit
                })
            });
            if cursor.found >= limit {
                return (found, None);
            }
            if !end {
                return (found, Some(cursor));
            }
            cursor = Cursor { family: cursor.family + 1, place: 0, found: cursor.found };
        }
        (found, None)
    }

    /// Looks through one family from `place` on, as far as `looks` goes and `take` wants more.
    /// Returns whether it has come to the end.
    fn look<P: RibPrefix>(
        &self,
        wanted: &Wanted<'_>,
        place: &mut usize,
        looks: &mut usize,
        mut take: impl FnMut(RouteStatus) -> bool,
    ) -> bool {
        let query = wanted.query;
        if query.family.is_some_and(|f| f != P::FAMILY) {
            return true;
        }
        let table = P::table(&self.rib);
        if let Some(ids) = self.named::<P>(query) {
            // Each of them is one look-up, and there are at most as many as bits in an address.
            for id in ids.into_iter().skip(*place) {
                *place += 1;
                let dest = table.dest(id);
                if self.wanted(wanted, id, dest).is_some_and(|route| !take(route)) {
                    return false;
                }
            }
            return true;
        }
        let inside = query.prefix;
        loop {
            if *looks == 0 {
                return false;
            }
            let Some(slot) = table.at(*place) else { return true };
            *place += 1;
            *looks -= 1;
            let Some((id, dest)) = slot else { continue };
            if inside.is_some_and(|net| !net.contains(&dest.prefix.to_net())) {
                continue;
            }
            if self.wanted(wanted, id, dest).is_some_and(|route| !take(route)) {
                return false;
            }
        }
    }

    /// The destinations that a query names; None if it has to look at all.
    fn named<P: RibPrefix>(&self, query: &RouteQuery) -> Option<Vec<DestId>> {
        let table = P::table(&self.rib);
        match (query.prefix, query.address) {
            (Some(prefix), _) => {
                let Some(exact) = P::from_net(&prefix) else { return Some(Vec::new()) };
                match query.matching {
                    PrefixMatch::Exact => Some(table.find(&exact).into_iter().collect()),
                    PrefixMatch::Covering => {
                        let lengths = (0..=prefix.prefix_len()).rev();
                        let nets = lengths.filter_map(|len| IpNet::new(prefix.addr(), len).ok());
                        let covering = nets.filter_map(|net| table.find(&P::from_net(&net)?));
                        Some(covering.collect())
                    }
                    PrefixMatch::Longer => None,
                }
            }
            (None, Some(address)) => Some(longest_match(table, address).into_iter().collect()),
            (None, None) => None,
        }
    }

    /// The route as it is shown, if it is wanted.
    fn wanted<P: RibPrefix>(
        &self,
        wanted: &Wanted<'_>,
        id: DestId,
        dest: &Dest<P>,
    ) -> Option<RouteStatus> {
        let Wanted { query, from, to } = *wanted;
        let came = |path: &Path| {
            from.is_none_or(|peer| path.peer == peer)
                && query.reason.is_none_or(|reason| path.reason == reason)
        };
        let Some(to) = to else {
            let wanted = |path: &Path| came(path) && self.carries(shown(path), query);
            return dest.paths.iter().any(wanted).then(|| self.route_status(dest, Vec::new()));
        };
        let told = |sent: &SentPath| {
            let source = |path: &&Path| path.peer == sent.source;
            let known = from.is_none() && query.reason.is_none();
            (known || dest.paths.iter().filter(source).any(came)) && self.carries(sent.attr, query)
        };
        let sent: Vec<SentPath> = self.groups.sent_paths::<P>(to, id).collect();
        sent.iter().any(told).then(|| {
            let advertised = sent.iter().map(|path| self.advertised(to, path));
            self.route_status(dest, advertised.collect())
        })
    }

    /// Whether the attributes are what is asked for.
    fn carries(&self, attr: AttrId, query: &RouteQuery) -> bool {
        let RouteQuery { community, large_community, as_number, origin_as, .. } = query;
        let any = community.is_none() && large_community.is_none();
        if any && as_number.is_none() && origin_as.is_none() {
            return true;
        }
        if attr == AttrId::UNKNOWN {
            return false;
        }
        let block = || self.rib.attrs.get(attr).block;
        let has_as = |asn| path::numbers(attributes::as_path(block())).any(|a| a == asn);
        let has_origin = |asn| path::numbers(attributes::as_path(block())).last() == Some(asn);
        community.is_none_or(|c| attributes::communities(block()).any(|it| it == c))
            && large_community
                .is_none_or(|c| attributes::large_communities(block()).any(|it| it == c))
            && as_number.is_none_or(has_as)
            && origin_as.is_none_or(has_origin)
    }

    fn route_status<P: RibPrefix>(
        &self,
        dest: &Dest<P>,
        advertised: Vec<AdvertisedPath>,
    ) -> RouteStatus {
        let paths = dest.paths.iter().enumerate();
        RouteStatus {
            prefix: dest.prefix.to_net(),
            paths: paths.map(|(at, path)| self.path_status(at, path)).collect(),
            next_hops: self.rib.next_hops.get(dest.next_hops),
            advertised,
        }
    }

    pub(super) fn path_status(&self, at: usize, path: &Path) -> PathStatus {
        let set = self.rib.attrs.get(shown(path));
        let neighbor = self.neighbors.get(path.peer.index()).and_then(Option::as_ref);
        let best = at == 0 && path.is_used();
        PathStatus {
            neighbor: neighbor.map(|n| n.config.name.clone()),
            path_id: path.id,
            best,
            used: path.is_used(),
            reason: path.reason,
            stale: path.is_stale(),
            attributes: PathAttributes::of(set),
        }
    }
}

/// The attributes that are shown of a path: as used, or as received where it is not.
pub(super) fn shown(path: &Path) -> AttrId {
    if path.attr == AttrId::NONE { path.attr_in } else { path.attr }
}

/// The most specific prefix with a path that holds an address: a look-up per length.
pub(super) fn longest_match<P: RibPrefix>(table: &Table<P>, address: IpAddr) -> Option<DestId> {
    (0..=P::BITS).rev().find_map(|len| {
        let net = IpNet::new(address, len).ok()?;
        let id = table.find(&P::from_net(&net)?)?;
        (!table.dest(id).paths.is_empty()).then_some(id)
    })
}

#[cfg(test)]
impl Core {
    /// The paths from a neighbor, by name, with their numbers and attributes as they came
    /// (Adj-RIB-In), and what was decided of them.
    pub(crate) fn adj_rib_in(
        &self,
        from: &str,
    ) -> std::collections::BTreeMap<IpNet, Vec<(u32, PathAttributes, Reason)>> {
        let mut all = std::collections::BTreeMap::<_, Vec<_>>::new();
        let Some(from) = self.neighbors.iter().flatten().find(|n| n.config.name == from) else {
            return all;
        };
        for family in Family::ALL {
            with_family!(family, P => for (_, dest) in P::table(&self.rib).iter() {
                for path in dest.paths.iter().filter(|path| path.peer == from.id) {
                    let attributes = PathAttributes::of(self.rib.attrs.get(path.attr_in));
                    let prefix = crate::wire::Prefix::to_net(dest.prefix);
                    all.entry(prefix).or_default().push((path.id, attributes, path.reason));
                }
            });
        }
        all
    }

    /// The whole answer, sorted by prefix.
    pub(crate) fn routes(&self, query: &RouteQuery) -> Vec<RouteStatus> {
        let (mut all, mut next) = self.route_slice(query, Cursor::default());
        while let Some(cursor) = next {
            let (more, cursor) = self.route_slice(query, cursor);
            all.extend(more);
            next = cursor;
        }
        all.sort_by_key(|route| route.prefix);
        all
    }
}
