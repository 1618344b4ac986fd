//! Attribute sets, each stored once and counted.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use rustc_hash::{FxHashMap, FxHashSet};

use super::resolution::Resolutions;
use crate::wire::{Info, NextHop};

/// Names an interned attribute set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttrId(u32);

impl AttrId {
    /// No attributes: a path that is not used, a destination that was not sent.
    pub(crate) const NONE: Self = Self(u32::MAX);
    /// Sent at some time, with whatever: differs from every other.
    pub(crate) const UNKNOWN: Self = Self(u32::MAX - 1);

    const fn is_real(self) -> bool {
        self.0 < Self::UNKNOWN.0
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Attribute sets to whose next hop the way has changed.
#[derive(Debug, Default)]
pub(super) struct Changed(FxHashSet<AttrId>);

impl Changed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, id: AttrId) -> bool {
        self.0.contains(&id)
    }
}

/// One attribute set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttrSet<'a> {
    /// See [`crate::wire::attributes`].
    pub(crate) block: &'a [u8],
    pub(crate) next_hop: NextHop,
    pub(crate) info: &'a Info,
    /// Of the way to the next hop; `UNREACHABLE`: there is none.
    pub(super) cost: u32,
}

/// An attribute set as it is stored. There may be as many as a tenth of the routes.
#[derive(Debug)]
struct Stored {
    block: Box<[u8]>,
    info: Info,
    references: u32,
    /// The place of the next hop.
    hop: u32,
    /// As much of the hash as the index needs to grow.
    hash: u32,
}

/// A next hop, of which there are few, with how many sets have it.
#[derive(Debug)]
struct Hop {
    next_hop: NextHop,
    cost: u32,
    references: u32,
}

/// All attribute sets in use.
#[derive(Debug, Default)]
pub(crate) struct AttrTable {
    sets: Vec<Stored>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hops: Vec<Hop>,
    free_hops: Vec<u32>,
    hop_index: FxHashMap<NextHop, u32>,
    resolutions: Resolutions,
    hasher: DefaultHashBuilder,
}

impl AttrTable {
    /// The number of an equal set, new or old, with one more reference.
    pub(crate) fn intern(&mut self, block: &[u8], next_hop: NextHop) -> AttrId {
        let short = short(self.hasher.hash_one((block, next_hop)));
        let hash = spread(short);
        let Self { sets, hops, .. } = self;
        let equal = |at: &u32| {
            let set = &sets[*at as usize];
            set.hash == short && hops[set.hop as usize].next_hop == next_hop && *set.block == *block
        };
        if let Some(&at) = self.index.find(hash, equal) {
            sets[at as usize].references += 1;
            return AttrId(at);
        }
        let hop = self.take_hop(next_hop);
        let info = Info::of(block);
        let set = Stored { block: block.into(), info, references: 1, hop, hash: short };
        let sets = &mut self.sets;
        let at = if let Some(at) = self.free.pop() {
            sets[at as usize] = set;
            at
        } else {
            let at = u32::try_from(sets.len()).unwrap_or(u32::MAX);
            sets.push(set);
            at
        };
        self.index.insert_unique(hash, at, |at| spread(sets[*at as usize].hash));
        AttrId(at)
    }

    /// The place of a next hop, with one more reference.
    fn take_hop(&mut self, next_hop: NextHop) -> u32 {
        let Self { hops, free_hops, hop_index, resolutions, .. } = self;
        let at = *hop_index.entry(next_hop).or_insert_with(|| {
            let cost = resolutions.cost(&next_hop);
            let hop = Hop { next_hop, cost, references: 0 };
            if let Some(at) = free_hops.pop() {
                hops[at as usize] = hop;
                return at;
            }
            hops.push(hop);
            u32::try_from(hops.len() - 1).unwrap_or(u32::MAX)
        });
        hops[at as usize].references += 1;
        at
    }

    fn release_hop(&mut self, at: u32) {
        let hop = &mut self.hops[at as usize];
        hop.references -= 1;
        if hop.references == 0 {
            self.hop_index.remove(&hop.next_hop);
            self.free_hops.push(at);
        }
    }

    /// Counts one more reference.
    pub(crate) fn retain(&mut self, id: AttrId) {
        if id.is_real() {
            self.sets[id.index()].references += 1;
        }
    }

    /// Counts one reference less; the last one frees the set.
    pub(crate) fn release(&mut self, id: AttrId) {
        if !id.is_real() {
            return;
        }
        let set = &mut self.sets[id.index()];
        set.references -= 1;
        if set.references > 0 {
            return;
        }
        set.block = Box::default();
        let (hash, hop) = (spread(set.hash), set.hop);
        self.release_hop(hop);
        if let Ok(entry) = self.index.find_entry(hash, |at| *at == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
        if self.index.is_empty() {
            let resolutions = std::mem::take(&mut self.resolutions);
            *self = Self { hasher: self.hasher.clone(), resolutions, ..Self::default() };
        }
    }

    /// Takes over what is known of next hops; returns the sets for which that is different.
    pub(super) fn resolve(&mut self, resolutions: Resolutions) -> Changed {
        let mut hops = FxHashSet::default();
        for (hop, at) in self.hops.iter_mut().zip(0..) {
            let cost = resolutions.cost(&hop.next_hop);
            if std::mem::replace(&mut hop.cost, cost) != cost {
                hops.insert(at);
            }
        }
        self.resolutions = resolutions;
        let sets = self.sets.iter().zip(0..);
        let sets = sets.filter(|(set, _)| set.references > 0 && hops.contains(&set.hop));
        Changed(sets.map(|(_, at)| AttrId(at)).collect())
    }

    /// A set in use.
    pub(crate) fn get(&self, id: AttrId) -> AttrSet<'_> {
        let Stored { block, info, hop, .. } = &self.sets[id.index()];
        let Hop { next_hop, cost, .. } = self.hops[*hop as usize];
        AttrSet { block, next_hop, info, cost }
    }

    /// What decision needs of a set in use.
    pub(crate) fn info(&self, id: AttrId) -> &Info {
        &self.sets[id.index()].info
    }

    /// Octets of all sets in use; looks at each.
    pub(crate) fn octets(&self) -> usize {
        self.sets.iter().map(|set| set.block.len()).sum()
    }

    /// How many sets are in use.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

/// The half of a hash that is kept.
#[allow(clippy::cast_possible_truncation, reason = "the other half is dropped")]
const fn short(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A hash again, with something in the upper bits, which the index looks at first, and in the lower ones.
const fn spread(short: u32) -> u64 {
    (short as u64) << 32 | short as u64
}
