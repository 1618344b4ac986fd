//! The decision process (RFC 4271 section 9.1.2), as a pure function over the paths of one
//! destination. The result does not depend on the order in which they came.
//!
//! In this order, each step leaving only the best of what the one before left:
//! 1. our own networks;
//! 2. those that are not kept for long while their source is gone (LLGR_STALE, RFC 9494);
//! 3. highest LOCAL_PREF (100 where there is none);
//! 4. shortest AS_PATH;
//! 5. lowest ORIGIN;
//! 6. lowest MULTI_EXIT_DISC (0 where there is none) among paths of the same neighboring AS;
//! 7. external before internal;
//! 8. the lowest cost of the way to the next hop (0 where nothing is known of it);
//!
//! what is left is of equal cost and may be used at once; the one that is announced has
//!
//! 9. the lowest BGP Identifier, or ORIGINATOR_ID (RFC 4456 section 9);
//! 10. the shortest CLUSTER_LIST;
//! 11. the lowest peer address;
//! 12. the lowest path identifier (RFC 7911).

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::attrs::{AttrId, AttrTable};
use super::resolution::UNREACHABLE;
use super::table::Path;
use crate::config::Multipath;
use crate::wire::attributes;

/// LOCAL_PREF of a route that carries none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// What decision needs to know of a neighbor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerRank {
    pub(crate) local: bool,
    pub(crate) external: bool,
    /// It is in our AS; a peer in another member of our confederation is neither.
    pub(crate) internal: bool,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: IpAddr,
    /// The interface of a link-local session; 0 for others.
    pub(crate) interface: u32,
    /// Its routes are reflected to everyone (RFC 4456).
    pub(crate) client: bool,
}

impl PeerRank {
    /// Ourselves.
    pub(crate) const LOCAL: Self = Self {
        local: true,
        external: false,
        internal: false,
        router_id: Ipv4Addr::UNSPECIFIED,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        interface: 0,
        client: false,
    };
}

/// Why a path is the best, or is not. For the best one: the last step it took to find it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not decided yet.
    #[default]
    Undecided,
    /// There is no other usable path.
    OnlyPath,
    /// Our own network goes first.
    LocalNetwork,
    /// Kept for long while its source is gone (LLGR_STALE, RFC 9494), or the others are.
    LongLivedStale,
    /// LOCAL_PREF.
    LocalPref,
    /// Length of AS_PATH.
    AsPathLength,
    /// ORIGIN.
    Origin,
    /// MULTI_EXIT_DISC.
    Med,
    /// External before internal.
    ExternalFirst,
    /// Cost of the way to the next hop.
    IgpCost,
    /// BGP Identifier or ORIGINATOR_ID.
    RouterId,
    /// Length of CLUSTER_LIST.
    ClusterList,
    /// The peer's address.
    PeerAddress,
    /// The path identifier (RFC 7911), between paths of one peer.
    PathId,
    /// Refused: the import policy.
    ImportPolicy,
    /// Refused: our AS number is in the path (RFC 4271 section 9.1.2).
    AsPathLoop,
    /// Refused: ORIGINATOR_ID is our own (RFC 4456 section 8).
    OriginatorLoop,
    /// Refused: our cluster is in CLUSTER_LIST (RFC 4456 section 8).
    ClusterLoop,
    /// Refused: a multicast prefix (RFC 4271 section 6.3).
    NotUnicast,
    /// Refused: the route came a way that it should not have (RFC 9234 section 5).
    RouteLeak,
    /// Not used: there is no way to the next hop (RFC 4271 section 9.1.2.1).
    NextHopUnreachable,
    /// Refused: the next hop is one of our own addresses, or cannot be one at all.
    NextHop,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Undecided => "not decided yet",
            Self::OnlyPath => "only path",
            Self::LocalNetwork => "own network",
            Self::LongLivedStale => "long-lived stale",
            Self::LocalPref => "LOCAL_PREF",
            Self::AsPathLength => "AS_PATH length",
            Self::Origin => "ORIGIN",
            Self::Med => "MED",
            Self::ExternalFirst => "external before internal",
            Self::IgpCost => "cost of the next hop",
            Self::RouterId => "router id",
            Self::ClusterList => "CLUSTER_LIST length",
            Self::PeerAddress => "peer address",
            Self::PathId => "path identifier",
            Self::ImportPolicy => "refused by import policy",
            Self::AsPathLoop => "refused: own AS in AS_PATH",
            Self::OriginatorLoop => "refused: own ORIGINATOR_ID",
            Self::ClusterLoop => "refused: own cluster in CLUSTER_LIST",
            Self::NotUnicast => "refused: not a unicast prefix",
            Self::RouteLeak => "refused: route leak",
            Self::NextHopUnreachable => "refused: no way to the next hop",
            Self::NextHop => "refused: unusable next hop",
        })
    }
}

/// Sorts the paths that are used to the front, the best one first, and notes on each why.
/// Returns how many are used: 0 if none can be.
pub(super) fn select(
    paths: &mut [Path],
    attrs: &AttrTable,
    ranks: &[PeerRank],
    multipath: &Multipath,
) -> usize {
    let reachable = |p: &Path| ranks[p.peer.index()].local || attrs.get(p.attr).cost != UNREACHABLE;
    match paths {
        [] => return 0,
        [only] => {
            if only.attr == AttrId::NONE {
                return 0;
            }
            if !reachable(only) {
                only.reason = Reason::NextHopUnreachable;
                return 0;
            }
            only.reason = Reason::OnlyPath;
            return 1;
        }
        _ => {}
    }
    let mut left: Candidates =
        (0..paths.len()).filter(|at| paths[*at].attr != AttrId::NONE).collect();
    left.retain(|at| {
        let kept = reachable(&paths[*at]);
        if !kept {
            paths[*at].reason = Reason::NextHopUnreachable;
        }
        kept
    });
    if left.is_empty() {
        return 0;
    }
    let mut last = Reason::OnlyPath;
    let equal_cost =
        {
            let mut round = Round { paths, left: &mut left, last: &mut last };
            let info = |path: &Path| attrs.info(path.attr);
            let rank = |path: &Path| &ranks[path.peer.index()];
            round.keep_lowest(Reason::LocalNetwork, |p| !rank(p).local);
            round.keep_lowest(Reason::LongLivedStale, |p| info(p).llgr_stale);
            round.keep_lowest(Reason::LocalPref, |p| {
                std::cmp::Reverse(info(p).local_pref.unwrap_or(DEFAULT_LOCAL_PREF))
            });
            round.keep_lowest(Reason::AsPathLength, |p| info(p).path_len);
            round.keep_lowest(Reason::Origin, |p| info(p).origin);
            round.keep_lowest_med(|p| (info(p).neighbor_as, info(p).med.unwrap_or(0)));
            round.keep_lowest(Reason::ExternalFirst, |p| !rank(p).external);
            round.keep_lowest(Reason::IgpCost, |p| {
                if rank(p).local { 0 } else { attrs.get(p.attr).cost }
            });
            let equal_cost = round.left.clone();
            round
                .keep_lowest(Reason::RouterId, |p| info(p).originator.unwrap_or(rank(p).router_id));
            round.keep_lowest(Reason::ClusterList, |p| info(p).clusters);
            round.keep_lowest(Reason::PeerAddress, |p| rank(p).address);
            round.keep_lowest(Reason::PathId, |p| p.id);
            equal_cost
        };
    let best = left[0];
    paths[best].reason = last;

    let external = ranks[paths[best].peer.index()].external;
    let limit = usize::from(if external { multipath.ebgp } else { multipath.ibgp });
    let best_path = attributes::as_path(attrs.get(paths[best].attr).block);
    let mut used: SmallVec<[Path; 4]> = equal_cost
        .iter()
        .filter(|at| **at != best)
        .map(|at| paths[*at])
        .filter(|p| {
            multipath.as_path_relax || attributes::as_path(attrs.get(p.attr).block) == best_path
        })
        .collect();
    // Which ones, where there are more than may be used, is as stable as the best one is.
    used.sort_by_key(|p| {
        let set = attrs.get(p.attr);
        let rank = &ranks[p.peer.index()];
        let originator = set.info.originator.unwrap_or(rank.router_id);
        (originator, set.info.clusters, rank.address, p.id)
    });
    used.insert(0, paths[best]);
    used.truncate(limit.max(1));
    paths.sort_by_key(|p| {
        let at = used.iter().position(|u| u.key() == p.key());
        (at.unwrap_or(usize::MAX), p.attr == AttrId::NONE, p.key())
    });
    used.len()
}

type Candidates = SmallVec<[usize; 8]>;

/// One run of the steps: who is left, and the last step that ruled anyone out.
struct Round<'a> {
    paths: &'a mut [Path],
    left: &'a mut Candidates,
    last: &'a mut Reason,
}

impl Round<'_> {
    fn keep_lowest<K: Ord>(&mut self, reason: Reason, key: impl Fn(&Path) -> K) {
        if self.left.len() < 2 {
            return;
        }
        let paths = &*self.paths;
        let Some(lowest) = self.left.iter().map(|at| key(&paths[*at])).min() else { return };
        self.drop_where(reason, |path| key(path) > lowest);
    }

    /// RFC 4271 section 9.1.2.2 c: only paths of the same neighboring AS are compared.
    fn keep_lowest_med(&mut self, key: impl Fn(&Path) -> (u32, u32)) {
        if self.left.len() < 2 {
            return;
        }
        let paths = &*self.paths;
        let all: SmallVec<[(u32, u32); 8]> = self.left.iter().map(|at| key(&paths[*at])).collect();
        self.drop_where(Reason::Med, |path| {
            let (neighbor, med) = key(path);
            all.iter().any(|(other, lower)| *other == neighbor && *lower < med)
        });
    }

    fn drop_where(&mut self, reason: Reason, lost: impl Fn(&Path) -> bool) {
        let paths = &mut *self.paths;
        let before = self.left.len();
        self.left.retain(|at| {
            let lost = lost(&paths[*at]);
            if lost {
                paths[*at].reason = reason;
            }
            !lost
        });
        if self.left.len() < before {
            *self.last = reason;
        }
    }
}
