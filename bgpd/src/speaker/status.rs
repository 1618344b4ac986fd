//! What a speaker says about itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use crate::policy::PeerType;
use crate::rib::{AttrId, Dest, DestId, FibNextHops, Path, Reason, RibPrefix, Table, with_family};
use crate::session::State;
use crate::wire::attributes::{self, kind};
use crate::wire::{Community, Family, LargeCommunity, Notification, Prefix, cease, code, path};

/// Why a session went down, or did not come up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownReason {
    /// We ended it, and told the peer why.
    NotificationSent(Notification),
    /// The peer ended it, and told us why.
    NotificationReceived(Notification),
    /// The TCP connection broke or could not be made.
    ConnectionLost(String),
    /// The peer connected anew while the old connection was still there: it has restarted.
    Reconnected,
    /// We ended it without a word, for the peer to keep our routes.
    Stopped,
}

impl DownReason {
    /// Only one of two connections was closed; nothing went wrong.
    pub(super) fn is_collision(&self) -> bool {
        match self {
            Self::NotificationSent(n) | Self::NotificationReceived(n) => {
                n.code == code::CEASE && n.subcode == cease::COLLISION
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for DownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotificationSent(n) => write!(f, "sent {n}"),
            Self::NotificationReceived(n) => write!(f, "received {n}"),
            Self::ConnectionLost(error) => write!(f, "connection: {error}"),
            Self::Reconnected => f.write_str("the peer connected anew"),
            Self::Stopped => f.write_str("stopped without notification"),
        }
    }
}

/// Counters of a neighbor, since it was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Messages of any type.
    pub messages_received: u64,
    /// Messages of any type.
    pub messages_sent: u64,
    /// UPDATE messages.
    pub updates_received: u64,
    /// UPDATE messages.
    pub updates_sent: u64,
    /// NOTIFICATION messages.
    pub notifications_received: u64,
    /// NOTIFICATION messages.
    pub notifications_sent: u64,
    /// Times the session came up.
    pub established: u64,
    /// UPDATEs whose routes were taken as withdrawn (RFC 7606).
    pub treated_as_withdraw: u64,
    /// Attributes left out (RFC 7606).
    pub attributes_discarded: u64,
}

/// How far the speaker has come since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// It started with forwarding state from before (RFC 4724).
    pub restarting: bool,
    /// Routes are selected and announced; false only while a restarting speaker waits for its
    /// peers.
    pub selecting: bool,
    /// All neighbors have sent all their routes, or the time for that is over.
    pub converged: bool,
}

/// A neighbor as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct NeighborStatus {
    /// The name in the configuration.
    pub name: String,
    /// The description in the configuration.
    pub description: String,
    /// The peer's address.
    pub address: IpAddr,
    /// The peer's AS number.
    pub asn: u32,
    /// Our AS number towards it.
    pub local_asn: u32,
    /// In our AS or in another.
    pub peer_type: PeerType,
    /// State of the session.
    pub state: State,
    /// Whether it is shut down by configuration.
    pub shutdown: bool,
    /// Seconds since the state last changed.
    #[serde(serialize_with = "seconds")]
    pub since: Duration,
    /// Why the last session ended.
    pub last_down: Option<Failure>,
    /// Why the last attempt since then failed; None once a session is up.
    pub last_error: Option<Failure>,
    /// Counters.
    pub counters: Counters,
    /// What was agreed on; None unless Established.
    pub session: Option<SessionStatus>,
    /// Routes by family.
    pub families: Vec<FamilyStatus>,
}

/// The end of a session, or of an attempt at one.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Seconds ago.
    #[serde(serialize_with = "seconds")]
    pub ago: Duration,
    /// Why.
    #[serde(serialize_with = "text")]
    pub reason: DownReason,
}

/// An established session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStatus {
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The peer's end.
    pub remote: Option<SocketAddr>,
    /// The peer's BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Seconds; 0: none.
    pub hold_time: u16,
    /// Seconds; 0: none.
    pub keepalive_time: u16,
    /// AS numbers have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// The peer resends routes on request (RFC 2918).
    pub route_refresh: bool,
    /// It marks where the routes of a refresh begin and end (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// Messages may have 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Seconds the peer's routes are kept while it restarts; None: they are not.
    pub restart_time: Option<u16>,
}

/// The routes of a neighbor in one family.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyStatus {
    /// The family.
    pub family: Family,
    /// Routes are exchanged in it.
    pub negotiated: bool,
    /// Errors in its routes have disabled it until the session is reset (RFC 7606).
    pub disabled: bool,
    /// Paths received: as many as prefixes, but for a peer that sends several to each (RFC 7911).
    pub received: usize,
    /// Of these, those that may be used.
    pub accepted: usize,
    /// Whether some of them are kept over a restart of the peer and not confirmed yet.
    pub stale: bool,
    /// Whether the peer is sending its routes again (RFC 7313); those it has not sent again yet are
    /// stale.
    pub refreshing: bool,
    /// Prefixes announced to the neighbor.
    pub advertised: usize,
    /// Whether we have an address to announce as next hop. Without one, only routes with another
    /// router's next hop are announced.
    pub next_hop: Option<IpAddr>,
    /// The peer has sent End-of-RIB.
    pub end_of_rib_received: bool,
    /// We have sent End-of-RIB.
    pub end_of_rib_sent: bool,
}

/// Which routes to show. Empty: all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteQuery {
    /// Only this prefix.
    pub prefix: Option<IpNet>,
    /// Only the most specific prefix that holds this address.
    pub address: Option<IpAddr>,
    /// Only this family.
    pub family: Option<Family>,
    /// Only prefixes with a path from this neighbor, by name.
    pub neighbor: Option<String>,
    /// Only prefixes announced to this neighbor, by name.
    pub advertised_to: Option<String>,
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
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathStatus {
    /// The neighbor's name; None for our own networks.
    pub neighbor: Option<String>,
    /// It is the one announced.
    pub best: bool,
    /// It is used: the best, or beside it.
    pub used: bool,
    /// Why it is the best or is not.
    pub reason: Reason,
    /// Kept over a restart of the peer, or not sent again yet by one that refreshes its routes.
    pub stale: bool,
    /// Unspecified for ourselves.
    pub next_hop: IpAddr,
    /// Nearest AS first, sets in braces.
    pub as_path: String,
    /// `igp`, `egp` or `incomplete`.
    pub origin: &'static str,
    /// LOCAL_PREF, if it carries one.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC, if it carries one.
    pub med: Option<u32>,
    /// ORIGINATOR_ID, if the route was reflected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST, the latest cluster first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Ipv4Addr>,
    /// Standard communities.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Type codes of attributes that are carried without being understood.
    pub unknown_attributes: Vec<u8>,
}

/// The speaker as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct SpeakerStatus {
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// AS number.
    pub asn: u32,
    /// How far it has come since it started.
    pub progress: Progress,
    /// Prefixes known, IPv4 and IPv6.
    pub prefixes: [usize; 2],
    /// Attribute sets stored.
    pub attribute_sets: usize,
    /// Update groups.
    pub update_groups: usize,
    /// Forwarding changes not taken yet, of the subscriber that is furthest behind.
    pub fib_pending: usize,
    /// Batches of forwarding changes taken and not acknowledged yet.
    pub fib_unacknowledged: usize,
}

fn seconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_secs_f64())
}

fn text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Core {
    pub(crate) fn status(&self) -> SpeakerStatus {
        let (fib_pending, fib_unacknowledged) = self.fib.backlog();
        SpeakerStatus {
            router_id: self.config.router_id,
            asn: self.config.asn,
            progress: self.progress,
            prefixes: [self.rib.v4.len(), self.rib.v6.len()],
            attribute_sets: self.rib.attrs.len(),
            update_groups: self.groups.len(),
            fib_pending,
            fib_unacknowledged,
        }
    }

    pub(crate) fn neighbor_statuses(&self, now: Time) -> Vec<NeighborStatus> {
        let mut all: Vec<_> =
            self.neighbors.iter().flatten().map(|n| self.neighbor_status(n, now)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn neighbor_status(&self, neighbor: &Neighbor, now: Time) -> NeighborStatus {
        let config = &neighbor.config;
        let session = neighbor.session.as_ref();
        let family = |family: Family| FamilyStatus {
            family,
            negotiated: session.is_some_and(|s| s.negotiated.families.contains(family)),
            disabled: session.is_some_and(|s| s.disabled.contains(family)),
            received: neighbor.received[family.index()],
            accepted: neighbor.accepted[family.index()],
            stale: neighbor.stale.contains(family),
            refreshing: session.is_some_and(|s| s.refreshing.contains(family)),
            advertised: self.groups.advertised(neighbor.id, family),
            next_hop: neighbor.own_next_hop(family).map(|hop| hop.addr),
            end_of_rib_received: session.is_some_and(|s| s.received_end.contains(family)),
            end_of_rib_sent: session.is_some_and(|s| s.sent_end.contains(family)),
        };
        let failure = |(at, reason): &(Time, DownReason)| Failure {
            ago: now.saturating_sub(*at),
            reason: reason.clone(),
        };
        NeighborStatus {
            name: config.name.clone(),
            description: config.description.clone(),
            address: config.address,
            asn: config.asn,
            local_asn: neighbor.local_asn,
            peer_type: neighbor.peer_type,
            state: neighbor.state(),
            shutdown: config.shutdown.is_some(),
            since: now.saturating_sub(neighbor.since),
            last_down: neighbor.last_down.as_ref().map(failure),
            last_error: neighbor.last_error.as_ref().map(failure),
            counters: neighbor.counters,
            session: session.map(|session| {
                let slot = &neighbor.slots[session.direction.index()];
                let agreed = &session.negotiated;
                SessionStatus {
                    local: slot.local,
                    remote: slot.remote,
                    router_id: agreed.router_id,
                    hold_time: agreed.hold_time,
                    keepalive_time: agreed.keepalive_time,
                    four_octet_as: agreed.four_octet_as,
                    route_refresh: agreed.route_refresh,
                    enhanced_route_refresh: agreed.enhanced_refresh,
                    extended_messages: agreed.extended_messages,
                    extended_next_hop: agreed.extended_next_hop,
                    restart_time: agreed.restart.map(|r| r.time),
                }
            }),
            families: config.families.iter().copied().map(family).collect(),
        }
    }

    pub(crate) fn routes(&self, query: &RouteQuery) -> Vec<RouteStatus> {
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let named = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let found = self.neighbors.iter().flatten().find(|n| n.config.name == *name);
            found.map(|n| Some(n.id)).ok_or(())
        };
        let (Ok(from), Ok(to)) = (named(&query.neighbor), named(&query.advertised_to)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for family in Family::ALL {
            if query.family.is_some_and(|f| f != family) {
                continue;
            }
            with_family!(family, P => {
                let table = P::table(&self.rib);
                let wanted = |id: DestId, dest: &Dest<P>| {
                    !dest.paths.is_empty()
                        && from.is_none_or(|peer| dest.paths.iter().any(|p| p.peer == peer))
                        && to.is_none_or(|peer| self.groups.is_advertised(peer, family, id))
                };
                let ids: Vec<DestId> = match (query.prefix, query.address) {
                    (Some(prefix), _) => {
                        P::from_net(&prefix).and_then(|p| table.find(&p)).into_iter().collect()
                    }
                    (None, Some(address)) => longest_match(table, address).into_iter().collect(),
                    (None, None) => table.iter().map(|(id, _)| id).collect(),
                };
                for id in ids {
                    let dest = table.dest(id);
                    if found.len() < limit && wanted(id, dest) {
                        found.push(self.route_status(dest));
                    }
                }
            });
        }
        found.sort_by_key(|route| route.prefix);
        found
    }

    fn route_status<P: Prefix>(&self, dest: &Dest<P>) -> RouteStatus {
        let used = self.rib.next_hops.get(dest.next_hops);
        RouteStatus {
            prefix: dest.prefix.to_net(),
            paths: dest
                .paths
                .iter()
                .enumerate()
                .map(|(at, path)| self.path_status(at, path))
                .collect(),
            next_hops: used,
        }
    }

    fn path_status(&self, at: usize, path: &Path) -> PathStatus {
        let attr = if path.attr == AttrId::NONE { path.attr_in } else { path.attr };
        let set = self.rib.attrs.get(attr);
        let neighbor = self.neighbors.get(path.peer.index()).and_then(Option::as_ref);
        let best = at == 0 && path.is_used();
        PathStatus {
            neighbor: neighbor.map(|n| n.config.name.clone()),
            best,
            used: path.is_used(),
            reason: path.reason,
            stale: path.is_stale(),
            next_hop: set.next_hop.addr,
            as_path: path::display(attributes::as_path(&set.block)),
            origin: match set.info.origin {
                0 => "igp",
                1 => "egp",
                _ => "incomplete",
            },
            local_pref: set.info.local_pref,
            med: set.info.med,
            originator: set.info.originator,
            clusters: attributes::clusters(&set.block).collect(),
            communities: attributes::communities(&set.block).collect(),
            large_communities: attributes::large_communities(&set.block).collect(),
            unknown_attributes: attributes::iter(&set.block)
                .map(|a| a.kind)
                .filter(|k| {
                    *k > kind::CLUSTER_LIST
                        && !matches!(
                            *k,
                            kind::EXTENDED_COMMUNITIES
                                | kind::IPV6_EXTENDED_COMMUNITIES
                                | kind::LARGE_COMMUNITIES
                                | kind::ONLY_TO_CUSTOMER
                        )
                })
                .collect(),
        }
    }
}

/// The most specific prefix with a path that holds an address: a look-up per length.
fn longest_match<P: RibPrefix>(table: &Table<P>, address: IpAddr) -> Option<DestId> {
    (0..=P::BITS).rev().find_map(|len| {
        let net = IpNet::new(address, len).ok()?;
        let id = table.find(&P::from_net(&net)?)?;
        (!table.dest(id).paths.is_empty()).then_some(id)
    })
}
