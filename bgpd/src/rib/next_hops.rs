//! Sets of next hops, each stored once: a change of a destination's set is a change of a number.

use std::collections::HashMap;

use smallvec::smallvec;

use super::{FibNextHop, FibNextHops};

/// Names a set of next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetId(u32);

impl SetId {
    /// No next hop: nothing for the forwarding table.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// All sets in use.
#[derive(Debug, Default)]
pub(crate) struct NextHopSets {
    sets: Vec<(FibNextHops, u32)>,
    free: Vec<u32>,
    index: HashMap<FibNextHops, u32>,
    /// The last set of one: most routes of a peer have the same.
    last: Option<(FibNextHop, u32)>,
}

impl NextHopSets {
    /// The number of a set, with one more reference; [`SetId::NONE`] for the empty one.
    pub(crate) fn intern(&mut self, hops: FibNextHops) -> SetId {
        if hops.is_empty() {
            return SetId::NONE;
        }
        if let Some(&at) = self.index.get(&hops) {
            self.sets[at as usize].1 += 1;
            return SetId(at);
        }
        let at = if let Some(at) = self.free.pop() {
            self.sets[at as usize] = (hops.clone(), 1);
            at
        } else {
            self.sets.push((hops.clone(), 1));
            u32::try_from(self.sets.len() - 1).unwrap_or(u32::MAX)
        };
        self.index.insert(hops, at);
        SetId(at)
    }

    /// As [`Self::intern`], of a set of one.
    pub(crate) fn intern_one(&mut self, hop: FibNextHop) -> SetId {
        if let Some((last, at)) = self.last
            && last == hop
        {
            self.sets[at as usize].1 += 1;
            return SetId(at);
        }
        let set = self.intern(smallvec![hop]);
        self.last = Some((hop, set.0));
        set
    }

    /// Gives a reference back.
    pub(crate) fn release(&mut self, id: SetId) {
        if id == SetId::NONE {
            return;
        }
        let (hops, references) = &mut self.sets[id.0 as usize];
        *references -= 1;
        if *references == 0 {
            let hops = std::mem::take(hops);
            self.index.remove(&hops);
            self.free.push(id.0);
            self.last = self.last.filter(|(_, at)| *at != id.0);
        }
    }

    /// The set itself; empty for [`SetId::NONE`].
    pub(crate) fn get(&self, id: SetId) -> FibNextHops {
        self.sets.get(id.0 as usize).map_or_else(FibNextHops::new, |(hops, _)| hops.clone())
    }

    /// How many sets are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}
