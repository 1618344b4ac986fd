//! What is done to the routes of a neighbor beside its import policy.

use crate::config::{Config, PeerConfig};
use crate::policy::PeerType;
use crate::wire::attributes::{communities, find, kind};
use crate::wire::{Community, Draft, Role, path};

/// Follows from the configuration alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Our AS number towards the neighbor, if it is to be seen in the paths of its routes.
    local_as: Option<u32>,
    /// What we are to the neighbor, and its AS number (RFC 9234).
    role: Option<(Role, u32)>,
    /// Routes with GRACEFUL_SHUTDOWN are the last choice (RFC 8326 section 3).
    honors_shutdown: bool,
    /// All routes are the last choice: the session is about to end (RFC 8326 section 4.2).
    drained: bool,
    /// The neighbor is in our confederation.
    pub(super) inside: bool,
}

impl Arrival {
    /// `local_asn` and `asn`: ours and the neighbor's.
    pub(super) fn of(
        peer: &PeerConfig,
        speaker: &Config,
        sort: PeerType,
        local_asn: u32,
        asn: u32,
    ) -> Self {
        if sort != PeerType::External {
            return Self { inside: speaker.confederation.is_some(), ..Self::default() };
        }
        let visible = peer.local_asn.is_some() && !peer.local_as.no_prepend;
        Self {
            local_as: visible.then_some(local_asn),
            role: peer.role.map(|role| (role, asn)),
            honors_shutdown: peer.honor_graceful_shutdown,
            drained: peer.graceful_shutdown || speaker.graceful_shutdown,
            inside: false,
        }
    }

    /// Whether a route should never have come this way (RFC 9234 section 5, ingress 1 and 2).
    pub(super) fn is_leak(&self, block: &[u8]) -> bool {
        let Some((role, asn)) = self.role else { return false };
        let only_to_customer = find(block, kind::ONLY_TO_CUSTOMER);
        match role {
            Role::Provider | Role::Rs => only_to_customer.is_some(),
            Role::Peer => only_to_customer.is_some_and(|by| *by != asn.to_be_bytes()),
            Role::Customer | Role::RsClient => false,
        }
    }

    /// Whether a route changes even if no rule changes it.
    pub(super) fn changes(&self, block: &[u8]) -> bool {
        let marked = self.role.is_some_and(|(role, _)| role.hears_downwards());
        self.drained
            || self.local_as.is_some()
            || (marked && find(block, kind::ONLY_TO_CUSTOMER).is_none())
            || (self.honors_shutdown && is_shut_down(communities(block)))
    }

    /// Before the rules of the import policy make their changes.
    pub(super) fn begin(&self, draft: &mut Draft<'_>) {
        // RFC 9234 section 5, ingress 3.
        if let Some((role, asn)) = self.role
            && role.hears_downwards()
            && draft.get(kind::ONLY_TO_CUSTOMER).is_none()
        {
            draft.put_number(kind::ONLY_TO_CUSTOMER, asn);
        }
        if let Some(asn) = self.local_as {
            let mut longer = Vec::new();
            path::prepend(&[asn], draft.as_path(), &mut longer);
            draft.put(kind::AS_PATH, longer);
        }
    }

    /// After that: a policy may have set or deleted GRACEFUL_SHUTDOWN.
    pub(super) fn finish(&self, draft: &mut Draft<'_>) {
        let value = draft.get(kind::COMMUNITIES).unwrap_or_default();
        let all = value.as_chunks().0.iter().map(|c| Community(u32::from_be_bytes(*c)));
        if self.drained || (self.honors_shutdown && is_shut_down(all)) {
            draft.put_number(kind::LOCAL_PREF, 0);
        }
    }
}

fn is_shut_down(mut communities: impl Iterator<Item = Community>) -> bool {
    communities.any(|community| community == Community::GRACEFUL_SHUTDOWN)
}
