//! Attribute sets, each stored once and counted.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use rustc_hash::FxHashSet;

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
#[derive(Debug)]
pub(crate) struct AttrSet {
    /// See [`crate::wire::attributes`].
    pub(crate) block: Box<[u8]>,
    pub(crate) next_hop: NextHop,
    pub(crate) info: Info,
    references: u32,
    /// Of the way to the next hop; `UNREACHABLE`: there is none.
    pub(super) cost: u32,
    hash: u64,
}

/// All attribute sets in use.
#[derive(Debug, Default)]
pub(crate) struct AttrTable {
    sets: Vec<AttrSet>,
    free: Vec<u32>,
    index: HashTable<u32>,
    resolutions: Resolutions,
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
        let cost = self.resolutions.cost(&next_hop);
        let info = Info::of(block);
        let set = AttrSet { block: block.into(), next_hop, info, references: 1, cost, hash };
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
            let resolutions = std::mem::take(&mut self.resolutions);
            *self = Self { hasher: self.hasher.clone(), resolutions, ..Self::default() };
        }
    }

    /// Takes over what is known of next hops; returns the sets for which that is different.
    pub(super) fn resolve(&mut self, resolutions: Resolutions) -> Changed {
        let mut changed = Changed::default();
        for (set, at) in self.sets.iter_mut().zip(0..) {
            let cost = resolutions.cost(&set.next_hop);
            if std::mem::replace(&mut set.cost, cost) != cost && set.references > 0 {
                changed.0.insert(AttrId(at));
            }
        }
        self.resolutions = resolutions;
        changed
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
