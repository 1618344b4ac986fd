//! What a speaker says about itself.

mod advertised;
mod attributes;
mod capabilities;
mod counters;
mod explain;
mod neighbors;
mod routes;

pub use advertised::{AdvertisedPath, Advertisement, PathName, WithheldPath};
pub use attributes::PathAttributes;
pub(in crate::speaker) use counters::NotificationCounts;
pub use counters::{Counters, NotificationCount};
pub use explain::{Explanation, PathExplanation, Step};
pub use neighbors::{
    DownReason, Failure, FamilyStatus, MessageStatus, NeighborDetail, NeighborStatus, OpenStatus,
    SessionStatus,
};
pub(crate) use routes::Cursor;
pub use routes::{PathStatus, PrefixMatch, RouteQuery, RouteStatus};

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;

use super::core::Core;
use crate::config::Config;
use crate::policy::PeerType;
use crate::speaker::ListenRangeStatus;
use crate::wire::Family;

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

/// What a speaker has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Times it looked what there was to do.
    pub rounds: u64,
    /// Decisions that gave a prefix another best path.
    pub best_changes: u64,
    /// Decisions that gave a prefix other next hops.
    pub fib_changes: u64,
}

/// The speaker as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct SpeakerStatus {
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// AS number.
    pub asn: u32,
    /// The AS number of the confederation that it is a member of (RFC 5065).
    pub confederation: Option<u32>,
    /// How far it has come since it started.
    pub progress: Progress,
    /// Seconds for which a neighbor that is up, the most patient of them, would keep our routes if we
    /// went away now without a word (RFC 4724, RFC 9494). 0: nobody would.
    pub restart_window: u32,
    /// Prefixes known, IPv4 and IPv6.
    pub prefixes: [usize; 2],
    /// Attribute sets stored.
    pub attribute_sets: usize,
    /// Update groups.
    pub update_groups: usize,
    /// What it has done since it started.
    pub work: Work,
    /// Forwarding changes not taken yet, of the subscriber that is furthest behind.
    pub fib_pending: usize,
    /// Batches of forwarding changes taken and not acknowledged yet.
    pub fib_unacknowledged: usize,
    /// Prefixes that are announced once a consumer has acknowledged their changes.
    pub fib_awaited: usize,
    /// BFD packets that were for no session or not to be believed; None if there is no BFD.
    pub bfd_discarded: Option<crate::bfd::Discarded>,
    /// Where neighbors come from that are not configured one by one.
    pub listen_ranges: Vec<ListenRangeStatus>,
}

/// An update group: neighbors that are told the same, each thing encoded once for all of them.
#[derive(Clone, Debug, Serialize)]
pub struct GroupStatus {
    /// The family.
    pub family: Family,
    /// Whether the members are in our AS.
    pub peer_type: PeerType,
    /// The members are clients of this route reflector.
    pub client: bool,
    /// The names of the members.
    pub members: Vec<String>,
    /// Prefixes that the members have been told.
    pub advertised: usize,
    /// Prefixes that changed and have not been looked at yet.
    pub pending: usize,
}

/// Where a speaker's memory is, counted in things rather than octets where those are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStatus {
    /// Prefixes, IPv4 and IPv6.
    pub prefixes: [usize; 2],
    /// Paths to them: what neighbors announced and our own networks.
    pub paths: usize,
    /// Attribute sets.
    pub attribute_sets: usize,
    /// Octets of attributes in them.
    pub attribute_octets: usize,
    /// Entries of Adj-RIB-Out; one stands for all members of an update group.
    pub sent_routes: usize,
    /// Octets queued for neighbors and not sent yet.
    pub queued_octets: usize,
    /// Octets of messages of which the end has not come yet.
    pub partial_octets: usize,
}

pub(crate) fn seconds<S: serde::Serializer>(
    value: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
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
            confederation: self.config.confederation.as_ref().map(|c| c.identifier),
            progress: self.progress,
            restart_window: self.restart_window(),
            prefixes: [self.rib.v4.len(), self.rib.v6.len()],
            attribute_sets: self.rib.attrs.len(),
            update_groups: self.groups.len(),
            work: self.work_done,
            fib_pending,
            fib_unacknowledged,
            fib_awaited: self.fib.awaited(),
            bfd_discarded: None,
            listen_ranges: self.range_statuses(),
        }
    }

    /// The configuration as it is applied.
    pub(crate) fn configuration(&self) -> Config {
        let mut config = self.config.clone();
        config.peers = self.peers().map(|peer| (**peer).clone()).collect();
        config.networks = self.networks.values().cloned().collect();
        config
    }

    pub(crate) fn group_statuses(&self) -> Vec<GroupStatus> {
        let name = |peer: crate::rib::PeerId| {
            let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
            neighbor.map(|n| n.config.name.clone())
        };
        let status = |group: crate::export::Summary<'_>| GroupStatus {
            family: group.key.family,
            peer_type: group.key.peer_type,
            client: group.key.client,
            members: group.members.into_iter().filter_map(name).collect(),
            advertised: group.advertised,
            pending: group.pending,
        };
        self.groups.summaries().map(status).collect()
    }

    /// Looks at every attribute set: a question for operators, not for a scrape.
    pub(crate) fn memory(&self) -> MemoryStatus {
        let slots = || self.neighbors.iter().flatten().flat_map(|n| &n.slots);
        let received = self.neighbors.iter().flatten().flat_map(|n| n.received);
        MemoryStatus {
            prefixes: [self.rib.v4.len(), self.rib.v6.len()],
            paths: received.sum::<usize>() + self.networks.len(),
            attribute_sets: self.rib.attrs.len(),
            attribute_octets: self.rib.attrs.octets(),
            sent_routes: self.groups.summaries().map(|g| g.advertised).sum(),
            queued_octets: slots().map(|s| s.out.len()).sum(),
            partial_octets: slots().map(|s| s.received.len()).sum(),
        }
    }
}
