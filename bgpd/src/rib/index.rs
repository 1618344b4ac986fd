//! The hash index of a table: from the hash of a prefix to where its destination is.
//!
//! One array of 8-octet slots, in which the entries are sorted by hash, with gaps. An entry belongs
//! at the place that the upper bits of its hash say, and is a few places behind it: a look-up costs
//! one line of memory, rarely two or three that follow each other, whether there is such a prefix or
//! not, as a slot holds the whole hash and the table itself is only asked where it is equal. What
//! differs only in the lower bits of the hash is side by side, whatever the size. As the order stays the
//! same in a larger array, growing reads and writes from front to back, in place.

use super::table::DestId;

/// What a slot holds that holds nothing. No entry is equal to it: its number would be the last one,
/// which a table never gives.
const EMPTY: u64 = u64::MAX;
/// Places of the smallest index, as a power of two.
const LEAST: u32 = 3;
/// Slots behind the last place that a hash can say, for what belongs at the last ones; more where
/// these are not enough.
const TAIL: usize = 64;

/// The index of a table.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Each with a hash in the upper half and a number in the lower one. Without any there is no
    /// place either.
    slots: Vec<u64>,
    /// How many bits of a hash say where it belongs.
    bits: u32,
    len: usize,
}

const fn slot(hash: u32, id: DestId) -> u64 {
    ((hash as u64) << 32) | id.index() as u64
}

const fn hash(slot: u64) -> u32 {
    (slot >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
const fn id(slot: u64) -> DestId {
    DestId::new(slot as u32)
}

impl Index {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// How many entries it takes before it grows: seven of eight places.
    const fn capacity(&self) -> usize {
        if self.slots.is_empty() { 0 } else { (1 << self.bits) - (1 << self.bits) / 8 }
    }

    /// Where an entry with this hash belongs.
    const fn home(&self, hash: u32) -> usize {
        ((hash as u64) << self.bits >> u32::BITS) as usize
    }

    /// The first slot, from where it belongs, that an entry does not go behind.
    fn place(&self, slot: u64) -> usize {
        let mut at = self.home(hash(slot));
        while self.slots.get(at).is_some_and(|other| *other < slot) {
            at += 1;
        }
        at
    }

    /// Brings what is known of a hash near to the processor.
    pub(super) fn peek(&self, hash: u32) -> u64 {
        self.slots.get(self.home(hash)).copied().unwrap_or(EMPTY)
    }

    /// The entry with this hash of which `is` is true.
    pub(super) fn find(&self, wanted: u32, is: impl Fn(DestId) -> bool) -> Option<DestId> {
        let rest = self.slots.get(self.place(slot(wanted, DestId::new(0)))..)?;
        let same = rest.iter().take_while(|slot| hash(**slot) == wanted && **slot != EMPTY);
        same.map(|slot| id(*slot)).find(|id| is(*id))
    }

    /// Adds an entry, which must not be there yet.
    pub(super) fn insert(&mut self, hash: u32, id: DestId) {
        let new = slot(hash, id);
        if self.len == self.capacity() {
            self.grow();
        }
        let at = self.place(new);
        let gap = self.slots.iter().skip(at).position(|slot| *slot == EMPTY);
        let gap = at + gap.unwrap_or(self.slots.len() - at);
        if gap == self.slots.len() {
            self.slots.resize(gap + TAIL, EMPTY);
        }
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = new;
        self.len += 1;
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, hash_of: u32, id: DestId) {
        let old = slot(hash_of, id);
        let at = self.place(old);
        if self.slots.get(at) != Some(&old) {
            return;
        }
        // Those behind it move up, as far as they are not where they belong.
        let behind = (at + 1..self.slots.len())
            .find(|at| self.slots[*at] == EMPTY || self.home(hash(self.slots[*at])) == *at)
            .unwrap_or(self.slots.len());
        self.slots.copy_within(at + 1..behind, at);
        self.slots[behind - 1] = EMPTY;
        self.len -= 1;
    }

    fn grow(&mut self) {
        self.bits = if self.slots.is_empty() { LEAST } else { self.bits + 1 };
        let mut slots = std::mem::take(&mut self.slots);
        slots.retain(|slot| *slot != EMPTY);
        let behind = |at: usize, slot: u64| at.max(self.home(hash(slot))) + 1;
        let end = slots.iter().fold(0, |at, slot| behind(at, *slot));
        let (len, size) = (slots.len(), end.max((1 << self.bits) + TAIL));
        slots.reserve_exact(size - len);
        slots.resize(size, EMPTY);
        // From the end of the array they cannot be overtaken, as there is room for all that follow.
        slots.copy_within(..len, size - len);
        let mut at = 0;
        for from in size - len..size {
            let slot = slots[from];
            let next = behind(at, slot);
            slots[at..next - 1].fill(EMPTY);
            slots[next - 1] = slot;
            at = next;
        }
        slots[at..].fill(EMPTY);
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Every entry can be reached from where it belongs, and they are in order.
    fn check(index: &Index) {
        let mut last = None;
        let mut len = 0;
        for (at, slot) in index.slots.iter().enumerate().filter(|(_, slot)| **slot != EMPTY) {
            assert!(last < Some(*slot), "not in order at {at}");
            let home = index.home(hash(*slot));
            assert!(home <= at, "before its place at {at}");
            assert!(index.slots[home..at].iter().all(|slot| *slot != EMPTY), "a gap before {at}");
            last = Some(*slot);
            len += 1;
        }
        assert_eq!(index.len(), len);
    }

    /// Hashes that differ everywhere, that belong at the same few places, and at the last place.
    fn hashes() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), 0_u32..8, (0_u32..8).prop_map(|n| u32::MAX - n)]
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((hashes(), 0_u32..64, any::<bool>()), 0..600)) {
            let mut index = Index::default();
            let mut model = BTreeSet::new();
            for (hash, number, add) in steps {
                let id = DestId::new(number);
                if add && model.insert((hash, number)) {
                    index.insert(hash, id);
                } else if !add {
                    model.remove(&(hash, number));
                    index.remove(hash, id);
                }
                check(&index);
                prop_assert_eq!(index.len(), model.len());
                let found = index.find(hash, |found| found == id);
                prop_assert_eq!(found.is_some(), model.contains(&(hash, number)));
            }
            for (hash, number) in model {
                prop_assert!(index.find(hash, |id| id == DestId::new(number)).is_some());
                index.remove(hash, DestId::new(number));
            }
            prop_assert!(index.slots.iter().all(|slot| *slot == EMPTY));
        }
    }

    #[test]
    fn many_entries_of_one_hash() {
        for hash in [0, u32::MAX] {
            let mut index = Index::default();
            for number in 0..200 {
                index.insert(hash, DestId::new(number));
            }
            check(&index);
            let last = DestId::new(199);
            assert_eq!(index.find(hash, |id| id == last), Some(last));
            assert_eq!(index.find(hash.wrapping_add(1), |_| true), None);
        }
    }
}
