//! The prefixes of one family: a hash index over a slab of destinations.

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use smallvec::SmallVec;

use super::index::Index;
use super::{AttrId, AttrTable, Reason, SetId};
use crate::wire::Prefix;

/// Names a destination of a table. Stays the same while anything holds the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestId(u32);

impl DestId {
    pub(crate) const fn new(index: u32) -> Self {
        Self(index)
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names a neighbor in the RIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerId(pub(crate) u16);

impl PeerId {
    /// Ourselves: the source of our own networks.
    pub(crate) const LOCAL: Self = Self(0);

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One way to a destination: an entry of Adj-RIB-In. There is one for every route of every peer, so
/// that every octet counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) peer: PeerId,
    flags: u8,
    /// Why it is used, or is not.
    pub(crate) reason: Reason,
    /// Tells the paths of one peer to one destination apart (RFC 7911); 0 where the peer has but one.
    pub(crate) id: u32,
    /// As received.
    pub(crate) attr_in: AttrId,
    /// After the import policy; [`AttrId::NONE`] if the path may not be used.
    pub(crate) attr: AttrId,
}

const _: () = assert!(size_of::<Path>() == 16);

impl Path {
    const STALE: u8 = 1;
    const USED: u8 = 2;

    /// A path that is neither stale nor used.
    pub(crate) const fn new(peer: PeerId, id: u32, attr_in: AttrId) -> Self {
        Self { peer, flags: 0, reason: Reason::Undecided, id, attr_in, attr: attr_in }
    }

    /// Kept over a restart of the peer and not announced again yet.
    pub(crate) const fn is_stale(&self) -> bool {
        self.flags & Self::STALE != 0
    }

    pub(crate) const fn set_stale(&mut self, stale: bool) {
        self.set(Self::STALE, stale);
    }

    /// Packets go this way, alone or with others; as of the last decision.
    pub(crate) const fn is_used(&self) -> bool {
        self.flags & Self::USED != 0
    }

    pub(super) const fn set_used(&mut self, used: bool) {
        self.set(Self::USED, used);
    }

    const fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    /// What tells it from the other paths to the same destination.
    pub(crate) const fn key(&self) -> (PeerId, u32) {
        (self.peer, self.id)
    }
}

/// Most destinations have one path.
pub(crate) type Paths = SmallVec<[Path; 1]>;

/// Who the best path of a destination is from, and its attributes.
pub(crate) type Best = Option<(PeerId, AttrId)>;

/// A destination.
#[derive(Debug)]
pub(crate) struct Dest<P> {
    pub(crate) prefix: P,
    /// After a decision: the best one first, then those used beside it, then the others.
    pub(crate) paths: Paths,
    /// For the forwarding table.
    pub(crate) next_hops: SetId,
    /// Who needs the destination beside its paths: update groups and subscribers.
    holds: u16,
    dirty: bool,
    live: bool,
}

const _: () = assert!(size_of::<Dest<crate::wire::Prefix4>>() == 40);

impl<P> Dest<P> {
    /// The best path, as of the last decision.
    pub(crate) fn best_path(&self) -> Option<&Path> {
        self.paths.first().filter(|path| path.is_used())
    }

    /// Of [`Self::best_path`], what is announced depends on.
    pub(crate) fn best(&self) -> Best {
        self.best_path().map(|path| (path.peer, path.attr))
    }
}

/// A destination to be decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    pub(super) id: DestId,
    /// The best path before anything changed, with a reference to its attributes.
    pub(super) best: Best,
}

/// Of how many bits the prefixes side by side are that the index keeps side by side: what is near to
/// each other is often announced together, and is then found together.
const SIBLINGS: u32 = 2;

/// All destinations of one family.
#[derive(Debug)]
pub(crate) struct Table<P> {
    dests: Vec<Dest<P>>,
    free: Vec<DestId>,
    index: Index,
    dirty: Vec<Touched>,
    hasher: DefaultHashBuilder,
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self {
            dests: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            dirty: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<P: Prefix> Table<P> {
    /// For the index.
    pub(super) fn hash(&self, prefix: &P) -> u32 {
        let (all, which) = prefix.split_last(SIBLINGS);
        #[allow(clippy::cast_possible_truncation, reason = "half of the hash is enough")]
        let hash = (self.hasher.hash_one(all) >> u32::BITS) as u32;
        hash >> SIBLINGS << SIBLINGS | which
    }

    /// The destination of a prefix that is known.
    pub(crate) fn find(&self, prefix: &P) -> Option<DestId> {
        self.index.find(self.hash(prefix), |id| self.dest(id).prefix == *prefix)
    }

    /// Finds the destinations of prefixes, None for one that is not known. One look-up waits for
    /// memory most of its time; many that do not depend on each other wait together.
    pub(crate) fn find_all(
        &self,
        prefixes: impl Iterator<Item = P>,
        found: &mut Vec<Option<DestId>>,
    ) {
        found.extend(prefixes.map(|prefix| self.find(&prefix)));
    }

    /// Hashes prefixes, and brings the index near to the processor at all of
    /// them at once.
    pub(crate) fn hash_all(&self, prefixes: impl Iterator<Item = P>, hashes: &mut Vec<u32>) {
        let mut seen = 0;
        hashes.extend(prefixes.map(|prefix| {
            let hash = self.hash(&prefix);
            seen ^= self.index.peek(hash);
            hash
        }));
        std::hint::black_box(seen);
    }

    /// Brings the index near to the processor for those destinations that may be about to go: that
    /// have no paths, and are held by no more than these.
    pub(crate) fn prefetch_unused(&self, ids: impl Iterator<Item = DestId>, holds: u16) {
        let unused = |dest: &&Dest<P>| dest.paths.is_empty() && dest.holds <= holds;
        let dests = ids.map(|id| self.dest(id)).filter(unused);
        let seen = dests.fold(0, |seen, dest| seen ^ self.index.peek(self.hash(&dest.prefix)));
        std::hint::black_box(seen);
    }

    /// The destination of a prefix, with its hash; new if need be.
    pub(super) fn entry(&mut self, prefix: P, hash: u32) -> DestId {
        let Self { dests, index, free, .. } = self;
        if let Some(id) = index.find(hash, |id| dests[id.index()].prefix == prefix) {
            return id;
        }
        let dest = Dest {
            prefix,
            paths: SmallVec::new(),
            next_hops: SetId::NONE,
            holds: 0,
            dirty: false,
            live: true,
        };
        let id = if let Some(id) = free.pop() {
            dests[id.index()] = dest;
            id
        } else {
            let id = DestId(u32::try_from(dests.len()).unwrap_or(u32::MAX));
            dests.push(dest);
            id
        };
        index.insert(hash, id);
        id
    }

    pub(crate) fn dest(&self, id: DestId) -> &Dest<P> {
        &self.dests[id.index()]
    }

    pub(super) fn dest_mut(&mut self, id: DestId) -> &mut Dest<P> {
        &mut self.dests[id.index()]
    }

    /// How many destinations there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// All destinations, in no useful order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DestId, &Dest<P>)> {
        (0..).map(DestId).zip(&self.dests).filter(|(_, dest)| dest.live)
    }

    /// What is in one place of the table, counted from 0; None beyond the last one. A destination
    /// stays in its place, so who goes through all places in steps meets each once.
    pub(crate) fn at(&self, place: usize) -> Option<Option<(DestId, &Dest<P>)>> {
        let dest = self.dests.get(place)?;
        let id = u32::try_from(place).ok().map(DestId)?;
        Some(dest.live.then_some((id, dest)))
    }

    /// Has the destination decided anew. To be called before its paths change.
    pub(super) fn touch(&mut self, id: DestId, attrs: &mut AttrTable) {
        let dest = &mut self.dests[id.index()];
        if !dest.dirty {
            dest.dirty = true;
            let best = dest.best();
            if let Some((_, attr)) = best {
                attrs.retain(attr);
            }
            self.dirty.push(Touched { id, best });
        }
    }

    /// Has all destinations decided anew.
    pub(super) fn touch_all(&mut self, attrs: &mut AttrTable) {
        for at in (0..).map(DestId).take(self.dests.len()) {
            if self.dests[at.index()].live {
                self.touch(at, attrs);
            }
        }
    }

    /// Puts a path, and returns the one it replaces.
    pub(super) fn put(&mut self, id: DestId, path: Path, attrs: &mut AttrTable) -> Option<Path> {
        self.touch(id, attrs);
        let paths = &mut self.dests[id.index()].paths;
        if let Some(slot) = paths.iter_mut().find(|p| p.key() == path.key()) {
            return Some(std::mem::replace(slot, path));
        }
        paths.push(path);
        None
    }

    /// Takes a path out.
    pub(super) fn take(
        &mut self,
        id: DestId,
        key: (PeerId, u32),
        attrs: &mut AttrTable,
    ) -> Option<Path> {
        let at = self.dests[id.index()].paths.iter().position(|p| p.key() == key)?;
        self.touch(id, attrs);
        Some(self.dests[id.index()].paths.remove(at))
    }

    /// The paths of a peer. Who changes more than whether they are stale must
    /// [touch](super::Rib::touch) the destination before.
    pub(crate) fn paths_mut(
        &mut self,
        id: DestId,
        peer: PeerId,
    ) -> impl Iterator<Item = &mut Path> {
        self.dests[id.index()].paths.iter_mut().filter(move |p| p.peer == peer)
    }

    pub(super) fn take_paths(&mut self, id: DestId) -> Paths {
        std::mem::take(&mut self.dests[id.index()].paths)
    }

    pub(super) fn take_dirty(&mut self) -> Vec<Touched> {
        for touched in &self.dirty {
            self.dests[touched.id.index()].dirty = false;
        }
        std::mem::take(&mut self.dirty)
    }

    /// Reuses the allocation, unless it was for a burst.
    pub(super) fn give_back_dirty(&mut self, buffer: Vec<Touched>) {
        if self.dirty.is_empty() && buffer.capacity() <= 16 * 1024 {
            self.dirty = buffer;
        }
    }

    /// Keeps the destination while it has no path.
    pub(crate) fn hold(&mut self, id: DestId) {
        self.dests[id.index()].holds += 1;
    }

    /// Undoes one [`Self::hold`].
    pub(crate) fn unhold(&mut self, id: DestId) {
        self.dests[id.index()].holds -= 1;
        self.free_if_unused(id);
    }

    pub(super) fn free_if_unused(&mut self, id: DestId) {
        let dest = &mut self.dests[id.index()];
        let unused = dest.live && dest.holds == 0 && !dest.dirty && dest.paths.is_empty();
        if !unused {
            return;
        }
        dest.live = false;
        let prefix = dest.prefix;
        self.index.remove(self.hash(&prefix), id);
        let Self { dests, index, free, .. } = self;
        free.push(id);
        if index.len() == 0 && self.dirty.is_empty() {
            // Nothing holds a number any more: give the memory back.
            dests.clear();
            dests.shrink_to(1024);
            *free = Vec::new();
            *index = Index::default();
        }
    }
}

/// A set of destinations with the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct DirtyList {
    list: Vec<DestId>,
    taken: usize,
    bits: Bitmap,
}

impl DirtyList {
    /// Adds one; false if it is in already.
    pub(crate) fn insert(&mut self, id: DestId) -> bool {
        let new = self.bits.insert(id);
        if new {
            self.list.push(id);
        }
        new
    }

    /// The oldest one.
    pub(crate) fn pop(&mut self) -> Option<DestId> {
        let id = self.list.get(self.taken).copied();
        match id {
            Some(id) => {
                self.taken += 1;
                self.bits.remove(id);
                // Who never catches up keeps no more than twice what waits.
                if self.taken >= 4096 && self.taken > self.list.len() / 2 {
                    self.list.drain(..self.taken);
                    self.taken = 0;
                }
            }
            None => {
                self.taken = 0;
                self.list.clear();
                self.list.shrink_to(4096);
            }
        }
        id
    }

    pub(crate) fn contains(&self, id: DestId) -> bool {
        self.bits.contains(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len() - self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many it remembers, those that were taken among them.
    #[cfg(test)]
    pub(crate) const fn remembered(&self) -> usize {
        self.list.len()
    }
}

/// A set of destinations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    pub(crate) fn insert(&mut self, id: DestId) -> bool {
        let (word, bit) = (id.index() / 64, 1 << (id.index() % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += usize::from(new);
        new
    }

    pub(crate) fn remove(&mut self, id: DestId) -> bool {
        let bit = 1 << (id.index() % 64);
        let Some(word) = self.words.get_mut(id.index() / 64) else { return false };
        let had = *word & bit != 0;
        *word &= !bit;
        self.len -= usize::from(had);
        had
    }

    pub(crate) fn contains(&self, id: DestId) -> bool {
        self.words.get(id.index() / 64).is_some_and(|w| w & (1 << (id.index() % 64)) != 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = DestId> {
        self.words.iter().zip(0_u32..).flat_map(|(&word, at)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(DestId(at * 64 + bit))
            })
        })
    }
}
