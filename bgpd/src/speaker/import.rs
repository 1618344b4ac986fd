//! Routes from neighbors: UPDATEs taken apart, judged by the import policy, and put into the RIB.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::core::Core;
use super::neighbor::Neighbor;
use crate::policy::{Applied, Narrowed, Outcome, Own, PeerType, Route, Source};
use crate::rib::{AttrId, DestId, Path, PeerId, Reason, Rib, RibPrefix, with_family};
use crate::wire::attributes::{self, AttributeBlock};
use crate::wire::{
    Confederation, Context, Disposition, Draft, Family, FamilySet, NextHop, Nlri, Notification,
    ParsedUpdate, Prefixes, Reach, Unreach, code, parse_update, path,
};

impl Core {
    /// Takes in an UPDATE.
    pub(super) fn update(&mut self, peer: PeerId, body: &[u8]) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbors.get(peer.index()).and_then(Option::as_ref) else {
            return Ok(());
        };
        let Some(session) = &neighbor.session else { return Ok(()) };
        let external = neighbor.peer_type == PeerType::External;
        let context = Context {
            four_octet_as: session.negotiated.four_octet_as,
            external,
            confederation: match neighbor.peer_type {
                PeerType::Confederation => Confederation::OtherMember,
                PeerType::Internal if self.config.confederation.is_some() => {
                    Confederation::SameMember
                }
                _ => Confederation::None,
            },
            families: neighbor.families(),
            extended_next_hop: session.negotiated.extended_next_hop,
            add_path: session.negotiated.receive_paths,
            first_as: neighbor.config.enforce_first_as.then_some(session.negotiated.asn),
        };
        let mut block = std::mem::take(&mut self.block);
        let result = match parse_update(body, &context, &mut block) {
            Ok(update) => self.apply_update(peer, &update, &block),
            Err(error) => Err(error),
        };
        self.block = block;
        result
    }

    fn apply_update(
        &mut self,
        peer: PeerId,
        update: &ParsedUpdate<'_>,
        block: &AttributeBlock,
    ) -> Result<(), Notification> {
        if !update.errors.is_empty() {
            self.update_errors(peer, update)?;
        }
        // Without those that have just been disabled.
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        let families = neighbor.map(Neighbor::families).unwrap_or_default();
        let (v4, v6) =
            (families.contains(Family::Ipv4Unicast), families.contains(Family::Ipv6Unicast));
        if v4 {
            self.withdraw(peer, update.withdrawn);
        }
        match update.unreach {
            Some(Unreach::V4(prefixes)) if v4 => self.withdraw(peer, prefixes),
            Some(Unreach::V6(prefixes)) if v6 => self.withdraw(peer, prefixes),
            _ => {}
        }
        let announced = update.announced.map(|(next_hop, p)| Reach::V4(next_hop, p));
        for reach in [announced, update.reach].into_iter().flatten() {
            match (reach, update.treat_as_withdraw()) {
                (Reach::V4(..), _) if !v4 => {}
                (Reach::V6(..), _) if !v6 => {}
                (Reach::V4(next_hop, p), false) => self.announce(peer, block, next_hop, p)?,
                (Reach::V6(next_hop, p), false) => self.announce(peer, block, next_hop, p)?,
                (Reach::V4(_, prefixes), true) => self.withdraw(peer, prefixes),
                (Reach::V6(_, prefixes), true) => self.withdraw(peer, prefixes),
            }
        }
        if let Some(family) = update.end_of_rib {
            self.end_of_rib(peer, family);
        }
        Ok(())
    }

    /// RFC 7606: counts, logs, and disables families.
    fn update_errors(
        &mut self,
        peer: PeerId,
        update: &ParsedUpdate<'_>,
    ) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbor(peer) else { return Ok(()) };
        let mut disabled = FamilySet::default();
        // A peer that sends them without end shall not fill the log: it is said once for a session.
        let session = neighbor.session.as_mut();
        let known = session.is_some_and(|session| std::mem::replace(&mut session.complained, true));
        for error in &update.errors {
            let peer = &neighbor.config.name;
            let (attribute, disposition) = (error.kind, error.disposition);
            let reason = error.reason;
            if known {
                tracing::debug!(peer, attribute, ?disposition, reason, "malformed UPDATE");
            } else {
                tracing::warn!(
                    peer,
                    attribute,
                    ?disposition,
                    reason,
                    "malformed UPDATE; more of this session are only counted"
                );
            }
            match error.disposition {
                Disposition::DiscardAttribute => neighbor.counters.attributes_discarded += 1,
                Disposition::TreatAsWithdraw => neighbor.counters.treated_as_withdraw += 1,
                Disposition::DisableFamily(family) => disabled.insert(family),
            }
        }
        let families = neighbor.families();
        for family in disabled.iter() {
            // With nothing else on the session, a new one is the better remedy.
            if families == FamilySet::from_iter([family]) {
                let reason = "the only family of the session cannot be parsed";
                return Err(Notification::new(code::UPDATE, 9, &[], reason));
            }
            let Some(neighbor) = self.neighbor(peer) else { return Ok(()) };
            neighbor.counters.families_disabled += 1;
            if let Some(session) = &mut neighbor.session {
                session.disabled.insert(family);
            }
            self.purge(peer, family);
            self.groups.leave(peer, family, &mut self.rib);
        }
        Ok(())
    }

    fn withdraw<P: RibPrefix>(&mut self, peer: PeerId, prefixes: Prefixes<'_, P>) {
        let mut found = std::mem::take(&mut self.scratch.found);
        P::table(&self.rib).find_all(prefixes.map(|nlri| nlri.prefix), &mut found);
        for (Nlri { path_id, .. }, dest) in prefixes.zip(found.drain(..)) {
            // One that was named twice may have gone with the first; its number has not been given
            // to another one yet.
            if let Some(dest) = dest {
                self.remove::<P>(dest, (peer, path_id));
            }
        }
        self.scratch.found = found;
    }

    fn announce<P: RibPrefix>(
        &mut self,
        peer: PeerId,
        block: &AttributeBlock,
        next_hop: NextHop,
        prefixes: Prefixes<'_, P>,
    ) -> Result<(), Notification> {
        let Self { rib, neighbors, config, scratch, .. } = self;
        let Some(Some(neighbor)) = neighbors.get_mut(peer.index()) else { return Ok(()) };
        let attr_in = rib.attrs.intern(&block.bytes, next_hop);
        let mut judge = Judge::new(neighbor, config, attr_in, rib);
        let family = P::FAMILY.index();
        let mut over = None;
        scratch.hashes.clear();
        P::table(rib).hash_all(prefixes.map(|nlri| nlri.prefix), &mut scratch.hashes);
        for (Nlri { prefix, path_id }, hash) in prefixes.zip(&scratch.hashes) {
            let (attr, reason) = judge.judge(prefix, rib);
            rib.attrs.retain(attr_in);
            let mut path = Path::new(peer, path_id, attr_in);
            (path.attr, path.reason) = (attr, reason);
            let (dest, old) = rib.announce_hashed(prefix, *hash, path);
            if old.is_none() {
                judge.neighbor.received[family] += 1;
                judge.neighbor.routes[family].insert(dest);
            }
            let was_stale = old.is_some_and(|p| p.is_stale());
            judge.neighbor.stale_paths[family] -= usize::from(was_stale);
            let was = old.is_some_and(|p| p.attr != AttrId::NONE);
            let accepted = &mut judge.neighbor.accepted[family];
            *accepted = *accepted + usize::from(attr != AttrId::NONE) - usize::from(was);
            // At once: what more the message holds would be stored only to be thrown away.
            over = judge.neighbor.over_limit(P::FAMILY);
            if over.is_some() {
                break;
            }
        }
        judge.finish(rib);
        rib.attrs.release(attr_in);
        over.map_or(Ok(()), Err)
    }

    /// Gives a path other attributes, as if they had been received.
    pub(super) fn replace_attributes<P: RibPrefix>(
        &mut self,
        dest: DestId,
        old: &Path,
        attr_in: AttrId,
    ) {
        let Self { rib, neighbors, config, .. } = self;
        let Some(Some(neighbor)) = neighbors.get_mut(old.peer.index()) else { return };
        let prefix = P::table(rib).dest(dest).prefix;
        let mut judge = Judge::new(neighbor, config, attr_in, rib);
        let (attr, reason) = judge.judge(prefix, rib);
        judge.finish(rib);
        rib.attrs.retain(attr_in);
        let mut path = Path::new(old.peer, old.id, attr_in);
        (path.attr, path.reason) = (attr, reason);
        path.set_stale(old.is_stale());
        rib.announce(prefix, path);
        let accepted = &mut neighbor.accepted[P::FAMILY.index()];
        *accepted += usize::from(attr != AttrId::NONE);
        *accepted -= usize::from(old.attr != AttrId::NONE);
    }

    /// Applies the import policy anew to all routes of a neighbor.
    pub(super) fn judge_again(&mut self, peer: PeerId) {
        for family in Family::ALL {
            let routes = self.routes_of(peer, family);
            with_family!(family, P => self.judge_routes::<P>(peer, &routes));
        }
    }

    fn judge_routes<P: RibPrefix>(&mut self, peer: PeerId, routes: &[DestId]) {
        let Self { rib, neighbors, config, .. } = self;
        let Some(Some(neighbor)) = neighbors.get_mut(peer.index()) else { return };
        for dest in routes {
            let prefix = P::table(rib).dest(*dest).prefix;
            let paths = P::table_mut(rib).paths_mut(*dest, peer);
            let paths: SmallVec<[Path; 2]> = paths.map(|p| *p).collect();
            for old in paths {
                let mut judge = Judge::new(neighbor, config, old.attr_in, rib);
                let (attr, reason) = judge.judge(prefix, rib);
                judge.finish(rib);
                if attr != old.attr {
                    rib.touch::<P>(*dest);
                    let mut paths = P::table_mut(rib).paths_mut(*dest, peer);
                    if let Some(path) = paths.find(|p| p.id == old.id) {
                        (path.attr, path.reason) = (attr, reason);
                    }
                }
                rib.attrs.release(old.attr);
                let accepted = &mut neighbor.accepted[P::FAMILY.index()];
                *accepted += usize::from(attr != AttrId::NONE);
                *accepted -= usize::from(old.attr != AttrId::NONE);
            }
        }
    }
}

/// What the prefixes of an UPDATE are looked up with; kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    found: Vec<Option<DestId>>,
    hashes: Vec<u32>,
}

/// Judges the routes of one attribute set from one neighbor.
struct Judge<'a> {
    neighbor: &'a mut Neighbor,
    attr_in: AttrId,
    /// What is wrong with all of them, or which rules of the import policy hold for them.
    verdict: Result<Narrowed, Reason>,
    /// What rules used so far made of the attributes.
    changed: SmallVec<[(Applied, AttrId); 2]>,
    /// They change even where no rule changes them.
    touched: bool,
}

impl<'a> Judge<'a> {
    fn new(neighbor: &'a mut Neighbor, config: &crate::Config, attr_in: AttrId, rib: &Rib) -> Self {
        let set = rib.attrs.get(attr_in);
        let refused = if loops(neighbor, config, attributes::as_path(set.block))
            > usize::from(neighbor.config.allowas_in)
        {
            Some(Reason::AsPathLoop)
        } else if set.info.originator == Some(config.router_id) {
            Some(Reason::OriginatorLoop)
        } else if attributes::clusters(set.block).any(|cluster| cluster == config.cluster()) {
            Some(Reason::ClusterLoop)
        } else if !is_usable(neighbor, set.next_hop) {
            Some(Reason::NextHop)
        } else if neighbor.arrival.is_leak(set.block) {
            Some(Reason::RouteLeak)
        } else {
            None
        };
        let verdict = match refused {
            Some(reason) => Err(reason),
            None => Ok(neighbor.import.narrow(&Route {
                block: set.block,
                info: set.info,
                next_hop: set.next_hop,
                source: Source::RemotePeers,
                peer_type: neighbor.peer_type,
                neighbor: Some(neighbor.config.address),
            })),
        };
        let touched = neighbor.arrival.changes(set.block);
        Self { neighbor, attr_in, verdict, changed: SmallVec::new(), touched }
    }

    /// The attributes the route is used with, with a reference; or why it is not.
    fn judge<P: RibPrefix>(&mut self, prefix: P, rib: &mut Rib) -> (AttrId, Reason) {
        let narrowed = match &self.verdict {
            Ok(narrowed) => narrowed,
            Err(reason) => return (AttrId::NONE, *reason),
        };
        if prefix.is_multicast() {
            return (AttrId::NONE, Reason::NotUnicast);
        }
        let applied = match self.neighbor.import.decide(narrowed, || prefix.to_net()) {
            Outcome::Reject => return (AttrId::NONE, Reason::ImportPolicy),
            Outcome::Accept(applied) => applied,
        };
        let same = applied.is_empty() && !self.touched;
        let attr = if same { self.attr_in } else { self.change::<P>(applied, rib) };
        let reason = if attr == AttrId::NONE { Reason::NextHop } else { Reason::Undecided };
        rib.attrs.retain(attr);
        (attr, reason)
    }

    /// The attributes after these rules; NONE if they make an unusable next hop.
    fn change<P: RibPrefix>(&mut self, applied: Applied, rib: &mut Rib) -> AttrId {
        if let Some((_, attr)) = self.changed.iter().find(|(known, _)| *known == applied) {
            return *attr;
        }
        let policy = &self.neighbor.import;
        let set = rib.attrs.get(self.attr_in);
        let mut draft = Draft::of(set.block);
        self.neighbor.arrival.begin(&mut draft);
        let Neighbor { local_asn, arrival, .. } = &*self.neighbor;
        policy.apply(&applied, &mut draft, Own { asn: *local_asn, member: arrival.inside });
        self.neighbor.arrival.finish(&mut draft);
        let chosen = policy.next_hop(&applied).and_then(|chosen| chosen.address(P::FAMILY));
        let next_hop = chosen.unwrap_or(set.next_hop);
        let block = draft.finish();
        let attr = if is_usable(self.neighbor, next_hop) {
            rib.attrs.intern(&block, next_hop)
        } else {
            AttrId::NONE
        };
        self.changed.push((applied, attr));
        attr
    }

    fn finish(self, rib: &mut Rib) {
        for (_, attr) in self.changed {
            rib.attrs.release(attr);
        }
    }
}

/// How often a path came through here: by our AS number, or, of a confederation, by that of the
/// whole outside and by that of the member inside (RFC 5065 section 5.1).
fn loops(neighbor: &Neighbor, config: &crate::Config, as_path: &[u8]) -> usize {
    let whole = config.confederation.as_ref().map_or(config.asn, |c| c.identifier);
    let outside = path::numbers_of(as_path, false);
    let inside = path::numbers_of(as_path, true);
    let local = neighbor.config.local_asn.unwrap_or(whole);
    outside.filter(|asn| [whole, local].contains(asn)).count()
        + inside.filter(|asn| *asn == config.asn).count()
}

/// Whether packets can be sent to this next hop: not to ourselves, not to an IPv4 address in
/// IPv6 clothes (which some peers send for IPv6 routes over an IPv4 session), not to a link-local
/// one on nobody knows which link.
fn is_usable(neighbor: &Neighbor, next_hop: NextHop) -> bool {
    let possible = match next_hop.addr {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => neighbor.interface() != 0,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
        IpAddr::V4(_) => true,
    };
    let own = Family::ALL.into_iter().filter_map(|f| neighbor.own_next_hop(f));
    possible && !own.into_iter().any(|own| own.names(next_hop))
}
