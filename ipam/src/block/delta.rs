//! What became of a block, as a record of its changes alone.

use std::borrow::Cow;

use super::*;

/// The way from one state of a block to a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delta<'a> {
    sequence: u64,
    /// Ordinals that are free now, in the order in which they will be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    freed: Vec<u32>,
    /// Ordinals that are taken now, with the sequence number and who has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    taken: Vec<(u32, Option<u64>, Cow<'a, Attribute>)>,
}

impl Block {
    /// The way from this block to `later`, or None if it cannot be told by [`Block::apply`] exactly.
    pub(crate) fn delta<'a>(&self, later: &'a Self) -> Option<Delta<'a>> {
        let mut taken = Vec::new();
        for difference in self.differences(later) {
            if let Some(index) = later.allocations.get(difference.ordinal as usize)?.as_ref() {
                taken.push((*index, difference.ordinal));
            }
        }
        // As they were added, so that they are again where they are.
        taken.sort_unstable();
        let attribute = |(index, ordinal): (u32, u32)| {
            let attribute = later.attributes.get(index as usize)?;
            Some((ordinal, later.changed_under(ordinal), Cow::Borrowed(&**attribute)))
        };
        let free = |block: &Self, ordinal: &u32| {
            block.allocations.get(*ordinal as usize).is_some_and(Option::is_none)
        };
        let delta = Delta {
            sequence: later.sequence_number,
            freed: later.unallocated.iter().filter(|o| !free(self, o)).copied().collect(),
            taken: taken.into_iter().map(attribute).collect::<Option<_>>()?,
        };
        let mut copy = self.clone();
        copy.apply(&delta).ok()?;
        (copy == *later).then_some(delta)
    }

    /// Goes that way.
    ///
    /// # Errors
    /// It is not one of this block.
    pub(crate) fn apply(&mut self, delta: &Delta<'_>) -> Result<(), BlockError> {
        let all = delta.freed.iter().chain(delta.taken.iter().map(|(ordinal, ..)| ordinal));
        if let Some(ordinal) = all.copied().find(|o| self.allocations.len() <= *o as usize) {
            return Err(BlockError::Outside { address: self.address(ordinal), block: self.cidr });
        }
        for ordinal in &delta.freed {
            self.free_ordinal(*ordinal);
        }
        for (ordinal, number, attribute) in &delta.taken {
            let index = self.intern(attribute);
            if self.allocations[*ordinal as usize].replace(index).is_none() {
                self.unallocated.retain(|free| free != ordinal);
            }
            self.set_changed_under(*ordinal, *number);
        }
        self.sequence_number = delta.sequence;
        self.prune();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Give(u8),
        Take(u8, i64),
        Expire(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..12_u8).prop_map(Step::Give),
            2 => (0..12_u8, 0..50_i64).prop_map(|(handle, now)| Step::Take(handle, now)),
            1 => (0..200_i64).prop_map(Step::Expire),
        ]
    }

    fn walk(block: &mut Block, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Give(handle) => {
                    let handle_id = Some(format!("pod-{handle}"));
                    block.allocate(&Attribute { handle_id, ..Attribute::default() }, &[]);
                }
                Step::Take(handle, now) => {
                    let rest = Release::Rest(Timestamp::from_seconds(*now));
                    block.release_handle(&format!("pod-{handle}"), rest);
                }
                Step::Expire(now) => {
                    block.expire(Timestamp::from_seconds(*now), Duration::from_secs(120));
                }
            }
        }
        block.seal();
    }

    proptest! {
        #[test]
        fn leads_from_any_state_to_the_next(
            before in prop::collection::vec(step(), 0..40),
            after in prop::collection::vec(step(), 0..20),
        ) {
            let cidr = "10.0.0.0/28".parse().unwrap();
            let mut block = Block::new(cidr, None, Timestamp::from_seconds(0)).unwrap();
            walk(&mut block, &before);
            let mut later = block.clone();
            walk(&mut later, &after);
            // What was added and dropped in between may stand elsewhere; then there is none.
            if let Some(delta) = block.delta(&later) {
                let written = serde_json::to_string(&delta).unwrap();
                let read: Delta<'_> = serde_json::from_str(&written).unwrap();
                prop_assert_eq!(&read, &delta);
                block.apply(&read).unwrap();
                prop_assert_eq!(block, later);
            }
        }

        #[test]
        fn there_is_one_for_what_pods_do(
            before in prop::collection::vec(step(), 0..40),
            handle in 20..30_u8,
            now in 50..60_i64,
            gone in 0..12_u8,
        ) {
            let cidr = "10.0.0.0/26".parse().unwrap();
            let mut block = Block::new(cidr, None, Timestamp::from_seconds(0)).unwrap();
            walk(&mut block, &before);
            let mut later = block.clone();
            walk(&mut later, &[Step::Expire(now + 120), Step::Give(handle), Step::Take(gone, now)]);
            prop_assert!(block.delta(&later).is_some(), "{:?} {:?}", block, later);
        }
    }

    #[test]
    fn one_of_a_larger_block_is_refused() {
        let new = |cidr: &str| {
            Block::new(cidr.parse().unwrap(), None, Timestamp::from_seconds(0)).unwrap()
        };
        let delta = Delta { sequence: 7, freed: vec![8], taken: Vec::new() };
        let mut block = new("10.0.0.0/29");
        assert!(block.apply(&delta).is_err());
        assert_eq!(block, new("10.0.0.0/29"));
    }
}
