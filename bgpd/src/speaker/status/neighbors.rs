//! Neighbors as they are seen from outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::counters::{Counters, NotificationCount};
use super::{capabilities, seconds, text};
use crate::policy::PeerType;
use crate::session::{Direction, State};
use crate::speaker::core::{Core, Time};
use crate::speaker::neighbor::Neighbor;
use crate::wire::{Family, HEADER_LEN, MessageType, Notification, Open, Role, cease, code};

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
    /// The peer's interface is down, or it is not known who is there.
    Link(String),
    /// We ended it without a word, for the peer to keep our routes.
    Stopped,
}

impl DownReason {
    /// Only one of two connections was closed; nothing went wrong.
    pub(in crate::speaker) fn is_collision(&self) -> bool {
        match self {
            Self::NotificationSent(n) | Self::NotificationReceived(n) => {
                n.code == code::CEASE && n.subcode == cease::COLLISION
            }
            _ => false,
        }
    }

    /// Whether the peer may have restarted, so that its routes are kept (RFC 4724 section 4.2): the
    /// connection went without a NOTIFICATION, or with one that is no Hard Reset where both sides
    /// want that (`notification`, RFC 8538). A peer that ends a collision keeps another connection,
    /// and has not gone, nor said anything on this one.
    pub(in crate::speaker) fn keeps_routes(&self, notification: bool) -> bool {
        match self {
            Self::ConnectionLost(_) | Self::Reconnected => true,
            Self::NotificationSent(n) | Self::NotificationReceived(n) => {
                self.is_collision() || (notification && !n.is_hard_reset())
            }
            Self::Link(_) | Self::Stopped => false,
        }
    }
}

impl DownReason {
    /// Its kind, as in JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotificationSent(_) => "notification-sent",
            Self::NotificationReceived(_) => "notification-received",
            Self::ConnectionLost(_) => "connection-lost",
            Self::Reconnected => "reconnected",
            Self::Link(_) => "link",
            Self::Stopped => "stopped",
        }
    }

    /// The NOTIFICATION, if it was one.
    pub const fn notification(&self) -> Option<&Notification> {
        match self {
            Self::NotificationSent(n) | Self::NotificationReceived(n) => Some(n),
            _ => None,
        }
    }
}

impl std::fmt::Display for DownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotificationSent(n) => write!(f, "sent {n}"),
            Self::NotificationReceived(n) => write!(f, "received {n}"),
            Self::ConnectionLost(error) => write!(f, "connection: {error}"),
            Self::Link(why) => write!(f, "interface {why}"),
            Self::Reconnected => f.write_str("the peer connected anew"),
            Self::Stopped => f.write_str("stopped without notification"),
        }
    }
}

/// A neighbor as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct NeighborStatus {
    /// The name in the configuration.
    pub name: String,
    /// The description in the configuration.
    pub description: String,
    /// The peer's address; unspecified while it is not known.
    pub address: IpAddr,
    /// The interface it is named by.
    pub interface: Option<String>,
    /// The interface that the session is bound to.
    pub source_interface: Option<String>,
    /// How the kernel signs segments: `md5` (RFC 2385) or `tcp-ao` (RFC 5925). None: not at all.
    pub authentication: Option<&'static str>,
    /// The peer's AS number; 0: it may be of several, and has not been Established yet.
    pub asn: u32,
    /// The listen range that it came by, by name; None: it is configured.
    pub listen_range: Option<String>,
    /// Our AS number towards it.
    pub local_asn: u32,
    /// In our AS or in another.
    pub peer_type: PeerType,
    /// State of the session.
    pub state: State,
    /// Whether it is shut down by configuration.
    pub shutdown: bool,
    /// What we are to it (RFC 9234).
    pub role: Option<Role>,
    /// Seconds since the state last changed.
    #[serde(serialize_with = "seconds")]
    pub since: Duration,
    /// Why the last session ended.
    pub last_down: Option<Failure>,
    /// Why the last attempt since then failed; None once a session is up.
    pub last_error: Option<Failure>,
    /// Octets queued and not sent yet.
    pub queued_octets: usize,
    /// Counters.
    pub counters: Counters,
    /// NOTIFICATIONs by direction and error code; those of which there were none are left out.
    pub notifications: Vec<NotificationCount>,
    /// It announced too many prefixes: there is no session until that time is over, or until its
    /// limit is another.
    pub halted: bool,
    /// Seconds until the next attempt to connect. None: none is planned, or one is under way.
    #[serde(serialize_with = "some_seconds")]
    pub next_attempt: Option<Duration>,
    /// What was agreed on; None unless Established.
    pub session: Option<SessionStatus>,
    /// Routes to it, and from it if it is external, are to be the last choice (RFC 8326).
    pub graceful_shutdown: bool,
    /// The BFD session; None if none is configured, or it has just been.
    pub bfd: Option<crate::bfd::Status>,
    /// BGP waits for BFD to be Up (strict mode).
    pub waits_for_bfd: bool,
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
    /// What the peer says it is to us (RFC 9234).
    pub peer_role: Option<Role>,
    /// Families of which the peer sends several paths to a prefix (RFC 7911).
    pub receive_paths: Vec<Family>,
    /// Families of which it is sent several.
    pub send_paths: Vec<Family>,
    /// Seconds the peer's routes are kept while it restarts; None: they are not.
    pub restart_time: Option<u16>,
    /// They are kept over a NOTIFICATION, too, other than a Hard Reset (RFC 8538).
    pub restart_notification: bool,
}

/// A neighbor as it is now, with what was said last.
#[derive(Clone, Debug, Serialize)]
pub struct NeighborDetail {
    /// As in the list of all.
    #[serde(flatten)]
    pub status: NeighborStatus,
    /// Our OPEN on the connection that is furthest.
    pub open_sent: Option<OpenStatus>,
    /// The peer's OPEN on that connection.
    pub open_received: Option<OpenStatus>,
    /// The last messages, oldest first.
    pub messages: Vec<MessageStatus>,
}

/// What an OPEN says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenStatus {
    /// The AS number, that of the capability of RFC 6793 if there is one.
    pub asn: u32,
    /// Seconds offered.
    pub hold_time: u16,
    /// The BGP Identifier.
    pub router_id: Ipv4Addr,
    /// The capabilities, in the order in which they came.
    pub capabilities: Vec<String>,
}

/// A message, or messages sent in one go.
#[derive(Clone, Debug, Serialize)]
pub struct MessageStatus {
    /// Seconds ago.
    #[serde(serialize_with = "seconds")]
    pub ago: Duration,
    /// Whether the peer sent it.
    pub received: bool,
    /// The type of the first one.
    #[serde(serialize_with = "kind_text")]
    pub kind: MessageType,
    /// How many.
    pub messages: usize,
    /// Octets of all of them, headers included.
    pub octets: usize,
    /// What the first one says, in short.
    pub summary: String,
    /// The first octets of its body, in hexadecimal digits.
    pub head: String,
}

#[allow(clippy::ref_option, reason = "as serde wants it")]
fn some_seconds<S: serde::Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.map(|value| value.as_secs_f64()).serialize(serializer)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn kind_text<S: serde::Serializer>(kind: &MessageType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match kind {
        MessageType::Open => "OPEN",
        MessageType::Update => "UPDATE",
        MessageType::Notification => "NOTIFICATION",
        MessageType::Keepalive => "KEEPALIVE",
        MessageType::RouteRefresh => "ROUTE-REFRESH",
    })
}

impl OpenStatus {
    /// Of a whole message; None if it is no OPEN that can be read.
    fn of(message: &[u8]) -> Option<Self> {
        let open = Open::parse(message.get(HEADER_LEN..)?).ok()?;
        Some(Self {
            asn: open.asn(),
            hold_time: open.hold_time,
            router_id: open.router_id,
            capabilities: open.capabilities.iter().map(capabilities::text).collect(),
        })
    }
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
    /// The most prefixes that it may announce; None: any number.
    pub limit: Option<u32>,
    /// Of the paths received, those that are kept over a restart of the peer, or that it has not sent
    /// again yet in a refresh.
    pub stale_paths: usize,
    /// Whether some of them are kept over a restart of the peer and not confirmed yet.
    pub stale: bool,
    /// Whether these are kept for long, as the peer's restart time is over (RFC 9494).
    pub long_lived: bool,
    /// Seconds for which they are kept so, as agreed on; None: they are not.
    pub long_lived_time: Option<u32>,
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

impl Core {
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
            limit: config.max_prefixes.map(|max| max.of(family)),
            stale_paths: neighbor.stale_paths[family.index()],
            stale: neighbor.stale.contains(family),
            long_lived: neighbor.long_lived.contains(family),
            long_lived_time: session
                .and_then(|s| s.negotiated.long_lived)
                .map(|it| it.times[family.index()])
                .filter(|time| *time > 0),
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
            interface: config.interface.clone(),
            source_interface: config.source_interface.clone(),
            authentication: match (&config.password, &config.tcp_ao) {
                (_, Some(_)) => Some("tcp-ao"),
                (Some(_), None) => Some("md5"),
                (None, None) => None,
            },
            asn: neighbor.asn().unwrap_or(0),
            listen_range: neighbor.range.clone(),
            local_asn: neighbor.local_asn,
            peer_type: neighbor.peer_type,
            state: neighbor.state(),
            shutdown: config.shutdown.is_some(),
            role: config.role,
            graceful_shutdown: config.graceful_shutdown || self.config.graceful_shutdown,
            since: now.saturating_sub(neighbor.since),
            last_down: neighbor.last_down.as_ref().map(failure),
            last_error: neighbor.last_error.as_ref().map(failure),
            queued_octets: neighbor.slots.iter().map(|s| s.out.len()).sum(),
            counters: neighbor.counters,
            notifications: neighbor.notifications.list(),
            halted: neighbor.is_halted(now),
            next_attempt: neighbor.next_attempt().map(|at| at.saturating_sub(now)),
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
                    peer_role: agreed.peer_role,
                    receive_paths: agreed.receive_paths.iter().collect(),
                    send_paths: agreed.send_paths.iter().collect(),
                    restart_time: agreed.restart.map(|r| r.time),
                    restart_notification: agreed.restart.is_some_and(|r| r.notification),
                }
            }),
            bfd: neighbor.bfd.as_ref().map(|watch| watch.status(now)),
            waits_for_bfd: session.is_none() && !neighbor.path_is_good(now),
            families: config.families.iter().copied().map(family).collect(),
        }
    }

    /// One neighbor, by name.
    pub(crate) fn neighbor_detail(&self, name: &str, now: Time) -> Option<NeighborDetail> {
        let neighbor = self.neighbors.iter().flatten().find(|n| n.config.name == name)?;
        let direction = match &neighbor.session {
            Some(session) => session.direction,
            // The one that has heard from the peer, or else the one that is further.
            None => Direction::BOTH
                .into_iter()
                .max_by_key(|d| {
                    let slot = &neighbor.slots[d.index()];
                    (!slot.open_received.is_empty(), slot.state)
                })
                .unwrap_or(Direction::Outgoing),
        };
        let slot = &neighbor.slots[direction.index()];
        Some(NeighborDetail {
            status: self.neighbor_status(neighbor, now),
            open_sent: OpenStatus::of(&slot.open_sent),
            open_received: OpenStatus::of(&slot.open_received),
            messages: neighbor.history.statuses(now),
        })
    }
}
