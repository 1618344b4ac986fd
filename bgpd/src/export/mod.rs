//! Adj-RIB-Out: what neighbors were told, kept once for all that are told the same.
//!
//! An *update group* is a set of neighbors, for one family, that would be sent the same octets.
//! It knows for each destination what its members were told, and which destinations changed
//! since. A flush turns the difference into UPDATEs, encoded once and queued for every member.
//!
//! A neighbor that joins, asks for a refresh, cannot keep up, or whose policy changed is the only
//! member of a group of its own: that group starts from what this neighbor was told (nothing, for
//! a new one), and merges into the common group once both have caught up with the RIB. So a
//! slow neighbor holds up nobody, is sent only the latest state, and costs bounded memory.

mod account;
mod group;
mod outcome;
mod pace;
mod plan;
mod several;
mod sources;
#[cfg(test)]
mod tests;
mod transform;
mod withheld;

pub use account::Waits;
pub(crate) use account::{Account, SentPath};
pub(crate) use group::GroupKey;
use group::{Group, Member, Sent};
pub(crate) use transform::Departure;
pub use withheld::Withheld;

use std::sync::Arc;

use bytes::Bytes;

use crate::rib::{AttrId, Bitmap, Decided, DestId, PeerId, Rib, RibPrefix, with_family};
use crate::speaker::Time;
use crate::wire::Family;

/// Octets queued for a neighbor above which it is sent nothing new for now.
pub(crate) const QUEUE_HIGH: usize = 1 << 20;
/// Destinations looked at in one flush of a group that is catching up.
const CHUNK: usize = 16 * 1024;

/// Where the groups put what they have to say.
pub(crate) trait Sink {
    /// Queues UPDATEs for a neighbor.
    fn queue(&mut self, peer: PeerId, octets: &Bytes, messages: usize);
    /// Octets queued for a neighbor and not sent yet.
    fn queued(&self, peer: PeerId) -> usize;
    /// Members of a group were told something else of a destination.
    fn told(&mut self, family: Family, dest: DestId);
    /// A neighbor has been told everything.
    fn caught_up(&mut self, peer: PeerId, family: Family, told: Told);
}

/// On what occasion a neighbor was told everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// For the first time since it joined.
    First,
    /// Again, because it had asked for that (RFC 7313).
    Again,
}

/// An update group, as it is seen from outside.
pub(crate) struct Summary<'a> {
    pub(crate) key: &'a GroupKey,
    pub(crate) members: Vec<PeerId>,
    /// Destinations that the members have been told.
    pub(crate) advertised: usize,
    /// Destinations that are to be looked at.
    pub(crate) pending: usize,
}

/// All update groups.
#[derive(Debug, Default)]
pub(crate) struct UpdateGroups {
    groups: Vec<Group>,
}

impl UpdateGroups {
    /// Starts telling a neighbor what the RIB holds.
    pub(crate) fn join(&mut self, peer: PeerId, key: Arc<GroupKey>, rib: &mut Rib) {
        let family = key.family;
        let mut group = Group::new(key, peer);
        with_family!(family, P => group.mark_all::<P>(P::table_mut(rib)));
        self.groups.push(group);
    }

    /// Forgets a neighbor.
    pub(crate) fn leave(&mut self, peer: PeerId, family: Family, rib: &mut Rib) {
        let Some(at) = self.position(peer, family) else { return };
        let group = &mut self.groups[at];
        group.members.retain(|m| m.peer != peer);
        if group.members.is_empty() {
            let mut group = self.groups.swap_remove(at);
            with_family!(family, P => group.clear::<P>(rib));
        }
    }

    /// Tells a neighbor what another policy, next hop or encoding makes of the routes: only
    /// differences are sent. Returns whether anything is different.
    pub(crate) fn rekey(&mut self, peer: PeerId, key: Arc<GroupKey>, rib: &mut Rib) -> bool {
        let Some(at) = self.position(peer, key.family) else { return false };
        if self.groups[at].key == key {
            return false;
        }
        let at = self.split(at, peer, rib);
        let group = &mut self.groups[at];
        group.rekey(key);
        with_family!(group.key.family, P => group.mark_all::<P>(P::table_mut(rib)));
        true
    }

    /// Tells a neighbor everything again (RFC 2918). Returns whether that follows on having been
    /// told everything before; then the sink hears of its end.
    pub(crate) fn refresh(&mut self, peer: PeerId, family: Family, rib: &mut Rib) -> bool {
        let Some(at) = self.position(peer, family) else { return false };
        let at = self.split(at, peer, rib);
        let group = &mut self.groups[at];
        with_family!(family, P => {
            group.forget_attributes(rib);
            group.mark_all::<P>(P::table_mut(rib));
        });
        let mut again = false;
        for member in &mut group.members {
            member.refreshing = !member.joining;
            again = member.refreshing;
        }
        again
    }

    /// Has a destination looked at again that had to wait.
    pub(crate) fn mark_again<P: RibPrefix>(
        &mut self,
        table: &mut crate::rib::Table<P>,
        dest: DestId,
    ) {
        for group in self.groups.iter_mut().filter(|g| g.key.family == P::FAMILY) {
            group.mark(table, dest);
        }
    }

    /// Notes that a destination has other paths.
    pub(crate) fn mark<P: RibPrefix>(&mut self, table: &mut crate::rib::Table<P>, new: Decided) {
        for group in self.groups.iter_mut().filter(|g| g.key.family == P::FAMILY) {
            if new.best || group.key.paths.is_some() {
                group.mark(table, new.dest);
            }
        }
    }

    /// Queues what there is to say for all neighbors that have room; returns whether there is
    /// more that could be said at once. What must wait is said after [`Self::deadline`], or when it is
    /// [marked again](Self::mark_again): the destinations of `awaited`, which are not in the kernel yet.
    pub(crate) fn flush(
        &mut self,
        now: Time,
        rib: &mut Rib,
        awaited: &[Bitmap; 2],
        sink: &mut impl Sink,
    ) -> bool {
        let mut more = false;
        let mut at = 0;
        while at < self.groups.len() {
            self.groups[at].end_interval(now);
            self.split_slow(at, rib, sink);
            let group = &mut self.groups[at];
            let blocked = group.members.iter().any(|m| sink.queued(m.peer) > QUEUE_HIGH);
            if !blocked && !group.pending.is_empty() {
                with_family!(group.key.family, P => group.flush::<P>(rib, sink, CHUNK, now, &awaited[group.key.family.index()]));
                more |= !group.pending.is_empty();
            }
            if group.is_done() {
                for member in &mut group.members {
                    if std::mem::take(&mut member.joining) {
                        sink.caught_up(member.peer, group.key.family, Told::First);
                    }
                    if std::mem::take(&mut member.refreshing) {
                        sink.caught_up(member.peer, group.key.family, Told::Again);
                    }
                }
            }
            at += 1;
        }
        self.merge(rib);
        more
    }

    /// When [`Self::flush`] has to be called again, though nothing happens until then.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.groups.iter().filter_map(|g| g.pace.deadline()).min()
    }

    /// How many prefixes of a family a neighbor has been told.
    pub(crate) fn advertised(&self, peer: PeerId, family: Family) -> usize {
        self.position(peer, family).map_or(0, |at| self.groups[at].advertised(peer))
    }

    /// What neighbors have been told of a destination: the attributes, as encoded for them, with the
    /// path identifiers (RFC 7911), which are 0 where a neighbor takes one path only.
    pub(crate) fn sent(
        &self,
        family: Family,
        dest: DestId,
    ) -> impl Iterator<Item = (PeerId, u32, AttrId)> {
        let groups = self.groups.iter().filter(move |group| group.key.family == family);
        groups.flat_map(move |group| {
            group.members.iter().flat_map(move |Member { peer, .. }| {
                let known = group.sent_paths(*peer, dest).filter(|it| it.attr != AttrId::UNKNOWN);
                known.map(|SentPath { number, attr, .. }| (*peer, number, attr))
            })
        })
    }

    /// All groups as they are.
    pub(crate) fn summaries(&self) -> impl Iterator<Item = Summary<'_>> {
        self.groups.iter().map(|group| Summary {
            key: &group.key,
            members: group.members.iter().map(|m| m.peer).collect(),
            advertised: group.sources.total(),
            pending: group.pending.len(),
        })
    }

    /// Whether anything still tells routes from others by this neighbor's number.
    pub(crate) fn mentions(&self, peer: PeerId) -> bool {
        self.groups.iter().any(|g| g.sources.of(peer) > 0)
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    fn position(&self, peer: PeerId, family: Family) -> Option<usize> {
        self.groups
            .iter()
            .position(|g| g.key.family == family && g.members.iter().any(|m| m.peer == peer))
    }

    /// Makes the neighbor the only member of its group; returns where that is.
    fn split(&mut self, at: usize, peer: PeerId, rib: &mut Rib) -> usize {
        let group = &mut self.groups[at];
        if group.members.len() == 1 {
            return at;
        }
        let own = with_family!(group.key.family, P => group.split::<P>(peer, rib));
        self.groups.push(own);
        self.groups.len() - 1
    }

    /// Members that cannot keep up go on alone, so that the others need not wait.
    fn split_slow(&mut self, at: usize, rib: &mut Rib, sink: &impl Sink) {
        if self.groups[at].members.len() < 2 || self.groups[at].pending.is_empty() {
            return;
        }
        let slow: Vec<PeerId> = self.groups[at]
            .members
            .iter()
            .map(|m| m.peer)
            .filter(|peer| sink.queued(*peer) > QUEUE_HIGH)
            .collect();
        for peer in slow {
            self.split(at, peer, rib);
        }
    }

    /// Groups of one key that have caught up say the same from here on.
    fn merge(&mut self, rib: &mut Rib) {
        let mut at = 0;
        while at < self.groups.len() {
            let group = &self.groups[at];
            if !group.apart || !group.is_done() {
                at += 1;
                continue;
            }
            let same =
                |(other, g): (usize, &Group)| (other != at && g.key == group.key).then_some(other);
            let mut others = self.groups.iter().enumerate().filter_map(same).peekable();
            let alone = others.peek().is_none();
            let Some(into) = others.find(|other| self.groups[*other].is_done()) else {
                self.groups[at].apart = !alone;
                at += 1;
                continue;
            };
            let mut group = self.groups.swap_remove(at);
            // The last one has taken its place.
            let into = if into == self.groups.len() { at } else { into };
            let into = &mut self.groups[into];
            with_family!(group.key.family, P => into.take_in::<P>(&mut group, rib));
        }
    }
}

impl Sent {
    const NOTHING: Self = Self { attr: AttrId::NONE, source: PeerId::LOCAL };
}
