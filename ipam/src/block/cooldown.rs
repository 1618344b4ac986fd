//! Addresses that were released rest before they are given again: those that rested longest first.

use super::*;

impl Block {
    /// Number of addresses that were released and rest.
    pub fn resting_count(&self) -> usize {
        self.resting().count()
    }

    /// Number of addresses that are not reserved and free, or rested long enough to be.
    pub(crate) fn free_by(&self, now: Timestamp, cooldown: Duration, reserved: &[IpNet]) -> usize {
        let rested = |ordinal: &u32| {
            let since = self.attribute(*ordinal).and_then(|attribute| attribute.released_at);
            since.is_some_and(|since| since.plus(cooldown) <= now)
        };
        let rested = self.ordinals().filter(rested).map(|ordinal| self.address(ordinal));
        let rested = rested.filter(|address| !is_reserved(*address, reserved));
        self.free(reserved).count() + rested.count()
    }

    /// Frees what has rested for `cooldown`, oldest first, and says how many that were.
    pub fn expire(&mut self, now: Timestamp, cooldown: Duration) -> usize {
        self.free_resting(|since| since.plus(cooldown) <= now, usize::MAX)
    }

    /// Frees the one address that has rested longest and is not reserved, however short that is;
    /// None if no address rests.
    pub fn expire_oldest(&mut self, reserved: &[IpNet]) -> Option<IpAddr> {
        let (_, ordinal) =
            self.resting().find(|(_, o)| !is_reserved(self.address(*o), reserved))?;
        self.free_ordinal(ordinal);
        self.prune();
        Some(self.address(ordinal))
    }

    /// Since when the longest resting address that is not reserved has rested.
    pub fn oldest_resting(&self, reserved: &[IpNet]) -> Option<Timestamp> {
        self.resting().find(|(_, o)| !is_reserved(self.address(*o), reserved)).map(|(at, _)| at)
    }

    /// Resting ordinals, longest first; those released together in address order.
    fn resting(&self) -> impl Iterator<Item = (Timestamp, u32)> + use<> {
        let mut resting: Vec<_> = self
            .ordinals()
            .filter_map(|ordinal| Some((self.attribute(ordinal)?.released_at?, ordinal)))
            .collect();
        // The sequence number tells the order within one second.
        resting.sort_by_key(|(since, ordinal)| {
            (*since, self.sequence_number_for_allocation.get(ordinal).copied(), *ordinal)
        });
        resting.into_iter()
    }

    fn free_resting(&mut self, may: impl Fn(Timestamp) -> bool, most: usize) -> usize {
        let due: Vec<_> = self.resting().filter(|(since, _)| may(*since)).take(most).collect();
        for (_, ordinal) in &due {
            self.free_ordinal(*ordinal);
        }
        if !due.is_empty() {
            self.prune();
        }
        due.len()
    }
}
