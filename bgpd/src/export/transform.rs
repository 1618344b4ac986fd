//! What becomes of a route's attributes on their way to a neighbor (RFC 4271 section 5.1).

use std::net::Ipv4Addr;

use super::GroupKey;
use crate::policy::{Applied, PeerType};
use crate::rib::{AttrSet, DEFAULT_LOCAL_PREF};
use crate::wire::attributes::kind;
use crate::wire::{Draft, path};

/// What a route is beside its attributes, as far as that changes what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// It is one of our own networks.
    pub(super) local: bool,
    /// It is reflected, and came from the router with this BGP Identifier.
    pub(super) originator: Option<Ipv4Addr>,
}

impl GroupKey {
    /// The attribute block that the members are sent, after these rules of the export policy.
    pub(super) fn transform(&self, set: &AttrSet, origin: Origin, applied: &Applied) -> Vec<u8> {
        let mut draft = Draft::of(&set.block);
        let external = self.peer_type == PeerType::External;
        // Section 5.1.4: a MED from one AS is not told to another. The policy may set one.
        if external && !origin.local {
            draft.remove(kind::MULTI_EXIT_DISC);
        }
        self.policy.apply(applied, &mut draft, self.local_asn);
        if external {
            draft.remove(kind::LOCAL_PREF);
            draft.remove(kind::ORIGINATOR_ID);
            draft.remove(kind::CLUSTER_LIST);
            let mut path = Vec::new();
            path::prepend(&[self.local_asn], draft.as_path(), &mut path);
            draft.put(kind::AS_PATH, path);
        } else {
            if draft.get(kind::LOCAL_PREF).is_none() {
                draft.put_number(kind::LOCAL_PREF, DEFAULT_LOCAL_PREF);
            }
            if let Some(originator) = origin.originator {
                self.reflect(&mut draft, originator);
            }
        }
        draft.finish()
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
