//! Attribute sets, each stored once and counted.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

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

/// One attribute set.
#[derive(Debug)]
pub(crate) struct AttrSet {
    /// See [`crate::wire::attributes`].
    pub(crate) block: Box<[u8]>,
    pub(crate) next_hop: NextHop,
    pub(crate) info: Info,
    references: u32,
    hash: u64,
}

/// All attribute sets in use.
#[derive(Debug, Default)]
pub(crate) struct AttrTable {
    sets: Vec<AttrSet>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl AttrTable {
    /// The number of an equal set, new or old, with one more reference.
    pub(crate) fn intern(&mut self, block: &[u8], next_hop: NextHop) -> AttrId {
        let hash = self.hasher.hash_one((block, next_hop));
        let sets = &mut self.sets;
        let equal = |at: &u32| {
            let set = &sets[*at as usize];
            set.hash == hash && set.next_hop == next_hop && *set.block == *block
        };
        if let Some(&at) = self.index.find(hash, equal) {
            sets[at as usize].references += 1;
            return AttrId(at);
        }
        let set =
            AttrSet { block: block.into(), next_hop, info: Info::of(block), references: 1, hash };
        let at = if let Some(at) = self.free.pop() {
            sets[at as usize] = set;
            at
        } else {
            let at = u32::try_from(sets.len()).unwrap_or(u32::MAX);
            sets.push(set);
            at
        };
        self.index.insert_unique(hash, at, |at| sets[*at as usize].hash);
        AttrId(at)
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
        let hash = set.hash;
        if let Ok(entry) = self.index.find_entry(hash, |at| *at == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
        if self.index.is_empty() {
            *self = Self { hasher: self.hasher.clone(), ..Self::default() };
        }
    }

    /// A set in use.
    pub(crate) fn get(&self, id: AttrId) -> &AttrSet {
        &self.sets[id.index()]
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
