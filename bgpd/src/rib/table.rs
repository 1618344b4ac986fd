//! The prefixes of one family: a hash index over a slab of destinations.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use super::{AttrId, Reason, SetId};
use crate::wire::Prefix;

/// Names a destination of a table. Stays the same while anything holds the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestId(u32);

impl DestId {
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

/// One way to a destination: an entry of Adj-RIB-In.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) peer: PeerId,
    /// Kept over a restart of the peer and not announced again yet.
    pub(crate) stale: bool,
    /// Packets go this way, alone or with others; as of the last decision.
    pub(crate) used: bool,
    /// Why it is used, or is not.
    pub(crate) reason: Reason,
    /// As received.
    pub(crate) attr_in: AttrId,
    /// After the import policy; [`AttrId::NONE`] if the path may not be used.
    pub(crate) attr: AttrId,
}

/// Most destinations have one path.
pub(crate) type Paths = SmallVec<[Path; 1]>;

/// A destination.
#[derive(Debug)]
pub(crate) struct Dest<P> {
    pub(crate) prefix: P,
    /// After a decision: the best one first, then those used beside it, then the others.
    pub(crate) paths: Paths,
    /// Who the best path is from and its attributes, of which it holds a reference.
    pub(crate) best: Option<(PeerId, AttrId)>,
    /// For the forwarding table.
    pub(crate) next_hops: SetId,
    /// Who needs the destination beside its paths: update groups and subscribers.
    holds: u16,
    dirty: bool,
    live: bool,
}

/// All destinations of one family.
#[derive(Debug)]
pub(crate) struct Table<P> {
    dests: Vec<Dest<P>>,
    free: Vec<DestId>,
    index: HashTable<DestId>,
    dirty: Vec<DestId>,
    hasher: DefaultHashBuilder,
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self {
            dests: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            dirty: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<P: Prefix> Table<P> {
    /// The destination of a prefix that is known.
    pub(crate) fn find(&self, prefix: &P) -> Option<DestId> {
        let hash = self.hasher.hash_one(prefix);
        self.index.find(hash, |id| self.dests[id.index()].prefix == *prefix).copied()
    }

    /// The destination of a prefix, new if need be.
    pub(crate) fn entry(&mut self, prefix: P) -> DestId {
        let Self { dests, index, hasher, free, .. } = self;
        let hash = hasher.hash_one(prefix);
        if let Some(id) = index.find(hash, |id| dests[id.index()].prefix == prefix) {
            return *id;
        }
        let dest = Dest {
            prefix,
            paths: SmallVec::new(),
            best: None,
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
        index.insert_unique(hash, id, |id| hasher.hash_one(dests[id.index()].prefix));
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

    /// Has the destination decided anew.
    pub(crate) fn touch(&mut self, id: DestId) {
        let dest = &mut self.dests[id.index()];
        if !dest.dirty {
            dest.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Has all destinations decided anew.
    pub(crate) fn touch_all(&mut self) {
        for at in (0..).map(DestId).take(self.dests.len()) {
            if self.dests[at.index()].live {
                self.touch(at);
            }
        }
    }

    /// Puts a path, and returns the one it replaces.
    pub(super) fn put(&mut self, id: DestId, path: Path) -> Option<Path> {
        self.touch(id);
        let paths = &mut self.dests[id.index()].paths;
        if let Some(slot) = paths.iter_mut().find(|p| p.peer == path.peer) {
            return Some(std::mem::replace(slot, path));
        }
        paths.push(path);
        None
    }

    /// Takes a path out.
    pub(super) fn take(&mut self, id: DestId, peer: PeerId) -> Option<Path> {
        let paths = &mut self.dests[id.index()].paths;
        let at = paths.iter().position(|p| p.peer == peer)?;
        let path = paths.remove(at);
        self.touch(id);
        Some(path)
    }

    /// The path of a peer. Who changes more than [`Path::stale`] must [touch](Self::touch) the
    /// destination.
    pub(crate) fn path_mut(&mut self, id: DestId, peer: PeerId) -> Option<&mut Path> {
        self.dests[id.index()].paths.iter_mut().find(|p| p.peer == peer)
    }

    pub(super) fn take_paths(&mut self, id: DestId) -> Paths {
        std::mem::take(&mut self.dests[id.index()].paths)
    }

    pub(super) fn take_dirty(&mut self) -> Vec<DestId> {
        for id in &self.dirty {
            self.dests[id.index()].dirty = false;
        }
        std::mem::take(&mut self.dirty)
    }

    /// Reuses the allocation, unless it was for a burst.
    pub(super) fn give_back_dirty(&mut self, buffer: Vec<DestId>) {
        if self.dirty.is_empty() && buffer.capacity() <= 4096 {
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
        let Self { dests, index, hasher, free, .. } = self;
        let dest = &mut dests[id.index()];
        let unused = dest.live && dest.holds == 0 && !dest.dirty && dest.paths.is_empty();
        if !unused || dest.best.is_some() {
            return;
        }
        dest.live = false;
        let hash = hasher.hash_one(dest.prefix);
        if let Ok(entry) = index.find_entry(hash, |at| *at == id) {
            entry.remove();
        }
        free.push(id);
        if index.is_empty() && self.dirty.is_empty() {
            // Nothing holds a number any more: give the memory back.
            dests.clear();
            dests.shrink_to(1024);
            *free = Vec::new();
            *index = HashTable::new();
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
