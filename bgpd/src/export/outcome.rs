//! What becomes of a path on its way to the members of a group: whether they are told at all, and of
//! what.

use rustc_hash::FxHashMap;

use super::group::{Group, Sent};
use super::transform::Origin;
use crate::config::NextHopMode;
use crate::policy::{Applied, Narrowed, NextHopChange, Outcome, PeerType, Route, Source};
use crate::rib::{AttrId, DestId, PeerId, Rib, RibPrefix};
use crate::wire::{Family, NextHop, attributes, path};

/// What was found out in one flush about attribute sets.
#[derive(Default)]
pub(super) struct Memo {
    /// Which rules of the policy hold.
    narrowed: FxHashMap<(AttrId, PeerId), Narrowed>,
    /// What becomes of it under these rules; holds one reference to the result.
    pub(super) exported: FxHashMap<(AttrId, PeerId, Applied), AttrId>,
    /// The last of these: most routes have the attributes of the one before.
    last: Option<((AttrId, PeerId, Applied), AttrId)>,
}

impl Group {
    /// What the members are to be told of a path to a destination now. The attributes are kept alive
    /// by the memo.
    pub(super) fn export<P: RibPrefix>(
        &self,
        dest: DestId,
        (source, attr): (PeerId, AttrId),
        rib: &mut Rib,
        memo: &mut Memo,
    ) -> Sent {
        let prefix = P::table(rib).dest(dest).prefix;
        let rank = rib.ranks[source.index()];
        let set = rib.attrs.get(attr);
        let external = self.key.peer_type == PeerType::External;
        // RFC 4271 section 9.2: what an internal peer told us the others have from it; but for the
        // clients of a route reflector (RFC 4456 section 6), which have it from us, or it from them.
        let reflected = rank.internal && self.key.peer_type == PeerType::Internal;
        if (reflected && !rank.client && !self.key.client)
            || set.info.no_advertise
            || (external && set.info.no_export)
            || (self.key.withhold_stale && set.info.llgr_stale)
            || (self.key.peer_type != PeerType::Internal && set.info.no_export_subconfed)
        {
            return Sent::NOTHING;
        }
        let applied = match self.outcome(prefix, source, attr, rib, memo) {
            Outcome::Reject => return Sent::NOTHING,
            Outcome::Accept(applied) => applied,
        };
        // MED depends on whether the route is ours, and what a reflector adds on whose it is: that
        // is part of the memo's key.
        let origin = match (rank.local, reflected && set.info.originator.is_none()) {
            (true, _) => PeerId::LOCAL,
            (false, true) => source,
            (false, false) => PeerId(u16::MAX),
        };
        let key = (attr, origin, applied);
        let out = if let Some((last, out)) = &memo.last
            && *last == key
        {
            *out
        } else if let Some(out) = memo.exported.get(&key) {
            memo.last = Some((key, *out));
            *out
        } else {
            let originator = reflected.then_some(rank.router_id);
            let origin = Origin { local: rank.local, originator, passes_by: false };
            let out = self.transform::<P>(attr, origin, &key.2, rib);
            memo.exported.insert(key, out);
            out
        };
        if out == AttrId::NONE { Sent::NOTHING } else { Sent { attr: out, source } }
    }

    /// What the export policy says of a route from `source`.
    fn outcome<P: RibPrefix>(
        &self,
        prefix: P,
        source: PeerId,
        attr: AttrId,
        rib: &Rib,
        memo: &mut Memo,
    ) -> Outcome {
        let policy = &*self.key.policy;
        if policy.accepts_everything() {
            return Outcome::Accept(Applied::default());
        }
        let rank = rib.ranks[source.index()];
        let from = match (rank.local, policy.ignores_neighbors()) {
            (true, _) => PeerId::LOCAL,
            (false, true) => PeerId(u16::MAX),
            (false, false) => source,
        };
        let narrowed = memo.narrowed.entry((attr, from)).or_insert_with(|| {
            let set = rib.attrs.get(attr);
            policy.narrow(&Route {
                block: set.block,
                info: set.info,
                next_hop: set.next_hop,
                source: if rank.local { Source::Local } else { Source::RemotePeers },
                peer_type: self.key.peer_type,
                neighbor: (!rank.local).then_some(rank.address),
            })
        });
        policy.decide(narrowed, || prefix.to_net())
    }

    /// The attributes as the members get them; NONE if they are not for them, or cannot be encoded
    /// for them.
    fn transform<P: RibPrefix>(
        &self,
        attr: AttrId,
        origin: Origin,
        applied: &Applied,
        rib: &mut Rib,
    ) -> AttrId {
        let key = &*self.key;
        let set = rib.attrs.get(attr);
        let chosen = key.policy.next_hop(applied);
        let Some(next_hop) = self.next_hop::<P>(set.next_hop, chosen) else { return AttrId::NONE };
        let passes_by = origin.originator.is_some() && next_hop == set.next_hop;
        let origin = Origin { passes_by, ..origin };
        let Some(block) = key.transform(set, origin, applied) else { return AttrId::NONE };
        let out = rib.attrs.intern(&block, next_hop);
        let info = &rib.attrs.get(out).info;
        if key.encoder.can_announce::<P>(&block, info, next_hop) {
            return out;
        }
        rib.attrs.release(out);
        tracing::warn!(
            as_path = path::display(attributes::as_path(&block)),
            octets = block.len(),
            family = %P::FAMILY,
            peers = self.members.len(),
            "attributes too long for a message: routes with them are not announced to these peers"
        );
        AttrId::NONE
    }

    /// The next hop that the members are told (RFC 4271 section 5.1.3, RFC 2545 section 3, RFC 8950
    /// section 4), unless the policy has `chosen` another; None if there is none that they would
    /// take.
    fn next_hop<P: RibPrefix>(
        &self,
        learned: NextHop,
        chosen: Option<NextHopChange>,
    ) -> Option<NextHop> {
        if let Some(address) = chosen.and_then(|chosen| chosen.address(P::FAMILY)) {
            return Some(address);
        }
        let ourselves = match (chosen, self.key.next_hop_mode) {
            (Some(NextHopChange::Ourselves), _) => true,
            (Some(NextHopChange::Unchanged), _) => false,
            (_, NextHopMode::Auto) => self.key.peer_type == PeerType::External,
            (_, NextHopMode::Ourselves) => true,
            (_, NextHopMode::Keep) => false,
        };
        // A link-local address is nobody, or somebody else, on the members' links.
        let next_hop = if ourselves || learned.is_ourselves() || learned.is_link_local() {
            self.key.next_hop?
        } else {
            NextHop::new(learned.addr)
        };
        let v6 = next_hop.addr.is_ipv6();
        let fits = match P::FAMILY {
            Family::Ipv4Unicast => !v6 || self.key.encoder.extended_next_hop,
            Family::Ipv6Unicast => v6,
        };
        (fits && !next_hop.addr.is_unspecified()).then_some(next_hop)
    }
}
