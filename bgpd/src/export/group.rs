//! One update group.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Sink;
use super::outcome::Memo;
use super::pace::Pace;
use super::plan::{Item, Plan};
use super::several::Several;
use super::sources::Sources;
use super::transform::Departure;
use crate::config::{NextHopMode, SentPaths};
use crate::policy::{Compiled, PeerType};
use crate::rib::{AttrId, Bitmap, DestId, DirtyList, PeerId, Rib, RibPrefix, SetId, Table};
use crate::speaker::Time;
use crate::wire::{Family, NextHop, Nlri, UpdateEncoder};

/// Everything that decides what a neighbor is sent. Neighbors with equal keys share a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) family: Family,
    pub(crate) peer_type: PeerType,
    /// Our AS number, as the neighbors know it.
    pub(crate) local_asn: u32,
    pub(crate) next_hop_mode: NextHopMode,
    /// Our address in the family; None if we have none, and then only routes with somebody
    /// else's next hop can be sent.
    pub(crate) next_hop: Option<NextHop>,
    pub(crate) encoder: UpdateEncoder,
    pub(crate) policy: Arc<Compiled>,
    /// What is done to routes beside it.
    pub(crate) departure: Departure,
    /// Internal peers' routes are reflected to them, whoever they are from (RFC 4456).
    pub(crate) client: bool,
    /// Where routes are reflected.
    pub(crate) cluster: Ipv4Addr,
    /// Routes that are kept for long (RFC 9494) are not for them.
    pub(crate) withhold_stale: bool,
    /// The least time between two bursts of announcements; zero: none.
    pub(crate) interval: Time,
    /// Which paths they are sent, if several (RFC 7911).
    pub(crate) paths: Option<SentPaths>,
}

/// What the members were told of a destination, except the one it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) attr: AttrId,
    /// Who the route is from: a member that is the source was told nothing.
    pub(super) source: PeerId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) peer: PeerId,
    /// Has not been told everything yet since it joined.
    pub(super) joining: bool,
    /// Has not been told everything again yet since it asked for it.
    pub(super) refreshing: bool,
}

/// Which members a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    Except(PeerId),
    Only(PeerId),
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: Arc<GroupKey>,
    pub(super) members: SmallVec<[Member; 1]>,
    /// By destination; as of the last flush.
    sent: Vec<Sent>,
    /// In place of that, where the members take several paths.
    pub(super) several: Several,
    /// How many paths that were sent are from each source.
    pub(super) sources: Sources,
    pub(super) pending: DirtyList,
    pub(super) pace: Pace,
    /// There may be another group that says the same.
    pub(super) apart: bool,
}

impl Group {
    pub(super) fn new(key: Arc<GroupKey>, peer: PeerId) -> Self {
        Self {
            key,
            members: SmallVec::from_slice(&[Member { peer, joining: true, refreshing: false }]),
            sent: Vec::new(),
            several: Several::default(),
            sources: Sources::default(),
            pending: DirtyList::default(),
            pace: Pace::default(),
            apart: true,
        }
    }

    /// Whether the members have been told everything.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty() && self.pace.is_empty()
    }

    /// What waited for the interval is looked at again if that is over.
    pub(super) fn end_interval(&mut self, now: Time) {
        for dest in self.pace.end(now).iter() {
            self.pending.insert(dest);
        }
    }

    /// The members have another key, and another interval with it.
    pub(super) fn rekey(&mut self, key: Arc<GroupKey>) {
        self.key = key;
        self.apart = true;
        for dest in self.pace.stop().iter() {
            self.pending.insert(dest);
        }
    }

    pub(super) fn sent(&self, dest: DestId) -> Sent {
        self.sent.get(dest.index()).copied().unwrap_or(Sent::NOTHING)
    }

    /// Whether a member was told of the destination, or would have been if it were not the source.
    fn was_sent(&self, dest: DestId) -> bool {
        self.sent(dest) != Sent::NOTHING || self.several.contains(dest)
    }

    /// Whether the destination must stay because of this group.
    fn holds(&self, dest: DestId) -> bool {
        self.was_sent(dest) || self.pending.contains(dest) || self.pace.holds(dest)
    }

    /// Changes the group's memory of a destination, with its hold on it.
    fn change<P: RibPrefix>(
        &mut self,
        table: &mut Table<P>,
        dest: DestId,
        f: impl FnOnce(&mut Self),
    ) {
        let before = self.holds(dest);
        f(self);
        match (before, self.holds(dest)) {
            (false, true) => table.hold(dest),
            (true, false) => table.unhold(dest),
            _ => {}
        }
    }

    pub(super) fn mark<P: RibPrefix>(&mut self, table: &mut Table<P>, dest: DestId) {
        let source = table.dest(dest).best_path().map(|path| path.peer);
        if source.is_some() && source == self.only_member() && !self.holds(dest) {
            return;
        }
        self.change(table, dest, |group| {
            group.pending.insert(dest);
        });
    }

    /// Marks every destination that has a path or was sent.
    pub(super) fn mark_all<P: RibPrefix>(&mut self, table: &mut Table<P>) {
        let all: Vec<DestId> = table
            .iter()
            .filter(|(id, dest)| !dest.paths.is_empty() || self.was_sent(*id))
            .map(|(id, _)| id)
            .collect();
        for dest in all {
            self.mark(table, dest);
        }
    }

    /// Takes one member into a group of its own that knows what this one knows.
    pub(super) fn split<P: RibPrefix>(&mut self, peer: PeerId, rib: &mut Rib) -> Self {
        let at = self.members.iter().position(|m| m.peer == peer);
        let member = at.map(|at| self.members.remove(at));
        let own = Self {
            key: self.key.clone(),
            members: member.into_iter().collect(),
            sent: self.sent.clone(),
            several: self.several.clone(),
            sources: self.sources.clone(),
            apart: true,
            pending: self.pending.clone(),
            pace: self.pace.clone(),
        };
        own.several.retain(rib);
        let (table, attrs) = P::parts(rib);
        for sent in &own.sent {
            attrs.retain(sent.attr);
        }
        let held: Vec<DestId> =
            table.iter().map(|(id, _)| id).filter(|id| own.holds(*id)).collect();
        for dest in held {
            table.hold(dest);
        }
        own
    }

    /// Lets go of everything.
    pub(super) fn clear<P: RibPrefix>(&mut self, rib: &mut Rib) {
        let (table, attrs) = P::parts(rib);
        let held: Vec<DestId> =
            table.iter().map(|(id, _)| id).filter(|id| self.holds(*id)).collect();
        for sent in std::mem::take(&mut self.sent) {
            attrs.release(sent.attr);
        }
        self.several.clear(rib);
        self.sources = Sources::default();
        self.pending = DirtyList::default();
        self.pace = Pace::default();
        let table = P::table_mut(rib);
        for dest in held {
            table.unhold(dest);
        }
    }

    /// Remembers only that destinations were sent, not with what: all are sent again.
    pub(super) fn forget_attributes(&mut self, rib: &mut Rib) {
        for sent in self.sent.iter_mut().chain(self.several.all_mut()) {
            if sent.attr != AttrId::NONE {
                rib.attrs.release(sent.attr);
                sent.attr = AttrId::UNKNOWN;
            }
        }
    }

    pub(super) fn advertised(&self, peer: PeerId) -> usize {
        self.sources.total() - self.sources.of(peer)
    }

    /// Sends what changed, looking at no more than `limit` destinations.
    pub(super) fn flush<P: RibPrefix>(
        &mut self,
        rib: &mut Rib,
        sink: &mut impl Sink,
        limit: usize,
        now: Time,
        awaited: &Bitmap,
    ) {
        let mut memo = Memo::default();
        let mut plan = Plan::default();
        for _ in 0..limit {
            let Some(dest) = self.pending.pop() else { break };
            // What needs no route in the kernel, as our own networks do not, does not wait for it.
            let needed = P::table(rib).dest(dest).next_hops != SetId::NONE;
            self.pace.wait_for_kernel(needed && awaited.contains(dest));
            match self.key.paths {
                None => self.plan_best::<P>(dest, rib, &mut memo, &mut plan),
                Some(_) => self.plan_several::<P>(dest, rib, &mut memo, &mut plan),
            }
            sink.told(P::FAMILY, dest);
            // Only now: encoding reads prefixes by number, and nothing may take it meanwhile.
            plan.looked_at.push(dest);
        }
        if !plan.announced.is_empty() {
            self.pace.announced();
        }
        if self.pending.is_empty() {
            self.pace.begin(now, self.key.interval);
        }
        self.encode::<P>(&plan, rib, sink);
        for attr in memo.exported.into_values() {
            rib.attrs.release(attr);
        }
        let table = P::table_mut(rib);
        for some in plan.looked_at.chunks(64) {
            table.prefetch_unused(some.iter().copied(), 1);
            for dest in some.iter().filter(|dest| !self.holds(**dest)) {
                table.unhold(*dest);
            }
        }
    }

    /// Looks at the best path of a destination.
    fn plan_best<P: RibPrefix>(
        &mut self,
        dest: DestId,
        rib: &mut Rib,
        memo: &mut Memo,
        plan: &mut Plan,
    ) {
        let best = P::table(rib).dest(dest).best();
        let new = match best {
            Some(best) if self.only_member() != Some(best.0) => {
                self.export::<P>(dest, best, rib, memo)
            }
            _ => Sent::NOTHING,
        };
        let old = self.sent(dest);
        if new == old {
            self.pace.remove(dest);
        } else if self.pace.must_wait(old, new, || self.is_member(new.source)) {
            self.pace.hold(dest);
        } else {
            self.pace.remove(dest);
            self.plan(plan, dest, old, new);
            self.store(dest, old, new, rib);
        }
    }

    fn store(&mut self, dest: DestId, old: Sent, new: Sent, rib: &mut Rib) {
        if dest.index() >= self.sent.len() {
            self.sent.resize(dest.index() + 1, Sent::NOTHING);
        }
        self.sent[dest.index()] = new;
        self.count(old, new, rib);
    }

    /// The member that is told nothing of routes of its own, which are then not worth remembering.
    /// Where several paths are sent, all are remembered.
    fn only_member(&self) -> Option<PeerId> {
        match &*self.members {
            [only] if self.key.paths.is_none() => Some(only.peer),
            _ => None,
        }
    }

    /// Takes the members of another group in, which was told the same, and with them what this one
    /// has not remembered as long as it had but one member.
    pub(super) fn take_in<P: RibPrefix>(&mut self, other: &mut Self, rib: &mut Rib) {
        if let Some(only) = self.only_member() {
            let theirs = (0..).map(DestId::new).zip(&other.sent);
            for (dest, sent) in theirs.filter(|(_, sent)| sent.source == only) {
                let old = self.sent(dest);
                if sent.attr != AttrId::NONE && old == Sent::NOTHING {
                    self.store(dest, old, *sent, rib);
                    P::table_mut(rib).hold(dest);
                }
            }
        }
        self.members.append(&mut other.members);
        self.pace.join(&other.pace);
        other.clear::<P>(rib);
    }

    /// Counts what is remembered instead of what was, with its references.
    pub(super) fn count(&mut self, old: Sent, new: Sent, rib: &mut Rib) {
        rib.attrs.retain(new.attr);
        rib.attrs.release(old.attr);
        if old.attr != AttrId::NONE {
            self.sources.remove(old.source);
        }
        if new.attr != AttrId::NONE {
            self.sources.add(new.source);
        }
    }

    fn is_member(&self, peer: PeerId) -> bool {
        self.members.iter().any(|m| m.peer == peer)
    }

    /// Notes who must be told what so that the members' view goes from `old` to `new`.
    fn plan(&self, plan: &mut Plan, dest: DestId, old: Sent, new: Sent) {
        if new.attr == AttrId::NONE {
            plan.withdraw(Target::Except(old.source), (dest, 0));
            return;
        }
        plan.announce(new, (dest, 0));
        if old.attr != AttrId::NONE && old.source != new.source && self.is_member(new.source) {
            plan.withdraw(Target::Only(new.source), (dest, 0));
        }
    }

    fn encode<P: RibPrefix>(&self, plan: &Plan, rib: &Rib, sink: &mut impl Sink) {
        let table = P::table(rib);
        let nlri =
            |(dest, path_id): &Item| Nlri { prefix: table.dest(*dest).prefix, path_id: *path_id };
        for (target, items) in &plan.withdrawn {
            if !self.is_for_somebody(*target) {
                continue;
            }
            let mut out = Vec::new();
            let messages = self.key.encoder.withdraw(items.iter().map(nlri), &mut out);
            self.send(*target, out, messages, sink);
        }
        for (sent, items) in &plan.announced {
            if !self.is_for_somebody(Target::Except(sent.source)) {
                continue;
            }
            let set = rib.attrs.get(sent.attr);
            let mut out = Vec::new();
            let encoder = self.key.encoder;
            let nlri = items.iter().map(nlri);
            let messages = encoder.announce(set.block, set.info, set.next_hop, nlri, &mut out);
            self.send(Target::Except(sent.source), out, messages, sink);
        }
    }

    /// The members that a message is for.
    fn targets(&self, target: Target) -> impl Iterator<Item = PeerId> {
        let wanted = move |peer: &PeerId| match target {
            Target::Except(source) => *peer != source,
            Target::Only(only) => *peer == only,
        };
        self.members.iter().map(|member| member.peer).filter(wanted)
    }

    fn is_for_somebody(&self, target: Target) -> bool {
        self.targets(target).next().is_some()
    }

    fn send(&self, target: Target, octets: Vec<u8>, messages: usize, sink: &mut impl Sink) {
        let octets = Bytes::from(octets);
        for peer in self.targets(target).filter(|_| !octets.is_empty()) {
            sink.queue(peer, &octets, messages);
        }
    }
}
