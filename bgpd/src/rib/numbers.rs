//! The numbers that paths go by towards neighbors that take several (RFC 7911 section 3).

use rustc_hash::FxHashMap;

use super::PeerId;

/// The first number that is not that of a peer's only path.
const FIRST: u32 = 1 << 17;

/// One number for all paths of one peer that have the same number there, whoever is told: so groups
/// of neighbors that are told the same paths know them by the same numbers.
#[derive(Debug, Default)]
pub(crate) struct PathNumbers {
    numbers: FxHashMap<(PeerId, u32), (u32, u32)>,
    free: Vec<u32>,
}

impl PathNumbers {
    /// The number of a path, with one more reference.
    pub(crate) fn take(&mut self, (peer, id): (PeerId, u32)) -> u32 {
        if id == 0 {
            return u32::from(peer.0) + 1;
        }
        let Self { numbers, free } = self;
        let used = u32::try_from(numbers.len() + free.len()).unwrap_or(u32::MAX);
        let new = || (free.pop().unwrap_or(FIRST.saturating_add(used)), 0);
        let (number, references) = numbers.entry((peer, id)).or_insert_with(new);
        *references += 1;
        *number
    }

    /// Gives a reference back.
    pub(crate) fn release(&mut self, key: (PeerId, u32)) {
        let Some((number, references)) = self.numbers.get_mut(&key) else { return };
        *references -= 1;
        if *references == 0 {
            let number = *number;
            self.numbers.remove(&key);
            self.free.push(number);
        }
        if self.numbers.is_empty() {
            self.free = Vec::new();
        }
    }

    /// How many are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}
