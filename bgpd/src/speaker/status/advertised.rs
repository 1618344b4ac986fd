//! What neighbors were told of a route, and why they were told no more.

use serde::Serialize;

use super::attributes::PathAttributes;
use crate::export::{Account, SentPath, Waits, Withheld};
use crate::policy::PeerType;
use crate::rib::{AttrId, DestId, PeerId, RibPrefix};
use crate::speaker::core::Core;
use crate::speaker::neighbor::Neighbor;
use crate::wire::{attributes, path};

/// A path as a neighbor was told of it (Adj-RIB-Out).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdvertisedPath {
    /// Our number of it (RFC 7911); 0 where the neighbor takes one path to a prefix.
    pub path_id: u32,
    /// The neighbor that it came from, by name; None: it is our own network.
    pub from: Option<String>,
    /// The attributes as they left. None: the neighbor is about to be told all again.
    #[serde(flatten)]
    pub attributes: Option<PathAttributes>,
    /// Why the neighbor is going to refuse it, if that can be known from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A path that a neighbor is not told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WithheldPath {
    /// Which one; None: this is about any.
    pub path: Option<PathName>,
    /// Why it is not told.
    pub reason: Withheld,
    /// The same in words.
    pub why: String,
    /// Where it is defined.
    pub source: &'static str,
}

/// One of several paths to a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathName {
    /// The neighbor that it came from, by name; None: it is our own network.
    pub from: Option<String>,
    /// Which of the neighbor's paths (RFC 7911); 0 where it sends but one.
    pub path_id: u32,
}

/// What one neighbor was told of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advertisement {
    /// The neighbor, by name.
    pub neighbor: String,
    /// It was told of the route.
    pub advertised: bool,
    /// With these paths.
    pub paths: Vec<AdvertisedPath>,
    /// It is not to be told of these. Of a neighbor that takes one path to a prefix only the best one
    /// is looked at.
    pub withheld: Vec<WithheldPath>,
    /// It is to be told something else than it was, and that waits for this; None: it was told all.
    pub waits: Option<Waits>,
}

impl Core {
    /// What each neighbor was told of a destination, sorted by name.
    pub(super) fn advertisements<P: RibPrefix>(&self, id: DestId) -> Vec<Advertisement> {
        let neighbors = self.neighbors.iter().flatten();
        let mut all: Vec<_> = neighbors.map(|n| self.advertisement::<P>(n, id)).collect();
        all.sort_by(|a, b| a.neighbor.cmp(&b.neighbor));
        all
    }

    fn advertisement<P: RibPrefix>(&self, neighbor: &Neighbor, id: DestId) -> Advertisement {
        let Account { sent, withheld, waits } = self.account::<P>(neighbor, id);
        let name = |(peer, path_id)| PathName { from: self.name_of(peer), path_id };
        let withheld = withheld.into_iter().map(|(path, reason)| {
            let (why, source) = (reason.to_string(), reason.source());
            WithheldPath { path: path.map(name), reason, why, source }
        });
        Advertisement {
            neighbor: neighbor.config.name.clone(),
            advertised: !sent.is_empty(),
            paths: sent.iter().map(|path| self.advertised(neighbor.id, path)).collect(),
            withheld: withheld.collect(),
            waits,
        }
    }

    fn account<P: RibPrefix>(&self, neighbor: &Neighbor, id: DestId) -> Account {
        let nothing = |why| Account { withheld: vec![(None, why)], ..Account::default() };
        let Some(session) = &neighbor.session else {
            let shut = neighbor.config.shutdown.is_some();
            return nothing(if shut { Withheld::Shutdown } else { Withheld::NotEstablished });
        };
        if !session.negotiated.families.contains(P::FAMILY) {
            return nothing(Withheld::FamilyNotNegotiated);
        }
        if session.disabled.contains(P::FAMILY) {
            return nothing(Withheld::FamilyDisabled);
        }
        let queued = neighbor.slots[session.direction.index()].out.len();
        let (rib, awaited) = (&self.rib, &self.fib.awaited);
        let account = self.groups.account::<P>(neighbor.id, id, rib, awaited, queued);
        // One that is up is told of routes as soon as these are selected.
        let Some(mut account) = account else { return nothing(Withheld::Deferred) };
        if neighbor.config.export.is_none() {
            for (_, why) in &mut account.withheld {
                // What stands in for a policy that there is not.
                if matches!(why, Withheld::ExportPolicy(_)) {
                    *why = Withheld::NoPolicy;
                }
            }
        }
        account
    }

    /// A path that a neighbor was told of.
    pub(super) fn advertised(&self, to: PeerId, sent: &SentPath) -> AdvertisedPath {
        let set = (sent.attr != AttrId::UNKNOWN).then(|| self.rib.attrs.get(sent.attr));
        let neighbor = self.neighbors.get(to.index()).and_then(Option::as_ref);
        AdvertisedPath {
            path_id: sent.number,
            from: self.name_of(sent.source),
            refused: set.and_then(|set| refusal(neighbor?, set.block, set.info.originator)),
            attributes: set.map(PathAttributes::of),
        }
    }

    /// A neighbor's name; None: it is ourselves.
    pub(super) fn name_of(&self, peer: PeerId) -> Option<String> {
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        neighbor.map(|n| n.config.name.clone())
    }
}

/// Why a neighbor takes a route with these attributes for a loop, if it does as the RFCs have it.
fn refusal(
    neighbor: &Neighbor,
    block: &[u8],
    originator: Option<std::net::Ipv4Addr>,
) -> Option<String> {
    let as_path = attributes::as_path(block);
    let theirs = neighbor.asn()?;
    let loops = match neighbor.peer_type {
        PeerType::External => path::numbers_of(as_path, false).any(|asn| asn == theirs),
        PeerType::Confederation => path::numbers_of(as_path, true).any(|asn| asn == theirs),
        PeerType::Internal => false,
    };
    if loops {
        return Some(format!(
            "AS {theirs} is in its AS_PATH: the neighbor takes it for a loop, unless it allows that \
             (RFC 4271 9.1.2)"
        ));
    }
    let own = neighbor.session.as_ref()?.negotiated.router_id;
    (originator == Some(own)).then(|| {
        format!("{own} is its ORIGINATOR_ID: the neighbor takes it for a loop (RFC 4456 8)")
    })
}
