//! What becomes of a path on its way to the members of a group: whether they are told at all, and of
//! what.

use rustc_hash::FxHashMap;

use super::group::{Group, Sent};
use super::transform::Origin;
use super::withheld::Withheld;
use crate::config::NextHopMode;
use crate::policy::{Applied, Narrowed, NextHopChange, PeerType, Route, Source};
use crate::rib::{AttrId, AttrSet, DestId, PeerId, PeerRank, Rib, RibPrefix};
use crate::wire::{Family, Info, NextHop, attributes, path};

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

/// A path that may be sent: its attributes as they leave, which are encoded but not interned.
pub(super) struct Prepared {
    pub(super) block: Vec<u8>,
    pub(super) next_hop: NextHop,
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
        let Ok(applied) = self.admit::<P>(dest, (source, attr), rib, &mut memo.narrowed) else {
            return Sent::NOTHING;
        };
        let rank = rib.ranks[source.index()];
        // MED depends on whether the route is ours, and what a reflector adds on whose it is: that
        // is part of the memo's key.
        let tells_source = self.reflects(&rank) && rib.attrs.get(attr).info.originator.is_none();
        let origin = match (rank.local, tells_source) {
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
            let out = self.transform::<P>(attr, &rank, &key.2, rib);
            memo.exported.insert(key, out);
            out
        };
        if out == AttrId::NONE { Sent::NOTHING } else { Sent { attr: out, source } }
    }

    /// As [`Self::export`], for who asks: changes nothing, and says why a path is not for the members.
    pub(super) fn would_export<P: RibPrefix>(
        &self,
        dest: DestId,
        (source, attr): (PeerId, AttrId),
        rib: &Rib,
    ) -> Result<Prepared, Withheld> {
        let applied = self.admit::<P>(dest, (source, attr), rib, &mut FxHashMap::default())?;
        let rank = rib.ranks[source.index()];
        let prepared = self.prepare::<P>(rib.attrs.get(attr), &rank, &applied)?;
        let Prepared { block, next_hop } = &prepared;
        if !self.key.encoder.can_announce::<P>(block, &Info::of(block), *next_hop) {
            return Err(Withheld::TooLong);
        }
        Ok(prepared)
    }

    /// Whether paths from there are reflected to the members, if they are told of them.
    fn reflects(&self, source: &PeerRank) -> bool {
        source.internal && self.key.peer_type == PeerType::Internal
    }

    /// Whether the members may be told of a path at all, and if so which rules of the export policy
    /// change it.
    fn admit<P: RibPrefix>(
        &self,
        dest: DestId,
        (source, attr): (PeerId, AttrId),
        rib: &Rib,
        narrowed: &mut FxHashMap<(AttrId, PeerId), Narrowed>,
    ) -> Result<Applied, Withheld> {
        let rank = &rib.ranks[source.index()];
        let info = rib.attrs.get(attr).info;
        // RFC 4271 section 9.2: what an internal peer told us the others have from it; but for the
        // clients of a route reflector (RFC 4456 section 6), which have it from us, or it from them.
        if self.reflects(rank) && !rank.client && !self.key.client {
            return Err(Withheld::InternalToInternal);
        }
        if info.no_advertise {
            return Err(Withheld::NoAdvertise);
        }
        if info.no_export && self.key.peer_type == PeerType::External {
            return Err(Withheld::NoExport);
        }
        if info.no_export_subconfed && self.key.peer_type != PeerType::Internal {
            return Err(Withheld::NoExportSubconfed);
        }
        if info.llgr_stale && self.key.withhold_stale {
            return Err(Withheld::LongLivedStale);
        }
        self.verdict::<P>(dest, (source, attr), rib, narrowed).map_err(Withheld::ExportPolicy)
    }

    /// What the export policy says of a path from `source`.
    fn verdict<P: RibPrefix>(
        &self,
        dest: DestId,
        (source, attr): (PeerId, AttrId),
        rib: &Rib,
        narrowed: &mut FxHashMap<(AttrId, PeerId), Narrowed>,
    ) -> Result<Applied, Option<u16>> {
        let policy = &*self.key.policy;
        if policy.accepts_everything() {
            return Ok(Applied::default());
        }
        let rank = rib.ranks[source.index()];
        let from = match (rank.local, policy.ignores_neighbors()) {
            (true, _) => PeerId::LOCAL,
            (false, true) => PeerId(u16::MAX),
            (false, false) => source,
        };
        let narrowed = narrowed.entry((attr, from)).or_insert_with(|| {
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
        policy.verdict(narrowed, || P::table(rib).dest(dest).prefix.to_net())
    }

    /// The attributes as the members get them, interned; NONE if they are not for them, or cannot be
    /// encoded for them.
    fn transform<P: RibPrefix>(
        &self,
        attr: AttrId,
        source: &PeerRank,
        applied: &Applied,
        rib: &mut Rib,
    ) -> AttrId {
        let prepared = self.prepare::<P>(rib.attrs.get(attr), source, applied);
        let Ok(Prepared { block, next_hop }) = prepared else { return AttrId::NONE };
        let out = rib.attrs.intern(&block, next_hop);
        let info = &rib.attrs.get(out).info;
        if self.key.encoder.can_announce::<P>(&block, info, next_hop) {
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

    /// The attributes as the members get them, however long they are.
    fn prepare<P: RibPrefix>(
        &self,
        set: AttrSet<'_>,
        source: &PeerRank,
        applied: &Applied,
    ) -> Result<Prepared, Withheld> {
        let key = &*self.key;
        let next_hop = self.next_hop::<P>(set.next_hop, key.policy.next_hop(applied))?;
        let originator = self.reflects(source).then_some(source.router_id);
        let passes_by = originator.is_some() && next_hop == set.next_hop;
        let origin = Origin { local: source.local, originator, passes_by };
        let block = key.transform(set, origin, applied).ok_or(Withheld::RouteLeak)?;
        Ok(Prepared { block, next_hop })
    }

    /// The next hop that the members are told (RFC 4271 section 5.1.3, RFC 2545 section 3, RFC 8950
    /// section 4), unless the policy has `chosen` another; or why there is none that they would
    /// take.
    fn next_hop<P: RibPrefix>(
        &self,
        learned: NextHop,
        chosen: Option<NextHopChange>,
    ) -> Result<NextHop, Withheld> {
        if let Some(address) = chosen.and_then(|chosen| chosen.address(P::FAMILY)) {
            return Ok(address);
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
            self.key.next_hop.ok_or(Withheld::NoNextHop)?
        } else {
            NextHop::new(learned.addr)
        };
        let v6 = next_hop.addr.is_ipv6();
        let fits = match P::FAMILY {
            Family::Ipv4Unicast => !v6 || self.key.encoder.extended_next_hop,
            Family::Ipv6Unicast => v6,
        };
        match (fits, next_hop.addr.is_unspecified()) {
            (false, _) => Err(Withheld::NextHopFamily),
            (true, true) => Err(Withheld::NoNextHop),
            (true, false) => Ok(next_hop),
        }
    }
}
