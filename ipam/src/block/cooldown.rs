//! Addresses that were released rest before they are given again: those that rested longest first.

use super::*;

/// What a block has to give: the same for as long as the block and the reservations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vacancy {
    /// An address that is not reserved is free.
    free: bool,
    /// Since when the longest resting address that is not reserved has rested.
    pub(crate) oldest_resting: Option<Timestamp>,
}

impl Vacancy {
    /// True if an address is free, or has rested long enough.
    pub(crate) fn has_free_by(self, now: Timestamp, cooldown: Duration) -> bool {
        self.free || self.oldest_resting.is_some_and(|since| since.plus(cooldown) <= now)
    }
}

impl Block {
    /// What it has to give.
    pub(crate) fn vacancy(&self, reserved: &[IpNet]) -> Vacancy {
        Vacancy {
            free: self.free(reserved).next().is_some(),
            oldest_resting: self.oldest(reserved).map(|(since, _)| since),
        }
    }

    /// Number of addresses that were released and rest.
    pub fn resting_count(&self) -> usize {
        self.resting().count()
    }

    /// Number of addresses that are not reserved and free, or rested long enough to be.
    pub(crate) fn free_by(&self, now: Timestamp, cooldown: Duration, reserved: &[IpNet]) -> usize {
        let rested = self.resting().filter(|(since, _)| since.plus(cooldown) <= now);
        let rested = rested.filter(|(_, o)| !is_reserved(self.address(*o), reserved));
        self.free(reserved).count() + rested.count()
    }

    /// True if nothing is allocated, and nothing rests that has not rested long enough.
    pub(crate) fn is_empty_by(&self, now: Timestamp, cooldown: Duration) -> bool {
        let mut taken = self.ordinals().filter_map(|ordinal| self.attribute(ordinal));
        taken.all(|attribute| attribute.released_at.is_some_and(|at| at.plus(cooldown) <= now))
    }

    /// Frees what has rested for `cooldown`, oldest first, and says how many that were.
    pub fn expire(&mut self, now: Timestamp, cooldown: Duration) -> usize {
        let mut due: Vec<_> =
            self.resting().filter(|(since, _)| since.plus(cooldown) <= now).collect();
        due.sort_by_key(|resting| self.age(resting));
        for (_, ordinal) in &due {
            self.free_ordinal(*ordinal);
        }
        if !due.is_empty() {
            self.prune();
        }
        due.len()
    }

    /// Frees the one address that has rested longest and is not reserved, however short that is;
    /// None if no address rests.
    pub fn expire_oldest(&mut self, reserved: &[IpNet]) -> Option<IpAddr> {
        let (_, ordinal) = self.oldest(reserved)?;
        self.free_ordinal(ordinal);
        self.prune();
        Some(self.address(ordinal))
    }

    fn oldest(&self, reserved: &[IpNet]) -> Option<(Timestamp, u32)> {
        let free = self.resting().filter(|(_, o)| !is_reserved(self.address(*o), reserved));
        free.min_by_key(|resting| self.age(resting))
    }

    /// Resting ordinals and since when, in address order.
    fn resting(&self) -> impl Iterator<Item = (Timestamp, u32)> {
        self.ordinals().filter_map(|ordinal| Some((self.attribute(ordinal)?.released_at?, ordinal)))
    }

    /// Orders resting addresses by how long they have rested. The sequence number tells the order
    /// within one second; those released together are in address order.
    fn age(&self, (since, ordinal): &(Timestamp, u32)) -> (Timestamp, Option<u64>, u32) {
        (*since, self.changed_under(*ordinal), *ordinal)
    }
}
