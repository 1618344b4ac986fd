//! Why a route is what it is: every path with the step at which it lost, and to what.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::Serialize;

use super::advertised::Advertisement;
use super::routes::{PathStatus, longest_match, shown};
use crate::policy::PeerType;
use crate::rib::{
    AttrId, DEFAULT_LOCAL_PREF, Dest, DestId, FibNextHops, Path, PeerRank, Reason, RibPrefix,
    with_family,
};
use crate::speaker::core::Core;
use crate::wire::{Family, Info, Prefix};

/// A prefix with why its paths are used or are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The prefix.
    pub prefix: IpNet,
    /// All paths, the best one first.
    pub paths: Vec<PathExplanation>,
    /// What the forwarding table is to hold; empty for our own networks.
    pub next_hops: FibNextHops,
    /// The neighbors that were told of it, by name.
    pub advertised_to: Vec<String>,
    /// What each neighbor was told, or why it was not, by name.
    pub neighbors: Vec<Advertisement>,
}

/// One path with its fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathExplanation {
    /// The path.
    #[serde(flatten)]
    pub path: PathStatus,
    /// The peer's address; None for our own networks.
    pub peer_address: Option<IpAddr>,
    /// The peer's BGP Identifier, or ORIGINATOR_ID.
    pub router_id: Option<Ipv4Addr>,
    /// Whether the peer is in our AS; None for our own networks.
    pub peer_type: Option<PeerType>,
    /// Where it was decided.
    pub step: Step,
    /// What decided, in words.
    pub why: String,
}

/// A step of route selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its number among those of this speaker: 0 for what is refused before, 1 for our own
    /// networks, to 12 for the path identifier.
    pub number: u8,
    /// Where it is defined.
    pub source: &'static str,
}

impl Step {
    const fn of(reason: Reason) -> Self {
        let (number, source) = match reason {
            Reason::Undecided | Reason::OnlyPath => (0, "RFC 4271 9.1.2"),
            Reason::ImportPolicy => (0, "RFC 4271 9.1.1, import policy"),
            Reason::AsPathLoop => (0, "RFC 4271 9.1.2, AS loop"),
            Reason::OriginatorLoop | Reason::ClusterLoop => (0, "RFC 4456 8"),
            Reason::RouteLeak => (0, "RFC 9234 5"),
            Reason::NextHopUnreachable => (0, "RFC 4271 9.1.2.1"),
            Reason::NotUnicast | Reason::NextHop => (0, "RFC 4271 6.3"),
            Reason::LocalNetwork => (1, "own networks first"),
            Reason::LongLivedStale => (2, "RFC 9494 4.3"),
            Reason::LocalPref => (3, "RFC 4271 9.1.2, degree of preference"),
            Reason::AsPathLength => (4, "RFC 4271 9.1.2.2 a"),
            Reason::Origin => (5, "RFC 4271 9.1.2.2 b"),
            Reason::Med => (6, "RFC 4271 9.1.2.2 c"),
            Reason::ExternalFirst => (7, "RFC 4271 9.1.2.2 d"),
            Reason::IgpCost => (8, "RFC 4271 9.1.2.2 e"),
            Reason::RouterId => (9, "RFC 4271 9.1.2.2 f, RFC 4456 9"),
            Reason::ClusterList => (10, "RFC 4456 9"),
            Reason::PeerAddress => (11, "RFC 4271 9.1.2.2 g"),
            Reason::PathId => (12, "RFC 7911, the lowest path identifier"),
        };
        Self { number, source }
    }
}

/// What a path was compared by.
struct Side<'a> {
    info: &'a Info,
    rank: &'a PeerRank,
}

impl Side<'_> {
    fn router_id(&self) -> Ipv4Addr {
        self.info.originator.unwrap_or(self.rank.router_id)
    }

    fn local_pref(&self) -> u32 {
        self.info.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }
}

impl Core {
    /// Why the paths of a prefix are used or are not; of an address, those of the most specific
    /// prefix that holds it. None: there is no such route.
    pub(crate) fn explain(&self, target: IpNet, exact: bool) -> Option<Explanation> {
        with_family!(Family::of(&target), P => {
            let table = P::table(&self.rib);
            let id = if exact {
                table.find(&P::from_net(&target)?)
            } else {
                longest_match(table, target.addr())
            }?;
            let dest = table.dest(id);
            (!dest.paths.is_empty()).then(|| self.explanation(id, dest))
        })
    }

    fn explanation<P: RibPrefix>(&self, id: DestId, dest: &Dest<P>) -> Explanation {
        let neighbors = self.advertisements::<P>(id);
        let told = neighbors.iter().filter(|neighbor| neighbor.advertised);
        let explain = |(at, path): (usize, &Path)| {
            let side = self.side(path);
            let peer = (!side.rank.local).then_some(side.rank);
            let internal = |rank: &PeerRank| match (rank.external, rank.internal) {
                (true, _) => PeerType::External,
                (_, true) => PeerType::Internal,
                (false, false) => PeerType::Confederation,
            };
            PathExplanation {
                path: self.path_status(at, path),
                peer_address: peer.map(|rank| rank.address),
                router_id: peer.map(|_| side.router_id()),
                peer_type: peer.map(internal),
                step: Step::of(path.reason),
                why: self.why(&dest.paths, at),
            }
        };
        Explanation {
            prefix: dest.prefix.to_net(),
            paths: dest.paths.iter().enumerate().map(explain).collect(),
            next_hops: self.rib.next_hops.get(dest.next_hops),
            advertised_to: told.map(|it| it.neighbor.clone()).collect(),
            neighbors,
        }
    }

    fn side(&self, path: &Path) -> Side<'_> {
        let rank = self.rib.ranks.get(path.peer.index()).unwrap_or(&PeerRank::LOCAL);
        Side { info: self.rib.attrs.get(shown(path)).info, rank }
    }

    /// What decided over the path in this place.
    fn why(&self, paths: &[Path], at: usize) -> String {
        let path = &paths[at];
        let usable = path.attr != AttrId::NONE;
        let best = paths.first().filter(|p| p.is_used());
        let (Some(best), true) = (best, usable) else { return path.reason.to_string() };
        if at == 0 {
            return match path.reason {
                Reason::OnlyPath => "the only usable path".to_owned(),
                reason => format!("best; the last others lost by {reason}"),
            };
        }
        let (own, top) = (self.side(path), self.side(best));
        let lost = match path.reason {
            Reason::LocalNetwork => "an own network goes first".to_owned(),
            Reason::LongLivedStale => {
                "kept for long while its source is gone (LLGR_STALE), the best is not".to_owned()
            }
            Reason::LocalPref => {
                format!("LOCAL_PREF {}, the best has {}", own.local_pref(), top.local_pref())
            }
            Reason::AsPathLength => format!(
                "AS_PATH of length {}, the best has {}",
                own.info.path_len, top.info.path_len
            ),
            Reason::Origin => {
                let name =
                    |side: &Side<'_>| ["IGP", "EGP"].get(usize::from(side.info.origin)).copied();
                let [own, top] = [&own, &top].map(|s| name(s).unwrap_or("INCOMPLETE"));
                format!("ORIGIN {own}, the best has {top}")
            }
            Reason::Med => {
                // Not the best one need have the lower MED: that of the same neighboring AS.
                let rivals = paths.iter().filter(|p| p.attr != AttrId::NONE).map(|p| self.side(p));
                let same = rivals.filter(|r| r.info.neighbor_as == own.info.neighbor_as);
                let lowest = same.map(|r| r.info.med.unwrap_or(0)).min().unwrap_or(0);
                format!(
                    "MED {}, another path of AS {} has {lowest}",
                    own.info.med.unwrap_or(0),
                    own.info.neighbor_as
                )
            }
            Reason::ExternalFirst => {
                "from an internal peer, the best from an external one".to_owned()
            }
            Reason::IgpCost => "its next hop is further away than the best one's".to_owned(),
            Reason::RouterId => {
                format!("router id {}, the best has {}", own.router_id(), top.router_id())
            }
            Reason::ClusterList => format!(
                "CLUSTER_LIST of length {}, the best has {}",
                own.info.clusters, top.info.clusters
            ),
            Reason::PeerAddress => {
                format!("peer address {}, the best has {}", own.rank.address, top.rank.address)
            }
            other => other.to_string(),
        };
        if path.is_used() { format!("used beside the best; {lost}") } else { lost }
    }
}
