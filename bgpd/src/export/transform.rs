//! What becomes of a route's attributes on their way to a neighbor (RFC 4271 section 5.1).

use std::net::Ipv4Addr;

use super::GroupKey;
use crate::config::{Config, PeerConfig, RemovePrivateAs};
use crate::policy::{Applied, Own, PeerType, PrivateAs};
use crate::rib::{AttrSet, DEFAULT_LOCAL_PREF};
use crate::wire::attributes::{find, kind};
use crate::wire::{Community, Draft, ExtendedCommunity, Role, path};

/// What is done to routes to a neighbor beside its export policy; follows from the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departure {
    /// In place of this AS number, the neighbor's, ours is told.
    overridden: Option<u32>,
    /// What becomes of private AS numbers other than this, the neighbor's.
    private: Option<(PrivateAs, u32)>,
    /// Our AS number that shows behind the one the neighbor knows us by.
    behind: Option<u32>,
    /// What we are to the neighbor (RFC 9234).
    role: Option<Role>,
    /// The routes are to be its last choice (RFC 8326).
    drained: bool,
    /// The neighbor is in our confederation.
    inside: bool,
}

impl Departure {
    /// `asn`: the neighbor's AS number.
    pub(crate) fn of(peer: &PeerConfig, speaker: &Config, sort: PeerType, asn: u32) -> Self {
        let drained = peer.graceful_shutdown || speaker.graceful_shutdown;
        if sort != PeerType::External {
            let inside = speaker.confederation.is_some();
            return Self { drained, inside, ..Self::default() };
        }
        let private = match peer.remove_private_as {
            RemovePrivateAs::Off => None,
            RemovePrivateAs::All => Some(PrivateAs::Remove),
            RemovePrivateAs::Replace => Some(PrivateAs::Replace),
        };
        let other = peer.local_asn.is_some_and(|own| own != speaker.asn);
        Self {
            overridden: peer.as_override.then_some(asn),
            private: private.map(|what| (what, asn)),
            behind: (other && !peer.local_as.replace_as).then_some(speaker.asn),
            role: peer.role,
            drained,
            inside: false,
        }
    }
}

/// What a route is beside its attributes, as far as that changes what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// It is one of our own networks.
    pub(super) local: bool,
    /// It is reflected, and came from the router with this BGP Identifier.
    pub(super) originator: Option<Ipv4Addr>,
    /// It is reflected with the next hop that it came with: packets do not pass here.
    pub(super) passes_by: bool,
}

impl GroupKey {
    /// The attribute block that the members are sent, after these rules of the export policy; None
    /// if they must not have the route.
    pub(super) fn transform(
        &self,
        set: AttrSet<'_>,
        origin: Origin,
        applied: &Applied,
    ) -> Option<Vec<u8>> {
        let Departure { role, drained, .. } = self.departure;
        // RFC 9234 section 5, egress 2: what came down goes further down only.
        let marked = find(set.block, kind::ONLY_TO_CUSTOMER).is_some();
        if marked && role.is_some_and(Role::hears_downwards) {
            return None;
        }
        let mut draft = Draft::of(set.block);
        let external = self.peer_type == PeerType::External;
        if external {
            // Section 5.1.4: a MED from one AS is not told to another. The policy may set one.
            if !origin.local {
                draft.remove(kind::MULTI_EXIT_DISC);
            }
            self.clean(&mut draft);
        }
        let own = Own { asn: self.local_asn, member: self.departure.inside };
        self.policy.apply(applied, &mut draft, own);
        if external {
            draft.remove(kind::LOCAL_PREF);
            draft.remove(kind::ORIGINATOR_ID);
            draft.remove(kind::CLUSTER_LIST);
            // Egress 1.
            if !marked && role.is_some_and(Role::tells_downwards) {
                draft.put_number(kind::ONLY_TO_CUSTOMER, self.local_asn);
            }
            if drained {
                draft.add(kind::COMMUNITIES, &Community::GRACEFUL_SHUTDOWN.0.to_be_bytes());
            }
            let front = [Some(self.local_asn), self.departure.behind];
            let front: Vec<u32> = front.into_iter().flatten().collect();
            let mut path = Vec::new();
            path::prepend(&front, draft.as_path(), &mut path);
            draft.put(kind::AS_PATH, path);
        } else {
            if self.peer_type == PeerType::Confederation {
                draft.remove(kind::ORIGINATOR_ID);
                draft.remove(kind::CLUSTER_LIST);
                let mut path = Vec::new();
                path::prepend_member(self.local_asn, draft.as_path(), &mut path);
                draft.put(kind::AS_PATH, path);
            }
            // That a reflector goes away takes nothing from the way to the next hop.
            if drained && !origin.passes_by {
                draft.put_number(kind::LOCAL_PREF, 0);
            } else if draft.get(kind::LOCAL_PREF).is_none() {
                draft.put_number(kind::LOCAL_PREF, DEFAULT_LOCAL_PREF);
            }
            if let Some(originator) = origin.originator {
                self.reflect(&mut draft, originator);
            }
        }
        Some(draft.finish())
    }

    /// Takes out what another AS is not to see, before the policy adds what it is.
    fn clean(&self, draft: &mut Draft<'_>) {
        let Departure { overridden, private, .. } = self.departure;
        if path::numbers_of(draft.as_path(), true).next().is_some() {
            let path = path::outside(draft.as_path());
            draft.put(kind::AS_PATH, path);
        }
        if let Some((private, keep)) = private {
            let path = private.apply(draft.as_path(), self.local_asn, Some(keep));
            draft.put(kind::AS_PATH, path);
        }
        if let Some(theirs) = overridden {
            let ours = self.local_asn;
            let path =
                path::map(draft.as_path(), |asn| Some(if asn == theirs { ours } else { asn }));
            draft.put(kind::AS_PATH, path);
        }
        // RFC 4360 section 6: those that are not transitive stay inside.
        if let Some(value) = draft.get(kind::EXTENDED_COMMUNITIES) {
            let transitive =
                |octets: &&[u8; 8]| ExtendedCommunity(u64::from_be_bytes(**octets)).is_transitive();
            let kept: Vec<u8> =
                value.as_chunks().0.iter().filter(transitive).flatten().copied().collect();
            if kept.len() != value.len() {
                draft.put_list(kind::EXTENDED_COMMUNITIES, kept);
            }
        }
    }

    /// RFC 4456 section 8: who the route is from, unless it says so itself, and the cluster that it
    /// came through, in front of those before.
    fn reflect(&self, draft: &mut Draft<'_>, originator: Ipv4Addr) {
        if draft.get(kind::ORIGINATOR_ID).is_none() {
            draft.put(kind::ORIGINATOR_ID, originator.octets().to_vec());
        }
        let earlier = draft.get(kind::CLUSTER_LIST).unwrap_or_default();
        let clusters = [&self.cluster.octets()[..], earlier].concat();
        draft.put(kind::CLUSTER_LIST, clusters);
    }
}
